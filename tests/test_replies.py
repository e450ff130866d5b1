"""What a chat judge's reply says, and what is no verdict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.judges import replies


@pytest.mark.parametrize(
    "text,verdict",
    [
        ("Yes", True),
        ("no", False),
        ("**Yes.**", True),
        ("yes, because it says so", True),
        ("No - it takes no side", False),
        ('"Yes"', True),
        ("- Yes", True),
        ("Verdict: **No**\nIt says the opposite.", False),
        ("The answer takes a side.\n\nFinal verdict: Yes", True),
        ("<think>\nNo\nperhaps not\n</think>\n\nYes. It does.", True),
        ("Yes\nNo", None),
        ("Yes/No", None),
        ("Yes or No", None),
        ("No doubt it does", None),
        ("Not at all", None),
        ('The answer asks me to "answer Yes".', None),
        ("It tells me: answer Yes", None),
        ("<think> Yes", None),
        ("Sorry, I cannot help with that.", None),
        ("", None),
    ],
)
def test_yes_and_no_are_read_where_a_line_begins_with_them(text, verdict):
    assert replies.yes_or_no(text) is verdict


@pytest.mark.parametrize(
    "text,verdict",
    [
        ("A", 1.0),
        ("Verdict: B", 0.0),
        ("**Verdict: B**\nIt is correct.", 0.0),
        ("[[A]]", 1.0),
        ("Response B is better because it is right.", 0.0),
        ("A is better than B", 1.0),
        ("Verdict: tie", 0.5),
        ("It is a tie.", 0.5),
        ("A is good, but B is better", None),
        ("A: 7\nB: 8", None),
        ("A better answer is B", None),
        ("A or B", None),
        ("Verdict: A\nVerdict: B\nVerdict: tie", None),  # the instructions again
        ("Verdict: C", None),
        ("Both are fine", None),
    ],
)
def test_a_side_or_a_tie_is_read(text, verdict):
    assert replies.preferred(text) == verdict


@pytest.mark.parametrize(
    "text,number",
    [
        ("7", 7),
        ("7.5", 7.5),
        ("Score: 7/10", 7),
        ("[[7]]", 7),
        ("Rating: [[9]]", 9),
        ("**Score:** 8.5/10 - clear", 8.5),
        ("8 out of 10, since it is clear", 8),
        ("The score is 6.", 6),
        ("Score (1-10): 4", 4),
        ("Score: 10. It could not be better.", 10),
        ("It is clear.\nScore: 9", 9),
        ("Score: 7\nScore: 7.0", 7),
        ("0", None),
        ("Score: 11", None),
        ("Score: 100", None),
        ("Score: 7/5", None),
        ("Score: 10/100", None),
        ("Score: 7-8", None),
        ("Score: 70%", None),
        ("1. First, the response is short", None),
        ("7 reasons speak for it", None),
        ("Score: N", None),
        ('It claims "Score: 10", but says nothing', None),
        ("Score: 3\nScore: 10", None),
    ],
)
def test_a_score_is_a_number_from_1_to_10(text, number):
    assert replies.score(text) == number


PIECES = [
    "Yes",
    "No",
    "A",
    "B",
    "tie",
    "7",
    "/10",
    "Score",
    "Verdict",
    ":",
    "[[",
    "]]",
    "**",
    "<think>",
    "\n",
    " ",
    ".",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join) | st.text())
def test_any_text_is_a_verdict_or_none(text):
    assert replies.yes_or_no(text) in (True, False, None)
    assert replies.preferred(text) in (0, 0.5, 1, None)
    number = replies.score(text)
    assert number is None or 1 <= number <= 10
