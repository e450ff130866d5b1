"""QLoRA: adapters beside a frozen model of 4 bits; its checkpoints are whole models. Dropout of adapters."""

import json
import signal
import sys
import types

import pytest
import torch
from bench import die, forked
from helpers import assert_equal, compose, save_tiny, training_lines, weights
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

import models
import settings
from ranks import World
from runs import meters
from utils import UserError

CPU = World(0, 1, torch.device("cpu"), None)
ROWS = torch.tensor([[5, 6, 7, 8, 9]])


def policy_of(folder, **lora):
    spec = models.PolicySpec(str(folder), lora=models.Lora(4, 16, "all-linear", 0, **lora))
    return models.make_policy(spec, CPU, False)


def trained(policy):
    """The policy with adapters that change something."""
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return policy


# --- dropout ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_adapters_drop_inputs_by_the_seed_and_only_where_they_are_asked_to(tmp_path):
    policy = trained(policy_of(save_tiny(tmp_path / "tiny"), dropout=0.5))

    def logits(seed):
        with models.adapter_dropout(policy, seed):
            return policy(ROWS)

    whole = logits(None)
    assert torch.equal(logits(3), logits(3))
    assert not torch.equal(logits(3), logits(4))
    assert not torch.equal(logits(3), whole)
    assert torch.equal(policy(ROWS), whole)
    assert not any(module.training for module in [policy, *policy.modules()])


def resumes_exactly(bench, overrides):
    once = bench.go("once", *overrides)

    def job():
        die(meters.Watch, "note", 3)
        bench.go("cut", *overrides, "save_every=4")

    assert forked(job)[0] == -signal.SIGKILL
    cut = bench.go("cut", *overrides, "save_every=4")
    assert_equal(weights(cut), weights(once))
    return once


def test_a_run_with_dropout_resumes_exactly_and_validates_without_it(bench):
    overrides = ["lora.rank=2", "n_examples=12"]
    dropped = resumes_exactly(bench, [*overrides, "lora.dropout=0.5"])
    plain = bench.go("plain", *overrides)
    losses = [[line["loss/train"] for line in training_lines(run)] for run in (dropped, plain)]
    assert losses[0][0] == losses[1][0]  # adapters begin as nothing
    assert losses[0][1:] != losses[1][1:]


@pytest.mark.parametrize("override", ["lora.dropout=0.1", "lora.quantize=nf4"])
def test_what_adapters_alone_can_do_needs_adapters(override):
    with pytest.raises(UserError, match="they need adapters; set lora.rank=16"):
        settings.train_settings(OmegaConf.to_container(compose("loss=dpo", override), resolve=True))


# --- a model of 4 bits --------------------------------------------------------------------------------------


def test_4_bits_without_their_package_are_refused_on_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="quantize=nf4: bitsandbytes cannot be used .*pip install") as caught:
        policy_of(save_tiny(tmp_path / "tiny"), quantize="nf4")
    assert "\n" not in str(caught.value)


def test_4_bits_are_refused_on_several_gpus(tmp_path):
    spec = models.PolicySpec(str(tmp_path), lora=models.Lora(4, 16, "all-linear", 0, quantize="nf4"))
    with pytest.raises(UserError, match="a 4-bit model is on one GPU, not sharded; set nproc=1"):
        models.make_policy(spec, CPU, sharded=True)


def test_a_parameter_of_bytes_is_taken_as_the_numbers_it_stands_for(monkeypatch):
    """With a stand-in of bitsandbytes, two numbers in a byte."""

    def dequantize_4bit(data, scale):
        return torch.stack([data // 16, data % 16], -1).flatten() * scale

    functional = types.ModuleType("bitsandbytes.functional")
    functional.dequantize_4bit = dequantize_4bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", functional)
    packed = torch.nn.Parameter(torch.tensor([0x12, 0x3F], dtype=torch.uint8), requires_grad=False)
    packed.quant_state = 0.5
    assert models.whole(packed).tolist() == [0.5, 1.0, 1.5, 7.5]
    plain = torch.nn.Parameter(torch.ones(3))
    assert models.whole(plain) is plain


@pytest.fixture
def bitsandbytes():
    pytest.importorskip("bitsandbytes")


@torch.no_grad()
def test_a_checkpoint_of_4_bits_with_adapters_is_the_whole_model_that_was_trained(bitsandbytes, tmp_path):
    tiny = save_tiny(tmp_path / "tiny")
    policy = trained(policy_of(tiny, quantize="nf4"))
    assert models.is_quantized(policy)
    whole = policy_of(tiny)
    assert models.fingerprint(policy) != models.fingerprint(whole)
    state = {name: models.whole(parameter).clone() for name, parameter in policy.named_parameters()}
    merged, adapters = policy.export(state)
    policy.model.save_pretrained(tmp_path / "merged", state_dict=merged)
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(opened(ROWS).logits, policy(ROWS), rtol=1e-4, atol=1e-4)
    assert adapters
    assert models.cost.active_parameters(policy) == models.cost.active_parameters(whole)


@pytest.mark.parametrize("quantize", ["nf4", "fp4"])
def test_a_run_of_4_bits_resumes_exactly_and_its_checkpoint_opens(bitsandbytes, bench, quantize):
    overrides = ["lora.rank=2", f"lora.quantize={quantize}", "n_examples=12", "loss=dpo"]
    run = resumes_exactly(bench, overrides)
    assert (
        not AutoModelForCausalLM.from_pretrained(run / "latest").config.to_dict().get("quantization_config")
    )
    with pytest.raises(UserError, match="plan=true knows no 4-bit models"):
        bench.go("plan", *overrides, "plan=true")
