"""Training: a run folder that keeps its contract, every loss on its data, and runs that equal one another."""

import numpy as np
import pytest
import torch
from bench import row
from data_helpers import write
from helpers import (
    ROOT,
    assert_close,
    audit_of,
    compose,
    lines,
    save_tiny,
    state_of,
    training_lines,
    weights,
)
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

import models
import schedule
import trainers
from utils import UserError

REPUBLICAN = "opinions/republican"
ALWAYS_LOGGED = {
    "loss/train",
    "grad_norm",
    "lr",
    "examples_per_second",
    "tokens_per_second",
    "padding_fraction",
    "mfu",
    "js_distance_train",
    "class_mass_train",
    "kl_train",
    "logps_train/chosen",
}
OF_PAIRS = {
    "rewards_train/chosen",
    "rewards_train/rejected",
    "rewards_train/accuracies",
    "rewards_train/margins",
    "rewards_train/margins_majority",
    "logps_train/rejected",
}
FILES = {
    "config.yaml",
    "data_audit.json",
    "metrics.jsonl",
    "train.log",
    "step-000003",
    "latest",
    "best",
    "run_id.txt",
    "start.json",
}


@pytest.mark.parametrize("loss", ["sft", "dpo", "gdpo"])
def test_a_run_folder_keeps_its_contract(run, loss):
    folder = run(f"loss={loss}")
    training = training_lines(folder)
    assert [line["counters/examples"] for line in training] == [8, 16, 24]
    assert [line["counters/updates"] for line in training] == [1, 2, 3]
    assert sum("loss/eval" in line for line in lines(folder)) == 2  # before the first step and at the end
    compares = loss != "sft"
    assert set(training[0]) >= (ALWAYS_LOGGED | OF_PAIRS if compares else ALWAYS_LOGGED)
    assert any("rewards_train/margins_minority" in line for line in training) == compares
    if compares:  # policy = reference at step 0
        assert training[0]["rewards_train/margins"] == pytest.approx(0, abs=1e-3)
    if loss == "dpo":
        assert training[0]["loss/train"] == pytest.approx(np.log(2), abs=1e-4)
    assert {path.name for path in folder.iterdir()} == FILES
    stored = weights(folder)
    opened = AutoModelForCausalLM.from_pretrained(folder / "best").state_dict()
    assert all(torch.equal(opened[name], stored[name]) for name in opened.keys() & stored.keys())
    audit = audit_of(folder)[REPUBLICAN]
    assert set(audit) == {"train", "eval"}
    assert audit["train"]["prompts"] == audit["train"]["rows_read"] == 117
    assert 0 < audit["train"]["saved_by_sharing"] < 1
    assert audit["train"]["preferred_beliefs"].keys() <= set("012345")


def test_training_on_the_belief_distribution_calibrates_it(run):
    folder = run("loss=gdpo", "loss.preference_weight=0", "n_examples=160", "shuffle=prompts")
    validations = [line for line in lines(folder) if "loss/eval" in line]
    first, last = validations[0], validations[-1]
    assert last["js_distance_eval"] < first["js_distance_eval"]
    assert last["class_mass_eval"] > 2 * first["class_mass_eval"]


# --- equal runs ---------------------------------------------------------------------------------------------


def test_accumulation_changes_nothing(run):
    one = run("loss=gdpo", "optimizer=SGD", name="one")
    many = run("loss=gdpo", "optimizer=SGD", "max_tokens=400", "activation_checkpointing=true", name="many")
    apart = run("loss=gdpo", "optimizer=SGD", "share_prefixes=false", "max_tokens=1024", name="apart")
    of_one = [line["loss/train"] for line in training_lines(one)]
    for other in (many, apart):
        assert_close(weights(one), weights(other), atol=2e-5)
        of_other = [line["loss/train"] for line in training_lines(other)]
        assert of_one == pytest.approx(of_other, rel=1e-4)


KTO_NUMBERS = {
    "loss/train",
    "loss/eval",
    "kl_mismatched_train",
    "kl_mismatched_eval",
    "rewards_eval/chosen",
}


