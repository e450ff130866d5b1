"""Several ranks: the same mathematics on any number of them."""

import json
import os
import subprocess
import sys

import pytest
import torch
from bench import QUICK
from helpers import ROOT, lines, save_tiny, weights
from peft import PeftModel
from rank_jobs import LOSSES, RANKS_QUICK, fork_ranks
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize(
    "loss,max_tokens", [("sft", 2048), ("gdpo", 420), ("kto", 420)]
)  # 420: odd numbers of packs, so empty ones run
def test_two_ranks_equal_one(tmp_path, run, loss, max_tokens):
    one = run(f"loss={loss}", "optimizer=SGD", f"max_tokens={max_tokens}", name="one")
    overrides = [
        f"model.name_or_path={tmp_path}/tiny",
        f"output_dir={tmp_path}/out",
        "exp_name=two",
        *QUICK,
        f"loss={loss}",
        "optimizer=SGD",
        f"max_tokens={max_tokens}",
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "train.py",
            *overrides,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = tmp_path / "out" / "two"
    for x, y in zip(lines(one), lines(two), strict=True):
        for key in {
            "loss/train",
            "loss/eval",
            "grad_norm",
            "js_distance_train",
            "rewards_train/margins",
        } & set(x):
            # log-ratios near 0 are differences of large sums, in fp32
            absolute = 1e-5 if key == "rewards_train/margins" else 2e-6
            assert x[key] == pytest.approx(y[key], rel=2e-5, abs=absolute), key
    ours, theirs = weights(one), weights(two)
    assert ours.keys() == theirs.keys() and all(torch.allclose(ours[k], theirs[k], atol=1e-6) for k in ours)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """All losses on 1, 2 and 4 ranks: worlds[size, loss] is a run's folder."""
    folder = tmp_path_factory.mktemp("worlds")
    tiny = save_tiny(folder / "tiny", max_position_embeddings=2048)
    jobs = [
        [
            size,
            [
                [
                    "config",
                    [
                        f"model.name_or_path={tiny}",
                        f"output_dir={folder}/{size}",
                        f"exp_name={loss}",
                        f"loss={loss}",
                        *RANKS_QUICK,
                    ],
                ]
            ],
        ]
        for size, losses in ((1, LOSSES), (2, LOSSES), (4, ("kto", "gdpo")))
        for loss in losses
    ]
    fork_ranks(folder, jobs)
    return folder


def distance(a, b):
    """Relative distance of two sets of weights."""
    squares = [((x - b[k]).double().square().sum(), x.double().square().sum()) for k, x in a.items()]
    return (sum(d for d, _ in squares) / sum(n for _, n in squares)).sqrt().item()


def same(one, many, rel=1e-6):
    """Do two run folders hold one run? Losses of a log-ratio may differ by the rounding of the log-probs
    (fp32) it is made of.
    """
    assert distance(weights(one), weights(many)) < rel
    for x, y in zip(lines(one), lines(many), strict=True):
        assert y.get("grad_norm", 0) == pytest.approx(x.get("grad_norm", 0), rel=2 * rel), (
            one,
            x["counters/updates"],
        )
        for key in {"loss/train", "loss/eval", "kl_mismatched_train"} & set(x):
            assert y[key] == pytest.approx(x[key], rel=5 * rel, abs=2e-5 if key.startswith("kl") else 0), (
                one,
                key,
                x["counters/updates"],
            )


@pytest.mark.parametrize("size,loss", [*((2, loss) for loss in LOSSES), (4, "kto"), (4, "gdpo")])
def test_any_number_of_ranks_gives_the_same_run(worlds, loss, size):
    assert len(lines(worlds / "1" / loss)) == 7  # five steps, two validations
    same(worlds / "1" / loss, worlds / str(size) / loss)


def test_meshes_adapters_precisions_and_ways_to_load(tmp_path):
    tiny, tied = (
        save_tiny(tmp_path / "tiny", max_position_embeddings=2048),
        save_tiny(tmp_path / "tied", max_position_embeddings=2048, tie_word_embeddings=True),
    )
    torch.save({"state": AutoModelForCausalLM.from_pretrained(tiny).state_dict()}, tmp_path / "policy.pt")
    lora = ["lora.rank=4", "optimizer=AdamW", "lr=1e-2", "sample_during_eval=true", "n_eval_model_samples=2"]

    def job(size, name, *overrides, model=tiny):
        return [
            size,
            [
                [
                    "config",
                    [
                        f"model.name_or_path={model}",
                        f"output_dir={tmp_path}",
                        f"exp_name={name}",
                        "loss=dpo",
                        *RANKS_QUICK,
                        *overrides,
                    ],
                ]
            ],
        ]

    fork_ranks(
        tmp_path,
        [
            job(1, "one"),
            job(
                4,
                "hybrid",
                "replicate=2",
                "activation_checkpointing=true",
                "model.block_name=LlamaDecoderLayer",
            ),
            job(2, "sent", f"model.archive={tmp_path}/policy.pt"),
            job(2, "offload", "cpu_offload=true"),
            job(1, "tied_one", model=tied),
            job(2, "tied_two", model=tied),
            job(1, "bf16_one", "model.compute_dtype=bfloat16"),
            job(2, "bf16_two", "model.compute_dtype=bfloat16"),
            job(1, "adam_one", "optimizer=AdamW"),
            job(2, "adam_many", "optimizer=AdamW", "n_examples=12", "async_save=true", "keep_last=9"),
            job(4, "adam_many", "optimizer=AdamW", "async_save=true", "replicate=2", "keep_last=9"),
            job(1, "lora_one", *lora),
            job(2, "lora_two", "n_examples=18", *lora),
            job(2, "lora_two", "n_examples=30", *lora),
        ],
    )
    for other in ("hybrid", "sent", "offload"):
        same(tmp_path / "one", tmp_path / other)
    same(tmp_path / "tied_one", tmp_path / "tied_two", rel=2e-6)
    assert weights(tmp_path / "tied_one").keys() == weights(tmp_path / "tied_two").keys()
    assert distance(weights(tmp_path / "bf16_one"), weights(tmp_path / "bf16_two")) < 1e-3
    assert distance(weights(tmp_path / "adam_one"), weights(tmp_path / "adam_many")) < 1e-5
    shards = [
        list((tmp_path / "adam_many" / f"step-00000{i}" / "trainer_state" / "optimizer").iterdir())
        for i in (2, 5)
    ]
    numbers = [sum(t.numel() for path in paths for t in load_file(path).values()) for paths in shards]
    ranks = [len({path.name.split("-")[1] for path in paths}) for paths in shards]
    assert ranks == [2, 4] and numbers[0] == numbers[1]  # every rank writes, and nothing twice
    for name in ("hybrid", "tied_two"):
        assert len(list((tmp_path / name / "latest").glob("model-0*.safetensors"))) > 1
        opened = AutoModelForCausalLM.from_pretrained(tmp_path / name / "latest").state_dict()
        assert all(torch.equal(opened[k], v) for k, v in weights(tmp_path / name).items())
        assert "lm_head.weight" in weights(tmp_path / "hybrid") and "lm_head.weight" not in weights(
            tmp_path / "tied_two"
        )
    one, two = tmp_path / "lora_one", tmp_path / "lora_two"
    assert (
        distance(weights(one), weights(two))
        < 1e-5
        < distance(weights(one), load_file(f"{tiny}/model.safetensors"))
    )
    assert lines(one)[-1]["loss/eval"] == pytest.approx(
        lines(two)[-1]["loss/eval"], rel=1e-4
    )  # resumed on the way
    said = [
        [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()] for run in (one, two)
    ]
    assert (
        len(said[0]) == 4
        and said[0][:2] == said[1][:2]
        and {x["counters/updates"] for x in said[0]} == {0, 5}
    )
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny), two / "latest" / "adapter"
    ).merge_and_unload()
    assert distance(weights(two), model.state_dict()) < 1e-6
    assert (two / "latest" / "config.json").read_text() == (one / "latest" / "config.json").read_text()


