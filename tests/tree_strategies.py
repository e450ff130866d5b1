"""Token trees for property tests."""

import numpy as np
from hypothesis import strategies as st

import forest

ids = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)


trees = st.tuples(ids, st.one_of(st.just(()), ids), st.lists(ids, min_size=1, max_size=4).map(tuple)).map(
    lambda parts: forest.TokenTree(*parts)
)


def random_trees(seed, count=7):
    rng = np.random.default_rng(seed)
    draw = lambda low, high: tuple(rng.integers(0, 256, rng.integers(low, high)).tolist())  # noqa: E731
    prompts = [draw(3, 12) for _ in range(3)]
    beliefs = [draw(1, 5) for _ in range(3)]
    made = []
    for _ in range(count):
        b = rng.integers(4)
        made.append(
            forest.TokenTree(
                prompts[rng.integers(3)],
                beliefs[b] if b < 3 else (),
                tuple(draw(1, 9) for _ in range(rng.integers(1, 5))),
                class_ids=(48, 49, 50),
                class_probs=(0.2, 0.3, 0.5),
            )
        )
    return made