def test_kto_is_the_same_however_the_step_is_packed(run, ranked_file):
    """z0 is of the whole step, so packs that hold but one side, or one example, change nothing."""
    files = [f"datasets=[{ranked_file}]", f"eval_datasets=[{ranked_file}]"]
    base = ["loss=kto", *files, "optimizer=SGD", "n_examples=24"]
    one, many = run(*base, name="one"), run(*base, "max_tokens=20", "row_tokens=20", name="many")
    assert_close(weights(one), weights(many), atol=2e-5)
    for x, y in zip(lines(one), lines(many), strict=True):
        for key in KTO_NUMBERS & set(x):
            assert x[key] == pytest.approx(y[key], rel=1e-4, abs=1e-5), key


# --- every loss on data of its kind -------------------------------------------------------------------------

ORDER = {
    "rewards_eval/chosen",
    "rewards_eval/rejected",
    "rewards_eval/margins",
    "rewards_eval/accuracies",
    "rewards_eval/set_accuracies",
    "rewards_eval/kendall_tau",
    "rewards_eval/negative_mass",
    "kl_reference_eval",
}


@pytest.mark.parametrize("loss", ["ipo", "kto", "infonca", "nca", "swepo"])
def test_ranked_losses_train_on_ragged_groups(run, ranked_file, loss):
    files = [f"datasets=[{ranked_file}]", f"eval_datasets=[{ranked_file}]"]
    folder = run(f"loss={loss}", *files, "n_examples=24")
    first, last = lines(folder)[0], lines(folder)[-1]
    audit = audit_of(folder)[ranked_file]["train"]
    assert audit["dropped"]["equal_rewards"] == 1
    assert audit["rows_read"] == 13
    assert last["loss/eval"] < first["loss/eval"]
    if loss == "kto":
        assert audit["desirable_share"] < 0.7
        assert first["kl_mismatched_eval"] == pytest.approx(0, abs=1e-4)
        assert first["loss/eval"] == pytest.approx(0.5, abs=1e-4)
        assert last["rewards_eval/chosen"] > last["rewards_eval/rejected"]
        return
    assert last["rewards_eval/accuracies"] > 0.5
    assert set(last) >= ORDER
    if loss != "ipo":
        with pytest.raises(UserError, match="loss.name=dpo compares two responses; set responses=pairs"):
            run("loss=dpo", f"datasets=[{ranked_file}]", "responses=ranked", name="wrong")


@pytest.mark.parametrize("loss", sorted(path.stem for path in (ROOT / "config" / "loss").iterdir()))
def test_every_loss_file_trains_on_two_data_sets_at_once(run, ranked_file, loss):
    other = "opinions/democrat" if "gdpo" in loss else ranked_file
    folder = run(f"loss={loss}", f"datasets=[{REPUBLICAN},{other}]", "n_examples=16")
    training = training_lines(folder)
    assert len(training) == 2
    for line in training:
        assert all(map(np.isfinite, line.values()))
    audit = audit_of(folder)
    assert len(audit) == 2
    assert all(set(splits) == {"train", "eval"} for splits in audit.values())
    config = compose(f"loss={loss}")
    assert OmegaConf.to_container(config)["exp_name"] in (loss, "${loss.name}")
    assert config.exp_name == loss


VIEWS_OF_PAIRS = ["pairs.best_vs_worst", "pairs.best_vs_random", "pairs.best_vs_rest", "pairs.all"]


@pytest.mark.parametrize("view", VIEWS_OF_PAIRS)
def test_dpo_on_every_view_of_pairs_encodes_a_response_once(run, ranked_file, view):
    data = f"datasets=[{ranked_file}]"
    of_pairs = run("loss=dpo", data, f"responses={view}", "shuffle=prompts")
    of_k = run("loss=infonca", data, name="k")
    pairs, alone = (audit_of(folder)[ranked_file]["train"] for folder in (of_pairs, of_k))
    if view in ("pairs.all", "pairs.best_vs_rest"):
        # as many tokens as the k responses, however many pairs
        assert pairs["tokens_shared"] <= alone["tokens_shared"]
    if view == "pairs.all":
        assert pairs["tokens_shared"] == alone["tokens_shared"] < 0.5 * pairs["tokens_one_by_one"]


