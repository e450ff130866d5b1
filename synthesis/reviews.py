"""task=reviews: ratings and texts to reviews under beliefs, as the GDPO paper's movie set (arXiv 2412.20299).

Contract: one row an item. p* is the distribution of all of its ratings over the classes, whether or not they
have a text; a response is a review's text, and its belief the class of its rating alone. No item stands on
two sides. Everything is a function of the sources, the settings and the seed.
"""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from groups import open_table
from groups.values import is_absent, label_of
from synthesis.config import SynthesisSettings
from synthesis.dialogue_rows import DIGITS, LARGEST_REWARD, Row, as_id, by_position, pairs_of
from synthesis.ratings import Labels, classes_of_ratings, rating_of
from synthesis.record import Item, Json, Origin, Provenance, digest
from synthesis.text_checks import MARKS, normal
from synthesis.work import RECORD, Work, open_work
from utils import UserError

FOLDER = "reviews"  # of the data, in the folder of the work
MOST_SHOWN = 5  # reasons on the screen


class Review(NamedTuple):
    """What one person says of an item."""

    rating: str
    text: str  # "": a rating alone


class Reviewed(NamedTuple):
    """An item with all that was said of it."""

    key: str
    prompt: str
    reviews: tuple[Review, ...]


class Sources(NamedTuple):
    """All items, where each different rating stands first, and where they came from."""

    items: tuple[Reviewed, ...]
    places: Mapping[str, str]  # {rating: file and row}
    origins: tuple[Origin, ...]
    unrated: int  # rows without item or rating


def make_reviews(settings: SynthesisSettings, folder: Path) -> str:
    """Read the ratings, and write a row for each item, or one for each drawn pair of an item's texts.

    Returns what became of them, in some lines. Raises UserError for a column that is not there, a rating that
    has no class, and where every item is left out.
    """
    fractions = settings.held_out
    sources = _read(settings)
    labels = classes_of_ratings(sources.places, settings)
    facts: dict[str, Json] = {
        "classes": digest(dict(sorted(labels.of_rating.items()))),
        "belief_classes": list(settings.belief_classes),
        "n_texts": settings.n_texts,
        "min_n": settings.min_n,
        "seed": settings.seed,
    }
    with open_work(folder, "reviews", facts, settings.overwrite) as work:
        items = {
            Item(one.key, digest([one.prompt, list(one.reviews)])): one for one in _some(sources, settings)
        }
        work.expect(list(items))
        _do(work, items, labels, settings)
        rows = [result.value for item in items if (result := work.result(item)) and not result.rejected]
        files = _files([row for row in rows if isinstance(row, dict)], fractions, settings)
        counts: dict[str, Json] = {
            "rows": {name: len(of_file) for name, of_file in files.items()},
            "texts": sum(_num_texts(row) for row in rows),
            "rows_without_item_or_rating": sources.unrated,
            "classed_by": labels.how,
            "columns": settings.columns,
            "pairs_per_prompt": settings.pairs_per_prompt,
        }
        prompts = {"review": settings.review_prompt}
        work.finish(files, Provenance(sources.origins, (), prompts, counts, settings.licence))
        return _summary(work, folder, files, labels)


# --- what is there ------------------------------------------------------------------------------------------


def _read(settings: SynthesisSettings) -> Sources:
    """All items of the sources, in the order of their first rows."""
    prompts: dict[str, str] = {}
    reviews: dict[str, list[Review]] = {}
    places: dict[str, str] = {}
    origins = []
    unrated = 0
    for source in settings.sources or ():
        table = open_table(source.name, source.split or "all")
        count = 0
        for where, row in table.rows():
            count += 1
            named, rated = (
                _field(row, settings.item, "item", where),
                _field(row, settings.rating, "rating", where),
            )
            if is_absent(named) or is_absent(rated):
                unrated += 1
                continue
            key, rating, text = label_of(named).strip(), rating_of(rated), row.get(settings.text)
            places.setdefault(rating, where)
            if key not in prompts:
                prompts[key] = _prompt(row, settings, where)
            reviews.setdefault(key, []).append(Review(rating, "" if is_absent(text) else str(text).strip()))
        origins.append(Origin(source.name, table.identity(), count))
    if not any(review.text for of_item in reviews.values() for review in of_item):
        raise UserError(
            f"sources: no row has {settings.item}, {settings.rating} and {settings.text}; set item, rating "
            "and text to the columns' names"
        )
    items = tuple(Reviewed(key, prompts[key], tuple(of_item)) for key, of_item in reviews.items())
    return Sources(items, places, tuple(origins), unrated)


