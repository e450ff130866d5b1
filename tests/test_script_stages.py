"""Which stages the scripts run, and with what: the commands of an interpreter that only writes them down."""

import sys

import pytest
from helpers import command, compose
from omegaconf import OmegaConf

from settings import evaluation_settings, train_settings

PYTHON = """#!/bin/bash
for argument in "$@"; do printf '%s\\0' "$argument"; done >> "{log}"; printf '\\n' >> "{log}"
case "$*" in *experiments.recipes*|*"--package responses"*) exec {real} "$@";; esac
case "$*" in *--cfg*) echo "name_or_path: embedded:base";; *-c*) echo 0;; esac
"""


@pytest.fixture
def stages(tmp_path):
    """Run a script; the commands of its stages, those of its checks apart."""
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(PYTHON.format(log=log, real=sys.executable))
    python.chmod(0o755)

    def run(name, *overrides, **env):
        log.unlink(missing_ok=True)
        given = {"GROVE_PYTHON": str(python), "OUTPUT_DIR": "out", "NPROC": "0", **env}
        command("bash", f"train_scripts/run_{name}.sh", *overrides, **given)
        called = [line.split("\0")[:-1] for line in log.read_text().splitlines()]
        of_doors = [c for c in called if c[0] in ("train.py", "evaluate.py") and "--cfg" not in c]
        is_check = [bool({"plan=true", "check=true"} & set(c)) for c in of_doors]
        checks = [c for c, checked in zip(of_doors, is_check) if checked]
        return checks, [c for c, checked in zip(of_doors, is_check) if not checked]

    return run


def value_of(called, key):
    """What a command's last override of a key says."""
    return [argument for argument in called if argument.startswith(f"{key}=")][-1].partition("=")[2]


@pytest.mark.parametrize("name", ["swepo", "infonca", "nca"])
def test_ranked_losses_train_from_the_base_model_on_instructions_and_sample_both(stages, name):
    checks, (training, evaluating) = stages(name)
    assert [c[0] for c in checks] == ["train.py", "evaluate.py"]
    assert value_of(training, "loss") == name and value_of(training, "datasets") == "[instructions]"
    assert not any(argument.startswith("model.archive") for argument in training)
    assert evaluating[1:] == [
        f"ckpt=['embedded:base','out/{name}']",
        f"output=out/{name}/report",
        "overwrite=true",
    ]


def test_what_the_scripts_call_are_configs_that_the_doors_take(stages):
    for name, env in (("swepo", {}), ("swepo", {"SFT": "yes"}), ("dpo", {"DATASET": "instructions"})):
        checks, called = stages(name, **env)
        for door, *overrides in [*checks, *called]:
            config = compose(*overrides, name="config" if door == "train.py" else "evaluate")
            read = train_settings if door == "train.py" else evaluation_settings
            read(OmegaConf.to_container(config, resolve=True))


def test_dpo_goes_over_sft_unless_it_is_told_not_to(stages):
    _, (sft, dpo, evaluating) = stages("dpo", DATASET="instructions")
    assert value_of(sft, "exp_name") == "sft-smollm2-instructions"
    assert value_of(dpo, "model.archive") == "out/sft-smollm2-instructions"
    runs = "'out/sft-smollm2-instructions','out/dpo-smollm2-instructions'"
    assert evaluating[1] == f"ckpt=['embedded:base',{runs}]"
    _, (alone, evaluating) = stages("dpo", DATASET="instructions", SFT="no")
    assert value_of(alone, "exp_name") == "dpo-smollm2-instructions-from-base"
    assert evaluating[1] == "ckpt=['embedded:base','out/dpo-smollm2-instructions-from-base']"


def test_belief_data_and_an_sft_stage_stay_possible_for_ranked_losses(stages):
    _, (sft, swepo, evaluating) = stages("swepo", DATASET="opinions/republican")
    assert value_of(sft, "exp_name") == "sft"  # the run that other losses on this data begin with, too
    assert value_of(swepo, "exp_name") == "swepo-smollm2-opinions-republican"
    assert value_of(swepo, "model.archive") == "out/sft"
    assert "n_samples=12" in evaluating
    _, (sft, swepo, _) = stages("swepo", SFT="yes")
    assert value_of(sft, "exp_name") == "sft-smollm2-instructions"
    assert value_of(swepo, "exp_name") == "swepo-after-sft"


@pytest.mark.parametrize(
    "name,sft,message",
    [
        ("swepo", "maybe", "SFT=maybe: choose yes or no"),
        ("sft", "no", "SFT=no: sft is an SFT; leave SFT out"),
        ("icf", "no", "SFT=no: icf is an SFT"),
    ],
)
def test_a_switch_that_makes_no_sense_is_refused(tmp_path, name, sft, message):
    done = command("bash", f"train_scripts/run_{name}.sh", code=2, GROVE_PYTHON="/bin/true", SFT=sft)
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


def test_the_script_of_gdpo_is_as_it_was(stages):
    checks, (sft, gdpo, evaluating) = stages("gdpo")
    assert len(checks) == 3
    assert value_of(sft, "exp_name") == "sft" and value_of(gdpo, "model.archive") == "out/sft"
    expected = ["ckpt=['embedded:base','out/sft','out/gdpo']", "n_samples=12", "max_new_tokens=48"]
    assert evaluating[1:] == [*expected, "output=out/gdpo/report", "overwrite=true"]
