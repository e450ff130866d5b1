"""Runs on whole groups (`responses=expected.*`): counted in prompts, exact on resume and on several ranks."""

import pytest
from bench import QUICK
from helpers import assert_equal, compose, lines, save_tiny, state_of, training_lines, weights
from worlds import assert_one_run, fork_ranks, training

import train
from runs import checkpoint

EXPECTED = {"gdpo": "expected.conditioned", "sft": "expected.target"}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Two losses on 1 and 2 ranks: worlds / size / loss is a run's folder."""
    folder = tmp_path_factory.mktemp("worlds")
    tiny = save_tiny(folder / "tiny", max_position_embeddings=2048)
    jobs = []
    for size in (1, 2):
        for loss, view in EXPECTED.items():
            overrides = (f"loss={loss}", f"responses={view}", "n_examples=12")
            jobs.append(training(size, tiny, folder / str(size), loss, *overrides))
    fork_ranks(folder, jobs)
    return folder


@pytest.mark.parametrize("loss", EXPECTED)
def test_two_ranks_give_the_run_of_one(worlds, loss):
    assert_one_run(worlds / "1" / loss, worlds / "2" / loss)


@pytest.mark.parametrize("loss", EXPECTED)
def test_a_run_counts_prompts(worlds, loss):
    run = worlds / "1" / loss
    assert [line["counters/examples"] for line in training_lines(run)] == [6, 12]
    assert state_of(run)["examples"] == 12
    line = training_lines(run)[-1]
    if loss != "sft":
        assert {"rewards_train/margins_majority", "rewards_train/margins_minority"} <= line.keys()


def test_a_run_on_whole_groups_resumes_to_the_bit(run, monkeypatch):
    overrides = [
        "loss=gdpo",
        "responses=expected.conditioned",
        "batch_size=4",
        "n_examples=12",
        "eval_every=4",
    ]
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
    assert state_of(cut)["examples"] == state_of(whole)["examples"] == 12
    assert_equal(weights(cut), weights(whole))
    losses = [[line["loss/train"] for line in training_lines(folder)] for folder in (cut, whole)]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    number = len(lines(cut))
    run(*overrides, name="cut")  # finished: nothing to do
    assert len(lines(cut)) == number


def test_a_plan_counts_prompts(tmp_path, capsys):
    folder = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    base = [f"model.name_or_path={folder}", f"output_dir={tmp_path}/out", "plan=true", *QUICK]
    train.main(compose(*base, "loss=gdpo", "responses=expected.conditioned", "n_examples=null"))
    assert "the run: 15 steps, 117 examples" in capsys.readouterr().out
