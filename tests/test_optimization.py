"""Learning rates are transformers' after the warm-up, and a function of the step alone; optimizers are
torch's."""

import math
import signal
import sys

import pytest
import torch
from bench import die, forked
from helpers import assert_equal, compose, training_lines, weights
from omegaconf import OmegaConf
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler

import optimization
import preference_datasets
import settings
from runs import meters
from utils import UserError

STEPS, WARMUP = 40, 6
KEYS = {  # of schedules that need some, or have more to try
    "warmup_stable_decay": "{num_decay_steps: 9, min_lr_ratio: 0.1, decay_type: linear}",
    "cosine_with_min_lr": "{min_lr: 1e-4}",
    "cosine_warmup_with_min_lr": "{min_lr_rate: 0.2, warmup_lr_rate: 0.1}",
    "cosine_with_restarts": "{num_cycles: 3}",
    "polynomial": "{power: 2.0, lr_end: 1e-5}",
    "inverse_sqrt": "{timescale: 10}",
}
NAMES = [kind.value for kind in TYPE_TO_SCHEDULER_FUNCTION if kind.value not in optimization.FOLLOW_METRICS]


def settings_of(*overrides):
    return settings.train_settings(OmegaConf.to_container(compose("loss=dpo", *overrides), resolve=True))


def rates_of(*overrides, num_steps=STEPS):
    rate_of = optimization.learning_rates(settings_of("lr=1e-3", *overrides), num_steps)
    return [rate_of(step) for step in range(num_steps)]


