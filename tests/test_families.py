"""Every family of models: packed as one by one, sharded as whole, saved as transformers reads it, resumed."""

import signal
from pathlib import Path

import pytest
import torch
from bench import Bench, Death, assert_same, die, forked
from families import FAMILIES, family_model, save_family
from helpers import state_of, tensors_of, weights
from transformers import AutoModelForCausalLM
from tree_helpers import random_trees
from worlds import distance, fork_ranks, training

import models
from runs import meters


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_the_models_own_attention_and_head(family):
    policy = models.Scorer(family_model(family), models.SEGMENTS)
    assert models.parity_probe(policy, random_trees(3, 4), 0, share=True) < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_of_every_family_resumes_exactly(family, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "matmul_rate", lambda *a: 1e9)
    bench = Bench(tmp_path)
    save_family(bench.model, family)
    settings = ["n_examples=16", "save_every=4", "eval_every=100"]
    whole = bench.go("whole", *settings)

    def job():
        die(*Death(meters.Watch, "note", 3))
        bench.go("cut", *settings)

    assert forked(job)[0] == -signal.SIGKILL
    cut = bench.go("cut", *settings)
    assert_same(cut, whole)
    began_with = tensors_of(Path(bench.model).glob("model*.safetensors"))
    assert weights(cut).keys() == began_with.keys()
    AutoModelForCausalLM.from_pretrained(cut / "latest")


ON_TWO_RANKS = ("gpt_neox", "glm4_moe")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Runs on one rank, on two, and on two with a pause: worlds / family-name is a run's folder."""
    folder = tmp_path_factory.mktemp("families")
    jobs = []
    for family in ON_TWO_RANKS:
        model = save_family(folder / family, family)
        adam = ["optimizer=AdamW", "loss=dpo"]
        jobs += [
            training(1, model, folder, f"{family}-one", *adam, "n_examples=18"),
            training(2, model, folder, f"{family}-two", *adam, "n_examples=18"),
            training(2, model, folder, f"{family}-cut", *adam, "n_examples=12"),
            training(2, model, folder, f"{family}-cut", *adam, "n_examples=18"),
        ]
    fork_ranks(folder, jobs)
    return folder


@pytest.mark.parametrize("family", ON_TWO_RANKS)
def test_a_sharded_run_of_a_family_is_the_whole_one(worlds, family):
    one, two, cut = (worlds / f"{family}-{name}" for name in ("one", "two", "cut"))
    assert state_of(one)["reference"] == state_of(two)["reference"]
    assert distance(weights(one), weights(two)) < 1e-5
    assert distance(weights(cut), weights(two)) < 1e-6
    files = tensors_of((worlds / family).glob("model*.safetensors"))
    assert weights(two).keys() == files.keys()
    buffers = [name for name in files if name.endswith("e_score_correction_bias")]
    assert bool(buffers) == (family == "glm4_moe")
    for name in buffers:
        assert torch.equal(weights(two)[name], files[name])
