"""Log-probs without full logits against the plain formula."""

import pytest
import torch
from helpers import tiny_policy
from tree_strategies import random_trees

import forest
import models


def test_small_logit_chunks_change_nothing(monkeypatch):
    policy, ts = tiny_policy(), random_trees(2)
    batch = forest.pack(ts, [[0, 1, 2, 3], [4, 5, 6]], pad_id=0)
    whole = models.score(policy, batch)
    whole.policy.sum().backward()
    gradients = [p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()
    monkeypatch.setattr(models.head, "CHUNK_BYTES", 4 * 259 * 3)  # three rows at a time
    monkeypatch.setattr(
        models.head, "KEPT_BYTES", 4 * 259 * 7
    )  # two chunks are kept, the others computed again
    chunked = models.score(policy, batch)
    chunked.policy.sum().backward()
    assert torch.allclose(whole.policy, chunked.policy, atol=1e-5)
    assert all(torch.allclose(g, p.grad, atol=1e-4) for g, p in zip(gradients, policy.parameters()))


@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_log_probs_through_the_head_equal_the_plain_formula(softcap, has_bias, compute):
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape).requires_grad_() for shape in ((17, 8), (50, 8), (50,)))
    source = torch.tensor([0, 0, 0, 1, 2, 3, 3, *range(4, 17), 16])
    target, upstream = torch.randint(0, 50, source.shape), torch.randn(len(source))
    starts = [int((source < r).sum()) for r in range(18)]
    with torch.autocast("cpu", compute, enabled=compute != torch.float32):
        found = models.LogProbs.apply(
            hidden, weight, bias if has_bias else None, models.Reads(source, target, starts), softcap, 5
        )
        logits = torch.nn.functional.linear(hidden, weight, bias if has_bias else None)
    found.backward(upstream)
    inputs = [hidden, weight, bias][: 2 + has_bias]
    got = [v.grad for v in inputs]
    for v in inputs:
        v.grad = None

    def plain(logits):
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        return logits.log_softmax(-1)[source, target]

    exact = plain(torch.nn.functional.linear(hidden, weight, bias if has_bias else None))
    exact.backward(upstream)
    if compute == torch.float32:
        assert torch.allclose(found, exact, atol=2e-6) and all(
            torch.allclose(g, v.grad, atol=3e-6) for g, v in zip(got, inputs)
        )
    else:  # no worse than twice what bfloat16 itself loses
        lost = (plain(logits.float()) - exact).abs().max()
        assert (found - exact).abs().max() <= 2 * lost + 1e-6
        assert all((g - v.grad).abs().max() <= 0.03 * v.grad.abs().max() for g, v in zip(got, inputs))
