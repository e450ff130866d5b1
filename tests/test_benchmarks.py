"""The benchmarks measure what they say: JSON keys, modes that train alike, ratios, predictions, and errors of
one line.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import save_tiny, tiny_policy

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import compare  # noqa: E402
import scaling  # noqa: E402
import throughput  # noqa: E402
import workload  # noqa: E402

import forest  # noqa: E402
import models  # noqa: E402
from utils import UserError  # noqa: E402

PEER_KEYS = {"system", "pairs", "prompts", "seconds", "pairs_per_second", "prompts_per_second", "peak_rss_gb"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """Five prompts: one with two responses only, one with two equal rewards."""
    path = tmp_path_factory.mktemp("data") / "ranked.jsonl"
    rows = [
        {
            "prompt": f"Say something about number {i}. " * (1 + i),
            "responses": [
                {"text": f"Answer {k} of {i}" + " and so on" * (k * i % 4), "reward": float((3 * k + i) % 5)}
                for k in range(2 if i == 2 else 4)
            ],
        }
        for i in range(5)
    ]
    rows[3]["responses"][1]["reward"] = rows[3]["responses"][0]["reward"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(capsys, monkeypatch, *options):
    """The JSON object that throughput.py prints last, in this process."""
    monkeypatch.setattr(sys, "argv", ["throughput.py", "--threads", "1", "--device", "cpu", *options])
    throughput.main()
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.parametrize(
    "loss,view,keys",
    [("dpo", "pairs.all", []), ("swepo", "ranked", ["--loss-key", "alpha=0.1"]), ("kto", "binary", [])],
)
def test_all_modes_train_alike_on_the_same_work(model, ranked, capsys, monkeypatch, loss, view, keys):
    monkeypatch.setattr(models, "matmul_rate", lambda device, dtype, size: 1e11)  # seconds on one thread
    found = {
        mode: run(
            capsys,
            monkeypatch,
            "--model",
            model,
            "--data",
            ranked,
            "--loss",
            loss,
            "--view",
            view,
            *keys,
            "--prompts",
            "4",
            "--batch-size",
            "3",
            "--max-length",
            "96",
            "--lr",
            "0.01",
            "--mode",
            mode,
        )
        for mode in throughput.MODES
    }
    one = found["shared"]
    assert PEER_KEYS | {
        "tokens_per_second",
        "padding_fraction",
        "saved_by_sharing",
        "flops_per_second",
        "matmul_flops_per_second",
        "mfu",
        "reference_seconds_cold",
        "reference_seconds_warm",
        "peak_cuda_gb",
    } <= set(one)
    assert one["prompts"] == 4 and one["pairs"] == {"dpo": 24, "swepo": 4, "kto": 16}[loss]
    for mode in ("packed", "padded", "plain"):
        assert found[mode]["loss_mean"] == pytest.approx(one["loss_mean"], rel=1e-3)
        for key in ("pairs", "prompts", "sequence_tokens"):
            assert found[mode][key] == one[key]
        assert (
            found[mode]["saved_by_sharing"] == 0 < one["saved_by_sharing"]
            and found[mode]["tokens"] > one["tokens"]
        )
    if loss == "dpo":
        assert abs(one["loss_mean"] - 0.6931) > 0.01  # updates happened, and the same ones


def test_padded_tables_are_those_of_the_forest():
    """Ragged K, beliefs and class reads: single responses give the tables that a packed pass gives, field by
    field.
    """
    trees = [
        forest.TokenTree(
            (1, 2, 3), (4, 5), ((6, 7), (8,)), (2.0, 1.0), (10, 11), (0.25, 0.75), reference=(-1.0, -2.0)
        ),
        forest.TokenTree(
            (1, 2, 3),
            (5,),
            ((6, 7), (8, 9, 4), (3,)),
            (3.0, 2.0, 1.0),
            (10, 11),
            (0.5, 0.5),
            reference=(-3.0, -4.0, -5.0),
        ),
        forest.TokenTree((9, 2), (5,), ((), (8, 9)), (0.0, 1.0), (10, 11), (0.5, 0.5), reference=(0.0, -4.0)),
    ]
    policy = tiny_policy()
    with torch.no_grad():
        plain = models.score(policy, forest.pack(trees, [[0, 1, 2]], 0))
        ((batch, members),) = throughput.step_batches(
            trees, [0, 1, 2], throughput.Plan("padded", 64, 64, 3, 0)
        )
        tables = throughput.as_tables(models.score(policy, batch), members)
    assert batch.input_ids.shape[0] == 6
    for name in (
        "policy",
        "reference",
        "length",
        "reward",
        "valid",
        "class_logps",
        "class_probs",
        "belief_logp",
        "belief_length",
    ):
        torch.testing.assert_close(getattr(tables, name), getattr(plain, name), rtol=1e-4, atol=1e-4)


def test_gdpo_and_sft_random_shapes_and_warmup(model, capsys, monkeypatch):
    gdpo = run(
        capsys,
        monkeypatch,
        "--model",
        model,
        "--data",
        "opinions/republican",
        "--loss",
        "gdpo",
        "--prompts",
        "1",
        "--batch-size",
        "8",
        "--max-length",
        "512",
    )
    assert gdpo["view"] == "conditioned" and gdpo["pairs"] == 16
    cdpo = run(
        capsys,
        monkeypatch,
        "--model",
        model,
        "--data",
        "opinions/republican",
        "--loss",
        "cdpo",
        "--prompts",
        "1",
        "--steps",
        "1",
        "--loss-key",
        "label_smoothing=0.2",
        "--max-length",
        "512",
    )
    assert cdpo["view"] == "pairs" and cdpo["loss_mean"] == pytest.approx(0.6931, abs=1e-3)
    sft = run(
        capsys,
        monkeypatch,
        "--random-shape",
        "llama-tiny",
        "--data",
        "random",
        "--loss",
        "sft",
        "--warmup-steps",
        "1",
        "--steps",
        "3",
        "--prompts",
        "4",
        "--batch-size",
        "2",
        "--max-length",
        "48",
    )
    assert sft["pairs"] == 6 and sft["prompts"] == 6 and sft["reference_seconds_cold"] is None


def test_texts_are_cut_to_a_third_and_the_rest(model, ranked):
    tokenizer = models.load_tokenizer(model)
    groups = workload.read_groups(ranked, 9, 4)
    assert len(groups) == 4 and all(
        [r.reward for r in g.responses] == sorted({r.reward for r in g.responses})[::-1] for g in groups
    )
    for group in workload.cut_groups(groups, tokenizer, 60):
        assert len(group.prompt) == 20 and all(
            len(r.text) <= 39 for r in group.responses
        )  # a byte is a token


def call(*command):
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "script,options,message",
    [
        (throughput, ["--data", "/nowhere.jsonl"], "no such file"),
        (throughput, ["--data", "RANKED", "--loss", "dop"], "--loss dop: no such loss"),
        (throughput, ["--data", "RANKED", "--loss-key", "alpha=1"], "loss.alpha"),
        (throughput, ["--data", "RANKED", "--loss-key", "beta"], "write --loss-key beta=VALUE"),
        (throughput, ["--data", "RANKED", "--view", "ranked"], "give --view pairs"),
        (throughput, ["--data", "RANKED", "--responses", "9"], "lower --responses"),
        (
            throughput,
            ["--data", "RANKED", "--prompts", "0"],
            "--prompts: '0' is no whole number of 1 or more",
        ),
        (throughput, ["--data", "RANKED", "--max-tokens", "20"], "raise it or lower --max-length"),
        (throughput, ["--data", "RANKED", "--view", "pairs", "--pairs", "all"], "give one of them"),
        (
            throughput,
            ["--data", "random", "--loss", "gdpo", "--random-shape", "llama-tiny"],
            "needs a belief",
        ),
        (compare, ["--data", "RANKED", "--repeats", "2"], "give 3 or more"),
        (compare, ["--data", "RANKED", "--peer", "/no.py"], "no such file"),
        (scaling, ["--random-shape", "llama-tiny", "--max-tokens", "100"], "raise it"),
        (scaling, ["--batch", "2,x"], "--batch"),
        (scaling, ["--batch", "2"], "two different values"),
    ],
)
def test_mistakes_are_named_on_one_line(script, options, message, model, ranked, monkeypatch):
    needs_model = "--random-shape" not in options and "--data" in options
    options = [ranked if o == "RANKED" else o for o in options] + (["--model", model] if needs_model else [])
    monkeypatch.setattr(sys, "argv", [script.__name__ + ".py", *options])
    with pytest.raises(UserError) as error:
        script.main()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "script,options,message",
    [
        ("throughput", [], "--data"),
        ("scaling", ["--repeat", "3"], "--repeat"),
        ("peer_trl", ["--data", "x"], "--model"),
        ("compare", ["--data", "x", "--workloads", "x"], "no workload x"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(script, options, message):
    done = call(BENCHMARKS / f"{script}.py", *options)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and message in done.stderr, done.stderr
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


def test_a_missing_peer_says_how_to_install_it(model, ranked):
    done = call(
        "-c",
        "import sys, runpy; sys.modules['trl'] = None; path = sys.argv.pop(1); sys.argv[0] = path; "
        "runpy.run_path(path, run_name='__main__')",
        BENCHMARKS / "peer_trl.py",
        "--model",
        model,
        "--data",
        ranked,
    )
    assert (
        done.returncode == 2 and done.stderr.count("\n") == 1 and "pip install trl==1.16.0" in done.stderr
    ), done.stderr


@pytest.mark.parametrize("script", ["throughput", "compare", "scaling", "peer_trl"])
def test_help_is_quick(script):
    done = call("-X", "importtime", BENCHMARKS / f"{script}.py", "--help")
    imported = {
        line.rsplit("|", 1)[-1].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert done.stdout and imported and not {"torch", "transformers"} & imported


def test_compare_alternates_and_forms_ratios_between_neighbours(tmp_path, ranked, capsys, monkeypatch):
    order = []

    def fake(command):
        ours = "throughput.py" in command[1] and "padded" not in command
        order.append("A" if ours else "B")
        speed = {"A": 4.0, "B": 2.0}[order[-1]] / (1 + len(order) // 3)
        return {
            "model": "folder",
            "pairs": 8,
            "prompts": 4,
            "sequence_tokens": 1000 + ours,
            "pairs_per_second": speed,
            "peak_rss_gb": 1.0 if ours else 2.0,
            "peak_cuda_gb": None,
        }

    monkeypatch.setattr(compare, "run_once", fake)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "compare.py",
            "--data",
            ranked,
            "--workloads",
            "dpo-all,swepo-padded",
            "--out",
            str(tmp_path / "c.json"),
        ],
    )
    compare.main()
    found = json.loads((tmp_path / "c.json").read_text())["workloads"]
    assert "".join(order) == "AB" * 6 and set(found) == {"dpo-all", "swepo-padded"}
    speed = found["dpo-all"]["summary"]["pairs_per_second"]
    pairs = [(run["a"]["pairs_per_second"], run["b"]["pairs_per_second"]) for run in found["dpo-all"]["runs"]]
    assert speed["ratios"] == [a / b for a, b in pairs] and speed["median"] == sorted(speed["ratios"])[1]
    assert found["dpo-all"]["summary"]["peak_rss_gb"]["median"] == 0.5
    assert capsys.readouterr().out.count("\n| ") == 2
    with pytest.raises(UserError, match="pairs are 8 in A and 9 in B"):
        compare.check_same_work("w", {"pairs": 8}, {"pairs": 9})


def test_scaling_predicts_exactly_what_costs_by_the_token(tmp_path):
    args = scaling.parse([])
    sweeps = scaling.sweep_points(args)
    for name, points in sweeps.items():
        measured = {
            p: {
                "seconds": 2e-3 * p.tokens,
                "min": 1e-3 * p.tokens,
                "max": 3e-3 * p.tokens,
                "flops": p.tokens**2,
            }
            for p in points
        }
        sweep = scaling.analyse(name, points, measured)
        assert all(abs(p["deviation_tokens_percent"]) < 1e-6 for p in sweep["points"])
        assert sweep["slope_deviation_percent"]["tokens"] == pytest.approx(0, abs=1e-6)
        assert sweep["slope"] == pytest.approx(
            2e-3 * {"responses": 2 * 64, "prompt_tokens": 2, "batch": 128 + 4 * 64}[name]
        )
        assert scaling.table(name, sweep).count("\n") == 2 + len(points)


def test_scaling_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "scaling.py",
            "--random-shape",
            "llama-tiny",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--repeats",
            "1",
            "--responses",
            "1,2",
            "--prompt-tokens",
            "8,16",
            "--batch",
            "1,2",
            "--base",
            "2,8,1",
            "--response-tokens",
            "4",
            "--plot",
            str(tmp_path / "s.png"),
        ],
    )
    scaling.main()
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert set(found["sweeps"]) == set(scaling.SWEEPS) and (tmp_path / "s.png").stat().st_size > 5000
    assert [p["tokens"] for p in found["sweeps"]["responses"]["points"]] == [12, 16]
