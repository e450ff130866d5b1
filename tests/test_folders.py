"""Run folders: whose they are, copies of them, poor file systems, and who may read them."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from bench import assert_same, die, forked, half_done, steady_lines
from helpers import assert_equal, state_of, weights

import models
import reference
import utils
from runs import checkpoint, folder
from utils import UserError


def tree(path):
    """Everything in a folder: the bytes of files, the targets of links, None for folders."""
    found = {}
    for entry in sorted(path.rglob("*")):
        name = str(entry.relative_to(path))
        if entry.is_symlink():
            found[name] = os.readlink(entry)
        else:
            found[name] = None if entry.is_dir() else entry.read_bytes()
    return found


def plant(path, files):
    """Write files, by name and text."""
    for name, text in files.items():
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


# --- whose folder it is -------------------------------------------------------------------------------------

OF_OTHERS = {
    "notes": {"notes.txt": "mine"},
    "names like ours": {".saving-notes/plan": "x", ".latest.old": "x", ".saving-12345678": "x", "a": "b"},
    "another program's config": {"config.yaml": "lr: 1\nmodel: big\n", ".config.yaml.swp": "x"},
    "another program's log": {"train.log": "epoch 1\n", ".best.new": "x"},
    "another program's steps": {"step-000100/model.bin": "x", ".replaced-step-000100/model.bin": "x"},
    "another program's id": {"run_id.txt": "seven\n"},
    "hidden files alone": {".saving-abcdefgh": "x", ".git/config": "x"},
}


@pytest.mark.parametrize("files", OF_OTHERS.values(), ids=OF_OTHERS)
def test_a_folder_that_is_no_runs_is_left_as_it_is(bench, files):
    run = bench.out / "run"
    plant(run, files)
    before = tree(run)
    for overrides in ([], ["resume=must"], ["resume=never"]):
        with pytest.raises(UserError, match="it holds files that are no run's; choose another") as caught:
            bench.go("run", *overrides)
        assert "\n" not in str(caught.value)
        assert tree(run) == before


def test_a_run_that_is_refused_changes_nothing(bench):
    run = bench.go("run", "n_examples=8")
    plant(run, {".saving-12345678/model.safetensors": "half", "mine.txt": "x"})
    before = tree(run)
    for overrides in (["lr=3e-3"], ["resume=never"]):
        with pytest.raises(UserError, match="another config|already holds a run"):
            bench.go("run", *overrides)
        assert tree(run) == before


def test_files_of_others_in_a_runs_folder_stay(bench):
    run = bench.go("run", "n_examples=12")
    files = {".config.yaml.swp": "x", ".saving-plans/a": "x", ".latest.old": "x", "step-000001/notes": "x"}
    files |= {"step-000077/notes": "x", "step-000001-kept/notes": "x", "report/report.html": "x"}
    plant(run, files)
    bench.go("run")
    for name, text in files.items():
        assert (run / name).read_text() == text
    assert state_of(run)["step"] == 8


def test_what_an_older_version_left_at_its_start_is_a_run(bench):
    run = bench.out / "run"
    plant(
        run,
        {
            "train.log": "10:20:30 opinions: {}\n",
            ".config.yaml.ab12_x9z": "half",
            ".start.json.0123abcd": "",
            "data_audit.json": "{}",
        },
    )
    bench.go("run", "n_examples=4")
    (run / "run_id.txt").unlink()
    assert state_of(bench.go("run", "n_examples=8"))["step"] == 2
    assert not half_done(run)


def in_another_process(bench, *overrides):
    """Train under the same name in a process of its own, to the end."""
    code, text = forked(lambda: bench.go("run", *overrides))
    assert code == 0, text


MOMENTS = {
    "in the reference pass": (reference, "_compute", 2),
    "before a save": (checkpoint, "save", 2),
    "in a save": (folder, "seal", 2),
    "between a save and its links": (folder, "appear", 2),
}


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_does_not_write_into_the_folder_of_another(bench, monkeypatch, moment, moved):
    run = bench.out / "run"
    place, name, call = MOMENTS[moment]
    seen = []

    def replace():
        if moved:
            run.rename(bench.out / "moved")
        else:
            shutil.rmtree(run)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, name, original)
            in_another_process(bench, "lr=3e-3", "n_examples=12", "keep_last=9")
        seen.append(tree(run))

    original = getattr(place, name)
    monkeypatch.setattr(place, name, original)  # so that it is undone
    die(place, name, call, after=moment.startswith("between") and moved, action=replace)
    with pytest.raises(UserError, match="another run took its place|cannot be saved") as caught:
        bench.go("run")
    assert "\n" not in str(caught.value)
    assert tree(run) == seen[0]


def test_where_nothing_can_be_locked_the_later_run_has_the_folder(bench, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(utils.fcntl, "flock", refuse)
    save = checkpoint.save
    saves = []

    def save_after_another(*args, **keys):
        saves.append(1)
        if len(saves) == 2:
            in_another_process(bench)
            saves.append(tree(bench.out / "run"))
        return save(*args, **keys)

    monkeypatch.setattr(checkpoint, "save", save_after_another)
    with pytest.raises(UserError, match="another run took its place"):
        bench.go("run")
    assert tree(bench.out / "run") == saves[2]


def test_a_run_whose_id_somebody_removed_goes_on(bench, monkeypatch):
    save = checkpoint.save

    def save_without_id(run, *args):
        (run / "run_id.txt").unlink(missing_ok=True)
        return save(run, *args)

    monkeypatch.setattr(checkpoint, "save", save_without_id)
    assert state_of(bench.go("run", "n_examples=8"))["step"] == 2


# --- copies -------------------------------------------------------------------------------------------------


def lose_the_steps(run):
    for path in folder.steps(run):
        shutil.rmtree(path)


def damage_the_step(run):
    (run / "step-000003" / "model.safetensors").write_bytes(b"")


def damage_the_copy(run):
    (run / "latest" / "model.safetensors").write_bytes(b"")


def lose_the_copies(run):
    shutil.rmtree(run / "latest")
    shutil.rmtree(run / "best")


def make_a_folder_of_ones_own(run):
    shutil.rmtree(run / "best")
    plant(run, {"best/notes.txt": "x"})


ON_THE_WAY = [
    None,
    lose_the_steps,
    damage_the_step,
    damage_the_copy,
    lose_the_copies,
    make_a_folder_of_ones_own,
]


@pytest.mark.parametrize("change", ON_THE_WAY)
def test_a_copy_with_its_links_followed_resumes(bench, whole, change):
    """As `rsync -L` and object stores make them."""
    first = bench.go("run", "n_examples=12")
    copy = bench.out.parent / "elsewhere" / "run"
    shutil.copytree(first, copy)
    if change:
        change(copy)
    if change is not lose_the_copies:
        assert folder.find_model(str(copy))
    bench.go("run", f"output_dir={copy.parent}")
    assert os.readlink(copy / "latest") == os.readlink(whole / "latest")
    assert os.readlink(copy / "best") == os.readlink(whole / "best")
    assert_equal(weights(copy), weights(whole))
    assert state_of(copy) == state_of(whole)
    assert steady_lines(copy) == steady_lines(whole)
    aside = list(copy.glob("*-copied-*"))
    assert bool(aside) == (change in (damage_the_copy, make_a_folder_of_ones_own))
    if change is make_a_folder_of_ones_own:
        assert (aside[0] / "notes.txt").read_text() == "x"


def test_a_copy_that_differs_from_its_step_is_kept(bench):
    run = bench.go("run", "n_examples=12")
    os.unlink(run / "best")
    shutil.copytree(run / "step-000003", run / "best")
    plant(run, {"best/README.md": "tuned by hand"})
    (run / "best" / "trainer_state" / "manifest.json").unlink()
    folder.seal(run / "best")
    bench.go("run", "n_examples=16")
    (aside,) = run.glob("best-copied-*")
    assert (aside / "README.md").read_text() == "tuned by hand"
    assert folder.damage(aside) is None


# --- poor file systems --------------------------------------------------------------------------------------

CALLS = {"links": (Path, "symlink_to"), "chmod": (Path, "chmod"), "fsync": (os, "fsync")}
ANSWERS = [errno.EPERM, errno.ENOTSUP, errno.EINVAL]


@pytest.mark.parametrize("answer", ANSWERS, ids=errno.errorcode.get)
@pytest.mark.parametrize("lacks", CALLS)
def test_a_file_system_without(bench, whole, monkeypatch, lacks, answer):
    def refuse(*_, **__):
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(*CALLS[lacks], refuse)
    bench.go("run", "n_examples=12")
    run = bench.go("run")
    last, best = folder.target_of(run / "latest"), folder.target_of(whole / "best")
    assert folder.find_model(str(run)) == str(run / best.name)
    assert folder.find_model(str(run / "latest")) == str(last)
    assert last.name == os.readlink(whole / "latest")
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}
    for ours, theirs in ((last, whole / "latest"), (run / best.name, whole / "best")):
        assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()


def test_an_error_of_the_disk_is_none_of_a_poor_file_system(bench, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(UserError, match="step-000003: cannot be saved .Input/output error"):
        bench.go("run")


def test_a_disk_without_room_for_a_checkpoint_is_noticed_before_any_work(bench, monkeypatch):
    usage = shutil.disk_usage(bench.out.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=30_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "fingerprint", None)
        with pytest.raises(UserError, match="a checkpoint takes at least .* GB, and the disk has 3e-05 GB"):
            bench.go("run")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    run = bench.go("run", "n_examples=12")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=30_000))
    bench.go("run", "n_examples=12")  # finished: no room is needed
    with pytest.raises(UserError, match="make room or set output_dir"):
        bench.go("run")
    assert state_of(run)["step"] == 3


# --- who may read them --------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077])
def test_files_are_for_those_whom_the_umask_lets_read(bench, tmp_path, umask):
    before = os.umask(umask)
    try:
        bench.go("run", "n_examples=12", "sample_during_eval=true", "keep_last=2")
    finally:
        os.umask(before)
    entries = [*bench.out.rglob("*"), *(tmp_path / "cache").rglob("*")]
    assert any(path.name == "model.safetensors" for path in entries)
    assert any(path.parent.name == "reference" for path in entries)
    for path in entries:
        if not path.is_symlink():
            mode = path.stat().st_mode & 0o777
            assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, (path, oct(mode))


def test_the_bits_of_a_run_do_not_depend_on_the_umask(bench, whole):
    before = os.umask(0o077)
    try:
        assert_same(bench.go("run"), whole)
    finally:
        os.umask(before)
