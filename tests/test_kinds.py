"""Kinds of data: each prompt is measured as its kind is, whatever else the data set holds."""

import json
import math

import pytest
from data_helpers import write
from helpers import EOS, byte_tokenizer, evaluation, json_lines, run_of, save_tiny, tiny_policy
from markupsafe import escape

import forest
import models
import preference_datasets as data
from evaluation import kinds, order, report
from reporting import tables, words

BETA = 0.1


def sft(i):
    return {"id": f"s{i}", "prompt": f"Say {i}", "responses": [{"text": f"Yes {'so' * i}."}]}


def pair(i):
    responses = [{"text": f"No {i}."}, {"text": f"Yes, {i}, is it not?"}]
    return {"id": f"p{i}", "prompt": f"Ask {i}", "responses": responses, "pairs": [[1, 0]]}


def ranked(i):
    responses = [{"text": f"It is {j}{i}.", "reward": j} for j in (1, 3, 2)]
    return {"id": f"r{i}", "prompt": f"Rank {i}", "responses": responses}


def beliefs(i):
    responses = [
        {"text": f"Yes {i}.", "belief": {"class": "4", "text": "Good"}},
        {"text": "No.", "belief": {"class": "2", "text": "Poor"}},
    ]
    return {
        "id": f"b{i}",
        "prompt": f"Think {i}",
        "responses": responses,
        "belief_probs": [0, 0, 0.4, 0, 0.6, 0],
    }


def bare(i):
    return {"id": f"n{i}", "prompt": f"Tell {i}", "responses": [{"text": "One."}, {"text": "Two."}]}


@pytest.fixture
def models_of(tmp_path):
    """(a tiny model, a run that started from it)"""
    tiny = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    return tiny, run_of(tmp_path / "out" / "run", tiny)


@pytest.fixture
def evaluate_rows(tmp_path, models_of):
    """Evaluate the model and the run on rows; the report and the lines of predictions.jsonl."""
    tiny, run = models_of

    def go(*rows, overrides=()):
        path = write(tmp_path / "rows.jsonl", *rows)
        quick = ["split=all", "n_samples=1", "max_new_tokens=4", *overrides]
        evaluation(f"ckpt=[{tiny},{run}]", f"datasets=[{path}]", *quick)
        folder = run / "report"
        return json.loads((folder / "report.json").read_text()), json_lines(folder / "predictions.jsonl")

    return go


def logp_one_by_one(prompt, answer, policy):
    """log pi(answer | prompt), scored by itself, and the number of its tokens."""
    encode = byte_tokenizer()
    ids = (*encode(answer)["input_ids"], EOS)
    tree = forest.TokenTree(tuple(encode(prompt)["input_ids"]), (), (ids,))
    (logp,) = models.score_one_by_one(models.Scorer(policy.model, "sdpa"), tree)
    return float(logp), len(ids)


def of_reference(prompt, answer):
    """Under the model that the run started from."""
    return logp_one_by_one(prompt, answer, tiny_policy(max_position_embeddings=2048))


def of_run(prompt, answer):
    """Under the run's model."""
    return logp_one_by_one(prompt, answer, tiny_policy(seed=1))


# --- one response a prompt ----------------------------------------------------------------------------------


def test_one_response_a_prompt_has_an_nll_a_token_and_a_perplexity(evaluate_rows):
    rows = [sft(i) for i in range(5)]
    found, predicted = evaluate_rows(*rows)
    run, tiny = found["checkpoints"]["run"], found["checkpoints"]["tiny"]
    assert set(tiny) == {"nll", "nll_by_prompt", "perplexity"}
    assert set(run) == {*tiny, "reference_nll", "reference_perplexity"}
    scored = [of_run(row["prompt"], row["responses"][0]["text"]) for row in rows]
    nll = -sum(logp for logp, _ in scored) / sum(count for _, count in scored)
    assert run["nll"]["value"] == pytest.approx(nll, rel=1e-5)
    assert run["perplexity"]["value"] == pytest.approx(math.exp(nll), rel=1e-4)
    by_prompt = sum(-logp / count for logp, count in scored) / 5
    assert run["nll_by_prompt"]["value"] == pytest.approx(by_prompt, rel=1e-5)
    assert by_prompt != pytest.approx(nll, rel=1e-5)
    assert run["reference_nll"] == tiny["nll"]
    before = [of_reference(row["prompt"], row["responses"][0]["text"]) for row in rows]
    of_start = -sum(logp for logp, _ in before) / sum(count for _, count in before)
    assert tiny["nll"]["value"] == pytest.approx(of_start, rel=1e-5)
    assert tiny["nll"]["low"] < tiny["nll"]["value"] < tiny["nll"]["high"]
    assert run["perplexity"]["high"] == pytest.approx(math.exp(run["nll"]["high"]))
    assert [row["tokens"] for row in predicted[5:]] == [[count] for _, count in scored]


