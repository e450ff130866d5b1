"""Sampled responses: which option each states, and what the judge and the shares make of it."""

import string

import numpy as np
import pytest

import metrics
from evaluation import belief_metrics, samples, shown
from evaluation.judges import EmbeddingJudge
from groups import CLASSES, Belief, Group, Response


class Letters:
    """An encoder of texts as unit vectors: how often each letter stands there."""

    def encode(self, texts, **_options):
        counts = np.array(
            [[text.count(letter) for letter in string.ascii_lowercase] for text in texts], float
        )
        return (counts + 1e-9) / np.linalg.norm(counts + 1e-9, axis=1, keepdims=True)


@pytest.fixture
def judge():
    made = EmbeddingJudge.__new__(EmbeddingJudge)
    made.encoder, made.known = Letters(), {}
    return made


def group_of(*responses, probs=(0.1, 0, 0.3, 0, 0.6, 0)):
    """A group of (class label, words, answer)."""
    given = tuple(Response(answer, None, Belief(label, words)) for label, words, answer in responses)
    return Group("q", "<Q>How?<A>", given, belief_probs=probs, question="q")


GOOD_AND_POOR = group_of(("4", "Good", "aaa"), ("2", "Poor", "zzz"))


@pytest.mark.parametrize(
    "text,is_consistent,similarity",
    [
        ("4<Good>aaa", True, 1),
        ("2<Good>aaa", True, 1),  # the label is CBC's matter
        ("2<good >aaa", True, 1),
        ("4<Good>zzz", False, 0),
        ("4<Poor>aaa", False, 0),
        ("2<Poor>zzz", True, 1),
        ("4<Good>", False, 0),
        ("4<Fine>aaa", None, 0),
        ("4<>aaa", None, 0),
        ("4 aaa", None, 0),
        ("aaa", None, 0),
    ],
)
def test_an_answer_is_held_against_the_words_that_it_follows(judge, text, is_consistent, similarity):
    (sample,) = samples.judge_samples(GOOD_AND_POOR, [text], CLASSES, judge)
    assert sample.verdict.consistent is is_consistent
    assert sample.verdict.similarity == pytest.approx(similarity, abs=1e-6)


def test_options_of_one_class_keep_their_own_answers(judge):
    group = group_of(("4", "Good", "aaa"), ("2", "Poor", "zzz"), ("2", "Bad", "xxx"))
    texts = ["2<Poor>zzz", "2<Bad>xxx", "2<Bad>zzz", "2<Poor>xxx"]
    judged = samples.judge_samples(group, texts, CLASSES, judge)
    assert [sample.verdict.consistent for sample in judged] == [True, True, False, False]


def test_an_option_that_the_question_offers_beside_its_answers_is_known(judge):
    group = GOOD_AND_POOR._replace(options=(Belief("3", "So so"),))
    (sample,) = samples.judge_samples(group, ["3<So so>aaa"], CLASSES, judge)
    assert sample.class_consistent
    assert sample.verdict.consistent is None


def test_the_nearest_of_several_answers_of_an_option_counts(judge):
    group = group_of(("4", "Good", "aaa"), ("4", "Good", "bbb"), ("2", "Poor", "zzz"))
    judged = samples.judge_samples(group, ["4<Good>aaa", "4<Good>bbb"], CLASSES, judge)
    assert [sample.verdict.consistent for sample in judged] == [True, True]
    assert [sample.verdict.similarity for sample in judged] == pytest.approx([1, 1])


def test_a_belief_that_is_a_class_alone_goes_by_its_label(judge):
    group = group_of(("5", "", "aaa"), ("1", "", "zzz"))
    judged = samples.judge_samples(group, ["5aaa", "1aaa", "2aaa", "5<b>aaa"], CLASSES, judge)
    assert [sample.verdict.consistent for sample in judged] == [True, False, None, True]
    counts = samples.count_unjudged([group], [judged], CLASSES)
    assert counts.without_known_option == 1
    assert belief_metrics.of_samples(group, judged, CLASSES).cbc is None


def test_words_may_hold_brackets_and_labels_may_be_long(judge):
    group = group_of(("4", "More (>5)", "aaa"), ("2", "Less (<5)", "zzz"))
    (sample,) = samples.judge_samples(group, ["4<more (>5)>aaa"], CLASSES, judge)
    assert sample.parsed == metrics.Parsed("4", "more (>5)", "aaa")
    assert sample.class_consistent is True
    assert sample.verdict.consistent is True


