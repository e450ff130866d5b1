"""Several ranks: the same mathematics on any number of them."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from bench import QUICK as QUICK_ALONE
from data_helpers import write
from helpers import ON_CPU, ROOT, assert_close, assert_equal, command, lines, save_tiny, state_of, weights
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from worlds import QUICK, assert_one_run, distance, fork_ranks, samples, training

import machine
import ranks
from utils import UserError

LOSSES = ("sft", "dpo", "kto", "swepo", "gdpo")
ON_FOUR = ("kto", "gdpo")
OF_SIZE = {1: LOSSES, 2: LOSSES, 4: ON_FOUR}
MAX_TOKENS = {"sft": 2048, "kto": 420}  # one pack a step; odd numbers of packs, so that empty ones run


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """All losses on 1, 2 and 4 ranks: worlds / size / loss is a run's folder."""
    folder = tmp_path_factory.mktemp("worlds")
    tiny = save_tiny(folder / "tiny", max_position_embeddings=2048)
    jobs = []
    for size, losses in OF_SIZE.items():
        for loss in losses:
            own = [f"loss={loss}", f"max_tokens={MAX_TOKENS.get(loss, 700)}"]
            jobs.append(training(size, tiny, folder / str(size), loss, *own))
    fork_ranks(folder, jobs)
    return folder


@pytest.mark.parametrize("size,loss", [*((2, loss) for loss in LOSSES), *((4, loss) for loss in ON_FOUR)])
def test_any_number_of_ranks_gives_the_same_run(worlds, loss, size):
    assert len(lines(worlds / "1" / loss)) == 7  # five steps, two validations
    assert_one_run(worlds / "1" / loss, worlds / str(size) / loss)


def test_a_fingerprint_does_not_depend_on_the_number_of_ranks(worlds):
    runs = [worlds / str(size) / loss for size in OF_SIZE for loss in ON_FOUR]
    assert len({state_of(run)["reference"] for run in runs}) == 1


# Relative tolerance, except where values are differences of log-ratios near 0 in fp32.
NEAR_ZERO = {"rewards_train/margins": 1e-5}
COMPARED = {"loss/train", "loss/eval", "grad_norm", "js_distance_train", "rewards_train/margins"}


