"""What needs a CUDA device: flex_attention, compiled blocks, low precision, and steps that never wait."""

import numpy as np
import pytest
import torch
from helpers import tiny_policy

import forest
import losses
import metrics
import models

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
WIDE = dict(hidden_size=64, head_dim=16)  # flex_attention wants heads of 16 or more


def some_trees(seed, count=8, length=40):
    rng = np.random.default_rng(seed)
    draw = lambda n: tuple(rng.integers(0, 256, n).tolist())  # noqa: E731
    prompts = [draw(length) for _ in range(3)]
    return [
        forest.TokenTree(
            prompts[i % 3],
            draw(4),
            tuple(draw(rng.integers(5, length)) for _ in range(2 + i % 3)),
            rewards=(3.0, 2.0, 1.0, 0.5)[: 2 + i % 3],
            class_ids=(48, 49),
            class_probs=(0.4, 0.6),
        )
        for i in range(count)
    ]


def gradients(policy, batch):
    policy.zero_grad()
    scores = models.score(policy, batch)
    losses.swepo(scores._replace(reference=scores.policy.detach() - 1), 0.1, 0.3).sum().backward()
    return scores.policy.detach(), [p.grad.clone() for p in policy.parameters()]


def on_gpu(attention, **changes):
    return tiny_policy("llama", attention=attention, **WIDE, **changes).cuda()


def test_flex_attention_equals_dense_masks_and_single_responses():
    trees = some_trees(0)
    plain, flex = on_gpu("sdpa"), on_gpu("flex_attention")
    for rows in ([[0, 1, 2, 3, 4, 5, 6, 7]], [[0, 3], [1, 4, 7], [2]]):
        batch = forest.pack(trees, rows, 0, multiple=128).to(torch.device("cuda"))
        (a, da), (b, db) = gradients(plain, batch), gradients(flex, batch)
        assert torch.allclose(a, b, atol=2e-3) and all(
            torch.allclose(x, y, atol=2e-3) for x, y in zip(da, db)
        )
    assert models.parity_probe(flex, trees, 0, share=True) < 5e-3


def test_bfloat16_loses_no_more_than_bfloat16_does():
    batch = forest.pack(some_trees(1), [list(range(8))], 0, multiple=128).to(torch.device("cuda"))
    exact, _ = gradients(on_gpu("sdpa"), batch)
    for attention in ("sdpa", "flex_attention"):
        low = on_gpu(attention).to(torch.bfloat16)
        low.compute_dtype = torch.bfloat16
        found, _ = gradients(low, batch)
        assert found.dtype == torch.float32 and ((found - exact).abs() <= 0.02 * exact.abs() + 0.5).all()


def test_compiled_blocks_do_not_recompile_for_every_length():
    policy = on_gpu("flex_attention")
    models.compile_blocks(policy)
    counters = torch._dynamo.utils.counters
    for seed in range(3):
        gradients(
            policy, forest.pack(some_trees(seed), [list(range(8))], 0, multiple=128).to(torch.device("cuda"))
        )
    before = counters["stats"]["unique_graphs"]
    for seed in range(3, 9):
        batch = forest.pack(some_trees(seed, count=4 + seed), [list(range(4 + seed))], 0, multiple=128).to(
            torch.device("cuda")
        )
        gradients(policy, batch)
    assert counters["stats"]["unique_graphs"] - before <= 2


def test_a_step_never_waits_for_the_device():
    policy, trees = on_gpu("sdpa"), some_trees(2)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, fused=True)

    def step():
        batch = forest.pack(trees, [list(range(8))], 0).to(torch.device("cuda"))
        scores = models.score(policy, batch)
        values = losses.swepo(scores._replace(reference=scores.policy.detach() - 1), 0.1, 0.3)
        values.sum().backward()
        metrics.example_metrics(scores, values.detach(), batch.is_majority, 0.1)
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
