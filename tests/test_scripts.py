"""The scripts: each names a loss that exists, and the main one runs from SFT to the report."""

import json
import sys

import pytest
from data_helpers import write
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


def pairs_file(path):
    """Forty prompts with a pair each and nothing else."""
    rows = []
    for i in range(40):
        responses = [{"text": f"It is {i}."}, {"text": "No."}]
        rows.append({"prompt": f"Say {i}", "responses": responses, "pairs": [[0, 1]]})
    return write(path, *rows)


def test_the_dpo_script_goes_from_plain_pairs_to_a_report(tmp_path):
    folder, out = save_tiny(tmp_path / "tiny"), tmp_path / "out"
    done = command(
        "bash",
        "train_scripts/run_dpo.sh",
        f"model.name_or_path={folder}",
        "n_examples=32",
        GROVE_PYTHON=sys.executable,
        DATASET=pairs_file(tmp_path / "pairs.jsonl"),
        OUTPUT_DIR=str(out),
        NPROC="0",
    )
    assert "pair accuracy" in done.stdout
    assert "2 prompts on 2 questions" in done.stdout
    (report,) = out.glob("dpo-*/report/report.json")
    dpo = json.loads(report.read_text())["checkpoints"][report.parent.parent.name]
    assert {"pair_accuracy", "margin", "kl_reference"} <= set(dpo)


@pytest.mark.parametrize(
    "arguments,env,message",
    [
        ([], {}, "usage: bash train_scripts/run.sh"),
        (["dpoo"], {}, "dpoo"),
        (["dpo", "lrr=1"], {}, "lrr"),
        (["dpo", "exp_name=x"], {}, "this script names its runs"),
        (["dpo"], {"NPROC": "two"}, "NPROC=two: must be a number"),
        (["dpo"], {"EVAL": "split=nowhere"}, "no split nowhere"),
        (["dpo"], {"EVAL": "ckpt=x"}, "this script names what it evaluates"),
        (["swepo"], {"DATASET": "PAIRS"}, "needs a reward on each"),
        (["dpo"], {"OUTPUT_DIR": "FILE/out"}, "cannot be written"),
    ],
)
def test_a_script_refuses_at_its_beginning_what_would_fail_at_its_end(tmp_path, arguments, env, message):
    places = {"PAIRS": pairs_file(tmp_path / "pairs.jsonl"), "FILE": str(tmp_path / "file")}
    (tmp_path / "file").touch()
    for name, place in places.items():
        env = {key: value.replace(name, place) for key, value in env.items()}
    tiny = [f"model.name_or_path={save_tiny(tmp_path / 'tiny')}"] if arguments else []
    given = {"GROVE_PYTHON": sys.executable, "OUTPUT_DIR": str(tmp_path / "out"), "NPROC": "0", **env}
    done = command("bash", "train_scripts/run.sh", *arguments, *tiny, code=2, **given)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert message in errors[0]
    assert not (tmp_path / "out").exists()
