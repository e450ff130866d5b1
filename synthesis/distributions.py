"""task=survey: distributions of answers by group, from microdata or from published shares.

Contract: one row a question and group, which training and evaluation read as survey data. p* sums the
weighted shares of the options of each class. A question with an option of no class, and a group of fewer than
`min_n` people, are left out and listed; a source that does not say how many answered is taken as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from chat import endpoint_of, server_of
from groups.questions import class_probs
from synthesis.config import SynthesisSettings
from synthesis.microdata import read_microdata
from synthesis.option_classes import (
    PROMPT,
    Asked,
    Mapped,
    Model,
    asked_of,
    map_options,
    user_map,
)
from synthesis.people import ARCHIVES
from synthesis.record import NO_TOKENS, Item, Json, Maker, Provenance, digest, key_apart
from synthesis.scales import scales_identity
from synthesis.tally import COLUMNS_OF_PEOPLE, Survey, Tally, read_published
from synthesis.work import RECORD, Work, open_work
from utils import UserError

FILE = "distributions.jsonl"
DIGITS = 6  # of shares and probabilities
MOST_SHOWN = 5  # reasons on the screen

Row = dict[str, Json]


def make_distributions(settings: SynthesisSettings, folder: Path) -> str:
    """Read the sources, class their options, and write a row for each question and group.

    Returns what became of them, in a line. Raises UserError for bad input, and where every question is left
    out.
    """
    given = user_map(settings.options, settings.belief_classes)
    model = _model(settings)
    surveys = [_read(settings, number) for number in range(len(settings.sources or ()))]
    facts: dict[str, Json] = {
        "options": digest(given),
        "scales": scales_identity(),
        "options_model": settings.options_model,
        "belief_classes": list(settings.belief_classes),
        "min_n": settings.min_n,
        "seed": settings.seed,
    }
    with open_work(folder, "survey", facts, settings.overwrite) as work:
        tallies = {item: tally for item, tally in _items(surveys)}
        ordered = list(tallies)
        work.expect(ordered)
        usable = [tally for tally in tallies.values() if not _fault(tally, settings.min_n)]
        mapped = map_options(usable, given, settings.belief_classes, model, work.store("options"))
        _do(work, ordered, tallies, mapped, settings)
        rows = [result.value for item in ordered if (result := work.result(item)) and not result.rejected]
        work.finish({FILE: rows}, _provenance(settings, surveys, model, rows, mapped))
        return _summary(work, folder, rows)


def _model(settings: SynthesisSettings) -> Model | None:
    if settings.options_model is None:
        return None
    if set(settings.belief_classes) != set("012345"):
        raise UserError("config key options_model: a model knows the classes 0 to 5 alone; give options=FILE")
    return Model(endpoint_of(settings.api), settings.options_model, settings.seed)


def _read(settings: SynthesisSettings, number: int) -> Survey:
    source = (settings.sources or [])[number]
    if settings.question is not None or settings.questions is not None or settings.answer is not None:
        return read_microdata(source.name, settings)
    if source.name.lower().endswith(ARCHIVES):
        raise UserError(f"data set {source.name}: {COLUMNS_OF_PEOPLE}")
    return read_published(source, settings.country, settings.belief_classes)


def _items(surveys: Sequence[Survey]) -> list[tuple[Item, Tally]]:
    """Every tally with its item, named by its source where there are several."""
    items = []
    taken: set[str] = set()
    for number, survey in enumerate(surveys, 1):
        prefix = f"{number}/" if len(surveys) > 1 else ""
        for tally in survey.tallies:
            inputs: list[Json] = [tally.question, list(tally.options), list(tally.counts), tally.n]
            inputs += [list(tally.labels), tally.fault]
            key = key_apart(f"{prefix}{tally.key}/{tally.group}", taken)  # "a/b" of "c", and "a" of "b/c"
            taken.add(key)
            items.append((Item(key, digest(inputs)), tally))
    return items


def _do(
    work: Work,
    items: Sequence[Item],
    tallies: Mapping[Item, Tally],
    mapped: Mapping[Asked, Mapped],
    settings: SynthesisSettings,
) -> None:
    """Keep or reject what is missing; a question's tokens are counted with its first item."""
    paid: set[Asked] = set()
    for item in work.bar(work.missing(items), "distributions"):
        tally = tallies[item]
        fault = _fault(tally, settings.min_n)
        if fault:
            work.reject(item, fault)
            continue
        asked = asked_of(tally)
        of_options = mapped[asked]
        tokens = of_options.tokens if asked not in paid else NO_TOKENS
        paid.add(asked)
        if of_options.labels:
            work.keep(item, _row(item, tally, of_options, settings.belief_classes), tokens)
        elif of_options.is_final:
            work.reject(item, f"option without a class: {of_options.how}", tokens)
        else:
            work.fail(item, of_options.how)


def _fault(tally: Tally, min_n: int) -> str:
    """Why a tally is left out, whatever its options are; "": it is not."""
    if tally.fault:
        return tally.fault
    if len(tally.options) < 2:
        return "fewer than two options"
    if tally.n is not None and tally.n < min_n:
        return f"fewer answers than min_n={min_n}: {tally.n}"
    return ""


def _row(item: Item, tally: Tally, mapped: Mapped, classes: Sequence[str]) -> Row:
    total = sum(tally.counts)
    shares = [count / total for count in tally.counts]
    probs = class_probs(mapped.labels, shares, classes)
    return {
        "id": item.key,
        "question_id": tally.key,
        "group": tally.group,
        "question": tally.question,
        "options": list(tally.options),
        "option_class": list(mapped.labels),
        "selections": [round(share, DIGITS) for share in shares],
        "belief_probs": [round(p, DIGITS) for p in probs],
        "n": tally.n,
        "classed_by": mapped.how,
    }


def _provenance(
    settings: SynthesisSettings,
    surveys: Sequence[Survey],
    model: Model | None,
    rows: Sequence[Json],
    mapped: Mapping[Asked, Mapped],
) -> Provenance:
    how = Counter(row["classed_by"] for row in rows if isinstance(row, dict))
    groups = Counter(row["group"] for row in rows if isinstance(row, dict))
    unmapped = {
        f"{q} [{' | '.join(o)}]": result.how for (q, o, _), result in mapped.items() if not result.labels
    }
    return Provenance(
        tuple(survey.origin for survey in surveys),
        (Maker("maps options", model.name, server_of(model.endpoint.base_url)),) if model else (),
        {"options": PROMPT} if model else {},
        {"rows": len(rows), "groups": dict(groups), "classed_by": dict(how), "unmapped": unmapped},
        settings.licence,
    )


def _summary(work: Work, folder: Path, rows: Sequence[Json]) -> str:
    reasons = work.reasons()
    if not rows:
        most = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(MOST_SHOWN))
        remedy = "correct the file, or set min_n= or options=, and run again with overwrite=true"
        raise UserError(f"{folder}: every question is left out ({most}); {remedy}; {RECORD} there names each")
    lines = [f"{folder / FILE}: {len(rows)} distributions"]
    lines += [f"  left out: {count} ({reason})" for reason, count in reasons.most_common(MOST_SHOWN)]
    return "\n".join(lines)
