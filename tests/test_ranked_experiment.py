"""The experiment on ranked responses: which rows are runs, what they see, and the page of made-up results."""

import json
import sys

import pytest
import torch
from data_helpers import write
from loss_helpers import ranked as scores_of

import losses
from experiments import ranked, ranked_collecting, ranked_methods, ranked_pages
from experiments.keys import read_keys
from experiments.ranked_methods import DPO_OF_TWO, METHODS, Load, Row
from groups.views import best_vs_worst, with_fewer_responses
from preference_datasets import load_groups
from utils import UserError


def rows_with(rewards, count=3):
    """Prompts of one file, each with responses of these rewards."""
    return [
        {
            "prompt": f"Question {i}?",
            "responses": [{"text": f"Answer {j}.", "reward": r} for j, r in enumerate(rewards)],
        }
        for i in range(count)
    ]


def settings_of(tmp_path, *keys):
    places = (f"output_dir={tmp_path}", f"results_dir={tmp_path}", f"docs_dir={tmp_path}")
    return read_keys(ranked.RankedSettings, ranked.FILE, [*places, *keys], {})


# --- rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", DPO_OF_TWO)
def test_of_two_responses_rows_that_are_one_run_have_one_loss(method):
    keys = dict(key.removeprefix("loss.").split("=") for key in METHODS[method].keys)
    keys = {name: int(value) if value.isdigit() else value for name, value in keys.items()}
    of_two = scores_of([[0.7, -2.0]], [[7.5, 2.0]])
    if METHODS[method].loss == "swepo":
        keys["alpha"] = 0.01
    found = losses.LOSSES[METHODS[method].loss](of_two, beta=0.1, **keys)
    assert torch.allclose(found, losses.dpo(of_two, beta=0.1))


def test_signed_weights_of_two_responses_are_no_dpo():
    of_two = scores_of([[0.7, -2.0]], [[7.5, 2.0]])
    signed = losses.swepo(of_two, beta=0.1, alpha=0.5, weighting="signed")
    assert not torch.allclose(signed, losses.dpo(of_two, beta=0.1))


def test_rows_that_are_one_run_are_run_once():
    rows = ranked_methods.rows_of(list(METHODS), [2, 4])
    assert len(rows) == len(set(rows)) == 4 + 10
    equal = ranked_methods.equal_rows(list(METHODS), [2, 4])
    assert equal["dpo@4"] == equal["swepo_p1@2"] == "dpo@2" and "nca@2" not in equal


def test_the_view_of_two_is_the_same_pair_at_every_k(tmp_path):
    (group, *_) = load_groups(write(tmp_path / "a.jsonl", *rows_with([3, 9, 1, 5])), "all")
    pairs = []
    for k in (2, 3, 4):
        kept = with_fewer_responses(group, k, seed=0)
        ((best, worst),) = best_vs_worst(kept, 0)
        pairs.append((kept.responses[best].text, kept.responses[worst].text))
    assert len(set(pairs)) == 1


def test_every_row_sees_as_many_responses(tmp_path):
    groups = load_groups(write(tmp_path / "a.jsonl", *rows_with([3, 9, 1, 1])), "all")
    loads = {
        name: ranked_methods.load_of(Row(name, 4), groups) for name in ("dpo", "dpo_rest", "dpo_all", "nca")
    }
    assert loads["dpo"] == Load(2, 1.0) and loads["nca"] == Load(4, 1.0)
    assert loads["dpo_rest"] == Load(4, 3.0) and loads["dpo_all"] == Load(4, 5.0)  # one of six is a tie
    for load in loads.values():
        assert load.examples_of(48) * load.responses / load.examples == 48
    with pytest.raises(UserError, match="no prompt has 8"):
        ranked_methods.load_of(Row("nca", 8), groups)


# --- cells --------------------------------------------------------------------------------------------------


def cells_of(settings, speeds=None):
    return {cell.name: cell for cell in ranked.cells_of(settings, ranked.loads_of(settings), speeds or {})}


def test_cells_share_the_budget(tmp_path):
    path = write(tmp_path / "a.jsonl", *rows_with([3, 9, 1, 5]))
    keys = ("counts=[2,4]", "methods=[dpo,swepo_p1]", "seeds=[7]", "responses=64", "step_responses=8")
    cells = cells_of(settings_of(tmp_path, f"dataset={path}", *keys))
    assert list(cells) == [
        "seed-7/dpo@2",
        "seed-7/swepo_p1@4",
        "seed-7/base@test",
        "seed-7/dpo@2@test",
        "seed-7/swepo_p1@4@test",
    ]
    assert {"n_examples=32", "batch_size=4", "seed=7"} <= set(cells["seed-7/dpo@2"].command)
    assert {"n_examples=16", "batch_size=2", "max_responses=4"} <= set(cells["seed-7/swepo_p1@4"].command)
    assert cells["seed-7/dpo@2@test"].needs == ("seed-7/dpo@2",)


