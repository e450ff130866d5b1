"""Texts that say nearly the same: by the Jaccard similarity of their word triples.

    similarity = |triples of both| / |triples of either|

Contract: every pair that is returned has that similarity, computed exactly. Which pairs are compared at all
is told by MinHash signatures in bands (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, chapter 3): a pair at the threshold is missed about once in a thousand or less. Nothing is random.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

import numpy as np

WORDS = 3  # of a shingle
NUM_HASHES = 128
ROWS_OF_BAND = ((0.7, 4), (0.4, 2), (0.0, 1))  # from a threshold on: hashes of a band
MULTIPLIERS = np.random.default_rng(128).integers(1, 2**63, (2, NUM_HASHES, 1), dtype=np.uint64)

Shingles = frozenset[int]


def shingles_of(text: str) -> Shingles:
    """The hashes of a text's word triples, without case and marks; of all its words where there are fewer."""
    words = re.findall(r"\w+", text.casefold())
    starts = range(max(1, len(words) - WORDS + 1))
    triples = {" ".join(words[start : start + WORDS]) for start in starts}
    return frozenset(
        int.from_bytes(hashlib.blake2b(triple.encode(), digest_size=4).digest()) for triple in triples
    )


def similarity(one: Shingles, other: Shingles) -> float:
    """Their Jaccard similarity."""
    return len(one & other) / len(one | other)


def near_pairs(texts: Sequence[str], threshold: float) -> list[tuple[int, int]]:
    """Pairs of places (the earlier first) whose texts are at least so similar.

    Of texts with the same triples, each stands with the first of them alone. threshold: above 0, up to 1.
    """
    first_of: dict[Shingles, int] = {}
    pairs = set()
    for place, text in enumerate(texts):
        first = first_of.setdefault(shingles_of(text), place)
        if first != place:
            pairs.add((first, place))
    sets, places = list(first_of), list(first_of.values())
    for one, other in _candidates(sets, threshold):
        if similarity(sets[one], sets[other]) >= threshold:
            pairs.add((places[one], places[other]))
    return sorted(pairs)


def _candidates(sets: Sequence[Shingles], threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs that agree in a band of their signatures, each once."""
    if not sets:
        return
    num_rows = next(rows for least, rows in ROWS_OF_BAND if threshold >= least)
    signatures = np.stack([_signature(shingles) for shingles in sets])  # (N, NUM_HASHES)
    seen: set[tuple[int, int]] = set()
    for start in range(0, NUM_HASHES, num_rows):
        buckets: dict[bytes, list[int]] = {}
        for place, signature in enumerate(signatures):
            buckets.setdefault(signature[start : start + num_rows].tobytes(), []).append(place)
        for members in buckets.values():
            for number, other in enumerate(members):
                for one in members[:number]:
                    if (one, other) not in seen:
                        seen.add((one, other))
                        yield one, other


def _signature(shingles: Shingles) -> np.ndarray:
    """The least of each hash over the shingles. (NUM_HASHES,)"""
    values = np.fromiter(shingles, np.uint64, len(shingles))
    factors, offsets = MULTIPLIERS
    hashed = (factors * values + offsets) >> np.uint64(32)  # multiply-shift, modulo 2**64
    return hashed.min(axis=1).astype(np.uint32)


class Joined:
    """Places that belong together (union-find); the first of each set stands for it."""

    def __init__(self, count: int):
        self.parents = list(range(count))

    def first(self, place: int) -> int:
        while self.parents[place] != place:
            self.parents[place] = self.parents[self.parents[place]]
            place = self.parents[place]
        return place

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.first(one), self.first(other)))
        self.parents[high] = low
