"""Faults: full disks, folders that vanish, steps that are not finite, two runs in one folder, dying ranks."""

import functools
import json
import os
import re
import resource
import shutil
import signal
import time
import types

import pytest
import torch
from bench import assert_same, die, exit_code, fork_two, half_done, link, refuse, steady_lines
from helpers import assert_close, state_of, weights
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from transformers import LlamaForCausalLM

import losses
import reference_cache
import trainers
from runs import checkpoint, folder, logs, meters
from utils import UserError

# --- the disk -----------------------------------------------------------------------------------------------

WRITERS = {
    "optimizer": (HuggingFaceStorageWriter, "write_data"),
    "weights": (LlamaForCausalLM, "save_pretrained"),
    "manifest": (folder, "to_disk"),
}
ENDS_AT_STEP_6 = r"step-000006: cannot be saved \({}\); make room .* goes on from step-000003"


@pytest.mark.parametrize("what", ["optimizer", "weights", "manifest", "limit"])
def test_a_full_disk_leaves_the_last_checkpoint(bench, whole, monkeypatch, what):
    save = checkpoint.save
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    saves = []

    def save_and_fail_once(*args, **kwargs):
        saves.append(1)
        if len(saves) != 2:
            return save(*args, **kwargs)
        with pytest.MonkeyPatch.context() as patch:
            if what == "limit":
                resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
            else:
                patch.setattr(*WRITERS[what], refuse)
            try:
                return save(*args, **kwargs)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(checkpoint, "save", save_and_fail_once)
    with pytest.raises(UserError, match=ENDS_AT_STEP_6.format(".*")) as caught:
        bench.go("run")
    assert "\n" not in str(caught.value)
    run = bench.out / "run"
    assert not half_done(run)
    assert link(run, "latest") == "step-000003"
    assert folder.damage(run / "latest") is None
    assert_same(bench.go("run"), whole)


def test_a_full_disk_while_a_line_is_written(bench, whole, monkeypatch):
    calls = []

    def fsync(handle):
        calls.append(1)
        if len(calls) == 7:
            refuse()
        os.fsync(handle)

    monkeypatch.setattr(logs, "os", types.SimpleNamespace(fsync=fsync, strerror=os.strerror))
    with pytest.raises(UserError, match="metrics.jsonl: cannot be written .No space left"):
        bench.go("run")
    assert_same(bench.go("run"), whole)


def test_a_folder_that_cannot_be_written_or_vanishes(bench, monkeypatch):
    bench.out.mkdir()
    (bench.out / "file").touch()
    for place in ("/proc/grove", bench.out / "file"):
        with pytest.raises(UserError, match="run folder .* cannot be written"):
            bench.go("run", f"output_dir={place}")
    save = checkpoint.save

    def remove_and_save(run, *args):
        shutil.rmtree(run)
        return save(run, *args)

    monkeypatch.setattr(checkpoint, "save", remove_and_save)
    with pytest.raises(UserError, match="step-000003: cannot be saved .No such file or directory"):
        bench.go("run")


def test_a_reference_cache_that_cannot_be_written_costs_a_warning(bench, monkeypatch):
    monkeypatch.setattr(reference_cache, "write_file", refuse)
    assert state_of(bench.go("run", "n_examples=8"))["step"] == 2


# --- numbers that are none ----------------------------------------------------------------------------------


def nan_at(step, bad):
    """DPO whose `step`-th batch with a gradient is not finite."""
    dpo = losses.LOSSES["dpo"]
    calls = 0

    @functools.wraps(dpo)
    def loss(scores, **keys):
        nonlocal calls
        values = dpo(scores, **keys)
        if not torch.is_grad_enabled():
            return values
        calls += 1
        return bad(values) if calls == step else values

    return loss


BAD_LOSSES = {
    "nan loss": lambda v: v * float("nan"),
    "infinite loss, finite gradient": lambda v: v + float("inf"),
    "finite loss, bad gradient": lambda v: (v - v.detach()).sqrt() + 1.0,
}