def _field(row: Mapping[str, object], column: str, key: str, where: str) -> object:
    """A column's value. Raises UserError where there is no such column."""
    if column not in row:
        there = ", ".join(list(row)[:8])
        raise UserError(f"{where}: has no column {column}, but {there}; set {key}=<the column>")
    return row[column]


def _prompt(row: Mapping[str, object], settings: SynthesisSettings, where: str) -> str:
    """What is asked of an item. Raises UserError for a template that names no column."""
    fields = {column: "" if is_absent(value) else str(value) for column, value in row.items()}
    fields["item"] = fields[settings.item]
    texts = []
    for literal, name in _parts(settings.review_prompt):
        if name is not None and name not in fields:
            there = ", ".join(fields)
            raise UserError(f"{where}: review_prompt names {{{name}}}, which is none of {there}")
        texts += [literal, "" if name is None else fields[name]]
    return "".join(texts)


def _parts(template: str) -> list[tuple[str, str | None]]:
    """The words of a template and the column behind each of them. Raises UserError for one that is broken."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"config key review_prompt: {error}; write a brace as two") from error
    for _, name, form, conversion in parsed:
        if form or conversion:
            raise UserError(
                f"config key review_prompt: {{{name}}} has a format or conversion behind it; a column's name "
                "stands alone in its braces"
            )
    return [(literal, name) for literal, name, _, _ in parsed]


def _some(sources: Sources, settings: SynthesisSettings) -> Sequence[Reviewed]:
    """All items, or `n` of them that have enough ratings, drawn by the seed."""
    if settings.n is None:
        return sources.items
    rated = [place for place, one in enumerate(sources.items) if len(one.reviews) >= settings.min_n]
    if settings.n > len(rated):
        raise UserError(
            f"config key n={settings.n}: {len(rated)} items have min_n={settings.min_n} ratings or more; "
            "give fewer"
        )
    random.Random(settings.seed).shuffle(rated)  # a larger n holds a smaller one
    return [sources.items[place] for place in sorted(rated[: settings.n])]


# --- items to rows ------------------------------------------------------------------------------------------


def _do(work: Work, items: Mapping[Item, Reviewed], labels: Labels, settings: SynthesisSettings) -> None:
    """Keep or reject what is missing."""
    for item in work.bar(work.missing(list(items)), "reviews"):
        reviewed = items[item]
        if len(reviewed.reviews) < settings.min_n:
            work.reject(item, f"fewer ratings than min_n={settings.min_n}: {len(reviewed.reviews)}")
            continue
        texts = _chosen(_texts_of(reviewed, labels), settings, item.key)
        if len({label for label, _ in texts}) < 2:
            work.reject(item, "texts of fewer than two classes")
        else:
            work.keep(item, _row(reviewed, texts, labels, settings))


def _texts_of(reviewed: Reviewed, labels: Labels) -> dict[str, list[str]]:
    """{class: the different texts of its ratings}, without those that hold a template's marks."""
    seen: set[str] = set()
    texts: dict[str, list[str]] = {}
    for review in reviewed.reviews:
        said = normal(review.text)
        if said and said not in seen and not MARKS.search(review.text):
            seen.add(said)
            texts.setdefault(labels.of_rating[review.rating], []).append(review.text)
    return texts