def test_where_no_response_is_preferred_the_target_is_measured(evaluate_rows, capsys):
    found, predicted = evaluate_rows(bare(0), sft(1), bare(2))
    assert found["checkpoints"]["tiny"]["nll"]["n"] == 3
    assert found["settings"]["prompts_of_kind"] == {"target": 3}
    logp, count = of_run("Tell 0", "One.")
    (row,) = [row for row in predicted if row["id"] == "n0" and row["checkpoint"] == "run"]
    assert row["logps"] == [pytest.approx(logp, rel=1e-5)]
    assert row["tokens"] == [count]
    assert "2 of several responses without a preference, one of which is" in capsys.readouterr().out
    assert found["settings"]["without_preference"] == {"left_out": 0, "by_target": 2}


def test_rewards_that_are_all_equal_are_evaluated_as_what_sft_trains_on(evaluate_rows):
    equal = {"prompt": "g", "responses": [{"text": "h", "reward": 1}, {"text": "i", "reward": 1}]}
    found, _ = evaluate_rows(equal)
    logp, count = of_run("g", "h")
    assert found["checkpoints"]["run"]["nll"]["value"] == pytest.approx(-logp / count, rel=1e-5)


# --- pairs --------------------------------------------------------------------------------------------------


def test_pairs_have_an_accuracy_of_log_probs_a_token_where_there_is_no_reference(evaluate_rows):
    rows = [pair(i) for i in range(6)]
    found, _ = evaluate_rows(*rows)
    for name, score in (("tiny", of_reference), ("run", of_run)):
        right, best, others = [], [], []
        for row in rows:
            texts = [response["text"] for response in row["responses"]]
            (other, count_other), (chosen, count) = (score(row["prompt"], text) for text in texts)
            right.append(chosen / count > other / count_other)
            best.append(chosen)
            others.append(other)
        found_here = found["checkpoints"][name]
        assert found_here["logp_accuracy"]["value"] == pytest.approx(sum(right) / 6)
        assert found_here["logp_best"]["value"] == pytest.approx(sum(best) / 6, rel=1e-5)
        assert found_here["logp_others"]["value"] == pytest.approx(sum(others) / 6, rel=1e-5)


def test_pairs_have_a_margin_and_a_kl_from_log_ratios(evaluate_rows):
    rows = [pair(i) for i in range(4)]
    found, _ = evaluate_rows(*rows)
    margins, drifts = [], []
    for row in rows:
        ratios = []
        for response in row["responses"]:
            logp, reference = (score(row["prompt"], response["text"])[0] for score in (of_run, of_reference))
            ratios.append(logp - reference)
        margins.append(BETA * (ratios[1] - ratios[0]))
        drifts.append(-sum(ratios) / 2)
    run = found["checkpoints"]["run"]
    assert run["margin"]["value"] == pytest.approx(sum(margins) / 4, rel=1e-3)
    assert run["pair_accuracy"]["value"] == pytest.approx(sum(margin > 0 for margin in margins) / 4)
    assert run["kl_reference"]["value"] == pytest.approx(sum(drifts) / 4, rel=1e-3)


