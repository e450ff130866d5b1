"""What the documents say is so."""

import functools
import json
import re
import sys
from types import SimpleNamespace

import pytest
from data_helpers import write
from helpers import ROOT, compose
from omegaconf import OmegaConf
from page_helpers import PAGES

import elsewhere
import preference_datasets as data
import settings
from commented import keys_of
from docs import links, make


def test_the_table_names_tests_that_exist():
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    named = []
    for row in rows:
        named += re.findall(r"`([a-z0-9_]{12,})`", row.split("|")[3])
    assert len(named) > 25
    assert not [name for name in named if f"def test_{name}(" not in tests]


def test_the_own_row_of_the_page_is_read_as_every_view(tmp_path):
    text = (ROOT / "docs" / "data.md").read_text()
    example = text.partition("## Your own data")[2].partition("```json\n")[2].partition("```")[0]
    path = write(tmp_path / "mine.jsonl", json.dumps(json.loads(example)))
    (group,) = data.load_groups(path, "all")
    for name in data.VIEWS:
        assert data.view([group], name), name


def test_links_of_the_tutorial_lead_to_pages_in_its_folder_and_on_the_site():
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())
    text = "".join(line for cell in notebook["cells"] for line in cell["source"])
    named = re.findall(r"\]\((\w+)\.md\)", text)
    assert named and all((ROOT / "docs" / f"{name}.md").is_file() for name in named)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="tutorial.ipynb"))
    shown = "".join(f'<a href="{name}.md">' for name in named)
    assert links.on_post_page(shown, page, None) == "".join(f'<a href="../{name}/">' for name in named)
    page.file.src_uri = "data.md"
    assert links.on_post_page(shown, page, None) == shown
    assert OmegaConf.load(ROOT / "mkdocs.yml").hooks == ["docs/links.py"]


# --- what is made, and keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path,text", make.pages().items(), ids=lambda value: getattr(value, "name", ""))
def test_pages_that_are_made_are_current(path, text):
    assert path.read_text() == text, "run python -m docs.make"


@functools.cache
def known_keys():
    """Every key of a command or an experiment, and of every loss."""
    files = [*(ROOT / "config").glob("*.yaml"), *(ROOT / "experiments").glob("*.yaml")]
    keys = {key for path in files if path.stem != "recipes" for key in keys_of(path)}
    for path in (ROOT / "config" / "loss").glob("*.yaml"):
        keys |= {f"loss.{key}" for key in OmegaConf.load(path)["loss"]}
    return keys | {"weight", "n", "split", "name"}  # the last ones: of an entry of `datasets`


# keys of other tools and of scripts, which pages name
OF_OTHERS = {
    "pretrained",
    "dtype",
    "num_labels",
    "assistant_only_loss",
    "columns",
    "key",
    "rounds",
    "samples",
}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_keys_that_a_page_names_exist(path):
    spans = re.findall(r"`([^`\n]+)`", path.read_text())
    named = {key for span in spans for key in re.findall(r"(?:^| )([a-z][a-z_]+(?:\.[a-z_]+)?)=", span)}
    assert not named - known_keys() - OF_OTHERS


def test_keys_that_are_the_same_as_elsewhere_exist():
    text = (ROOT / "docs" / "from_dpo.md").read_text()
    same = text[text.index("The same as there") : text.index("Spelled otherwise")]
    spans = re.findall(r"`([^`\n]+)`", same)
    keys = [re.match(r"[a-z_.]+", span)[0] for span in spans if not span.startswith("config/")]
    assert len(keys) > 20
    assert not [key for key in keys if key not in {*known_keys(), "wandb."}]


def test_keys_of_other_repositories_are_none_of_ours_and_what_stands_for_them_is():
    others = {**elsewhere.DPO, **elsewhere.NCA}
    assert not set(others) & known_keys()
    for here in [*others.values(), *elsewhere.CHOICES.values()]:
        for key in re.findall(r"`([a-z_.]+)(?:=[^`]*)?`", here):
            assert key in known_keys(), here


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        other = path.parent / file if file else path
        assert other.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", other.read_text(), re.M)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 1250  # with its table and its blocks


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
    rows = [line.strip() for line in lines if line.strip().startswith("{") and line.endswith("}")]
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
