"""Which device computes: the choice, what is refused, and MPS where it computes what the CPU does.

No Mac runs these: an MPS device is the stand-in of `mps_stand_in`, whose numbers are the CPU's.
"""

import logging
import re

import pytest
import torch
from bench import cheap_runs
from helpers import (
    CPU,
    command,
    compose,
    json_lines,
    lines,
    save_tiny,
    tiny_policy,
    weights,
)
from mps_stand_in import MPS, OnMps, on_a_mac
from omegaconf import OmegaConf
from tree_helpers import random_trees
from worlds import distance

import devices
import forest
import models
import ranks
import reference
import runs.logs
from models import draws
from objectives.scores import reward_deviations
from settings import train_settings
from utils import UserError

ON_MPS = CPU._replace(device=MPS)


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs of NVIDIA and of Apple."""

    def make(cuda=0, mps=0):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps > 0)

    return make


@pytest.fixture
def mac(monkeypatch):
    with on_a_mac(monkeypatch):
        yield


# --- the choice ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "there,chosen",
    [
        ({}, {"auto": "cpu", "cpu": "cpu"}),
        ({"cuda": 2}, {"auto": "cuda:1", "cpu": "cpu", "cuda": "cuda:1"}),
        ({"mps": 1}, {"auto": "cpu", "cpu": "cpu", "mps": "mps"}),
    ],
)
def test_the_device_is_what_the_config_asks_for(machine, there, chosen):
    machine(**there)
    for asked, device in chosen.items():
        assert str(devices.choose(asked, 1)) == device
    for asked in {"auto", "cpu", "cuda", "mps"} - set(chosen):
        with pytest.raises(UserError, match=f"^config key device={asked}: .* set device=auto$"):
            devices.choose(asked, 1)


def test_a_config_that_asks_for_the_cpu_leaves_gpus_alone(machine, monkeypatch):
    machine(cuda=8)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(ranks, "launch", lambda count: pytest.fail(f"{count} processes were started"))
    assert not ranks.run_on_ranks(None, "cpu")
    assert ranks.init_distributed(asked="cpu").device == torch.device("cpu")


def test_mps_is_for_one_process(machine, monkeypatch):
    machine(mps=1)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not ranks.run_on_ranks(None, "mps")
    assert not ranks.run_on_ranks(1, "mps")
    with pytest.raises(UserError, match="nproc=2: device=mps is for one process; set nproc=1"):
        ranks.run_on_ranks(2, "mps")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="device=mps: is for one process, and here are 2"):
        ranks.init_distributed(asked="mps")


def settings_of(*overrides):
    return train_settings(OmegaConf.to_container(compose(*overrides), resolve=True))


@pytest.mark.parametrize(
    "override",
    [
        "model.policy_dtype=bfloat16",
        "model.compute_dtype=bfloat16",
        "optimizer=AdamW8bit",
        "compile=true",
        "cpu_offload=true",
    ],
)
def test_what_is_not_for_mps_is_refused_with_a_remedy(override):
    key = override.split("=")[0]
    with pytest.raises(UserError, match=f"config key {key}: is not for device=mps; set {key}=.*, or device"):
        settings_of("device=mps", override)
    settings_of(override)


def test_attention_of_mps_is_dense():
    assert models.choose_attention("auto", MPS) == "sdpa"
    with pytest.raises(UserError, match="needs a CUDA device"):
        models.choose_attention("flex_attention", MPS)


@pytest.mark.parametrize(
    "entry,own", [("train.py", []), ("evaluate.py", ["ckpt=embedded:smollm2", "output=HERE"])]
)
@pytest.mark.parametrize("device", ["mps", "metal"])
def test_a_command_without_its_device_is_one_line(tmp_path, python, entry, own, device):
    own = [part.replace("HERE", str(tmp_path)) for part in own]
    done = command(
        python,
        entry,
        f"device={device}",
        f"output_dir={tmp_path}" if not own else "seed=0",
        *own,
        code=2,
    )
    assert done.stderr.startswith(f"error: config key device={device}: ")
    assert done.stderr.count("\n") == 1


# --- what MPS lacks -----------------------------------------------------------------------------------------


def test_the_stand_in_refuses_what_mps_refuses(mac):
    ones = torch.ones(2, device="mps")
    assert (ones.device, ones.tolist(), (ones + 1).cpu().tolist()) == (MPS, [1, 1], [2, 2])
    for refused in (ones.double, lambda: torch.ones(2).double().to(MPS)):
        with pytest.raises(TypeError, match="float64"):
            refused()
    with pytest.raises(AssertionError, match="two devices"):
        ones + torch.ones(2)
    with pytest.raises(AssertionError, match="does not wait"):
        torch.ones(2).to(MPS, non_blocking=True)


def test_deviations_of_rewards_are_decided_in_float64_on_every_device(mac):
    rewards = torch.tensor([[0.7, 0.6, 0.5], [1e6, 1e6 + 1, 3.0]])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    there = reward_deviations(rewards.to(MPS), valid.to(MPS))
    assert isinstance(there, OnMps)
    assert torch.equal(there.cpu(), reward_deviations(rewards, valid))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_draws_are_those_of_the_cpu(mac, temperature):
    logits = torch.randn(5, 700, generator=torch.Generator().manual_seed(0))
    numbers = torch.linspace(0, 0.999, 5, dtype=torch.float64)
    there = draws.choose(logits.to(MPS), numbers, temperature)
    assert there.tolist() == draws.choose(logits, numbers, temperature).tolist()


# --- MPS against the CPU ------------------------------------------------------------------------------------

TREES = random_trees(3, 3)
OF_TRAINING = models.Probe(TREES, 259, trains=True)


@pytest.fixture
def spec(tmp_path):
    return models.PolicySpec(save_tiny(tmp_path / "tiny"))


def chosen(spec, probe, caplog):
    """The device that is used, and what was said."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="grove"):
        world = models.world_that_agrees(spec, ON_MPS, probe)
    (said,) = caplog.messages
    return world.device.type, said


