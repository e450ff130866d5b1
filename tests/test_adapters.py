"""Adapters: each kind of layer trains, merges to what the policy computes, resumes, or is refused."""

import pytest
import torch
from bench import Bench
from families import save_family
from helpers import CPU, weights
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import models
from runs import shards
from utils import UserError

ADAPTED = [
    ("llama", "all-linear"),
    ("llama", ["embed_tokens", "q_proj"]),
    ("llama", ["lm_head"]),
    ("gpt2", ["c_attn", "c_proj"]),  # weights that stand transposed
    ("mixtral", "all-linear"),  # fused experts
    ("glm4_moe", "all-linear"),
    ("gpt_oss", "all-linear"),
]
REFUSED = [
    ("gemma3", ["lm_head"], "lm_head is tied to another layer"),
    ("gpt2", ["wte"], "wte is tied to another layer"),
    ("mixtral", ["experts"], "Target module"),
    ("llama", ["norm"], "is not supported"),
    ("llama", ["nothing"], "not found"),
]


def adapted(folder, family, targets):
    """A policy of a family with adapters."""
    save_family(folder, family)
    return models.make_policy(models.PolicySpec(str(folder), lora=models.Lora(4, 16, targets, 0)), CPU, False)


@pytest.mark.parametrize("family,targets", ADAPTED)
def test_what_is_saved_computes_what_the_policy_does(tmp_path, family, targets):
    policy = adapted(tmp_path / "base", family, targets)
    for parameter in filter(lambda p: p.requires_grad, policy.parameters()):
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    state = shards.weights_of(policy, whole=True)
    before = {name: tensor.clone() for name, tensor in state.items()}
    merged, factors = policy.export(state)
    assert factors
    assert all(torch.equal(before[name], state[name]) for name in state)
    policy.model.save_pretrained(tmp_path / "out", state_dict=merged)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    assert torch.allclose(plain(ids).logits, policy.model(ids).logits, atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    assert not torch.allclose(plain(ids).logits, base(ids).logits, atol=1e-3)


def test_a_lone_name_is_a_list_of_one(tmp_path):
    policy = adapted(tmp_path, "llama", "q_proj")
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert trained and all("q_proj" in name for name in trained)


@pytest.mark.parametrize("family,targets,problem", REFUSED)
def test_what_cannot_be_adapted_is_refused_before_training(tmp_path, family, targets, problem):
    with pytest.raises(UserError, match=f"lora.targets=.*{problem}"):
        adapted(tmp_path, family, targets)


def test_every_factor_trains_and_a_run_with_adapters_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "matmul_rate", lambda *a: 1e9)
    bench = Bench(tmp_path)
    settings = ["lora.rank=2", "lora.targets=[embed_tokens,q_proj,lm_head]", "eval_every=100"]
    whole = bench.go("whole", *settings, "n_examples=12")
    bench.go("cut", *settings, "n_examples=8")
    cut = bench.go("cut", *settings, "n_examples=12")
    for run in (whole, cut):
        factors = load_file(run / "latest" / "adapter" / "adapter_model.safetensors")
        assert len(factors) == 6
        assert all(factor.any() for factor in factors.values())
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(cut)[name]), name