def of_transformers(name, keys, warmup):
    """The rates that transformers' scheduler sets, step after step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1e-3)
    scheduler = get_scheduler(
        name,
        optimizer,
        warmup,
        STEPS,
        None if keys == "null" else OmegaConf.to_container(OmegaConf.create(keys)),
    )
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


# --- learning rates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "constant"])
@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_after_the_warm_up_every_rate_is_that_of_transformers(name, warmup):
    keys = KEYS.get(name, "null")
    ours = rates_of(f"lr_schedule={name}", f"lr_schedule_keys={keys}", f"warmup_steps={warmup}")
    assert ours[warmup:] == of_transformers(name, keys, warmup)[warmup:]
    assert all(0 < rate <= 1e-3 for rate in ours[:warmup])
    assert ours[:warmup] == sorted(ours[:warmup])


def test_the_warm_up_is_that_of_the_dpo_repository_and_the_default_is_constant_after_it():
    paper = [1e-3 * min(1.0, (step + 1) / (3 + 1)) for step in range(STEPS)]
    for schedule in ((), ("lr_schedule=constant",), ("lr_schedule=constant_with_warmup",)):
        assert rates_of(*schedule, "warmup_steps=3") == paper
    assert rates_of("lr_schedule=linear", "warmup_steps=3")[:4] == paper[:4]


def test_a_warm_up_ratio_is_a_share_of_all_steps_and_goes_before_warmup_steps():
    for ratio, steps in ((0.1, 4), (0.11, 5), (0.0, 0), (1.0, STEPS)):
        given = rates_of("lr_schedule=cosine", f"warmup_ratio={ratio}", "warmup_steps=30")
        assert given == rates_of("lr_schedule=cosine", f"warmup_steps={steps}")


def test_wsd_stays_at_its_peak_and_then_decays():
    rates = rates_of("lr_schedule=wsd", "lr_schedule_keys={num_decay_steps: 10}", "warmup_steps=4")
    assert rates[4:30] == [1e-3] * 26
    assert rates[30:] == [1e-3 * 0.5 * (1 + math.cos(math.pi * i / 10)) for i in range(10)]


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["lr_schedule=cosin"], "lr_schedule=cosin: choose one of constant, .*cosine, .*wsd"),
        (["lr_schedule=reduce_lr_on_plateau"], "lr_schedule=reduce_lr_on_plateau: choose one of"),
        (["lr_schedule=linear", "lr_schedule_keys={power: 2}"], "keys.power: lr_schedule=linear takes no"),
        (["lr_schedule_keys={num_training_steps: 9}"], "keys.num_training_steps: .* it takes none"),
        (["lr_schedule=wsd"], "keys.num_decay_steps: lr_schedule=wsd needs it"),
        (["lr_schedule=wsd", "lr_schedule_keys={num_decay_steps: soon}"], "lr_schedule=wsd, .*str"),
        (["lr_schedule=polynomial", "lr_schedule_keys={lr_end: 1}"], "lr_end .*smaller than initial lr"),
        (["lr_schedule=polynomial", "lr_schedule_keys={lr_end: -1}"], "it gives the rate -"),
        (["lr_schedule=cosine_with_min_lr"], "min_lr"),
        (["lr_schedule_keys=3"], "lr_schedule_keys: must be a section, lr_schedule_keys="),
        (["warmup_ratio=1.5"], "warmup_ratio=1.5: must be a number, 0 to 1, or null"),
    ],
)
def test_a_schedule_that_gives_no_rates_is_refused_on_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        rates_of("warmup_steps=3", *overrides)
    assert "\n" not in str(caught.value)


def test_a_schedule_that_there_is_not_is_refused_before_the_data_is_encoded(bench, monkeypatch):
    monkeypatch.setattr(preference_datasets, "prepare", lambda *_: pytest.fail("the data is encoded"))
    for overrides in (["lr_schedule=cosin"], ["lr_schedule=wsd"]):
        with pytest.raises(UserError, match="lr_schedule"):
            bench.go("run", *overrides)


def resumes_exactly(bench, overrides, step):
    """A run that nothing ended, and one that was killed at a step and goes on; their weights are equal."""
    once = bench.go("once", *overrides)

    def job():
        die(meters.Watch, "note", step)
        bench.go("cut", *overrides, "save_every=4")

    assert forked(job)[0] == -signal.SIGKILL
    cut = bench.go("cut", *overrides, "save_every=4")
    assert_equal(weights(cut), weights(once))
    return once, cut


COSINE = ("lr_schedule=cosine", "warmup_ratio=0.25", "n_examples=null")


def test_an_extended_run_follows_the_schedule_of_its_new_length_and_says_so(bench):
    run = bench.go("extended", *COSINE, "n_epochs=1")
    first = len(training_lines(run))
    bench.go("extended", *COSINE, "n_epochs=2")
    logged = [line["lr"] for line in training_lines(run)]
    long = rates_of(*COSINE, num_steps=2 * first)
    assert logged == [*rates_of(*COSINE, num_steps=first), *long[first:]]
    (said,) = [line for line in (run / "train.log").read_text().splitlines() if "number of steps" in line]
    assert f"step {first} had {logged[first - 1]:.3g}, the next one has {long[first]:.3g}" in said


@pytest.mark.parametrize(
    "overrides",
    [
        ["lr_schedule=cosine", "warmup_steps=1"],
        ["lr_schedule=wsd", "lr_schedule_keys={num_decay_steps: 3}"],
    ],
)
def test_a_run_that_resumes_amid_its_schedule_is_the_one_that_nothing_ended(bench, overrides):
    once, cut = resumes_exactly(bench, [*overrides, "n_examples=20"], 4)
    assert [line["lr"] for line in training_lines(cut)] == [line["lr"] for line in training_lines(once)]
    assert "number of steps of this run changed" not in (cut / "train.log").read_text()


# --- optimizers ---------------------------------------------------------------------------------------------


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))


def stepped(module, optimizer):
    """The parameters after three steps."""
    for i in range(3):
        module(torch.full((2, 8), i + 1.0) + torch.arange(8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(module.named_parameters())


@pytest.mark.parametrize(
    "name,keys,same",
    [
        ("AdamW", "{betas: [0.8, 0.95], eps: 1e-6}", {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0}),
        ("AdamW", "{amsgrad: true}", {"amsgrad": True, "weight_decay": 0}),
        ("AdamW", "{foreach: true}", {"foreach": True, "weight_decay": 0}),
        ("SGD", "{momentum: 0.9, nesterov: true}", {"momentum": 0.9, "nesterov": True}),
        ("RMSprop", "{alpha: 0.9, centered: true}", {"alpha": 0.9, "centered": True}),
        ("Rprop", "{step_sizes: [1e-5, 2]}", {"step_sizes": (1e-5, 2)}),
        ("Adafactor", "null", {}),
    ],
)
def test_optimizer_keys_are_arguments_of_the_class(name, keys, same):
    ours, theirs = small(), small()
    chosen = settings_of("lr=1e-2", f"optimizer={name}", f"optimizer_keys={keys}")
    one = stepped(ours, optimization.make_optimizer(ours, chosen))
    fused = {"fused": True} if name == "AdamW" and "foreach" not in same else {}
    other = stepped(theirs, getattr(torch.optim, name)(theirs.parameters(), lr=1e-2, **fused, **same))
    assert_equal(one, other)


def test_weights_decay_and_biases_and_norms_do_not():
    module = small()
    was = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimizer = optimization.make_optimizer(module, settings_of("lr=1e-2", "weight_decay=0.5"))
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)  # so that the decay alone is left
    optimizer.step()
    now = dict(module.named_parameters())
    torch.testing.assert_close(now["0.weight"], was["0.weight"] * (1 - 1e-2 * 0.5))
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(now[name], was[name])


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["optimizer_keys={beta: 1}"], "optimizer_keys.beta: AdamW takes no such key; it takes betas, eps"),
        (["optimizer_keys={lr: 1}"], "optimizer_keys.lr: a key of its own"),
        (["optimizer_keys={weight_decay: 1}"], "optimizer_keys.weight_decay: a key of its own"),
        (["optimizer_keys={maximize: true}"], "optimizer_keys.maximize: AdamW takes no such key"),
        (["optimizer_keys={betas: [2, 3]}"], "optimizer_keys of betas .*Invalid beta"),
        (["optimizer_keys={betas: 0.9}"], "optimizer_keys of betas"),
        (["optimizer_keys={eps: small}"], "optimizer_keys of eps"),
        (["optimizer_keys={fused: true, foreach: true}"], "optimizer_keys of fused, foreach"),
        (["optimizer=Rprop", "weight_decay=0.1"], "weight_decay=0.1: Rprop takes none"),
        (["optimizer=Muon"], "optimizer=Muon: cannot be used here, it takes matrices alone"),
        (["optimizer=LBFGS"], "optimizer=LBFGS: cannot be used here, it needs a closure"),
        (["optimizer=SparseAdam"], "optimizer=SparseAdam: cannot be used here"),
        (["optimizer=Optimizer"], "no such class"),
        (["optimizer=adamw"], "no such class in torch.optim; did you mean AdamW\\? use AdamW"),
        (["optimizer=rmsprop"], "did you mean RMSprop\\?"),
        (["optimizer=lr_scheduler"], "optimizer=lr_scheduler: no such class"),
        (["weight_decay=-1"], "weight_decay=-1: must be a number, 0 or more"),
        (["optimizer_keys=[1]"], "optimizer_keys: must be a section"),
    ],
)
def test_an_optimizer_that_cannot_be_is_refused_on_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        optimization.check_optimizer(settings_of(*overrides))
    assert "\n" not in str(caught.value)


def test_an_8_bit_optimizer_without_its_package_is_refused_on_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="AdamW8bit: bitsandbytes cannot be used .*pip install") as caught:
        optimization.check_optimizer(settings_of("optimizer=AdamW8bit"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=AdamW", "weight_decay=0.3", "optimizer_keys={betas: [0.8, 0.9]}"],
        ["optimizer=SGD", "optimizer_keys={momentum: 0.9}", "weight_decay=0.1", "lora.rank=2"],
        ["optimizer=AdamW8bit", "weight_decay=0.1"],
    ],
)
def test_an_optimizer_with_keys_resumes_exactly(bench, overrides):
    if "optimizer=AdamW8bit" in overrides:
        pytest.importorskip("bitsandbytes")
    resumes_exactly(bench, [*overrides, "n_examples=12"], 3)


def test_keys_that_came_later_default_to_what_was_done_before_them():
    """So that a run of an older version, whose saved config lacks them, goes on."""
    config = settings.flatten(OmegaConf.to_container(compose("loss=dpo"), resolve=True))
    assert settings.ADDED == {key: config[key] for key in settings.ADDED}
