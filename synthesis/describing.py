"""task=stats: what data sets hold, as a table on the screen and as JSON.

Contract: every number is counted from the groups that training would read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from groups import left_out
from synthesis.combining import read_all
from synthesis.config import SynthesisSettings
from synthesis.duplicates import near_pairs
from synthesis.entries import Entries, said
from synthesis.record import Json, Provenance
from synthesis.work import open_work

FILE = "stats.jsonl"
WIDEST = 40  # characters of a column


def stats(settings: SynthesisSettings, folder: Path) -> str:
    """Describe every source: a row of stats.jsonl each. Returns the table. Raises UserError for bad input."""
    sources = read_all(settings)
    facts: dict[str, Json] = {"sources": [of.origin.fact for of in sources]}
    facts |= {"format": settings.format, "near": settings.near}
    with open_work(folder, "stats", facts, settings.overwrite) as work:
        rows = [_described(of, settings) for of in sources]
        origins = tuple(of.origin for of in sources)
        work.finish({FILE: rows}, Provenance(origins, (), {}, {}, settings.licence))
    return _table(rows)


def _described(of: Entries, settings: SynthesisSettings) -> dict[str, Json]:
    """The numbers of a data set, by their names."""
    groups = [entry.group for entry in of.entries]
    prompts = [" ".join(entry.prompt.split()) for entry in of.entries]
    answers = [response for group in groups for response in group.responses]
    texts = [response.text for response in answers if response.text]
    different = list(dict.fromkeys(entry.text for entry in of.entries))
    row: dict[str, Json] = {
        "source": of.name,
        "format": of.format or "embedded",
        "rows": of.origin.rows,
        "prompts": len(groups),
        "different_prompts": len(set(prompts)),
        "questions": len({group.question or prompt for group, prompt in zip(groups, prompts)}),
        "responses": len(texts),
        "exact_duplicates": len(groups) - len({said(entry) for entry in of.entries}),
        "near_duplicates": len({other for _, other in near_pairs(different, settings.near)}),
        "left_out": sum(left_out(of.dropped).values()),
        "prompt_words": _summary([len(prompt.split()) for prompt in prompts]),
        "response_words": _summary([len(text.split()) for text in texts]),
        "responses_a_prompt": _summary([len(group.responses) for group in groups]),
        "rewards": _summary([r.reward for r in answers if r.reward is not None]),
    }
    labels = Counter(response.belief.label for response in answers if response.belief is not None)
    if labels:
        shares = {label: round(labels[label] / labels.total(), 4) for label in sorted(labels)}
        row["belief_classes"] = dict(shares)
    with_probs = [group.belief_probs for group in groups if group.belief_probs]
    if with_probs:
        mean = np.mean(np.array(with_probs), axis=0)
        row["mean_p_star"] = {k: round(float(p), 4) for k, p in zip(settings.belief_classes, mean)}
    return {name: value for name, value in row.items() if value != {}}


def _summary(values: Sequence[float]) -> dict[str, Json]:
    if not values:
        return {}
    numbers = np.array(values, float)
    return {
        "min": float(numbers.min()),
        "median": float(np.median(numbers)),
        "mean": round(float(numbers.mean()), 2),
        "max": float(numbers.max()),
    }


def _table(rows: Sequence[dict[str, Json]]) -> str:
    """A line for each number, a column for each source."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    width = max(map(len, names))
    columns = [[row.get(name, "") for name in names] for row in flat]
    widths = [min(WIDEST, max(map(len, column))) for column in columns]
    lines = []
    for number, name in enumerate(names):
        cells = [column[number][-WIDEST:].rjust(size) for column, size in zip(columns, widths)]
        lines.append(f"{name.ljust(width)}  {'  '.join(cells)}".rstrip())
    return "\n".join(lines)


def _flat(row: dict[str, Json]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            texts |= {f"{name} {inner}": _shown(v) for inner, v in value.items()}
        else:
            texts[name] = _shown(value)
    return texts


def _shown(value: Json) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
