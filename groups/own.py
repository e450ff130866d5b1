"""This project's own format, one prompt a row:

    {"id": "...", "prompt": "..." or [{"role": ..., "content": ...}, ...],
     "responses": [{"text": "...", "reward": 7.5, "belief": {"class": "4", "text": "Good job"}}, ...],
     "pairs": [[0, 2], ...],              optional: preferred index, other index
     "belief_probs": [0.06, 0.08, ...],   optional: the group's p*, one entry a class, or {"4": 0.06, ...}
     "question": "...",                   optional: what the prompt asks; rows of one are held out together
     "weight": 2,                         optional: a row of weight 2 counts as the row twice
     "group": "Democrats",                optional: whose answers these are, group_in_prompt=true
     "constraints": [{"kind": "words", "at_most": 40}, ...]}   optional: what the prompt asks for, rewards.py

Contract: a row becomes a group as it stands, or raises `UserError` with the row, the field and the remedy.
Lists and numbers may stand as text, as a .csv file holds them; a column that numbers the rows is no field.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from groups.record import CLASSES, Belief, Group, Pair, Prompt, Response
from groups.rows import Row, Rows, Source, is_reward, is_share
from groups.values import is_absent, label_of, parsed
from rewards import Constraint, constraints_of
from utils import UserError

ROW_FIELDS = (
    "belief_probs",
    "constraints",
    "group",
    "id",
    "pairs",
    "prompt",
    "question",
    "responses",
    "weight",
)
LARGEST_WEIGHT = 1e6
RESPONSE_FIELDS = ("belief", "reward", "text")
# names that tools give to a column that numbers the rows
ROW_NUMBERS = re.compile(r"|index|level_0|Unnamed: 0(\.\d+)?|__index_level_0__")


def read_own(rows: Rows, source: Source) -> list[Group]:
    """This project's own format, one prompt a row."""
    return [parse_group(row, where, source.classes) for where, row in rows]


def parse_group(row: Any, where: str, classes: Sequence[str] = CLASSES) -> Group:
    """Check one row of our own format. Raises UserError that names the row, the field and the remedy."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object; write one object a line")
    row = _without_row_number(_without_nulls(row))
    _refuse_unknown(row, ROW_FIELDS, "", where)
    prompt = _prompt(row, where)
    responses = _responses(row, where, classes)
    probs = _belief_probs(row, where, classes)
    if probs:
        _need_beliefs(responses, where)
    pairs = _pairs(row, where, len(responses))
    name, question = row.get("id", where), row.get("question", "")
    weight = _weight(row, where)
    group = Group(str(name), prompt, responses, pairs, probs, where, question=str(question), weight=weight)
    return group._replace(constraints=_constraints(row, where), people=str(row.get("group", "")))


def _bad(where: str, field: str, problem: str, remedy: str) -> UserError:
    return UserError(f"{where}: field {field}: {problem}; {remedy}")


def _without_nulls(row: Row) -> Row:
    """Without fields that a table holds for rows that have none; a reward is a number or not there."""
    kept = {}
    for field, value in row.items():
        if value is not None and (field == "reward" or not is_absent(value)):
            kept[field] = value
    return kept


def _without_row_number(row: Row) -> Row:
    return {field: value for field, value in row.items() if not _is_row_number(field, value)}


def _is_row_number(field: str, value: Any) -> bool:
    return bool(ROW_NUMBERS.fullmatch(field)) and label_of(value).isdecimal()


def _refuse_unknown(row: Row, fields: Sequence[str], prefix: str, where: str) -> None:
    unknown = sorted(set(row) - set(fields))
    if unknown:
        raise _bad(where, prefix + unknown[0], "unknown", f"known fields are {', '.join(fields)}")


def _prompt(row: Row, where: str) -> Prompt:
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        if not prompt or not all(_is_message(m) for m in prompt):
            problem = "messages need a role and a content string each"
            raise _bad(where, "prompt", problem, 'write [{"role": "user", "content": "..."}]')
    elif not isinstance(prompt, str) or not prompt.strip():
        remedy = "every row needs a prompt: a string or a list of messages"
        raise _bad(where, "prompt", "missing or empty", remedy)
    return prompt


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _responses(row: Row, where: str, classes: Sequence[str]) -> tuple[Response, ...]:
    values = parsed(row.get("responses"))
    if not isinstance(values, list) or not values:
        raise _bad(where, "responses", "missing or empty", 'write a list of {"text": ...}')
    return tuple(_response(value, f"responses[{i}]", where, classes) for i, value in enumerate(values))


def _response(value: Any, field: str, where: str, classes: Sequence[str]) -> Response:
    if not isinstance(value, dict):
        raise _bad(where, field, "is no object", 'write {"text": "..."}')
    value = _without_nulls(value)
    _refuse_unknown(value, RESPONSE_FIELDS, f"{field}.", where)
    text, reward = value.get("text"), parsed(value.get("reward"))
    if not isinstance(text, str) or not text.strip():
        remedy = "give the response's text or leave the response out"
        raise _bad(where, f"{field}.text", "missing or empty", remedy)
    if reward is not None and not is_reward(reward):
        remedy = "give a number below 1e15 or leave the field out"
        raise _bad(where, f"{field}.reward", f"{str(reward)[:40]} is no finite number", remedy)
    return Response(text, reward, _belief(parsed(value.get("belief")), f"{field}.belief", where, classes))


def _belief(value: Any, field: str, where: str, classes: Sequence[str]) -> Belief | None:
    if value is None:
        return None
    if isinstance(value, dict):
        label, text = label_of(value.get("class"), classes), value.get("text")
        text = "" if text is None else text
        if label in classes and isinstance(text, str):
            return Belief(label, text)
    problem = f"{value!r} has no class among {', '.join(classes)}"
    raise _bad(where, field, problem, 'write {"class": "4", "text": "..."} or set belief_classes')


def _belief_probs(row: Row, where: str, classes: Sequence[str]) -> tuple[float, ...]:
    """The group's p*, one entry a class, or () where the row has none."""
    if "belief_probs" not in row:
        return ()
    probs = parsed(row["belief_probs"])
    if isinstance(probs, dict):
        probs = _by_label(probs, where, classes)
    if not isinstance(probs, list) or len(probs) != len(classes):
        entries = len(probs) if isinstance(probs, list) else "no"
        problem = f"has {entries} entries for {len(classes)} classes"
        remedy = "give one probability a class, in the order of belief_classes"
        raise _bad(where, "belief_probs", problem, remedy)
    if not all(is_share(p) for p in probs):
        problem = f"{probs} holds a value that is negative or no number"
        raise _bad(where, "belief_probs", problem, "give probabilities")
    total = sum(probs)
    if abs(total - 1) > 0.01:
        raise _bad(where, "belief_probs", f"sums to {total:.4g}", "make it sum to 1")
    return tuple(p / total for p in probs)  # what rounding left


