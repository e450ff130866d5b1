"""task=survey: microdata, tables of shares and GlobalOpinionQA to distributions that training reads."""

import json
import sys

import pandas
import pytest
from data_helpers import write, write_csv
from helpers import compose
from servers import in_turn, says, server

import preference_datasets as data
import synthesize
from utils import UserError

LONG = [
    {"q": "Is it good?", "a": answer, "party": party, "w": weight}
    for party, answer, weight in [("D", "Yes", "2"), ("D", "No", "1"), ("D", "Yes", "1"), ("R", "No", "1")]
]
GOQA = {
    "question": "Good?",
    "selections": "defaultdict(<class 'list'>, {'Chile': [0.25, 0.75], 'Peru': [0.5, 0.5], 'Mali': [0, 0]})",
    "options": "['Yes', 'No']",
}
COLUMNS = ("question=q", "answer=a", "group=party", "min_n=1")


def survey(folder, source, *overrides):
    """Make the distributions; returns the rows and the record."""
    sources = f"sources=[{source}]"
    synthesize.main(compose("task=survey", f"output={folder}", sources, *overrides, name="synthesize"))
    lines = (folder / "distributions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads((folder / "synthesis.json").read_text())


def refused(folder, source, *overrides):
    with pytest.raises(UserError) as caught:
        survey(folder, source, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- microdata ----------------------------------------------------------------------------------------------


def test_shares_are_weighted_and_n_counts_people(tmp_path):
    path = write_csv(tmp_path / "s.csv", LONG)
    (of_d, of_r), _ = survey(tmp_path / "out", path, *COLUMNS, "weight=w")
    assert (of_d["group"], of_d["n"], of_d["options"]) == ("D", 3, ["Yes", "No"])
    assert of_d["selections"] == [0.75, 0.25] and of_d["option_class"] == ["4", "2"]
    assert of_d["belief_probs"] == [0, 0, 0.25, 0, 0.75, 0]
    assert (of_r["group"], of_r["n"], of_r["selections"]) == ("R", 1, [0, 1])


def test_groups_below_min_n_are_left_out_and_said(tmp_path, capsys):
    path = write_csv(tmp_path / "s.csv", LONG)
    rows, record = survey(tmp_path / "out", path, *COLUMNS[:3], "min_n=2")
    assert [row["group"] for row in rows] == ["D"]
    assert record["rejects"] == {"Is it good?/R": "fewer answers than min_n=2: 1"}
    assert "left out: 1 (fewer answers than min_n=2)" in capsys.readouterr().out


def test_without_a_group_all_people_are_one(tmp_path):
    path = write_csv(tmp_path / "s.csv", LONG)
    (row,), _ = survey(tmp_path / "out", path, "question=q", "answer=a", "min_n=1")
    assert (row["group"], row["n"], row["selections"]) == ("everybody", 4, [0.5, 0.5])


CODED = {
    "trust": {"question": "Do you trust it?", "answers": {"1": "Yes", "2": "No", "9": "Don't know"}},
    "pay": "Is the pay good?",
}


def wide(path):
    """Five people, two questions, a missing answer and a code for none."""
    table = pandas.DataFrame(
        {
            "trust": [1.0, 2.0, 9.0, None, 1.0],
            "pay": ["Good", "Bad", "Good", "Good", None],
            "party": ["D", "D", "D", "R", "R"],
        }
    )
    kinds = {".csv": table.to_csv, ".parquet": table.to_parquet, ".dta": table.to_stata}
    kinds[path.suffix](path, **({"write_index": False} if path.suffix == ".dta" else {"index": False}))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".dta"])
def test_every_kind_of_file_gives_the_same_distributions(tmp_path, suffix):
    path = wide(tmp_path / f"s{suffix}")
    wordings = tmp_path / "w.json"
    wordings.write_text(json.dumps(CODED))
    rows, record = survey(
        tmp_path / "out", path, "questions=[trust,pay]", "group=party", f"wordings={wordings}", "min_n=1"
    )
    found = {
        (row["question_id"], row["group"]): (row["options"], row["selections"], row["n"]) for row in rows
    }
    third = round(1 / 3, 6)
    assert found == {
        ("trust", "D"): (["Yes", "No", "Don't know"], [third] * 3, 3),
        ("trust", "R"): (["Yes", "No", "Don't know"], [1, 0, 0], 1),
        ("pay", "D"): (["Good", "Bad"], [round(2 / 3, 6), third], 3),
        ("pay", "R"): (["Good", "Bad"], [1, 0], 1),
    }
    assert rows[0]["question"] == "Do you trust it?" and record["sources"][0]["rows"] == 5


