"""The loop: a run folder that keeps its contract, and equalities under accumulation, ranks, resume and caching."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from helpers import byte_tokenizer, save_tiny, tiny_policy
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import forest
import losses
import metrics
import models
import preference_datasets as data
import reference
import schedule
import train
import trainers
from ranks import World
from runs import checkpoint
from utils import UserError

ROOT = Path(__file__).parent.parent
CPU = World(0, 1, torch.device("cpu"), None)
QUICK = [
    "datasets=[opinions/republican]",
    "n_eval_examples=16",
    "pairs_per_prompt=2",
    "batch_size=8",
    "n_examples=24",
    "eval_every=1000",
    "lr=1e-3",
    "warmup_steps=0",
    "max_length=256",
    "log_every_seconds=0.0001",
    "wandb.enabled=false",
]


def compose(*overrides):
    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
        return hydra.compose("config", overrides=list(overrides))


@pytest.fixture
def run(tmp_path):
    """Train a tiny model in this process: run("loss=dpo", ...) gives the run's folder."""
    folder = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)

    def go(*overrides, name="run"):
        train.main(
            compose(
                f"model.name_or_path={folder}",
                f"output_dir={tmp_path}/out",
                f"exp_name={name}",
                *QUICK,
                *overrides,
            )
        )
        return tmp_path / "out" / name

    return go


def weights(folder):
    return load_file(folder / "latest" / "model.safetensors")


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("loss", ["sft", "dpo", "gdpo"])
def test_a_run_folder_keeps_its_contract(run, loss):
    folder = run(f"loss={loss}")
    logged = lines(folder)
    training = [x for x in logged if "loss/train" in x]
    assert [x["counters/examples"] for x in training] == [8, 16, 24] and [
        x["counters/updates"] for x in training
    ] == [1, 2, 3]
    assert sum("loss/eval" in x for x in logged) == 2  # before the first step and at the end
    expected = {
        "loss/train",
        "grad_norm",
        "lr",
        "examples_per_second",
        "tokens_per_second",
        "padding_fraction",
        "mfu",
        "js_distance_train",
        "class_mass_train",
        "kl_train",
        "logps_train/chosen",
    }
    if loss != "sft":
        expected |= {
            f"rewards_train/{name}"
            for name in ("chosen", "rejected", "accuracies", "margins", "margins_majority")
        } | {"logps_train/rejected"}
        assert training[0]["rewards_train/margins"] == pytest.approx(
            0, abs=1e-3
        )  # policy = reference at step 0
    assert expected <= set(training[0])
    assert any("rewards_train/margins_minority" in x for x in training) == (loss != "sft")
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "data_audit.json",
        "metrics.jsonl",
        "train.log",
        "step-000003",
        "latest",
        "best",
    }
    model = AutoModelForCausalLM.from_pretrained(folder / "best")
    assert all(
        torch.equal(p, weights(folder)[n]) for n, p in model.state_dict().items() if n in weights(folder)
    )
    audit = json.loads((folder / "data_audit.json").read_text())["opinions/republican"]
    assert (
        audit["train"]["prompts"] == audit["train"]["rows_read"] == 117
        and 0 < audit["train"]["saved_by_sharing"] < 1
    )
    assert set(audit) == {"train", "eval"} and audit["train"]["preferred_beliefs"].keys() <= set("012345")
    if loss == "dpo":
        assert training[0]["loss/train"] == pytest.approx(np.log(2), abs=1e-4)


def test_training_on_the_belief_distribution_calibrates_it(run):
    folder = run("loss=gdpo", "loss.preference_weight=0", "n_examples=160", "shuffle=prompts")
    evals = [x for x in lines(folder) if "loss/eval" in x]
    assert (
        evals[-1]["js_distance_eval"] < evals[0]["js_distance_eval"]
        and evals[-1]["class_mass_eval"] > 2 * evals[0]["class_mass_eval"]
    )


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


def test_accumulation_changes_nothing(run):
    one = run("loss=gdpo", "optimizer=SGD", name="one")
    many = run("loss=gdpo", "optimizer=SGD", "max_tokens=400", "activation_checkpointing=true", name="many")
    apart = run("loss=gdpo", "optimizer=SGD", "share_prefixes=false", "max_tokens=1024", name="apart")
    for other in (many, apart):
        assert all(
            torch.allclose(a, b, atol=2e-5) for a, b in zip(weights(one).values(), weights(other).values())
        )
        assert [x["loss/train"] for x in lines(one) if "loss/train" in x] == pytest.approx(
            [x["loss/train"] for x in lines(other) if "loss/train" in x], rel=1e-4
        )


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


