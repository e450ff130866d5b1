"""docs/objectives.md: its table says what the losses declare, and its example of an own loss trains."""

import inspect
import re
import sys

import numpy as np
import pytest
from helpers import ROOT, command, compose, training_lines
from loss_helpers import logsigmoid, ranked
from omegaconf import OmegaConf

import losses

TEXT = (ROOT / "docs" / "objectives.md").read_text()
FILES = sorted(path.stem for path in (ROOT / "config" / "loss").glob("*.yaml"))
COLUMNS = {"any": "any data", "pair": "pairs", "side": "single responses", "several": "several responses"}


def rows():
    """By the name of a file: the keys and the needs of its row."""
    table = {}
    for line in TEXT[TEXT.index("| `loss=`") : TEXT.index("- **Two responses.**")].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`(\w+)`", cells[0]):
            table[name] = (cells[-2], cells[-1])
    return table


def code(language):
    """The page's one block of a language."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return block


def test_the_table_has_a_row_of_every_file():
    assert sorted(rows()) == FILES


@pytest.mark.parametrize("file", FILES)
def test_a_row_says_the_keys_and_the_needs_of_its_loss(file):
    config = compose(f"loss={file}")
    keys = OmegaConf.to_container(config.loss, resolve=True)
    name = keys.pop("name")
    of_row, needed = rows()[file]
    taken = list(inspect.signature(losses.LOSSES[name]).parameters)[1:]
    same_as = re.fullmatch(r"the keys of `(\w+)`", of_row)
    assert (same_as.group(1) == name) if same_as else re.findall(r"`(\w+)`", of_row) == taken
    needs = losses.needs(name, keys)
    words = {
        "reference": "reference",
        "beliefs": "beliefs",
        "rewards": "rewards",
        "mismatched": "mismatched pairs",
    }
    said = [COLUMNS[needs.columns], *(word for field, word in words.items() if getattr(needs, field))]
    assert needed.split(", ") == said


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A folder that holds the page's example, as the page says."""
    (tmp_path / "my_losses.py").write_text(code("python"))
    configs = tmp_path / "my_configs" / "loss"
    configs.mkdir(parents=True)
    (configs / "ranked_means.yaml").write_text(code("yaml"))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_losses", None)
    losses.LOSSES.pop("my_losses:ranked_means", None)


def test_the_own_loss_of_the_page_is_its_equation(example):
    loss = losses.loss_of("my_losses:ranked_means")
    scores = ranked([[-4.0, -2.0, -3.0]], [[3.0, 1.0, 2.0]])
    pairs = [(-4.0, -2.0), (-4.0, -3.0), (-3.0, -2.0)]
    expected = -sum(logsigmoid(2.0 * (better - worse) - 0.5) for better, worse in pairs)
    assert loss(scores, 2.0, 0.5).item() == pytest.approx(expected)


def test_the_own_loss_of_the_page_trains_on_ranked_responses_and_on_pairs(example, run, ranked_file):
    found = f"hydra.searchpath=[file://{example}/my_configs]"
    given = [found, "loss=ranked_means", f"datasets=[{ranked_file}]", "n_examples=16"]
    for name, view in (("ranked", "ranked"), ("pairs", "pairs.best_vs_worst")):
        folder = run(*given, f"responses={view}", name=name)
        training = training_lines(folder)
        assert len(training) >= 2
        assert all(np.isfinite(line["loss/train"]) for line in training)


def test_the_pages_command_finds_the_own_config(example):
    words = code("bash").replace("my_configs", f"{example}/my_configs").split()[1:]
    shown = command(sys.executable, *words, "--cfg", "job", "--package", "loss")
    assert "name: my_losses:ranked_means" in shown.stdout
