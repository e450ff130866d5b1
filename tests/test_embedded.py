"""The embedded model's folder: made once, by one of those that want it, and left to all of them."""

import os
import time

import pytest
from bench import exit_code, fork, forked

import utils
from models import embedded
from utils import UserError

NAME = "smollm2-135m-instruct"


@pytest.fixture
def maker(tmp_path, monkeypatch):
    """A package with a model that takes a moment to unpack; the file in which makers sign."""
    source = tmp_path / "source.gguf"
    source.touch()
    signed = tmp_path / "makers"

    def dequantize(_, folder, __):
        with signed.open("a") as file:
            file.write(f"{os.getpid()}\n")
        (folder / "model.safetensors").write_bytes(b"half")
        time.sleep(0.5)
        (folder / "model.safetensors").write_bytes(b"whole")

    monkeypatch.setattr(embedded, "_file_beside", lambda *_: source)
    monkeypatch.setattr(embedded, "_dequantize", dequantize)
    return signed


def take():
    """What every process wants of the model."""
    folder = embedded.embedded_model(NAME)
    for _ in range(10):
        assert (folder / "model.safetensors").read_bytes() == b"whole"
        time.sleep(0.05)


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("damaged", [False, True])
def test_two_that_begin_at_once_leave_each_other_alone(maker, tmp_path, monkeypatch, damaged, locks):
    folder = utils.cache_dir() / "models" / f"{NAME}-0.1.2"
    if damaged:  # by hand: it lost its mark
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"cut")
    if not locks:
        monkeypatch.setattr(utils.fcntl, "flock", no_locks)
    with (tmp_path / "said").open("w") as said:
        children = [fork(take, said) for _ in range(3)]
        assert [exit_code(child) for child in children] == [0, 0, 0], (tmp_path / "said").read_text()
    assert len(maker.read_text().split()) == 1 or not locks
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "complete"}


def no_locks(*_):
    raise OSError(95, "Operation not supported")


def test_one_that_dies_leaves_the_next_to_make_it(maker, monkeypatch):
    def die(*_):
        os.kill(os.getpid(), 9)

    def job():
        monkeypatch.setattr(embedded, "_dequantize", die)
        take()

    assert forked(job)[0] == -9
    take()


@pytest.mark.parametrize("place", ["/proc/cache", "/dev/null/cache", "x" * 300])
def test_a_cache_folder_that_cannot_be_made_is_one_line(maker, tmp_path, monkeypatch, place):
    monkeypatch.setenv("GROVE_CACHE", place if place.startswith("/") else str(tmp_path / place))
    with pytest.raises(
        UserError, match="cache folder .*: cannot be written .*; make room or set GROVE_CACHE"
    ) as e:
        embedded.embedded_model(NAME)
    assert "\n" not in str(e.value)


def test_a_user_without_a_home_needs_a_cache_folder(monkeypatch):
    def no_home(*_):
        raise RuntimeError("Could not determine home directory.")

    for name in ("GROVE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(utils.Path, "home", no_home)
    with pytest.raises(UserError, match="cache folder: Could not determine .*; set GROVE_CACHE"):
        utils.cache_dir()


def test_a_cache_folder_below_the_home_is_found(monkeypatch):
    monkeypatch.setenv("GROVE_CACHE", "~/somewhere")
    assert utils.cache_dir() == utils.Path.home() / "somewhere"


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_its_files_are_for_those_whom_the_umask_lets_read(maker, umask):
    before = os.umask(umask)
    try:
        folder = embedded.embedded_model(NAME)
    finally:
        os.umask(before)
    for path in (folder, *folder.iterdir()):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask
