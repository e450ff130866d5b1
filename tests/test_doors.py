"""The doors: help that is quick, and user errors that are one line."""

import json
import sys

import pytest
from data_helpers import write
from helpers import command, compose, evaluation

import preference_datasets as data
import synthesize
from utils import UserError, one_line


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
        (["synthesize.py", "task=x"], "task=x: choose one of survey, dialogues"),
        (["preference_datasets.py", "opinions/whig"], "no such group"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(arguments, message):
    done = command(sys.executable, *arguments, code=2)
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize("entry", ["train.py", "evaluate.py", "synthesize.py", "preference_datasets.py"])
def test_help_is_quick_and_prints_the_keys(entry):
    done = command(sys.executable, "-X", "importtime", entry, "--help")
    timings = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rsplit("|", 1)[-1].strip() for line in timings}
    assert done.stdout
    assert imported
    assert "transformers" not in imported
    assert "torch" not in imported or entry == "synthesize.py"


def test_the_audit_needs_no_model(tmp_path):
    responses = [{"text": "a", "reward": 1}, {"text": "b", "reward": 2}]
    file = write(tmp_path / "r.jsonl", {"prompt": "p", "responses": responses})
    done = command(sys.executable, "preference_datasets.py", file, "all", "--json")
    audit = json.loads(done.stdout)[file]["all"]
    assert audit["rows_read"] == audit["examples"] == 1
    assert audit["answer_characters"]["max"] == 1


COMPARES_TWO = "loss.name=dpo compares two responses; set responses=pairs"
LIKES_AND_AVOIDS = "loss.name=kto compares responses to like with others to avoid; set responses=binary"
NO_REWARDS_OF_GROUPS = "needs rewards, and responses=conditioned carries none; set responses=conditioned.all"
BAD_CONFIGS = [
    (["loss=dpo", "responses=target"], f"responses=target: {COMPARES_TWO}"),
    (["loss=gdpo", "responses=own_belief"], "set responses=conditioned"),
    (["datasets=[opinions/whig]"], "no such group"),
    (["+colour=red"], "config key colour: unknown"),
    (["loss=dpo", "+loss.gamma=1"], "loss.gamma: dpo takes no such key"),
    (["batch_size=0"], "batch_size=0: must be a whole number, 1 or more"),
    (["seed=-1"], "seed=-1: must be a whole number, 0 or more"),
    (["n_epochs=abc"], "n_epochs=abc: must be"),
    (["datasets=foo"], "data set foo: unknown"),
    (["exp_name=null"], "plain folder name"),
    (["wandb=3"], "wandb must be a section"),
    (["optimizer=null"], "config key optimizer=None: must be a name or a path"),
    (["loss=gdpo", "responses=pairs"], "responses=pairs: gdpo's answers"),
    (["loss=dpo", "responses=binary"], f"responses=binary: {COMPARES_TWO}"),
    (["loss=kto", "responses=target"], LIKES_AND_AVOIDS),
    (["loss=gdpo_swepo", "responses=conditioned"], NO_REWARDS_OF_GROUPS),
    (
        ["loss=gdpo", "responses=conditioned.all"],
        "loss.name=gdpo compares two responses; set responses=conditioned",
    ),
    (["icf_shots=-1"], "icf_shots=-1: must be a whole number, 0 or more"),
    (["icf_shots=500"], "500 shots need more than 500"),
    (["truncation=middle"], "choose one of null, keep_start, keep_end"),
    (["exp_name=../x"], "must be a plain folder name"),
    (["optimizer=Adamm"], "no such class in torch.optim"),
    (["resume=must"], "holds no checkpoint"),
    (["attention=eager"], "choose auto, sdpa, segments or flex_attention"),
    (["attention=flex_attention"], "needs a CUDA device"),
    (["model.name_or_path=/nowhere"], "cannot be loaded"),
    (["max_length=20", "max_prompt_length=null"], "leave no room for a response"),
    (["model.archive=/nowhere"], "no such folder or file"),
    (["max_tokens=50"], "the largest example has"),
    (["eval_metric=loss/evil"], "eval_metric=loss/evil: validation does not write it"),
]


