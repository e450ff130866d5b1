"""plan=true: what a run would take, without its weights."""

import itertools

import pytest
import torch
from helpers import compose, save_tiny
from rank_jobs import RANKS_QUICK
from torch.profiler import ProfilerActivity, profile

import forest
import models
import train


def test_a_plan_needs_no_weights(tmp_path, capsys):
    folder = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    (tmp_path / "tiny" / "model.safetensors").unlink()
    base = [f"model.name_or_path={folder}", f"output_dir={tmp_path}/out", "plan=true", *RANKS_QUICK]
    train.main(compose(*base, "loss=kto", "world_size=64"))
    said = capsys.readouterr().out
    assert "memory of one of 64 ranks" in said and "a day: 1536 GPU hours" in said and said.endswith("fits\n")
    train.main(compose(*base, "loss=gdpo", "gpu_memory_gb=0.001", "lora.rank=2"))
    assert "does not fit: activations take most; set activation_checkpointing=true" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_bytes_of_a_plan_are_those_of_a_pass(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    tree = forest.TokenTree(tuple(range(40)), (), (tuple(range(60)), tuple(range(9, 50))))
    batch = forest.pack([tree], [[0], [0], [0]], 258)
    for recompute, attention in ((False, "sdpa"), (True, "sdpa"), (False, "segments")):
        spec = models.PolicySpec(folder, attention=attention)
        policy = models.load_policy(spec, torch.device("cpu"))
        empty = models.load_policy(spec, torch.device("cpu"), empty=True)
        for each in (policy, empty):
            if recompute:
                models.gradient_checkpointing(each)
        planned = models.pass_bytes(empty, batch, attention, accumulates=False)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as allocations:
            models.score(policy, batch).policy.sum().backward()
        events = sorted(
            (e for e in allocations.profiler.kineto_results.events() if e.name() == "[memory]"),
            key=lambda e: e.start_ns(),
        )
        assert planned.peak == pytest.approx(max(itertools.accumulate(e.nbytes() for e in events)), rel=0.1)