@pytest.mark.parametrize("probe", [OF_TRAINING, models.Probe()], ids=["training", "evaluation"])
def test_mps_is_used_where_it_computes_what_the_cpu_does(mac, spec, caplog, probe):
    device, said = chosen(spec, probe, caplog)
    assert device == "mps"
    assert said.startswith("device=mps: log-probs agree with the CPU's to ")


def test_no_other_device_is_asked(spec):
    assert models.world_that_agrees(spec._replace(name_or_path="nowhere"), CPU) is CPU


def wrong_on_mps(monkeypatch, name, change):
    """Let what `torch.nn.functional.NAME` gives be changed on MPS alone."""
    right = getattr(torch.nn.functional, name)

    def wrong(x, *args, **kwargs):
        out = right(x, *args, **kwargs)
        return change(out) if isinstance(x, OnMps) else out

    monkeypatch.setattr(torch.nn.functional, name, wrong)


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 1.5 * grad


def missing(out):
    raise NotImplementedError("The operator 'aten::silu' is not implemented for MPS\nmore")


FAULTS = {
    "numbers": (lambda out: 1.1 * out, "its log-probs differ from the CPU's by .* of their logits' spread"),
    "not numbers": (lambda out: out * float("nan"), "its log-probs differ .* by nan of .*"),
    "operator": (missing, "cannot run this model \\(.*aten::silu.*\\)"),
    "gradient": (WrongGradient.apply, "its gradient differs from the CPU's by .* of its norm"),
}


@pytest.mark.parametrize("change,message", FAULTS.values(), ids=FAULTS)
def test_else_the_cpu_is_used_and_one_line_says_why(mac, spec, caplog, monkeypatch, change, message):
    wrong_on_mps(monkeypatch, "silu", change)
    device, said = chosen(spec, OF_TRAINING, caplog)
    assert device == "cpu"
    assert re.fullmatch(f"device=mps: {message}; this model runs on the CPU", said)