@pytest.mark.parametrize("bad", BAD_LOSSES.values(), ids=BAD_LOSSES)
def test_a_step_that_is_not_finite_stops_the_run(bench, whole, bad):
    message = r"step 5: loss .* gradient norm .* is not finite; its examples \d+, .* lower lr"
    updates = []
    step = torch.optim.AdamW.step

    def counted_step(optimizer, *args, **keys):
        if (
            len(optimizer.param_groups[0]["params"]) > 1
        ):  # of the model; a layer tells how many moments there are
            updates.append(1)
        return step(optimizer, *args, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", counted_step)
        patch.setitem(losses.LOSSES, "dpo", nan_at(5, bad))
        with pytest.raises(UserError, match=message) as caught:
            bench.go("run")
    run = bench.out / "run"
    assert "\n" not in str(caught.value)
    assert len(updates) == 4
    assert link(run, "latest") == "step-000003"
    (file,) = run.glob("not-finite-*")
    record = json.loads(file.read_text())
    assert record["step"] == 5
    assert len(record["examples"]) == 4
    assert record["examples"][0]["text"]["prompt"].startswith("Say ")
    file.unlink()
    assert_same(bench.go("run"), whole)


def test_where_no_step_is_looked_at_none_is_saved_after_a_bad_one(bench, monkeypatch):
    """As on a GPU, where the host asks only when a line is due."""
    check, note = trainers.check_finite, meters.Watch.note
    looks = []  # at the step under way: the first is the CPU's own, the second that before a line

    def note_and_forget(*args):
        looks.clear()
        note(*args)

    def check_before_lines(*args):
        looks.append(1)
        if len(looks) == 2:
            check(*args)

    monkeypatch.setattr(meters.Watch, "note", note_and_forget)
    monkeypatch.setattr(trainers, "check_finite", check_before_lines)
    monkeypatch.setitem(losses.LOSSES, "dpo", nan_at(5, BAD_LOSSES["nan loss"]))
    with pytest.raises(UserError, match="step 5: loss nan"):
        bench.go("run", "log_every_seconds=1000", "eval_every=24", "save_every=8")
    assert link(bench.out / "run", "latest") == "step-000004"


def test_a_validation_without_a_number_is_never_the_best(bench, monkeypatch):
    values = iter([1.0, float("nan"), 2.0, float("nan")])
    monkeypatch.setattr(trainers, "validate", lambda *a: {"loss/eval": next(values)})
    run = bench.go("run")
    assert link(run, "best") == "step-000006"
    assert state_of(run)["best"] == 2.0


# --- other processes ----------------------------------------------------------------------------------------


def test_two_runs_in_one_folder(bench):
    train = trainers.train
    refused = []

    def train_beside_another(*args):
        with pytest.raises(UserError, match="another run is writing it"):
            bench.go("run")
        refused.append(1)
        return train(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "train", train_beside_another)
        bench.go("run", "n_examples=4")
    assert refused
    assert state_of(bench.go("run", "n_examples=8"))["step"] == 2  # free again


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_of_another_rank_leaves_the_last_checkpoint(bench, background):
    def fill_disk():
        die(HuggingFaceStorageWriter, "write_data", 3, action=refuse)

    children = fork_two(bench, fill_disk, f"async_save={background}")
    assert [exit_code(child) for child in children] == [2, 2]
    message = r"error: .*step-000006: cannot be saved \(No space left.*goes on from step-000003"
    for name in ("rank0", "rank1"):
        said = (bench.out.parent / name).read_text()
        assert re.search(message, said), said
        assert "Traceback" not in said
    run = bench.out / "run"
    assert link(run, "latest") == "step-000003"
    assert not half_done(run)


def test_a_rank_dies_and_another_number_of_ranks_goes_on(bench):
    first, second = fork_two(bench, lambda: die(meters.Watch, "note", 5), "optimizer=SGD")
    assert exit_code(second) == -signal.SIGKILL
    assert exit_code_within(first, seconds=60) not in (None, 0), "the other rank must end within 60 s"
    assert link(bench.out / "run", "latest") == "step-000003"
    run, once = bench.go("run", "optimizer=SGD"), bench.go("once", "optimizer=SGD")
    assert_close(weights(run), weights(once), atol=1e-6)
    for ours, theirs in zip(steady_lines(run), steady_lines(once), strict=True):
        assert ours["counters/updates"] == theirs["counters/updates"]
        assert ours.get("loss/train", 0.0) == pytest.approx(theirs.get("loss/train", 0.0), rel=1e-4)


def exit_code_within(child, seconds):
    """A child's exit code, or minus the signal that ended it; None where it is still at work."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    return None
