"""Recorded trajectories: five losses on one process, two of them on two as well, and evaluations, do what
they did before.

Equal to the bit on the kind of machine that recorded them; elsewhere as close as other processors' rounding
allows. `python tests/recorded/record.py` records anew, where a change is meant to change them.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RECORDED = Path(__file__).parent / "recorded"
BITS = ("weights", "predictions_hash")  # compared where the machine is of one kind with the recording one


@pytest.fixture(scope="module")
def before():
    return json.loads((RECORDED / "trajectories.json").read_text())


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "now.json"
    command = [sys.executable, str(RECORDED / "record.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text())


def assert_close(one, other, where):
    """Equal structures, whose numbers may differ by rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one.keys() - set(BITS):
            assert_close(one[key], other[key], f"{where}, {key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other)):
            assert_close(a, b, f"{where}, {number}")
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4), where
    else:
        assert one == other, where


@pytest.mark.parametrize(
    "loss,size", [("sft", 1), ("dpo", 1), ("kto", 1), ("swepo", 1), ("gdpo", 1), ("kto", 2), ("gdpo", 2)]
)
def test_training_goes_as_it_went(before, now, loss, size):
    run = f"{loss} on {size}"
    if before["machine"] == now["machine"]:
        assert now["runs"][run] == before["runs"][run]
    else:
        assert_close(before["runs"][run], now["runs"][run], run)


@pytest.mark.parametrize("kind,size", [("beliefs", 1), ("order", 1), ("beliefs", 2)])
def test_evaluation_says_what_it_said(before, now, kind, size):
    report = f"{kind} on {size}"
    if before["machine"] == now["machine"]:
        assert now["reports"][report] == before["reports"][report]
    elif kind == "order":  # sampled responses may differ in a token, and all that follows
        assert_close(before["reports"][report], now["reports"][report], report)
