"""The scripts: each names a loss that exists, and the main one runs from SFT to the report."""

import json
import sys

import pytest
from helpers import ROOT, command, save_tiny


def test_the_gdpo_script_end_to_end_on_a_tiny_model(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    done = command(
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


@pytest.mark.parametrize(
    "script", sorted(p.name for p in (ROOT / "train_scripts").glob("run_*.sh") if p.stem != "run_multinode")
)
def test_every_script_names_a_loss_that_exists(script):
    text = (ROOT / "train_scripts" / script).read_text()
    loss = script.removeprefix("run_").removesuffix(".sh")
    assert f'run.sh" {loss} "$@"' in text and (
        loss == "icf" or (ROOT / "config" / "loss" / f"{loss}.yaml").exists()
    )
