"""The experiment of several groups in one model: its cells, and from runs to a page."""

import json

import pytest
from data_helpers import write
from helpers import compose, save_tiny
from test_people import rows_of

import evaluate
import train
from experiments import group_collecting, group_pages
from experiments.cells import in_order
from experiments.group_collecting import HELD_OUT, TRAINED, mean_matrix
from experiments.groups import FILE, GroupsSettings, cells_of, checked, results_of, wanted_of
from experiments.keys import read_keys
from experiments.numbers import Numbers, Part
from experiments.results import read_results, write_results
from utils import UserError


def settings_of(*arguments):
    return checked(read_keys(GroupsSettings, FILE, arguments, {}))


def test_all_groups_are_trained_on_together_and_names_are_left_out_where_the_row_says_so():
    cells = {cell.name: cell for cell in cells_of(settings_of("seeds=[3]"))}
    named, bare = cells["seed-3/gdpo"].command, cells["seed-3/gdpo_unnamed"].command
    together = "datasets=['opinions/democrat','opinions/independent','opinions/republican']"
    assert together in named and together in bare
    assert "group_in_prompt=true" in named and "group_in_prompt=false" in bare
    assert cells["seed-3/gdpo"].needs == ("seed-3/sft",)
    assert cells["seed-3/gdpo_unnamed"].needs == ("seed-3/sft_unnamed",)
    asked = cells["seed-3/dpo@eval"].command
    assert "eval_groups=['opinions/strong_democrat','opinions/strong_republican']" in asked
    assert len(in_order(list(cells.values()))) == len(cells) == 5 + 2 * 5


@pytest.mark.parametrize(
    "argument,message",
    [
        ("seeds=[a]", "seeds=\\[a\\]: must be a list of different whole numbers"),
        ("methods=[best]", "methods=\\[...,best\\]: unknown"),
        ("unnamed=[best]", "unnamed=\\[...,best\\]: unknown"),
        ("eval_groups=[opinions/democrat]", "eval_groups: opinions/democrat is trained on, too"),
        ("train=[group_in_prompt=false]", "is set by the experiment itself"),
        ("template=People", "must hold {group}"),
        ("model=none", "model=none: unknown"),
    ],
)
def test_keys_that_are_wrong_are_refused(argument, message):
    with pytest.raises(UserError, match=message):
        settings_of(argument)


def test_the_mean_matrix_is_over_seeds_cell_by_cell():
    lines = [{"values": [[0.0, 0.5], [None, 1.0]]}, {"values": [[0.2, 0.5], [0.1, 0.0]]}]
    assert mean_matrix(lines) == [[0.1, 0.5], [None, 0.5]]


def test_damaged_results_are_a_users_error(tmp_path):
    found = {"settings": {"name": "n", "splits": ["eval"]}, "questions": [], "values": [], "references": []}
    with pytest.raises(UserError, match="results: damaged"):
        group_pages.publish(found, tmp_path)
    assert not list(tmp_path.iterdir())


def test_three_groups_go_from_nothing_to_a_page_on_a_tiny_model(tmp_path):
    names = ("Owls", "Larks", "Swifts")
    rows = [rows_of(name, 12, shift) for shift, name in enumerate(names)]
    files = [write(tmp_path / f"{name}.jsonl", *of) for name, of in zip(names, rows)]
    tiny = save_tiny(tmp_path / "tiny")
    settings = settings_of(
        f"groups=[{files[0]},{files[1]}]",
        f"eval_groups=[{files[2]}]",
        "seeds=[0]",
        "methods=[base,gdpo]",
        "unnamed=[sft]",
        "template='{group} say: '",
        f"train=[model.name_or_path={tiny},n_examples=16,batch_size=8,pairs_per_prompt=2,eval_fraction=0.3]",
        "evaluate=[n_samples=0]",
        f"output_dir={tmp_path / 'out'}",
    )
    cells = in_order(list(cells_of(settings)))
    for cell in cells:
        name, *arguments = cell.command
        door, config = (train, "config") if name == "train.py" else (evaluate, "evaluate")
        door.main(compose(*arguments, name=config))
        assert cell.makes.exists(), cell.name
    found = group_collecting.collect(cells, settings.folder, wanted_of(settings))
    write_results(tmp_path / "groups.json", {"settings": results_of(settings), **found})
    results = read_results(tmp_path / "groups.json")
    assert results["groups"] == list(names) and results["held_out"] == ["Swifts"]
    numbers = Numbers(results)
    place = settings.folder / "seed-0" / "evaluations" / "gdpo-test" / "report.json"
    report = json.loads(place.read_text())["groups"]["checkpoints"]["gdpo"]
    for name in names:
        ours = numbers.summary(Part(name, "test"), "gdpo", "js_distance_probability")
        theirs = report["by_group"][name]["js_distance_probability"]
        assert ours["value"] == pytest.approx(theirs["value"], abs=1e-4)
    gains = [numbers.summary(Part(part, "test"), "gdpo", "steering")["value"] for part in (TRAINED, HELD_OUT)]
    whole = report["steering"]["js_distance"]["value"]
    assert (2 * gains[0] + gains[1]) / 3 == pytest.approx(whole, abs=1e-4)
    assert numbers.summary(Part(TRAINED, "test"), "sft_unnamed", "steering")["value"] == pytest.approx(
        0, abs=1
    )
    page = group_pages.publish(results, tmp_path / "docs")
    text = page.read_text()
    assert (
        "SFT, without names" in text and "Swifts (held out)" in text and "the groups themselves: JSD" in text
    )
    assert (tmp_path / "docs" / "groups-test.png").stat().st_size > 5_000
    group_pages.publish(results, tmp_path / "again")
    assert (tmp_path / "again" / "groups.md").read_text() == text
