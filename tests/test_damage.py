"""Damaged checkpoints: named, and the one before them used."""

import contextlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from bench import Bench, assert_same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import models
import utils
from runs import checkpoint, folder
from utils import UserError

SHARD = "trainer_state/optimizer/shard-00001-model-00001-of-00001.safetensors"


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
    """Bytes overwritten, appended or cut off anywhere in the newest checkpoint: the one before is taken, or
    nothing changed.
    """
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