def test_two_ranks_of_torchrun_equal_one(tmp_path, run):
    overrides = ["loss=gdpo", "optimizer=SGD", "max_tokens=420"]
    one, two = run(*overrides, name="one"), tmp_path / "out" / "two"
    own = [f"model.name_or_path={tmp_path}/tiny", f"output_dir={tmp_path}/out", "exp_name=two"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command(sys.executable, "-m", *torchrun, "train.py", *own, *QUICK_ALONE, *overrides)
    for x, y in zip(lines(one), lines(two), strict=True):
        for key in COMPARED & set(x):
            assert x[key] == pytest.approx(y[key], rel=2e-5, abs=NEAR_ZERO.get(key, 2e-6)), key
    assert_close(weights(one), weights(two), atol=1e-6)


# --- meshes, adapters, precisions, ways to load -------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one kind and another, on one rank and on several: runs / name is a run's folder."""
    folder = tmp_path_factory.mktemp("runs")
    tiny = save_tiny(folder / "tiny", max_position_embeddings=2048)
    tied = save_tiny(folder / "tied", max_position_embeddings=2048, tie_word_embeddings=True)
    torch.save({"state": AutoModelForCausalLM.from_pretrained(tiny).state_dict()}, folder / "policy.pt")
    hybrid = ["replicate=2", "activation_checkpointing=true", "model.block_name=LlamaDecoderLayer"]
    bf16 = "model.compute_dtype=bfloat16"
    adam = ["optimizer=AdamW", "keep_last=9"]
    lora = ["lora.rank=4", "optimizer=AdamW", "lr=1e-2", "sample_during_eval=true", "n_eval_model_samples=2"]

    def job(size, name, *overrides, model=tiny):
        return training(size, model, folder, name, "loss=dpo", *overrides)

    jobs = [
        job(1, "one"),
        job(4, "hybrid", *hybrid),
        job(2, "sent", f"model.archive={folder}/policy.pt"),
        job(2, "offload", "cpu_offload=true"),
        job(1, "tied_one", model=tied),
        job(2, "tied_two", model=tied),
        job(1, "bf16_one", bf16),
        job(2, "bf16_two", bf16),
        job(1, "adam_one", "optimizer=AdamW"),
        job(2, "adam_many", *adam, "n_examples=12", "async_save=true"),
        job(4, "adam_many", *adam, "async_save=true", "replicate=2"),
        job(1, "lora_one", *lora),
        job(2, "lora_two", "n_examples=18", *lora),
        job(2, "lora_two", "n_examples=30", *lora),
    ]
    fork_ranks(folder, jobs)
    return folder


def test_meshes_adapters_precisions_and_ways_to_load(runs):
    for other in ("hybrid", "sent", "offload"):
        assert_one_run(runs / "one", runs / other)
    assert_one_run(runs / "tied_one", runs / "tied_two", rel=2e-6)
    assert weights(runs / "tied_one").keys() == weights(runs / "tied_two").keys()
    assert distance(weights(runs / "bf16_one"), weights(runs / "bf16_two")) < 1e-3
    assert distance(weights(runs / "adam_one"), weights(runs / "adam_many")) < 1e-5


def test_every_rank_writes_its_part_of_the_optimizer_and_nothing_twice(runs):
    numbers, ranks = [], []
    for step in ("step-000002", "step-000005"):
        paths = list((runs / "adam_many" / step / "trainer_state" / "optimizer").iterdir())
        tensors = [tensor for path in paths for tensor in load_file(path).values()]
        numbers.append(sum(tensor.numel() for tensor in tensors))
        ranks.append(len({path.name.split("-")[1] for path in paths}))
    assert ranks == [2, 4]
    assert numbers[0] == numbers[1]


def test_weights_of_several_files_open_as_one_model(runs):
    for name in ("hybrid", "tied_two"):
        assert len(list((runs / name / "latest").glob("model-0*.safetensors"))) > 1
        opened = AutoModelForCausalLM.from_pretrained(runs / name / "latest").state_dict()
        stored = weights(runs / name)
        assert_equal(stored, {key: opened[key] for key in stored})
    assert "lm_head.weight" in weights(runs / "hybrid")
    assert "lm_head.weight" not in weights(runs / "tied_two")


def test_adapters_resume_and_are_stored_merged(runs):
    one, two, tiny = runs / "lora_one", runs / "lora_two", runs / "tiny"
    start = load_file(tiny / "model.safetensors")
    assert distance(weights(one), weights(two)) < 1e-5 < distance(weights(one), start)
    last_one, last_two = lines(one)[-1], lines(two)[-1]  # that of two ranks resumed on the way
    assert last_one["loss/eval"] == pytest.approx(last_two["loss/eval"], rel=1e-4)
    assert len(samples(one)) == 4
    assert samples(one)[:2] == samples(two)[:2]
    assert {sample["counters/updates"] for sample in samples(one)} == {0, 5}
    base = AutoModelForCausalLM.from_pretrained(tiny)
    merged = PeftModel.from_pretrained(base, two / "latest" / "adapter").merge_and_unload()
    assert distance(weights(two), merged.state_dict()) < 1e-6
    assert (two / "latest" / "config.json").read_text() == (one / "latest" / "config.json").read_text()


# --- evaluation and commands --------------------------------------------------------------------------------


def report_values(folder):
    """What a report says of the tiny model, without intervals."""
    report = json.loads((folder / "report.json").read_text())
    return {name: cell["value"] for name, cell in report["checkpoints"]["tiny"].items()}


def test_evaluation_is_the_same_on_any_number_of_ranks(tmp_path):
    tiny = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    rows = []
    for i in range(40):
        responses = [{"text": f"It is {j}.", "reward": j} for j in range(2 + i % 3)]
        rows.append({"prompt": f"Say {i}", "responses": responses})
    ranked = [f"datasets=[{write(tmp_path / 'ranked.jsonl', *rows)}]", "split=all"]
    quick = [f"ckpt={tiny}", "n_prompts=21", "n_samples=1", "max_new_tokens=6", "batch_size=5"]

    def job(size, name, *overrides):
        base = [*quick, *overrides]
        of_beliefs = ["evaluate", [*base, f"output={tmp_path}/{name}"]]
        of_order = ["evaluate", [*base, f"output={tmp_path}/{name}_ranked", *ranked]]
        return [size, [of_beliefs, of_order]]

    fork_ranks(tmp_path, [job(1, "one"), job(2, "two"), job(2, "sharded", "shard=true")])
    predictions = (tmp_path / "one" / "predictions.jsonl").read_text()
    for name in ("two", "sharded"):
        for suffix in ("", "_ranked"):
            one, many = report_values(tmp_path / f"one{suffix}"), report_values(tmp_path / f"{name}{suffix}")
            assert one == pytest.approx(many, rel=1e-5)
        assert predictions == (tmp_path / name / "predictions.jsonl").read_text()


def test_every_job_of_a_sweep_has_its_ranks_and_one_that_fails_ends_it(tmp_path, python):
    tiny = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    own = [f"output_dir={tmp_path}/out", f"model.name_or_path={tiny}", "loss=sft", "nproc=2", "seed=3"]
    swept = ["n_examples=6", "hydra.sweep.dir=${output_dir}", "exp_name=2_${optimizer}"]
    optimizers = "optimizer=SGD,AdamW,Nope,RMSprop"
    done = command(python, "train.py", "--multirun", *QUICK, *own, *swept, optimizers, code=2)
    for name in ("2_SGD", "2_AdamW"):
        run = tmp_path / "out" / name
        assert [line["counters/updates"] for line in lines(run)] == [0, 1, 1]
        assert state_of(run)["step"] == 1
    assert done.stderr.count("finished 6 examples") == 2
    assert done.stderr.count("error: ") == 1
    assert "optimizer=Nope" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "2_RMSprop").exists()


