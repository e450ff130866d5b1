"""A run that goes on: to the bit, and only with the config and the reference that it began with."""

import pytest
import torch
from helpers import lines, save_tiny, weights

from runs import checkpoint
from utils import UserError


def test_resume_is_exact_to_the_bit(run, monkeypatch):
    whole = run("loss=gdpo", "eval_every=8", name="whole")
    save = checkpoint.save

    def save_then_die(*args, **kwargs):
        save(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        run("loss=gdpo", "eval_every=8", name="cut")
    monkeypatch.setattr(checkpoint, "save", save)
    cut = run("loss=gdpo", "eval_every=8", name="cut")
    assert (cut / "latest").resolve().name == (whole / "latest").resolve().name == "step-000003"
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(cut).values()))
    steady = [
        {k: v for k, v in x.items() if k in ("counters/updates", "loss/train", "loss/eval", "grad_norm")}
        for x in lines(whole)
    ]
    assert steady == [
        {k: v for k, v in x.items() if k in ("counters/updates", "loss/train", "loss/eval", "grad_norm")}
        for x in lines(cut)
    ]
    before = (cut / "metrics.jsonl").read_text()
    run("loss=gdpo", "eval_every=8", name="cut")  # finished: nothing to do
    assert (cut / "metrics.jsonl").read_text() == before


def test_a_changed_reference_is_refused_on_resume(tmp_path, run):
    folder = run("loss=dpo")
    save_tiny(tmp_path / "tiny", seed=4)  # the weights under model.name_or_path are others now
    with pytest.raises(UserError, match="the starting weights .* changed since this run began"):
        run("loss=dpo", "n_examples=32")
    assert (folder / "latest").resolve().name == "step-000003"


def test_another_config_in_the_same_folder_is_refused(run):
    run("loss=dpo")
    with pytest.raises(UserError, match=r"holds a run with another config: loss.beta \(0.1 -> 0.2\), lr"):
        run("loss=dpo", "loss.beta=0.2", "lr=2e-3")
    with pytest.raises(UserError, match="resume=never"):
        run("loss=dpo", "resume=never")
