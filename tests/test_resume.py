"""Exact resume: after death at any moment the same command gives the same bits."""

import signal
import time
from pathlib import Path

import pytest
import torch
from bench import assert_same, die, forked, refuse, state_of, steady_lines
from helpers import save_tiny
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from transformers import LlamaForCausalLM

import models
import reference
import trainers
from runs import checkpoint, folder, logs, meters, shards
from utils import UserError

DEATHS = {
    "as the reference cache is written": (reference, "save_file", 2, True),
    "between two parts of the reference": (reference, "_compute", 3),
    "before the first step": (trainers, "learning_rate", 1),
    "in the middle of an epoch": (meters.Watch, "note", 4),
    "after an optimizer step, before its save": (checkpoint, "save", 2),
    "in a validation": (meters.Meter, "read", 6),
    "after a validation's line": (logs.MetricsFile, "write", 5, True),
    "between optimizer state and weights": (shards.dcp, "save", 2, True),
    "before the checkpoint appears": (folder, "seal", 2, True),
    "before latest points to it": (folder, "link", 3),
    "between latest and best": (folder, "link", 3, True),
    "before older ones go": (folder, "prune", 2),
    "after the last save": (folder, "prune", 3, True),
}


IN_BACKGROUND = {
    "as the copy is made": (shards, "copied", 2),
    "before latest points to it": (folder, "link", 3),
    "between optimizer state and weights": (folder, "write_json", 1),
    "before older ones go": (folder, "prune", 2),
    "before the checkpoint appears": (folder, "seal", 2, True),
}


@pytest.mark.parametrize(
    "background,moment", [*((False, m) for m in DEATHS), *((True, m) for m in IN_BACKGROUND)]
)
def test_after_a_kill_the_same_command_gives_the_same_bits(bench, whole, background, moment):
    def job():
        die(*(IN_BACKGROUND if background else DEATHS)[moment])
        bench.go("run", f"async_save={background}")

    assert forked(job)[0] == -signal.SIGKILL
    assert_same(bench.go("run"), whole)


def test_many_kills_in_one_run(bench, whole):
    """Every step, save and validation dies once; a run that saves often ends as one that does not."""
    deaths = 0
    for call in (2, 3, 4, 3, 2, 3, 50):

        def job(call=call):
            die(meters.Watch, "note", call)
            bench.go("run", "save_every=4")

        code, text = forked(job)
        assert code in (0, -signal.SIGKILL), text
        deaths += code != 0
    assert deaths == 3
    ours = [x for x in steady_lines(bench.out / "run") if "loss/train" in x]
    assert ours == [x for x in steady_lines(whole) if "loss/train" in x]
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            load_file(bench.out / "run" / "latest" / "model.safetensors").values(),
            load_file(whole / "latest" / "model.safetensors").values(),
        )
    )


def test_a_checkpoint_in_the_background_is_that_of_its_step(bench, monkeypatch):
    """It is slow to be written, so that training is steps ahead when it is."""
    overrides = ["save_every=8", "keep_last=9", "eval_every=12"]
    once, writing, meanwhile = bench.go("once", *overrides), [], []
    note, write, export = (
        meters.Watch.note,
        HuggingFaceStorageWriter.write_data,
        LlamaForCausalLM.save_pretrained,
    )

    def slowly(original):
        def wrapped(*args, **keys):
            writing.append(1)
            time.sleep(0.2)
            original_result = original(*args, **keys)
            writing.pop()
            return original_result

        return wrapped

    monkeypatch.setattr(meters.Watch, "note", lambda *a: meanwhile.extend(writing[:1]) or note(*a))
    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", slowly(write))
    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", slowly(export))
    run = bench.go("run", "async_save=true", *overrides)
    assert len(meanwhile) > 2 and len(folder.steps(run)) == 5
    for ours, theirs in zip(folder.steps(run), folder.steps(once), strict=True):
        for path in sorted(ours.rglob("*.safetensors")):
            same = load_file(theirs / path.relative_to(ours))
            assert all(torch.equal(v, same[k]) for k, v in load_file(path).items()), path
    assert_same(run, once)


@pytest.mark.parametrize("background", [False, True])
def test_tied_weights_are_stored_once(bench, background):
    save_tiny(bench.model, num_hidden_layers=1, tie_word_embeddings=True)
    run = bench.go("run", "n_examples=8", f"async_save={background}")
    assert (
        "model.embed_tokens.weight" in (stored := load_file(run / "latest" / "model.safetensors"))
        and "lm_head.weight" not in stored
    )
    bench.go("run", "n_examples=16", f"async_save={background}")


