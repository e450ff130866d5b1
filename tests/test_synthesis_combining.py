"""task=mix, split and stats: nothing twice, nothing on two sides, nothing changed."""

import json
from collections import Counter

import pytest
from data_helpers import GOOD, write
from helpers import compose
from hypothesis import given, settings
from hypothesis import strategies as st

import preference_datasets as data
import synthesize
from synthesis.duplicates import near_pairs, shingles_of, similarity
from utils import UserError

PAIR = {"prompt": "Name a fruit.", "chosen": "An apple.", "rejected": "A stone."}


def row(number, prompt=None, **more):
    """A row of our own format that is like no other."""
    prompt = prompt or f"What is fact {number} of thing {number} in place {number}?"
    return {**GOOD, "id": f"r{number}", "prompt": prompt, **more}


def do(task, folder, *overrides):
    """Do a task; returns the rows of its files by name, and its record."""
    synthesize.main(compose(f"task={task}", f"output={folder}", *overrides, name="synthesize"))
    files = {}
    for path in folder.glob("*.jsonl"):
        if not path.name.startswith("items"):
            files[path.stem] = [json.loads(line) for line in path.read_text().splitlines()]
    return files, json.loads((folder / "synthesis.json").read_text())


def refused(task, folder, *overrides):
    with pytest.raises(UserError) as caught:
        do(task, folder, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- mix ----------------------------------------------------------------------------------------------------


def test_rows_of_one_format_are_mixed_as_they_stand(tmp_path):
    one = write(tmp_path / "one.jsonl", {**PAIR, "note": "kept"}, {**PAIR, "prompt": "Name a bird."})
    two = write(tmp_path / "two.jsonl", {**PAIR, "prompt": "Name a fish."})
    files, record = do("mix", tmp_path / "out", f"sources=[{one},{two}]")
    prompts = sorted(r["prompt"] for r in files["train"])
    assert prompts == ["Name a bird.", "Name a fish.", "Name a fruit."]
    assert [r["note"] for r in files["train"] if "note" in r] == ["kept"]
    assert record["counts"]["by_source"] == {one: 2, two: 1}


def test_rows_of_several_formats_are_mixed_in_our_own(tmp_path):
    one, two = write(tmp_path / "one.jsonl", PAIR), write(tmp_path / "two.jsonl", row(1))
    do("mix", tmp_path / "out", f"sources=[{one},{two}]")
    mixed = data.load_groups(str(tmp_path / "out" / "train.jsonl"), "all")
    before = [*data.load_groups(one, "all"), *data.load_groups(two, "all")]
    content = [(g.prompt, g.responses, g.pairs, g.belief_probs) for g in before]
    assert sorted(content) == sorted((g.prompt, g.responses, g.pairs, g.belief_probs) for g in mixed)


def test_weights_are_the_parts_of_the_rows_and_the_seed_draws_them(tmp_path):
    one = write(tmp_path / "one.jsonl", *[row(n) for n in range(40)])
    two = write(tmp_path / "two.jsonl", *[row(n) for n in range(40, 60)])
    sources = f"sources=[{{name: {one}, weight: 3}},{{name: {two}, weight: 1}}]"
    _, record = do("mix", tmp_path / "out", sources)
    assert record["counts"]["by_source"] == {one: 40, two: 13}
    first, _ = do("mix", tmp_path / "a", sources, "n=20")
    again, _ = do("mix", tmp_path / "b", sources, "n=20")
    other, _ = do("mix", tmp_path / "c", sources, "n=20", "seed=1")
    assert first == again != other
    assert Counter(int(r["id"][1:]) < 40 for r in first["train"]) == {True: 15, False: 5}


def test_duplicates_are_exact_or_near_or_kept(tmp_path):
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    texts = [words, words, f"{words} fifteen", "something else that stands here alone for once"]
    path = write(tmp_path / "d.jsonl", *[{**PAIR, "prompt": text} for text in texts])
    counts = {}
    for how in ("keep", "exact", "near"):
        files, record = do("mix", tmp_path / how, f"sources=[{path}]", f"duplicates={how}", "near=0.7")
        counts[how] = len(files["train"])
    assert counts == {"keep": 4, "exact": 3, "near": 2}
    assert record["counts"]["exact_duplicates"] == record["counts"]["near_duplicates"] == 1


def test_one_question_of_two_groups_of_people_is_no_near_duplicate(tmp_path):
    one, other = row(1), {**row(1), "belief_probs": [0, 0, 0.5, 0, 0.5, 0]}
    path = write(tmp_path / "d.jsonl", one, other)
    files, _ = do("mix", tmp_path / "out", f"sources=[{path}]", "duplicates=near")
    assert len(files["train"]) == 2


# --- near duplicates ----------------------------------------------------------------------------------------


def test_similarity_is_that_of_word_triples():
    one, other = shingles_of("A b, c d!"), shingles_of("a B c e")
    assert similarity(one, other) == 1 / 3  # abc of abc, bcd, bce


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text("ab cd", min_size=0, max_size=24), max_size=12), st.sampled_from([0.3, 0.5, 0.8, 1.0])
)
def test_near_pairs_join_the_same_texts_as_comparing_all_with_all(texts, threshold):
    """Texts with equal triples stand once, by the first of them."""
    sets = [shingles_of(text) for text in texts]
    firsts = [sets.index(each) for each in sets]
    expected = {(first, n) for n, first in enumerate(firsts) if first != n}
    for one in sorted(set(firsts)):
        for other in sorted(set(firsts)):
            if one < other and similarity(sets[one], sets[other]) >= threshold:
                expected.add((one, other))
    assert set(near_pairs(texts, threshold)) == expected


