"""Every objective trains, on every view and data set that it is made for."""

import json

import numpy as np
import pytest
import torch
from helpers import ROOT, compose, lines, weights
from omegaconf import OmegaConf

from utils import UserError


@pytest.fixture
def ranked_file(tmp_path):
    rows = [
        {
            "prompt": f"Say {i}",
            "responses": [{"text": f"It is {i}{j}.", "reward": (i + j) % 4} for j in range(2 + i % 3)],
        }
        for i in range(12)
    ]
    rows.append({"prompt": "Equal", "responses": [{"text": "a", "reward": 1}, {"text": "b", "reward": 1}]})
    (tmp_path / "ranked.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(tmp_path / "ranked.jsonl")


ORDER = {
    f"rewards_eval/{name}"
    for name in (
        "chosen",
        "rejected",
        "margins",
        "accuracies",
        "set_accuracies",
        "kendall_tau",
        "negative_mass",
    )
}


@pytest.mark.parametrize("loss", ["ipo", "kto", "infonca", "nca", "swepo"])
def test_ranked_losses_train_on_ragged_groups(run, ranked_file, loss):
    folder = run(
        f"loss={loss}", f"datasets=[{ranked_file}]", f"eval_datasets=[{ranked_file}]", "n_examples=24"
    )
    logged = lines(folder)
    audit = json.loads((folder / "data_audit.json").read_text())[ranked_file]
    assert audit["train"]["dropped"]["equal_rewards"] == 1 and audit["train"]["rows_read"] == 13
    assert logged[-1]["loss/eval"] < logged[0]["loss/eval"]
    if loss == "kto":
        assert audit["train"]["desirable_share"] < 0.7 and logged[0]["kl_mismatched_eval"] == pytest.approx(
            0, abs=1e-4
        )
        assert logged[0]["loss/eval"] == pytest.approx(0.5, abs=1e-4)
        assert logged[-1]["rewards_eval/chosen"] > logged[-1]["rewards_eval/rejected"]
        return
    assert logged[-1]["rewards_eval/accuracies"] > 0.5 and set(logged[-1]) >= ORDER | {"kl_reference_eval"}
    if loss != "ipo":
        with pytest.raises(UserError, match="loss.name=dpo compares two responses; set responses=pairs"):
            run("loss=dpo", f"datasets=[{ranked_file}]", "responses=ranked", name="wrong")


@pytest.mark.parametrize("loss", sorted(p.stem for p in (ROOT / "config" / "loss").iterdir()))
def test_every_loss_file_trains_on_two_data_sets_at_once(run, ranked_file, loss):
    sets = (
        "[opinions/republican,opinions/democrat]"
        if "gdpo" in loss
        else f"[opinions/republican,{ranked_file}]"
    )
    folder = run(f"loss={loss}", f"datasets={sets}", "n_examples=16")
    logged = [x for x in lines(folder) if "loss/train" in x]
    assert len(logged) == 2 and all(np.isfinite(v) for x in logged for v in x.values())
    audit = json.loads((folder / "data_audit.json").read_text())
    assert len(audit) == 2 and all(set(a) == {"train", "eval"} for a in audit.values())
    config = compose(f"loss={loss}")
    assert OmegaConf.to_container(config)["exp_name"] in (loss, "${loss.name}") and config.exp_name == loss


@pytest.mark.parametrize(
    "view", ["pairs.best_vs_worst", "pairs.best_vs_random", "pairs.best_vs_rest", "pairs.all"]
)
def test_dpo_on_every_view_of_pairs_encodes_a_response_once(run, ranked_file, view):
    folder = run("loss=dpo", f"datasets=[{ranked_file}]", f"responses={view}", "shuffle=prompts")
    audit = json.loads((folder / "data_audit.json").read_text())[ranked_file]["train"]
    alone = json.loads(
        (run("loss=infonca", f"datasets=[{ranked_file}]", name="k") / "data_audit.json").read_text()
    )[ranked_file]["train"]
    if view in ("pairs.all", "pairs.best_vs_rest"):
        assert (
            audit["tokens_shared"] <= alone["tokens_shared"]
        )  # as many tokens as the k responses, however many pairs
    if view == "pairs.all":
        assert audit["tokens_shared"] == alone["tokens_shared"] < 0.5 * audit["tokens_one_by_one"]


def test_kto_is_the_same_however_the_step_is_packed(run, ranked_file):
    """z0 is of the whole step, so packs that hold but one side, or one example, change nothing."""
    base = [
        "loss=kto",
        f"datasets=[{ranked_file}]",
        f"eval_datasets=[{ranked_file}]",
        "optimizer=SGD",
        "n_examples=24",
    ]
    one, many = run(*base, name="one"), run(*base, "max_tokens=20", "row_tokens=20", name="many")
    assert all(torch.allclose(a, b, atol=2e-5) for a, b in zip(weights(one).values(), weights(many).values()))
    for x, y in zip(lines(one), lines(many), strict=True):
        for key in {
            "loss/train",
            "loss/eval",
            "kl_mismatched_train",
            "kl_mismatched_eval",
            "rewards_eval/chosen",
        } & set(x):
            assert x[key] == pytest.approx(y[key], rel=1e-4, abs=1e-5), key


def test_icf_trains_with_shots_before_the_prompt(run):
    folder = run("loss=sft", "icf_shots=2", "n_examples=8", "max_tokens=4096", "max_length=400")
    audit, plain = (
        json.loads((f / "data_audit.json").read_text())["opinions/republican"]["train"]
        for f in (folder, run("loss=sft", "n_examples=8", "max_length=400", name="plain"))
    )
    assert audit["prompt_tokens"]["mean"] > 2.5 * plain["prompt_tokens"]["mean"]
    assert audit["answer_tokens"]["median"] == plain["answer_tokens"]["median"]


def test_a_data_file_of_ones_own(tmp_path, run):
    rows = [
        {
            "prompt": f"Say {i}",
            "responses": [{"text": f"It is {i}.", "reward": 2}, {"text": "no", "reward": 1}],
        }
        for i in range(12)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    folder = run("loss=dpo", f"datasets=[{tmp_path}/mine.jsonl]")
    assert (
        json.loads((folder / "data_audit.json").read_text())[f"{tmp_path}/mine.jsonl"]["eval"]["prompts"] == 1
    )
    with pytest.raises(
        UserError, match="mine.jsonl, row 1: field belief_probs: missing, and loss.name=gdpo needs it"
    ):
        run("loss=gdpo", f"datasets=[{tmp_path}/mine.jsonl]", name="other")
