"""Evaluation: few-shot prompts, rewards, and what a report says."""

import json
import signal

import hydra
import pytest
import torch
from bench import die, forked, refuse
from data_helpers import write
from helpers import ROOT, byte_tokenizer, evaluation, json_lines, run_of, save_tiny, tiny_policy
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

import evaluate
import forest
import models
from evaluation import answers, kept, report, scoring
from evaluation.checkpoints import find_checkpoints
from reporting import tables
from settings import evaluation_settings
from utils import UserError


def test_few_shot_prompting(tmp_path, capsys):
    folder = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    evaluation(
        f"ckpt={folder}",
        "few_shot=2",
        "n_prompts=3",
        "n_samples=1",
        "max_new_tokens=4",
        f"output={tmp_path}/report",
    )
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (
        found["settings"]["few_shot"] == 2
        and found["checkpoints"]["tiny"]["js_distance_probability"]["n"] == 3
    )
    rows = [json.loads(line) for line in (tmp_path / "report" / "predictions.jsonl").read_text().splitlines()]
    assert all(row["prompt"].count("<Q>") == 3 and "\n\n" not in row["response"] for row in rows)


def test_evaluation_by_rewards(tmp_path, capsys):
    rows = [
        {
            "id": str(i),
            "prompt": f"Say {i}",
            "responses": [{"text": f"It is {j}.", "reward": j} for j in (1, 3, 2)],
        }
        for i in range(6)
    ]
    rows.append({"prompt": "Equal", "responses": [{"text": "a", "reward": 1}, {"text": "b", "reward": 1}]})
    (tmp_path / "ranked.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    folder, other = save_tiny(tmp_path / "tiny"), tiny_policy(seed=1)
    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
        config = hydra.compose(
            "config",
            overrides=["loss=swepo", f"model.name_or_path={folder}", f"datasets=[{tmp_path}/ranked.jsonl]"],
        )
    run = tmp_path / "out" / "run"
    other.model.save_pretrained(run / "step-000001")
    byte_tokenizer().save_pretrained(run / "step-000001")
    (run / "best").symlink_to("step-000001")
    OmegaConf.save(config, run / "config.yaml", resolve=True)
    evaluation(f"ckpt=[{folder},{run}]", "split=all")
    found = json.loads((run / "report" / "report.json").read_text())["checkpoints"]
    # belongs to no run, so it has no reference
    assert set(found["tiny"]) == {"logp_best", "logp_others", "logp_accuracy"}
    predicted = [json.loads(line) for line in (run / "report" / "predictions.jsonl").read_text().splitlines()]
    mine = [row for row in predicted if row["checkpoint"] == "run"]
    assert len(mine) == 6 and all(row["rewards"] == [3, 2, 1] for row in mine)
    implied = [[0.1 * (p - r) for p, r in zip(row["logps"], row["reference_logps"])] for row in mine]
    assert found["run"]["set_accuracy"]["value"] == pytest.approx(sum(v[0] > max(v[1:]) for v in implied) / 6)
    assert found["run"]["kl_reference"]["value"] == pytest.approx(
        -sum(map(sum, implied)) / 0.1 / 18, rel=1e-4
    )
    base = models.Scorer(tiny_policy().model, "sdpa")
    tree = forest.TokenTree(
        tuple(byte_tokenizer()("Say 0")["input_ids"]),
        (),
        (tuple(byte_tokenizer()("It is 3.")["input_ids"]) + (257,),),
    )
    row = next(r for r in mine if r["id"] == "0")
    assert row["reference_logps"][0] == pytest.approx(models.score_one_by_one(base, tree)[0], rel=1e-4)
    assert "set accuracy" in capsys.readouterr().out


def test_evaluating_a_policy_pt_needs_its_base_model(tmp_path):
    base = save_tiny(tmp_path / "base")
    torch.save({"state": tiny_policy(seed=3).model.state_dict()}, tmp_path / "policy.pt")

    def found(*overrides):
        with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
            config = hydra.compose("evaluate", overrides=[f"ckpt={tmp_path}/policy.pt", *overrides])
        return find_checkpoints(evaluation_settings(OmegaConf.to_container(config, resolve=True)))

    with pytest.raises(UserError, match="set base_model"):
        found()
    (checkpoint,) = found(f"base_model={base}")
    assert checkpoint.source.endswith("policy.pt") and checkpoint.model.name_or_path == base


def test_the_markdown_table_lines_up():
    cell = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    table = tables.markdown_tables(
        {"a": {"cbc": cell}, "(uniform)": {"js_distance_probability": cell}}, 8
    ).splitlines()
    assert len({len(line) for line in table}) == 1 and "0.500 [0.400, 0.600]" in table[2]


# --- data without rewards, data without answers -------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path):
    """A tiny model with room for surveys."""
    return save_tiny(tmp_path / "tiny", max_position_embeddings=2048)


def report_in(folder):
    return json.loads((folder / "report.json").read_text())


def test_plain_pairs_are_evaluated_by_their_order(tmp_path, tiny):
    rows = []
    for i in range(6):
        responses = [{"text": f"No {i}."}, {"text": f"Yes {i}."}]
        rows.append({"id": str(i), "prompt": f"Say {i // 2}", "responses": responses, "pairs": [[1, 0]]})
    path = write(tmp_path / "pairs.jsonl", *rows)
    run = run_of(tmp_path / "out" / "run", tiny)
    evaluation(f"ckpt=[{tiny},{run}]", f"datasets=[{path}]", "split=all")
    found = report_in(run / "report")
    assert set(found["checkpoints"]["tiny"]) == {"logp_best", "logp_others", "logp_accuracy"}
    of_run = found["checkpoints"]["run"]
    predicted = json_lines(run / "report" / "predictions.jsonl")
    margins = []
    for row in predicted[6:]:
        ratios = [p - r for p, r in zip(row["logps"], row["reference_logps"])]
        margins.append(0.1 * (ratios[0] - ratios[1]))
    assert of_run["pair_accuracy"]["value"] == pytest.approx(sum(m > 0 for m in margins) / 6)
    assert of_run["margin"]["value"] == pytest.approx(sum(margins) / 6, rel=1e-4)
    assert of_run["kl_reference"]["n"] == 6
    assert found["settings"]["questions"] == 3  # two groups of each prompt


def test_survey_data_has_neither_bpc_nor_rs(tmp_path, tiny):
    rows = []
    for i in range(3):
        selections = "defaultdict(<class 'list'>, {'Chile': [0.25, 0.75]})"
        rows.append({"question": f"Good {i}?", "selections": selections, "options": "['Yes', 'No']"})
    path = write(tmp_path / "survey.jsonl", *rows)
    overrides = ["split=all", "n_samples=2", "max_new_tokens=4", f"output={tmp_path}/report"]
    evaluation(f"ckpt={tiny}", f"datasets=['{path}:Chile']", *overrides)
    found = report_in(tmp_path / "report")
    assert {"bpc", "rs"} & set(found["checkpoints"]["tiny"]) == set()
    assert "cbc" in found["checkpoints"]["tiny"]
    unjudged = found["settings"]["unjudged"]["tiny"]
    assert unjudged["left_out_of_shares"] == unjudged["without_class_label"]
    predicted = json_lines(tmp_path / "report" / "predictions.jsonl")
    assert {row["similarity"] for row in predicted} == {None}


def test_phrasings_of_a_question_are_counted_as_one(tmp_path, tiny):
    names = "datasets=[opinions/republican,opinions/democrat]"
    quick = ["n_samples=0", f"output={tmp_path}/report"]
    evaluation(f"ckpt={tiny}", names, "split=test_questions", *quick)
    found = report_in(tmp_path / "report")
    assert found["settings"]["questions"] == 10
    assert found["checkpoints"]["tiny"]["js_distance_probability"]["n"] == found["settings"]["prompts"] > 90


# --- before, and in the middle ------------------------------------------------------------------------------

QUICK = ["n_prompts=3", "n_samples=2", "max_new_tokens=4"]


def count_calls(monkeypatch, place, name):
    """The texts among the arguments of every call of `place.name` from now on: the checkpoint's name."""
    original, calls = getattr(place, name), []

    def counted(*args, **kwargs):
        calls.append(next((value for value in args if isinstance(value, str)), ""))
        return original(*args, **kwargs)

    monkeypatch.setattr(place, name, counted)
    return calls


def two_models(tmp_path):
    return save_tiny(tmp_path / "one"), save_tiny(tmp_path / "two", seed=1)


@pytest.mark.parametrize("kind", ["beliefs", "rewards"])
def test_an_evaluation_that_was_killed_goes_on_with_the_same_command(
    tmp_path, monkeypatch, kind, ranked_file
):
    one, two = two_models(tmp_path)
    place, name = (answers, "class_probabilities") if kind == "beliefs" else (scoring, "score_trees")
    quick = QUICK if kind == "beliefs" else [f"datasets=[{ranked_file}]", "split=all"]
    evaluation(f"ckpt=[{one},{two}]", *quick, f"output={tmp_path}/whole")

    def killed():
        die(place, name, call=2)
        evaluation(f"ckpt=[{one},{two}]", *quick, f"output={tmp_path}/report")

    code, _ = forked(killed)
    assert code == -signal.SIGKILL
    asked = count_calls(monkeypatch, place, name)
    evaluation(f"ckpt=[{one},{two}]", *quick, f"output={tmp_path}/report")
    assert len(asked) == 1 and asked[0] in ("two", "")
    assert report_in(tmp_path / "report") == report_in(tmp_path / "whole")
    predictions = [(tmp_path / folder / "predictions.jsonl").read_text() for folder in ("report", "whole")]
    assert predictions[0] == predictions[1]
    assert not (tmp_path / "report" / kept.FOLDER).exists()


def test_what_was_measured_of_other_weights_or_prompts_is_not_used(tmp_path, monkeypatch):
    tiny = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    asked = count_calls(monkeypatch, answers, "class_probabilities")
    only_probabilities = ["n_samples=0", "n_prompts=3", f"output={tmp_path}/report"]
    monkeypatch.setattr(report, "write_report", refuse)

    def calls_of(*overrides):
        asked.clear()
        with pytest.raises(OSError, match="No space"):
            evaluation(f"ckpt={tiny}", *only_probabilities, *overrides)
        return len(asked)

    assert [calls_of(), calls_of(), calls_of("n_prompts=2"), calls_of("few_shot=1")] == [1, 0, 1, 1]
    tiny_policy(seed=1, max_position_embeddings=2048).model.save_pretrained(tiny)  # under the same name
    assert calls_of() == 1


def test_a_kept_result_that_is_cut_is_measured_again(tmp_path, monkeypatch, tiny):
    with monkeypatch.context() as patch:
        patch.setattr(report, "write_report", refuse)
        with pytest.raises(OSError, match="No space"):
            evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/report")
    (path,) = (tmp_path / "report" / kept.FOLDER).iterdir()
    path.write_bytes(path.read_bytes()[:40])
    asked = count_calls(monkeypatch, answers, "class_probabilities")
    evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/report")
    assert len(asked) == 1


def test_a_check_reads_the_prompts_and_writes_nothing(tmp_path, tiny, capsys):
    before = sorted(tmp_path.rglob("*"))
    evaluation(f"ckpt={tiny}", "check=true", f"output={tmp_path}/new/report")
    assert sorted(tmp_path.rglob("*")) == before
    assert "39 prompts on 39 questions of opinions/republican (test)" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["file", "file/below", "report.json is a folder", "x" * 256])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, tiny, monkeypatch, place):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "report.json is a folder" / "report.json").mkdir(parents=True)
    monkeypatch.setattr(evaluate, "read_prompts", None)  # the work is not begun
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="output") as caught:
        evaluation(f"ckpt={tiny}", f"output='{tmp_path}/{place}'")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_is_full_at_the_end_keeps_what_was_measured(tmp_path, tiny, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(report, "write_json", refuse)
        with pytest.raises(UserError, match="cannot be written .No space"):
            evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/report")
    asked = count_calls(monkeypatch, answers, "class_probabilities")
    evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/report")
    assert asked == []


# --- what a run started from --------------------------------------------------------------------------------


def reference_logps(run):
    """The log-probs under the reference that an evaluation used, by prompt."""
    rows = [json.loads(line) for line in (run / "report" / "predictions.jsonl").read_text().splitlines()]
    return [row["reference_logps"] for row in rows]


def test_the_reference_of_a_run_stays_what_it_started_from(bench):
    """`sft` is another step after more training; what dpo started from is not."""
    sft = bench.go("sft", "loss=sft", "n_examples=8", "keep_last=9")
    dpo = bench.go("dpo", "loss=dpo", f"model.archive={sft}", "n_examples=8")
    evaluation(f"ckpt={dpo}", "split=eval")
    before = reference_logps(dpo)
    bench.go("sft", "loss=sft", "n_examples=32", "keep_last=9")
    assert (sft / "best").resolve().name != "step-000002"
    evaluation(f"ckpt={dpo}", "split=eval")
    assert reference_logps(dpo) == before
    rewrite = AutoModelForCausalLM.from_pretrained(sft / "step-000008")
    rewrite.save_pretrained(sft / "step-000002")
    (sft / "step-000002" / "trainer_state" / "manifest.json").unlink()
    with pytest.raises(UserError, match="the starting weights .*step-000002.* changed since this run began"):
        evaluation(f"ckpt={dpo}", "split=eval")


@pytest.mark.parametrize("kind", ["beliefs", "order"])
def test_what_a_model_cannot_take_is_one_line(tmp_path, kind, ranked_file):
    folder = save_tiny(tmp_path / "tiny", max_position_embeddings=40)
    data_set = "opinions/republican" if kind == "beliefs" else ranked_file
    own = [
        f"ckpt={folder}",
        f"datasets=[{data_set}]",
        f"output={tmp_path}/report",
        "n_prompts=4",
        "split=eval",
    ]
    if kind == "order":
        save_tiny(tmp_path / "tiny", max_position_embeddings=8)
    with pytest.raises(UserError, match="tokens, but the model has positions for"):
        evaluation(*own)
    save_tiny(tmp_path / "tiny", vocab_size=100)
    with pytest.raises(UserError, match="gives token id .*, but the model knows 100 tokens"):
        evaluation(*own)
