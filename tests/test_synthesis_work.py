"""The frame of synthesis: items are kept as they come, made once, and never lost to other settings."""

import json

import pytest

from synthesis.record import Item, Maker, Origin, Provenance, Tokens
from synthesis.work import ITEMS, MOST_LISTED, RECORD, open_work
from utils import UserError, locked

FACTS = {"seed": 0, "temperature": 0.8}
THREE = [Item(f"q{i}", {"text": f"Good {i}?"}) for i in range(3)]


def make(folder, items=THREE, facts=FACTS, overwrite=False, most=None):
    """Do what is missing, at most so many; write the data where all is there. Returns the keys made."""
    made = []
    with open_work(folder, "survey", facts, overwrite) as work:
        work.expect(items)
        for item in work.missing(items)[:most]:
            work.keep(item, {"of": item.key}, Tokens(7, 3))
            made.append(item.key)
        if not work.missing(items):
            rows = [{"id": item.key, **work.result(item).value} for item in items]
            work.finish({"train.jsonl": rows}, PROVENANCE)
    return made


PROVENANCE = Provenance(
    (Origin("a.csv", "00ff", 12),), (Maker("writes", "m", "http://here/v1"),), {"style": "Say {question}"}
)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_killed_command_goes_on_without_making_anything_again(tmp_path):
    assert make(tmp_path, most=2) == ["q0", "q1"]
    assert not (tmp_path / "train.jsonl").exists()
    assert make(tmp_path) == ["q2"]
    assert [row["id"] for row in lines(tmp_path / "train.jsonl")] == ["q0", "q1", "q2"]


def test_the_same_command_again_makes_nothing_and_writes_the_same(tmp_path):
    make(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert make(tmp_path) == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_more_items_are_made_beside_those_that_are_there(tmp_path):
    make(tmp_path)
    assert make(tmp_path, [*THREE, Item("q9")]) == ["q9"]


@pytest.mark.parametrize("kept", [0, 1, 25, -1])
def test_a_line_that_a_killed_command_left_unfinished_is_cut(tmp_path, kept):
    make(tmp_path, most=2)
    path = tmp_path / ITEMS
    *whole, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole) + last[:kept])
    assert make(tmp_path) == ["q1", "q2"]


def test_the_record_says_where_the_data_came_from(tmp_path):
    make(tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["settings"] == {"task": "survey", **FACTS}
    assert record["sources"] == [{"name": "a.csv", "identity": "00ff", "rows": 12}]
    assert record["models"] == [{"role": "writes", "model": "m", "server": "http://here/v1"}]
    assert record["prompts"] == {"style": "Say {question}"}
    assert record["counts"] == {"items": 3, "made": 3, "rejected": 0, "failed": 0}
    assert record["tokens"] == {"prompt": 21, "completion": 9}
    assert record["files"]["train.jsonl"]["rows"] == 3


def test_what_was_rejected_stays_so_and_what_failed_is_tried_again(tmp_path):
    with open_work(tmp_path, "survey", FACTS, False) as work:
        work.expect(THREE)
        work.keep(THREE[0], 1)
        work.reject(THREE[1], "no class: Maybe")
        work.fail(THREE[2], "no reply: status 500")
        work.finish({}, Provenance())
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["rejects"] == {"q1": "no class: Maybe", "q2": "no reply: status 500"}
    assert record["reasons"] == {"no class": 1, "no reply": 1}
    assert record["counts"] == {"items": 3, "made": 1, "rejected": 1, "failed": 1}
    with open_work(tmp_path, "survey", FACTS, False) as work:
        work.expect(THREE)
        assert work.missing(THREE) == [THREE[2]]


def test_a_reason_never_holds_a_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "Zx81-not-to-be-shown")
    with open_work(tmp_path, "survey", FACTS, False) as work:
        work.expect(THREE)
        work.reject(THREE[0], "refused: key Zx81-not-to-be-shown")
        work.fail(THREE[1], "refused: key Zx81-not-to-be-shown")
        work.finish({}, Provenance())
    assert not any("Zx81" in path.read_text() for path in tmp_path.iterdir())


def test_a_command_that_failed_before_its_first_item_does_not_claim_the_folder(tmp_path):
    make(tmp_path, most=0)
    assert make(tmp_path, facts={**FACTS, "seed": 1}) == ["q0", "q1", "q2"]
    assert not list(tmp_path.glob("items.replaced-*"))


def test_a_finished_work_without_items_claims_its_folder(tmp_path):
    make(tmp_path, items=[])
    with pytest.raises(UserError, match="holds items of seed=0, and it is 1 now"):
        make(tmp_path, items=[], facts={**FACTS, "seed": 1})


