"""Which option a response states: spellings, classes, the user's map of options."""

import json
from pathlib import Path

import numpy as np
import pytest
from data_helpers import write

import groups as data
import metrics
import preference_datasets
from evaluation import belief_metrics, options, samples
from evaluation.judges import EmbeddingJudge
from groups import CLASSES, Belief, Group, Response
from utils import UserError


def group_of(*given, offered=(), probs=(0.1, 0, 0.3, 0, 0.6, 0)):
    """A group of (class label, words, answer)."""
    responses = tuple(Response(answer, None, Belief(label, words)) for label, words, answer in given)
    return Group("q", "<Q>How?<A>", responses, belief_probs=probs, question="q", options=tuple(offered))


def stated(group, text, option_map=None):
    words = (*options.classes_of_options(group), *(option_map or {}))
    parsed = metrics.parse_response(text, CLASSES, words)
    option = options.stated_option(parsed, group, option_map or {})
    return option, options.class_consistent(parsed, group, option_map or {})


@pytest.mark.parametrize(
    "words",
    [
        "Too little",
        "TOO LITTLE",
        "  too   little ",
        '"Too little"',
        "'too little'",
        "“Too little”",
        "‘Too little.’",
        "`too little`",
        "``Too little''",
        "«Too little»",
        "Too little.",
        "Too little...",
        "Ｔｏｏ　ｌｉｔｔｌｅ",  # full width
        "“Too little”.",
    ],
)
def test_spellings_of_an_option_are_that_option(words):
    assert metrics.option_key(words) == "too little"
    group = group_of(("4", "Too little", "aaa"), ("2", "Too much", "zzz"))
    assert stated(group, f"4<{words}>aaa") == (Belief("4", "too little"), True)
    assert metrics.class_belief_consistent(metrics.Parsed("4", words, ""), {"Too little": "4"}) is True
    turned = group_of(("4", words, "aaa"), ("2", "Too much", "zzz"))  # the data's own spelling
    assert stated(turned, "2<too little>aaa") == (Belief("4", "too little"), False)


@pytest.mark.parametrize("words", ["Too", "Too little money", "Toolittle", "", "...", "''"])
def test_other_words_are_no_option(words):
    group = group_of(("4", "Too little", "aaa"), ("2", "Too much", "zzz"))
    assert stated(group, f"4<{words}>aaa") == (None, None)


def test_apostrophes_inside_words_are_one_whatever_their_kind():
    group = group_of(("0", "Don’t know", ""), ("4", "It's fine", "aaa"))
    assert stated(group, "0<don't know>x")[0] == Belief("0", "don't know")
    assert stated(group, "4<IT‘S FINE>x")[1] is True


def test_two_options_of_one_class_are_two_and_keep_all_their_references():
    group = group_of(
        ("2", "Poor", "zzz"),
        ("2", "Bad", "xxx"),
        ("2", "poor.", "yyy"),
        ("4", "Good", "aaa"),
        ("2", "Poor", "zzz"),
    )
    references = options.references_of(group)
    assert references[Belief("2", "poor")] == ["zzz", "yyy", "zzz"]
    assert references[Belief("2", "bad")] == ["xxx"]
    assert stated(group, "2<'Poor'>x")[0] != stated(group, "2<Bad>x")[0]


def test_options_of_two_classes_that_differ_in_case_go_by_their_spelling_then_by_the_label():
    group = group_of(("4", "us", "aaa"), ("2", "US", "zzz"))
    assert stated(group, "2<us>x") == (Belief("4", "us"), False)
    assert stated(group, "2<US>x") == (Belief("2", "us"), True)
    assert stated(group, "2<Us>x") == (Belief("2", "us"), True)
    assert stated(group, "1<Us>x") == (None, False)  # neither of the two


@pytest.mark.parametrize(
    "text,belief,answer",
    [
        ("4<More (>5)>x > y", "More (>5)", "x > y"),
        ("4< “more (>5)” >x", "“more (>5)”", "x"),
        ("4<more   (>5).>x>", "more   (>5).", "x>"),
        ("4<More>x", "More", "x"),
        ("4<Other (>6)>x", "Other (>6)", "x"),
    ],
)
def test_words_that_hold_brackets_are_found_in_any_spelling(text, belief, answer):
    known = ("More (>5)", "Other (>6)", "More")
    assert metrics.parse_response(text, CLASSES, known) == metrics.Parsed("4", belief, answer)


