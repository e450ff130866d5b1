"""What a run survives: signals, full disks, bad numbers, dying ranks."""

import functools
import json
import os
import re
import resource
import shutil
import signal
import socket
import time
import types
from pathlib import Path

import pytest
import torch
from bench import assert_same, die, fork, forked, refuse, state_of, steady_lines
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageWriter

import losses
import models
import reference
import trainers
import utils
from runs import checkpoint, folder, logs, meters
from utils import Stopped, UserError


@pytest.mark.parametrize("call,step", [(2, None), (5, 3), (8, 6)])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_validation_ends_it_and_the_next_run_makes_up_for_it(
    bench, whole, monkeypatch, signum, call, step
):
    with pytest.MonkeyPatch.context() as patch:
        chunks = []
        validate = trainers.validate
        patch.setattr(trainers, "validate", lambda *a: chunks.append(len(chunks)) or validate(*a))
        score, scored = models.score, []

        def score_and_signal(policy, batch):
            if chunks and not torch.is_grad_enabled():
                scored.append(1)
                if len(scored) == call:
                    os.kill(os.getpid(), signum)
            return score(policy, batch)

        patch.setattr(models, "score", score_and_signal)
        with pytest.raises(Stopped) as stopped:
            bench.go("run")
        assert stopped.value.exit_code == 128 + signum and len(scored) == call
    run = bench.out / "run"
    assert not list(run.glob(".*")) and (run / "latest").exists() == (step is not None)
    if step:
        assert (
            state_of(run)["pending"]
            and state_of(run)["step"] == step
            and "loss/train" in steady_lines(run)[-1]
        )
    assert_same(bench.go("run"), whole)


@pytest.mark.parametrize("signum,code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_the_reference_pass_ends_the_run(bench, whole, signum, code):
    def job():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        die(reference, "save_file", 2, True, lambda: os.kill(os.getpid(), signum))
        utils.run_entry(lambda: bench.go("run"))

    found, text = forked(job)
    assert (
        found == code and f"stopped by {signal.Signals(signum).name}" in text and "Traceback" not in text
    ), text
    assert not [
        p for p in (Path(os.environ["GROVE_CACHE"]) / "reference").iterdir() if p.name.startswith(".")
    ]
    assert_same(bench.go("run"), whole)


@pytest.mark.parametrize("what", ["optimizer", "weights", "manifest", "limit"])
def test_a_full_disk_leaves_the_last_checkpoint(bench, whole, monkeypatch, what):
    save, saved = checkpoint.save, []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(*args, **kwargs):
        saved.append(1)
        with pytest.MonkeyPatch.context() as patch:
            if len(saved) == 2 and what == "limit":
                resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
            elif len(saved) == 2:
                place, name = {
                    "optimizer": (HuggingFaceStorageWriter, "write_data"),
                    "weights": (type(args[1].model), "save_pretrained"),
                    "manifest": (folder, "to_disk"),
                }[what]
                patch.setattr(place, name, refuse)
            try:
                return save(*args, **kwargs)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(checkpoint, "save", fill)
    with pytest.raises(
        UserError, match=r"step-000006: cannot be saved \(.*\); make room .* goes on from step-000003"
    ) as caught:
        bench.go("run")
    assert "\n" not in str(caught.value) and not list((bench.out / "run").glob(".*"))
    assert (
        os.readlink(bench.out / "run" / "latest") == "step-000003"
        and folder.damage(bench.out / "run" / "latest") is None
    )
    assert_same(bench.go("run"), whole)


def test_a_full_disk_while_a_line_is_written(bench, whole, monkeypatch):
    real, calls = os.fsync, []
    monkeypatch.setattr(
        logs,
        "os",
        types.SimpleNamespace(
            fsync=lambda handle: calls.append(1) or (refuse() if len(calls) == 7 else real(handle)),
            strerror=os.strerror,
        ),
    )
    with pytest.raises(UserError, match="metrics.jsonl: cannot be written .No space left"):
        bench.go("run")
    assert_same(bench.go("run"), whole)


def test_a_folder_that_cannot_be_written_or_vanishes(bench, monkeypatch):
    (bench.out).mkdir()
    (bench.out / "file").touch()
    for place in ("/proc/grove", bench.out / "file"):
        with pytest.raises(UserError, match="run folder .* cannot be written"):
            bench.go("run", f"output_dir={place}")
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda run, *a: shutil.rmtree(run) or save(run, *a))
    with pytest.raises(UserError, match="step-000003: cannot be saved .No such file or directory"):
        bench.go("run")


def test_a_reference_cache_that_cannot_be_written_costs_a_warning(bench, monkeypatch):
    monkeypatch.setattr(reference, "write_cache", refuse)
    assert state_of(bench.go("run", "n_examples=8"))["step"] == 2


def nan_at(step, bad):
    """DPO whose `step`-th batch with a gradient is not finite."""
    dpo, calls = losses.LOSSES["dpo"], [0]

    @functools.wraps(dpo)
    def loss(scores, **keys):
        calls[0] += torch.is_grad_enabled()
        values = dpo(scores, **keys)
        return bad(values) if calls[0] == step and torch.is_grad_enabled() else values

    return loss


