"""Packed against one by one, for every family and every way to attend."""

import numpy as np
import pytest
import torch
from helpers import CONFIGS, tiny_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_strategies import random_trees, trees

import forest
import models


def test_an_empty_pack_still_runs_forward_and_backward():
    policy = tiny_policy()
    scores = models.score(policy, forest.pack([], [], pad_id=0))
    assert scores.policy.shape[0] == 0
    scores.policy.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.parameters())
    assert next(policy.parameters()).grad is not None  # collectives of a sharded model would match


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("attention", ["segments", "sdpa"])
def test_packed_equals_one_by_one_in_values_and_gradients(family, share, attention):
    policy, ts = tiny_policy(family, attention=attention), random_trees(1)
    packed = forest.pack(ts, [[0, 1, 2], [3, 4], [5, 6]], pad_id=0, share=share)
    weights = torch.randn(packed.span.shape, generator=torch.Generator().manual_seed(0)) * packed.valid

    scores = models.score(policy, packed)
    (scores.policy * weights).sum().backward()
    got = {n: p.grad.clone() for n, p in policy.named_parameters()}
    policy.zero_grad()
    total = 0.0
    for n, tree in enumerate(ts):
        for k, answer in enumerate(tree.answers):
            ids = torch.tensor([[*tree.prompt, *tree.belief, *answer]])
            logps = policy.model(input_ids=ids).logits[0].float().log_softmax(-1)
            plain = logps[-len(answer) - 1 : -1].gather(1, ids[0, -len(answer) :, None]).sum()
            assert scores.policy[n, k].item() == pytest.approx(plain.item(), abs=2e-4)
            total = total + weights[n, k] * plain
        at = len(tree.prompt) - 1
        assert torch.allclose(scores.class_logps[n], logps[at, [48, 49, 50]], atol=2e-5)
        belief = sum(logps[at + i, t].item() for i, t in enumerate(tree.belief))
        assert scores.belief_logp[n].item() == pytest.approx(belief, abs=1e-4)
    total.backward()
    for name, parameter in policy.named_parameters():
        assert torch.allclose(
            got[name], parameter.grad, atol=3e-4 * max(1.0, parameter.grad.abs().max().item())
        ), name


@settings(max_examples=60, deadline=None)
@given(st.lists(trees, min_size=1, max_size=12), st.booleans())
def test_segments_allow_what_the_predicate_allows(ts, share):
    batch = forest.pack(ts, [list(range(len(ts) // 2)), list(range(len(ts) // 2, len(ts)))], 0, share)
    for row, allowed in zip(batch.segments, forest.dense_mask(batch.end)[:, 0]):
        starts = np.cumsum([0, *(s.length for s in row)])
        mine = torch.eye(allowed.shape[0], dtype=torch.bool)  # padding sees itself alone
        for (length, past), start in zip(row, starts):
            mine[start : start + length, start : start + length] = torch.ones(length, length).tril().bool()
            for j, n in past:
                mine[start : start + length, starts[j] : starts[j] + n] = True
        assert torch.equal(mine, allowed)
        assert all(n <= row[j].length for _, past in row for j, n in past)


@pytest.mark.parametrize("attention", ["segments", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_an_empty_pack_gives_every_parameter_a_gradient(family, attention):
    """FSDP2 reduces the parameters that have one: ranks that differ there would mix up their collectives."""
    policy, tree = (
        tiny_policy(family, attention=attention),
        forest.TokenTree((1, 2), (), ((3,),), reference=(0.0,)),
    )
    scores = models.score(policy, forest.pack([tree], [], 0))
    scores.policy.sum().backward()
    assert not [n for n, p in policy.named_parameters() if p.grad is None or p.grad.any()]


def test_generation_and_plain_passes_do_not_see_the_segments():
    ids = torch.tensor([[5, 6, 7, 8]])
    a, b = (tiny_policy("llama", attention=name) for name in ("segments", "sdpa"))
    assert torch.allclose(a.model(ids).logits, b.model(ids).logits, atol=1e-6)
    mask = torch.tensor([[0, 0, 1, 1]])
    assert torch.allclose(
        a.model(ids, attention_mask=mask).logits[:, 2:],
        b.model(ids, attention_mask=mask).logits[:, 2:],
        atol=1e-6,
    )
    assert models.generate(a, [(5, 6), (7,)], models.Sampling(4, 258, 257), 0) == models.generate(
        b, [(5, 6), (7,)], models.Sampling(4, 258, 257), 0
    )


def test_rows_padded_to_a_multiple_score_the_same():
    policy, ts = tiny_policy(), random_trees(5)
    exact, wide = (forest.pack(ts, [[0, 1, 2], [3, 4]], 0, multiple=m) for m in (1, 64))
    assert wide.input_ids.shape[1] % 64 == 0 and wide.num_tokens == exact.num_tokens
    assert torch.allclose(models.score(policy, exact).policy, models.score(policy, wide).policy, atol=1e-4)


def test_compiled_blocks_score_the_same():
    policy, compiled, ts = tiny_policy(), tiny_policy(), random_trees(6)
    models.compile_blocks(compiled, backend="aot_eager")
    for rows in (
        [[0, 1]],
        [[2, 3], [4, 5]],
    ):  # another width: no second compilation is needed, and none may change a number
        batch = forest.pack(ts, rows, 0)
        pairs = []
        for model in (policy, compiled):
            scores = models.score(model, batch)
            scores.policy.sum().backward()
            pairs.append((scores.policy, [p.grad for p in model.parameters()]))
        assert torch.allclose(pairs[0][0], pairs[1][0], atol=1e-5)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(pairs[0][1], pairs[1][1]))
