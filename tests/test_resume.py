"""Exact resume: after death at any moment the same command gives the same bits and lines."""

import signal
import time

import pytest
from bench import (
    SHARD,
    Death,
    assert_same,
    die,
    forked,
    half_done,
    refuse,
    steady_training_lines,
)
from helpers import assert_equal, lines, save_tiny, state_of, weights
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from transformers import LlamaForCausalLM

import reference
import reference_cache
import trainers
from runs import checkpoint, folder, logs, meters, shards
from utils import UserError

DEATHS = {
    "as the reference cache is written": Death(reference_cache, "write_file", 2, after=True),
    "between two parts of the reference": Death(reference, "_compute", 3),
    "before the first step": Death(trainers, "learn", 1),
    "in the middle of an epoch": Death(meters.Watch, "note", 4),
    "after an optimizer step, before its save": Death(checkpoint, "save", 2),
    "in a validation": Death(meters.Meter, "read", 6),
    "after a validation's line": Death(logs.MetricsFile, "write", 5, after=True),
    "between optimizer state and weights": Death(shards.dcp, "save", 2, after=True),
    "before the checkpoint appears": Death(folder, "seal", 2, after=True),
    "before latest points to it": Death(folder, "link", 3),
    "between latest and best": Death(folder, "link", 3, after=True),
    "before older ones go": Death(folder, "prune", 2),
    "after the last save": Death(folder, "prune", 3, after=True),
}
IN_BACKGROUND = {
    "as the copy is made": Death(shards, "copied", 2),
    "before latest points to it": Death(folder, "link", 3),
    "between optimizer state and weights": Death(folder, "write_json", 1),
    "before older ones go": Death(folder, "prune", 2),
    "before the checkpoint appears": Death(folder, "seal", 2, after=True),
}
MOMENTS = [*((False, moment) for moment in DEATHS), *((True, moment) for moment in IN_BACKGROUND)]


@pytest.mark.parametrize("background,moment", MOMENTS)
def test_after_a_kill_the_same_command_gives_the_same_bits(bench, whole, background, moment):
    death = IN_BACKGROUND[moment] if background else DEATHS[moment]

    def job():
        die(*death)
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
    run = bench.out / "run"
    assert steady_training_lines(run) == steady_training_lines(whole)
    assert_equal(weights(run), weights(whole))


@pytest.mark.parametrize("optimizer", ["RMSprop", "SGD", "Adagrad"])
def test_every_optimizer_resumes_exactly(bench, optimizer):
    overrides = [f"optimizer={optimizer}", "n_examples=12"]
    once = bench.go("once", *overrides)

    def job():
        die(meters.Watch, "note", 3)
        bench.go("cut", *overrides, "save_every=4")

    assert forked(job)[0] == -signal.SIGKILL
    cut = bench.go("cut", *overrides, "save_every=4")
    assert_equal(weights(cut), weights(once))


