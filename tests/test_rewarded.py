"""Rewards that a program computes, of responses that are sampled: measures, wins, bad functions, the page."""

import html
import json
import re

import numpy as np
import pytest
from data_helpers import write
from helpers import evaluation, json_lines, save_tiny
from report_helpers import HOSTILE, write_evaluation
from test_report_page import Elements

import evaluate
import groups
from evaluation import report, rewarded
from generation.local import LocalGenerator
from reporting.page import html_page
from reporting.prompt_rewards import prompt_rewards
from reporting.reading import read_story
from reporting.writing import write_page
from rewards import constraints_of, reward, satisfaction
from utils import UserError

QUICK = ["split=all", "n_samples=3", "max_new_tokens=6"]
ASKED = [
    [{"kind": "words", "at_least": 3, "at_most": 9}],
    [{"kind": "no_digits"}, {"kind": "no_commas"}],
    [{"kind": "lower_case"}, {"kind": "includes", "texts": ["sun"]}, {"kind": "words", "at_most": 4}],
]
NAMES = ("base", "one", "two")


def row(i, **fields):
    """A prompt with ranked responses that states constraints."""
    responses = [{"text": f"It is {i}.", "reward": 3}, {"text": "No.", "reward": 1}]
    asked = {"constraints": ASKED[i % len(ASKED)]}
    return {"id": f"p{i}", "prompt": f"Say {i}", "responses": responses, **asked, **fields}


@pytest.fixture
def models(tmp_path):
    return [save_tiny(tmp_path / name, seed=seed) for seed, name in enumerate(NAMES)]


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "asked.jsonl", *map(row, range(6)))


def evaluate_models(models, file, output, *overrides):
    """Evaluate; (report.json, predictions.jsonl)."""
    listed = ",".join(models)
    evaluation(f"ckpt=[{listed}]", f"datasets=[{file}]", f"output={output}", *QUICK, *overrides)
    return json.loads((output / "report.json").read_text()), json_lines(output / "predictions.jsonl")


@pytest.fixture
def found(tmp_path, models, file):
    return evaluate_models(models, file, tmp_path / "report")


def rewards_by_hand(lines, name):
    """{prompt's id: the rewards of its samples}, computed anew from the texts."""
    found = {}
    for line in lines:
        if line["checkpoint"] == name and "response" in line:
            asked = constraints_of(ASKED[int(line["id"][1:]) % len(ASKED)], "here")
            found.setdefault(line["id"], []).append(reward(asked, line["response"]))
    return found


def met_by_hand(lines, name):
    """{prompt's id: for every sample, whether each constraint is met}."""
    found = {}
    for line in lines:
        if line["checkpoint"] == name and "response" in line:
            asked = constraints_of(ASKED[int(line["id"][1:]) % len(ASKED)], "here")
            flags = [satisfaction(one, line["response"]) == 1 for one in asked]
            found.setdefault(line["id"], []).append(flags)
    return found


def mean(values):
    return float(np.mean(list(values)))


def wins(ours, theirs):
    return mean(mean([(a > b) + 0.5 * (a == b) for a in ours[p] for b in theirs[p]]) for p in ours)


# --- the numbers --------------------------------------------------------------------------------------------


def test_the_table_is_what_the_predictions_give_by_hand(found):
    table, lines = found
    for name in NAMES:
        of_checkpoint = {metric: cell["value"] for metric, cell in table["checkpoints"][name].items()}
        rewards, met = rewards_by_hand(lines, name), met_by_hand(lines, name)
        sampled = [line for line in lines if line["checkpoint"] == name and "response" in line]
        assert len(rewards) == 6 and all(len(values) == 3 for values in rewards.values())
        assert of_checkpoint["true_reward"] == pytest.approx(mean(map(mean, rewards.values())))
        assert of_checkpoint["true_reward_best"] == pytest.approx(mean(map(max, rewards.values())))
        shares = [mean(mean(flags) for flags in samples) for samples in met.values()]
        assert of_checkpoint["constraints_met"] == pytest.approx(mean(shares))
        whole = [mean(all(flags) for flags in samples) for samples in met.values()]
        assert of_checkpoint["all_constraints_met"] == pytest.approx(mean(whole))
        assert of_checkpoint["response_tokens"] == pytest.approx(mean(line["tokens"] for line in sampled))
        assert of_checkpoint["response_cut_share"] == mean(line["finish"] == "length" for line in sampled)
        cell = table["checkpoints"][name]["true_reward"]
        assert cell["n"] == 6 and cell["low"] <= cell["value"] <= cell["high"]


def test_wins_are_counted_over_all_pairs_of_samples_against_the_first_checkpoint(found):
    table, lines = found
    assert table["settings"]["baseline"] == "base"
    assert "reward_win_rate" not in table["checkpoints"]["base"]
    base = rewards_by_hand(lines, "base")
    for name in ("one", "two"):
        rate = table["checkpoints"][name]["reward_win_rate"]
        assert rate["value"] == pytest.approx(wins(rewards_by_hand(lines, name), base))
        assert rate["n"] == 6


