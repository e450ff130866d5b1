"""The forest: the mask and the layout against brute force."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_helpers import FEW_PROMPTS

import forest


def paths(tree):
    return [(*tree.prompt, *tree.belief, *answer) for answer in tree.answers]


def visible_tokens(batch):
    """What each token of each row sees, in order, spelled out: {(row, column): token ids}."""
    visible = {}
    num_rows, width = batch.input_ids.shape
    for b in range(num_rows):
        mask = forest.dense_mask(batch.end)[b, 0]
        for q in range(width):
            visible[b, q] = tuple(batch.input_ids[b, mask[q]].tolist())
    return visible


def one_pack(trees, share=True):
    """All trees in one row."""
    return forest.pack(trees, [list(range(len(trees)))], pad_id=0, share=share)


@settings(max_examples=150, deadline=None)
@given(FEW_PROMPTS, st.booleans())
def test_every_scored_token_sees_exactly_its_own_path(trees, share):
    batch = one_pack(trees, share)
    visible, width = visible_tokens(batch), batch.input_ids.shape[1]
    places = batch.positions[batch.source].tolist()
    for n, tree in enumerate(trees):
        for k, path in enumerate(paths(tree)):
            reads = [m for m in range(len(batch.owner)) if batch.owner[m] == batch.span[n, k]]
            targets = {visible[divmod(places[m], width)]: int(batch.target[m]) for m in reads}
            first = len(path) - len(tree.answers[k])
            assert targets == {path[:i]: path[i] for i in range(first, len(path))}


@settings(max_examples=150, deadline=None)
@given(FEW_PROMPTS, st.booleans())
def test_mask_is_the_brute_force_table_and_positions_are_depths(trees, share):
    batch = one_pack(trees, share)
    end, depth = batch.end[0].tolist(), batch.position_ids[0].tolist()
    mask = forest.dense_mask(batch.end)[0, 0]
    for q, kv in itertools.product(range(len(end)), repeat=2):
        assert bool(mask[q, kv]) == (kv <= q < end[kv])
    assert [int(mask[q].sum()) - 1 for q in range(len(end))] == depth  # ancestors, no more and no fewer


@settings(max_examples=100, deadline=None)
@given(FEW_PROMPTS)
def test_shared_rows_cost_one_copy_of_what_is_shared(trees):
    batch = one_pack(trees)
    every_path = [path for tree in trees for path in paths(tree)]
    distinct = {path[:i] for path in every_path for i in range(1, len(path))}
    # spans are kept apart by (prompt, belief, answer), so equal beginnings of two answers stand twice: never
    # fewer rows
    assert len(distinct) <= batch.num_tokens <= batch.num_tokens_unshared
    assert batch.num_tokens == forest.tree_tokens(trees)
    assert batch.num_tokens_unshared == one_pack(trees, share=False).num_tokens


def test_k_responses_cost_one_prompt():
    tree = forest.TokenTree(tuple(range(100)), (), tuple((k, *range(20)) for k in range(8)))
    assert forest.tree_tokens([tree]) == 100 + 8 * 20
    assert forest.tree_tokens([tree] * 5) == 100 + 8 * 20  # pairs of one prompt share its tree


def test_padding_rows_see_only_themselves():
    trees = [forest.TokenTree((1, 2, 3), (), ((4, 5),)), forest.TokenTree((1,), (), ((4,),))]
    batch = forest.pack(trees, [[0], [1]], pad_id=7)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4], [1, 7, 7, 7]]
    assert forest.dense_mask(batch.end)[1, 0].tolist() == torch.eye(4, dtype=torch.bool).tolist()
