"""What a run says: to wandb, which may fail at any of its calls and is asked to go on in one run."""

import sys
import types

import pytest
from helpers import state_of


class Wandb(types.ModuleType):
    """wandb, out of reach at one of its calls."""

    def __init__(self, fails):
        super().__init__("wandb")
        self.fails = fails
        self.logged = 0
        self.ids = []

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
    fake = Wandb(fails)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = bench.go("run", "wandb.enabled=true", "n_examples=16")
    assert state_of(run)["step"] == 4
    assert fake.logged == (3 if fails == "log" else 0)
    assert (run / "train.log").read_text().count("wandb is off from here on") == 1


def test_a_run_that_resumes_goes_on_in_its_wandb_run(bench, monkeypatch):
    fake = Wandb("nothing")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name, count in (("run", 8), ("run", 16), ("other", 8)):
        bench.go(name, "wandb.enabled=true", f"n_examples={count}")
    assert fake.ids[0] == fake.ids[1] != fake.ids[2]
