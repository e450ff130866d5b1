"""What a run refuses to go on from: another config, other data, other weights, no checkpoint at all."""

import shutil
from pathlib import Path

import pytest
from bench import refuse
from helpers import assert_equal, lines, save_tiny, state_of, weights

import models
import trainers
from provenance import own_version
from runs import start
from utils import UserError


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
    run = bench.go("run", "loss=sft", "n_examples=8")
    save_tiny(bench.model, intermediate_size=48)
    with pytest.raises(UserError, match="the starting weights .* changed since this run began"):
        bench.go("run", "loss=sft", "n_examples=16")
    (run / "start.json").unlink()  # an older run, which recorded none
    with pytest.raises(UserError, match="holds the weights of another model .*instead of"):
        bench.go("run", "loss=sft", "n_examples=16")


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


def test_must_fails_before_any_work(bench, monkeypatch):
    monkeypatch.setattr(models, "make_policy", None)
    with pytest.raises(UserError, match="resume=must: .* holds no checkpoint"):
        bench.go("run", "resume=must")


def test_a_lost_config_is_not_guessed(bench):
    run = bench.go("run", "n_examples=4")
    damages = (lambda p: p.write_text("a: [b"), lambda p: p.write_bytes(b"\xff\xfe\0"), Path.unlink)
    for damage in damages:
        damage(run / "config.yaml")
        with pytest.raises(UserError, match="config.yaml: cannot be read"):
            bench.go("run")


# --- what a run started from, by content --------------------------------------------------------------------


def preferences_after_sft(bench, *overrides, name="dpo"):
    """A DPO run from what `sft` is at the moment."""
    return bench.go(name, "loss=dpo", f"model.archive={bench.out}/sft", *overrides)


def test_a_run_goes_back_to_the_step_that_it_started_from(bench):
    """After more SFT, `sft` is another step: a run that resumes stays with its own."""
    sft = bench.go("sft", "loss=sft", "n_examples=8", "keep_last=9")
    whole = preferences_after_sft(bench, name="whole")
    preferences_after_sft(bench, "n_examples=8")
    began = start.read_start(bench.out / "dpo")
    assert began.source == str((sft / "step-000002").resolve())
    bench.go("sft", "loss=sft", "n_examples=32", "keep_last=9")
    assert (sft / "best").resolve().name != "step-000002"
    assert_equal(weights(preferences_after_sft(bench)), weights(whole))


@pytest.mark.parametrize("lora", [[], ["lora.rank=2"]])
@pytest.mark.parametrize("loss", ["sft", "dpo"])
def test_every_run_knows_its_starting_weights(bench, loss, lora):
    run = bench.go("run", f"loss={loss}", "n_examples=4", *lora)
    assert len(start.read_start(run).fingerprint) == 32
    assert start.read_start(run).code == own_version()
    assert start.read_start(run).fingerprint == state_of(run)["reference"]
    save_tiny(bench.model, seed=4, num_hidden_layers=1)
    with pytest.raises(UserError, match="the starting weights .* changed since this run began"):
        bench.go("run", f"loss={loss}", "n_examples=8", *lora)


def test_starting_weights_that_are_gone_are_named(bench):
    sft = bench.go("sft", "loss=sft", "n_examples=8")
    preferences_after_sft(bench, "n_examples=8")
    shutil.rmtree(sft / "step-000002")
    with pytest.raises(UserError, match="its starting weights .*step-000002 are gone"):
        preferences_after_sft(bench)
    (bench.out / "dpo" / "start.json").write_text("{}")
    with pytest.raises(UserError, match="start.json: cannot be read"):
        preferences_after_sft(bench)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "name",
    ["loss/evil", "loss/train", "mfu", "js_distance_eval", "rewards_eval/margins_minority", "grad_norm"],
)
def test_an_eval_metric_that_validation_does_not_write_is_refused_at_the_start(
    bench, monkeypatch, name, first
):
    monkeypatch.setattr(models, "make_policy", None)
    message = f"eval_metric={name}: validation does not write it; it writes .*loss/eval.*rewards_eval/margins"
    with pytest.raises(UserError, match=message) as caught:
        bench.go("run", f"eval_metric={name}", f"do_first_eval={first}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loss", ["sft", "dpo", "kto", "gdpo"])
def test_every_metric_that_validation_writes_is_known_before(run, monkeypatch, loss):
    """And no other."""
    known = []
    check = trainers.check_eval_metric

    def look(name, *rest):
        with pytest.raises(UserError, match="it writes (.*)") as caught:
            check("none", *rest)
        known.extend(str(caught.value).split("it writes ")[1].split(", "))
        check(name, *rest)

    monkeypatch.setattr(trainers, "check_eval_metric", look)
    validation = lines(run(f"loss={loss}", "n_examples=8"))[0]
    written = {name for name in validation if not name.startswith("counters/")}
    assert written == set(known)


def test_a_run_without_a_checkpoint_may_start_from_something_else(bench):
    """What a run that died at its start recorded binds nobody."""
    run = bench.out / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "train", refuse)
        with pytest.raises(OSError):
            bench.go("run", "n_examples=4")
    before = start.read_start(run)
    save_tiny(bench.model, seed=4, num_hidden_layers=1)
    bench.go("run", "n_examples=4")
    after = start.read_start(run)
    assert before.fingerprint != after.fingerprint == state_of(run)["reference"]
