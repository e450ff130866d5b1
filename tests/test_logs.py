"""What a run says: to wandb, which may fail at any of its calls and is asked to go on in one run."""

import contextlib
import logging
import os
import sys
import types

import pytest
from bench import refuse
from helpers import lines, state_of

import utils
from runs import logs


class Wandb(types.ModuleType):
    """wandb, out of reach at one of its calls."""

    def __init__(self, fails):
        super().__init__("wandb")
        self.fails = fails
        self.logged = 0
        self.ids = []
        self.open = 0  # runs that are not finished
        self.codes = []  # that finished ones ended with

    def login(self, **_):
        return self._call("login")

    def init(self, **keys):
        self._call("init")
        self.ids.append(keys["id"])
        assert self.open == 0, "it would write into the run before"
        self.open += 1
        return self

    def Table(self, columns, data):
        return {"columns": columns, "data": data}

    def log(self, *_, **__):
        self.logged += 1
        self._call("log" if self.logged > 2 else "")

    def finish(self, exit_code):
        self.open -= 1
        self.codes.append(exit_code)
        self._call("finish")

    def _call(self, name):
        if name == self.fails:
            raise ConnectionError("api.example: unreachable\nsecond line")
        return True


@pytest.mark.parametrize("fails", ["login", "init", "log", "finish"])
def test_training_goes_on_without_wandb(bench, monkeypatch, fails):
    fake = Wandb(fails)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = bench.go("run", "wandb.enabled=true", "n_examples=16")
    assert state_of(run)["step"] == 4
    assert fake.logged == {"log": 3, "finish": len(lines(run))}.get(fails, 0)
    assert (run / "train.log").read_text().count("wandb is off from here on") == 1


def test_a_run_that_resumes_goes_on_in_its_wandb_run(bench, monkeypatch):
    fake = Wandb("nothing")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name, count in (("run", 8), ("run", 16), ("other", 8)):
        bench.go(name, "wandb.enabled=true", f"n_examples={count}")
    assert fake.ids[0] == fake.ids[1] != fake.ids[2]


def files_open():
    """Device and number of what this process has open."""
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # of the listing itself
            status = os.fstat(int(name))
            yield status.st_dev, status.st_ino


def test_every_run_closes_what_it_opened(bench, monkeypatch):
    """Jobs of a sweep are runs in one process."""
    fake = Wandb("nothing")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    overrides = ["wandb.enabled=true", "sample_during_eval=true", "n_examples=8"]
    bench.go("one", *overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs.Samples, "show", refuse)
        with pytest.raises(OSError, match="No space left"):
            bench.go("two", *overrides)
    bench.go("three", *overrides)
    assert fake.codes == [0, 1, 0]
    of_runs = {(file.stat().st_dev, file.stat().st_ino) for file in bench.out.rglob("*") if file.is_file()}
    assert of_runs and not of_runs & set(files_open())
    assert not [handler for handler in utils.log.handlers if isinstance(handler, logging.FileHandler)]
