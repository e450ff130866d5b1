"""Random draws that a run can repeat: they depend on the seed and on names, not on the order of the data."""

from __future__ import annotations

import hashlib

import numpy as np


def rng_of(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and on names alone, not on the order of the data."""
    digest = hashlib.sha256(" ".join((str(seed), *names)).encode()).digest()
    return np.random.default_rng(list(digest[:8]))
