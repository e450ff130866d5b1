"""Signals: a run that is told to stop saves and exits with the signal's code, and goes on undisturbed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from bench import QUICK, assert_same, die, forked, half_done
from helpers import ROOT, lines, save_tiny, state_of

import models
import reference
import trainers
import utils
from utils import Stopped

CODES = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


@pytest.mark.parametrize("signum,code", CODES)
def test_a_signal_saves_and_exits(tmp_path, signum, code):
    model = save_tiny(tmp_path / "tiny")
    own = [f"model.name_or_path={model}", f"output_dir={tmp_path}/out", "exp_name=run"]
    endless = ["n_examples=1000000", "do_first_eval=false"]
    command = [sys.executable, "train.py", "loss=sft", *own, *QUICK, *endless]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    run = tmp_path / "out" / "run"
    wait_for_lines(run / "metrics.jsonl", 3, process)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr[-2000:]
    assert "Traceback" not in stderr
    assert f"stopped by {signum.name}" in stderr
    assert (run / "latest" / "model.safetensors").exists()
    assert not list(run.glob(".saving-*"))


def wait_for_lines(path, count, process):
    """Wait until a process has written so many lines, has ended, or two minutes are over."""
    deadline = time.time() + 120
    while process.poll() is None and time.time() < deadline:
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.1)


def signal_in_validation(patch, signum, call):
    """Send a signal at the `call`-th pack of a validation; the list grows with the packs."""
    validate, score = trainers.validate, models.score
    validations, packs = [], []

    def counted_validate(*args):
        validations.append(1)
        return validate(*args)

    def score_and_signal(policy, batch):
        if validations and not torch.is_grad_enabled():
            packs.append(1)
            if len(packs) == call:
                os.kill(os.getpid(), signum)
        return score(policy, batch)

    patch.setattr(trainers, "validate", counted_validate)
    patch.setattr(models, "score", score_and_signal)
    return packs


@pytest.mark.parametrize("call,step", [(2, None), (5, 3), (8, 6)])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_validation_ends_it_and_the_next_run_makes_up_for_it(bench, whole, signum, call, step):
    with pytest.MonkeyPatch.context() as patch:
        packs = signal_in_validation(patch, signum, call)
        with pytest.raises(Stopped) as stopped:
            bench.go("run")
        assert stopped.value.exit_code == 128 + signum
        assert len(packs) == call
    run = bench.out / "run"
    assert not half_done(run)
    assert (run / "latest").exists() == (step is not None)
    if step:
        assert state_of(run)["pending"]
        assert state_of(run)["step"] == step
        assert "loss/train" in lines(run)[-1]
    assert_same(bench.go("run"), whole)


@pytest.mark.parametrize("signum,code", CODES)
def test_a_signal_in_the_reference_pass_ends_the_run(bench, whole, signum, code):
    def job():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        die(reference, "save_file", 2, after=True, action=lambda: os.kill(os.getpid(), signum))
        utils.run_entry(lambda: bench.go("run"))

    ended_with, text = forked(job)
    assert ended_with == code, text
    assert f"stopped by {signal.Signals(signum).name}" in text
    assert "Traceback" not in text
    cache = Path(os.environ["GROVE_CACHE"]) / "reference"
    assert not list(cache.glob(".*"))
    assert_same(bench.go("run"), whole)
