"""A function of the user's as the reward, constraints in rows of their own, and keys that go with rewards."""

import pytest
from data_helpers import write
from helpers import json_lines, save_tiny
from reward_helpers import NAMES, evaluate_models, mean, row

import evaluate
import groups
from rewards import constraints_of
from utils import UserError


@pytest.fixture
def models(tmp_path):
    return [save_tiny(tmp_path / name, seed=seed) for seed, name in enumerate(NAMES)]


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "asked.jsonl", *map(row, range(6)))


FUNCTIONS = """
import numpy
def length(prompt, response):
    return len(response) / 7
def raises(prompt, response):
    raise ValueError("two\\nlines")
def nothing(prompt, response):
    pass
def nan(prompt, response):
    return numpy.float32("nan")
def leaves(prompt, response):
    raise SystemExit(0)
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """The name of a module with functions."""
    name = f"scored_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_function_says_the_reward_of_any_prompt_without_beliefs(tmp_path, models, functions):
    plain = {"id": "s", "prompt": "Say s", "responses": [{"text": "So."}]}
    path = write(tmp_path / "mixed.jsonl", *map(row, range(2)), plain)
    reward_of = f"reward={functions}:length"
    table, lines = evaluate_models(models[:2], path, tmp_path / "report", reward_of)
    sampled = [line for line in lines if line["checkpoint"] == "one" and "response" in line]
    assert len(sampled) == 9
    cells = table["checkpoints"]["one"]
    assert cells["true_reward"]["value"] == pytest.approx(mean(len(line["response"]) for line in sampled) / 7)
    assert cells["true_reward"]["n"] == 3
    assert cells["constraints_met"]["n"] == 2  # the others state none
    assert table["settings"]["judges"]["true_reward"] == f"{functions}:length"
    assert f"reward ({functions}:length)" in (tmp_path / "report" / "report.md").read_text().replace("\\", "")


@pytest.mark.parametrize(
    "name,message",
    [
        ("raises", "raised ValueError: two lines"),
        ("nothing", "gave None, which is no finite number"),
        ("nan", "no finite number"),
        ("leaves", "raised SystemExit"),
        ("missing", "there is no missing in"),
        ("length.__doc__", "is no function"),
    ],
)
def test_a_bad_function_is_one_line_that_names_it(tmp_path, models, file, functions, name, message):
    with pytest.raises(UserError, match=f"^reward={functions}:{name}: ") as caught:
        evaluate_models(models[:1], file, tmp_path / "report", f"reward={functions}:{name}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["reward=len"], "config key reward=len: must name a function, reward=module:function"),
        (["reward=no_such_module:f"], "reward=no_such_module:f: there is no module"),
        (["reward=math:fsum", "n_samples=0"], "needs responses, and n_samples=0"),
        (["reward=math:fsum", "task=prompts"], "set judge=math:fsum instead"),
        (["reward=math:fsum", "datasets=[opinions/republican]", "split=test"], "without belief_probs"),
        (["baseline=BASE", "n_samples=0"], "baseline=.*: is for wins .* n_samples=0; leave it out"),
        (["baseline=BASE", "datasets=[PLAIN]"], "no prompt states constraints; leave it out, or set reward"),
        (["baseline=ONE"], "is the checkpoint itself"),
        (["baseline=answers.json"], "a file of answers is for tasks; give a checkpoint"),
    ],
)
def test_keys_that_would_be_ignored_are_refused_before_any_work(
    tmp_path, models, file, monkeypatch, overrides, message
):
    monkeypatch.setattr(evaluate, "measure", None)
    plain = {"prompt": "Say s", "responses": [{"text": "So."}]}
    places = {"BASE": models[0], "ONE": models[1], "PLAIN": write(tmp_path / "plain.jsonl", plain)}
    for name, place in places.items():
        overrides = [override.replace(name, str(place)) for override in overrides]
    with pytest.raises(UserError, match=message) as caught:
        evaluate_models(models[1:2], file, tmp_path / "report", *overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "constraints,message",
    [
        ([{"kind": "rhyme"}], "row 1: field constraints: kind 'rhyme' is unknown"),
        ([], "field constraints: missing or empty"),
        ("words", "field constraints: missing or empty"),
        ([{"kind": "words", "at_least": 3, "at_most": 1}], "at_least 3 is above at_most 1"),
    ],
)
def test_constraints_of_a_row_that_are_none_are_named(tmp_path, constraints, message):
    path = write(tmp_path / "bad.jsonl", row(0, constraints=constraints))
    with pytest.raises(UserError, match=message):
        groups.parse_group(json_lines(tmp_path / "bad.jsonl")[0], f"{path}, row 1")


def test_a_table_may_have_nulls_for_what_other_kinds_take():
    rows = [{"kind": "words", "at_least": None, "at_most": 4, "phrase": None}]
    group = groups.parse_group(row(0, constraints=rows), "here")
    assert group.constraints == constraints_of([{"kind": "words", "at_most": 4}], "here")