# --- labels -------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluate_groups(monkeypatch, evaluate_rows):
    """As evaluate_rows, with other fields on the groups: {id: fields}."""

    def go(rows, fields):
        read = data.load_groups

        def with_more(*args, **kwargs):
            return [group._replace(**fields.get(group.id, {})) for group in read(*args, **kwargs)]

        with monkeypatch.context() as patch:
            patch.setattr(data, "load_groups", with_more)
            return evaluate_rows(*rows)

    return go


def test_labelled_responses_have_mean_rewards_and_an_area_under_the_curve(evaluate_groups):
    rows = [sft(i) for i in range(6)]
    labels = [True, False, False, True, True, False]
    found, predicted = evaluate_groups(
        rows, {f"s{i}": {"labels": (label,)} for i, label in enumerate(labels)}
    )
    rewards, per_token = [], []
    for row in rows:
        text = row["responses"][0]["text"]
        (logp, count), (reference, _) = of_run(row["prompt"], text), of_reference(row["prompt"], text)
        rewards.append(BETA * (logp - reference))
        per_token.append(logp / count)
    liked = [reward for reward, label in zip(rewards, labels) if label]
    others = [reward for reward, label in zip(rewards, labels) if not label]
    run = found["checkpoints"]["run"]
    assert run["reward_desirable"]["value"] == pytest.approx(sum(liked) / 3, rel=1e-3)
    assert run["reward_undesirable"]["value"] == pytest.approx(sum(others) / 3, rel=1e-3)
    assert run["reward_difference"]["value"] == pytest.approx((sum(liked) - sum(others)) / 3, rel=1e-3)
    assert run["auc"]["value"] == pytest.approx(sum(a > b for a in liked for b in others) / 9)
    assert run["auc"]["n"] == 6 and run["reward_desirable"]["n"] == 3
    by_token = [[x for x, label in zip(per_token, labels) if label == side] for side in (True, False)]
    assert run["logp_auc"]["value"] == pytest.approx(sum(a > b for a in by_token[0] for b in by_token[1]) / 9)
    assert set(found["checkpoints"]["tiny"]) == {"logp_desirable", "logp_undesirable", "logp_auc"}
    assert [row["labels"] for row in predicted[:6]] == [[label] for label in labels]


def test_rows_of_a_completion_and_a_label_are_evaluated(evaluate_rows):
    rows = [{"prompt": f"Say {i}", "completion": f"It is {i}.", "label": i % 2 == 0} for i in range(4)]
    found, _ = evaluate_rows(*rows)
    assert found["settings"]["prompts_of_kind"] == {"labels": 4}
    logps = [of_run(row["prompt"], row["completion"])[0] for row in rows]
    run = found["checkpoints"]["run"]
    assert run["logp_desirable"]["value"] == pytest.approx((logps[0] + logps[2]) / 2, rel=1e-5)
    assert run["logp_undesirable"]["value"] == pytest.approx((logps[1] + logps[3]) / 2, rel=1e-5)


def test_one_side_alone_has_a_mean_and_no_contrast(evaluate_groups):
    found, _ = evaluate_groups([sft(0), sft(1)], {f"s{i}": {"labels": (True,)} for i in range(2)})
    run = found["checkpoints"]["run"]
    assert set(run) == {"logp_desirable", "reward_desirable"}
    assert run["reward_desirable"]["n"] == 2


# --- several kinds ------------------------------------------------------------------------------------------


def test_each_kind_is_measured_on_the_prompts_that_are_of_it(evaluate_groups, capsys):
    rows = [*map(sft, range(3)), pair(0), ranked(1), ranked(2), bare(0), beliefs(0), beliefs(1)]
    found, predicted = evaluate_groups(rows, {"s2": {"labels": (True,)}})
    run, settings = found["checkpoints"]["run"], found["settings"]
    expected = {"js_distance_probability": 2, "pair_accuracy": 3, "kendall_tau": 3, "nll": 2}
    assert {name: run[name]["n"] for name in expected} == expected
    assert run["reward_desirable"]["n"] == 1
    assert settings["prompts"] == 8
    assert settings["prompts_of_kind"] == {"beliefs": 2, "preference": 3, "labels": 1, "target": 2}
    assert settings["without_preference"] == {"left_out": 1, "by_target": 0}
    assert "(uniform over options)" in found["checkpoints"]
    assert {row["id"] for row in predicted} == {"s0", "s1", "s2", "p0", "r1", "r2", "b0", "b1"}
    said = capsys.readouterr().out
    assert "2 with belief_probs, 3 with a preference, 1 with labelled responses, 2 with a target" in said
    assert "1 left out: several responses without a preference" in said
    for kind, caption in words.CAPTIONS.items():
        assert (f"{caption}:\n\n|" in said) == (kind not in (kinds.TASK, kinds.REWARD))