@pytest.mark.parametrize(
    "answers,nproc,message",
    [
        ({"gpus": 2}, 3, "nproc=3: this machine has 2 GPUs; set nproc=2"),
        ({"gpus": 8}, 100_000, "has 8 GPUs; set nproc=8"),
        ({"cores": 4}, 5, "has 4 processor cores; set nproc=4"),
        ({"cores": 4}, 10**9, "has 4 processor cores"),
        ({"cores": 64, "memory": 4e9}, 32, "has 8 processes' worth of memory"),
        ({"cores": 4, "memory": 1e8}, 2, "has 1 processes' worth of memory"),
        ({"gpus": 8, "memory": 2e9}, 8, "has 4 processes' worth of memory"),
    ],
)
def test_the_number_of_processes_is_bounded(monkeypatch, answers, nproc, message):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "gpus" in answers)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: answers.get("gpus", 0))
    monkeypatch.setattr(ranks, "num_cores", lambda: answers.get("cores", 128))
    monkeypatch.setattr(ranks, "free_memory", lambda: answers.get("memory", float("inf")))
    launched = []
    monkeypatch.setattr(ranks, "launch", lambda count: launched.append(count) or 0)
    with pytest.raises(UserError, match=message) as caught:
        ranks.run_on_ranks(nproc)
    assert "\n" not in str(caught.value)
    most = int(re.search("set nproc=(\\d+)", str(caught.value))[1])
    assert ranks.run_on_ranks(most) == (most > 1)
    assert launched == [most] * (most > 1)


def test_this_machine_has_memory_and_cores():
    assert 1 <= machine.num_cores() <= os.cpu_count()
    assert machine.free_memory() > 1e8


@pytest.mark.parametrize(
    "entry,own", [("train.py", []), ("evaluate.py", ["ckpt=embedded:smollm2", "output=HERE"])]
)
def test_a_command_with_too_many_processes_is_one_line(tmp_path, python, entry, own):
    own = [part.replace("HERE", str(tmp_path)) for part in own]
    done = command(python, entry, "nproc=5000", *own, code=2)
    assert done.stderr.startswith("error: config key nproc=5000: this machine has")
    assert done.stderr.count("\n") == 1


def test_a_command_starts_its_own_ranks(tmp_path, python):
    tiny = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    base = [python, "train.py", f"output_dir={tmp_path}", "loss=sft", "nproc=2", *QUICK]
    good = [f"model.name_or_path={tiny}", "exp_name=two"]
    bad = [f"model.name_or_path={tmp_path}/nowhere"]
    processes = []
    for overrides in (good, bad):
        arguments = [*base, "n_examples=6", *overrides]
        env = {**os.environ, **ON_CPU}
        processes.append(subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=env))
    said, refused = (process.communicate(timeout=200)[1] for process in processes)
    assert [process.returncode for process in processes] == [0, 2], said + refused
    assert (tmp_path / "two" / "latest" / "model.safetensors").exists()
    assert said.count("finished 6 examples") == 1
    assert refused.count("error: ") == 1
    assert "cannot be loaded" in refused
    assert "Traceback" not in refused
