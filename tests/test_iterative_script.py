"""The script of rounds: which commands it runs, that each round begins where the last one ended, and that it
goes on in any round."""

import json
import sys

import pytest
from data_helpers import write
from helpers import command, compose, json_lines, save_tiny
from test_script_stages import PYTHON, value_of

import evaluate
import synthesize
import train

SCRIPT = "train_scripts/run_iterative_swepo.sh"
WORTH = "def length(prompt, response):\n    return len(response)\n"


@pytest.fixture
def rounds(tmp_path):
    """Run the script with an interpreter that only writes down; the commands that are no checks."""
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(PYTHON.format(log=log, real=sys.executable))
    python.chmod(0o755)

    def run(*arguments, code=0, **env):
        log.unlink(missing_ok=True)
        given = {"GROVE_PYTHON": str(python), "OUTPUT_DIR": str(tmp_path / "out"), "NPROC": "0", **env}
        done = command("bash", SCRIPT, *arguments, code=code, **given)
        called = [line.split("\0")[:-1] for line in log.read_text().splitlines()] if log.exists() else []
        doors = [c for c in called if c[0] in ("synthesize.py", "train.py", "evaluate.py")]
        checks = {"--cfg", "plan=true", "check=true"}
        return done, [c for c in doors if not checks & set(c)]

    return run


def test_each_round_samples_trains_from_and_measures_the_model_of_the_one_before(rounds, tmp_path):
    _, called = rounds("rounds=3", "prompts=5", "samples=4", "lr=1e-5")
    assert [c[0] for c in called] == ["synthesize.py", "train.py", "evaluate.py"] * 3
    where = f"{tmp_path}/out/iterative-swepo"
    for n in (1, 2, 3):
        sampling, training, measuring = called[3 * n - 3 : 3 * n]
        before = "embedded:base" if n == 1 else f"{where}/round-{n - 1}/swepo-{n - 1}"
        assert value_of(sampling, "ckpt") == f"'{before}'"
        assert [value_of(sampling, key) for key in ("n", "n_samples", "seed")] == ["5", "4", str(n)]
        assert value_of(training, "datasets") == f"['{where}/round-{n}/data/train.jsonl']"
        assert value_of(training, "lr") == "1e-5" and value_of(training, "exp_name") == f"swepo-{n}"
        archives = [argument for argument in training if argument.startswith("model.archive")]
        assert archives == ([] if n == 1 else [f"model.archive='{before}'"])
        compared = dict.fromkeys(["embedded:base", before, f"{where}/round-{n}/swepo-{n}"])
        assert value_of(measuring, "ckpt") == "[" + ",".join(f"'{name}'" for name in compared) + "]"


def test_a_round_that_is_done_is_not_begun_again_unless_its_commands_are_others(rounds):
    assert len(rounds()[1]) == 6
    assert rounds()[1] == []
    done, called = rounds("rounds=3")
    assert len(called) == 3 and "round 2 is done" in done.stderr
    assert len(rounds("lr=1e-6")[1]) == 6


def test_a_plan_runs_nothing_and_says_everything(rounds, tmp_path):
    done, called = rounds("plan=true", "rounds=2")
    assert called == [] and not (tmp_path / "out").exists()
    assert done.stdout.count("python synthesize.py task=ranked") == 2


def test_another_reward_measures_by_it(rounds):
    env = {"DATASET": "p.txt", "HELD_OUT": "q.txt"}
    _, called = rounds("rounds=1", REWARD="worth:length", **env)
    assert value_of(called[0], "reward") == value_of(called[2], "reward") == "worth:length"
    _, called = rounds("rounds=1", REWARD="reward_model", JUDGE_MODEL="/m", NAME="b", **env)
    assert value_of(called[0], "judge_model") == "'/m'" and value_of(called[2], "task") == "prompts"


@pytest.mark.parametrize(
    "arguments,env,message",
    [
        (["rounds=0"], {}, "rounds=0: must be a whole number above 0"),
        (["exp_name=a"], {}, "exp_name=a: this script sets it"),
        (["fast"], {}, "fast: must be key=value"),
        ([], {"EVAL": "ckpt=a"}, "ckpt=a: this script sets it"),
        ([], {"DATASET": "p.txt"}, "DATASET=p.txt: name held-out prompts, too"),
        ([], {"REWARD": "best"}, "REWARD=best: choose constraints"),
        ([], {"REWARD": "openai"}, "REWARD=openai: set JUDGE_MODEL"),
    ],
)
def test_what_makes_no_sense_is_one_line(rounds, arguments, env, message):
    done, called = rounds(*arguments, code=2, **env)
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1 and not called


def test_two_rounds_on_a_tiny_model_end_to_end(rounds, tmp_path, monkeypatch):
    (tmp_path / "worth_of_rounds.py").write_text(WORTH)
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = [{"id": f"p{i}", "prompt": f"Say {i}"} for i in range(9)]
    held = [{"prompt": f"Tell {i}", "responses": [{"text": "A."}, {"text": "Bc"}]} for i in range(6)]
    model = save_tiny(tmp_path / "tiny")
    _, called = rounds(
        "prompts=8",
        "samples=3",
        f"model.name_or_path={model}",
        "eval_fraction=0.2",
        "n_epochs=1",
        "batch_size=4",
        DATASET=write(tmp_path / "asked.jsonl", *asked),
        HELD_OUT=write(tmp_path / "held.jsonl", *held),
        REWARD="worth_of_rounds:length",
        SAMPLE="max_new_tokens=8 temperature=1",
        EVAL="n_samples=2 max_new_tokens=8 split=all",
    )
    doors = {"synthesize.py": (synthesize, "synthesize"), "train.py": (train, "config")}
    for name, *arguments in called:
        door, config = doors.get(name, (evaluate, "evaluate"))
        given = [argument.replace("embedded:base", model) for argument in arguments]
        door.main(compose(*given, name=config))
    first, second = (tmp_path / "out" / "iterative-swepo" / f"round-{n}" for n in (1, 2))
    for folder in (first, second):
        rows = json_lines(folder / "data" / "train.jsonl")
        assert all(r["reward"] == len(r["text"]) for row in rows for r in row["responses"])
        assert (folder / f"swepo-{folder.name[-1]}" / "best").exists() and (
            folder / "report" / "report.html"
        ).exists()
    starts = [
        json.loads((folder / f"swepo-{folder.name[-1]}" / "start.json").read_text())
        for folder in (first, second)
    ]
    assert starts[0]["fingerprint"] != starts[1]["fingerprint"]
    sampled = [json.loads((folder / "data" / "synthesis.json").read_text()) for folder in (first, second)]
    assert [of["models"][0]["model"] for of in sampled] == ["tiny", "swepo-1"]
    assert sampled[0]["settings"]["policy"] != sampled[1]["settings"]["policy"]
    found = json.loads((second / "report" / "report.json").read_text())
    assert list(found["checkpoints"]) == ["tiny", "swepo-1", "swepo-2"]
    assert all("true_reward" in row for row in found["checkpoints"].values())