@pytest.mark.parametrize("shuffle", ["examples", "prompts"])
def test_a_short_run_needs_the_reference_of_what_it_sees(shuffle):
    trees = [forest.TokenTree((1,), (), ((2,),), group=i // 4) for i in range(80)]
    order = schedule.order_of(trees, 8, 3, shuffle)
    seen = [*order.examples(0), *order.examples(1), *order.examples(2)]
    assert sorted(order.seen(20)) == sorted(seen)
    assert order.seen(80) is None


def test_early_stopping_keeps_the_best(run, monkeypatch):
    values = iter([3.0, 1.0, 2.0, 2.5, 2.6])
    monkeypatch.setattr(trainers, "validate", lambda *a: {"loss/eval": next(values)})
    folder = run("loss=sft", "eval_every=8", "patience=2", "n_examples=80", "do_first_eval=true")
    assert (folder / "best").resolve().name == "step-000001" and (
        folder / "latest"
    ).resolve().name == "step-000003"


def test_reference_log_probs_are_cached_by_content(tmp_path, monkeypatch):
    groups = data.load_groups("opinions/republican", "eval")[:3]
    trees = data.tokenize(groups, data.view(groups, "conditioned"), byte_tokenizer(), data.Limits(512, 256))
    policy = tiny_policy()
    mark = models.fingerprint(policy)
    packing = schedule.Packing(2048, 256, pad_id=258)

    def fill(trees):
        return reference.reference_logps(policy, trees, mark, packing, CPU)

    live = fill(trees)
    assert live[0].reference == pytest.approx(models.score_one_by_one(policy, trees[0]), abs=1e-2)
    calls = []
    score = models.score
    monkeypatch.setattr(models, "score", lambda *a: calls.append(1) or score(*a))
    assert fill(trees[::-1]) == live[::-1] and not calls  # another order, no forward
    single = [t._replace(answers=t.answers[:1]) for t in trees]
    assert [t.reference for t in fill(single)] == [t.reference[:1] for t in live] and not calls  # a smaller k
    some = reference.reference_logps(policy, trees, mark, packing, CPU, wanted=[5, 2])
    assert [i for i, t in enumerate(some) if t.reference] == [2, 5] and some[5] == live[5]
    (file,) = (tmp_path / "cache" / "reference").iterdir()
    broken = bytearray(file.read_bytes())
    broken[-20] ^= 255
    file.write_bytes(broken)
    assert fill(trees) == live and calls  # damaged: computed again, and repaired
    calls.clear()
    assert fill(trees) == live and not calls
    file.write_bytes(file.read_bytes()[:100])
    assert fill(trees) == live and calls
    assert models.fingerprint(tiny_policy(seed=1)) != mark == models.fingerprint(tiny_policy())


def test_a_policy_pt_of_the_dpo_repository_loads(tmp_path, run):
    folder, other = save_tiny(tmp_path / "base"), tiny_policy(seed=5)
    torch.save({"step_idx": 3, "state": other.model.state_dict(), "metrics": {}}, tmp_path / "policy.pt")
    loaded = models.load_policy(
        models.PolicySpec(folder, archive=str(tmp_path / "policy.pt")), torch.device("cpu")
    )
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), other.parameters()))
    run("loss=dpo", f"model.archive={tmp_path}/policy.pt")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/owned",))

    (tmp_path / "policy.pt").write_bytes(pickle.dumps({"state": Evil()}))
    torch.save({"state": Evil()}, tmp_path / "zip.pt")
    for name in ("policy.pt", "zip.pt"):
        with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
            models.load_archive(tiny_policy().model, tmp_path / name)
    assert not (tmp_path / "owned").exists()
    with pytest.raises(UserError, match="missing or has another shape"):
        torch.save({"state": {}}, tmp_path / "empty.pt")
        models.load_archive(tiny_policy().model, tmp_path / "empty.pt")


