"""Tests run without a network, with the project's folder on the path and a cache of their own."""

import gc
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
from bench import QUICK, Bench, cheap_runs  # noqa: E402
from data_helpers import write  # noqa: E402
from helpers import compose, save_tiny  # noqa: E402
from hypothesis import settings  # noqa: E402
from servers import real_server  # noqa: E402, F401
from warm import warm_python  # noqa: E402

import reporting.writing  # noqa: E402
import train  # noqa: E402

# the same examples in every run, so that a change is what makes a test fail; HYPOTHESIS_PROFILE=search looks
# for new ones
settings.register_profile("same", derandomize=True)
settings.register_profile("search")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

torch.set_num_threads(1)  # tiny models: a second thread costs more than it computes


def pytest_collection_finish():
    """What imports and the list of tests hold stays to the end: a garbage collection that looks at it again
    takes a fifth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GROVE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def figures():
    """For tests that look at the figures of a report."""


@pytest.fixture(autouse=True)
def quick_reports(request, monkeypatch):
    """Reports without figures, which take two seconds each, except where a test asks for them."""
    if "figures" not in request.fixturenames:
        monkeypatch.setattr(reporting.writing, "figures_of", lambda story: ())


@pytest.fixture
def run(tmp_path):
    """Train a tiny model in this process: run("loss=dpo", ...) gives the run's folder."""
    model = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    output = tmp_path / "out"

    def go(*overrides, name="run"):
        base = [f"model.name_or_path={model}", f"output_dir={output}", f"exp_name={name}"]
        train.main(compose(*base, *QUICK, *overrides))
        return output / name

    return go


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """A program that does what `python` does, without the seconds that imports take."""
    with warm_python(tmp_path_factory.mktemp("warm")) as program:
        yield program


@pytest.fixture
def ranked_file(tmp_path):
    """Twelve prompts with two to four responses and rewards, and one whose rewards are equal."""
    rows = []
    for i in range(12):
        responses = [{"text": f"It is {i}{j}.", "reward": (i + j) % 4} for j in range(2 + i % 3)]
        rows.append({"prompt": f"Say {i}", "responses": responses})
    equal = [{"text": "a", "reward": 1}, {"text": "b", "reward": 1}]
    return write(tmp_path / "ranked.jsonl", *rows, {"prompt": "Equal", "responses": equal})


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench of its own for one test."""
    cheap_runs(monkeypatch)
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The run of a bench that nothing disturbs. Read only: many tests compare with it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROVE_CACHE", str(folder / "cache"))
        cheap_runs(patch)
        return Bench(folder).go("run")
