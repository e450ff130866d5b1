"""The head: log-probs without full logits equal the plain formula, in chunks of any size."""

import pytest
import torch
from helpers import tiny_policy
from tree_helpers import random_trees

import forest
import models


def test_small_logit_chunks_change_nothing(monkeypatch):
    policy, trees = tiny_policy(), random_trees(2)
    batch = forest.pack(trees, [[0, 1, 2, 3], [4, 5, 6]], pad_id=0)
    whole = models.score(policy, batch)
    whole.policy.sum().backward()
    gradients = [p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()
    row_bytes = 4 * 259
    monkeypatch.setattr(models.head, "CHUNK_BYTES", 3 * row_bytes)  # three rows at a time
    monkeypatch.setattr(models.head, "KEPT_BYTES", 7 * row_bytes)  # two chunks are kept, others made again
    chunked = models.score(policy, batch)
    chunked.policy.sum().backward()
    assert torch.allclose(whole.policy, chunked.policy, atol=1e-5)
    for gradient, p in zip(gradients, policy.parameters()):
        assert torch.allclose(gradient, p.grad, atol=1e-4)


SOURCE = torch.tensor([0, 0, 0, 1, 2, 3, 3, *range(4, 17), 16])  # of 17 rows: which one a read reads
STARTS = [int((SOURCE < row).sum()) for row in range(18)]


def plain(output, target, shape):
    """The log-probs that are read, by the formula."""
    logits = shape.scale * output
    if shape.softcap:
        logits = shape.softcap * torch.tanh(logits / shape.softcap)
    return logits.log_softmax(-1)[SOURCE, target]


@pytest.mark.parametrize("shape", [(1.0, 0.0), (1.0, 3.0), (0.3, 0.0), (2.5, 3.0)])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_log_probs_through_the_head_equal_the_plain_formula(shape, has_bias, compute):
    shape = models.LogitShape(*shape)
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape).requires_grad_() for shape in ((17, 8), (50, 8), (50,)))
    target, upstream = torch.randint(0, 50, SOURCE.shape), torch.randn(len(SOURCE))
    reads = models.Reads(SOURCE, target, STARTS)
    bias = bias if has_bias else None
    with torch.autocast("cpu", compute, enabled=compute != torch.float32):
        logps = models.LogProbs.apply(hidden, weight, bias, reads, shape, 5)
        logits = torch.nn.functional.linear(hidden, weight, bias)
    logps.backward(upstream)
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    gradients = [tensor.grad for tensor in inputs]
    for tensor in inputs:
        tensor.grad = None

    exact = plain(torch.nn.functional.linear(hidden, weight, bias), target, shape)
    exact.backward(upstream)
    if compute == torch.float32:
        assert torch.allclose(logps, exact, atol=2e-6)
        for gradient, tensor in zip(gradients, inputs):
            assert torch.allclose(gradient, tensor.grad, atol=3e-6)
    else:  # no worse than twice what bfloat16 itself loses
        lost = (plain(logits.float(), target, shape) - exact).abs().max()
        assert (logps - exact).abs().max() <= 2 * lost + 1e-6
        for gradient, tensor in zip(gradients, inputs):
            assert (gradient - tensor.grad).abs().max() <= 0.03 * tensor.grad.abs().max()