@pytest.mark.parametrize("overrides,message", BAD_CONFIGS)
def test_bad_configs_are_one_line_errors(run, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        run(*overrides)
    assert "\n" not in str(caught.value)


LONG = "x" * 300
BAD_EVALUATIONS = [
    (["ckpt={a: 1}"], "ckpt: no name of a checkpoint; give ckpt="),
    (["ckpt=[[a]]"], "ckpt: no name of a checkpoint; give ckpt="),
    (["ckpt=true"], "ckpt: no name of a checkpoint; give ckpt="),
    (["ckpt=[]"], "ckpt: missing; give ckpt="),
    (["ckpt=''"], "ckpt: missing; give ckpt="),
    ([f"ckpt={LONG}"], "ckpt: no name of a checkpoint; give ckpt="),
    (["ckpt='a\0b'"], "ckpt: no name of a checkpoint; give ckpt="),
    (["ckpt='a\udcffb'"], "ckpt: no name of a checkpoint; give ckpt="),
    (["ckpt=/nowhere"], "no such folder or file"),
    (["output={a: 1}"], "config key output="),
    ([f"output={LONG}"], "config key output="),
    (["output='a\udcffb'"], "config key output="),
    (["base_model=[x]"], "config key base_model="),
    (["n_samples={a: 1}"], "config key n_samples="),
    (["datasets={a: 1}"], "must be a list"),
    ([f"datasets=[{LONG}]"], "config key datasets.name="),
    (["belief_classes=[a,a]"], "must be a list of different labels"),
    (["split=[test]"], "config key split="),
    (["temperature=hot"], "config key temperature=hot"),
    (["shard=maybe"], "config key shard=maybe"),
    (["check=3"], "config key check=3"),
    (["datasets=[opinions/whig]"], "no such group"),
    (["datasets=[{name: a, split: x}, {name: a, split: y}]"], "a stands there twice, and differs"),
    (["embedder=/nowhere", "check=true"], "embedder=/nowhere: cannot be loaded"),
]


@pytest.mark.parametrize("overrides,message", BAD_EVALUATIONS)
def test_bad_evaluations_are_one_line_errors(tmp_path, overrides, message):
    given = [] if "ckpt" in overrides[0] else ["ckpt=gpt2", f"output={tmp_path}/report"]
    with pytest.raises(UserError, match=message) as caught:
        evaluation(*given, *overrides)
    assert "\n" not in one_line(caught.value)


@pytest.mark.parametrize("place", ["folder", "file/below", LONG, "a\udcffb"])
def test_synthesis_looks_at_its_place_first(tmp_path, monkeypatch, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setitem(sys.modules, "synthesis", None)  # nothing is counted
    with pytest.raises(UserError, match="config key output=") as caught:
        synthesize.main(compose("task=survey", f"output='{tmp_path}/{place}'", name="synthesize"))
    assert "\n" not in one_line(caught.value)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ([], "the following arguments are required: name"),
        (["opinions/republican", "--seed", "one"], "argument --seed: invalid int value"),
        (["opinions/republican", "--seed", "-1"], "a seed of 0 or more"),
        (["opinions/republican", "--colour", "red"], "unrecognized arguments: --colour red"),
        (["opinions/republican", "--responses", "all"], "responses=all: choose one of"),
        (["opinions/republican", "--max-length", "1"], "a --max-length of 2 or more"),
        (["opinions/republican", "--tokenizer", "/nowhere"], "--tokenizer /nowhere: cannot be loaded"),
        (["opinions/republican", "--belief-classes", ""], "must be different labels"),
        (["opinions/republican", "--belief-classes", "0,0"], "must be different labels"),
        (["opinions/republican", "nowhere"], "no split nowhere"),
        (["opinions/republican", "responses=pairs"], "written with dashes; write --responses pairs"),
        (["opinions/republican", "max_length=64"], "write --max-length 64"),
        ([LONG], "a name that the system takes"),
        (["a\udcffb"], "a name that the system takes"),
    ],
)
def test_the_audit_checks_its_arguments(monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["preference_datasets.py", *arguments])
    with pytest.raises(UserError, match=message) as caught:
        data.main()
    assert "\n" not in one_line(caught.value)