@pytest.mark.parametrize(
    "bad",
    [lambda v: v * float("nan"), lambda v: v + float("inf"), lambda v: (v - v.detach()).sqrt() + 1.0],
    ids=["nan loss", "infinite loss, finite gradient", "finite loss, bad gradient"],
)
def test_a_step_that_is_not_finite_stops_the_run(bench, whole, monkeypatch, bad):
    steps = []
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda *a, step=torch.optim.AdamW.step, **k: steps.append(1) or step(*a, **k),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses.LOSSES, "dpo", nan_at(5, bad))
        with pytest.raises(
            UserError, match=r"step 5: loss .* gradient norm .* is not finite; its examples \d+, .* lower lr"
        ) as caught:
            bench.go("run")
    run = bench.out / "run"
    assert "\n" not in str(caught.value) and len(steps) == 4 and os.readlink(run / "latest") == "step-000003"
    (file,) = run.glob("not-finite-*")
    found = json.loads(file.read_text())
    assert (
        found["step"] == 5
        and len(found["examples"]) == 4
        and found["examples"][0]["text"]["prompt"].startswith("Say ")
    )
    file.unlink()
    assert_same(bench.go("run"), whole)


def test_where_no_step_is_looked_at_none_is_saved_after_a_bad_one(bench, monkeypatch):
    """As on a GPU, where the host asks only when a line is due."""
    check, note, calls = trainers.check_finite, meters.Watch.note, []
    monkeypatch.setattr(meters.Watch, "note", lambda *a: calls.clear() or note(*a))
    monkeypatch.setattr(trainers, "check_finite", lambda *a: calls.append(1) or len(calls) == 2 and check(*a))
    monkeypatch.setitem(losses.LOSSES, "dpo", nan_at(5, lambda v: v * float("nan")))
    with pytest.raises(UserError, match="step 5: loss nan"):
        bench.go("run", "log_every_seconds=1000", "eval_every=24", "save_every=8")
    assert os.readlink(bench.out / "run" / "latest") == "step-000004"


def test_a_validation_without_a_number_is_never_the_best(bench, monkeypatch):
    values = iter([1.0, float("nan"), 2.0, float("nan")])
    monkeypatch.setattr(trainers, "validate", lambda *a: {"loss/eval": next(values)})
    run = bench.go("run")
    assert os.readlink(run / "best") == "step-000006" and state_of(run)["best"] == 2.0


def test_two_runs_in_one_folder(bench):
    def again(*_):
        with pytest.raises(UserError, match="another run is writing it"):
            bench.go("run")
        seen.append(1)

    seen = []
    with pytest.MonkeyPatch.context() as patch:
        die_in = trainers.train
        patch.setattr(trainers, "train", lambda *a: again() or die_in(*a))
        bench.go("run", "n_examples=4")
    assert seen and state_of(bench.go("run", "n_examples=8"))["step"] == 2  # free again


def fork_two(bench, on_second, *overrides):
    """A run of two ranks, `on_second` called on the second before it; their processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def job(rank):
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        if rank == 1:
            on_second()
        utils.run_entry(lambda: bench.go("run", *overrides))

    with (bench.out.parent / "rank0").open("w") as first, (bench.out.parent / "rank1").open("w") as second:
        return [fork(lambda: job(0), first), fork(lambda: job(1), second)]


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_of_another_rank_leaves_the_last_checkpoint(bench, background):
    children = fork_two(
        bench,
        lambda: die(HuggingFaceStorageWriter, "write_data", 3, action=refuse),
        f"async_save={background}",
    )
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [2, 2]
    for name in ("rank0", "rank1"):
        said = (bench.out.parent / name).read_text()
        assert re.search(
            r"error: .*step-000006: cannot be saved \(No space left.*goes on from step-000003", said
        ), said
        assert "Traceback" not in said
    assert os.readlink(bench.out / "run" / "latest") == "step-000003" and not list(
        (bench.out / "run").glob(".*")
    )


def test_a_rank_dies_and_another_number_of_ranks_goes_on(bench, whole):
    children = fork_two(bench, lambda: die(meters.Watch, "note", 5), "optimizer=SGD")
    assert os.waitstatus_to_exitcode(os.waitpid(children[1], 0)[1]) == -signal.SIGKILL
    died = time.monotonic()
    while (done := os.waitpid(children[0], os.WNOHANG))[0] == 0 and time.monotonic() < died + 60:
        time.sleep(0.05)
    assert done[0] == children[0] and os.waitstatus_to_exitcode(done[1]) != 0, (
        "the other rank must end within 60 s"
    )
    assert os.readlink(bench.out / "run" / "latest") == "step-000003"
    run, once = bench.go("run", "optimizer=SGD"), bench.go("once", "optimizer=SGD")
    ours, theirs = (load_file(r / "latest" / "model.safetensors") for r in (run, once))
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-6) for k in ours)
    for x, y in zip(steady_lines(run), steady_lines(once), strict=True):
        assert x["counters/updates"] == y["counters/updates"]
        assert x.get("loss/train", 0.0) == pytest.approx(y.get("loss/train", 0.0), rel=1e-4)
