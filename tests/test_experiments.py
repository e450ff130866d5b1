"""Experiments: cells run in order of need, go on where they were, and lose nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cell_helpers import APPEND, cell, common, made_up, order, run

from experiments import planning, recipes, running
from experiments.cells import OF_RESUME, Cell, Records, in_order
from experiments.door import run_experiment
from experiments.keys import read_keys
from experiments.opinions import OpinionsSettings, cells_of, checked, main, slugs_of
from experiments.results import read_results, write_results
from machine import num_cores
from utils import UserError

ROOT = Path(__file__).parent.parent
YAML = ROOT / "experiments" / "opinions.yaml"


def test_cells_run_behind_those_that_they_need(tmp_path):
    cells = [cell(tmp_path, "c", "b"), cell(tmp_path, "b", "a"), cell(tmp_path, "a")]
    assert [c.name for c in in_order(cells)] == ["a", "b", "c"]
    assert run(tmp_path, *cells) == ({}, [])
    assert order(tmp_path) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="itself"):
        in_order([cell(tmp_path, "a", "b"), cell(tmp_path, "b", "a")])


def test_cells_stay_as_given_where_their_needs_let_them(tmp_path):
    given = [("first", ""), ("measured", "first"), ("behind", "last"), ("second", ""), ("last", "second")]
    cells = [cell(tmp_path, name, *([needs] if needs else [])) for name, needs in given]
    assert [c.name for c in in_order(cells)] == ["first", "measured", "second", "last", "behind"]


def test_a_seed_is_whole_before_the_next_begins():
    cells = in_order(list(cells_of(keys("seeds=[0,1]", "collapse_betas=null"))))
    seeds = [c.name.split("/")[1] for c in cells]
    assert seeds == sorted(seeds)


def test_what_is_done_is_not_run_again(tmp_path):
    cells = [cell(tmp_path, "a"), cell(tmp_path, "b", "a")]
    run(tmp_path, *cells)
    run(tmp_path, *cells, cell(tmp_path, "c"))
    assert order(tmp_path) == ["a", "b", "c"]
    (tmp_path / "a.made").unlink()  # b needs it
    run(tmp_path, *cells)
    assert order(tmp_path) == ["a", "b", "c", "a", "b"]


def test_a_run_that_is_done_keeps_its_weights_and_not_its_optimizer(tmp_path):
    state = tmp_path / "run" / "step-000004" / "trainer_state"
    (state / "optimizer").mkdir(parents=True)
    (state / "state.json").touch()
    (tmp_path / "run" / "latest").symlink_to("step-000004")
    done = Cell("run", ("-c", "pass"), tmp_path / "run", drops=OF_RESUME)
    running.drop(done._replace(drops=""))
    assert (state / "optimizer").is_dir()
    running.drop(done)
    assert not (state / "optimizer").exists() and (state / "state.json").is_file()


def test_a_changed_command_is_refused_and_made_anew_where_asked(tmp_path):
    run(tmp_path, cell(tmp_path, "a"), cell(tmp_path, "b", "a"))
    changed = [cell(tmp_path, "a", word="other"), cell(tmp_path, "b", "a")]
    with pytest.raises(UserError, match=r"^a: .*a.made was made by another command; .*overwrite=true"):
        run(tmp_path, *changed)
    assert order(tmp_path) == ["a", "b"]
    run(tmp_path, *changed, overwrite=True)
    assert order(tmp_path) == ["a", "b", "other", "b"]
    assert (tmp_path / "a.made.old-1").exists()
    assert (tmp_path / "b.made.old-1").exists()  # what it needs has changed


def test_what_no_experiment_made_is_not_taken_for_a_cell(tmp_path):
    (tmp_path / "a.made").write_text("mine")
    with pytest.raises(UserError, match="was not made by this experiment"):
        run(tmp_path, cell(tmp_path, "a"))
    run(tmp_path, cell(tmp_path, "a"), overwrite=True)
    assert (tmp_path / "a.made.old-1").read_text() == "mine"


def test_a_cell_that_fails_takes_along_those_that_need_it_alone(tmp_path):
    fails = "print('error: no such thing; do that', file=sys.stderr); sys.exit(2)"
    cells = [cell(tmp_path, "a", then=fails), cell(tmp_path, "b", "a"), cell(tmp_path, "c", "b")]
    failed, skipped = run(tmp_path, *cells, cell(tmp_path, "d"))
    log = tmp_path / "cells" / "a.log"
    assert failed == {"a": f"no such thing; do that (exit code 2; log: {log})"}
    assert (skipped, order(tmp_path)) == (["b", "c"], ["a", "d"])
    run(tmp_path, cell(tmp_path, "d"), *cells)
    assert order(tmp_path) == ["a", "d", "a"]


def test_a_cell_that_makes_nothing_has_failed(tmp_path):
    nothing = Cell("a", ("-c", "pass"), tmp_path / "a.made")
    assert "was not made" in run(tmp_path, nothing).failed["a"]


def test_two_jobs_work_at_once_and_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    waits = (
        "import time; other = pathlib.Path(sys.argv[3]).with_name({other!r})\n"
        "until = time.monotonic() + 20\n"
        "while not other.exists() and time.monotonic() < until: time.sleep(0.01)\n"
        "assert other.exists()"
    )
    cells = []
    for name, other in (("a", "b.made"), ("b", "a.made")):
        code = f"{APPEND}\npathlib.Path(sys.argv[3]).touch()\n" + waits.format(other=other)
        command = ("-c", code, str(tmp_path / "order.txt"), name, str(tmp_path / f"{name}.made"))
        cells.append(Cell(name, command, tmp_path / f"{name}.made"))
    assert run(tmp_path, *cells, jobs=2) == ({}, [])
    cores = num_cores()
    assert running.environment(2)["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert running.environment(2)["OMP_NUM_THREADS"] == "7"


def test_two_experiments_do_not_work_in_one_folder(tmp_path):
    code = (
        "from experiments.running import run_cells; import pathlib; "
        f"run_cells([], pathlib.Path({str(tmp_path)!r}), 1, False)"
    )
    blocked = Cell("a", ("-c", code), tmp_path / "a")
    assert "another experiment is at work there" in run(tmp_path, blocked).failed["a"]


def started(folder):
    """An experiment in a process of its own, once its second cell is at work or everything is over."""
    command = [sys.executable, str(ROOT / "tests" / "cell_helpers.py"), str(folder)]
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=paths)
    until = time.monotonic() + 100
    while not (folder / "b.made.begun").exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("signum,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_cells_and_the_same_command_goes_on(tmp_path, signum, code):
    process = started(tmp_path)
    process.send_signal(signum)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    assert (tmp_path / "b.made.saved").exists(), said
    assert json.loads((tmp_path / "cells" / "b.json").read_text())["state"] == "begun"
    process = started(tmp_path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert order(tmp_path) == ["a", "b", "b", "c"]


def test_a_killed_experiment_goes_on_where_it_was(tmp_path):
    process = started(tmp_path)
    process.kill()
    process.communicate()
    (tmp_path / "b.made.saved").touch()
    process = started(tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert order(tmp_path)[:1] + order(tmp_path)[-2:] == ["a", "b", "c"]
    assert order(tmp_path).count("a") == 1


def test_a_damaged_record_is_named(tmp_path):
    run(tmp_path, cell(tmp_path, "a"))
    (tmp_path / "cells" / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"cells/a.json: is no record of a cell"):
        run(tmp_path, cell(tmp_path, "a"))


def test_secrets_stand_in_no_record(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "a-very-secret-value")
    run(tmp_path, cell(tmp_path, "a", word="a-very-secret-value"))
    for path in (tmp_path / "cells").iterdir():
        assert "a-very-secret-value" not in path.read_text()


# --- keys, recipes, plans and results -----------------------------------------------------------------------


def keys(*arguments):
    return checked(
        read_keys(OpinionsSettings, YAML, arguments, {"MODEL": "model={}", "DATASET": "groups=[{}]"})
    )


@pytest.mark.parametrize(
    "argument,message",
    [
        ("sedes=[0]", "unknown key sedes; did you mean seeds. "),
        ("n_epochs=2", r"keys of train.py go in train=n_epochs=..."),
        ("seeds", "must be key=value"),
        ("seeds=[a]", "different whole numbers"),
        ("seeds=[0,0]", "different"),
        ("jobs=0", "must be a whole number, 1 to 1024"),
        ("methods=[dpoo]", "unknown; choose of base, cdpo, dpo"),
        ("model=pythia", "unknown; choose one of gpt2-large"),
        ("collapse_betas=[0]", "must be a list of different numbers, 0.001 or more"),
        ("train=[exp_name=x]", "is set by the experiment itself"),
        ("plan=maybe", "must be true or false"),
        ("groups=[", "opinions.yaml"),
    ],
)
def test_a_wrong_key_is_named_in_one_line(argument, message):
    with pytest.raises(UserError, match=message) as caught:
        keys(argument)
    assert "\n" not in str(caught.value)


def test_the_environment_sets_model_and_groups_and_the_command_line_more(monkeypatch):
    monkeypatch.setenv("MODEL", "pythia28")
    monkeypatch.setenv("DATASET", "Binwei01/mmoqa_usa")
    assert (keys().model, keys().groups) == ("pythia28", ["Binwei01/mmoqa_usa"])
    assert keys("model=gpt2-large").model == "gpt2-large"
    assert keys().splits_of_data == ["test"]


@pytest.mark.parametrize("name", ["opinions", "reviews"])
def test_the_keys_of_the_yaml_are_those_of_the_record_and_each_has_a_comment(name):
    path = ROOT / "experiments" / f"{name}.yaml"
    settings = read_keys(OpinionsSettings, path, (), {})
    assert settings.name == name
    lines = [line for line in path.read_text().splitlines() if line and line[0] not in "# "]
    commented = [line for line in path.read_text().splitlines() if "#" in line]
    assert all(line in commented or line.startswith("methods") for line in lines)


def test_data_sets_become_names_of_folders():
    assert slugs_of(["opinions/democrat", "opinions/republican"]) == [
        "opinions-democrat",
        "opinions-republican",
    ]
    assert slugs_of(["/a/usa.jsonl", "/a/pk.jsonl"]) == ["usa", "pk"]
    assert slugs_of(["a/x.jsonl", "b/x.jsonl"]) == ["a-x.jsonl", "b-x.jsonl"]


def test_every_row_starts_from_the_sft_of_its_group_and_seed():
    cells = {c.name: c for c in cells_of(keys("seeds=[3]", "groups=[opinions/democrat]"))}
    dpo = cells["opinions-democrat/seed-3/dpo"]
    assert dpo.needs == ("opinions-democrat/seed-3/sft",)
    assert "model.archive='outputs/opinions/opinions-democrat/seed-3/sft'" in dpo.command
    assert {"loss=dpo", "responses=own_belief", "seed=3", "lr=1e-5"} <= set(dpo.command)
    assert not any("seed" in part or "archive" in part for part in dpo.plan)
    icf = cells["opinions-democrat/seed-3/icf"]
    assert icf.needs == () and {"loss=sft", "icf_shots=3"} <= set(icf.command)
    assert "few_shot=3" in cells["opinions-democrat/seed-3/icf@test"].command
    assert "few_shot=3" in cells["opinions-democrat/seed-3/few_shot@test_questions"].command
    base = cells["opinions-democrat/seed-3/base@test"]
    assert "ckpt=['embedded:smollm2-135m-instruct']" in base.command and base.needs == ()
    assert "opinions-democrat/seed-3/gdpo_kto@test-margins" in cells
    assert "opinions-democrat/seed-3/sft@test-margins" not in cells
    in_order(list(cells.values()))


def test_rows_without_sft_still_have_the_run_that_they_start_from():
    for methods in ("[gdpo]", "[base]", "[icf]"):
        cells = list(cells_of(keys(f"methods={methods}", "seeds=[0]")))
        assert in_order(cells)
        assert "opinions-democrat/seed-0/sft" in {c.name for c in cells}


def test_an_override_of_the_user_takes_the_place_of_the_recipes():
    given = ["seeds=[0]", "methods=[sft]", "train=[lr=1e-3]", "evaluate=[n_samples=2]", "collapse_betas=null"]
    sft, evaluation, _ = cells_of(keys(*given, "groups=[opinions/democrat]"))
    assert [part for part in sft.command if part.startswith("lr=")] == ["lr=1e-3"]
    assert [part for part in evaluation.command if part.startswith("n_samples=")] == ["n_samples=2"]


def test_a_recipe_is_of_the_model_the_data_and_the_loss():
    recipe = recipes.recipe
    assert recipe("smollm2", "mine.jsonl", "gdpo", "preference")[-4:] == [
        "lr=5e-5",
        "n_epochs=1",
        "batch_size=16",
        "pairs_per_prompt=4",
    ]
    assert "lr_schedule=linear" in recipe("smollm2", "opinions/democrat", "gdpo", "preference")
    assert "lr=1e-5" in recipe("smollm2", "opinions/democrat", "ipo", "preference")
    assert "lr=5e-5" in recipe("smollm2", "opinions/democrat", "rpo", "preference")
    assert "responses=expected.target" in recipe("smollm2", "opinions/democrat", "sft", "sft")
    assert "n_samples=12" in recipe("smollm2", "opinions/democrat", "gdpo", "evaluate")
    assert recipe("smollm2", "instructions", "swepo", "evaluate") == []
    authors = {"optimizer=RMSprop", "lr=5e-7", "warmup_steps=150", "patience=4", "eval_every=10000"}
    assert authors <= set(recipe("pythia28", "opinions/democrat", "gdpo", "preference"))


def test_a_recipe_tells_losses_by_their_names_or_by_what_they_compare():
    of_data = ("smollm2", "mine.jsonl")
    assert "pairs_per_prompt=2" in recipes.recipe(*of_data, "kto", "preference")
    for ranked in ("swepo_p1", "infonca_preference", "lipo"):
        assert "n_epochs=3" in recipes.recipe(*of_data, ranked, "preference")
    for pairs in ("gdpo_swepo", "my_losses:my_loss"):
        assert "n_epochs=1" in recipes.recipe(*of_data, pairs, "preference")
    assert "loss.calibration_weight=5" in recipes.recipe("smollm2", "opinions/x", "gdpo_kto", "preference")


def test_a_plan_is_asked_once_for_all_seeds_and_summed(tmp_path, capsys, monkeypatch):
    said = "together 3.50 of 80\nthe run: 10 steps, 80 examples, about 0.5 h or 2 GPU hours\nfits"
    asks = ("-c", f"import sys; open({str(tmp_path / 'asked')!r}, 'a').write('.'); print({said!r})")
    cells = [Cell(f"seed-{i}", ("-c", "1 / 0"), tmp_path / f"{i}", plan=asks) for i in range(3)]
    planning.print_plan(cells, tmp_path / "none")
    shown = capsys.readouterr().out
    assert "3 cells, 3 of them training runs: about 6 GPU hours of training, 6 of them to do" in shown
    assert "10 steps, 3.5 GB, 2 GPU hours; fits" in shown and (tmp_path / "asked").read_text() == "."
    assert not (tmp_path / "none").exists()
    wrong = Cell("a", (), tmp_path, plan=("-c", "import sys; sys.exit('error: no hub; set a folder')"))
    with pytest.raises(UserError, match="^a: no hub; set a folder$"):
        planning.print_plan([wrong], tmp_path / "none")


def test_results_are_kept_and_pages_are_made_of_them_alone(tmp_path):
    run_experiment(made_up(tmp_path, {"seeds": [0]}), common(tmp_path))
    kept = {"settings": {"seeds": [0]}, "values": [{"v": [1, 2]}]}
    assert read_results(tmp_path / "results_dir" / "x.json") == kept
    (tmp_path / "docs_dir" / "x.md").unlink()
    run_experiment(made_up(tmp_path, {"seeds": [5]})._replace(cells=[]), common(tmp_path, tables=True))
    assert json.loads((tmp_path / "docs_dir" / "x.md").read_text()) == kept


def test_results_of_other_settings_are_not_overwritten(tmp_path):
    run_experiment(made_up(tmp_path, {"seeds": [0]}), common(tmp_path))
    with pytest.raises(UserError, match="holds results of other settings"):
        run_experiment(made_up(tmp_path, {"seeds": [1]}), common(tmp_path))
    run_experiment(made_up(tmp_path, {"seeds": [1]}), common(tmp_path, overwrite=True))
    assert read_results(tmp_path / "results_dir" / "x.json")["settings"] == {"seeds": [1]}


def test_a_failed_cell_ends_the_experiment_with_code_2(tmp_path, capsys):
    experiment = made_up(tmp_path, {})._replace(cells=[Cell("a", ("-c", "1 / 0"), tmp_path / "a")])
    with pytest.raises(SystemExit) as ended:
        run_experiment(experiment, common(tmp_path))
    assert ended.value.code == 2
    assert "error: a: ZeroDivisionError: division by zero (exit code 1; log:" in capsys.readouterr().err
    assert not (tmp_path / "results_dir").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_damaged_results_are_named(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match="x.json: "):
        read_results(tmp_path / "x.json")


def test_results_are_written_as_json(tmp_path):
    results = {"a": {"b": [], "c": {}}, "d": [{"e": [1, None], "f": {"g": "h"}}], "i": [], "j": {}}
    write_results(tmp_path / "x.json", results)
    assert json.loads((tmp_path / "x.json").read_text()) == results


def test_the_records_of_an_experiment_say_their_states(tmp_path):
    cells = [cell(tmp_path, "a"), cell(tmp_path, "b", "a")]
    assert Records(tmp_path, cells).states() == {"a": "new", "b": "new"}
    run(tmp_path, cells[0])
    assert Records(tmp_path, cells).states() == {"a": "done", "b": "new"}


def test_the_door_refuses_before_anything_is_read(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "seeds=[x]"])
    with pytest.raises(UserError):
        main(Path(YAML))