# --- split --------------------------------------------------------------------------------------------------


def test_no_question_or_prompt_stands_on_two_sides(tmp_path):
    rows = [row(n, question=f"q{n // 4}") for n in range(40)]
    rows.append(row(99, prompt=rows[0]["prompt"], question="q-new"))
    path = write(tmp_path / "s.jsonl", *rows)
    files, record = do(
        "split", tmp_path / "out", f"sources=[{path}]", "eval_fraction=0.2", "test_fraction=0.1"
    )
    sides = ("train", "eval", "test")
    assert sum(len(files[side]) for side in sides) == 41
    assert [len({r["question"] for r in files[side]} - {"q-new"}) for side in sides] == [7, 2, 1]
    for key in ("question", "prompt"):
        seen = Counter(value for side in sides for value in {r[key] for r in files[side]})
        assert set(seen.values()) == {1}
    assert record["counts"]["eval"] == len(files["eval"])


def test_by_prompt_questions_may_stand_on_both_sides(tmp_path):
    path = write(tmp_path / "s.jsonl", *[row(n, question="the same") for n in range(10)])
    files, _ = do("split", tmp_path / "out", f"sources=[{path}]", "by=prompt", "eval_fraction=0.3")
    assert (len(files["train"]), len(files["eval"])) == (7, 3)
    assert "too few" in refused("split", tmp_path / "other", f"sources=[{path}]", "eval_fraction=0.3")


def test_prompts_that_are_nearly_the_same_stay_on_one_side(tmp_path):
    words = " ".join(f"word{n}" for n in range(30))
    rows = [row(n, prompt=f"{words} {n}") for n in range(5)] + [row(n) for n in range(5, 10)]
    files, _ = do(
        "split", tmp_path / "out", f"sources=[{write(tmp_path / 's.jsonl', *rows)}]", "eval_fraction=0.5"
    )
    near = [sum(r["prompt"].startswith(words) for r in files[side]) for side in ("train", "eval")]
    assert sorted(near) == [0, 5]


# --- stats --------------------------------------------------------------------------------------------------


