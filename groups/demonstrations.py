"""Readers of single responses: demonstrations for SFT, and responses that people called good or bad (KTO).

Contract: a row becomes a group with one response without reward; where the format has a label, the group's
`labels` says whether it is desirable. A row without a response is left out and counted.
"""

from __future__ import annotations

from typing import NamedTuple

from groups.conversations import (
    Exchange,
    Messages,
    PromptColumns,
    is_repeated,
    last_answer,
    read_messages_of,
    read_prompt,
    user_turn,
    with_system,
)
from groups.kinds import flag, is_blank, messages_in
from groups.record import Group, Response
from groups.rows import Row, Rows, Source, text_field
from utils import UserError


class AnswerColumns(NamedTuple):
    """Which columns hold the prompt, the response and whether it is desirable."""

    prompt: PromptColumns | None  # None: the answer's messages begin with it
    answer: str
    label: str = ""  # "": there is none


def read_answers(rows: Rows, source: Source, columns: AnswerColumns) -> list[Group]:
    """Rows with one response each; of a conversation it is the last assistant's turn."""
    groups = []
    for where, row in rows:
        exchange = _exchange(row, columns, where, source)
        if exchange is None:
            continue
        if not exchange.text.strip():
            source.drop("empty_responses", where)
            continue
        labels = (bool(flag(row[columns.label])),) if columns.label else ()
        group = Group(where, exchange.prompt, (Response(exchange.text),), where=where, labels=labels)
        groups.append(group)
    return groups


def _exchange(row: Row, columns: AnswerColumns, where: str, source: Source) -> Exchange | None:
    value = row[columns.answer]
    if columns.prompt is None:
        messages = with_system(row, read_messages_of(value, columns.answer, where, source), where)
        _check_repeated_prompt(row, messages, where)
        return _answered(last_answer(value, messages, source, where), source, where)
    prompt = read_prompt(row, columns.prompt, where, source)
    if messages_in(value) is None:
        return Exchange(prompt, value)
    messages = read_messages_of(value, columns.answer, where, source)
    if isinstance(prompt, str):
        prompt = user_turn(prompt)
    exchange = last_answer(value, _joined(row, columns.prompt.main, prompt, messages, where), source, where)
    if exchange is not None and len(exchange.prompt) < len(prompt):
        source.drop("without_assistant_turn", where)
        return None
    return exchange


def _joined(row: Row, field: str, prompt: Messages, messages: Messages, where: str) -> Messages:
    """A prompt and the messages behind it; where these are the whole conversation, it stands there once.

    Raises UserError where a text prompt is none of a whole conversation's turns.
    """
    said = [message["role"] for message in messages if message["role"] != "system"]
    if len(said) < 2 or said[0] != "user":
        return prompt + messages
    whole = with_system(row, messages, where)
    if messages_in(row[field]) is not None:
        return whole if whole[: len(prompt)] == prompt else prompt + messages
    if not is_repeated(row[field], messages):
        raise UserError(f"{where}: field {field}: is none of the messages; correct it or remove the column")
    return whole


def _answered(exchange: Exchange | None, source: Source, where: str) -> Exchange | None:
    """The exchange, unless nobody has said anything before the response."""
    if exchange is not None and all(message["role"] == "system" for message in exchange.prompt):
        source.drop("without_a_prompt", where)
        return None
    return exchange


def _check_repeated_prompt(row: Row, messages: Messages, where: str) -> None:
    """Raises UserError where a `prompt` column says something that the messages do not hold."""
    prompt = row.get("prompt")
    if is_blank(prompt):
        return
    if not is_repeated(str(prompt), messages):
        raise UserError(f"{where}: field prompt: is none of the messages; correct it or remove the column")


def read_text(rows: Rows, source: Source) -> list[Group]:
    """TRL's language modelling: a text without a prompt."""
    return [Group(where, "", (Response(text_field(row, "text", where)),), where=where) for where, row in rows]
