"""The experiment on opinions: numbers in plain floats, findings by their rules, and from runs to a page."""

import json
import statistics
import sys

import numpy as np
import pytest
from data_helpers import write
from helpers import compose, save_tiny

import evaluate
import train
from experiments import belief_pages, collecting, findings, margins
from experiments.cells import in_order
from experiments.collapse import optimum
from experiments.collecting import thinned
from experiments.findings import Claim, judge, verdict_of
from experiments.keys import read_keys
from experiments.numbers import Numbers, Part
from experiments.opinions import HERE, OpinionsSettings, cells_of, checked, results_of, wanted_of
from experiments.results import read_results, write_results
from utils import UserError

PART = Part("opinions/democrat", "eval")
QUESTIONS = [f"q{i}" for i in range(20)]
HOSTILE = "<script>alert(1)</script> | a\nb *c*"


def line(method, metric, values, seed="0", part=PART):
    row = {"group": part.group, "split": part.split, "method": method, "seed": seed, "metric": metric}
    return {**row, "values": values}


def results(*values, weights=None, **more):
    """A results' file of these lines."""
    count = len(values[0]["values"]) if values else len(QUESTIONS)
    asked = {"group": PART.group, "split": PART.split, "prompts": count}
    settings = {"name": "made-up", "model": "m", "groups": [PART.group], "seeds": ["0"], "paper": True}
    questions = {**asked, "questions": QUESTIONS[:count], "weights": weights or [1.0] * count}
    made = {
        "cpu": "2 cores",
        "gpus": [],
        "commit": "abc",
        "versions": {"torch": "2"},
        "measured": dict.fromkeys(("n_samples", "max_new_tokens", "temperature", "judge", "embedder"), 1),
    }
    found = {
        "settings": {**settings, "train": [], "evaluate": []},
        "made": made,
        "questions": [questions],
        "values": list(values),
        "references": [],
        "curves": [],
        "answers": [],
        "collapse": None,
        "cells": [{"cell": "a", "seconds": 90.0, "command": "python train.py"}],
    }
    return json.loads(json.dumps({**found, **more}))


def around(mean, seed=0, count=20):
    """(Q,) values of this mean."""
    noise = np.random.default_rng(seed).normal(0, 0.01, count)
    return (mean + noise - noise.mean()).tolist()


# --- numbers ------------------------------------------------------------------------------------------------


def test_values_are_averaged_over_seeds_question_by_question_and_then_weighted():
    given = [line("sft", "cbc", [0.2, 0.4, None], "0"), line("sft", "cbc", [0.4, None, None], "1")]
    numbers = Numbers(results(*given, weights=[1.0, 3.0, 1.0]))
    assert numbers.mean_over_seeds(PART, "sft", "cbc") == [pytest.approx(0.3), 0.4, None]
    found = numbers.summary(PART, "sft", "cbc")
    assert found["value"] == pytest.approx((0.3 + 3 * 0.4) / 4) and found["n"] == 2
    assert numbers.summary(PART, "sft", "bpc") is None


def test_one_question_says_nothing_of_the_spread():
    found = Numbers(results(line("gdpo", "margin_minority", [0.3]))).summary(PART, "gdpo", "margin_minority")
    assert found == {"value": 0.3, "low": None, "high": None, "n": 1}
    assert verdict_of(found, "above") == "not measured"


def test_the_spread_is_of_the_means_under_each_seed():
    given = [line("sft", "cbc", [a, a + 0.2], str(i)) for i, a in enumerate((0.1, 0.4, 0.3))]
    spread = Numbers(results(*given, weights=[1.0, 3.0])).spread(PART, "sft", "cbc")
    means = [a + 0.15 for a in (0.1, 0.4, 0.3)]
    assert spread == pytest.approx((statistics.stdev(means), min(means), max(means)))
    assert Numbers(results(given[0])).spread(PART, "sft", "cbc").sd is None


def test_differences_are_paired_by_question_and_adjusted_over_all_comparisons_of_a_measure():
    hard = np.linspace(0, 1, 20)  # questions differ much, rows little
    rows = {"sft": hard, "dpo": hard + around(0.05, 1), "gdpo": hard - around(0.05, 2)}
    numbers = Numbers(results(*(line(m, "js_distance_probability", v.tolist()) for m, v in rows.items())))
    compared = numbers.compared(PART, "js_distance_probability", ("sft", "dpo"))
    assert [(c.a, c.b) for c in compared] == [("dpo", "sft"), ("gdpo", "sft"), ("gdpo", "dpo")]
    assert [c.difference["value"] for c in compared] == pytest.approx([0.05, -0.05, -0.1])
    assert all(c.difference["low"] * c.difference["high"] > 0 for c in compared)
    ordered = sorted(c.difference["p"] for c in compared)
    assert min(c.p_holm for c in compared) == pytest.approx(min(3 * ordered[0], 1))


