"""Results of different seeds, made in different places, as one."""

import json
from pathlib import Path

import pytest
from cell_helpers import common, made_up

from experiments.door import run_experiment
from experiments.results import read_results, write_results
from utils import UserError


def results_of_seeds(tmp_path, name, seeds, **changes):
    """A results' file as an experiment writes it: one value a seed."""
    results = {
        "settings": {"name": "x", "seeds": [str(seed) for seed in seeds], "k": 2},
        "made": {"commit": name, "cpu": "2 cores", "gpus": [], "versions": {"torch": "2"}},
        "questions": [{"questions": ["a", "b"]}],
        "values": [{"seed": str(seed), "values": [seed, None]} for seed in seeds],
        "answers": [{"response": name}],
        "cells": [{"cell": f"seed-{seed}/a", "seconds": 1.5, "command": "python train.py"} for seed in seeds],
        **changes,
    }
    path = tmp_path / f"{name}.json"
    write_results(path, results)
    return str(path)


def test_results_of_different_seeds_are_joined_as_if_one_place_had_made_them(tmp_path):
    settings = {"name": "x", "seeds": ["0", "1", "2"], "k": 2}
    files = [results_of_seeds(tmp_path, "second", [2]), results_of_seeds(tmp_path, "first", [0, 1])]
    run_experiment(made_up(tmp_path, settings), common(tmp_path, join=files))
    whole = read_results(tmp_path / "results_dir" / "x.json")
    one_place = read_results(Path(results_of_seeds(tmp_path, "first", [0, 1, 2])))
    made = {**one_place["made"], "commit": "first, second"}
    assert whole == {**one_place, "made": made}
    assert json.loads((tmp_path / "docs_dir" / "x.md").read_text()) == whole
    assert not (tmp_path / "a").exists()  # no cell ran


def test_one_of_the_joined_files_may_become_the_whole(tmp_path):
    (tmp_path / "results_dir").mkdir()
    own = results_of_seeds(tmp_path / "results_dir", "x", [0])
    files = [own, results_of_seeds(tmp_path, "other", [1])]
    settings = {"name": "x", "seeds": ["0", "1"], "k": 2}
    run_experiment(made_up(tmp_path, settings), common(tmp_path, join=files))
    assert read_results(Path(own))["settings"] == settings
    with pytest.raises(UserError, match="holds results of other settings"):
        run_experiment(made_up(tmp_path, {**settings, "seeds": ["1"]}), common(tmp_path, join=files[1:]))


@pytest.mark.parametrize(
    ("seeds", "changes", "error"),
    [
        ([1], {}, r"b.json: has seed 1, and so has .*a.json; leave one out"),
        ([3], {}, r"join: the files have seeds \[0,1,3\], and seeds=\[0,1,2\]; give seeds="),
        ([2], {"settings": {"name": "x", "seeds": ["2"], "k": 4}}, r"b.json: made with k=4, not 2; give it"),
        ([2], {"questions": [{"questions": ["a"]}]}, r"b.json: its questions are not those of .*a"),
        ([2], {"settings": {"name": "x", "k": 2}}, r"b.json: damaged \(KeyError\('seeds'\)\)"),
        ([2], {"settings": [2]}, r"b.json: damaged \("),
        ([2], {"made": None}, r"join: damaged \("),
        ([2], {"values": 5}, r"join: damaged \("),
    ],
)
def test_results_that_cannot_be_joined_are_refused(tmp_path, seeds, changes, error):
    files = [results_of_seeds(tmp_path, "a", [0, 1]), results_of_seeds(tmp_path, "b", seeds, **changes)]
    experiment = made_up(tmp_path, {"name": "x", "seeds": ["0", "1", "2"], "k": 2})
    with pytest.raises(UserError, match=error):
        run_experiment(experiment, common(tmp_path, join=files))
    assert not (tmp_path / "results_dir").exists()


@pytest.mark.parametrize("flag", ["plan", "tables"])
def test_joining_is_not_asked_for_beside_what_it_would_be_ignored_for(tmp_path, flag):
    files = [results_of_seeds(tmp_path, "a", [0])]
    with pytest.raises(UserError, match="join: .* leave out tables and plan"):
        run_experiment(made_up(tmp_path, {"seeds": ["0"]}), common(tmp_path, join=files, **{flag: True}))
