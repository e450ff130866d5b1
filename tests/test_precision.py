"""Mixed precision: packed passes in bf16 lose no more than plain ones do, and weights are cast once."""

import pytest
import torch
from helpers import CONFIGS, compose, tiny_policy
from omegaconf import OmegaConf
from tree_helpers import random_trees

import devices
import forest
import models
import train
from settings import train_settings

TREES = random_trees(1)
ROWS = [[0, 1, 2], [3, 4], [5, 6]]


def policy_in(passes, weights=torch.float32, family="llama"):
    """A tiny policy whose passes are in one dtype and whose weights are in another."""
    policy = tiny_policy(family).to(weights)
    policy.compute_dtype, policy.casts = passes, passes != weights
    return policy


def gradient(policy):
    """All gradients as one vector, in fp32."""
    return torch.cat([p.grad.float().flatten() for p in policy.parameters()])


def packed(policy):
    """Log-probs of all answers, packed, and the gradient of their sum."""
    logps = models.score(policy, forest.pack(TREES, ROWS, 0)).policy
    logps.sum().backward()
    return logps[logps != 0].detach(), gradient(policy)


def one_by_one(policy):
    """The same by plain passes of one answer each, by the model's own attention."""
    logps = []
    with models.checks.own_attention(policy):
        for tree in TREES:
            for answer in tree.answers:
                ids = torch.tensor([[*tree.prompt, *tree.belief, *answer]])
                of_tokens = policy(ids)[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])
                logps.append(of_tokens[-len(answer) :].sum())
        torch.stack(logps).sum().backward()
    return torch.stack(logps).detach(), gradient(policy)


def error(found, exact):
    """How far two vectors are apart, as a share of the second."""
    return ((found - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", CONFIGS)
def test_packed_in_bfloat16_equals_one_by_one_within_what_bfloat16_loses(family, weights):
    exact = one_by_one(policy_in(torch.float32, family=family))
    plain = one_by_one(policy_in(torch.bfloat16, weights, family))
    ours = packed(policy_in(torch.bfloat16, weights, family))
    for of_ours, of_plain, of_exact in zip(ours, plain, exact):
        lost = error(of_plain, of_exact)
        assert 0 < error(of_ours, of_exact) <= 1.2 * lost + 1e-4
        assert error(of_ours, of_plain) <= 2 * lost + 1e-4  # both are as far from what is exact


def test_attention_over_segments_is_in_fp32_on_a_cpu(monkeypatch):
    seen = []
    whole = models.attention.attend

    def attend(query, key, value, mask, extra):
        seen.extend((query.dtype, key.dtype, value.dtype))
        return whole(query, key, value, mask, extra)

    monkeypatch.setattr(models.attention, "attend", attend)
    for weights in (torch.float32, torch.bfloat16):
        packed(policy_in(torch.bfloat16, weights))
    assert set(seen) == {torch.float32}


def packs_of_a_step(policy):
    """The log-probs of two packs, whose gradients add up."""
    found = []
    for rows in (ROWS[:2], ROWS[2:]):
        found.append(models.score(policy, forest.pack(TREES, rows, 0)).policy)
        found[-1].sum().backward()
    return found


@pytest.mark.parametrize("recomputes", [False, True])
def test_casting_weights_once_for_several_packs_changes_no_bit(recomputes):
    often, once = policy_in(torch.bfloat16), policy_in(torch.bfloat16)
    if recomputes:
        models.gradient_checkpointing(once)
    apart = packs_of_a_step(often)
    with once.casting_once():
        together = packs_of_a_step(once)
    assert all(torch.equal(a, b) for a, b in zip(apart, together))
    assert torch.equal(gradient(often), gradient(once))


def test_weights_are_cast_once_and_anew_for_the_next_step():
    policy, batch = policy_in(torch.bfloat16), forest.pack(TREES, ROWS, 0)
    weight = policy.model.base_model.layers[0].mlp.up_proj.weight
    with policy.casting_once():
        before = models.score(policy, batch).policy
        with torch.no_grad():
            weight.mul_(2)
        assert torch.equal(models.score(policy, batch).policy, before)
    assert not torch.equal(models.score(policy, batch).policy, before)


@pytest.mark.parametrize(
    "flags,dtype", [("flags: avx512f amx_bf16 amx_tile", "bfloat16"), ("flags: avx2", "float32")]
)
def test_auto_is_what_this_processor_is_fast_in(monkeypatch, flags, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices.Path, "read_text", lambda self, **kwargs: flags)
    assert devices.passes_dtype("auto") == devices.passes_dtype("cpu") == dtype
    assert devices.passes_dtype("mps") == "float32"


def test_a_run_names_the_dtype_that_auto_chose(monkeypatch):
    train.import_data()
    monkeypatch.setattr(devices, "passes_dtype", lambda device: "bfloat16")
    asked = settings_of("model.compute_dtype=auto")
    assert train.with_passes_of_this_machine(asked).model.compute_dtype == "bfloat16"
    plain = settings_of("model.compute_dtype=float32")
    assert train.with_passes_of_this_machine(plain) is plain


def settings_of(*overrides):
    """The record of a composed training config."""
    return train_settings(OmegaConf.to_container(compose(*overrides), resolve=True))