def test_what_is_measured_of_a_prompt_does_not_depend_on_the_others(evaluate_rows):
    alone, of_alone = evaluate_rows(ranked(1), ranked(2))
    mixed, of_mixed = evaluate_rows(pair(0), ranked(1), sft(1), ranked(2), beliefs(0))
    with_rewards = [row for row in of_mixed if row["id"] in ("r1", "r2")]
    for row, beside in zip(of_alone, with_rewards):
        assert beside["logps"] == pytest.approx(row["logps"], rel=1e-5)
        assert {**beside, "logps": 0, "reference_logps": 0} == {**row, "logps": 0, "reference_logps": 0}
    assert alone["checkpoints"]["run"]["kendall_tau"]["n"] == 2
    assert mixed["checkpoints"]["run"]["kendall_tau"]["n"] == 3


def test_several_data_sets_of_different_kinds_are_evaluated_together(tmp_path, models_of):
    tiny, _ = models_of
    paths = [write(tmp_path / f"{i}.jsonl", row) for i, row in enumerate([sft(1), pair(2), ranked(3)])]
    evaluation(f"ckpt={tiny}", f"datasets=[{','.join(paths)}]", "split=all", f"output={tmp_path}/report")
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert found["settings"]["prompts_of_kind"] == {"preference": 2, "target": 1}


def test_a_run_that_names_its_eval_data_is_evaluated_on_all_of_it(tmp_path, models_of, capsys):
    trained = write(tmp_path / "trained.jsonl", *map(sft, range(4)))
    held_out = write(tmp_path / "held_out.jsonl", *map(pair, range(5)))
    run = run_of(tmp_path / "named", models_of[0], datasets=[trained], eval_datasets=[held_out])
    evaluation(f"ckpt={run}")
    assert f"5 prompts on 5 questions of {held_out} (test)" in capsys.readouterr().out
    evaluation(f"ckpt={run}", f"datasets=[{trained}]", "eval_fraction=0.5", "overwrite=true")
    assert f"2 prompts on 2 questions of {trained} (test)" in capsys.readouterr().out


def test_a_check_says_the_kinds_before_any_work(tmp_path, models_of, capsys):
    tiny, _ = models_of
    path = write(tmp_path / "rows.jsonl", sft(1), pair(1), bare(1))
    evaluation(f"ckpt={tiny}", f"datasets=[{path}]", "split=all", "check=true", f"output={tmp_path}/new")
    said = capsys.readouterr().out
    assert "2 prompts on 2 questions" in said
    assert "1 with a preference, 1 with a target response; 1 left out: several responses" in said


def test_pairs_count_where_rewards_say_nothing():
    responses = [{"text": "a", "reward": 2}, {"text": "b", "reward": 2}]
    group = data.parse_group({"prompt": "x", "responses": responses, "pairs": [[1, 0]]}, "here")
    assert kinds.kind_of(group) == kinds.PREFERENCE
    (example,) = kinds.examples_of([group])
    assert example.columns == (1, 0) and example.rewards == ()


# --- weights ------------------------------------------------------------------------------------------------

WEIGHED = {"sft": sft, "pairs": pair, "ranked": ranked}


