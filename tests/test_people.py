"""Several groups of people in one model: their names in prompts, and what evaluations say of each."""

import json

import numpy as np
import pytest
from data_helpers import GOOD, decode, prepared, rows_with_beliefs, write
from helpers import evaluation, run_of, save_tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import metrics
import preference_datasets as data
from evaluation.belief_metrics import of_probabilities
from evaluation.by_group import compare_groups
from groups.people import naming_of
from reporting.files import Fields
from reporting.group_tables import group_table, in_words, matrix_table, steering_table
from reporting.groups import as_json, read_groups
from reporting.reading import read_evaluation
from settings import DataSet
from utils import UserError

CLASSES = [str(label) for label in range(6)]
NAMES = ("Owls", "Larks", "Swifts")


def rows_of(people, count=8, shift=0):
    """The same prompts, asked of these people."""
    rows = rows_with_beliefs(count)
    for row in rows:
        probs = row["belief_probs"][:4]
        row["belief_probs"] = [*np.roll(probs, shift).tolist(), 0, 0]
        row["responses"] = [
            {"text": f"So {label}.", "belief": {"class": str(label), "text": f"Option {label}"}}
            for label in range(4)
        ]
        row |= {"question": f"q{row['id']}", "group": people}
    return rows


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / f"{name}.jsonl", *rows_of(name, shift=i)) for i, name in enumerate(NAMES)]


# --- names in prompts ---------------------------------------------------------------------------------------


def test_the_name_stands_before_a_text_and_before_the_users_last_message():
    naming = naming_of("{group} say: ", [])
    text = naming.named(data.parse_group({**GOOD, "group": "Owls"}, "here"))
    assert text.prompt == "Owls say: How is it?" and text.plain == "How is it?" and text.people == "Owls"
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    asked = naming.named(data.parse_group({**GOOD, "prompt": turns, "group": "Owls"}, "here"))
    assert [m["content"] for m in asked.prompt] == ["system", "user", "assistant", "Owls say: user"]
    assert asked.plain == turns


def test_without_a_template_prompts_stay_and_people_are_known():
    group = data.parse_group({**GOOD, "group": "Owls"}, "here")
    assert naming_of(None, []).named(group) == group


def test_the_config_may_name_the_people_of_a_data_set():
    group = data.parse_group(GOOD, "here")._replace(dataset="a.jsonl")
    naming = naming_of("{group}: ", [DataSet("a.jsonl", group="Night owls")])
    assert naming.named(group).prompt == "Night owls: How is it?"
    with pytest.raises(UserError, match="two names of its group"):
        naming_of(None, [DataSet("a", group="b"), DataSet("a", group="c")])


def test_data_of_nobody_in_particular_is_refused_where_names_are_asked_for():
    words = "here: names no group of people.*add a field group, write {name: a.jsonl, group: ...} where the"
    with pytest.raises(UserError, match=words):
        naming_of("{group}", []).named(data.parse_group(GOOD, "here")._replace(dataset="a.jsonl"))


@given(people=st.text(min_size=1), prompt=st.text(min_size=1))
@settings(max_examples=50)
def test_what_is_asked_is_never_lost(people, prompt):
    group = data.Group("a", prompt, (), people=people)
    named = naming_of("{group} {group}\n", []).named(group)
    assert named.prompt == f"{people} {people}\n{prompt}" and named.plain == prompt


def test_data_sets_say_whose_answers_they_are(tmp_path):
    (democrat, *_) = data.load_groups("opinions/democrat", "eval")
    assert democrat.people == "Democrats"
    shares = "defaultdict(<class 'list'>, {'Chile': [0.25, 0.75], 'Japan': [0.5, 0.5]})"
    row = {"question": "Is it?", "selections": shares, "options": "['Yes', 'No']", "source": "GAS"}
    file = write(tmp_path / "goqa.jsonl", row)
    asked = data.load_groups(f"{file}:Chile+Japan", "all")
    assert [group.people for group in asked] == ["Chile", "Japan"]


def test_runs_see_the_name_and_hold_out_the_prompts_that_they_would_hold_out_without(files):
    given = [f"datasets=[{files[0]},{files[1]}]", "eval_fraction=0.4", "n_eval_examples=null"]
    plain = prepared(*given, loss="gdpo")
    named = prepared(*given, "group_in_prompt=true", 'group_template="By {group}. "', loss="gdpo")
    for split in ("train", "eval"):
        pairs = list(zip(plain.trees[split], named.trees[split], strict=True))
        assert pairs
        for before, after in pairs:
            assert decode(after.prompt).endswith(decode(before.prompt))
            assert before.group == after.group
    shown = {decode(tree.prompt).split(".")[0] for tree in named.trees["train"]}
    assert shown == {"By Owls", "By Larks"}
    held = {decode(tree.prompt).partition(". ")[2] for tree in named.trees["eval"]}
    trained = {decode(tree.prompt).partition(". ")[2] for tree in named.trees["train"]}
    assert held and not held & trained


