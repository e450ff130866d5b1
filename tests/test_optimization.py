"""Learning rates are transformers' after the warm-up, and a function of the step alone; optimizers are
torch's."""

import math
import signal

import pytest
import torch
from bench import die, forked
from helpers import assert_equal, compose, training_lines, weights
from omegaconf import OmegaConf
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler

import optimization
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
    overrides = [*overrides, "n_examples=20"]
    once = bench.go("once", *overrides)

    def job():
        die(meters.Watch, "note", 4)
        bench.go("cut", *overrides, "save_every=4")

    assert forked(job)[0] == -signal.SIGKILL
    cut = bench.go("cut", *overrides, "save_every=4")
    assert_equal(weights(cut), weights(once))
    assert [line["lr"] for line in training_lines(cut)] == [line["lr"] for line in training_lines(once)]
    assert "number of steps of this run changed" not in (cut / "train.log").read_text()


def test_keys_that_came_later_default_to_what_was_done_before_them():
    """So that a run of an older version, whose saved config lacks them, goes on."""
    config = settings.flatten(OmegaConf.to_container(compose("loss=dpo"), resolve=True))
    assert settings.ADDED == {key: config[key] for key in settings.ADDED}
