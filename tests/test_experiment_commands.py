"""What experiments share: the commands of their cells, checks of their keys, names and tables."""

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments import groups, opinions
from experiments.checks import check_methods, check_model, check_overrides
from experiments.commands import as_value, base_of, begins_from, data_sets, last_wins, of_data, of_stage
from experiments.keys import named_apart, read_keys
from experiments.results import refusing_damage
from experiments.rows import Place
from experiments.values import asked_line, value_line
from utils import UserError

ODD = ["a b/c.jsonl", "it's", 'so "called"', 'it\'s so "called"', "a\\b", "a\\", "it's\\", "x=1,[y]{z}", "$a"]


def opinions_of(*arguments):
    return opinions.checked(
        read_keys(opinions.OpinionsSettings, opinions.HERE / "opinions.yaml", arguments, {})
    )


# --- commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD)
def test_a_text_in_a_command_is_the_text_that_hydra_reads(name):
    parser = OverridesParser.create()
    assert parser.parse_override(f"output={as_value(name)}").value() == name
    assert parser.parse_override(data_sets("first", name)).value() == ["first", name]
    assert parser.parse_override(begins_from(name)).value() == name


def test_the_last_value_of_a_key_stands_where_the_key_stood_first():
    assert last_wins(["a=1", "b=2", "a=3=4"]) == ["a=3=4", "b=2"]


def keys_of(cell):
    return [argument.partition("=")[0] for argument in cell.command[1:]]


def test_the_order_of_a_command_which_is_part_of_its_hash_is_as_it_was():
    cells = {
        cell.name: cell for cell in opinions.cells_of(opinions_of("seeds=[0]", "groups=[opinions/democrat]"))
    }
    trained = keys_of(cells["opinions-democrat/seed-0/gdpo"])
    assert trained[:3] == ["loss", "model", "datasets"]
    assert trained[-5:] == ["exp_name", "output_dir", "seed", "log_every_seconds", "model.archive"]
    asked = keys_of(cells["opinions-democrat/seed-0/gdpo@test"])
    assert asked[:5] == ["ckpt", "datasets", "split", "seed", "few_shot"] and asked[-1] == "output"
    settings = groups.checked(read_keys(groups.GroupsSettings, groups.FILE, ["seeds=[0]"], {}))
    cells = {cell.name: cell for cell in groups.cells_of(settings)}
    trained = keys_of(cells["seed-0/gdpo"])
    assert trained[:4] == ["loss", "model", "datasets", "group_in_prompt"]
    assert trained[-5:] == ["exp_name", "output_dir", "seed", "model.archive", "log_every_seconds"]
    asked = keys_of(cells["seed-0/gdpo@eval"])
    assert asked[:6] == ["ckpt", "datasets", "eval_groups", "split", "seed", "group_in_prompt"]


def test_pairs_of_dpo_and_rpo_come_after_their_own_beliefs_in_every_experiment():
    given = opinions_of("seeds=[0]", "groups=[opinions/democrat]", "methods=[dpo,rpo,gdpo]")
    named = read_keys(groups.GroupsSettings, groups.FILE, ["seeds=[0]", "methods=[dpo,rpo,gdpo]"], {})
    for cells in (opinions.cells_of(given), groups.cells_of(named)):
        trained = [cell for cell in cells if "responses=own_belief" in cell.command]
        assert {cell.name.rpartition("/")[2] for cell in trained} >= {"dpo", "rpo"}
        assert not any("gdpo" in cell.name for cell in trained)


def test_sft_has_no_keys_of_losses_and_evaluations_have_those_of_data():
    given = ["lr=1e-5", "loss.beta=0.3", "max_length=77"]
    assert of_stage(given, "sft") == ["lr=1e-5", "max_length=77"] and of_stage(given, "preference") == given
    assert of_data(given) == ["max_length=77"]


