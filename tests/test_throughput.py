"""throughput.py measures what it says: JSON keys, and modes that train alike on the same work."""

import pytest
import torch
from bench_helpers import last_object, save_ranked
from helpers import save_tiny, tiny_policy

import forest
import models

import steps  # isort: skip
import throughput  # isort: skip
import workload  # isort: skip

PEER_KEYS = {"system", "pairs", "prompts", "seconds", "pairs_per_second", "prompts_per_second", "peak_rss_gb"}
OWN_KEYS = {
    "tokens_per_second",
    "padding_fraction",
    "saved_by_sharing",
    "flops_per_second",
    "matmul_flops_per_second",
    "mfu",
    "reference_seconds_cold",
    "reference_seconds_warm",
    "peak_cuda_gb",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    return save_ranked(tmp_path_factory.mktemp("data") / "ranked.jsonl")


@pytest.fixture
def run(capsys, monkeypatch):
    """The JSON object that throughput.py prints last, in this process."""

    def run_with(options):
        return last_object(throughput.main, f"--threads 1 --device cpu {options}", capsys, monkeypatch)

    return run_with


@pytest.mark.parametrize(
    "loss,view,keys",
    [("dpo", "pairs.all", []), ("swepo", "ranked", ["--loss-key", "alpha=0.1"]), ("kto", "binary", [])],
)
def test_all_modes_train_alike_on_the_same_work(model, ranked, run, monkeypatch, loss, view, keys):
    monkeypatch.setattr(models, "matmul_rate", lambda device, dtype, size: 1e11)  # seconds on one thread
    options = f"--model {model} --data {ranked} --loss {loss} --view {view} --prompts 4 --batch-size 3"
    options = " ".join([options, "--max-length 96 --lr 0.01", *keys])
    results = {mode: run(f"{options} --mode {mode}") for mode in throughput.MODES}
    shared = results["shared"]
    assert PEER_KEYS | OWN_KEYS <= set(shared)
    assert shared["prompts"] == 4
    assert shared["pairs"] == {"dpo": 24, "swepo": 4, "kto": 16}[loss]
    assert shared["saved_by_sharing"] > 0
    for mode in ("packed", "padded", "plain"):
        other = results[mode]
        assert other["loss_mean"] == pytest.approx(shared["loss_mean"], rel=1e-3)
        for key in ("pairs", "prompts", "sequence_tokens"):
            assert other[key] == shared[key]
        assert other["saved_by_sharing"] == 0
        assert other["tokens"] > shared["tokens"]
    if loss == "dpo":
        assert abs(shared["loss_mean"] - 0.6931) > 0.01  # updates happened, and the same ones


def test_padded_tables_are_those_of_the_forest():
    """Ragged K, beliefs, class reads: single responses give a packed pass's tables, field by field."""
    prompt, classes = (1, 2, 3), (10, 11)
    trees = [
        forest.TokenTree(
            prompt, (4, 5), ((6, 7), (8,)), (2.0, 1.0), classes, (0.25, 0.75), reference=(-1.0, -2.0)
        ),
        forest.TokenTree(
            prompt,
            (5,),
            ((6, 7), (8, 9, 4), (3,)),
            (3.0, 2.0, 1.0),
            classes,
            (0.5, 0.5),
            reference=(-3.0, -4.0, -5.0),
        ),
        forest.TokenTree((9, 2), (5,), ((), (8, 9)), (0.0, 1.0), classes, (0.5, 0.5), reference=(0.0, -4.0)),
    ]
    policy = tiny_policy()
    plan = steps.Plan("padded", max_tokens=64, row_tokens=64, micro_batch=3, pad_id=0)
    with torch.no_grad():
        of_forest = models.score(policy, forest.pack(trees, [[0, 1, 2]], 0))
        ((batch, members),) = steps.step_batches(trees, [0, 1, 2], plan)
        tables = steps.as_tables(models.score(policy, batch), members)
    assert batch.input_ids.shape[0] == 6
    for name in (*steps.PER_RESPONSE, *steps.PER_EXAMPLE, "valid"):
        torch.testing.assert_close(getattr(tables, name), getattr(of_forest, name), rtol=1e-4, atol=1e-4)


def test_gdpo_and_sft_random_shapes_and_warmup(model, run):
    opinions = f"--model {model} --data opinions/republican --prompts 1 --max-length 512"
    gdpo = run(f"{opinions} --loss gdpo --batch-size 8")
    assert gdpo["view"] == "conditioned"
    assert gdpo["pairs"] == 16

    cdpo = run(f"{opinions} --loss cdpo --loss-key label_smoothing=0.2 --steps 1")
    assert cdpo["view"] == "pairs"
    assert cdpo["loss_mean"] == pytest.approx(0.6931, abs=1e-3)

    sft = run(
        "--random-shape llama-tiny --data random --loss sft --warmup-steps 1 --steps 3 "
        "--prompts 4 --batch-size 2 --max-length 48"
    )
    assert sft["pairs"] == 6
    assert sft["prompts"] == 6
    assert sft["reference_seconds_cold"] is None


def test_texts_are_cut_to_a_third_and_the_rest(model, ranked):
    tokenizer = models.load_tokenizer(model)
    groups = workload.read_groups(ranked, 9, 4)
    assert len(groups) == 4
    for group in groups:
        rewards = [response.reward for response in group.responses]
        assert rewards == sorted(set(rewards), reverse=True)
    for group in workload.cut_groups(groups, tokenizer, 60):  # a byte is a token
        assert len(group.prompt) == 20
        assert all(len(response.text) <= 39 for response in group.responses)