@pytest.mark.parametrize("kind", [*WEIGHED, "labels"])
def test_a_prompt_of_weight_two_counts_twice_in_every_mean(evaluate_groups, kind):
    make = WEIGHED.get(kind, sft)
    labels = {}
    rows = [make(i) for i in range(4)]
    if kind == "labels":
        labels = {row["id"]: {"labels": (i % 2 == 0,)} for i, row in enumerate(rows)}
    last = rows[3]["id"]
    once, _ = evaluate_groups(rows, {**labels, last: {**labels.get(last, {}), "weight": 2.0}})
    twice, _ = evaluate_groups([*rows, rows[3]], labels)
    plain, _ = evaluate_groups(rows, labels)
    run, again = once["checkpoints"]["run"], twice["checkpoints"]["run"]
    assert set(run) == set(again)
    for name, summary in run.items():
        for key in ("value", "low", "high"):
            assert summary[key] == pytest.approx(again[name][key], rel=1e-6, abs=1e-9), name
    means = [plain["checkpoints"]["run"][name]["value"] != run[name]["value"] for name in run]
    assert any(means)


# --- what is shown ------------------------------------------------------------------------------------------


def test_every_metric_of_a_report_has_a_title_in_one_table(evaluate_groups):
    rows = [sft(0), pair(0), ranked(1), beliefs(0), sft(1), sft(2)]
    found, _ = evaluate_groups(rows, {"s1": {"labels": (True,)}, "s2": {"labels": (False,)}})
    titled = [metric for titles in report.TITLES.values() for metric in titles]
    assert len(titled) == len(set(titled))
    for summaries in found["checkpoints"].values():
        assert set(summaries) <= set(titled)
        assert all(set(summary) == {"value", "low", "high", "n"} for summary in summaries.values())
    elsewhere = {*report.TITLES[kinds.TASK], *report.TITLES[kinds.REWARD], "judge_score"}
    of_data = set(titled) - elsewhere
    off_the_scale = {"wasserstein_sampling"}  # a random model's sample states no class
    assert set(found["checkpoints"]["run"]) | off_the_scale == of_data
    assert set(order.ORDER_METRICS.values()) <= set(report.TITLES[kinds.PREFERENCE])


def test_the_page_explains_the_kinds_that_it_shows_and_no_others(evaluate_rows, models_of):
    evaluate_rows(sft(0), pair(0))
    shown = (models_of[1] / "report" / "report.html").read_text()
    for kind, caption in words.CAPTIONS.items():
        is_shown = kind in ("preference", "target")
        assert (f"<h2>{caption}</h2>" in shown) == (str(escape(words.ABOUT[kind])) in shown) == is_shown


def test_numbers_beyond_measure_are_shown_briefly():
    cell = tables.format_cell({"value": 3.21e12, "low": None, "high": None, "n": 1})
    assert cell == "3.21e+12"
    assert (
        tables.format_cell({"value": -51.25, "low": -60.0, "high": -40.0, "n": 2})
        == "-51.250 [-60.000, -40.000]"
    )


# --- differences --------------------------------------------------------------------------------------------


def test_checkpoints_are_compared_on_every_kind_by_what_both_have(evaluate_groups):
    rows = [*map(sft, range(6)), pair(0), pair(1), ranked(1), ranked(2), beliefs(0), beliefs(1)]
    labels = {f"s{i}": {"labels": (i % 2 == 0,)} for i in range(4)}
    found, _ = evaluate_groups(rows, labels)
    run, tiny = found["checkpoints"]["run"], found["checkpoints"]["tiny"]
    by_metric = {difference["metric"]: difference for difference in found["differences"]}
    compared = {"nll", "nll_by_prompt", "logp_auc", "logp_accuracy", "logp_best", "js_distance_probability"}
    assert compared <= set(by_metric)
    assert not {"auc", "margin", "reference_nll"} & set(by_metric)  # the model alone has no reference
    for metric, difference in by_metric.items():
        assert (difference["a"], difference["b"]) == ("run", "tiny")
        assert metric in report.TITLES[difference["kind"]]
        assert difference["value"] == pytest.approx(run[metric]["value"] - tiny[metric]["value"], abs=1e-9)
        assert difference["n"] == run[metric]["n"]
        assert difference["low"] <= difference["value"] <= difference["high"]
        assert 0 < difference["p"] <= difference["p_holm"] <= 1
