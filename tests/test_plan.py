"""Plans: what a run would take, without weights, and that its bytes are those of a pass."""

import itertools

import pytest
from helpers import DEVICE, PAD, compose, save_tiny
from torch.profiler import ProfilerActivity, profile
from worlds import QUICK

import forest
import models
import train


def test_a_plan_needs_no_weights(tmp_path, capsys):
    folder = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    (tmp_path / "tiny" / "model.safetensors").unlink()
    base = [f"model.name_or_path={folder}", f"output_dir={tmp_path}/out", "plan=true", *QUICK]
    train.main(compose(*base, "loss=kto", "world_size=64"))
    said = capsys.readouterr().out
    assert "memory of one of 64 ranks" in said
    assert "a day: 1536 GPU hours" in said
    assert said.endswith("fits\n")
    train.main(compose(*base, "loss=gdpo", "gpu_memory_gb=0.001", "lora.rank=2"))
    said = capsys.readouterr().out
    assert "does not fit: activations take most; set activation_checkpointing=true" in said
    assert not (tmp_path / "out").exists()


def measured_peak(policy, batch):
    """The most bytes that a forward and backward pass allocates."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        models.score(policy, batch).policy.sum().backward()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


@pytest.mark.parametrize("recompute,attention", [(False, "sdpa"), (True, "sdpa"), (False, "segments")])
def test_the_bytes_of_a_plan_are_those_of_a_pass(tmp_path, recompute, attention):
    spec = models.PolicySpec(save_tiny(tmp_path / "tiny"), attention=attention)
    tree = forest.TokenTree(tuple(range(40)), (), (tuple(range(60)), tuple(range(9, 50))))
    batch = forest.pack([tree], [[0], [0], [0]], PAD)
    policy, empty = models.load_policy(spec, DEVICE), models.load_policy(spec, DEVICE, empty=True)
    if recompute:
        models.gradient_checkpointing(policy)
        models.gradient_checkpointing(empty)
    estimate = models.pass_bytes(empty, batch, attention, accumulates=False)
    assert estimate.peak == pytest.approx(measured_peak(policy, batch), rel=0.1)
