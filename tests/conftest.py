"""Tests run without a network, with the project's folder on the path and a cache of their own."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
}

import pytest  # noqa: E402
import torch  # noqa: E402
from bench import Bench  # noqa: E402
from helpers import QUICK, compose, save_tiny  # noqa: E402
from hypothesis import settings  # noqa: E402

import models  # noqa: E402
import reference  # noqa: E402
import train  # noqa: E402

# the same examples in every run, so that a change is what makes a test fail;
# HYPOTHESIS_PROFILE=search looks for new ones
settings.register_profile("same", derandomize=True)
settings.register_profile("search")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

torch.set_num_threads(1)  # tiny models: a second thread costs more than it computes


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GROVE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(tmp_path):
    """Train a tiny model in this process: run("loss=dpo", ...) gives the run's folder."""
    model = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)

    def go(*overrides, name="run"):
        places = [f"model.name_or_path={model}", f"output_dir={tmp_path}/out", f"exp_name={name}"]
        train.main(compose(*places, *QUICK, *overrides))
        return tmp_path / "out" / name

    return go


@pytest.fixture
def quick(monkeypatch):
    """No measurement of the machine, and a reference pass of several parts."""
    monkeypatch.setattr(models, "matmul_rate", lambda *_: 1e9)
    monkeypatch.setattr(reference, "PLAN_CHUNK", 6)


@pytest.fixture
def bench(tmp_path, quick):
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROVE_CACHE", str(folder / "cache"))
        patch.setattr(models, "matmul_rate", lambda *_: 1e9)
        patch.setattr(reference, "PLAN_CHUNK", 6)
        return Bench(folder).go("run")
