"""task=mix and task=split: data sets put together, without what says the same twice; and a data set put
apart, so that no question or prompt stands on two sides.

Contract: pure functions of the sources' contents, the settings and the seed.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from groups import left_out
from synthesis.config import SynthesisSettings
from synthesis.duplicates import Joined, near_pairs
from synthesis.entries import Entries, Entry, read_entries, rows_of, said
from synthesis.record import Json, Provenance
from synthesis.work import open_work
from utils import UserError

MIXED = "train.jsonl"

Chosen = list[tuple[Entries, Entry]]


def read_all(settings: SynthesisSettings) -> list[Entries]:
    """All sources, each named once. Raises UserError as `read_entries`."""
    found = []
    with tqdm(settings.sources, "sources", unit="source") as bar:  # closed before an error is said
        for source in bar:
            found.append(read_entries(source, settings))
    return found


def _facts(sources: Sequence[Entries], settings: SynthesisSettings, *keys: str) -> dict[str, Json]:
    given: dict[str, Json] = {
        "sources": [of.origin.fact for of in sources],
        "format": settings.format,
        "seed": settings.seed,
    }
    values = vars(settings)
    return {**given, **{key: values[key] for key in keys}}


# --- mix ----------------------------------------------------------------------------------------------------


def mix(settings: SynthesisSettings, folder: Path) -> str:
    """Put the sources together. Raises UserError for bad input, and parts that the sources cannot fill."""
    sources = read_all(settings)
    facts = _facts(sources, settings, "n", "duplicates", "near")
    facts["parts"] = [[source.weight, source.n] for source in settings.sources or []]
    with open_work(folder, "mix", facts, settings.overwrite) as work:
        entries = [(of, entry) for of in sources for entry in of.entries]
        kept, dropped = _without_duplicates(entries, settings)
        chosen = _drawn(kept, sources, settings)
        by_source = Counter(of.name for of, _ in chosen)
        counts: dict[str, Json] = {"rows": len(chosen), "by_source": dict(by_source), **dropped}
        counts["left_out_by_reader"] = {of.name: lost for of in sources if (lost := left_out(of.dropped))}
        origins = tuple(of.origin for of in sources)
        work.finish({MIXED: rows_of(chosen)}, Provenance(origins, (), {}, counts, settings.licence))
    parts = ", ".join(f"{count} of {name}" for name, count in by_source.items())
    left = f"; {sum(dropped.values())} duplicates left out" if any(dropped.values()) else ""
    return f"{folder / MIXED}: {len(chosen)} rows ({parts}){left}"


def _without_duplicates(entries: Chosen, settings: SynthesisSettings) -> tuple[Chosen, dict[str, int]]:
    """The entries of which no earlier one says the same, or nearly so; how many others there are."""
    dropped = {"exact_duplicates": 0, "near_duplicates": 0}
    if settings.duplicates == "keep":
        return entries, dropped
    kept: dict[str, tuple[Entries, Entry]] = {}
    for of, entry in entries:
        kept.setdefault(said(entry), (of, entry))
    dropped["exact_duplicates"] = len(entries) - len(kept)
    different = list(kept.values())
    if settings.duplicates == "exact":
        return different, dropped
    gone: set[int] = set()
    for one, other in near_pairs([entry.text for _, entry in different], settings.near):
        same_target = different[one][1].group.belief_probs == different[other][1].group.belief_probs
        if one not in gone and same_target:
            gone.add(other)
    dropped["near_duplicates"] = len(gone)
    return [pair for place, pair in enumerate(different) if place not in gone], dropped


def _drawn(kept: Chosen, sources: Sequence[Entries], settings: SynthesisSettings) -> Chosen:
    """So many of each source as the settings say, in an order of the seed."""
    rng = random.Random(settings.seed)
    parts = {of.name: [pair for pair in kept if pair[0] is of] for of in sources}
    for source in settings.sources or []:
        if source.n is not None:
            parts[source.name] = _some(parts[source.name], source.n, source.name, rng)
    for name, size in _sizes({name: len(part) for name, part in parts.items()}, settings).items():
        parts[name] = _some(parts[name], size, name, rng)
    chosen = [pair for part in parts.values() for pair in part]
    rng.shuffle(chosen)
    if settings.n is not None:
        chosen = _some(chosen, settings.n, "all sources", rng)
    return chosen


def _sizes(available: dict[str, int], settings: SynthesisSettings) -> dict[str, int]:
    """How many rows of each source make the weights' parts; as they are where none has a weight."""
    weights = {source.name: source.weight for source in settings.sources or []}
    given = {name: weight for name, weight in weights.items() if weight is not None}
    if not given:
        return available
    if len(given) < len(weights):
        without = next(name for name, weight in weights.items() if weight is None)
        raise UserError(f"sources: {without} has no weight, and others have; give all of them one, or none")
    total = sum(given.values())
    whole = min(available[name] * total / weight for name, weight in given.items())
    if settings.n is not None:
        whole = min(whole, settings.n) if whole >= settings.n else _too_many(settings.n, int(whole))
    return {name: round(whole * weight / total) for name, weight in given.items()}