def test_an_option_that_nobody_chose_counts_for_the_classes_of_the_others(tmp_path):
    answers = {str(point): str(point) for point in range(2, 7)}
    answers |= {"1": "1 - Not at all happy", "7": "7 - Very happy"}
    ordered = {code: answers[code] for code in sorted(answers)}
    wordings = tmp_path / "w.json"
    wordings.write_text(json.dumps({"mood": {"question": "How happy are you?", "answers": ordered}}))
    table = pandas.DataFrame({"mood": ["1", "3", "4", "4"]})
    table.to_csv(tmp_path / "s.csv", index=False)
    (row,), _ = survey(
        tmp_path / "out", tmp_path / "s.csv", "questions=[mood]", f"wordings={wordings}", "min_n=1"
    )
    assert row["options"] == ["1 - Not at all happy", "3", "4"]
    assert row["option_class"] == ["1", "2", "3"]


def test_answers_that_are_named_as_missing_count_nowhere(tmp_path):
    path = write_csv(tmp_path / "s.csv", [*LONG, {"q": "Is it good?", "a": "-1", "party": "D", "w": "1"}])
    with_it, _ = survey(tmp_path / "one", path, *COLUMNS, "missing=[-1]")
    without, _ = survey(tmp_path / "two", write_csv(tmp_path / "t.csv", LONG), *COLUMNS)
    assert with_it == without


def test_stata_labels_are_the_words_of_questions_and_answers(tmp_path):
    table = pandas.DataFrame({"trust": pandas.Categorical(["No", "Yes", "Yes"], ["Yes", "No"], ordered=True)})
    table.to_stata(tmp_path / "s.dta", write_index=False, variable_labels={"trust": "Do you trust it?"})
    (row,), _ = survey(tmp_path / "out", tmp_path / "s.dta", "questions=[trust]", "min_n=1")
    assert (row["question"], row["options"]) == ("Do you trust it?", ["Yes", "No"])


def test_spss_files_say_their_labels(tmp_path):
    pyreadstat = pytest.importorskip("pyreadstat")
    table = pandas.DataFrame({"trust": [2.0, 1.0, 1.0, None]})
    labels = {"trust": {1: "Yes", 2: "No"}}
    words = {"trust": "Do you trust it?"}
    pyreadstat.write_sav(table, str(tmp_path / "s.sav"), column_labels=words, variable_value_labels=labels)
    (row,), _ = survey(tmp_path / "out", tmp_path / "s.sav", "questions=[trust]", "min_n=1")
    assert (row["question"], row["options"]) == ("Do you trust it?", ["Yes", "No"])
    assert row["selections"] == [round(2 / 3, 6), round(1 / 3, 6)]


def test_without_pyreadstat_an_spss_file_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyreadstat", None)
    (tmp_path / "s.sav").write_bytes(b"$FL2")
    assert "pip install pyreadstat" in refused(tmp_path / "out", tmp_path / "s.sav", "questions=[trust]")


# --- published shares ---------------------------------------------------------------------------------------


def test_several_countries_of_globalopinionqa_or_all(tmp_path):
    path = write(tmp_path / "g.jsonl", GOQA)
    rows, record = survey(tmp_path / "all", path)
    assert [(row["group"], row["selections"]) for row in rows] == [
        ("Chile", [0.25, 0.75]),
        ("Peru", [0.5, 0.5]),
    ]
    assert record["rejects"] == {"00001/Mali": "no answers"}
    rows, _ = survey(tmp_path / "two", path, "country=[Peru,Chile]")
    assert {row["group"] for row in rows} == {"Chile", "Peru"} and rows[0]["n"] is None


def test_a_table_of_counts_says_its_n_and_a_table_of_shares_does_not(tmp_path):
    counts = [
        {"question": "Good?", "option": o, "group": "N", "count": c} for o, c in (("Yes", 30), ("No", 10))
    ]
    (row,), _ = survey(tmp_path / "one", write_csv(tmp_path / "c.csv", counts))
    assert (row["n"], row["selections"]) == (40, [0.75, 0.25])
    shares = [{"question": "Good?", "option": o, "share": s} for o, s in (("Yes", 0.75), ("No", 0.25))]
    (row,), _ = survey(tmp_path / "two", write_csv(tmp_path / "s.csv", shares))
    assert (row["n"], row["selections"], row["group"]) == (None, [0.75, 0.25], "everybody")


def shares_of(group, **more):
    """A question of a plain table in a group of people."""
    return [
        {"question": "Good?", "option": o, "group": group, "share": s, **more}
        for o, s in (("Yes", 0.75), ("No", 0.25))
    ]