def test_a_model_in_bfloat16_runs_on_the_cpu(mac, spec, caplog):
    device, said = chosen(spec._replace(compute_dtype="bfloat16"), models.Probe(), caplog)
    assert (device, "bfloat16" in said) == ("cpu", True)


def test_an_example_that_the_model_cannot_take_is_no_fault_of_the_device(mac, spec):
    tree = forest.TokenTree((1,) * 600, (), ((1, 2),))
    with pytest.raises(UserError, match="max_length"):
        models.world_that_agrees(spec, ON_MPS, models.Probe([tree], 259))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_probabilities_and_samples_on_mps_are_those_of_the_cpu(mac, spec, temperature):
    spec = spec._replace(attention=models.SEGMENTS)
    prompts = [(1, 2, 3), (5, 6, 7, 8, 9), (1, 2, 3)]
    sampling = models.Sampling(6, 258, 257, temperature)
    probabilities, samples = [], []
    for world in (CPU, ON_MPS):
        policy = models.make_policy(spec, world, sharded=False)
        probabilities.append(models.class_distributions(policy, prompts, (48, 49), 258))
        samples.append(models.generate(policy, prompts, sampling, 0))
    assert torch.allclose(*probabilities, atol=1e-6)
    assert samples[0] == samples[1]


def test_log_probs_of_mps_are_cached_apart():
    policy = tiny_policy()
    on_cpu = reference.cache_folder(policy, "weights")
    policy.device = torch.device("cuda")
    assert reference.cache_folder(policy, "weights") == on_cpu  # told apart by its attention
    policy.device = MPS
    assert reference.cache_folder(policy, "weights") != on_cpu


# --- whole runs ---------------------------------------------------------------------------------------------

RUN = ["attention=sdpa", "n_examples=8", "n_eval_examples=4"]
OWN = {
    "gdpo": ["optimizer=RMSprop"],
    "swepo": ["lr_schedule=cosine"],
    "dpo": ["sample_during_eval=true", "n_eval_model_samples=2"],
    "kto": ["optimizer=SGD"],
}


@pytest.mark.parametrize("loss", OWN)
def test_a_run_on_mps_is_that_of_the_cpu(run, monkeypatch, loss):
    cheap_runs(monkeypatch)
    monkeypatch.setattr(runs.logs, "SAMPLE_TOKENS", 4)
    own = [f"loss={loss}", *RUN, *OWN[loss]]
    on_cpu = run(*own, "device=cpu", name="cpu")
    with on_a_mac(monkeypatch):
        on_mps = run(*own, "device=mps", name="mps")
    assert "device=mps: log-probs agree" in (on_mps / "train.log").read_text()
    for one, other in zip(lines(on_cpu), lines(on_mps), strict=True):
        for key in {"loss/train", "loss/eval", "grad_norm"} & one.keys():
            assert other[key] == pytest.approx(one[key], rel=1e-5), key
    # where a gradient is almost nothing, rounding decides the sign of an adaptive optimizer's step
    assert distance(weights(on_cpu), weights(on_mps)) < 1e-4
    if loss == "dpo":
        assert json_lines(on_cpu / "samples.jsonl") == json_lines(on_mps / "samples.jsonl")


def test_a_run_on_mps_goes_on_on_the_cpu_and_back(bench, monkeypatch):
    whole = bench.go("whole", "n_examples=12", "device=cpu", "attention=sdpa")
    with on_a_mac(monkeypatch):
        for number, device in ((4, "mps"), (8, "cpu"), (12, "mps")):
            parts = bench.go("parts", f"n_examples={number}", f"device={device}", "attention=sdpa")
    assert distance(weights(whole), weights(parts)) < 1e-4
