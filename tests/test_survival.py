"""What a run survives: death at any moment, signals, full disks, damaged files, bad numbers, dying ranks and bad input.

Runs that must die do so in a forked child, which costs no imports; `die` patches a function so that its n-th call kills.
"""

import contextlib
import dataclasses
import errno
import faulthandler
import functools
import json
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import string
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path

import hydra
import pytest
import torch
from helpers import byte_tokenizer, save_tiny, tiny_policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from transformers import LlamaForCausalLM

import forest
import losses
import models
import preference_datasets as data
import reference
import settings as config
import train
import trainers
import utils
from ranks import World
from runs import checkpoint, folder, logs, meters, shards
from utils import Stopped, UserError

ROOT = Path(__file__).parent.parent
CPU = World(0, 1, torch.device("cpu"), None)
BASE = [
    "loss=dpo",
    "eval_fraction=0.2",
    "eval_datasets=null",
    "batch_size=4",
    "eval_batch_size=2",
    "n_examples=32",
    "eval_every=12",
    "lr=1e-3",
    "warmup_steps=0",
    "log_every_seconds=0",
    "wandb.enabled=false",
]
SHARD = "trainer_state/optimizer/shard-00001-model-00001-of-00001.safetensors"
VARYING = {"examples_per_second", "tokens_per_second", "mfu", "peak_memory_gb"}


def compose(*overrides):
    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
        return hydra.compose("config", overrides=list(overrides))