def test_icf_trains_with_shots_before_the_prompt(run):
    base = ["loss=sft", "n_examples=8", "max_length=400"]
    with_shots = run(*base, "icf_shots=2", "max_tokens=4096")
    plain = run(*base, name="plain")
    shots, none = (audit_of(folder)[REPUBLICAN]["train"] for folder in (with_shots, plain))
    assert shots["prompt_tokens"]["mean"] > 2.5 * none["prompt_tokens"]["mean"]
    assert shots["answer_tokens"]["median"] == none["answer_tokens"]["median"]


def test_a_data_file_of_ones_own(tmp_path, run):
    file = write(tmp_path / "mine.jsonl", *map(row, range(12)))
    folder = run("loss=dpo", f"datasets=[{file}]")
    assert audit_of(folder)[file]["eval"]["prompts"] == 1
    message = "mine.jsonl, row 1: field belief_probs: missing, and loss.name=gdpo needs it"
    with pytest.raises(UserError, match=message):
        run("loss=gdpo", f"datasets=[{file}]", name="other")


@pytest.mark.parametrize("family,model", [("gpt_neox", "pythia28"), ("gpt2", "gpt2-large")])
def test_other_families_train_in_their_own_dtype(tmp_path, run, monkeypatch, family, model):
    monkeypatch.setattr(models, "matmul_rate", lambda *_: 1e9)  # minutes, where a processor has no bfloat16
    folder = save_tiny(tmp_path / family, family)
    logged = lines(run("loss=gdpo", f"model={model}", f"model.name_or_path={folder}"))
    assert len(logged) == 5
    assert all(np.isfinite(line.get("loss/train", 0.0)) for line in logged)


# --- the end of a run --------------------------------------------------------------------


def test_early_stopping_keeps_the_best(run, monkeypatch):
    values = iter([3.0, 1.0, 2.0, 2.5, 2.6])
    monkeypatch.setattr(trainers, "validate", lambda *a: {"loss/eval": next(values)})
    folder = run("loss=sft", "eval_every=8", "patience=2", "n_examples=80", "do_first_eval=true")
    assert (folder / "best").resolve().name == "step-000001"
    assert (folder / "latest").resolve().name == "step-000003"


def test_the_best_is_the_highest_where_eval_mode_says_so(run, monkeypatch):
    values = iter([-2.0, 0.5, float("nan"), 0.0, 0.4])
    monkeypatch.setattr(trainers, "validate", lambda *a: {"rewards_eval/accuracies": next(values)})
    overrides = ["eval_metric=rewards_eval/accuracies", "eval_mode=max", "n_examples=40", "eval_every=8"]
    folder = run("loss=dpo", *overrides, "do_first_eval=false")
    assert (folder / "best").resolve().name == "step-000002"
    assert state_of(folder)["best"] == 0.5
    assert state_of(folder)["bad_evals"] == 3


def test_every_term_of_gdpo_is_logged_and_their_weighted_sum_is_the_loss(run):
    weights_of_terms = {"calibration": 0.5, "belief": 2.0, "preference": 1.0}
    keys = [f"loss.{name}_weight={weight}" for name, weight in weights_of_terms.items()]
    for line in lines(run("loss=gdpo", *keys)):
        split = "train" if "loss/train" in line else "eval"
        total = sum(weight * line[f"{name}_{split}"] for name, weight in weights_of_terms.items())
        assert line[f"loss/{split}"] == pytest.approx(total, rel=1e-5)
        assert line[f"logps_{split}/belief"] < 0


def test_a_term_of_weight_0_is_not_logged_and_a_term_may_be_the_eval_metric(run):
    overrides = ["loss=gdpo", "loss.belief_weight=0", "eval_metric=calibration_eval"]
    folder = run(*overrides)
    assert not [key for line in lines(folder) for key in line if key.startswith("belief_")]
    assert state_of(folder)["best"] in [line.get("calibration_eval") for line in lines(folder)]
    with pytest.raises(UserError, match="eval_metric=belief_eval: validation does not write it"):
        run("loss=gdpo", "loss.belief_weight=0", "eval_metric=belief_eval", name="other")


def test_step_counts_cover_all_examples():
    order = schedule.Order(list(range(32)), 5, 0)
    assert order.num_steps(32 + 7) == 7 + 2
    assert sum(len(order.examples(step)) for step in range(7)) == 32
