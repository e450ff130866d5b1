"""Attention: every backend sees what the forest's predicate allows, and plain passes stay plain."""

import numpy as np
import pytest
import torch
from helpers import EOS, PAD, tiny_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_helpers import TREES

import forest
import models


@settings(max_examples=60, deadline=None)
@given(st.lists(TREES, min_size=1, max_size=12), st.booleans())
def test_segments_allow_what_the_predicate_allows(trees, share):
    half = len(trees) // 2
    batch = forest.pack(trees, [list(range(half)), list(range(half, len(trees)))], 0, share)
    for segments, allowed in zip(batch.segments, forest.dense_mask(batch.end)[:, 0]):
        assert torch.equal(allowed_by(segments, allowed.shape[0]), allowed)
        assert all(n <= segments[j].length for _, past in segments for j, n in past)


def allowed_by(segments, width):
    """The mask (L, L) that a row's segments spell out."""
    starts = np.cumsum([0, *(segment.length for segment in segments)])
    mask = torch.eye(width, dtype=torch.bool)  # padding sees itself alone
    for (length, past), start in zip(segments, starts):
        own = slice(start, start + length)
        mask[own, own] = torch.ones(length, length).tril().bool()
        for j, n in past:
            mask[own, starts[j] : starts[j] + n] = True
    return mask


@pytest.mark.parametrize("attention", ["segments", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_an_empty_pack_gives_every_parameter_a_gradient(family, attention):
    """FSDP2 reduces the parameters that have one: ranks that differ there would mix up their collectives."""
    policy = tiny_policy(family, attention=attention)
    tree = forest.TokenTree((1, 2), (), ((3,),), reference=(0.0,))
    scores = models.score(policy, forest.pack([tree], [], 0))
    scores.policy.sum().backward()
    assert not [name for name, p in policy.named_parameters() if p.grad is None or p.grad.any()]


def test_generation_and_plain_passes_do_not_see_the_segments():
    ids = torch.tensor([[5, 6, 7, 8]])
    a, b = (tiny_policy("llama", attention=name) for name in ("segments", "sdpa"))
    assert torch.allclose(a.model(ids).logits, b.model(ids).logits, atol=1e-6)
    mask = torch.tensor([[0, 0, 1, 1]])
    masked = [policy.model(ids, attention_mask=mask).logits[:, 2:] for policy in (a, b)]
    assert torch.allclose(*masked, atol=1e-6)
    prompts, sampling = [(5, 6), (7,)], models.Sampling(4, PAD, EOS)
    assert models.generate(a, prompts, sampling, 0) == models.generate(b, prompts, sampling, 0)
