"""Rewards that a program computes: what each kind means, its degrees, bounds and errors."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import constraints
import rewards
from constraints import KINDS
from rewards import Constraint, constraints_of, reward, satisfaction
from utils import UserError

# kind, arguments, a text, how far it meets the constraint
CASES = [
    ("words", {"at_least": 4, "at_most": 6}, "one two three four", 1),
    ("words", {"at_least": 4, "at_most": 6}, "one two three", 3 / 4),
    ("words", {"at_least": 4, "at_most": 6}, "1 2 3 4 5 6 7 8 - 9 !", 7 / 10),
    ("words", {"at_most": 3}, "well-known — and/or loved", 1),
    ("sentences", {"at_least": 2, "at_most": 2}, 'He said "no." Dr. Who left at 3.15 p.m', 1),
    ("sentences", {"at_least": 2, "at_most": 2}, "Really?! Yes.", 1),
    ("sentences", {"at_most": 1}, "Really?\nYes!", 2 / 3),
    ("sentences", {"at_least": 3, "at_most": 3}, "1. Stir\n2. Bake. Wait", 1),
    ("sentences", {"at_least": 2, "at_most": 2}, "今日は。明日は。", 1),
    ("paragraphs", {"at_least": 2, "at_most": 2}, "a\nb\n \n\nc", 1),
    ("paragraphs", {"at_least": 2, "at_most": 2}, "a\nb", 1 / 2),
    ("lines", {"at_least": 3, "at_most": 3}, "a\n\nb\nc", 1),
    ("bullets", {"at_least": 3}, "Here:\n- a\n* b\n**c**", 2 / 3),
    ("steps", {"at_least": 3, "at_most": 3}, "1. a\n2) b\n3. c", 1),
    ("steps", {"at_least": 2}, "2. a\n1. b", 1 / 2),
    ("steps", {"at_most": 1}, "1. a\n2. b", 2 / 3),
    ("items", {"at_least": 3, "at_most": 3}, "figs, pears, and plums", 1),
    ("items", {"at_least": 3, "at_most": 3}, "figs, , pears", 2 / 3),
    ("marks", {"mark": "?", "at_least": 2, "at_most": 2}, "Who? When?", 1),
    ("marks", {"mark": "!", "at_most": 0}, "No! No!", 1 / 3),
    ("repeats", {"phrase": "Very good", "at_least": 2, "at_most": 2}, "very good, VERY  good", 1),
    ("repeats", {"phrase": "dry", "at_least": 2}, "dry laundry", 1 / 2),
    ("bold", {"at_least": 2}, "**one** and ** two** and **", 1),
    ("bold", {"at_least": 1}, "*one*", 0),
    ("hashtags", {"at_least": 2, "at_most": 2}, "# fun #sea #süß", 1),
    ("includes", {"texts": ["ice cream", "sun"]}, "Ice cream!", 1 / 2),
    ("includes", {"texts": ["straße"]}, "Die STRASSE", 1),
    ("excludes", {"texts": ["cold", "ice"]}, "Nice and cold", 1 / 2),
    ("starts_with", {"phrase": "Once upon a time"}, "**Once upon** a while", 3 / 4),
    ("ends_with", {"phrase": "see you soon"}, "I will see you soon!", 1),
    ("ends_with", {"phrase": "see you soon"}, "soon", 1 / 3),
    ("ends_with", {"phrase": "see you soon"}, "later", 0),
    ("lower_case", {}, "abC 1", 2 / 3),
    ("lower_case", {}, "日本", 0),
    ("upper_case", {}, "ÄB 12!", 1),
    ("title_case", {}, "Dog Comes home 7", 2 / 3),
    ("json_object", {"keys": ["a", "b"]}, '{"a": 1, "b": [2]}', 1),
    ("json_object", {"keys": ["a", "b"]}, '```json\n{"a": 1, "b": 2}\n```', 1),
    ("json_object", {"keys": ["a", "b"]}, '{"a": 1, "c": 2}', 1 / 2 + 1 / 6),
    ("json_object", {"keys": ["a", "b"]}, 'Sure: {"a": 1}', 1 / 8),
    ("json_object", {"keys": ["a"]}, "[1]", 0),
    ("no_digits", {}, "It was 9", 1 / 2),
    ("no_commas", {}, "yes, yes, yes", 1 / 3),
    ("lipogram", {"letter": "E"}, "A big red dog", 3 / 4),
    ("script", {"script": "greek"}, "αβ c", 2 / 3),
    ("script", {"script": "cyrillic"}, "хлеб!", 1),
    ("title", {}, "[The Sea]\nIt is blue.", 1),
    ("title", {}, "See [the sea] here", 1 / 2),
    ("title", {}, "] none [", 0),
    ("quoted", {}, "“Hope.”", 1),
    ("quoted", {}, '"Hope', 1 / 2),
    ("postscript", {}, "Dear you\nP.S. Call me.", 1),
    ("postscript", {}, "PS: Call me.\nBye", 1 / 2),
    ("alphabetical", {}, "- ash\n- birch\n- elm\n- beech", 2 / 3),
    ("alphabetical", {}, "ash", 0),
    ("initials", {"letter": "s", "percent": 50}, "seven sad men", 1),
    ("initials", {"letter": "s", "percent": 50}, "seven of the men", 1 / 2),
    ("acrostic", {"phrase": "sun"}, "Sea\nUnder\nNight", 1),
    ("acrostic", {"phrase": "SUN"}, "Sea\nOver\nNight\nDay", 1 / 2),
    ("word_length", {"at_most": 3}, "the dog barks", 2 / 3),
    ("sentence_words", {"at_most": 2}, "I go. I do go.", 1 / 2),
]
EVERY = [Constraint(kind, arguments) for kind, arguments, _, _ in CASES]
PIECES = [
    "one",
    "Two,",
    "3.",
    "#four",
    "**five**",
    "\n",
    "\n\n",
    "- ",
    "?",
    "!",
    '"',
    "[six]",
    "P.S.",
    "ß",
    "🙂",
]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map(" ".join))


@pytest.mark.parametrize("kind,arguments,text,share", CASES)
def test_each_kind_is_met_as_far_as_it_says(kind, arguments, text, share):
    (constraint,) = constraints_of([{"kind": kind, **arguments}], "here")
    assert satisfaction(constraint, text) == pytest.approx(share, abs=1e-12)
    assert satisfaction(constraint, f"\n {text} ") == satisfaction(constraint, text)


def test_every_kind_has_a_case():
    assert {kind for kind, *_ in CASES} == set(KINDS)


@given(TEXTS, st.lists(st.sampled_from(EVERY), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_a_reward_is_10_times_the_mean_and_10_exactly_where_all_are_met(text, asked):
    shares = [satisfaction(constraint, text) for constraint in asked]
    assert all(0 <= share <= 1 for share in shares)
    assert reward(asked, text) == pytest.approx(10 * sum(shares) / len(shares))
    assert (reward(asked, text) == 10) == all(share == 1 for share in shares)
    assert reward(asked, text) == reward(asked[::-1], text)


@pytest.mark.parametrize("blank", ["", " \n", "?!", "...", "\u200b", "❤\ufe0f", "- \n- "])
def test_a_response_without_a_word_meets_nothing(blank):
    assert all(satisfaction(constraint, blank) == 0 for constraint in EVERY)


@given(st.integers(0, 30), st.integers(0, 10), st.integers(0, 10))
def test_a_count_that_comes_nearer_to_its_range_never_has_less(count, at_least, width):
    most = at_least + width
    here, further = [constraints.in_range(n, at_least, most) for n in (count, count + 1)]
    assert here <= further if count < most else here >= further
    assert (here == 1) == (at_least <= count <= most)


@given(st.lists(st.sampled_from(["sun", "moon", "star"]), unique=True), st.text())
def test_a_keyword_more_never_has_less_and_one_that_is_forbidden_never_more(keywords, text):
    wanted, banned = [Constraint(kind, {"texts": ["sun", "moon"]}) for kind in ("includes", "excludes")]
    before, after = f"it {text}", f"it {text} {' '.join(keywords)}"
    assert satisfaction(wanted, before) <= satisfaction(wanted, after)
    assert satisfaction(banned, before) >= satisfaction(banned, after)


@given(st.text())
def test_composed_and_decomposed_letters_are_the_same(text):
    accented = f"café {text}"
    for constraint in EVERY:
        composed, decomposed = (unicodedata.normalize(form, accented) for form in ("NFC", "NFD"))
        assert satisfaction(constraint, composed) == satisfaction(constraint, decomposed)


HOSTILE = {
    "one word": "a" * 100_000,
    "many words": "ab " * 33_000,
    "stops": "a" + "." * 100_000 + "b",
    "lines": "a\n \r\n" * 20_000,
    "asterisks": "a **b" * 20_000,
    "brackets": "a" + '[{"' * 33_000,
    "nested": "[" * 100_000 + "1" + "]" * 100_000,
    "a long number": "7" * 100_000,
    "quotes": 'a"' * 50_000,
    "marks on a letter": "a" + "\u0301\u0316" * 50_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_takes_long(name):
    one_a_kind = list({constraint.kind: constraint for constraint in EVERY}.values())
    start = time.process_time()
    assert 0 <= reward(one_a_kind, HOSTILE[name]) <= 10
    assert time.process_time() - start < 0.2 * len(one_a_kind)


BAD = [
    ([], "missing or empty"),
    (None, "missing or empty"),
    ([1], "kind None is unknown"),
    ([{"kind": "rhyme"}], "kind 'rhyme' is unknown; take one of words, "),
    ([{"kind": ["words"]}], "is unknown"),
    ([{"kind": "words"}], "words: at_least is missing, and so is at_most"),
    ([{"kind": "words", "at_least": 5, "at_most": 4}], "at_least 5 is above at_most 4"),
    ([{"kind": "words", "at_least": True}], "at_least True is impossible; give a whole number"),
    ([{"kind": "words", "at_least": -1}], "at_least -1 is impossible"),
    ([{"kind": "words", "at_leest": 1}], "at_leest is unknown; words takes at_least, at_most"),
    ([{"kind": "quoted", "at_least": 1}], "at_least is unknown; quoted takes no others"),
    ([{"kind": "includes"}], "texts is missing; give a list"),
    ([{"kind": "includes", "texts": "sun"}], "texts 'sun' is impossible"),
    ([{"kind": "includes", "texts": ["!"]}], "is impossible; give a list of texts with a word in each"),
    ([{"kind": "starts_with", "phrase": " "}], "phrase ' ' is impossible; give a text with a word"),
    ([{"kind": "lipogram", "letter": "ab"}], "letter 'ab' is impossible; give one letter"),
    ([{"kind": "script", "script": "runic"}], "give one of latin, greek, cyrillic"),
    ([{"kind": "script", "script": ["latin"]}], "give one of latin, greek, cyrillic"),
    ([{"kind": "initials", "letter": "a", "percent": 0}], "percent 0 is impossible"),
]


@pytest.mark.parametrize("rows,message", BAD)
def test_constraints_that_are_none_are_one_line_that_names_the_remedy(rows, message):
    with pytest.raises(UserError, match="data.jsonl, row 3: field constraints: ") as caught:
        constraints_of(rows, "data.jsonl, row 3")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_most_is_ten():
    assert rewards.MOST == 10