def _chosen(
    texts: Mapping[str, Sequence[str]], settings: SynthesisSettings, key: str
) -> list[tuple[str, str]]:
    """(class, text) of at most `n_texts` reviews, drawn by the seed: one of each class in turn, so that
    every class that has texts is there as long as there is room."""
    drawn = {}
    for label in settings.belief_classes:
        of_class = list(texts.get(label, ()))
        random.Random(f"{settings.seed} {key} {label}").shuffle(of_class)
        drawn[label] = of_class
    turns = max(map(len, drawn.values()))
    chosen = [(label, of[turn]) for turn in range(turns) for label, of in drawn.items() if turn < len(of)]
    return chosen[: settings.n_texts]


def _row(
    reviewed: Reviewed, texts: Sequence[tuple[str, str]], labels: Labels, settings: SynthesisSettings
) -> Json:
    """A row of our own format."""
    counts = Counter(labels.of_rating[review.rating] for review in reviewed.reviews)
    probs = {label: counts[label] / len(reviewed.reviews) for label in settings.belief_classes}
    responses: list[Json] = [
        {
            "text": text,
            "reward": round(LARGEST_REWARD * probs[label], DIGITS),
            "belief": {"class": label, "text": ""},
        }
        for label, text in texts
    ]
    return {
        "id": reviewed.key,
        "prompt": f"<Q>{reviewed.prompt}<A>",
        "responses": responses,
        "belief_probs": [round(p, DIGITS) for p in probs.values()],
        "question": reviewed.key,
    }


def _num_texts(row: Json) -> int:
    match row:
        case {"responses": list(responses)}:
            return len(responses)
    return 0


# --- rows to files ------------------------------------------------------------------------------------------


def _files(
    rows: Sequence[Row], fractions: Mapping[str, float], settings: SynthesisSettings
) -> dict[str, list[Row]]:
    """{file: its rows}: items are held out for eval and test in an order of the seed."""
    order = list(rows)
    random.Random(settings.seed).shuffle(order)
    sides: dict[str, str] = {}
    for split, fraction in fractions.items():
        count = round(fraction * len(order))
        for row in order[len(sides) : len(sides) + count]:
            sides[str(row["id"])] = split
    files: dict[str, list[Row]] = {}
    for split in ("train", *fractions):
        part = [row for row in rows if sides.get(str(row["id"]), "train") == split]
        if settings.columns == "mmoqa":
            part = [pair for row in part for pair in _mmoqa_rows(row, settings)]
        if part:
            files[f"{FOLDER}/{split}.jsonl"] = part
    return files


def _mmoqa_rows(row: Row, settings: SynthesisSettings) -> Iterator[Row]:
    """A row for each drawn pair, in the columns of Binwei01/movie_review."""
    responses = row["responses"]
    assert isinstance(responses, list)
    for preferred, other in pairs_of(row, settings):
        accepted, rejected = responses[preferred], responses[other]
        yield {
            "prompt": str(row["prompt"]).removeprefix("<Q>").removesuffix("<A>"),
            "accept_response": accepted["text"],
            "reject_response": rejected["text"],
            "probabilities": by_position(row["belief_probs"], settings.belief_classes),
            "accept_choice_id": as_id(accepted["belief"]["class"]),
            "reject_choice_id": as_id(rejected["belief"]["class"]),
        }


def _summary(work: Work, folder: Path, files: Mapping[str, Sequence[Row]], labels: Labels) -> str:
    reasons = work.reasons()
    if not files:
        most = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(MOST_SHOWN))
        remedy = "correct the file, or set min_n= or options=, and run again with overwrite=true"
        raise UserError(f"{folder}: every item is left out ({most}); {remedy}; {RECORD} there names each")
    lines = [f"{folder / name}: {len(rows)} rows" for name, rows in files.items()]
    lines.append(f"  ratings are classed by {labels.how}")
    lines += [f"  left out: {count} ({reason})" for reason, count in reasons.most_common(MOST_SHOWN)]
    return "\n".join(lines)