def test_one_question_of_two_groups_is_one_prompt_twice_but_where_names_stand_in_prompts(tmp_path):
    both = write(tmp_path / "both.jsonl", *rows_of("Owls"), *rows_of("Larks", shift=1))
    plain, named = (
        prepared(f"datasets=[{both}]", f"group_in_prompt={said}", "eval_fraction=0.4", loss="gdpo")
        for said in ("false", "true")
    )
    (plain_audit,), (named_audit,) = ([of["train"] for of in data.audit.values()] for data in (plain, named))
    assert plain_audit["duplicate_prompts"] == plain_audit["prompts"] / 2 > 0
    assert named_audit["prompts"] == plain_audit["prompts"]
    assert named_audit["duplicate_prompts"] == 0


@pytest.mark.parametrize(
    "overrides,words",
    [
        (["group_in_prompt=true", "icf_shots=2", "loss=sft"], "shots would be of other groups"),
        (["group_template=People"], "must hold {group}"),
    ],
)
def test_settings_of_a_run_that_make_no_sense_are_refused(files, overrides, words):
    with pytest.raises(UserError, match=words):
        prepared(f"datasets=[{files[0]}]", *overrides)


# --- the matrix ---------------------------------------------------------------------------------------------


def asked_of(files):
    """The prompts of all groups as evaluations have them."""
    naming = naming_of("{group}: ", [])
    return [naming.named(group) for file in files for group in data.load_groups(file, "all")]


def compared(groups, q, held_out=()):
    measured = [of_probabilities(group, np.asarray(of), CLASSES) for group, of in zip(groups, q)]
    return compare_groups(groups, {"m": measured}, {"m": q}, CLASSES, held_out)


def values(matrix):
    return np.array([[cell["value"] for cell in row] for row in matrix])


def test_a_model_that_is_each_group_under_its_name_is_steered_as_far_as_can_be(files):
    groups = asked_of(files)
    found = compared(groups, [list(group.belief_probs) for group in groups])
    of = found.checkpoints["m"]
    for key in ("js_distance", "wasserstein"):
        assert values(of.matrix[key]) == pytest.approx(values(found.between[key]))
        assert np.diag(values(of.matrix[key])) == pytest.approx(0, abs=1e-6)
        assert of.steering[key] == found.apart[key]
        off = values(of.matrix[key])[~np.eye(3, dtype=bool)]
        assert of.steering[key]["value"] == pytest.approx(off.mean())
    assert in_words(found).startswith("m: steering") and "100% of what separates" in in_words(found)


def test_a_model_of_one_average_has_rows_of_one_number_and_no_steering(files):
    groups = asked_of(files)
    found = compared(groups, [[0.3, 0.3, 0.2, 0.2, 0, 0]] * len(groups))
    of = found.checkpoints["m"]
    matrix = values(of.matrix["js_distance"])
    assert np.ptp(matrix, axis=1) == pytest.approx(0) and matrix.min() > 0
    assert of.steering["js_distance"]["value"] == pytest.approx(0)


def test_a_cell_is_the_mean_distance_over_the_prompts_that_both_were_asked(files, tmp_path):
    fewer = write(tmp_path / "fewer.jsonl", *rows_of("Larks", shift=1)[:3])
    groups = asked_of([files[0], fewer])
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(6), len(groups)).tolist()
    found = compared(groups, q, held_out=[fewer]).checkpoints["m"]
    own, other = groups[:3], groups[8:]
    assert [g.plain for g in own] == [g.plain for g in other]
    by_hand = np.mean([metrics.js_distance(g.belief_probs, q[8 + i]) for i, g in enumerate(own)])
    cell = found.matrix["js_distance"][0][1]
    assert cell["value"] == pytest.approx(by_hand) and cell["n"] == 3
    assert found.by_group["Owls"]["js_distance_probability"]["n"] == 8


def test_distributions_that_are_not_known_are_left_out_and_one_group_is_nothing_to_compare(files):
    groups = asked_of(files[:2])
    q = [list(group.belief_probs) for group in groups]
    measured = [of_probabilities(group, np.asarray(of), CLASSES) for group, of in zip(groups, q)]
    q[0] = None
    found = compare_groups(groups, {"m": measured}, {"m": q}, CLASSES, ())
    assert found.checkpoints["m"].matrix["js_distance"][0][0]["n"] == 7
    assert found.checkpoints["m"].steering["js_distance"]["n"] == 7
    assert compared(groups[:8], q[8:]) is None