# --- the user's map -----------------------------------------------------------------------------------------


def test_the_map_knows_options_that_the_data_does_not_name():
    group = group_of(("5", "", "aaa"), ("1", "", "zzz"))
    option_map = {"A fine film": "5", "A poor film": "1", "So so": "3"}
    assert stated(group, "5<a fine film.>aaa", option_map) == (Belief("5", ""), True)
    assert stated(group, "1<A fine film>aaa", option_map) == (Belief("5", ""), False)
    assert stated(group, "3<So so>aaa", option_map) == (Belief("3", "so so"), True)
    assert stated(group, "5<Else>aaa", option_map) == (None, None)
    assert stated(group, "5aaa", option_map) == (Belief("5", ""), None)


def test_the_prompts_own_options_come_before_the_map():
    group = group_of(("4", "Good", "aaa"), ("2", "Poor", "zzz"))
    assert stated(group, "4<good>aaa", {"Good": "1", "Fine": "4"}) == (Belief("4", "good"), True)
    assert stated(group, "4<fine>aaa", {"Good": "1", "Fine": "4"}) == (Belief("4", "fine"), True)


def test_a_map_is_read_with_labels_as_the_classes_write_them(tmp_path):
    path = tmp_path / "map.json"
    path.write_text('{"Good": 4, "Poor": "2", "Fine": 4.0}')
    assert data.read_option_map(str(path), CLASSES) == {"Good": "4", "Poor": "2", "Fine": "4"}


@pytest.mark.parametrize(
    "text,message",
    [
        (None, "cannot be read .No such file"),
        ("{", "cannot be read"),
        ("[1]", "no JSON object"),
        ("{}", "no JSON object"),
        ('{"Good": 9}', "Good: 9 is none of 0, 1, 2"),
        ('{"Good": ["4"]}', "is none of 0"),
        ('{"Good": null}', "Good: None is none of"),
        ('{" ": 4}', "has no words"),
        ('{"Good": 4, "Good": 2}', "Good has two classes"),
    ],
)
def test_a_map_that_is_none_is_one_line(tmp_path, text, message):
    path = tmp_path / "map.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"option_map={path}: .*{message}") as caught:
        data.read_option_map(str(path), CLASSES)
    assert "\n" not in str(caught.value)


# --- files of the hub's forms -------------------------------------------------------------------------------

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
beside_the_project = pytest.mark.skipif(
    not (SHARED / "lookalike").is_dir(),
    reason="files with the fields of the hub data sets lie beside the project",
)


@beside_the_project
@pytest.mark.parametrize("name", ["goqa/united_states.jsonl", "lookalike/llm_global_opinions.csv:Germany"])
def test_surveys_have_no_bpc_and_no_vote_for_what_cannot_be_read(name):
    surveys = preference_datasets.load_groups(str(SHARED / name), "all")
    for group in surveys:
        first = group.options[0]
        judge = EmbeddingJudge.__new__(EmbeddingJudge)  # it must embed nothing
        texts = ["Well", "", "12", f"{first.label}<{first.text.upper()}.>So."]
        judged = samples.judge_samples(group, texts, CLASSES, judge)
        shares, counted = samples.shares_of(group, judged, CLASSES)
        assert (counted, shares[CLASSES.index(first.label)]) == (1, 1)
        measured = belief_metrics.of_samples(group, judged, CLASSES)
        assert (measured.bpc, measured.rs, measured.cbc) == (None, None, 0.25)
        nothing = samples.judge_samples(group, ["Well"], CLASSES, judge)
        assert belief_metrics.of_samples(group, nothing, CLASSES).js_distance_sampling is None
    assert len(surveys) > 300


@beside_the_project
def test_options_that_no_pair_states_are_known():
    path = SHARED / "lookalike" / "mmoqa.jsonl"
    listed = {f"<Q>{row['prompt']}<A>": row["options"] for row in map(json.loads, path.open())}
    read = preference_datasets.load_groups(str(path), "all")
    for group in read:
        for words in listed[group.prompt]:
            option, consistent = stated(group, f"3<{words.upper()}>x")
            assert option is not None and consistent == (option.label == "3")
    assert len(read) == len(listed)


