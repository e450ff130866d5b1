"""The forest: the mask against brute force, and what sharing costs."""

import itertools

import torch
from helpers import tiny_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_strategies import trees

import forest
import models

few_prompts = st.lists(trees, min_size=1, max_size=6).flatmap(
    lambda ts: st.lists(st.integers(0, 1), min_size=len(ts), max_size=len(ts)).map(
        lambda picks: [t._replace(prompt=(1, 2, 3)) if p else t for t, p in zip(ts, picks)]
    )
)


def paths(tree):
    return [(*tree.prompt, *tree.belief, *answer) for answer in tree.answers]


def branches(batch):
    """Every visible set of rows, spelled out token by token: what each token can see, in order."""
    seen = {}
    for b in range(batch.input_ids.shape[0]):
        mask = forest.dense_mask(batch.end)[b, 0]
        for q in range(batch.input_ids.shape[1]):
            seen[b, q] = tuple(batch.input_ids[b, mask[q]].tolist())
    return seen


@settings(max_examples=150, deadline=None)
@given(few_prompts, st.booleans())
def test_every_scored_token_sees_exactly_its_own_path(ts, share):
    batch = forest.pack(ts, [list(range(len(ts)))], pad_id=0, share=share)
    seen, width = branches(batch), batch.input_ids.shape[1]
    places = batch.positions[batch.source]
    for n, tree in enumerate(ts):
        for k, path in enumerate(paths(tree)):
            reads = [m for m in range(len(batch.owner)) if batch.owner[m] == batch.span[n, k]]
            found = {
                seen[int(places[m]) // width, int(places[m]) % width]: int(batch.target[m]) for m in reads
            }
            first = len(path) - len(tree.answers[k])
            assert found == {path[:i]: path[i] for i in range(first, len(path))}


@settings(max_examples=150, deadline=None)
@given(few_prompts, st.booleans())
def test_mask_is_the_brute_force_table_and_positions_are_depths(ts, share):
    batch = forest.pack(ts, [list(range(len(ts)))], pad_id=0, share=share)
    end, depth = batch.end[0].tolist(), batch.position_ids[0].tolist()
    mask = forest.dense_mask(batch.end)[0, 0]
    for q, kv in itertools.product(range(len(end)), repeat=2):
        assert bool(mask[q, kv]) == (kv <= q < end[kv])
    assert [int(mask[q].sum()) - 1 for q in range(len(end))] == depth  # ancestors, no more and no fewer


@settings(max_examples=100, deadline=None)
@given(few_prompts)
def test_shared_rows_cost_one_copy_of_what_is_shared(ts):
    batch = forest.pack(ts, [list(range(len(ts)))], pad_id=0)
    distinct = {p[:i] for t in ts for p in paths(t) for i in range(1, len(p))}
    # spans are kept apart by (prompt, belief, answer), so equal beginnings of two answers stand twice:
    # never fewer rows
    assert len(distinct) <= batch.num_tokens <= batch.num_tokens_unshared
    assert batch.num_tokens == forest.tree_tokens(ts)
    assert batch.num_tokens_unshared == forest.pack(ts, [list(range(len(ts)))], 0, share=False).num_tokens


def test_k_responses_cost_one_prompt():
    tree = forest.TokenTree(tuple(range(100)), (), tuple((k, *range(20)) for k in range(8)))
    assert forest.tree_tokens([tree]) == 100 + 8 * 20
    assert forest.tree_tokens([tree] * 5) == 100 + 8 * 20  # pairs of one prompt share its tree


def test_padding_rows_see_only_themselves():
    ts = [forest.TokenTree((1, 2, 3), (), ((4, 5),)), forest.TokenTree((1,), (), ((4,),))]
    batch = forest.pack(ts, [[0], [1]], pad_id=7)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4], [1, 7, 7, 7]]
    assert forest.dense_mask(batch.end)[1, 0].tolist() == torch.eye(4, dtype=torch.bool).tolist()


def test_an_empty_pack_has_the_tables_of_a_full_one():
    full = forest.TokenTree((1, 2), (), ((3,), (4,)), class_ids=(5, 6, 7), class_probs=(0.5, 0.5, 0.0))
    scores = models.score(tiny_policy(), forest.pack([full], [], pad_id=0))
    assert scores.policy.shape == (0, 2) and scores.class_logps.shape == (0, 3)
