"""Signals: a run that is told to stop saves and exits with the signal's code, and goes on undisturbed."""

import os
import pickle
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from bench import QUICK, assert_same, die, forked, half_done
from helpers import ON_CPU, ROOT, lines, save_tiny, state_of

import models
import reference_cache
import trainers
import utils
from runs import checkpoint, meters, trackers
from runs import run as run_room
from utils import Stopped

CODES = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]


@pytest.fixture(autouse=True)
def hangups():
    """SIGHUP ends a process here, even where nohup started the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("signum,code", CODES)
def test_a_signal_saves_and_exits(tmp_path, signum, code):
    model = save_tiny(tmp_path / "tiny")
    own = [f"model.name_or_path={model}", f"output_dir={tmp_path}/out", "exp_name=run"]
    endless = ["n_examples=1000000", "do_first_eval=false"]
    process = start("loss=sft", *own, *QUICK, *endless)
    run = tmp_path / "out" / "run"
    wait_for_lines(run / "metrics.jsonl", 3, process)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr[-2000:]
    assert "Traceback" not in stderr
    assert f"stopped by {signum.name}" in stderr
    assert (run / "latest" / "model.safetensors").exists()
    assert not list(run.glob(".saving-*"))


def start(*overrides, **how):
    """Begin a training command."""
    how = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True} | how
    return subprocess.Popen([sys.executable, "train.py", *overrides], **how)


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
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
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
        die(reference_cache, "write_file", 2, after=True, action=lambda: os.kill(os.getpid(), signum))
        utils.run_entry(lambda: bench.go("run"))

    ended_with, text = forked(job)
    assert ended_with == code, text
    assert f"stopped by {signal.Signals(signum).name}" in text
    assert "Traceback" not in text
    cache = Path(os.environ["GROVE_CACHE"]) / "reference"
    assert not list(cache.glob(".*"))
    assert_same(bench.go("run"), whole)


# --- signals that others catch ------------------------------------------------------------------------------


def send(signum):
    """Send this process a signal; a function for `die`."""
    return lambda: os.kill(os.getpid(), signum)


class Bomb:
    """Sends a signal as it is destroyed, where Python loses the exception of a handler."""

    def __init__(self, signum):
        self.signum = signum

    def __del__(self):
        os.kill(os.getpid(), self.signum)


CATCHERS = {
    "a checkpoint is read": (checkpoint.HuggingFaceStorageReader, "read_metadata"),
    "torch reads its tensors": (checkpoint.HuggingFaceStorageReader, "read_data"),
    "wandb starts": (trackers, "_start_wandb"),
    "the config of the folder is read": (run_room.OmegaConf, "load"),
}


@pytest.mark.parametrize("signum,code", CODES)
@pytest.mark.parametrize("moment", CATCHERS)
def test_no_handler_takes_a_signal_for_an_error(bench, whole, moment, signum, code):
    bench.go("run", "n_examples=12")

    def job():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        die(*CATCHERS[moment], action=send(signum))
        utils.run_entry(lambda: bench.go("run", "wandb.enabled=true"))

    ended_with, text = forked(job)
    assert ended_with == code, text
    assert f"stopped by {signal.Signals(signum).name}" in text
    for word in ("Traceback", "cannot be read", "wandb is off", "config.yaml: "):
        assert word not in text, text
    assert_same(bench.go("run"), whole)


@pytest.mark.parametrize("signum,code", CODES)
def test_a_signal_that_python_loses_stops_the_run_at_its_first_step(bench, whole, signum, code):
    def job():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        die(models, "parity_probe", action=lambda: Bomb(signum))
        utils.run_entry(lambda: bench.go("run"))

    ended_with, text = forked(job)
    assert ended_with == code, text
    assert_same(bench.go("run"), whole)


def test_a_signal_survives_the_way_between_ranks():
    stopped = pickle.loads(pickle.dumps(Stopped(signal.SIGHUP)))
    assert (str(stopped), stopped.exit_code) == ("SIGHUP", 129)


def test_a_hangup_that_nohup_ignores_is_ignored(bench, whole):
    def job():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        die(reference_cache, "write_file", 1, action=send(signal.SIGHUP))
        die(meters.Watch, "note", 2, action=send(signal.SIGHUP))
        utils.run_entry(lambda: bench.go("run"))

    code, text = forked(job)
    assert code == 0, text
    assert_same(bench.out / "run", whole)


# --- output that nobody reads -------------------------------------------------------------------------------


def a_pipe_without_a_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def a_terminal_that_was_closed():
    terminal, writer = pty.openpty()
    os.close(terminal)
    return writer


def a_full_disk():
    return os.open("/dev/full", os.O_WRONLY)


FULL = [a_full_disk] if Path("/dev/full").exists() else []  # macOS has none


@pytest.mark.parametrize("output", [a_pipe_without_a_reader, a_terminal_that_was_closed, *FULL])
def test_a_run_goes_on_when_nobody_reads_what_it_says(bench, whole, output):
    def job():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        lose_output(output())
        utils.run_entry(lambda: print(bench.go("run", "sample_during_eval=false"), flush=True))

    code, _ = forked(job)
    assert code == 0
    assert_same(bench.out / "run", whole)


def lose_output(writer):
    """Let standard output and errors go to a file descriptor."""
    for number in (1, 2):
        os.dup2(writer, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    utils.setup_logging()


@pytest.mark.parametrize("output", [a_pipe_without_a_reader, a_full_disk])
def test_an_error_that_nobody_reads_has_its_exit_code(output):
    def job():
        lose_output(output())
        utils.run_entry(fail)

    def fail():
        print("x" * 100_000)
        raise utils.UserError("bad")

    assert forked(job)[0] == 2


def test_output_that_is_closed_from_the_start_is_no_fault():
    def job():
        sys.stdout = sys.stderr = None
        utils.run_entry(lambda: print("x", file=sys.stderr))

    assert forked(job)[0] == 0


def test_a_signal_and_its_echo_are_one_and_a_later_one_ends_at_once():
    flag = utils.StopFlag()
    try:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        assert flag.signum == signal.SIGTERM
        time.sleep(utils.ECHO)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
    finally:
        flag.restore()


# --- the process that started the ranks ---------------------------------------------------------------------


def children_of(process):
    """The numbers of a process's children."""
    done = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
    pairs = [line.split() for line in done.stdout.splitlines()]
    return [int(own) for own, parent in pairs if int(parent) == process.pid]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_ranks_end_with_a_checkpoint_when_their_launcher_is_killed(tmp_path):
    model = save_tiny(tmp_path / "tiny")
    own = [f"model.name_or_path={model}", f"output_dir={tmp_path}/out", "exp_name=run", "nproc=2"]
    endless = ["n_examples=1000000", "do_first_eval=false"]
    run = tmp_path / "out" / "run"
    quiet = {"stderr": subprocess.DEVNULL, "env": {**os.environ, **ON_CPU}}
    launcher = start("loss=sft", *own, *QUICK, *endless, **quiet)
    wait_for_lines(run / "metrics.jsonl", 3, launcher)
    ranks = children_of(launcher)
    assert len(ranks) == 2
    launcher.kill()
    launcher.wait()
    deadline = time.time() + 60
    while any(Path(f"/proc/{rank}").exists() and not is_zombie(rank) for rank in ranks):
        assert time.time() < deadline, "ranks train on"
        time.sleep(0.1)
    assert (run / "latest" / "model.safetensors").exists()
    assert not half_done(run)


def is_zombie(process):
    """Has it ended, and nobody asked how?"""
    try:
        return ") Z " in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return True