def test_checkpoints_differ_by_the_paired_difference_of_their_rewards(found):
    table, lines = found
    by_pair = {(d["a"], d["b"]): d for d in table["differences"] if d["metric"] == "true_reward"}
    assert set(by_pair) == {("one", "base"), ("two", "base"), ("two", "one")}
    for (a, b), difference in by_pair.items():
        first, second = rewards_by_hand(lines, a), rewards_by_hand(lines, b)
        expected = mean(mean(first[p]) - mean(second[p]) for p in first)
        assert difference["value"] == pytest.approx(expected)
        assert difference["kind"] == "reward"


def test_a_table_of_rewards_stands_beside_that_of_the_order_and_has_no_jsd(found, capsys):
    table, lines = found
    assert {"logp_accuracy", "true_reward"} <= set(table["checkpoints"]["one"])
    assert not any("js_distance" in metric for row in table["checkpoints"].values() for metric in row)
    assert sum("logps" in line for line in lines) == 18
    assert "3 samples for each of 6 prompts whose reward a program computes" in table["settings"]["scope"]


def test_a_line_says_what_its_response_is_worth_and_what_it_misses(found):
    _, lines = found
    for line in lines:
        if "response" in line:
            rows = ASKED[int(line["id"][1:]) % len(ASKED)]
            asked = constraints_of(rows, "here")
            met = [satisfaction(one, line["response"]) for one in asked]
            assert line["satisfactions"] == met
            assert line["reward"] == pytest.approx(10 * mean(met))
            assert line["missed"] == [rewarded.in_words(c) for c, share in zip(asked, met) if share < 1]
    words = constraints_of(ASKED[0], "here")[0]
    assert rewarded.in_words(words) == "words (at least 3, at most 9)"


def test_several_decodings_are_averaged_and_have_a_row_each(tmp_path, models, file):
    table, _ = evaluate_models(models[:2], file, tmp_path / "report", "decoding=[greedy,t0.7]")
    cells = table["checkpoints"]
    for metric in ("true_reward", "reward_win_rate", "true_reward_best"):
        each = [cells[f"one ({decoding})"][metric]["value"] for decoding in ("greedy", "t0.7")]
        assert cells["one"][metric]["value"] == pytest.approx(mean(each))


def test_without_samples_the_order_alone_is_measured(tmp_path, models, file):
    table, lines = evaluate_models(models[:1], file, tmp_path / "report", "n_samples=0")
    assert set(table["checkpoints"]["base"]) == {"logp_best", "logp_others", "logp_accuracy"}
    assert not any("response" in line for line in lines)
    assert table["settings"]["n_samples"] == 0


def test_prompts_whose_ranked_responses_are_equal_are_sampled_on_too(tmp_path, models):
    equal = row(6, responses=[{"text": "a", "reward": 1}, {"text": "b", "reward": 1}])
    path = write(tmp_path / "equal.jsonl", *map(row, range(3)), equal)
    table, _ = evaluate_models(models[:1], path, tmp_path / "report")
    assert table["checkpoints"]["base"]["logp_accuracy"]["n"] == 3
    assert table["checkpoints"]["base"]["true_reward"]["n"] == 4


def test_the_embedded_instructions_hold_what_their_prompts_ask_for():
    held = {group.id: group.constraints for group in groups.read_ranked_instructions("test")}
    assert len(held) == 80
    assert held == {name: groups.constraints_by_id("test")[name] for name in held}


def test_what_is_sampled_on_rewarded_prompts_has_defaults_of_its_own(tmp_path, models, file, capsys):
    evaluation(f"ckpt={models[0]}", f"datasets=[{file}]", "split=all", "check=true", f"output={tmp_path}/r")
    assert "; 4 samples for each of 6 prompts" in capsys.readouterr().out


# --- going on -----------------------------------------------------------------------------------------------


def test_responses_are_not_sampled_again(tmp_path, models, file, monkeypatch):
    whole = evaluate_models(models, file, tmp_path / "whole")
    original, asked = LocalGenerator.write, []

    def counted(self, prompts, draws, *args):
        asked.append((self.name, len(draws)))
        return original(self, prompts, draws, *args)

    monkeypatch.setattr(LocalGenerator, "write", counted)
    with monkeypatch.context() as patch:
        patch.setattr(report, "write_page", None)  # it ends when all but the page is written
        with pytest.raises(TypeError):
            evaluate_models(models[:2], file, tmp_path / "report")
    assert asked == [("base", 18), ("one", 18)]
    asked.clear()
    again = evaluate_models(models, file, tmp_path / "report")
    assert asked == [("two", 18)]
    assert again == whole


def test_a_torn_file_goes_on_with_the_response_that_it_lacks(tmp_path, models, file):
    whole = evaluate_models(models[:1], file, tmp_path / "report")
    path = tmp_path / "report" / "predictions.jsonl"
    kept = [line for line in path.read_text().splitlines(keepends=True) if '"response"' in line]
    path.write_text("".join(kept[:4]) + kept[4][:30])
    assert evaluate_models(models[:1], file, tmp_path / "report") == whole


# --- a function of the user's -------------------------------------------------------------------------------

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
        (["baseline=nowhere/model"], "nowhere"),
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