def test_a_fault_in_the_background_ends_the_run_at_the_next_save(bench, whole, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        seals = []
        seal = folder.seal
        patch.setattr(
            folder,
            "seal",
            lambda path: seals.append(1) or (refuse() if len(seals) == 2 else seal(path)),
        )
        with pytest.raises(
            UserError, match=r"step-000006: cannot be saved .No space left.*goes on from step-000003"
        ):
            bench.go("run", "async_save=true")
    assert not list((bench.out / "run").glob(".*"))
    assert_same(bench.go("run", "async_save=true"), whole)


def test_the_optimizer_state_is_split_into_files(bench, whole, monkeypatch):
    monkeypatch.setattr(shards, "FILE_BYTES", 20_000)
    run = bench.go("run", "n_examples=12")
    assert len(list((run / "latest" / "trainer_state" / "optimizer").iterdir())) > 3
    assert_same(bench.go("run", "n_examples=32"), whole)


@pytest.mark.parametrize("optimizer", ["RMSprop", "SGD", "Adagrad"])
def test_every_optimizer_resumes_exactly(bench, optimizer):
    once = bench.go("once", f"optimizer={optimizer}", "n_examples=12")

    def job():
        die(meters.Watch, "note", 3)
        bench.go("cut", f"optimizer={optimizer}", "n_examples=12", "save_every=4")

    assert forked(job)[0] == -signal.SIGKILL
    cut = bench.go("cut", f"optimizer={optimizer}", "n_examples=12", "save_every=4")
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(load_file(r / "latest" / "model.safetensors").values() for r in (once, cut)))
    )


def test_early_stopping_goes_on_where_it_was(bench, monkeypatch):
    def validations(*values):
        left = iter(values)
        monkeypatch.setattr(trainers, "validate", lambda *a: {"loss/eval": next(left)})

    overrides = ["patience=2", "eval_every=4", "n_examples=80"]
    validations(3.0, 1.0, 2.0, 2.5, 2.6)
    once = bench.go("once", *overrides)
    assert state_of(once) | {"bad_evals": 2, "best": 1.0, "best_step": 1, "step": 3} == state_of(once)
    validations(3.0, 1.0, 2.0, 2.5, 2.6)

    def job():
        die(checkpoint, "save", 3)
        bench.go("cut", *overrides)

    assert forked(job)[0] == -signal.SIGKILL
    validations(2.5, 2.6)  # from step 2, which has a checkpoint
    cut = bench.go("cut", *overrides)
    assert_same(cut, once)
    validations()
    bench.go("cut", *overrides)  # finished: nothing to do


def test_save_every_spares_saves_after_validations(bench, monkeypatch):
    saved = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *a: saved.append(a[4].step) or save(*a))
    values = iter([3.0, 1.0, 2.0, 2.5])
    monkeypatch.setattr(trainers, "validate", lambda *a: {"loss/eval": next(values)})
    bench.go("run", "save_every=8", "eval_every=12")
    assert saved == [2, 3, 4, 6, 8]  # 3: the best; 6 and 8 are due; one validation, one step: one save


def test_changed_data_is_refused(bench):
    bench.go("run", "n_examples=8")
    rows = bench.file.read_text()
    bench.file.write_text(rows.replace("It is 3.", "It is 4."))
    with pytest.raises(UserError, match="examples of split (train|eval) changed since this run began"):
        bench.go("run", "n_examples=16")
    bench.file.write_text(rows[:-20])
    with pytest.raises(UserError, match="rows.jsonl, row 26: not valid JSON"):
        bench.go("run", "n_examples=16")
    bench.file.write_text(rows)
    assert state_of(bench.go("run", "n_examples=16"))["step"] == 4


def test_another_model_under_the_same_name_is_refused(bench):
    bench.go("run", "loss=sft", "n_examples=8")
    save_tiny(bench.model, intermediate_size=48)
    with pytest.raises(UserError, match="holds the weights of another model .*instead of"):
        bench.go("run", "loss=sft", "n_examples=16")


def test_must_fails_before_any_work(bench, monkeypatch):
    monkeypatch.setattr(models, "make_policy", None)
    with pytest.raises(UserError, match="resume=must: .* holds no checkpoint"):
        bench.go("run", "resume=must")


def test_a_lost_config_is_not_guessed(bench):
    run = bench.go("run", "n_examples=4")
    for damage in (lambda p: p.write_text("a: [b"), lambda p: p.write_bytes(b"\xff\xfe\0"), Path.unlink):
        damage(run / "config.yaml")
        with pytest.raises(UserError, match="config.yaml: cannot be read"):
            bench.go("run")
