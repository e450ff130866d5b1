"""Token trees to test with: hypothesis strategies that draw small ones, and random ones for models."""

import numpy as np
from hypothesis import strategies as st

import forest


def replace_prompts(drawn):
    """Trees of which the marked ones have one prompt."""
    trees, marked = drawn
    return [tree._replace(prompt=(1, 2, 3)) if m else tree for tree, m in zip(trees, marked)]


def with_marks(trees):
    """Every tree marked or not."""
    marks = st.lists(st.booleans(), min_size=len(trees), max_size=len(trees))
    return st.tuples(st.just(trees), marks)


IDS = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)
ANSWERS = st.lists(IDS, min_size=1, max_size=4).map(tuple)
TREES = st.tuples(IDS, st.one_of(st.just(()), IDS), ANSWERS).map(lambda parts: forest.TokenTree(*parts))
FEW_PROMPTS = st.lists(TREES, min_size=1, max_size=6).flatmap(with_marks).map(replace_prompts)


def random_trees(seed, count=7):
    """Trees of three prompts and three beliefs (or none), with one to four answers and three classes."""
    rng = np.random.default_rng(seed)

    def draw(low, high):
        return tuple(rng.integers(0, 256, rng.integers(low, high)).tolist())

    prompts = [draw(3, 12) for _ in range(3)]
    beliefs = [draw(1, 5) for _ in range(3)]
    trees = []
    for _ in range(count):
        b = rng.integers(4)
        prompt = prompts[rng.integers(3)]
        belief = beliefs[b] if b < 3 else ()
        answers = tuple(draw(1, 9) for _ in range(rng.integers(1, 5)))
        tree = forest.TokenTree(prompt, belief, answers, class_ids=(48, 49, 50), class_probs=(0.2, 0.3, 0.5))
        trees.append(tree)
    return trees