@pytest.mark.parametrize(
    "overrides,message",
    [
        (
            ["loss=dpo", "responses=target"],
            "responses=target: loss.name=dpo compares two responses; set responses=pairs",
        ),
        (["loss=gdpo", "responses=own_belief"], "set responses=conditioned"),
        (["datasets=[opinions/whig]"], "no such group"),
        (["+colour=red"], "config key colour: unknown"),
        (["loss=dpo", "+loss.gamma=1"], "loss.gamma: dpo takes no such key"),
        (["batch_size=0"], "batch_size=0: must be a whole number, 1 or more"),
        (["seed=-1"], "seed=-1: must be a whole number, 0 or more"),
        (["n_epochs=abc"], "n_epochs=abc: must be"),
        (["datasets=foo"], "must be a list"),
        (["exp_name=null"], "plain folder name"),
        (["wandb=3"], "wandb must be a section"),
        (["optimizer=null"], "optimizer=None: must be a name"),
        (["loss=gdpo", "responses=pairs"], "responses=pairs: gdpo's answers"),
        (
            ["loss=dpo", "responses=binary"],
            "responses=binary: loss.name=dpo compares two responses; set responses=pairs",
        ),
        (
            ["loss=kto", "responses=target"],
            "loss.name=kto compares responses to like with others to avoid; set responses=binary",
        ),
        (
            ["loss=swepo", "responses=pairs"],
            "loss.name=swepo needs rewards, and responses=pairs carries none; set responses=ranked",
        ),
        (
            ["loss=gdpo_swepo", "responses=conditioned"],
            "needs rewards, and responses=conditioned carries none; set responses=conditioned.all",
        ),
        (
            ["loss=gdpo", "responses=conditioned.all"],
            "loss.name=gdpo compares two responses; set responses=conditioned",
        ),
        (["icf_shots=-1"], "icf_shots=-1: must be a whole number, 0 or more"),
        (["icf_shots=500"], "500 shots need more than 500"),
        (["truncation=middle"], "choose one of null, keep_start, keep_end"),
        (["exp_name=../x"], "must be a plain folder name"),
        (["optimizer=Adamm"], "no such class in torch.optim"),
        (["resume=must"], "holds no checkpoint"),
        (["attention=eager"], "choose auto, sdpa, segments or flex_attention"),
        (["attention=flex_attention"], "needs a CUDA device"),
        (["model.name_or_path=/nowhere"], "cannot be loaded"),
        (["max_length=20", "max_prompt_length=null"], "leave no room for a response"),
        (["model.archive=/nowhere"], "no such folder or file"),
        (["max_tokens=50"], "the largest example has"),
        (["eval_metric=loss/evil"], "eval_metric=loss/evil: validation does not write it"),
    ],
)
def test_bad_configs_are_one_line_errors(run, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        run(*overrides)
    assert "\n" not in str(caught.value)


@pytest.fixture
def ranked_file(tmp_path):
    rows = [
        {
            "prompt": f"Say {i}",
            "responses": [{"text": f"It is {i}{j}.", "reward": (i + j) % 4} for j in range(2 + i % 3)],
        }
        for i in range(12)
    ]
    rows.append({"prompt": "Equal", "responses": [{"text": "a", "reward": 1}, {"text": "b", "reward": 1}]})
    (tmp_path / "ranked.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(tmp_path / "ranked.jsonl")


ORDER = {
    f"rewards_eval/{name}"
    for name in (
        "chosen",
        "rejected",
        "margins",
        "accuracies",
        "set_accuracies",
        "kendall_tau",
        "negative_mass",
    )
}


@pytest.mark.parametrize("loss", ["ipo", "kto", "infonca", "nca", "swepo"])
def test_ranked_losses_train_on_ragged_groups(run, ranked_file, loss):
    folder = run(
        f"loss={loss}", f"datasets=[{ranked_file}]", f"eval_datasets=[{ranked_file}]", "n_examples=24"
    )
    logged = lines(folder)
    audit = json.loads((folder / "data_audit.json").read_text())[ranked_file]
    assert audit["train"]["dropped"]["equal_rewards"] == 1 and audit["train"]["rows_read"] == 13
    assert logged[-1]["loss/eval"] < logged[0]["loss/eval"]
    if loss == "kto":
        assert audit["train"]["desirable_share"] < 0.7 and logged[0]["kl_mismatched_eval"] == pytest.approx(
            0, abs=1e-4
        )
        assert logged[0]["loss/eval"] == pytest.approx(0.5, abs=1e-4)
        assert logged[-1]["rewards_eval/chosen"] > logged[-1]["rewards_eval/rejected"]
        return
    assert logged[-1]["rewards_eval/accuracies"] > 0.5 and set(logged[-1]) >= ORDER | {"kl_reference_eval"}
    if loss != "ipo":
        with pytest.raises(UserError, match="loss.name=dpo compares two responses; set responses=pairs"):
            run("loss=dpo", f"datasets=[{ranked_file}]", "responses=ranked", name="wrong")


@pytest.mark.parametrize("loss", sorted(p.stem for p in (ROOT / "config" / "loss").iterdir()))
def test_every_loss_file_trains_on_two_data_sets_at_once(run, ranked_file, loss):
    sets = (
        "[opinions/republican,opinions/democrat]"
        if "gdpo" in loss
        else f"[opinions/republican,{ranked_file}]"
    )
    folder = run(f"loss={loss}", f"datasets={sets}", "n_examples=16")
    logged = [x for x in lines(folder) if "loss/train" in x]
    assert len(logged) == 2 and all(np.isfinite(v) for x in logged for v in x.values())
    audit = json.loads((folder / "data_audit.json").read_text())
    assert len(audit) == 2 and all(set(a) == {"train", "eval"} for a in audit.values())
    config = compose(f"loss={loss}")
    assert OmegaConf.to_container(config)["exp_name"] in (loss, "${loss.name}") and config.exp_name == loss


@pytest.mark.parametrize(
    "view", ["pairs.best_vs_worst", "pairs.best_vs_random", "pairs.best_vs_rest", "pairs.all"]
)
def test_dpo_on_every_view_of_pairs_encodes_a_response_once(run, ranked_file, view):
    folder = run("loss=dpo", f"datasets=[{ranked_file}]", f"responses={view}", "shuffle=prompts")
    audit = json.loads((folder / "data_audit.json").read_text())[ranked_file]["train"]
    alone = json.loads(
        (run("loss=infonca", f"datasets=[{ranked_file}]", name="k") / "data_audit.json").read_text()
    )[ranked_file]["train"]
    if view in ("pairs.all", "pairs.best_vs_rest"):
        assert (
            audit["tokens_shared"] <= alone["tokens_shared"]
        )  # as many tokens as the k responses, however many pairs
    if view == "pairs.all":
        assert audit["tokens_shared"] == alone["tokens_shared"] < 0.5 * audit["tokens_one_by_one"]


def test_kto_is_the_same_however_the_step_is_packed(run, ranked_file):
    """z0 is of the whole step, so packs that hold but one side, or one example, change nothing."""
    base = [
        "loss=kto",
        f"datasets=[{ranked_file}]",
        f"eval_datasets=[{ranked_file}]",
        "optimizer=SGD",
        "n_examples=24",
    ]
    one, many = run(*base, name="one"), run(*base, "max_tokens=20", "row_tokens=20", name="many")
    assert all(torch.allclose(a, b, atol=2e-5) for a, b in zip(weights(one).values(), weights(many).values()))
    for x, y in zip(lines(one), lines(many), strict=True):
        for key in {
            "loss/train",
            "loss/eval",
            "kl_mismatched_train",
            "kl_mismatched_eval",
            "rewards_eval/chosen",
        } & set(x):
            assert x[key] == pytest.approx(y[key], rel=1e-4, abs=1e-5), key


def test_icf_trains_with_shots_before_the_prompt(run):
    folder = run("loss=sft", "icf_shots=2", "n_examples=8", "max_tokens=4096", "max_length=400")
    audit, plain = (
        json.loads((f / "data_audit.json").read_text())["opinions/republican"]["train"]
        for f in (folder, run("loss=sft", "n_examples=8", "max_length=400", name="plain"))
    )
    assert audit["prompt_tokens"]["mean"] > 2.5 * plain["prompt_tokens"]["mean"]
    assert audit["answer_tokens"]["median"] == plain["answer_tokens"]["median"]


def test_a_changed_reference_is_refused_on_resume(tmp_path, run):
    folder = run("loss=dpo")
    save_tiny(tmp_path / "tiny", seed=4)  # the weights under model.name_or_path are others now
    with pytest.raises(UserError, match="the starting weights .* changed since this run began"):
        run("loss=dpo", "n_examples=32")
    assert (folder / "latest").resolve().name == "step-000003"


def test_a_short_sliding_window_or_too_few_positions_are_refused():
    policy = tiny_policy()
    models.check_lengths(policy, 512)
    with pytest.raises(UserError, match="takes 513 tokens, but the model has positions for 512"):
        models.check_lengths(policy, 513)
    policy.model.config.sliding_window = 16
    with pytest.raises(UserError, match="sees a sliding window of 16"):
        models.check_lengths(policy, 17)


def test_another_config_in_the_same_folder_is_refused(run):
    run("loss=dpo")
    with pytest.raises(UserError, match=r"holds a run with another config: loss.beta \(0.1 -> 0.2\), lr"):
        run("loss=dpo", "loss.beta=0.2", "lr=2e-3")
    with pytest.raises(UserError, match="resume=never"):
        run("loss=dpo", "resume=never")


def test_a_data_file_of_ones_own(tmp_path, run):
    rows = [
        {
            "prompt": f"Say {i}",
            "responses": [{"text": f"It is {i}.", "reward": 2}, {"text": "no", "reward": 1}],
        }
        for i in range(12)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    folder = run("loss=dpo", f"datasets=[{tmp_path}/mine.jsonl]")
    assert (
        json.loads((folder / "data_audit.json").read_text())[f"{tmp_path}/mine.jsonl"]["eval"]["prompts"] == 1
    )
    with pytest.raises(
        UserError, match="mine.jsonl, row 1: field belief_probs: missing, and loss.name=gdpo needs it"
    ):
        run("loss=gdpo", f"datasets=[{tmp_path}/mine.jsonl]", name="other")


@pytest.mark.parametrize("signum,code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits(tmp_path, signum, code):
    folder = save_tiny(tmp_path / "tiny")
    overrides = [
        "loss=sft",
        f"model.name_or_path={folder}",
        f"output_dir={tmp_path}/out",
        "exp_name=run",
        *QUICK,
        "n_examples=1000000",
        "do_first_eval=false",
    ]
    process = subprocess.Popen(
        [sys.executable, "train.py", *overrides], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "out" / "run" / "metrics.jsonl"
    deadline = time.time() + 120
    while (
        not (log.exists() and log.read_text().count("\n") > 2)
        and process.poll() is None
        and time.time() < deadline
    ):
        time.sleep(0.1)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr[-2000:]
    assert "Traceback" not in stderr and f"stopped by {signum.name}" in stderr
    assert (tmp_path / "out" / "run" / "latest" / "model.safetensors").exists()
    assert not list((tmp_path / "out" / "run").glob(".saving-*"))


@pytest.mark.parametrize("family,model", [("gpt_neox", "pythia28"), ("gpt2", "gpt2-large")])
def test_other_families_train_in_their_own_dtype(tmp_path, run, family, model):
    folder = save_tiny(tmp_path / family, family)
    logged = lines(run("loss=gdpo", f"model={model}", f"model.name_or_path={folder}"))
    assert len(logged) == 5 and all(np.isfinite(x.get("loss/train", 0.0)) for x in logged)


def test_learning_rate_warms_up_and_step_counts_cover_all_examples():
    assert [trainers.learning_rate(i, 1.0, 3) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    order = schedule.Order(list(range(32)), 5, 0)
    assert order.num_steps(32 + 7) == 7 + 2
    assert sum(len(order.examples(step)) for step in range(7)) == 32


def test_metrics_split_margins_by_majority():
    scores = losses.Scores(
        policy=torch.tensor([[-1.0, -3.0], [-2.0, -2.5]]),
        reference=torch.zeros(2, 2),
        length=None,
        reward=torch.zeros(2, 2),
        valid=torch.ones(2, 2, dtype=torch.bool),
    )
    found = metrics.example_metrics(scores, torch.zeros(2), torch.tensor([1, 0]), beta=0.1)
    mean = lambda name: (found[name][0][found[name][1]]).mean().item()  # noqa: E731
    assert mean("rewards_{}/margins") == pytest.approx(0.125)
    assert mean("rewards_{}/margins_majority") == pytest.approx(0.2)
    assert mean("rewards_{}/margins_minority") == pytest.approx(0.05)
    assert mean("rewards_{}/accuracies") == 1.0
