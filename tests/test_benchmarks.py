"""The benchmarks beside throughput.py: ratios, predictions, mistakes named on one line, a quick --help."""

import importlib.util
import json
import sys

import pytest
from bench_helpers import BENCHMARKS, call, last_object, save_ranked
from helpers import save_tiny

from utils import UserError

import compare  # isort: skip
import scaling  # isort: skip
import throughput  # isort: skip


def load_sampling():
    """benchmarks/generation.py, whose name is that of a package, too."""
    spec = importlib.util.spec_from_file_location("sampling_benchmark", BENCHMARKS / "generation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sampling = load_sampling()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    return save_ranked(tmp_path_factory.mktemp("data") / "ranked.jsonl")


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script,options,message",
    [
        (throughput, "--data /nowhere.jsonl", "no such file"),
        (throughput, "--data RANKED --loss dop", "--loss dop: no such loss"),
        (throughput, "--data RANKED --loss-key alpha=1", "loss.alpha"),
        (throughput, "--data RANKED --loss-key beta", "write --loss-key beta=VALUE"),
        (throughput, "--data RANKED --view ranked", "give --view pairs"),
        (throughput, "--data RANKED --responses 9", "lower --responses"),
        (throughput, "--data RANKED --prompts 0", "--prompts: '0' is no whole number of 1 or more"),
        (throughput, "--data RANKED --max-tokens 20", "raise it or lower --max-length"),
        (throughput, "--data RANKED --view pairs --pairs all", "give one of them"),
        (throughput, "--data random --loss gdpo --random-shape llama-tiny", "needs a belief"),
        (compare, "--data RANKED --repeats 2", "give 3 or more"),
        (compare, "--data RANKED --peer /no.py", "no such file"),
        (scaling, "--random-shape llama-tiny --max-tokens 100", "raise it"),
        (scaling, "--batch 2,x", "--batch"),
        (scaling, "--batch 2", "two different values"),
        (sampling, "--peers hf", "no peer hf"),
        (sampling, "--data RANKED --split nowhere", "split"),
        (sampling, "--data RANKED --split all --new-tokens 600", "max_new_tokens=600"),
    ],
)
def test_mistakes_are_named_on_one_line(script, options, message, model, ranked, monkeypatch):
    needs_model = "--random-shape" not in options and "--data" in options
    words = options.replace("RANKED", ranked).split()
    if needs_model:
        words += ["--model", model]
    monkeypatch.setattr(sys, "argv", [script.__name__ + ".py", *words])
    with pytest.raises(UserError) as error:
        script.main()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "script,options,message",
    [
        ("throughput", "", "--data"),
        ("scaling", "--repeat 3", "--repeat"),
        ("peer_trl", "--data x", "--model"),
        ("compare", "--data x --workloads x", "no workload x"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(script, options, message):
    done = call(BENCHMARKS / f"{script}.py", *options.split())
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_that_fails_is_named_with_its_last_words(tmp_path):
    with pytest.raises(UserError, match="cannot be started .*--peer-python"):
        compare.run_once(["/nowhere/python", "peer.py"])
    script = tmp_path / "peer.py"
    for body, message in (
        ("raise SystemExit('error: no memory')", "peer.py ended with code 1: no memory"),
        ("print('done')", "no JSON object"),
    ):
        script.write_text(body)
        with pytest.raises(UserError, match=message):
            compare.run_once([sys.executable, str(script)])


WITHOUT_TRL = """
import runpy, sys
sys.modules["trl"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_missing_peer_says_how_to_install_it(model, ranked):
    done = call("-c", WITHOUT_TRL, BENCHMARKS / "peer_trl.py", "--model", model, "--data", ranked)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "pip install trl==1.16.0" in done.stderr


@pytest.mark.parametrize("script", ["throughput", "compare", "scaling", "peer_trl", "generation"])
def test_help_is_quick(script):
    done = call("-X", "importtime", BENCHMARKS / f"{script}.py", "--help")
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rsplit("|", 1)[-1].strip() for line in lines}
    assert done.stdout
    assert imported
    assert not {"torch", "transformers"} & imported


# --- compare ------------------------------------------------------------------------------------------------


def test_compare_alternates_and_forms_ratios_between_neighbours(tmp_path, ranked, capsys, monkeypatch):
    order = []

    def fake(command):
        is_ours = "throughput.py" in command[1] and "padded" not in command
        order.append("A" if is_ours else "B")
        speed = {"A": 4.0, "B": 2.0}[order[-1]] / (1 + len(order) // 3)
        return {
            "model": "folder",
            "pairs": 8,
            "prompts": 4,
            "sequence_tokens": 1000 + is_ours,
            "pairs_per_second": speed,
            "peak_rss_gb": 1.0 if is_ours else 2.0,
            "peak_cuda_gb": None,
        }

    monkeypatch.setattr(compare, "run_once", fake)
    out = tmp_path / "c.json"
    options = f"--data {ranked} --workloads dpo-all,swepo-padded --out {out}"
    monkeypatch.setattr(sys, "argv", ["compare.py", *options.split()])
    compare.main()
    workloads = json.loads(out.read_text())["workloads"]
    assert "".join(order) == "AB" * 6
    assert set(workloads) == {"dpo-all", "swepo-padded"}
    summary, runs = workloads["dpo-all"]["summary"], workloads["dpo-all"]["runs"]
    speed = summary["pairs_per_second"]
    assert speed["ratios"] == [run["a"]["pairs_per_second"] / run["b"]["pairs_per_second"] for run in runs]
    assert speed["median"] == sorted(speed["ratios"])[1]
    assert summary["peak_rss_gb"]["median"] == 0.5
    assert capsys.readouterr().out.count("\n| ") == 2
    with pytest.raises(UserError, match="pairs are 8 in A and 9 in B"):
        compare.check_same_work("w", {"pairs": 8}, {"pairs": 9})


# --- scaling ------------------------------------------------------------------------------------------------


def test_scaling_predicts_exactly_what_costs_by_the_token():
    tokens_a_unit = {"responses": 2 * 64, "prompt_tokens": 2, "batch": 128 + 4 * 64}
    for name, points in scaling.sweep_points(scaling.parse([])).items():
        measured = {}
        for point in points:
            tokens = point.tokens
            measured[point] = scaling.Timing(
                2e-3 * tokens, min=1e-3 * tokens, max=3e-3 * tokens, flops=tokens**2
            )
        sweep = scaling.analyse(name, points, measured)
        assert all(abs(p["deviation_tokens_percent"]) < 1e-6 for p in sweep["points"])
        assert sweep["slope_deviation_percent"]["tokens"] == pytest.approx(0, abs=1e-6)
        assert sweep["slope"] == pytest.approx(2e-3 * tokens_a_unit[name])
        assert scaling.table(name, sweep).count("\n") == 2 + len(points)


def test_scaling_end_to_end(tmp_path, capsys, monkeypatch):
    plot = tmp_path / "s.png"
    options = (
        "--random-shape llama-tiny --device cpu --threads 1 --repeats 1 --responses 1,2 --prompt-tokens 8,16 "
        f"--batch 1,2 --base 2,8,1 --response-tokens 4 --plot {plot}"
    )
    result = last_object(scaling.main, options, capsys, monkeypatch)
    assert set(result["sweeps"]) == set(scaling.SWEEPS)
    assert plot.stat().st_size > 5000
    assert [p["tokens"] for p in result["sweeps"]["responses"]["points"]] == [12, 16]


# --- generation ---------------------------------------------------------------------------------------------


def test_sampling_is_timed_beside_transformers_on_the_same_work(model, ranked, capsys, monkeypatch):
    options = f"--model {model} --data {ranked} --split all --prompts 3 --samples 2 --new-tokens 6"
    result = last_object(
        sampling.main, f"{options} --batch-size 4 --threads 1 --repeats 2", capsys, monkeypatch
    )
    assert set(result["systems"]) == {"grove", "transformers"}
    for of_system in result["systems"].values():
        assert len(of_system["seconds"]) == 2
        assert 0 < of_system["tokens_a_response"] <= 6
    ours, theirs = (result["systems"][name]["seconds"] for name in ("grove", "transformers"))
    ratios = sorted(b / a for a, b in zip(ours, theirs))
    assert result["over_transformers"]["low"] == pytest.approx(ratios[0], rel=0.05)
