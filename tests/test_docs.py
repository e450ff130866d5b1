"""What the documents say is so."""

import json
import re
import sys

import pytest
from data_helpers import write
from helpers import ROOT, compose
from omegaconf import OmegaConf

import preference_datasets as data
import settings


def test_the_table_names_tests_that_exist():
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    named = []
    for row in rows:
        named += re.findall(r"`([a-z0-9_]{12,})`", row.split("|")[3])
    assert len(named) > 25
    assert not [name for name in named if f"def test_{name}(" not in tests]


def test_the_readmes_own_row_is_read_as_every_view(tmp_path):
    text = (ROOT / "README.md").read_text()
    example = text[text.index('    {"id": "q1"') : text.index("`prompt` may be a list")]
    row = json.loads(example)
    path = write(tmp_path / "mine.jsonl", json.dumps(row))
    (group,) = data.load_groups(path, "all")
    for name in data.VIEWS:
        assert data.view([group], name), name


def test_keys_that_are_the_same_as_elsewhere_exist():
    rows = (ROOT / "docs" / "from_dpo.md").read_text().splitlines()
    same = [row for row in rows if row.startswith("| `") and row.split("|")[2].strip().startswith("the same")]
    keys = re.findall(r"`([a-z_.]+)", " ".join(row.split("|")[1] for row in same))
    assert len(keys) > 20
    config = OmegaConf.to_container(compose("loss=dpo"))
    known = {*config, *settings.flatten(config), "wandb."}
    assert not [key for key in keys if key not in known]


def test_the_page_for_newcomers_says_what_the_code_does():
    """The sentences of docs/from_dpo.md that a default or a call can contradict."""
    text = (ROOT / "docs" / "from_dpo.md").read_text()
    config = compose("loss=dpo")
    assert f"{config.eval_every} by default" in text
    assert "off by default" in text
    assert not config.sample_during_eval
    assert "AdamW by default" in text
    assert config.optimizer == "AdamW"
    assert "wandb's step counts optimizer updates" in text
    assert config.tracker.step == "updates"


def test_the_page_of_data_shows_rows_and_entries_that_are_read(tmp_path):
    lines = (ROOT / "docs" / "data.md").read_text().splitlines()
    rows = [line.strip() for line in lines if line.strip().startswith("{")]
    (group,) = data.load_groups(write(tmp_path / "rows.jsonl", *rows), "all")
    assert group.weight == 2
    (entries,) = [line.strip() for line in lines if line.strip().startswith("datasets: [")]
    a, b, c = settings.with_data_sets(OmegaConf.to_container(OmegaConf.create(entries)))["datasets"]
    assert (a.weight, b.weight, c.n, c.format) == (0.7, 0.3, 5000, "hh")


def test_the_page_of_data_names_the_options_of_its_command(monkeypatch, capsys):
    text = (ROOT / "docs" / "data.md").read_text()
    monkeypatch.setattr(sys, "argv", ["preference_datasets.py", "--help"])
    with pytest.raises(SystemExit):
        data.main()
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert options == set(re.findall(r"`(--[a-z-]+)", text))


def test_what_the_page_says_of_trl_has_a_test():
    section = (ROOT / "docs" / "data.md").read_text().partition("## Beside TRL")[2]
    recorded = json.loads((ROOT / "tests" / "recorded" / "trl.json").read_text())
    assert f"TRL {recorded['versions']['trl'].removesuffix('.0')}, a test" in section