def test_a_table_of_shares_may_say_how_many_were_asked(tmp_path):
    path = write_csv(tmp_path / "s.csv", [*shares_of("N", n=40), *shares_of("S", n=12)])
    (row,), record = survey(tmp_path / "one", path)
    assert (row["group"], row["n"]) == ("N", 40)
    assert record["rejects"] == {"00001/S": "fewer answers than min_n=30: 12"}


def test_one_question_of_a_table_has_one_id_in_all_groups(tmp_path):
    path = write_csv(tmp_path / "s.csv", [*shares_of("N"), *shares_of("S")])
    rows, _ = survey(tmp_path / "one", path)
    assert [(row["question_id"], row["id"]) for row in rows] == [("00001", "00001/N"), ("00001", "00001/S")]


def test_people_of_a_weighted_table_of_counts_count_as_one_each(tmp_path):
    counts = [
        {"question": "Good?", "option": o, "group": "N", "count": c, "weight": w}
        for o, c, w in (("Yes", 10, 1), ("No", 60, 2))
    ]
    (row,), _ = survey(tmp_path / "one", write_csv(tmp_path / "c.csv", counts))
    assert (row["n"], row["selections"]) == (70, [0.076923, 0.923077])


@pytest.mark.parametrize(
    "n,message",
    [
        (["a few", 40], "row 1: field n: a few is no number of people; correct the row"),
        ([4.5, 4.5], "row 1: field n: 4.5 is no number of people"),
        ([30, 10], "row 1: field n: is 10 and 30 for one question; give how many people answered it"),
    ],
)
def test_a_table_that_contradicts_itself_on_n_is_refused(tmp_path, n, message):
    rows = [{**row, "n": of_row} for row, of_row in zip(shares_of("N"), n)]
    assert message in refused(tmp_path / "out", write(tmp_path / "s.jsonl", *rows))


def test_a_question_and_a_group_that_read_as_another_pair_are_kept_apart(tmp_path):
    asked = [("How?", "Yes", "A/B"), ("How?", "No", "A/B"), ("How?/A", "Yes", "B"), ("How?/A", "No", "B")]
    path = write_csv(tmp_path / "s.csv", [dict(zip(("q", "a", "party"), row)) for row in asked])
    rows, _ = survey(tmp_path / "out", path, *COLUMNS)
    assert [row["id"] for row in rows] == ["How?/A/B", "How?/A/B (2)"]
    assert [row["group"] for row in rows] == ["A/B", "B"]


def test_training_reads_the_distributions_as_they_were_written(tmp_path):
    rows, _ = survey(tmp_path / "out", write(tmp_path / "g.jsonl", GOQA))
    groups = data.load_groups(str(tmp_path / "out" / "distributions.jsonl"), "all")
    assert [group.belief_probs for group in groups] == [tuple(row["belief_probs"]) for row in rows]
    assert groups[0].prompt == "<Q>Good?\n4: Yes\n2: No<A>" and groups[0].question == "Good?"


# --- options ------------------------------------------------------------------------------------------------

ODD = {
    "question": "Which?",
    "options": ["Purple", "Green", "Refused"],
    "selections": [0.5, 0.25, 0.25],
    "group": "N",
}
KNOWN = {"question": "Good?", "options": ["Yes", "No"], "selections": [0.5, 0.5], "group": "N"}


def test_options_that_could_not_be_mapped_are_listed_and_left_out(tmp_path):
    rows, record = survey(tmp_path / "out", write(tmp_path / "g.jsonl", ODD, KNOWN))
    assert [row["question"] for row in rows] == ["Good?"]
    assert record["rejects"] == {"00001/N": "option without a class: no class for 'Purple'"}
    assert record["counts"]["unmapped"] == {"Which? [Purple | Green | Refused]": "no class for 'Purple'"}


def test_the_users_map_comes_first_and_the_scales_know_the_rest(tmp_path):
    options = tmp_path / "map.json"
    options.write_text(json.dumps({"purple": 4, "Green": 2, "Yes": 5}))
    path = write(tmp_path / "g.jsonl", ODD, KNOWN)
    odd, known = survey(tmp_path / "out", path, f"options={options}")[0]
    assert odd["option_class"] == ["4", "2", "0"]
    assert known["option_class"] == ["5", "2"]