# --- scales -------------------------------------------------------------------------------------------------


def test_the_wasserstein_distance_is_the_mass_times_the_way_over_the_span():
    five = (1, 2, 3, 4, 5)
    assert metrics.wasserstein_distance([1, 0, 0, 0, 0], [0, 0, 0, 0, 1], five) == 1
    assert metrics.wasserstein_distance([1, 0, 0, 0, 0], [0, 1, 0, 0, 0], five) == 0.25
    assert metrics.wasserstein_distance([2, 0, 0, 0, 2], [0, 0, 1, 0, 0], five) == 0.5
    p, q = np.random.default_rng(0).dirichlet(np.ones(5), 2)
    by_hand = sum(abs(p[: k + 1].sum() - q[: k + 1].sum()) for k in range(4)) / 4
    assert metrics.wasserstein_distance(p, q, five) == pytest.approx(by_hand)
    shuffled = [3, 0, 4, 1, 2]
    places = [five[k] for k in shuffled]
    assert metrics.wasserstein_distance(p[shuffled], q[shuffled], places) == pytest.approx(by_hand)
    uneven = metrics.wasserstein_distance([1, 0, 0], [0, 1, 0], (0, 3, 4))
    assert uneven == 0.75


def test_what_is_no_point_of_the_scale_is_left_out_and_the_rest_normalised():
    places = (None, 1, 2, 3)
    assert metrics.wasserstein_distance([0.5, 0.5, 0, 0], [0, 0, 1, 0], places) == 0.5
    assert np.isnan(metrics.wasserstein_distance([1, 0, 0, 0], [0, 0, 1, 0], places))
    assert np.isnan(metrics.wasserstein_distance([0, 1], [1, 0], (None, 1)))
    floor = metrics.expected_wasserstein([0.5, 0.25, 0.25, 0], [0.5, 0.25, 0.25, 0], places, 4)
    assert 0 < floor < 0.5


def test_numbered_options_of_a_survey_are_a_scale_without_those_that_voice_no_opinion():
    words = ("Very good", "Fair", "None of the time", "DK/Refused")
    offered = [Belief(str(k), text) for k, text in enumerate(words)]
    survey = group_of(*((b.label, b.text, "") for b in offered), offered=offered)
    assert options.positions_of(survey, CLASSES) == [0, 1, 2, None, None, None]
    labels = ("5", "4", "1", "0")  # stated by the row
    offered = [Belief(label, text) for label, text in zip(labels, words)]
    stated_classes = group_of(*((b.label, b.text, "") for b in offered), offered=offered)
    assert options.positions_of(stated_classes, CLASSES) == [None, 1, 2, 3, 4, 5]


def test_classes_that_are_no_numbers_are_no_scale():
    with_answers = group_of(("A", "Good", "aaa"), ("B", "Poor", "zzz"), probs=(0.5, 0.5))
    assert options.positions_of(with_answers, ("A", "B")) is None
    of_guess = belief_metrics.of_guess(with_answers, np.array([1.0, 0.0]), ("A", "B"), 4)
    assert of_guess.wasserstein_probability is None
    assert of_guess.js_distance_probability > 0
    mmoqa = group_of(("4", "Good", "aaa"), ("2", "Poor", "zzz"))
    assert options.positions_of(mmoqa, CLASSES) == [None, 1, 2, 3, 4, 5]


def test_a_survey_of_option_classes_reads_them(tmp_path):
    row = {"question": "Good?", "group": "Chile", "options": ["Yes", "No", "DK/Refused"]}
    rows = [{**row, "option_class": [5, 1, 0], "selections": [0.5, 0.3, 0.2], "id": "a"}]
    path = write(tmp_path / "survey.jsonl", *rows)
    (group,) = preference_datasets.load_groups(path, "all")
    assert options.positions_of(group, CLASSES) == [None, 1, 2, 3, 4, 5]
    assert options.unparsable_class(group, CLASSES) is None