# --- a baseline ---------------------------------------------------------------------------------------------


def test_a_baseline_is_sampled_too_and_what_wins_are_counted_against(tmp_path, models, file):
    table, lines = evaluate_models(models[:2], file, tmp_path / "report", f"baseline={models[2]}")
    assert list(table["checkpoints"]) == ["two", "base", "one"]
    against = rewards_by_hand(lines, "two")
    for name in ("base", "one"):
        rate = table["checkpoints"][name]["reward_win_rate"]["value"]
        assert rate == pytest.approx(wins(rewards_by_hand(lines, name), against))


def test_a_baseline_among_the_checkpoints_stays_where_it_is(tmp_path, models, file):
    table, _ = evaluate_models(models[:2], file, tmp_path / "report", f"baseline={models[1]}")
    assert list(table["checkpoints"]) == ["base", "one"]
    assert "reward_win_rate" in table["checkpoints"]["base"]
    assert "reward_win_rate" not in table["checkpoints"]["one"]


# --- the page -----------------------------------------------------------------------------------------------


def test_the_page_has_the_table_the_differences_the_prompts_and_what_is_missed(tmp_path, found):
    page, text = [(tmp_path / "report" / f"report.{kind}").read_text() for kind in ("html", "md")]
    table, lines = found
    parsed = Elements(page)
    assert "Rewards of sampled responses" in page and "Reward by prompt" in page
    best = max(NAMES, key=lambda name: table["checkpoints"][name]["true_reward"]["value"])
    assert f"<h1>{best} has the highest reward: " in page
    (data,) = [script for script in parsed.scripts if "rewards" in script]
    means = {name: rewards_by_hand(lines, name) for name in NAMES}
    gaps = []
    for of_prompt in data["rewards"]:
        name = f"p{data['prompts'][of_prompt['prompt']].removeprefix('Say ')}"
        assert of_prompt["means"] == {c: pytest.approx(mean(means[c][name])) for c in NAMES}
        gaps.append(of_prompt["means"]["two"] - of_prompt["means"]["base"])
    assert len(gaps) == 6 and gaps == sorted(gaps, reverse=True)
    shown = {(a["c"], a["text"], tuple(a["missed"]), a["reward"]) for a in data["answers"]}
    names = [checkpoint["name"] for checkpoint in data["checkpoints"]]
    expected = [line for line in lines if "response" in line]
    of_lines = {
        (names.index(x["checkpoint"]), x["response"], tuple(x["missed"]), x["reward"]) for x in expected
    }
    assert shown == of_lines
    assert "## Reward by prompt" in text and "## Rewards of sampled responses" in text
    assert any(script.get("target_id") or "doc" in script for script in parsed.scripts)  # the forest plots


def with_rewards(folder, words=""):
    """A made-up evaluation whose answers have rewards."""
    path = folder / "predictions.jsonl"
    lines = json_lines(path)
    for i, line in enumerate(lines):
        line |= {"reward": float(i % 11), "missed": [f"words (at most 3){words}"] if i % 2 else []}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_hostile_constraints_are_data_on_the_page(tmp_path):
    plain = with_rewards(write_evaluation(tmp_path / "plain", num_prompts=4))
    names = ("a" + HOSTILE, "b<b>", "c")
    hostile = with_rewards(
        write_evaluation(tmp_path / "hostile", num_prompts=4, words=HOSTILE, names=names), HOSTILE
    )
    expected = Elements(html_page(read_story([str(plain)])))
    found = Elements(write_page([str(hostile)]).read_text())
    assert found.tags == expected.tags and found.attributes == expected.attributes
    (data,) = [script for script in found.scripts if "rewards" in script]
    missed = [text for answer in data["answers"] for text in answer["missed"]]
    assert missed and all(text == f"words (at most 3){HOSTILE}" for text in missed)
    markdown = (tmp_path / "hostile" / "report.md").read_bytes().decode()
    assert not any("<" in line for line in markdown.splitlines() if not line.startswith("    "))


def test_fields_that_are_no_rewards_are_named(tmp_path):
    folder = with_rewards(write_evaluation(tmp_path / "report", num_prompts=2))
    path = folder / "predictions.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    for field, value in (("reward", "much"), ("missed", [1])):
        path.write_text(json.dumps({**json.loads(first), field: value}) + "\n" + "".join(others))
        with pytest.raises(UserError, match=f"line 1: {field} must be"):
            read_story([str(folder)])


def test_prompts_are_sorted_by_what_the_last_checkpoint_gains_on_the_first(tmp_path):
    folder = with_rewards(write_evaluation(tmp_path / "report", num_prompts=5))
    (evaluated,) = read_story([str(folder)]).evaluations
    gains = [of_prompt.gap("gdpo", "base") for of_prompt in prompt_rewards(evaluated.answers)]
    assert len(gains) == 5 and gains == sorted(gains, reverse=True)


def test_the_words_of_the_table_are_explained(tmp_path, found):
    page = html.unescape((tmp_path / "report" / "report.html").read_text())
    assert re.search("WR: how often a sample has a higher reward than a sample of the baseline", page)
