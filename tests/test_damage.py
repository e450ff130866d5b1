"""Damaged checkpoints: any damage is noticed, named, and never loaded."""

import contextlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from bench import SHARD, Bench, assert_same, link
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import models
import utils
from runs import checkpoint, folder
from utils import UserError

STATE = "trainer_state/state.json"
MANIFEST = "trainer_state/manifest.json"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run with its last two checkpoints, of steps 3 and 6."""
    place = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROVE_CACHE", str(place / "cache"))
        patch.setattr(models, "matmul_rate", lambda *a: 1e9)
        bench = Bench(place)
        bench.go("run", "keep_last=2", "n_examples=24")
    return bench


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", SHARD, STATE, MANIFEST])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(kept, tmp_path, name):
    for number, damage in enumerate((flip, halve, Path.unlink, empty)):
        run = tmp_path / f"run{number}"
        shutil.copytree(kept.out / "run", run, symlinks=True)
        assert [step.name for step in folder.steps(run)] == ["step-000003", "step-000006"]
        damage(run / "latest" / name)
        warned = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(utils.log, "warning", lambda text, *a, to=warned: to.append(text % a))
            assert checkpoint.newest_intact(run).step == 3
        assert len(warned) == 1
        assert "step-000006: the checkpoint cannot be read" in warned[0]
    shutil.rmtree(run / "step-000003")
    message = r"step-000006: the checkpoint cannot be read .* no other is intact; remove it"
    with pytest.raises(UserError, match=message):
        checkpoint.newest_intact(run)


def test_a_run_goes_on_from_the_checkpoint_before(bench, whole):
    run = bench.go("run", "keep_last=2", "n_examples=24")
    flip(run / "step-000006" / "model.safetensors")
    with pytest.raises(UserError, match="step-000006 is damaged .model.safetensors does not match"):
        folder.find_model(str(run))
    bench.go("run", "keep_last=2", "n_examples=12")  # back at step 3, and finished there
    assert link(run, "latest") == link(run, "best") == "step-000003"
    bench.go("run", "keep_last=1")
    assert_same(run, whole)


CHANGES = st.one_of(st.binary(min_size=1, max_size=9), st.none())  # bytes written over others; None: cut off


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 99), at=st.integers(0, 10**7), change=CHANGES)
def test_any_damage_to_any_file_is_noticed(kept, which, at, change):
    """Bytes overwritten, appended or cut off anywhere in the newest checkpoint: the one before is taken, or
    nothing changed.
    """
    files = sorted(path for path in (kept.out / "run" / "step-000006").rglob("*") if path.is_file())
    path = files[which % len(files)]
    before = path.read_bytes()
    after = changed(before, at % (len(before) + 1), change)
    try:
        path.write_bytes(after)
        step = checkpoint.newest_intact(kept.out / "run").step
        is_manifest = path.name == "manifest.json"
        is_same = after == before or (is_manifest and json_of(after) == json_of(before))
        assert step == (6 if is_same else 3), path
    finally:
        path.write_bytes(before)


def changed(content, at, change):
    """Bytes with `change` written over them at a place, or cut off there."""
    if change is None:
        return content[:at]
    return content[:at] + change + content[at + len(change) :]


def json_of(content):
    """The value of bytes of JSON; None where they are none."""
    with contextlib.suppress(ValueError):
        return json.loads(content)


class Evil:
    """A pickle that would run code."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (os.system, (f"touch {self.trace}",))


def forge(step):
    """Seal a step folder anew, as somebody would who knows the manifest."""
    (step / MANIFEST).unlink()
    folder.seal(step)


def test_an_optimizer_state_that_runs_code_is_refused(bench, tmp_path):
    step = bench.go("run", "n_examples=4") / "step-000001"
    metadata = step / "trainer_state" / "optimizer" / ".metadata"
    for write in (torch.save, pickle.dump):
        for path in (step / SHARD, metadata):
            with path.open("wb") as file:
                write(Evil(tmp_path / "owned"), file)
        forge(step)
        with pytest.raises(UserError, match="step-000001: the checkpoint cannot be read"):
            bench.go("run", "n_examples=8")
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_an_older_version_is_not_resumed_without_its_optimizer(bench):
    step = bench.go("run", "n_examples=4") / "step-000001"
    shutil.rmtree(step / "trainer_state" / "optimizer")
    torch.save({}, step / "trainer_state" / "optimizer.pt")
    forge(step)
    message = "step-000001: the checkpoint cannot be read .optimizer.pt is of an older version"
    with pytest.raises(UserError, match=message):
        bench.go("run", "n_examples=8")
    assert folder.find_model(str(step)) == str(step)  # its weights open as before