def test_the_model_before_training_is_the_override_s_or_the_file_s():
    assert base_of("smollm2", ["lr=1", "model.name_or_path='/a b'"]) == "/a b"
    assert base_of("smollm2", []) == "embedded:smollm2-135m-instruct"


def test_a_place_names_cells_and_folders_with_or_without_a_population(tmp_path):
    of_group, alone = Place(tmp_path, "3", "usa"), Place(tmp_path, "3")
    assert of_group.cell("dpo") == "usa/seed-3/dpo" and alone.cell("dpo") == "seed-3/dpo"
    assert of_group.run("dpo") == tmp_path / "usa/seed-3/dpo"
    assert alone.report("dpo", "test") == tmp_path / "seed-3/evaluations/dpo-test"
    assert alone.report("dpo") == tmp_path / "seed-3/evaluations/dpo"


# --- keys ---------------------------------------------------------------------------------------------------


def test_a_wrong_value_names_its_key_and_what_it_may_be():
    with pytest.raises(UserError, match=re.escape("unnamed=[...,x]: unknown; choose of dpo, sft")):
        check_methods("unnamed", ["sft", "x"], ["dpo", "sft"])
    with pytest.raises(UserError, match="^model=x: unknown; choose one of .*smollm2.*, or add config/model/"):
        check_model("x")


@pytest.mark.parametrize(
    "argument,message",
    [
        (
            "train=[seed=1]",
            "train=[seed=1]: is set by the experiment itself; see the keys in experiments/x.yaml",
        ),
        ("evaluate=[mine=2]", "evaluate=[mine=2]: is set by the experiment itself"),
        ("evaluate=[lr]", "evaluate=[lr]: must be key=value"),
    ],
)
def test_an_override_that_the_experiment_sets_itself_is_refused(argument, message):
    settings = read_keys(opinions.OpinionsSettings, opinions.HERE / "opinions.yaml", [argument], {})
    with pytest.raises(UserError, match=re.escape(message)):
        check_overrides(settings, "x.yaml", ["mine"])


def test_what_is_not_as_usual_stands_behind_the_name_unless_a_name_was_given():
    words = {"model": ["pythia28"], "groups": ["usa", "china"]}
    names = {
        "opinions": [],
        "opinions-pythia28": ["model=pythia28"],
        "opinions-usa-china": ["groups=[a,b]"],
        "opinions-pythia28-usa-china": ["model=pythia28", "groups=[a,b]"],
        "mine": ["name=mine", "model=pythia28"],
    }
    for name, arguments in names.items():
        given = opinions_of(*arguments)
        assert named_apart(given, opinions.HERE / "opinions.yaml", words).name == name


def test_overrides_are_named_without_secrets():
    given = opinions_of("train=[n_epochs=2]", "evaluate=[n_samples=3]")
    assert given.overrides == {"train": ["n_epochs=2"], "evaluate": ["n_samples=3"]}
    assert opinions_of().overrides == {"train": [], "evaluate": []}


# --- results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError("a"), IndexError, TypeError, ValueError, ZeroDivisionError])
def test_results_that_lack_something_or_hold_another_kind_are_damaged(error):
    with pytest.raises(UserError, match="^results: damaged .*; restore the file, or run it again$"):
        with refusing_damage():
            raise error


def test_a_user_s_error_inside_keeps_its_words():
    with pytest.raises(UserError, match="^its own words$"):
        with refusing_damage():
            raise UserError("its own words")


def test_lines_of_results_are_rounded_and_keep_what_was_not_measured():
    part = {"group": "g", "split": "s"}
    assert asked_line(part, 3, {"q": 1 / 3}) == {
        **part,
        "prompts": 3,
        "questions": ["q"],
        "weights": [0.33333],
    }
    line = value_line(part, "dpo", "0", "cbc", [2 / 3, None])
    assert line == {**part, "method": "dpo", "seed": "0", "metric": "cbc", "values": [0.66667, None]}
