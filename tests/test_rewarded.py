"""Rewards that a program computes, of responses that are sampled: measures, wins, resume, baselines."""

import pytest
from data_helpers import write
from helpers import evaluation, save_tiny
from reward_helpers import (
    ASKED,
    NAMES,
    asked_in,
    evaluate_models,
    mean,
    met_by_hand,
    rewards_by_hand,
    row,
    wins,
)

import groups
from evaluation import report, rewarded
from generation.local import LocalGenerator
from rewards import constraints_of, satisfaction


@pytest.fixture
def models(tmp_path):
    return [save_tiny(tmp_path / name, seed=seed) for seed, name in enumerate(NAMES)]


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "asked.jsonl", *map(row, range(6)))


@pytest.fixture
def found(tmp_path, models, file):
    return evaluate_models(models, file, tmp_path / "report")


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
            asked = asked_in(line)
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