def _too_many(wanted: int, most: int) -> int:
    raise UserError(
        f"config key n={wanted}: the sources fill {most} rows in the parts of their weights; give a smaller n"
    )


def _some(part: Chosen, count: int, name: str, rng: random.Random) -> Chosen:
    if count > len(part):
        raise UserError(f"sources: {name} has {len(part)} rows, and {count} are asked for; give a smaller n")
    places = sorted(rng.sample(range(len(part)), count))
    return [part[place] for place in places]


# --- split --------------------------------------------------------------------------------------------------


def split(settings: SynthesisSettings, folder: Path) -> str:
    """Hold questions or prompts out: train.jsonl, eval.jsonl and test.jsonl, of which no two share one.

    Those that are nearly the same (`near`) stay on one side. Raises UserError for bad input, and where there
    are too few questions for the sides.
    """
    fractions = settings.held_out
    sources = read_all(settings)
    facts = _facts(sources, settings, "by", "near", "eval_fraction", "test_fraction")
    with open_work(folder, "split", facts, settings.overwrite) as work:
        entries = [(of, entry) for of in sources for entry in of.entries]
        sides = _sides([entry for _, entry in entries], fractions, settings)
        parts: dict[str, Chosen] = {"train": []} | {name: [] for name, part in fractions.items() if part}
        for side, pair in zip(sides, entries):
            parts[side].append(pair)
        files = {f"{side}.jsonl": rows_of(part) for side, part in parts.items()}
        counts: dict[str, Json] = {side: len(part) for side, part in parts.items()}
        origins = tuple(of.origin for of in sources)
        work.finish(files, Provenance(origins, (), {}, counts, settings.licence))
    return "\n".join(f"{folder / side}.jsonl: {len(part)} rows" for side, part in parts.items())


def _sides(entries: Sequence[Entry], fractions: dict[str, float], settings: SynthesisSettings) -> list[str]:
    """The side of every entry: sets of entries that share a question or prompt, in an order of the seed."""
    joined = _joined(entries, settings)
    firsts = [joined.first(place) for place in range(len(entries))]
    sets = sorted(set(firsts), key=lambda first: _hash(settings.seed, entries[first].prompt))
    side_of = dict.fromkeys(sets, "train")
    start = 0
    for side, fraction in fractions.items():
        count = max(1, round(fraction * len(sets))) if fraction else 0
        side_of |= dict.fromkeys(sets[start : start + count], side)
        start += count
    if start >= len(sets):
        raise UserError(
            f"task=split: {len(sets)} {settings.by}s that differ are too few to hold {start} out; give more "
            "data, or a larger near="
        )
    return [side_of[first] for first in firsts]


def _joined(entries: Sequence[Entry], settings: SynthesisSettings) -> Joined:
    """Entries that must stay on one side."""
    joined = Joined(len(entries))
    prompts = [entry.prompt for entry in entries]
    keys = [[prompt] for prompt in prompts]
    if settings.by == "question":
        keys = [[entry.prompt, entry.group.question or entry.prompt] for entry in entries]
    for number in range(len(keys[0]) if keys else 0):
        texts = [" ".join(key[number].casefold().split()) for key in keys]
        places: dict[str, int] = {}
        for place, text in enumerate(texts):
            joined.join(places.setdefault(text, place), place)
        different = list(places)
        for one, other in near_pairs(different, settings.near):
            joined.join(places[different[one]], places[different[other]])
    return joined


def _hash(seed: int, text: str) -> bytes:
    return hashlib.blake2b(f"{seed}\n{text}".encode("utf-8", "replace"), digest_size=16).digest()