def test_the_record_says_how_many_rejects_it_does_not_list(tmp_path):
    many = [Item(f"q{i}") for i in range(MOST_LISTED + 2)]
    with open_work(tmp_path, "survey", FACTS, False) as work:
        work.expect(many)
        for item in many:
            work.reject(item, "no class")
        work.finish({}, Provenance())
    record = json.loads((tmp_path / RECORD).read_text())
    assert (len(record["rejects"]), record["rejects_not_listed"]) == (MOST_LISTED, 2)


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "items,facts,message",
    [
        (THREE, {**FACTS, "seed": 1}, "holds items of seed=0, and it is 1 now; set output="),
        (THREE, {"seed": 0}, "holds items of temperature=0.8, and it is null now"),
        ([Item("q1", {"text": "Bad?"})], FACTS, "item q1 was made from other inputs"),
    ],
)
def test_what_other_settings_made_is_refused_or_set_aside(tmp_path, items, facts, message):
    make(tmp_path, most=2)
    there = (tmp_path / ITEMS).read_bytes()
    with pytest.raises(UserError, match=message):
        make(tmp_path, items, facts)
    assert (tmp_path / ITEMS).read_bytes() == there
    assert make(tmp_path, items, facts, overwrite=True) == [item.key for item in items]
    assert (tmp_path / "items.replaced-1.jsonl").read_bytes() == there


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="notes.txt is there, and no items.jsonl"):
        make(tmp_path)
    assert make(tmp_path, overwrite=True) and (tmp_path / "notes.txt").read_text() == "mine"


def finish(folder, *names, overwrite=False):
    """Write the same three rows under other names."""
    with open_work(folder, "survey", FACTS, overwrite) as work:
        work.expect(THREE)
        for item in work.missing(THREE):
            work.keep(item, {})
        work.finish({name: [{"id": name}] for name in names}, PROVENANCE)


def test_files_of_an_earlier_command_go_where_the_next_one_writes_none(tmp_path):
    finish(tmp_path, "a/train.jsonl", "a/eval.jsonl", "b/train.jsonl")
    (tmp_path / "mine.jsonl").write_text("by hand")
    finish(tmp_path, "a/train.jsonl")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jsonl")) == [
        "a/train.jsonl",
        ITEMS,
        "mine.jsonl",
    ]


def test_a_file_that_nothing_writes_any_more_and_somebody_changed_is_not_lost(tmp_path):
    finish(tmp_path, "train.jsonl", "eval.jsonl")
    (tmp_path / "eval.jsonl").write_text("by hand")
    with pytest.raises(UserError, match="eval.jsonl: was changed since it was written"):
        finish(tmp_path, "train.jsonl")
    assert (tmp_path / "eval.jsonl").read_text() == "by hand"
    finish(tmp_path, "train.jsonl", overwrite=True)
    assert not (tmp_path / "eval.jsonl").exists()


def test_a_record_that_names_files_elsewhere_takes_none_away(tmp_path):
    (tmp_path / "mine.jsonl").write_text("by hand")
    finish(tmp_path / "out", "train.jsonl")
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    record["files"]["../mine.jsonl"] = {}
    (tmp_path / "out" / RECORD).write_text(json.dumps(record))
    finish(tmp_path / "out", "train.jsonl", overwrite=True)
    assert (tmp_path / "mine.jsonl").exists()


def test_a_damaged_file_of_items_is_set_aside_on_request(tmp_path):
    make(tmp_path, most=2)
    (tmp_path / ITEMS).write_text("{\n")
    assert make(tmp_path, overwrite=True) == ["q0", "q1", "q2"]
    assert (tmp_path / "items.replaced-1.jsonl").read_text() == "{\n"


def test_a_data_file_that_somebody_changed_is_not_lost(tmp_path):
    make(tmp_path)
    (tmp_path / "train.jsonl").write_text("by hand\n")
    with pytest.raises(UserError, match="train.jsonl: was changed since it was written"):
        make(tmp_path)
    assert (tmp_path / "train.jsonl").read_text() == "by hand\n"
    make(tmp_path, overwrite=True)
    assert len(lines(tmp_path / "train.jsonl")) == 3


@pytest.mark.parametrize(
    "line", ["{", "[]", "7", '{"item": "q1"}', '{"item": 1, "made_by": "", "rejected": ""}']
)
def test_a_damaged_line_is_named(tmp_path, line):
    make(tmp_path, most=1)
    with (tmp_path / ITEMS).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match="items.jsonl, line 3: is no item as this version writes them"):
        make(tmp_path)


def test_a_folder_at_which_another_process_works_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match="another process works there"):
        make(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="config key output="):
        make(tmp_path / "file" / "below")