# --- survey data --------------------------------------------------------------------------------------------

SURVEY = group_of(("0", "Yes", ""), ("1", "No", ""), probs=(0.5, 0.5, 0, 0, 0, 0))


def test_options_without_answers_have_no_bpc_and_no_rs(judge):
    judged = samples.judge_samples(SURVEY, ["0<Yes>", "1<No>because"], CLASSES, judge)
    of_prompt = belief_metrics.of_samples(SURVEY, judged, CLASSES)
    assert of_prompt.bpc is None
    assert of_prompt.rs is None
    assert of_prompt.cbc == 1.0
    assert not judge.known  # nothing was embedded: there is nothing to compare with


def test_an_option_without_an_answer_beside_others_is_counted_apart(judge):
    group = group_of(("4", "Good", "aaa"), ("2", "Poor", ""))
    judged = samples.judge_samples(group, ["2<Poor>zzz", "4<Good>aaa"], CLASSES, judge)
    assert [sample.verdict.consistent for sample in judged] == [None, True]
    assert samples.count_unjudged([group], [judged], CLASSES).without_reference_answer == 1
    assert belief_metrics.of_samples(group, judged, CLASSES).bpc == 0.5


# --- what has no class --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes,probs",
    [
        (("0", "1", "2"), (0, 0.5, 0.5)),
        (("2", "1", "0"), (0.5, 0.5, 0)),
        (("1", "0", "2"), (0.5, 0, 0.5)),
    ],
)
def test_a_response_without_a_class_counts_as_the_class_that_is_labelled_0(judge, classes, probs):
    group = group_of(("2", "Good", "aaa"), ("1", "Poor", "zzz"), probs=probs)
    judged = samples.judge_samples(group, ["well", "2<Good>aaa"], classes, judge)
    shares, counted = samples.shares_of(group, judged, classes)
    assert dict(zip(classes, shares)) == {"0": 0.5, "1": 0, "2": 0.5}
    assert counted == 2
    assert samples.count_unjudged([group], [judged], classes).without_class_label == 1


@pytest.mark.parametrize(
    "group,classes,spoken",
    [
        (SURVEY, CLASSES, "1<No>"),  # its class 0 is an option as any other
        (group_of(("A", "Good", "aaa"), ("B", "Poor", "zzz"), probs=(0.5, 0.5)), ("A", "B"), "B<Poor>zzz"),
        (group_of(("1", "Good", "aaa"), ("2", "Poor", "zzz"), probs=(0.5, 0.5)), ("1", "2"), "2<Poor>zzz"),
    ],
)
def test_where_no_class_says_dont_know_it_is_left_out_of_the_shares(judge, group, classes, spoken):
    judged = samples.judge_samples(group, ["?", "?", spoken], classes, judge)
    shares, counted = samples.shares_of(group, judged, classes)
    assert shares.tolist()[:2] == [0, 1]
    assert counted == 1
    counts = samples.count_unjudged([group], [judged], classes)
    assert (counts.samples, counts.without_class_label, counts.left_out_of_shares) == (3, 2, 2)
    nothing = samples.judge_samples(group, ["?", "?"], classes, judge)
    of_prompt = belief_metrics.of_samples(group, nothing, classes)
    assert of_prompt.js_distance_sampling is None
    assert of_prompt.majority_share is None


# --- what the report shows ----------------------------------------------------------------------------------


def test_what_a_group_holds_is_offered_and_drawn_once():
    group = group_of(("4", "Good", "aaa"), ("4", "Fine", "bbb"), ("2", "Poor", "zzz"))
    assert belief_metrics.offered_by(group, CLASSES) == [
        True,
        False,
        True,
        False,
        True,
        False,
    ]  # 0 has no answer
    (shares,) = shown.shares_of_prompts([group], {}, CLASSES)
    assert shares.options == ["0", "1", "Poor", "3", "Good / Fine", "5"]
    assert shares.offered == [True, False, True, False, True, False]
    assert shares.belief_probs == [0.1, 0, 0.3, 0, 0.6, 0]
