"""task=reviews: ratings and texts to reviews under beliefs, as the GDPO authors' movie reviews are read."""

import json

import pytest
from data_helpers import write, write_csv
from helpers import compose, json_lines, lines

import preference_datasets as data
import synthesize
from utils import UserError


def rated(item, rating, text, **more):
    return {"item": item, "rating": str(rating), "text": text, **more}


FILMS = [
    rated(
        f"Film {film}",
        1 + (film + person * person) % 5,
        f"Person {person} says of film {film} what {person} says.",
    )
    for film in range(6)
    for person in range(8)
]


def reviews(folder, rows, *overrides):
    """Make reviews of rows; returns those of all splits, and the record."""
    path = write_csv(folder.parent / "reviews.csv", rows)
    given = ("task=reviews", f"sources=[{path}]", f"output={folder}", "min_n=1")
    synthesize.main(compose(*given, *overrides, name="synthesize"))
    made = [row for file in sorted(folder.glob("reviews/*.jsonl")) for row in json_lines(file)]
    return made, json.loads((folder / "synthesis.json").read_text())


def test_p_is_the_distribution_of_all_ratings_and_a_belief_is_its_class_alone(tmp_path):
    rows = [
        rated("A", 5, "Fine."),
        rated("A", "5.0", ""),
        rated("A", 1, "Dull."),
        rated("A", 2, " "),
        rated("A", "", "x"),
    ]
    (row,), record = reviews(tmp_path / "out", rows)
    assert row["prompt"] == "<Q>Write a review of A.<A>"
    assert row["belief_probs"] == [0, 0.25, 0.25, 0, 0, 0.5]
    assert row["responses"] == [
        {"text": "Dull.", "reward": 2.5, "belief": {"class": "1", "text": ""}},
        {"text": "Fine.", "reward": 5, "belief": {"class": "5", "text": ""}},
    ]
    assert record["counts"]["rows_without_item_or_rating"] == 1
    assert record["counts"]["classed_by"] == "scale 1 to 5"


@pytest.mark.parametrize(
    "ratings,labels,how",
    [
        ([1, 2, 3, 4, 5], "12345", "scale 1 to 5"),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "1122334455", "scale 1 to 10"),
        ([0, 1.5, 2, 5, 10], "11235", "scale 0 to 10"),
        ([0, 19, 20, 50, 99, 100], "112355", "scale 0 to 100"),
    ],
)
def test_classes_are_equal_parts_of_the_scale_that_the_ratings_fit(tmp_path, ratings, labels, how):
    rows = [rated("A", rating, f"Text {place}") for place, rating in enumerate(ratings)]
    (row,), record = reviews(tmp_path / "out", rows)
    of_text = {r["text"]: r["belief"]["class"] for r in row["responses"]}
    assert "".join(of_text[f"Text {place}"] for place in range(len(ratings))) == labels
    assert record["counts"]["classed_by"] == how


def test_a_given_scale_and_a_map_of_ratings_decide(tmp_path):
    rows = [rated("A", 1, "one"), rated("A", 3, "three")]
    (row,), _ = reviews(tmp_path / "out", rows, "lowest_rating=1", "highest_rating=3")
    assert [r["belief"]["class"] for r in row["responses"]] == ["1", "5"]
    words = [rated("A", "thumbs up", "one"), rated("A", "thumbs down", "two"), rated("A", "no idea", "three")]
    path = write(tmp_path / "map.json", {"thumbs up": 4, "thumbs down": 2, "no idea": 0})
    (row,), _ = reviews(tmp_path / "map", words, f"options={path}")
    assert {r["text"]: r["belief"]["class"] for r in row["responses"]} == {
        "one": "4",
        "two": "2",
        "three": "0",
    }


def test_small_and_large_differ_in_texts_and_not_in_p(tmp_path):
    (small, _), (large, _) = reviews(tmp_path / "s", FILMS, "n_texts=3"), reviews(tmp_path / "l", FILMS)
    assert [len(row["responses"]) for row in small] == [3] * 6 and len(large[0]["responses"]) == 8
    assert [row["belief_probs"] for row in small] == [row["belief_probs"] for row in large]
    for row in small:
        assert len({r["belief"]["class"] for r in row["responses"]}) == 3


def test_items_with_few_ratings_or_texts_of_one_class_are_left_out_and_listed(tmp_path, capsys):
    rows = [*FILMS, rated("Few", 3, "a"), *(rated("One", 4, f"text {i}") for i in range(8))]
    made, record = reviews(tmp_path / "out", rows, "min_n=5")
    assert len(made) == 6
    assert record["rejects"] == {
        "Few": "fewer ratings than min_n=5: 1",
        "One": "texts of fewer than two classes",
    }
    assert "left out: 1 (texts of fewer than two classes)" in capsys.readouterr().out


