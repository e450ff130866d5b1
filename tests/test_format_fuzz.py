"""1,000 damaged rows of every format: each is read, or left out and counted, or refused on one line."""

import copy
import json
import random

import pytest
from test_formats import BY_NAME, CHAT, EXAMPLES

from groups import CLASSES, OWN, Drops, Source, choose_format, read_groups
from utils import UserError, one_line

ROWS_OF_A_FORMAT = 1000
HUGE = "x" * 10_000
ODD = (
    *(None, "", " ", "x", "null", "[]", "{}", "[1", "nan", "\u0000", HUGE),
    *(True, False, 0, 1, -1, 2.5, 10**30, 1e300, float("nan"), float("inf")),
    *([], {}, [None], [[]], [{}], [1, 2], ["a", None], ["a", "b"], {"a": {"b": [1]}}),
    *([{"role": "user"}], [{"role": None, "content": "a"}], {"role": "assistant", "content": None}),
    *([{"from": "gpt", "value": "a"}], {"role": "assistant", "content": "a"}, [*CHAT, *CHAT]),
    *([{"role": "assistant", "content": [{"type": "text", "text": "a"}]}], json.dumps(CHAT)),
    [{"text": "a", "rank": "x"}, {"text": "b", "rank": None}],
)


def places(value):
    """Every container in a row with each of its keys."""
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        keys = []
    for key in keys:
        yield value, key
        yield from places(value[key])


def damaged(row, rng):
    """A row with one to three of its values dropped, made odd, put in a list, printed, or with one more."""
    row = copy.deepcopy(row)
    for _ in range(rng.randint(1, 3)):
        row["note"] = ""  # a row is never empty
        holder, key = rng.choice(list(places(row)))
        change = rng.choice(("drop", "odd", "odd", "odd", "wrap", "print", "add"))
        if change == "drop":
            del holder[key]
        elif change == "wrap":
            holder[key] = [holder[key]]
        elif change == "print":
            holder[key] = json.dumps(holder[key])
        elif change == "add":
            row[rng.choice(("weight", "label", "system", "history", "rank"))] = copy.deepcopy(rng.choice(ODD))
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    return row


def outcome(known, row):
    """groups, left out, or refused"""
    dropped = Drops()
    try:
        groups = read_groups(known, [("file, row 1", row)], Source(CLASSES, "Chile", dropped))
    except UserError as error:
        text = str(error)
        assert text == one_line(text) and text.startswith("file"), text
        assert len(text) < 1000
        return "refused"
    if groups:
        for group in groups:
            assert all(isinstance(r.text, str) for r in group.responses) and group.responses
            assert len(group.labels) in (0, len(group.responses))
            contents = (
                [group.prompt] if isinstance(group.prompt, str) else [m["content"] for m in group.prompt]
            )
            assert all(isinstance(content, str) for content in contents)
        return "read"
    assert dropped.first, f"nothing says why {row} is left out"
    return "left out"


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != OWN.name])
@pytest.mark.parametrize("is_named", [False, True])
def test_a_damaged_row_is_read_or_counted_or_refused(name, is_named):
    rng = random.Random(f"{name} {is_named}")
    known = BY_NAME[name]._replace(is_named=is_named)
    outcomes = set()
    for _ in range(ROWS_OF_A_FORMAT // 2):
        row = damaged(rng.choice(EXAMPLES[name]), rng)
        if known.key is not None:
            hash(known.key(row))
        outcomes.add(outcome(known, row))
    assert "refused" in outcomes


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_format_of_damaged_rows_is_told_or_asked_for(name):
    rng = random.Random(name)
    for _ in range(50):
        rows = [(f"file, row {n}", damaged(rng.choice(EXAMPLES[name]), rng)) for n in (1, 2, 3)]
        try:
            known = choose_format(rows, "file")
            read_groups(known, rows, Source(CLASSES, "Chile", Drops()))
        except UserError as error:
            assert str(error) == one_line(str(error))