def test_stats_count_what_is_there(tmp_path, capsys):
    path = write(tmp_path / "s.jsonl", row(1), row(1), row(2, question="q"))
    files, _ = do("stats", tmp_path / "out", f"sources=[{path}]")
    (found,) = files["stats"]
    assert (found["prompts"], found["different_prompts"], found["questions"]) == (3, 2, 2)
    assert (found["responses"], found["exact_duplicates"]) == (6, 1)
    assert found["response_words"] == {"min": 1, "median": 1, "mean": 1, "max": 1}
    assert found["belief_classes"] == {"2": 0.5, "4": 0.5} and found["mean_p_star"]["4"] == 0.6
    assert found["rewards"]["mean"] == 4.75
    table = capsys.readouterr().out
    assert "exact_duplicates" in table and "mean_p_star 4" in table


def test_embedded_data_can_be_described_and_mixed(tmp_path):
    sources = "sources=[{name: opinions/republican, split: eval}]"
    files, _ = do("stats", tmp_path / "stats", sources)
    assert files["stats"][0]["prompts"] == 39
    do("mix", tmp_path / "mix", sources)
    groups = data.load_groups(str(tmp_path / "mix" / "train.jsonl"), "all")
    assert len(groups) == 39 and all(group.belief_probs for group in groups)


def test_a_smaller_n_may_follow_in_the_same_folder(tmp_path):
    sources = f"sources=[{write(tmp_path / 's.jsonl', *[row(n) for n in range(7)])}]"
    assert "give a smaller n" in refused("mix", tmp_path / "out", sources, "n=400")
    files, _ = do("mix", tmp_path / "out", sources, "n=5")
    assert len(files["train"]) == 5
    assert "holds items of n=5, and it is 4 now" in refused("mix", tmp_path / "out", sources, "n=4")


@pytest.mark.parametrize("task", ["stats", "mix"])
def test_what_was_read_is_not_left_out(tmp_path, task):
    said = "\n\nHuman: Name fruit {}.\n\nAssistant: {}"
    pairs = [{"chosen": said.format(n, "Fig."), "rejected": said.format(n, "No.")} for n in range(7)]
    path = write(tmp_path / "hh.jsonl", *pairs)
    files, record = do(task, tmp_path / "out", f"sources=[{path}]")
    if task == "stats":
        assert files["stats"][0]["left_out"] == 0
    else:
        assert record["counts"]["left_out_by_reader"] == {}


def test_without_a_name_all_splits_are_taken(tmp_path):
    (tmp_path / "d").mkdir()
    for number, split in enumerate(("train", "eval", "test_questions")):
        write(tmp_path / "d" / f"{split}.jsonl", row(number))
    sources = f"sources=[{tmp_path / 'd'},opinions/democrat,instructions]"
    files, _ = do("stats", tmp_path / "stats", sources)
    assert [found["prompts"] for found in files["stats"]] == [3, 245, 381]
    files, _ = do("mix", tmp_path / "mix", f"sources=[{{name: {tmp_path / 'd'}, split: eval}}]")
    assert [found["id"] for found in files["train"]] == ["r1"]


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task,overrides,message",
    [
        ("mix", ["sources=[{path},{path}]"], "is named twice"),
        ("mix", ["sources=[{path}]", "n=9"], "has 3 rows, and 9 are asked for"),
        ("mix", ["sources=[{{name: {path}, n: 9}}]"], "has 3 rows, and 9 are asked for"),
        ("mix", ["sources=[{{name: {path}, weight: 2}},{other}]"], "has no weight, and others have"),
        ("mix", ["sources=[/nowhere.jsonl]"], "no such file"),
        (
            "split",
            ["sources=[{path}]", "eval_fraction=0.5", "test_fraction=0.5"],
            "nothing is left",
        ),
        ("stats", ["sources=[{other}]"], "row 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, task, overrides, message):
    path = write(tmp_path / "s.jsonl", *[row(n) for n in range(3)])
    other = write(tmp_path / "o.jsonl", {"prompt": "p", "responses": 7})
    if "weight" in message:
        other = write(tmp_path / "o.jsonl", row(7))
    given = [override.format(path=path, other=other) for override in overrides]
    assert message in refused(task, tmp_path / "out", *given)