def test_a_model_is_asked_for_what_nobody_knows_and_only_once(tmp_path):
    path = write(tmp_path / "g.jsonl", ODD, {**ODD, "group": "S"}, KNOWN)
    with server(lambda asked: "[4, 2, 0]") as s:
        how = ("options_model=m", f"api.base_url={s.url}")
        rows, record = survey(tmp_path / "out", path, *how)
        assert s.count == 1 and "1. Purple" in s.asked[0].content
        again, _ = survey(tmp_path / "out", path, *how)
        assert s.count == 1 and again == rows
    assert [row["option_class"] for row in rows] == [["4", "2", "0"], ["4", "2", "0"], ["4", "2"]]
    assert record["models"] == [{"role": "maps options", "model": "m", "server": s.url}]
    assert record["tokens"] == {"prompt": 7, "completion": 3} and "{question}" in record["prompts"]["options"]


@pytest.mark.parametrize("reply", ["no idea", "[4, 2]", "[7, 2, 0]", "[4, 4, 4]", '{"a": 4}', "[[4], 2, 0]"])
def test_a_reply_that_is_no_class_for_each_option_is_no_answer(tmp_path, reply):
    path = write(tmp_path / "g.jsonl", ODD, KNOWN)
    with server(lambda asked: reply) as s:
        rows, record = survey(tmp_path / "out", path, "options_model=m", f"api.base_url={s.url}")
    assert len(rows) == 1 and list(record["rejects"]) == ["00001/N"]


def test_what_a_killed_command_was_told_is_not_asked_again(tmp_path):
    """The server refuses the key at the second question: the first reply is kept."""
    other = {**ODD, "question": "And which?"}
    path = write(tmp_path / "g.jsonl", ODD, other, KNOWN)
    refusal = says("")._replace(status=401, body=b'{"error": {"message": "bad key"}}')
    with server(in_turn(says("[4, 2, 0]"), refusal, then=lambda asked: "[2, 4, 0]")) as s:
        how = ("options_model=m", f"api.base_url={s.url}", "api.concurrency=1", "api.retries=0")
        assert "the key was refused" in refused(tmp_path / "out", path, *how)
        rows, _ = survey(tmp_path / "out", path, *how)
        assert [row["option_class"][0] for row in rows] == ["4", "2", "4"] and s.count == 3


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["questions=[nothing]"], "no column nothing; it has q, a, party, w"),
        (["question=q"], "config key answer"),
        (["question=q", "answer=a", "group=side"], "no column side"),
        (["questions=[q,q]"], "must be a list of different columns"),
        (["question=q", "answer=a", "weight=a"], "row 1: field a: Yes is no number"),
        (["questions=[a]"], "question a: has no words; give them in a JSON file, wordings="),
        (["questions=[a]", "wordings=/nowhere.json"], "wordings=/nowhere.json: cannot be read"),
        (["questions=[a]", "question=q", "answer=a"], "both are given"),
        (["question=q", "answer=a", "options=/nowhere.json"], "options=/nowhere.json: cannot be read"),
        (["question=q", "answer=a"], "or set min_n= or options=, and run again with overwrite=true"),
        ([], "where a file has a row for each person, name its columns"),
    ],
)
def test_bad_columns_are_named(tmp_path, overrides, message):
    path = write_csv(tmp_path / "s.csv", LONG)
    said = refused(tmp_path / "out", path, *overrides)
    assert message.replace("config key answer", "config keys question and answer") in said


def test_shares_that_do_not_sum_to_one_are_refused(tmp_path):
    rows = [{"question": "Good?", "option": o, "share": s} for o, s in (("Yes", 0.5), ("No", 0.1))]
    assert "field share: the question's shares sum to 0.6" in refused(
        tmp_path / "out", write_csv(tmp_path / "s.csv", rows)
    )


def test_an_unknown_country_is_refused_with_those_that_are_there(tmp_path):
    path = write(tmp_path / "g.jsonl", GOQA)
    assert "no group Atlantis; it has Chile, Peru" in refused(
        tmp_path / "out", path, "country=[Chile,Atlantis]"
    )


def test_another_map_in_the_same_folder_is_refused_unless_overwrite(tmp_path):
    path = write(tmp_path / "g.jsonl", ODD, KNOWN)
    survey(tmp_path / "out", path)
    options = tmp_path / "map.json"
    options.write_text(json.dumps({"Purple": 4, "Green": 2}))
    assert "holds items of options=" in refused(tmp_path / "out", path, f"options={options}")
    rows, _ = survey(tmp_path / "out", path, f"options={options}", "overwrite=true")
    assert len(rows) == 2


@pytest.mark.parametrize("task", ["mix", "split", "stats"])
def test_a_task_says_which_keys_it_needs(task):
    with pytest.raises(UserError, match="config key sources"):
        synthesize.main(compose(f"task={task}", name="synthesize"))
    with pytest.raises(UserError, match="config key output"):
        synthesize.main(compose(f"task={task}", "sources=[a.jsonl]", name="synthesize"))