def write_rows(path, count=26):
    rows = [
        {
            "prompt": f"Say {i}",
            "responses": [{"text": f"It is {i}.", "reward": 2}, {"text": "no" + "o" * (i % 5), "reward": 1}],
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Bench:
    """A tiny model, a small data file, and runs of them: `go("exp_name", ...)` trains in this process."""

    def __init__(self, folder):
        self.out, self.model, self.file = (
            folder / "out",
            save_tiny(folder / "tiny", num_hidden_layers=1),
            folder / "rows.jsonl",
        )
        write_rows(self.file)

    def go(self, name, *overrides):
        train.main(
            compose(
                f"model.name_or_path={self.model}",
                f"output_dir={self.out}",
                f"datasets=[{self.file}]",
                f"exp_name={name}",
                *BASE,
                *overrides,
            )
        )
        return self.out / name


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(models, "matmul_rate", lambda *a: 1e9)
    monkeypatch.setattr(reference, "PLAN_CHUNK", 6)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROVE_CACHE", str(folder / "cache"))
        patch.setattr(models, "matmul_rate", lambda *a: 1e9)
        patch.setattr(reference, "PLAN_CHUNK", 6)
        return Bench(folder).go("run")


def lines(run):
    return [
        {k: v for k, v in json.loads(line).items() if k not in VARYING}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


def moments(run):
    return {
        k: v
        for path in (run / "latest" / "trainer_state" / "optimizer").iterdir()
        for k, v in load_file(path).items()
    }


def state_of(run):
    return json.loads((run / "latest" / "trainer_state" / "state.json").read_text())


def assert_same(run, whole, same_data=False):
    """The same bits and lines, and nothing half done left."""
    ours, theirs = (load_file(r / "latest" / "model.safetensors") for r in (run, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    ours, theirs = moments(run), moments(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert state_of(run) == state_of(whole) and lines(run) == lines(whole)
    assert os.readlink(run / "best") == os.readlink(whole / "best") and os.readlink(
        run / "latest"
    ) == os.readlink(whole / "latest")
    assert {p.name for p in run.iterdir()} == {p.name for p in whole.iterdir()}


def die(place, name, call=1, after=False, action=lambda: os.kill(os.getpid(), signal.SIGKILL)):
    """Let the `call`-th call of `place.name` do `action` before (or after) its work."""
    original, calls = getattr(place, name), [0]

    def wrapped(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call and not after:
            action()
        result = original(*args, **kwargs)
        if calls[0] == call and after:
            action()
        return result

    setattr(place, name, wrapped)


def fork(job, output):
    """Run `job` in a child, its output in an open file; the child's number."""
    child = os.fork()
    if child == 0:
        os.dup2(output.fileno(), 2)
        sys.stderr, code = os.fdopen(2, "w", buffering=1), 99
        faulthandler.enable(sys.stderr)
        try:
            job()
            code = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def forked(job):
    """Run `job` in a child; (exit code, or minus the signal; what it printed)."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        code = os.waitstatus_to_exitcode(os.waitpid(fork(job, output), 0)[1])
        output.seek(0)
        return code, output.read()


# --- exact resume ----------------------------------------------------------------------------------------------------

DEATHS = {
    "as the reference cache is written": (reference, "save_file", 2, True),
    "between two parts of the reference": (reference, "_compute", 3),
    "before the first step": (trainers, "learning_rate", 1),
    "in the middle of an epoch": (meters.Watch, "note", 4),
    "after an optimizer step, before its save": (checkpoint, "save", 2),
    "in a validation": (meters.Meter, "read", 6),
    "after a validation's line": (logs.MetricsFile, "write", 5, True),
    "between optimizer state and weights": (shards.dcp, "save", 2, True),
    "before the checkpoint appears": (folder, "seal", 2, True),
    "before latest points to it": (folder, "link", 3),
    "between latest and best": (folder, "link", 3, True),
    "before older ones go": (folder, "prune", 2),
    "after the last save": (folder, "prune", 3, True),
}
IN_BACKGROUND = {
    "as the copy is made": (shards, "copied", 2),
    "before latest points to it": (folder, "link", 3),
    "between optimizer state and weights": (folder, "write_json", 1),
    "before older ones go": (folder, "prune", 2),
    "before the checkpoint appears": (folder, "seal", 2, True),
}


@pytest.mark.parametrize(
    "background,moment", [*((False, m) for m in DEATHS), *((True, m) for m in IN_BACKGROUND)]
)
def test_after_a_kill_the_same_command_gives_the_same_bits(bench, whole, background, moment):
    def job():
        die(*(IN_BACKGROUND if background else DEATHS)[moment])
        bench.go("run", f"async_save={background}")

    assert forked(job)[0] == -signal.SIGKILL
    assert_same(bench.go("run"), whole)


def test_many_kills_in_one_run(bench, whole):
    """Every step, save and validation dies once; a run that saves often ends as one that does not."""
    deaths = 0
    for call in (2, 3, 4, 3, 2, 3, 50):

        def job(call=call):
            die(meters.Watch, "note", call)
            bench.go("run", "save_every=4")

        code, text = forked(job)
        assert code in (0, -signal.SIGKILL), text
        deaths += code != 0
    assert deaths == 3
    ours = [x for x in lines(bench.out / "run") if "loss/train" in x]
    assert ours == [x for x in lines(whole) if "loss/train" in x]
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            load_file(bench.out / "run" / "latest" / "model.safetensors").values(),
            load_file(whole / "latest" / "model.safetensors").values(),
        )
    )


def test_a_checkpoint_in_the_background_is_that_of_its_step(bench, monkeypatch):
    """It is slow to be written, so that training is steps ahead when it is."""
    overrides = ["save_every=8", "keep_last=9", "eval_every=12"]
    once, writing, meanwhile = bench.go("once", *overrides), [], []
    note, write, export = (
        meters.Watch.note,
        HuggingFaceStorageWriter.write_data,
        LlamaForCausalLM.save_pretrained,
    )

    def slowly(original):
        def wrapped(*args, **keys):
            writing.append(1)
            time.sleep(0.2)
            original_result = original(*args, **keys)
            writing.pop()
            return original_result

        return wrapped

    monkeypatch.setattr(meters.Watch, "note", lambda *a: meanwhile.extend(writing[:1]) or note(*a))
    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", slowly(write))
    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", slowly(export))
    run = bench.go("run", "async_save=true", *overrides)
    assert len(meanwhile) > 2 and len(folder.steps(run)) == 5
    for ours, theirs in zip(folder.steps(run), folder.steps(once), strict=True):
        for path in sorted(ours.rglob("*.safetensors")):
            same = load_file(theirs / path.relative_to(ours))
            assert all(torch.equal(v, same[k]) for k, v in load_file(path).items()), path
    assert_same(run, once)


@pytest.mark.parametrize("background", [False, True])
def test_tied_weights_are_stored_once(bench, background):
    save_tiny(bench.model, num_hidden_layers=1, tie_word_embeddings=True)
    run = bench.go("run", "n_examples=8", f"async_save={background}")
    assert (
        "model.embed_tokens.weight" in (stored := load_file(run / "latest" / "model.safetensors"))
        and "lm_head.weight" not in stored
    )
    bench.go("run", "n_examples=16", f"async_save={background}")


def test_a_fault_in_the_background_ends_the_run_at_the_next_save(bench, whole, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        seals = []
        seal = folder.seal
        patch.setattr(
            folder,
            "seal",
            lambda path: seals.append(1) or (refuse() if len(seals) == 2 else seal(path)),
        )
        with pytest.raises(
            UserError, match=r"step-000006: cannot be saved .No space left.*goes on from step-000003"
        ):
            bench.go("run", "async_save=true")
    assert not list((bench.out / "run").glob(".*"))
    assert_same(bench.go("run", "async_save=true"), whole)


def test_the_optimizer_state_is_split_into_files(bench, whole, monkeypatch):
    monkeypatch.setattr(shards, "FILE_BYTES", 20_000)
    run = bench.go("run", "n_examples=12")
    assert len(list((run / "latest" / "trainer_state" / "optimizer").iterdir())) > 3
    assert_same(bench.go("run", "n_examples=32"), whole)


@pytest.mark.parametrize("optimizer", ["RMSprop", "SGD", "Adagrad"])
def test_every_optimizer_resumes_exactly(bench, optimizer):
    once = bench.go("once", f"optimizer={optimizer}", "n_examples=12")

    def job():
        die(meters.Watch, "note", 3)
        bench.go("cut", f"optimizer={optimizer}", "n_examples=12", "save_every=4")

    assert forked(job)[0] == -signal.SIGKILL
    cut = bench.go("cut", f"optimizer={optimizer}", "n_examples=12", "save_every=4")
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(load_file(r / "latest" / "model.safetensors").values() for r in (once, cut)))
    )


def test_early_stopping_goes_on_where_it_was(bench, monkeypatch):
    def validations(*values):
        left = iter(values)
        monkeypatch.setattr(trainers, "validate", lambda *a: {"loss/eval": next(left)})

    overrides = ["patience=2", "eval_every=4", "n_examples=80"]
    validations(3.0, 1.0, 2.0, 2.5, 2.6)
    once = bench.go("once", *overrides)
    assert state_of(once) | {"bad_evals": 2, "best": 1.0, "best_step": 1, "step": 3} == state_of(once)
    validations(3.0, 1.0, 2.0, 2.5, 2.6)

    def job():
        die(checkpoint, "save", 3)
        bench.go("cut", *overrides)

    assert forked(job)[0] == -signal.SIGKILL
    validations(2.5, 2.6)  # from step 2, which has a checkpoint
    cut = bench.go("cut", *overrides)
    assert_same(cut, once)
    validations()
    bench.go("cut", *overrides)  # finished: nothing to do


def test_save_every_spares_saves_after_validations(bench, monkeypatch):
    saved = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *a: saved.append(a[4].step) or save(*a))
    values = iter([3.0, 1.0, 2.0, 2.5])
    monkeypatch.setattr(trainers, "validate", lambda *a: {"loss/eval": next(values)})
    bench.go("run", "save_every=8", "eval_every=12")
    assert saved == [2, 3, 4, 6, 8]  # 3: the best; 6 and 8 are due; one validation, one step: one save


def test_changed_data_is_refused(bench):
    bench.go("run", "n_examples=8")
    rows = bench.file.read_text()
    bench.file.write_text(rows.replace("It is 3.", "It is 4."))
    with pytest.raises(UserError, match="examples of split (train|eval) changed since this run began"):
        bench.go("run", "n_examples=16")
    bench.file.write_text(rows[:-20])
    with pytest.raises(UserError, match="rows.jsonl, row 26: not valid JSON"):
        bench.go("run", "n_examples=16")
    bench.file.write_text(rows)
    assert state_of(bench.go("run", "n_examples=16"))["step"] == 4


def test_another_model_under_the_same_name_is_refused(bench):
    bench.go("run", "loss=sft", "n_examples=8")
    save_tiny(bench.model, intermediate_size=48)
    with pytest.raises(UserError, match="holds the weights of another model .*instead of"):
        bench.go("run", "loss=sft", "n_examples=16")


def test_must_fails_before_any_work(bench, monkeypatch):
    monkeypatch.setattr(models, "make_policy", None)
    with pytest.raises(UserError, match="resume=must: .* holds no checkpoint"):
        bench.go("run", "resume=must")


def test_a_lost_config_is_not_guessed(bench):
    run = bench.go("run", "n_examples=4")
    for damage in (lambda p: p.write_text("a: [b"), lambda p: p.write_bytes(b"\xff\xfe\0"), Path.unlink):
        damage(run / "config.yaml")
        with pytest.raises(UserError, match="config.yaml: cannot be read"):
            bench.go("run")


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(whole, tmp_path_factory):
    """A run with its last two checkpoints."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROVE_CACHE", str(folder / "cache"))
        patch.setattr(models, "matmul_rate", lambda *a: 1e9)
        bench = Bench(folder)
        bench.go("run", "keep_last=2", "n_examples=24")
    return bench


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", SHARD, "trainer_state/state.json", "trainer_state/manifest.json"],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(kept, tmp_path, name):
    for number, damage in enumerate((flip, halve, Path.unlink, lambda p: p.write_bytes(b""))):
        run = tmp_path / f"run{number}"
        shutil.copytree(kept.out / "run", run, symlinks=True)
        assert [f.name for f in folder.steps(run)] == ["step-000003", "step-000006"]
        damage(run / "latest" / name)
        warned = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(utils.log, "warning", lambda text, *a, to=warned: to.append(text % a))
            assert checkpoint.newest_intact(run).step == 3
        assert len(warned) == 1 and "step-000006: the checkpoint cannot be read" in warned[0], warned
    shutil.rmtree(run / "step-000003")
    with pytest.raises(
        UserError, match=r"step-000006: the checkpoint cannot be read .* no other is intact; remove it"
    ):
        checkpoint.newest_intact(run)


def test_a_run_goes_on_from_the_checkpoint_before(bench, whole):
    run = bench.go("run", "keep_last=2", "n_examples=24")
    flip(run / "step-000006" / "model.safetensors")
    with pytest.raises(UserError, match="step-000006 is damaged .model.safetensors does not match"):
        folder.find_model(str(run))
    bench.go("run", "keep_last=2", "n_examples=12")  # back at step 3, and finished there
    assert os.readlink(run / "latest") == os.readlink(run / "best") == "step-000003"
    bench.go("run", "keep_last=1")
    assert_same(run, whole)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 99),
    at=st.integers(0, 10**7),
    change=st.one_of(st.binary(min_size=1, max_size=9), st.none()),
)
def test_any_damage_to_any_file_is_noticed(kept, which, at, change):
    """Bytes overwritten, appended or cut off anywhere in the newest checkpoint: the one before is taken, or nothing changed."""
    folder = kept.out / "run" / "step-000006"
    path = sorted(p for p in folder.rglob("*") if p.is_file())[
        which % sum(p.is_file() for p in folder.rglob("*"))
    ]
    before = path.read_bytes()
    at %= len(before) + 1
    after = before[:at] if change is None else before[:at] + change + before[at + len(change) :]
    try:
        path.write_bytes(after)
        found = checkpoint.newest_intact(kept.out / "run").step
        same = after == before or path.name == "manifest.json" and _json(after) == _json(before)
        assert found == (6 if same else 3), path
    finally:
        path.write_bytes(before)


def _json(content):
    with contextlib.suppress(ValueError):
        return json.loads(content)


class Evil:
    """A pickle that would run code."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


def test_an_optimizer_state_that_runs_code_is_refused(bench, tmp_path):
    run = bench.go("run", "n_examples=4")
    state = run / "step-000001" / "trainer_state"
    for write in (torch.save, pickle.dump):
        for path in (run / "step-000001" / SHARD, state / "optimizer" / ".metadata"):
            with path.open("wb") as file:
                write(Evil(tmp_path / "owned"), file)
        (run / "step-000001" / "trainer_state" / "manifest.json").unlink()
        folder.seal(run / "step-000001")  # by a forger who knows the manifest
        with pytest.raises(UserError, match="step-000001: the checkpoint cannot be read"):
            bench.go("run", "n_examples=8")
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_an_older_version_is_not_resumed_without_its_optimizer(bench):
    folder = bench.go("run", "n_examples=4") / "step-000001"
    shutil.rmtree(folder / "trainer_state" / "optimizer")
    torch.save({}, folder / "trainer_state" / "optimizer.pt")
    (folder / "trainer_state" / "manifest.json").unlink()
    folder.seal(folder)
    with pytest.raises(
        UserError, match="step-000001: the checkpoint cannot be read .optimizer.pt is of an older version"
    ):
        bench.go("run", "n_examples=8")
    assert folder.find_model(str(folder)) == str(folder)  # its weights open as before


# --- faults ----------------------------------------------------------------------------------------------------------


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
        assert state_of(run)["pending"] and state_of(run)["step"] == step and "loss/train" in lines(run)[-1]
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


def refuse(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
    for x, y in zip(lines(run), lines(once), strict=True):
        assert x["counters/updates"] == y["counters/updates"]
        assert x.get("loss/train", 0.0) == pytest.approx(y.get("loss/train", 0.0), rel=1e-4)


class Wandb(types.ModuleType):
    """wandb, out of reach at one of its calls."""

    def __init__(self, fails):
        super().__init__("wandb")
        self.fails, self.logged, self.ids = fails, 0, []

    def login(self, **_):
        return self._call("login")

    def init(self, **keys):
        self._call("init")
        self.ids.append(keys["id"])
        return self

    def log(self, *_, **__):
        self.logged += 1
        self._call("log" if self.logged > 2 else "")

    def _call(self, name):
        if name == self.fails:
            raise ConnectionError("api.example: unreachable\nsecond line")
        return True


@pytest.mark.parametrize("fails", ["login", "init", "log"])
def test_training_goes_on_without_wandb(bench, monkeypatch, fails):
    monkeypatch.setitem(sys.modules, "wandb", fake := Wandb(fails))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = bench.go("run", "wandb.enabled=true", "n_examples=16")
    assert state_of(run)["step"] == 4 and fake.logged == (3 if fails == "log" else 0)
    assert (run / "train.log").read_text().count("wandb is off from here on") == 1


def test_a_run_that_resumes_goes_on_in_its_wandb_run(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake := Wandb("nothing"))
    for name, count in (("run", 8), ("run", 16), ("other", 8)):
        bench.go(name, "wandb.enabled=true", f"n_examples={count}")
    assert fake.ids[0] == fake.ids[1] != fake.ids[2]


# --- safety ----------------------------------------------------------------------------------------------------------


def test_secrets_are_in_no_file_of_a_run(bench, monkeypatch):
    names = ("WANDB_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")
    for name in names:
        monkeypatch.setenv(name, f"secret-{name}-0123456789")
    run = bench.go("run", "n_examples=8")
    found = [p for p in run.rglob("*") if p.is_file() and b"secret-" in p.read_bytes()]
    assert not found
    with pytest.raises(UserError, match="config key wandb.entity: holds the value of .WANDB_API_KEY"):
        bench.go("other", "wandb.entity=${oc.env:WANDB_API_KEY}")
    assert not (bench.out / "other").exists()


@pytest.mark.parametrize("name", ["..", ".", "", "...", "a/b", "/etc/x", "../../x", "a\nb", "null", "3"])
def test_names_cannot_lead_out_of_the_output_folder(bench, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="must be a plain folder name"):
        config = compose(
            f"model.name_or_path={bench.model}", f"output_dir={bench.out}", f"datasets=[{bench.file}]", *BASE
        )
        config.exp_name = {"null": None, "3": 3}.get(name, name)
        train.main(config)
    assert sorted(tmp_path.rglob("*")) == before


def test_code_beside_a_model_runs_only_when_asked(tmp_path):
    folder = Path(save_tiny(tmp_path / "tiny"))
    (folder / "modeling_x.py").write_text(
        f"open({str(tmp_path / 'owned')!r}, 'w')\nfrom transformers import LlamaForCausalLM as X\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "x",
        "auto_map": {"AutoConfig": "modeling_x.XConfig", "AutoModelForCausalLM": "modeling_x.X"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be loaded"):
        models.load_policy(models.PolicySpec(str(folder)), torch.device("cpu"))
    with contextlib.suppress(UserError):
        models.load_tokenizer(str(folder))
    assert not (tmp_path / "owned").exists()
    with contextlib.suppress(Exception):
        models.load_policy(models.PolicySpec(str(folder), trust_remote_code=True), torch.device("cpu"))
    assert (tmp_path / "owned").exists()  # so it would have run


# --- bad input by the hundred ----------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=8)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
GOOD = {
    "id": "1",
    "prompt": "Say",
    "responses": [
        {"text": "a", "reward": 1, "belief": {"class": "1", "text": "b"}},
        {"text": "c", "reward": 2, "belief": {"class": "2", "text": "d"}},
    ],
    "pairs": [[0, 1]],
    "belief_probs": [0, 0.5, 0.5, 0, 0, 0],
}
TOKENIZER, PLAIN = byte_tokenizer(), compose("loss=dpo")
COLUMNS = sorted({c for needed, _ in data.READERS for c in needed} | {"id", "context", "reject_choice_id"})
FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


def only_user_errors(job):
    """`job` works, or says what is wrong on one line."""
    try:
        return job()
    except UserError as error:
        assert str(error) and utils.one_line(error).count("\n") == 0


@st.composite
def damaged_rows(draw):
    """A good row with one to three values replaced, removed or added anywhere in it."""
    row = json.loads(json.dumps(GOOD))
    for _ in range(draw(st.integers(1, 3))):
        place, key = row, draw(st.sampled_from([*GOOD, "extra"]))
        while isinstance(place.get(key) if isinstance(place, dict) else place[key], (dict, list)) and draw(
            st.booleans()
        ):
            place = place[key]
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
        if isinstance(place, dict) or len(place):
            place[key] = draw(JSON)
    return row


@settings(max_examples=250, **FUZZ)
@given(
    st.lists(
        st.one_of(
            damaged_rows(), JSON, st.dictionaries(st.sampled_from(COLUMNS), JSON, min_size=3, max_size=6)
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([".jsonl", ".json"]),
    st.sampled_from(sorted(data.VIEWS)),
)
def test_any_row_is_read_or_refused_on_one_line(tmp_path_factory, rows, suffix, view):
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    path.write_text(json.dumps(rows) if suffix == ".json" else "".join(json.dumps(r) + "\n" for r in rows))
    read_and_view(path, view)


def read_and_view(path, view):
    """The whole way of a file to token trees, and its audit."""
    before = path.read_bytes()

    def job():
        groups = data.load_groups(str(path), "all")
        examples = data.view(groups, view)
        trees = data.tokenize(groups, examples, TOKENIZER, data.Limits(64, 32)) if examples else []
        json.dumps(data.audit_groups(groups, examples, trees))
        for tree in trees:
            forest.pack([tree], [[0]], 0)

    only_user_errors(job)
    assert path.read_bytes() == before


HOSTILE = (
    b"[" * 100_000,
    b'{"prompt":' * 50_000,
    b"PAR1" + bytes(40) + b"PAR1",
    b"1" * 5000,
    b"\xef\xbb\xbf{}",
    b"\0\n\r,\"'",
    json.dumps(GOOD).encode() * 2,
    json.dumps(GOOD).replace("Say", "\\ud800").encode(),
    b"prompt,responses\na,b,c\n",
)


@settings(max_examples=150, **FUZZ)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(alphabet=string.printable, max_size=60).map(str.encode),
        st.tuples(st.integers(0, 400), st.binary(max_size=4)).map(
            lambda c: (lambda b: b[: c[0]] + c[1] + b[c[0] + len(c[1]) :])((json.dumps(GOOD) + "\n").encode())
        ),
        st.sampled_from(range(len(HOSTILE))).map(HOSTILE.__getitem__),
    ),
    st.sampled_from(data.SUFFIXES),
)
def test_any_file_is_read_or_refused_on_one_line(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"bytes{suffix}"
    path.write_bytes(content)
    read_and_view(path, "target")


VALUES = st.one_of(
    JSON,
    st.sampled_from(
        [-1, 0, 1, 1e308, float("nan"), float("inf"), "auto", "${lr}", "a/b", "", [], {}, ["x"], True]
    ),
)
KEYS = sorted(
    {
        *(field.name for field in dataclasses.fields(config.TrainSettings)),
        "wandb.enabled",
        "wandb.entity",
        "model.name_or_path",
        "model.archive",
        "model.policy_dtype",
        "model.tokenizer_name_or_path",
        "model.trust_remote_code",
        "model.extra",
        "loss.name",
        "loss.beta",
        "loss.extra",
        "extra",
        *(k for k in PLAIN if not k.startswith("hydra")),
    }
)


@settings(max_examples=250, **FUZZ)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
def test_any_config_is_taken_or_refused_on_one_line(changes):
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    values = OmegaConf.to_container(OmegaConf.create(PLAIN))
    for key, value in changes.items():
        place, _, last = key.rpartition(".")
        where = values[place] if place else values
        if isinstance(where, dict):
            where[last] = value

    def job():
        chosen = config.train_settings(values)
        needs = train.bind_loss(chosen)
        if chosen.datasets == ["opinions/republican"]:
            data.read_splits(dataclasses.replace(chosen, eval_datasets=None), needs)
        trainers.make_optimizer(tiny_policy(), chosen.optimizer, chosen.lr)

    with contextlib.suppress(OmegaConfBaseException):  # run_entry makes one line of these
        only_user_errors(job)


def test_the_table_names_tests_that_exist():
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    rows = [
        line for line in (ROOT / "docs" / "reliability.md").read_text().splitlines() if line.startswith("| ")
    ][2:]
    named = [name for row in rows for name in re.findall(r"`([a-z0-9_]{12,})`", row.split("|")[3])]
    assert len(named) > 25 and not [name for name in named if f"def test_{name}(" not in tests]
