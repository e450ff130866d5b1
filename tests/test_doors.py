"""The doors: help, errors of one line, and the scripts."""

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT, save_tiny


def call(*command, code=0, **env):
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **env},
        timeout=300,
    )
    assert done.returncode == code, done.stdout[-1500:] + done.stderr[-3000:]
    return done


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["train.py", "loss.betaa=1"], "betaa"),
        (["train.py", "los=dpo"], "los"),
        (["train.py", "loss=dop"], "dop"),
        (["train.py", "batch_sise=3"], "batch_sise"),
        (["evaluate.py"], "ckpt: missing"),
        (["evaluate.py", "ckpt=/nowhere"], "no such folder or file"),
        (["evaluate.py", "n_sample=3"], "n_sample"),
        (["synthesize.py", "task=x"], "task=x: choose one of survey, check"),
        (["preference_datasets.py", "opinions/whig"], "no such group"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(arguments, message):
    done = call(sys.executable, *arguments, code=2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr, (
        done.stderr
    )


@pytest.mark.parametrize("entry", ["train.py", "evaluate.py", "synthesize.py", "preference_datasets.py"])
def test_help_is_quick_and_prints_the_keys(entry):
    done = call(sys.executable, "-X", "importtime", entry, "--help")
    imported = {
        line.rsplit("|", 1)[-1].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert done.stdout and imported and "transformers" not in imported
    assert "torch" not in imported or entry in ("synthesize.py", "preference_datasets.py")


def test_the_gdpo_script_end_to_end_on_a_tiny_model(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    done = call(
        "bash",
        "train_scripts/run_gdpo.sh",
        f"model.name_or_path={folder}",
        "n_examples=64",
        "n_eval_examples=16",
        "pairs_per_prompt=2",
        "max_length=300",
        "loss.beta=0.2",
        EVAL="n_samples=2 max_new_tokens=16",
        GROVE_PYTHON=sys.executable,
        OUTPUT_DIR=str(tmp_path / "out"),
        NPROC="0",
    )
    assert (
        "JSD (probability)" in done.stdout and "(majority only)" in done.stdout and "report: " in done.stdout
    )
    found = json.loads((tmp_path / "out" / "gdpo" / "report" / "report.json").read_text())
    assert {"tiny", "sft", "gdpo"} <= set(found["checkpoints"]) and found["settings"]["split"] == "test"
    for name in ("tiny", "sft", "gdpo"):
        metrics = found["checkpoints"][name]
        assert {
            "js_distance_probability",
            "js_distance_sampling",
            "js_distance_floor",
            "cbc",
            "bpc",
            "rs",
            "majority_share",
        } <= set(metrics)
        assert all(set(v) == {"value", "low", "high", "n"} and v["n"] == 39 for v in metrics.values())
    rows = [
        json.loads(line)
        for line in (tmp_path / "out" / "gdpo" / "report" / "predictions.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 3 * 39 * 2
    assert (tmp_path / "out" / "gdpo" / "report" / "index.html").read_text().count("<tr>") > 5
    assert (tmp_path / "out" / "gdpo" / "report" / "distributions.png").stat().st_size > 10_000


def test_the_audit_needs_no_model(tmp_path):
    (tmp_path / "r.jsonl").write_text(
        '{"prompt": "p", "responses": [{"text": "a", "reward": 1}, {"text": "b", "reward": 2}]}\n'
    )
    done = call(
        sys.executable, "preference_datasets.py", str(tmp_path / "r.jsonl"), "all", "--responses", "ranked"
    )
    audit = json.loads(done.stdout)[str(tmp_path / "r.jsonl")]["all"]
    assert audit["rows_read"] == audit["examples"] == 1 and audit["answer_characters"]["max"] == 1


@pytest.mark.parametrize(
    "script", sorted(p.name for p in (ROOT / "train_scripts").glob("run_*.sh") if p.stem != "run_multinode")
)
def test_every_script_names_a_loss_that_exists(script):
    text = (ROOT / "train_scripts" / script).read_text()
    loss = script.removeprefix("run_").removesuffix(".sh")
    assert f'run.sh" {loss} "$@"' in text and (
        loss == "icf" or (ROOT / "config" / "loss" / f"{loss}.yaml").exists()
    )