def test_a_fingerprint_does_not_depend_on_the_number_of_ranks(worlds):
    marks = {
        size: {
            json.loads((worlds / str(size) / loss / "latest" / "trainer_state" / "state.json").read_text())[
                "reference"
            ]
            for loss in ("kto", "gdpo")
        }
        for size in (1, 2, 4)
    }
    assert marks[1] == marks[2] == marks[4] and len(marks[1]) == 1


def test_evaluation_is_the_same_on_any_number_of_ranks(tmp_path):
    tiny = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    rows = [
        {"prompt": f"Say {i}", "responses": [{"text": f"It is {j}.", "reward": j} for j in range(2 + i % 3)]}
        for i in range(40)
    ]
    (tmp_path / "ranked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def jobs(size, name, *overrides):
        quick = [
            f"ckpt={tiny}",
            "n_prompts=21",
            "n_samples=1",
            "max_new_tokens=6",
            "batch_size=5",
            *overrides,
        ]
        return [
            size,
            [
                ["evaluate", [*quick, f"output={tmp_path}/{name}"]],
                [
                    "evaluate",
                    [
                        *quick,
                        f"output={tmp_path}/{name}_ranked",
                        f"datasets=[{tmp_path}/ranked.jsonl]",
                        "split=all",
                    ],
                ],
            ],
        ]

    fork_ranks(tmp_path, [jobs(1, "one"), jobs(2, "two"), jobs(2, "sharded", "shard=true")])
    for name in ("two", "sharded"):
        for suffix in ("", "_ranked"):
            one, many = (
                json.loads((tmp_path / f"{n}{suffix}" / "report.json").read_text())["checkpoints"]["tiny"]
                for n in ("one", name)
            )
            assert {k: v["value"] for k, v in one.items()} == pytest.approx(
                {k: v["value"] for k, v in many.items()}, rel=1e-5
            )
        assert (tmp_path / "one" / "predictions.jsonl").read_text() == (
            tmp_path / name / "predictions.jsonl"
        ).read_text()


def test_a_command_starts_its_own_ranks(tmp_path):
    folder = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    command = [
        sys.executable,
        "train.py",
        f"output_dir={tmp_path}",
        "loss=sft",
        "nproc=2",
        *RANKS_QUICK,
        "n_examples=6",
    ]
    calls = [
        subprocess.Popen(
            [*command, *more],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        for more in (
            [f"model.name_or_path={folder}", "exp_name=two"],
            [f"model.name_or_path={tmp_path}/nowhere"],
        )
    ]
    good, bad = (call.communicate(timeout=200)[1] for call in calls)
    assert [call.returncode for call in calls] == [0, 2], good + bad
    assert (tmp_path / "two" / "latest" / "model.safetensors").exists() and good.count(
        "finished 6 examples"
    ) == 1
    assert bad.count("error: ") == 1 and "cannot be loaded" in bad and "Traceback" not in bad