def test_resume_is_exact_to_the_bit(run, monkeypatch):
    overrides = ["loss=gdpo", "eval_every=8"]
    whole = run(*overrides, name="whole")
    save = checkpoint.save

    def save_then_die(*args, **kwargs):
        save(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        run(*overrides, name="cut")
    monkeypatch.setattr(checkpoint, "save", save)
    cut = run(*overrides, name="cut")
    assert (cut / "latest").resolve().name == (whole / "latest").resolve().name == "step-000003"
    assert_equal(weights(cut), weights(whole))
    assert numbers_of(cut) == numbers_of(whole)
    before = (cut / "metrics.jsonl").read_text()
    run(*overrides, name="cut")  # finished: nothing to do
    assert (cut / "metrics.jsonl").read_text() == before


def numbers_of(run):
    """Every line's numbers that depend on weights and data alone."""
    keys = ("counters/updates", "loss/train", "loss/eval", "grad_norm")
    return [{key: line[key] for key in keys if key in line} for line in lines(run)]


# --- checkpoints in the background, in parts, of tied weights -----------------------------------------------


def test_a_checkpoint_in_the_background_is_that_of_its_step(bench, monkeypatch):
    """It is slow to be written, so that training is steps ahead when it is."""
    overrides = ["save_every=8", "keep_last=9", "eval_every=12"]
    once = bench.go("once", *overrides)
    writing, meanwhile = [], []  # writers at work; steps made while one was
    note = meters.Watch.note

    def slowly(original):
        def wrapped(*args, **keys):
            writing.append(1)
            time.sleep(0.2)
            result = original(*args, **keys)
            writing.pop()
            return result

        return wrapped

    def note_and_look(*args):
        meanwhile.extend(writing[:1])
        note(*args)

    monkeypatch.setattr(meters.Watch, "note", note_and_look)
    for place, name in ((HuggingFaceStorageWriter, "write_data"), (LlamaForCausalLM, "save_pretrained")):
        monkeypatch.setattr(place, name, slowly(getattr(place, name)))
    run = bench.go("run", "async_save=true", *overrides)
    assert len(meanwhile) > 2
    assert len(folder.steps(run)) == 5
    for ours, theirs in zip(folder.steps(run), folder.steps(once), strict=True):
        for path in sorted(ours.rglob("*.safetensors")):
            assert_equal(load_file(path), load_file(theirs / path.relative_to(ours)))
    assert_same(run, once)


@pytest.mark.parametrize("background", [False, True])
def test_tied_weights_are_stored_once(bench, background):
    save_tiny(bench.model, num_hidden_layers=1, tie_word_embeddings=True)
    run = bench.go("run", "n_examples=8", f"async_save={background}")
    assert "model.embed_tokens.weight" in weights(run)
    assert "lm_head.weight" not in weights(run)
    bench.go("run", "n_examples=16", f"async_save={background}")


def test_a_fault_in_the_background_ends_the_run_at_the_next_save(bench, whole):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "seal", folder.seal)  # so that it is undone
        die(folder, "seal", 2, action=refuse)
        message = r"step-000006: cannot be saved .No space left.*goes on from step-000003"
        with pytest.raises(UserError, match=message):
            bench.go("run", "async_save=true")
    assert not half_done(bench.out / "run")
    assert_same(bench.go("run", "async_save=true"), whole)


def test_the_optimizer_state_is_split_into_files(bench, whole, monkeypatch):
    monkeypatch.setattr(shards, "FILE_BYTES", 20_000)
    run = bench.go("run", "n_examples=12")
    files = list((run / "latest" / SHARD).parent.iterdir())
    assert len(files) > 3
    assert_same(bench.go("run", "n_examples=32"), whole)


# --- when to stop, when to save -----------------------------------------------------------------------------


def validations(monkeypatch, *values):
    """The losses of the next validations."""
    left = iter(values)
    monkeypatch.setattr(trainers, "validate", lambda *a: {"loss/eval": next(left)})


def test_early_stopping_goes_on_where_it_was(bench, monkeypatch):
    overrides = ["patience=2", "eval_every=4", "n_examples=80"]
    validations(monkeypatch, 3.0, 1.0, 2.0, 2.5, 2.6)
    once = bench.go("once", *overrides)
    state = state_of(once)
    assert state | {"bad_evals": 2, "best": 1.0, "best_step": 1, "step": 3} == state
    validations(monkeypatch, 3.0, 1.0, 2.0, 2.5, 2.6)

    def job():
        die(checkpoint, "save", 3)
        bench.go("cut", *overrides)

    assert forked(job)[0] == -signal.SIGKILL
    validations(monkeypatch, 2.5, 2.6)  # from step 2, which has a checkpoint
    cut = bench.go("cut", *overrides)
    assert_same(cut, once)
    validations(monkeypatch)
    bench.go("cut", *overrides)  # finished: nothing to do


def test_save_every_spares_saves_after_validations(bench, monkeypatch):
    saved = []
    save = checkpoint.save

    def save_and_tell(run, policy, optimizer, tokenizer, state, *rest):
        saved.append(state.step)
        return save(run, policy, optimizer, tokenizer, state, *rest)

    monkeypatch.setattr(checkpoint, "save", save_and_tell)
    validations(monkeypatch, 3.0, 1.0, 2.0, 2.5)
    bench.go("run", "save_every=8", "eval_every=12")
    assert saved == [2, 3, 4, 6, 8]  # 3: the best; 6 and 8 are due; one validation, one step: one save