def test_what_is_asked_names_columns(tmp_path):
    rows = [
        rated("7", 5, "Fine.", title="Heat", year="1995"),
        rated("7", 1, "Dull.", title="Heat", year="1995"),
    ]
    (row,), _ = reviews(tmp_path / "out", rows, "review_prompt='What of {title} ({year}, {item})?'")
    assert row["prompt"] == "<Q>What of Heat (1995, 7)?<A>"


def test_no_item_stands_on_two_sides(tmp_path):
    reviews(tmp_path / "out", FILMS, "eval_fraction=0.34", "test_fraction=0.17")
    folder = tmp_path / "out" / "reviews"
    sides = {
        split: {row["id"] for row in json_lines(folder / f"{split}.jsonl")}
        for split in ("train", "eval", "test")
    }
    assert [len(ids) for ids in sides.values()] == [3, 2, 1] and len(set.union(*sides.values())) == 6
    assert len(data.load_groups(str(folder), "train")) == 3


def test_the_authors_columns_are_read_as_their_movie_reviews_are(tmp_path):
    own, _ = reviews(tmp_path / "own", FILMS, "eval_fraction=0")
    theirs, _ = reviews(tmp_path / "theirs", FILMS, "eval_fraction=0", "columns=mmoqa")
    sides = {f"{side}_{what}" for side in ("accept", "reject") for what in ("response", "choice_id")}
    assert set(theirs[0]) == {"prompt", "probabilities", *sides}
    ours = data.load_groups(str(tmp_path / "own" / "reviews" / "train.jsonl"), "all")
    read = data.load_groups(str(tmp_path / "theirs" / "reviews" / "train.jsonl"), "all")
    for one, twin in zip(read, ours, strict=True):
        assert one.prompt == twin.prompt and one.belief_probs == pytest.approx(twin.belief_probs)
        texts = [[(g.responses[w].text, g.responses[o].text) for w, o in g.pairs] for g in (one, twin)]
        assert texts[0] == texts[1]
        assert all(response.belief.text == "" for response in one.responses)


def test_reviews_train(tmp_path, run):
    reviews(tmp_path / "made", FILMS, "eval_fraction=0.34")
    folder = run("loss=gdpo", f"datasets=[{tmp_path}/made/reviews]", "n_examples=16")
    assert [line["counters/examples"] for line in lines(folder) if "loss/train" in line] == [8, 16]


@pytest.mark.parametrize(
    "rows,overrides,message",
    [
        ([{"film": "A", "rating": "1"}], [], "row 1: has no column item, but film, rating; set item="),
        ([rated("A", "good", "x")], [], "row 1: field rating: good is no number; set lowest_rating"),
        ([rated("A", 200, "x")], [], "ratings go from 200 to 200, no usual scale"),
        ([rated("A", 7, "x")], ["lowest_rating=1", "highest_rating=5"], "7 is not of the scale 1 to 5"),
        ([rated("A", 1, "x")], ["lowest_rating=1"], "lowest_rating and highest_rating: one is given"),
        ([rated("A", 1, "")], [], "no row has item, rating and text"),
        ([rated("A", 1, "x")], [], "every item is left out .texts of fewer than two classes .1.."),
        ([rated("A", 1, "x")], ["review_prompt='{title}'"], "review_prompt names {title}, which is none of"),
        ([rated("A", 1, "x")], ["review_prompt='{'"], "config key review_prompt: "),
        ([rated("A", 1, "x")], ["review_prompt='{item:d}'"], "review_prompt: {item} has a format or"),
        ([rated("A", 1, "x")], ["review_prompt='{item!q}'"], "review_prompt: {item} has a format or"),
        ([rated("A", 1, "x")], ["review_prompt='{item.upper}'"], "names {item.upper}, which is none of"),
        ([rated("A", 1, "x")], ["review_prompt='{}'"], "names {}, which is none of"),
        (FILMS, ["n=9"], "n=9: 6 items have min_n=1 ratings or more"),
        (FILMS, ["belief_classes=[a,b]"], "lacks 1, and ratings are of classes 1 to 5"),
        (FILMS, ["eval_fraction=1"], "nothing is left to train on"),
    ],
)
def test_bad_input_is_one_line(tmp_path, rows, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        reviews(tmp_path / "out", rows, *overrides)
    assert "\n" not in str(caught.value)