def test_what_is_written_is_read_again_and_damage_is_a_users_error(files):
    groups = asked_of(files)
    found = compared(groups, [list(group.belief_probs) for group in groups], held_out=[files[2]])
    value = json.loads(json.dumps(as_json(found)))
    assert read_groups(Fields(value, "report.json", "again")) == found
    assert group_table(found).rows[2][1] == "Swifts (held out)"
    assert len(matrix_table(found, "js_distance", found.between["js_distance"]).rows) == 3
    assert [row[0] for row in steering_table(found).rows] == ["m", "(the groups themselves)"]
    for change in ({"names": ["a"]}, {"between": {"js_distance": [[1]]}}, {"checkpoints": {"m": {}}}):
        with pytest.raises(UserError, match="report.json"):
            read_groups(Fields({**value, **change}, "report.json", "again"))


# --- evaluations --------------------------------------------------------------------------------------------


def test_an_evaluation_tells_of_each_group_and_of_those_that_were_held_out(tmp_path, files, capsys):
    model = save_tiny(tmp_path / "tiny")
    run = run_of(
        tmp_path / "run", model, datasets=files[:2], group_in_prompt=True, group_template="{group}? "
    )
    out = tmp_path / "report"
    evaluation(
        f"ckpt=[{model},{run}]",
        "split=all",
        f"eval_groups=[{files[2]}]",
        "n_samples=0",
        f"output={out}",
    )
    found = json.loads((out / "report.json").read_text())
    people = found["groups"]
    assert people["names"] == list(NAMES) and people["held_out"] == ["Swifts"] and people["in_prompt"]
    assert set(people["checkpoints"]) == {"tiny", "run"}
    whole = found["checkpoints"]["run"]["js_distance_probability"]
    parts = [of["js_distance_probability"] for of in people["checkpoints"]["run"]["by_group"].values()]
    assert whole["n"] == sum(part["n"] for part in parts) == 24
    assert whole["value"] == pytest.approx(np.mean([part["value"] for part in parts]))
    matrix = people["checkpoints"]["run"]["matrix"]["js_distance"]
    assert [matrix[i][i]["value"] for i in range(3)] == pytest.approx([part["value"] for part in parts])
    shown = capsys.readouterr().out
    assert "Groups of people:" in shown and "held out of training" in shown
    text, page = (out / "report.md").read_text(), (out / "report.html").read_text()
    assert "## Groups of people" in text and "Swifts (held out)" in text and 'class="plain heat"' in page
    assert read_evaluation(out).groups.names == list(NAMES)
    shares = [json.loads(line) for line in (out / "distributions.jsonl").read_text().splitlines()]
    assert {of_prompt["prompt"].split("?")[0] for of_prompt in shares} == set(NAMES)
    assert len({of_prompt["id"] for of_prompt in shares}) == len(shares) == 24


@pytest.mark.parametrize(
    "overrides,words",
    [
        (["few_shot=2"], "shots would be of other groups"),
        (["ckpt=BASE", "datasets=[A,B]", "eval_groups=[B]"], "is among the datasets, too"),
        (["datasets=[A]", "eval_groups=[B]"], "run was trained on"),
        (
            ["task=prompts", "prompts=A", "eval_groups=[B]"],
            "is for prompts of data sets, and here task=prompts",
        ),
    ],
)
def test_an_evaluation_of_groups_that_makes_no_sense_is_refused(tmp_path, files, overrides, words):
    model = save_tiny(tmp_path / "tiny")
    run = run_of(tmp_path / "run", model, datasets=files[:2], group_in_prompt=True)
    places = {"BASE": model, "[A": f"[{files[0]}", "=A": f"={files[0]}", "B]": f"{files[1]}]"}
    given = list(overrides)
    for name, place in places.items():
        given = [override.replace(name, place) for override in given]
    with pytest.raises(UserError, match=words) as caught:
        evaluation(f"ckpt={run}", "split=all", "n_samples=0", f"output={tmp_path}/r", *given)
    assert "\n" not in str(caught.value)


def test_the_figure_has_a_square_a_checkpoint(files):
    from reporting.group_figure import groups_figure

    groups = asked_of(files)
    drawn = groups_figure(compared(groups, [list(group.belief_probs) for group in groups]))
    assert [axis.get_title(loc="left") for axis in drawn.axes] == ["m", "(the groups themselves)"]