def test_equal_time_goes_by_the_speeds_that_were_measured(tmp_path):
    path = write(tmp_path / "a.jsonl", *rows_with([3, 9, 1, 5]))
    keys = (f"dataset={path}", "counts=[2]", "methods=[dpo]", "seeds=[0]", "budget=seconds", "seconds=10")
    settings = settings_of(tmp_path, *keys)
    assert "n_examples=20" in cells_of(settings, {"dpo@2": 4.0})["seed-0/dpo@2"].command
    with pytest.raises(UserError, match="was not measured"):
        cells_of(settings)


def test_one_round_on_policy_stands_beside_one_on_the_same_data(tmp_path):
    cells = cells_of(settings_of(tmp_path, "counts=[8]", "methods=[swepo_p1]", "seeds=[0]"))
    own, on, again = (
        cells[f"seed-0/{n}"] for n in ("own-responses", "swepo_p1_on_policy@8", "swepo_p1_again@8")
    )
    assert own.needs == again.needs == ("seed-0/swepo_p1@8",) and on.needs == ("seed-0/own-responses",)
    assert any(str(own.makes) in word for word in on.command)
    assert set(again.command) - set(on.command) == {"datasets=['instructions']", "exp_name=swepo_p1_again@8"}


@pytest.mark.parametrize("keys", ["methods=[dop]", "counts=[1]", "model=x", "train=[seed=1]", "budget=x"])
def test_wrong_keys_are_refused(tmp_path, keys):
    with pytest.raises(UserError):
        ranked.checked(settings_of(tmp_path, keys))


# --- results ------------------------------------------------------------------------------------------------


def test_wins_are_counted_over_all_pairs_of_responses():
    assert ranked_collecting.win_rate([5, 1], [1, 3]) == (1 + 1 + 0.5 + 0) / 4
    assert ranked_collecting.wins({"a": [1], "b": [2]}, {"a": [0]}) == {"a": 1.0}


def made_up():
    """Two prompts, two seeds; the base model, DPO, and Swepo two points above both."""
    values = []
    for seed in ("0", "1"):
        for row, rewards in (("base", [3.0, 5.0]), ("dpo@2", [3.0, 5.0]), ("swepo_p1@4", [5.0, 7.0])):
            values.append({"method": row, "seed": seed, "metric": "true_reward", "values": rewards})
            if row != "base":
                values.append({"method": row, "seed": seed, "metric": "set_accuracy", "values": [0, 1]})
    part = {"group": "instructions", "split": "test"}
    return {
        "settings": {
            "name": "ranked", "model": "smollm2", "seeds": ["0", "1"], "train": [],
            "evaluate": ["n_samples=2"],
            "budget": "responses", "responses": 512, "size": 1, "step_responses": 32,
        },
        "made": {"commit": "0" * 7, "cpu": "2 cores", "gpus": [], "versions": {"torch": "2"}},
        "questions": [{**part, "prompts": 2, "questions": ["a", "b"], "weights": [1, 1]}],
        "values": [{**part, **line} for line in values],
        "references": [],
        "equal": {"swepo_p1@2": "dpo@2"},
        "speeds": [
            {"row": row, "seed": "0", "examples": 8, "responses": 32, "seconds": 4.0, "whole_seconds": 9.0}
            for row in ("dpo@2", "swepo_p1@4")
        ],
        "cells": [],
    }  # fmt: skip


def test_the_page_says_what_the_results_hold(tmp_path):
    page = ranked_pages.publish(made_up(), tmp_path).read_text()
    assert "| Swepo, p = 1, k = 4 | 6.000" in " ".join(page.split())
    assert "| reward | Swepo, p = 1, k = 4 - DPO, best vs worst | 2.000" in " ".join(page.split())
    assert "swepo_p1@2 is DPO, best vs worst" in page and "JSD" not in page
    for name in ("ranked-k.svg", "ranked-differences.png"):
        assert (tmp_path / name).is_file()


def test_without_a_computed_reward_the_columns_are_left_out(tmp_path):
    results = made_up()
    results["values"] = [line for line in results["values"] if line["metric"] != "true_reward"]
    page = ranked_pages.publish(results, tmp_path).read_text()
    assert "Sampled responses" not in page and "set accuracy over k" in page


def test_damaged_results_are_refused(tmp_path):
    with pytest.raises(UserError, match="damaged"):
        ranked_pages.publish({**made_up(), "speeds": None}, tmp_path)
    with pytest.raises(UserError, match="damaged"):
        ranked_collecting.speeds_of({"speeds": [{}]}, tmp_path / "ranked.json")


def test_a_row_that_is_no_run_has_the_speed_of_the_run_it_is_equal_to(tmp_path):
    speeds = ranked_collecting.speeds_of(made_up(), tmp_path / "ranked.json")
    assert speeds == {"dpo@2": 8.0, "swepo_p1@4": 8.0, "swepo_p1@2": 8.0}


def test_tables_alone_read_no_data(tmp_path, monkeypatch):
    (tmp_path / "ranked.json").write_text(json.dumps(made_up()))
    monkeypatch.setattr(ranked, "load_groups", lambda *a: pytest.fail("data was read"))
    keys = [
        "ranked",
        "tables=true",
        f"results_dir={tmp_path}",
        f"docs_dir={tmp_path}",
        f"output_dir={tmp_path}",
    ]
    monkeypatch.setattr(sys, "argv", keys)
    ranked.main()
    assert (tmp_path / "ranked.md").is_file()