def _by_label(probs: dict[str, Any], where: str, classes: Sequence[str]) -> list[Any]:
    """The probabilities of {label: probability} in the order of the classes, else 0."""
    given = {label_of(label, classes): 0 if p is None else p for label, p in probs.items()}
    unknown = sorted(set(given) - set(classes))
    if unknown:
        problem = f"{unknown[0]} is no class among {', '.join(classes)}"
        raise _bad(where, "belief_probs", problem, "correct the label or set belief_classes")
    return [given.get(label, 0) for label in classes]


def _need_beliefs(responses: Sequence[Response], where: str) -> None:
    if any(r.belief is None for r in responses):
        problem = "belief_probs is given but a response has no belief"
        raise _bad(where, "responses", problem, 'add "belief": {"class": ..., "text": ...}')


def _constraints(row: Row, where: str) -> tuple[Constraint, ...]:
    """What the prompt asks for; () where the row does not say."""
    if "constraints" not in row:
        return ()
    values = parsed(row["constraints"])
    if isinstance(values, list):  # a table has a null for every argument that another kind takes
        values = [_without_nulls(value) if isinstance(value, dict) else value for value in values]
    return constraints_of(values, where)


def _weight(row: Row, where: str) -> float:
    """How many rows this one counts as; 1 where it does not say."""
    weight = parsed(row.get("weight", 1.0))
    if not is_share(weight) or not 0 < weight <= LARGEST_WEIGHT:
        problem = f"{str(weight)[:40]} is no number above 0 and up to {LARGEST_WEIGHT:g}"
        raise _bad(where, "weight", problem, "give how many rows this one counts as, or leave the field out")
    return float(weight)


def _pairs(row: Row, where: str, num_responses: int) -> tuple[Pair, ...]:
    values = parsed(row.get("pairs", []))
    for value in values if isinstance(values, list) else [values]:
        if not _is_pair(value, num_responses):
            problem = f"{value} is no [preferred, other] pair of two response indices"
            raise _bad(where, "pairs", problem, f"use indices 0 to {num_responses - 1}")
    pairs = tuple((preferred, other) for preferred, other in values)
    for pair, count in Counter(pairs).items():
        if count > 1:
            raise _bad(where, "pairs", f"{list(pair)} stands there twice", "give each pair once")
    return pairs


def _is_pair(value: Any, num_responses: int) -> bool:
    """Whether a raw value is a list of two different indices of responses (true and false are none)."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(type(i) is int and 0 <= i < num_responses for i in value) and value[0] != value[1]
