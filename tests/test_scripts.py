"""The scripts: each names a loss that exists, and the main one runs from SFT to the report."""

import json

import pytest
from data_helpers import write
from helpers import ROOT, command, save_tiny

OF_NO_LOSS = ("run_multinode", "run_iterative_swepo")  # scripts that do more than train with one


def test_the_gdpo_script_end_to_end_on_a_tiny_model(tmp_path, python):
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
        GROVE_PYTHON=python,
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
        assert all(set(v) == {"value", "low", "high", "n"} for v in metrics.values())
        counts = {metric: v["n"] for metric, v in metrics.items()}
        counts.pop("wasserstein_sampling", None)  # few of a tiny model's samples state a class
        assert set(counts.values()) == {39}
    rows = [
        json.loads(line)
        for line in (tmp_path / "out" / "gdpo" / "report" / "predictions.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 3 * 39 * 2
    assert (tmp_path / "out" / "gdpo" / "report" / "report.html").read_text().count("<tr>") > 5
    assert (tmp_path / "out" / "gdpo" / "report" / "figures" / "distributions.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "script", sorted(p.name for p in (ROOT / "train_scripts").glob("run_*.sh") if p.stem not in OF_NO_LOSS)
)
def test_every_script_names_a_loss_that_exists(script):
    text = (ROOT / "train_scripts" / script).read_text()
    loss = script.removeprefix("run_").removesuffix(".sh")
    assert f'run.sh" {loss} "$@"' in text and (
        loss == "icf" or (ROOT / "config" / "loss" / f"{loss}.yaml").exists()
    )


def pair(i):
    """A prompt with a pair and nothing else."""
    responses = [{"text": f"It is {i}."}, {"text": "No."}]
    return {"prompt": f"Say {i}", "responses": responses, "pairs": [[0, 1]]}


def ranked(i):
    """A prompt with rewards."""
    responses = [
        {"text": f"It is {i}.", "reward": 3},
        {"text": "No.", "reward": 1},
        {"text": "Well.", "reward": 2},
    ]
    return {"prompt": f"Say {i}", "responses": responses}


def single(i):
    """A prompt with a response, as SFT data has it."""
    return {"prompt": f"Say {i}", "responses": [{"text": f"It is {i}."}]}


def file_of(path, *kinds):
    """Forty prompts, of these kinds in turn."""
    return write(path, *(kinds[i % len(kinds)](i) for i in range(40)))


def report_of_script(tmp_path, python, name, data_set, *overrides):
    """Run a script on a tiny model and a data set; what it printed, and the report."""
    folder, out = save_tiny(tmp_path / "tiny"), tmp_path / "out"
    done = command(
        "bash",
        f"train_scripts/run_{name}.sh",
        f"model.name_or_path={folder}",
        "n_examples=32",
        *overrides,
        GROVE_PYTHON=python,
        DATASET=data_set,
        OUTPUT_DIR=str(out),
        NPROC="0",
        SFT="yes" if name == "sft" else "no",
    )
    (report,) = out.glob(f"{name}-*/report/report.json")
    return done.stdout, json.loads(report.read_text()), report.parent.parent.name


def test_the_dpo_script_goes_from_pairs_and_ranked_responses_to_a_report(tmp_path, python):
    data_set = file_of(tmp_path / "both.jsonl", pair, ranked)
    said, found, run = report_of_script(tmp_path, python, "dpo", data_set, "eval_fraction=0.2")
    assert "pair accuracy" in said
    assert "8 prompts on 8 questions" in said
    assert {"pair_accuracy", "kendall_tau", "margin", "kl_reference"} <= set(found["checkpoints"][run])


def test_the_sft_script_goes_from_a_prompt_and_a_response_to_a_report_on_its_eval_data(tmp_path, python):
    held_out = file_of(tmp_path / "held_out.jsonl", single)
    data_set = write(tmp_path / "train.jsonl", *({**single(i), "prompt": f"Tell {i}"} for i in range(40)))
    said, found, run = report_of_script(tmp_path, python, "sft", data_set, f"eval_datasets=[{held_out}]")
    assert "perplexity" in said
    assert f"40 prompts on 40 questions of {held_out}" in said
    assert {"nll", "perplexity", "reference_nll"} <= set(found["checkpoints"][run])


@pytest.mark.parametrize(
    "arguments,env,message",
    [
        ([], {}, "usage: bash train_scripts/run.sh"),
        (["dpoo"], {}, "dpoo"),
        (["dpo", "lrr=1"], {}, "lrr"),
        (["dpo", "exp_name=x"], {}, "this script names its runs"),
        (["dpo"], {"NPROC": "two"}, "NPROC=two: must be a number"),
        (["dpo"], {"SFT": "no", "EVAL": "split=nowhere"}, "no split nowhere"),
        (["dpo"], {"EVAL": "ckpt=x"}, "this script names what it evaluates"),
        (["swepo"], {"SFT": "no", "DATASET": "PAIRS"}, "needs a reward on each"),
        (["dpo"], {"SFT": "no", "DATASET": "SINGLE"}, "responses=pairs needs two or more responses"),
        (["gdpo"], {"SFT": "no", "DATASET": "PAIRS"}, "belief"),
        (["dpo"], {"SFT": "no", "OUTPUT_DIR": "FILE/out"}, "cannot be written"),
    ],
)
def test_a_script_refuses_at_its_beginning_what_would_fail_at_its_end(
    tmp_path, python, arguments, env, message
):
    places = {
        "PAIRS": file_of(tmp_path / "pairs.jsonl", pair),
        "SINGLE": file_of(tmp_path / "single.jsonl", single),
        "FILE": str(tmp_path / "file"),
    }
    (tmp_path / "file").touch()
    for name, place in places.items():
        env = {key: value.replace(name, place) for key, value in env.items()}
    tiny = [f"model.name_or_path={save_tiny(tmp_path / 'tiny')}"] if arguments else []
    given = {"GROVE_PYTHON": python, "OUTPUT_DIR": str(tmp_path / "out"), "NPROC": "0", **env}
    done = command("bash", "train_scripts/run.sh", *arguments, *tiny, code=2, **given)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert message in errors[0]
    assert not (tmp_path / "out").exists()