@pytest.mark.parametrize("change", [{"values": [{}]}, {"questions": None}, {"values": [line("a", "b", [1])]}])
def test_damaged_results_are_a_users_error(change):
    with pytest.raises(UserError, match="results: damaged"):
        Numbers(results(line("a", "b", [1.0, 2.0]), **change))


# --- findings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "low,high,rule,verdict",
    [
        (0.1, 0.2, "above", "seen"),
        (-0.1, 0.2, "above", "not seen"),
        (-0.2, -0.1, "above", "contradicted"),
        (-0.2, -0.1, "not above", "seen"),
        (-0.1, 0.2, "not above", "seen"),
        (0.1, 0.2, "not above", "contradicted"),
        (-0.1, 0.2, "not below", "seen"),
        (-0.2, -0.1, "not below", "contradicted"),
        (None, None, "above", "not measured"),
    ],
)
def test_a_verdict_follows_its_rule(low, high, rule, verdict):
    assert verdict_of({"value": 0.0, "low": low, "high": high, "n": 3}, rule) == verdict


def test_the_findings_of_the_paper_are_seen_on_numbers_like_its_own():
    of_rows = {
        "few_shot": (0.5, 0.24, 0.16, 0.2),
        "icf": (0.27, 0.83, 0.39, 0.42),
        "sft": (0.26, 0.85, 0.40, 0.43),
        "dpo": (0.38, 0.77, 0.44, 0.46),
        "gdpo": (0.19, 0.86, 0.63, 0.48),
    }
    given = []
    for number, (method, means) in enumerate(of_rows.items()):
        metrics = ("js_distance_probability", "cbc", "bpc", "rs")
        given += [line(method, metric, around(m, number)) for metric, m in zip(metrics, means)]
    for method, minority, bpc in (("dpo", -0.1, 0.2), ("gdpo", 1.0, 0.5), ("sft", None, 0.3)):
        given.append(line(method, "bpc_minority", around(bpc, 9)))
        if minority is not None:
            given.append(line(method, "margin_minority", around(minority, 5)))
    given.append(line("gdpo", "belief_dependence", around(0.2)))
    judged = judge(Numbers(results(*given)), PART)
    assert {j.claim.finding for j in judged} == {1, 2, 3, 4}
    assert [j.verdict for j in judged] == ["seen"] * len(judged)


def test_what_the_numbers_contradict_or_leave_open_is_said():
    given = [line("sft", "js_distance_probability", around(0.2, 1))]
    given.append(line("gdpo", "js_distance_probability", around(0.3, 2)))
    given.append(line("dpo", "js_distance_probability", around(0.2, 3)))
    judged = [j for j in judge(Numbers(results(*given)), PART) if j.claim.finding == 2]
    assert [j.verdict for j in judged] == ["not seen", "contradicted"]
    assert findings.whole(judged) == "0 of 2 parts seen, 1 not seen, 1 contradicted"
    assert findings.whole(judged[:1]) == "not seen"
    assert findings.words_of(Claim(1, "x", "gdpo", "dpo", "above")) == "GDPO - DPO"


# --- theory and curves --------------------------------------------------------------------------------------


def test_the_optimum_of_dpo_at_beta_a_tenth_is_p_to_the_tenth_power():
    p = np.asarray([0.06, 0.56, 0.24, 0.08, 0.06])
    flat = np.full(5, 0.2)
    assert optimum(flat, p, 0.1).round(4).tolist() == [0.0, 0.9998, 0.0002, 0.0, 0.0]
    assert optimum(flat, p, 1.0) == pytest.approx(p)
    reference = np.asarray([0.5, 0.1, 0.1, 0.2, 0.1])
    expected = reference * p**2
    assert optimum(reference, p, 0.5) == pytest.approx(expected / expected.sum())
    assert optimum(reference, np.asarray([0.5, 0.5, 0, 0, 0]), 0.1)[2:].tolist() == [0, 0, 0]


def test_a_curve_is_thinned_to_means_of_neighbours():
    x, y = thinned(range(80), [float(i % 2) for i in range(80)])
    assert len(x) == 40 and set(y) == {0.5} and x[:2] == [0.5, 2.5]
    assert thinned([1, 2], [3.0, 4.0]) == ([1, 2], [3.0, 4.0])


# --- the page -----------------------------------------------------------------------------------------------


