"""What a model card says of a run's loss and keys: the papers, and the keys that counted."""

import re

import pytest
from export_helpers import exported, run_with_audit, with_keys
from helpers import ROOT, compose
from omegaconf import OmegaConf

from handoff.papers import papers_of
from handoff.story import keys_that_count

FILES = sorted(path.stem for path in (ROOT / "config" / "loss").glob("*.yaml"))
ROWS = [line for line in (ROOT / "docs" / "objectives.md").read_text().splitlines() if line.startswith("| `")]


def of_config(*overrides):
    """The papers of a composed config's loss."""
    loss = OmegaConf.to_container(compose(*overrides), resolve=True)["loss"]
    return papers_of(loss.pop("name"), loss)


@pytest.mark.parametrize("file", [file for file in FILES if file != "sft"])
def test_every_loss_has_the_paper_of_its_row(file):
    (row,) = [row for row in ROWS if f"`{file}`" in row.split("|")[1]]
    named = set(re.findall(r"abs/([\d.]+)\)", row))
    found = {paper.arxiv for paper in of_config(f"loss={file}")}
    assert found and named <= found


@pytest.mark.parametrize(
    "overrides,keys",
    [
        (["loss=sft"], []),
        (["loss=rpo"], ["dpo", "rpo"]),
        (["loss=cdpo"], ["dpo"]),
        (["loss=plackett_luce"], ["dpo"]),
        (["loss=infonca_preference"], ["nca"]),
        (["loss=slic"], ["slic"]),
        (["loss=slic", "loss.reference_free=false"], ["slic", "rso"]),
        (["loss=gdpo"], ["gdpo", "dpo"]),
        (["loss=gdpo", "+loss.preference_keys.nll_weight=1.0"], ["gdpo", "dpo", "rpo"]),
        (["loss=gdpo_calibration"], ["gdpo"]),
        (["loss=gdpo_kto"], ["gdpo", "kto"]),
        (["loss=gdpo", "loss.preference=kto"], ["gdpo", "kto"]),
        (["loss=gdpo_swepo"], ["gdpo", "swepo"]),
        (["loss=gdpo", "loss.preference=mine:own"], ["gdpo"]),
    ],
)
def test_the_keys_of_a_loss_say_which_papers_it_is_of(overrides, keys):
    assert [paper.key for paper in of_config(*overrides)] == keys


def test_a_card_has_the_keys_that_counted_and_no_others():
    config = {"warmup_steps": 150, "n_epochs": 1, "n_examples": None, "warmup_ratio": None, "lr": 1e-6}
    assert keys_that_count(config) == {"warmup_steps": 150, "n_epochs": 1, "lr": 1e-6}
    config |= {"warmup_ratio": 0.1, "n_examples": 64, "lora": {"rank": None, "dropout": 0.0, "alpha": 16}}
    assert keys_that_count(config) == {"warmup_ratio": 0.1, "n_examples": 64, "lr": 1e-6}
    config |= {"lora": {"rank": 4, "dropout": 0.1}, "optimizer_keys": {"betas": [0.9, 0.95]}}
    told = keys_that_count(config)
    assert (told["lora.rank"], told["lora.dropout"]) == (4, 0.1)
    assert told["optimizer_keys.betas"] == [0.9, 0.95]


def test_a_card_tells_the_schedule_the_optimizer_and_all_papers(tmp_path):
    run, to = run_with_audit(tmp_path / "out" / "gdpo"), tmp_path / "to"
    changes = {"lr_schedule": "cosine", "warmup_ratio": 0.1, "optimizer_keys": {"betas": [0.9, 0.95]}}
    with_keys(run, loss={"name": "gdpo", "preference": "kto"}, **changes)
    exported(f"ckpt={run}", f"to={to}")
    text = (to / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| ([\w.]+) +\|", text.replace("\\", ""), re.M)
    assert {*changes, "weight_decay", "max_grad_norm"} - {"optimizer_keys"} < set(shown)
    assert "optimizer_keys.betas" in shown and "warmup_steps" not in shown
    assert "arXiv 2412.20299" in text and "arXiv 2402.01306" in text
