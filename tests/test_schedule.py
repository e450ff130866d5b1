"""The schedule: which examples a step has and how they fill packs, as pure functions."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_helpers import TREES

import forest
import schedule
from schedule import Packing


@settings(max_examples=60, deadline=None)
@given(
    st.lists(TREES, min_size=1, max_size=20), st.integers(1, 4), st.sampled_from([0, 16, 40]), st.booleans()
)
def test_a_plan_covers_every_example_once_within_its_budget(trees, world_size, row_tokens, share):
    packing = Packing(64, row_tokens, share)
    packs = schedule.plan_step(trees, range(len(trees)), packing, world_size)
    rows_of_all = [row for pack in packs for row in pack]
    assert sorted(itertools.chain(*rows_of_all)) == list(range(len(trees)))
    assert len(packs) % world_size == 0
    for rows in packs:
        assert not rows or forest.pack(trees, rows, 0, share).input_ids.numel() <= 64
    assert packs == schedule.plan_step(trees, range(len(trees)), packing, world_size)


def test_an_example_larger_than_a_pack_is_an_error():
    tree = forest.TokenTree((1,) * 20, (), ((1, 2),))
    with pytest.raises(ValueError, match="max_tokens=8: raise max_tokens"):
        schedule.plan_step([tree], [0], Packing(8, 8), 1)


@pytest.mark.parametrize("shuffle", ["examples", "prompts"])
def test_batches_are_a_function_of_seed_and_step_and_cover_every_epoch(shuffle):
    prompt_of = [i // 3 for i in range(32)]
    order = schedule.Order(prompt_of, 5, 3, shuffle)
    assert order.steps_per_epoch == 7
    steps = [order.examples(step) for step in range(14)]
    epochs = [steps[:7], steps[7:]]
    for batches in epochs:
        assert sorted(itertools.chain(*batches)) == list(range(32))  # the last, partial batch too
    assert epochs[0] != epochs[1]
    assert order.examples(9) == epochs[1][2]
    assert schedule.Order(prompt_of, 5, 4, shuffle).examples(9) != epochs[1][2]
    if shuffle == "prompts":
        prompts = [prompt_of[i] for i in itertools.chain(*epochs[0])]
        assert len(list(itertools.groupby(prompts))) == math.ceil(32 / 3)


@pytest.mark.parametrize("shuffle", ["examples", "prompts"])
def test_a_short_run_needs_the_reference_of_what_it_sees(shuffle):
    trees = [forest.TokenTree((1,), (), ((2,),), group=i // 4) for i in range(80)]
    order = schedule.order_of(trees, 8, 3, shuffle)
    seen = [*order.examples(0), *order.examples(1), *order.examples(2)]
    assert sorted(order.seen(20)) == sorted(seen)
    assert order.seen(80) is None


def test_every_rank_has_work_where_there_is_enough():
    trees = [forest.TokenTree(tuple(range(i, i + 40 + i % 5)), (), ((1, 2, 3),)) for i in range(32)]
    sizes = [forest.tree_tokens([tree]) for tree in trees]
    for row_tokens in (64, 4096):
        for world_size in (1, 3, 8):
            packs = schedule.plan_step(trees, range(32), Packing(4096, row_tokens), world_size)
            loads = [sum(sizes[i] for i in itertools.chain(*rows)) for rows in packs]
            assert len(packs) == world_size
            assert max(loads) < 1.3 * sum(loads) / world_size
