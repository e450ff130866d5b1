"""What a pass costs: experts that a token does not pass are no work, and no rate is beaten."""

import pytest
import torch
from families import family_config, family_model
from helpers import CPU, tiny_policy

import models
from models.cost import active_parameters
from runs.meters import Meter, Work

EXPERTS = {"mixtral": "num_local_experts", "olmoe": "num_experts", "qwen3_moe": "num_experts"}
EXPERTS |= {"glm4_moe": "n_routed_experts", "gpt_oss": "num_local_experts"}


@pytest.mark.parametrize("family", EXPERTS)
def test_of_a_mixture_the_chosen_experts_count(family):
    config = family_config(family)
    assert (config.num_experts_per_tok, getattr(config, EXPERTS[family])) == (2, 4)
    model = family_model(family)
    blocks = models.blocks(model)
    total = sum(p.numel() for p in blocks.parameters())
    of_experts = sum(p.numel() for name, p in blocks.named_parameters() if ".experts." in name)
    assert of_experts > 0.3 * total
    policy = models.Scorer(model, models.SEGMENTS)
    assert active_parameters(policy) == total - of_experts // 2


def test_a_dense_model_counts_whole():
    policy = tiny_policy()
    assert active_parameters(policy) == sum(p.numel() for p in policy.model.model.layers.parameters())


def test_utilisation_never_exceeds_what_was_measured():
    meter = Meter(tiny_policy(), CPU)
    meter.rate = 1e9  # measured while the machine was busy
    assert meter._rates(Work(flops=1e9), seconds=1.0)["mfu"] == 1.0
    assert meter._rates(Work(flops=0.5e9), seconds=1.0)["mfu"] == 0.5


def test_the_rate_of_a_slow_device_is_measured_on_less(monkeypatch):
    sides = []

    def seconds(device, dtype, side):
        sides.append(side)
        return side**3 / 1e8

    monkeypatch.setattr(models.cost, "_product_seconds", seconds)
    assert models.matmul_rate(torch.device("cpu"), torch.bfloat16) == pytest.approx(2e8)
    assert max(sides) == 256