def test_the_page_is_made_of_the_results_file_alone_and_escapes_what_models_write(tmp_path):
    answer = {"group": PART.group, "split": PART.split, "seed": "0", "question": "q", "prompt": HOSTILE}
    answer |= {"label": "4", "belief": HOSTILE, "share": 0.4, "method": "gdpo", "response": HOSTILE}
    curve = {"group": PART.group, "method": "gdpo", "key": "rewards_train/margins_minority"}
    curves = [{**curve, "seed": str(s), "x": [8, 16, 24], "y": [0.1 + s, 0.2, 0.3]} for s in range(2)]
    point = {"beta": 0.1, "majority": 0.9, "js_distance": 0.4}
    collapse = {"group": PART.group, "split": "eval", "seed": "0", "theory": [point], "points": [point]}
    given = results(
        line("sft", "js_distance_probability", around(0.3)),
        line("gdpo", "js_distance_probability", around(0.2)),
        answers=[{**answer, "consistent": True}, {**answer, "response": None, "consistent": None}],
        curves=curves,
        collapse={**collapse, "sft": point, "group_itself": point},
        references=[
            {"group": PART.group, "split": "eval", "row": "(uniform over options)"}
            | {"metric": "js_distance_probability", "value": 0.213, "low": 0.187, "high": 0.241, "n": 20}
        ],
    )
    write_results(tmp_path / "made-up.json", given)
    page = belief_pages.publish(read_results(tmp_path / "made-up.json"), tmp_path / "docs")
    text = page.read_text()
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "| 0.213 [0.187, 0.241]" in text and "GDPO - SFT" in text
    assert "paper: United States, GPT-2 Large" in text and "0.188 / 0.860 / 0.627 / 0.479" in text
    for name in ("margins", "collapse"):
        assert f"(made-up-{name}.svg)" in text
        assert (tmp_path / "docs" / f"made-up-{name}.png").stat().st_size > 5_000
    belief_pages.publish(given, tmp_path / "again")
    assert (tmp_path / "again" / "made-up.md").read_text() == text


def test_results_without_what_a_page_needs_are_a_users_error(tmp_path):
    with pytest.raises(UserError, match="results: damaged"):
        belief_pages.publish({**results(line("sft", "cbc", [1.0, 2.0])), "made": {}}, tmp_path)
    assert not list(tmp_path.iterdir())


# --- from runs to a page ------------------------------------------------------------------------------------


def question(i, shares):
    """A prompt with p* and an answer for each of three options."""
    beliefs = [
        ("5", "Agree", "I am for it."),
        ("3", "Neither", "I do not care."),
        ("1", "Disagree", "Stop it!"),
    ]
    responses = [{"text": text, "belief": {"class": c, "text": words}} for c, words, text in beliefs]
    p = [0, shares[2], 0, shares[1], 0, shares[0]]
    return {"id": f"q{i}", "prompt": f"Is number {i} good?", "responses": responses, "belief_probs": p}


def run_in_this_process(cell, monkeypatch):
    """What a cell's command would do."""
    name, *arguments = cell.command
    if name == "train.py":
        train.main(compose(*arguments))
    elif name == "evaluate.py":
        evaluate.main(compose(*arguments, name="evaluate"))
    else:
        monkeypatch.setattr(sys, "argv", ["margins", *arguments[1:]])
        margins.main()


def test_two_groups_go_from_nothing_to_a_page_on_a_tiny_model(tmp_path, monkeypatch):
    groups = []
    for name, shares in (("left", (0.7, 0.2, 0.1)), ("right", (0.1, 0.3, 0.6))):
        rows = [question(i, shares) for i in range(12)]
        groups.append(write(tmp_path / f"{name}.jsonl", *rows))
    tiny = save_tiny(tmp_path / "tiny")
    arguments = [
        f"groups=[{','.join(groups)}]",
        "seeds=[0]",
        "methods=[sft,dpo,gdpo]",
        "collapse_betas=[0.5]",
        f"train=[model.name_or_path={tiny},n_examples=16,batch_size=8,pairs_per_prompt=2,eval_fraction=0.3]",
        "evaluate=[n_samples=2,max_new_tokens=12]",
        f"output_dir={tmp_path / 'out'}",
    ]
    settings = checked(read_keys(OpinionsSettings, HERE / "opinions.yaml", arguments, {}))
    cells = in_order(list(cells_of(settings)))
    for cell in cells:
        run_in_this_process(cell, monkeypatch)
        assert cell.makes.exists(), cell.name
    found = {
        "settings": results_of(settings),
        **collecting.collect(cells, settings.folder, wanted_of(settings)),
    }
    write_results(tmp_path / "opinions.json", found)
    numbers = Numbers(read_results(tmp_path / "opinions.json"))
    assert [part.group for part in numbers.parts] == groups
    for part in numbers.parts:
        (report,) = (settings.folder / part.group.split("/")[-1].split(".")[0]).glob(
            "*/evaluations/gdpo-test"
        )
        expected = json.loads((report / "report.json").read_text())["checkpoints"]["gdpo"]
        for metric in ("js_distance_probability", "js_distance_sampling", "cbc", "bpc", "rs"):
            ours = numbers.summary(part, "gdpo", metric)
            assert ours["value"] == pytest.approx(expected[metric]["value"], abs=1e-4), metric
        for side in ("margin_majority", "margin_minority"):
            assert numbers.summary(part, "dpo", side) is not None
            assert numbers.summary(part, "sft", side) is None
    page = belief_pages.publish(read_results(tmp_path / "opinions.json"), tmp_path / "docs")
    assert "The collapse of DPO" in page.read_text()
