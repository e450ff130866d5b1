"""The loop: a run folder that keeps its contract, accumulation, patience, signals, the schedule."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers import QUICK, ROOT, lines, save_tiny, weights
from transformers import AutoModelForCausalLM

import schedule
import trainers


@pytest.mark.parametrize("loss", ["sft", "dpo", "gdpo"])
def test_a_run_folder_keeps_its_contract(run, loss):
    folder = run(f"loss={loss}")
    logged = lines(folder)
    training = [x for x in logged if "loss/train" in x]
    assert [x["counters/examples"] for x in training] == [8, 16, 24] and [
        x["counters/updates"] for x in training
    ] == [1, 2, 3]
    assert sum("loss/eval" in x for x in logged) == 2  # before the first step and at the end
    expected = {
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
    if loss != "sft":
        expected |= {
            f"rewards_train/{name}"
            for name in ("chosen", "rejected", "accuracies", "margins", "margins_majority")
        } | {"logps_train/rejected"}
        assert training[0]["rewards_train/margins"] == pytest.approx(
            0, abs=1e-3
        )  # policy = reference at step 0
    assert expected <= set(training[0])
    assert any("rewards_train/margins_minority" in x for x in training) == (loss != "sft")
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "data_audit.json",
        "metrics.jsonl",
        "train.log",
        "step-000003",
        "latest",
        "best",
    }
    model = AutoModelForCausalLM.from_pretrained(folder / "best")
    assert all(
        torch.equal(p, weights(folder)[n]) for n, p in model.state_dict().items() if n in weights(folder)
    )
    audit = json.loads((folder / "data_audit.json").read_text())["opinions/republican"]
    assert (
        audit["train"]["prompts"] == audit["train"]["rows_read"] == 117
        and 0 < audit["train"]["saved_by_sharing"] < 1
    )
    assert set(audit) == {"train", "eval"} and audit["train"]["preferred_beliefs"].keys() <= set("012345")
    if loss == "dpo":
        assert training[0]["loss/train"] == pytest.approx(np.log(2), abs=1e-4)


def test_training_on_the_belief_distribution_calibrates_it(run):
    folder = run("loss=gdpo", "loss.preference_weight=0", "n_examples=160", "shuffle=prompts")
    evals = [x for x in lines(folder) if "loss/eval" in x]
    assert (
        evals[-1]["js_distance_eval"] < evals[0]["js_distance_eval"]
        and evals[-1]["class_mass_eval"] > 2 * evals[0]["class_mass_eval"]
    )


def test_accumulation_changes_nothing(run):
    one = run("loss=gdpo", "optimizer=SGD", name="one")
    many = run("loss=gdpo", "optimizer=SGD", "max_tokens=400", "activation_checkpointing=true", name="many")
    apart = run("loss=gdpo", "optimizer=SGD", "share_prefixes=false", "max_tokens=1024", name="apart")
    for other in (many, apart):
        assert all(
            torch.allclose(a, b, atol=2e-5) for a, b in zip(weights(one).values(), weights(other).values())
        )
        assert [x["loss/train"] for x in lines(one) if "loss/train" in x] == pytest.approx(
            [x["loss/train"] for x in lines(other) if "loss/train" in x], rel=1e-4
        )


def test_early_stopping_keeps_the_best(run, monkeypatch):
    values = iter([3.0, 1.0, 2.0, 2.5, 2.6])
    monkeypatch.setattr(trainers, "validate", lambda *a: {"loss/eval": next(values)})
    folder = run("loss=sft", "eval_every=8", "patience=2", "n_examples=80", "do_first_eval=true")
    assert (folder / "best").resolve().name == "step-000001" and (
        folder / "latest"
    ).resolve().name == "step-000003"


@pytest.mark.parametrize("signum,code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits(tmp_path, signum, code):
    folder = save_tiny(tmp_path / "tiny")
    overrides = [
        "loss=sft",
        f"model.name_or_path={folder}",
        f"output_dir={tmp_path}/out",
        "exp_name=run",
        *QUICK,
        "n_examples=1000000",
        "do_first_eval=false",
    ]
    process = subprocess.Popen(
        [sys.executable, "train.py", *overrides], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "out" / "run" / "metrics.jsonl"
    deadline = time.time() + 120
    while (
        not (log.exists() and log.read_text().count("\n") > 2)
        and process.poll() is None
        and time.time() < deadline
    ):
        time.sleep(0.1)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr[-2000:]
    assert "Traceback" not in stderr and f"stopped by {signum.name}" in stderr
    assert (tmp_path / "out" / "run" / "latest" / "model.safetensors").exists()
    assert not list((tmp_path / "out" / "run").glob(".saving-*"))


@pytest.mark.parametrize("family,model", [("gpt_neox", "pythia28"), ("gpt2", "gpt2-large")])
def test_other_families_train_in_their_own_dtype(tmp_path, run, family, model):
    folder = save_tiny(tmp_path / family, family)
    logged = lines(run("loss=gdpo", f"model={model}", f"model.name_or_path={folder}"))
    assert len(logged) == 5 and all(np.isfinite(x.get("loss/train", 0.0)) for x in logged)


def test_learning_rate_warms_up_and_step_counts_cover_all_examples():
    assert [trainers.learning_rate(i, 1.0, 3) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    order = schedule.Order(list(range(32)), 5, 0)
    assert order.num_steps(32 + 7) == 7 + 2
    assert sum(len(order.examples(step)) for step in range(7)) == 32
