"""Kinds of raw values: what tells a text from messages, a flag from a score, and what errors call it.

Contract: pure functions of one raw value, which never raise. Lists, objects and numbers may stand as text, as
a .csv file holds them; a text is a text where it is no printed message or list of messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from groups.rows import is_number
from groups.values import is_absent, parsed

CALLS = ("tool_calls", "function_call")  # fields of a message that calls tools
MESSAGE_NAMES = {"role", "content", "from", "value"}
PRINTED_MESSAGES = ("[{", "{")  # how a text begins that may be printed messages
# how messages begin; what prints an array of them leaves the commas out, and nothing reads that
BEGIN_OF_MESSAGES = re.compile(r"\s*\[\s*\{\s*['\"](role|content|from|value)['\"]\s*:")


class Kind(NamedTuple):
    """A kind of value that a column of a format holds."""

    words: str  # for errors: "needs a text"
    holds: Callable[[Any], bool]


# --- values of columns --------------------------------------------------------------------------------------


def is_blank(value: Any) -> bool:
    """Whether a field holds nothing: null, an empty text, list or object, printed ones included."""
    if is_absent(value) or value in ([], {}):
        return True
    return isinstance(value, str) and value.strip() in ("", "[]", "{}", "null", "None")


def is_text(value: Any) -> bool:
    """Whether a raw value is a text, and not messages that stand as text."""
    if not isinstance(value, str) or BEGIN_OF_MESSAGES.match(value):
        return False
    return not is_message(value)


def is_message(value: Any) -> bool:
    """Whether a raw value is one message: a role and a content, or ShareGPT's from and value."""
    value = _unprinted(value)
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("role"), str):
        content = value.get("content")
        has_parts = isinstance(content, list) and all(isinstance(part, dict) for part in content)
        has_none = content is None and ("content" in value or any(call in value for call in CALLS))
        return isinstance(content, str) or has_parts or has_none
    return isinstance(value.get("from"), str) and isinstance(value.get("value"), str)


def is_messages(value: Any) -> bool:
    """Whether a raw value is a list of one or more messages."""
    value = _unprinted(value)
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(message, dict) and is_message(message) for message in value)


def messages_in(value: Any) -> list[Any] | None:
    """The raw messages of a list of them, or of one alone; None where a value is neither."""
    value = _unprinted(value)
    if is_messages(value):
        return value
    return [value] if isinstance(value, dict) and is_message(value) else None


def flag(value: Any) -> bool | None:
    """A raw true or false, be it written as 1 or 0; None where it is neither."""
    value = parsed(value)
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    return None


def is_finite_number(value: Any) -> bool:
    """Whether a raw value is a number, be it written as a text."""
    return is_number(parsed(value))


def is_texts(value: Any) -> bool:
    """Whether a raw value is a list of one or more texts; null stands for one that is missing."""
    value = parsed(value)
    if not isinstance(value, list) or not value:
        return False
    return all(text is None or isinstance(text, str) for text in value)


def is_numbers(value: Any) -> bool:
    """Whether a raw value is a list of one or more numbers."""
    value = parsed(value)
    return isinstance(value, list) and bool(value) and all(map(is_number, value))


def is_turns(value: Any) -> bool:
    """Whether a raw value is a list of [what the user said, what the assistant said]."""
    value = parsed(value)
    return isinstance(value, list) and all(_is_turn(turn) for turn in value)


def objects_with(*fields: str) -> Callable[[Any], bool]:
    """Whether a raw value is a list of objects that have these fields."""

    def holds(value: Any) -> bool:
        value = parsed(value)
        return isinstance(value, list) and bool(value) and all(_has(item, fields) for item in value)

    return holds


def one_of(*texts: str) -> Kind:
    """The kind of a column that holds one of a few texts."""
    return Kind(f"one of {', '.join(texts)}", lambda value: isinstance(value, str) and value in texts)


def _unprinted(value: Any) -> Any:
    """What stands as text for messages, read; other values stay."""
    if isinstance(value, str) and value.lstrip().startswith(PRINTED_MESSAGES):
        return parsed(value)
    return value


def _has(item: Any, fields: Collection[str]) -> bool:
    return isinstance(item, dict) and all(field in item for field in fields)


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, list) and len(turn) == 2 and all(isinstance(said, str) for said in turn)


ANYTHING = Kind("a value", lambda value: True)  # its reader checks it
TEXT = Kind("a text", is_text)
MESSAGES = Kind("messages, with a role and a content each", is_messages)
TEXT_OR_MESSAGES = Kind("a text or messages", lambda value: is_text(value) or is_messages(value))
ANSWER = Kind(
    "a text, a message or messages",
    lambda value: is_text(value) or is_message(value) or is_messages(value),
)
SPOKEN = Kind("a message or messages", lambda value: messages_in(value) is not None)
TEXTS = Kind("a list of texts", is_texts)
NUMBER = Kind("a number", is_finite_number)
NUMBERS = Kind("a list of numbers", is_numbers)
FLAG = Kind("true or false", lambda value: flag(value) is not None)
TURNS = Kind("a list of [user, assistant] texts", is_turns)
RANKED_ANSWERS = Kind("a list of objects with an answer and a rank", objects_with("answer", "rank"))
RANKED_TEXTS = Kind("a list of objects with a text and a rank", objects_with("text", "rank"))


# --- words for errors ---------------------------------------------------------------------------------------


def described(value: Any) -> str:
    """What a raw value is, for an error: "a list of numbers"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return _described_text(value)
    if isinstance(value, int | float):
        return "a number"
    if is_message(value):
        return "one message"
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    return _described_list(value)


def _described_text(text: str) -> str:
    if not text.strip():
        return "an empty text"
    if is_messages(text) or is_message(text):
        return "messages"
    if BEGIN_OF_MESSAGES.match(text):
        return "a text that begins like messages and cannot be read as JSON"
    return "a text"


def _lacking(message: dict[str, Any]) -> str:
    """What a message has not, or not as a text."""
    is_sharegpt = not {"role", "content"} & message.keys()
    who, what = ("from", "value") if is_sharegpt else ("role", "content")
    return what if isinstance(message.get(who), str) else who


def _described_list(values: Any) -> str:
    if not values:
        return "an empty list"
    if is_messages(values):
        return "messages"
    for number, value in enumerate(values):
        if isinstance(value, dict) and not is_message(value) and MESSAGE_NAMES & value.keys():
            return f"a list of objects, of which [{number}] has no {_lacking(value)}"
    for words, kinds in (
        ("texts", str),
        ("true and false", bool),
        ("numbers", int | float),
        ("objects", dict),
        ("lists", list),
    ):
        if all(isinstance(value, kinds) for value in values):
            return f"a list of {words}"
    return "a list of several kinds"
