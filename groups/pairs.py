"""Readers of two responses of which one is preferred: TRL, LLaMA-Factory, axolotl, OpenRLHF, OpenAI, HALOs.

Contract: a row becomes a group with one pair, or is left out and counted, or raises `UserError`. Texts stay
texts, so that prompt and response joined are what the row's own library trains on; messages stay messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from groups.conversations import (
    Messages,
    PromptColumns,
    common_start,
    is_repeated,
    read_messages_of,
    read_prompt,
    user_turn,
    with_system,
)
from groups.kinds import is_blank, messages_in
from groups.record import Group, Prompt, Response
from groups.rows import Row, Rows, Source, is_reward
from groups.values import is_absent, parsed
from utils import UserError

SCORES = (  # the names of the columns with both sides' scores
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
    ("chosen_score", "rejected_score"),
    ("rating_chosen", "rating_rejected"),
)
SCORE_COLUMNS = tuple(name for both in SCORES for name in both)


class PairColumns(NamedTuple):
    """Which columns hold the prompt and both sides."""

    prompt: PromptColumns | None  # None: it is how both sides begin
    chosen: str = "chosen"
    rejected: str = "rejected"


def read_pairs(rows: Rows, source: Source, columns: PairColumns) -> list[Group]:
    """Rows with a preferred response and another one; both are texts, or messages.

    Scores beside them become rewards. A text prompt is a user's turn where the sides are messages.
    """
    groups = []
    for where, row in rows:
        if row.get("status") == "tie":  # distilabel-intel-orca-dpo-pairs
            source.drop("ties", where)
            continue
        sides = [messages_in(row[column]) for column in (columns.chosen, columns.rejected)]
        if None not in sides:
            compared = _of_messages(row, columns, where, source)
        elif sides == [None, None]:
            compared = _of_texts(row, columns, where, source)
        else:
            raise UserError(
                f"{where}: fields {columns.chosen} and {columns.rejected}: one is a text and one holds "
                "messages; give both as texts or both as messages"
            )
        if compared is not None:
            groups += pair_group(where, *compared, source, _scores(row, where))
    return groups


def pair_group(
    where: str,
    prompt: Prompt,
    texts: Sequence[Any],
    source: Source,
    rewards: Sequence[float | None] = (None, None),
) -> list[Group]:
    """The group of a preferred text and another one, or none where they are equal or one is empty."""
    if not all(isinstance(text, str) and text.strip() for text in texts):
        source.drop("empty_responses", where)
    elif texts[0] == texts[1]:
        source.drop("preferred_equal_to_rejected", where)
    else:
        responses = tuple(Response(text, reward) for text, reward in zip(texts, rewards))
        return [Group(where, prompt, responses, ((0, 1),), where=where)]
    return []


def read_openai_pairs(rows: Rows, source: Source) -> list[Group]:
    """OpenAI's preference files: `input` holds the messages, and the outputs are a list of messages each."""
    flat = []
    for where, row in rows:
        given = parsed(row["input"])
        if not is_blank(given.get("tools")):
            raise UserError(
                f"{where}: field input.tools: the model is not shown tools here; remove them or leave the "
                "row out"
            )
        flat.append((where, {**row, "prompt": given["messages"]}))
    columns = PairColumns(PromptColumns("prompt"), "preferred_output", "non_preferred_output")
    return read_pairs(flat, source, columns)


# --- texts --------------------------------------------------------------------------------------------------


def _of_texts(
    row: Row, columns: PairColumns, where: str, source: Source
) -> tuple[Prompt, Sequence[str]] | None:
    texts = [row[columns.chosen], row[columns.rejected]]
    if columns.prompt is not None:
        return read_prompt(row, columns.prompt, where, source), texts
    if texts[0] == texts[1]:
        source.drop("preferred_equal_to_rejected", where)
        return None
    border = prompt_border(*texts)
    prompt, texts = texts[0][:border], [text[border:] for text in texts]
    if not prompt.strip():
        source.drop("sides_without_a_common_prompt", where)
        return None
    if "system" in row:
        return with_system(row, user_turn(prompt), where), texts
    return prompt, texts


def prompt_border(chosen: str, rejected: str) -> int:
    """How many characters both texts share as a prompt, as TRL's `extract_prompt` counts them.

    Up to the first that differs, or without the space before it; where one text begins with all of the
    other, without the shorter one's last character.
    """
    shorter = min(len(chosen), len(rejected))
    border = next((n for n in range(shorter) if chosen[n] != rejected[n]), shorter)
    if border == shorter:
        return max(shorter - 1, 0)
    if border > 0 and chosen[border - 1] == " ":
        return border - 1
    return border


# --- messages -----------------------------------------------------------------------------------------------


def _of_messages(
    row: Row, columns: PairColumns, where: str, source: Source
) -> tuple[Prompt, Sequence[str]] | None:
    sides = [
        read_messages_of(row[column], column, where, source) for column in (columns.chosen, columns.rejected)
    ]
    if sides[0] == sides[1]:
        source.drop("preferred_equal_to_rejected", where)
        return None
    if any(side[-1]["role"] != "assistant" for side in sides):
        source.drop("without_assistant_turn", where)
        return None
    shared = common_start(sides)
    if any(len(side) != len(shared) + 1 for side in sides):
        source.drop("sides_without_a_common_prompt", where)
        return None
    prompt = _prompt_before(row, columns.prompt, shared, where, source)
    if not prompt:
        source.drop("without_a_prompt", where)
        return None
    return prompt, [side[-1]["content"] for side in sides]


def _prompt_before(
    row: Row, columns: PromptColumns | None, shared: Messages, where: str, source: Source
) -> Messages:
    """The messages before both responses: the prompt's, and those with which both sides begin.

    Many data sets repeat the prompt in both sides; then it stands there once.
    """
    if columns is None:
        return with_system(row, shared, where)
    prompt = read_prompt(row, columns, where, source)
    if isinstance(prompt, str):
        prompt = user_turn(prompt)
    if not shared:
        return prompt
    if messages_in(row[columns.main]) is not None:
        repeated = with_system(row, shared, where)
        return repeated if repeated[: len(prompt)] == prompt else prompt + shared
    if not is_repeated(row[columns.main], shared):
        raise UserError(
            f"{where}: field {columns.main}: is none of the messages with which both sides begin; "
            "correct it or remove the column"
        )
    return with_system(row, shared, where)


# --- scores -------------------------------------------------------------------------------------------------


def _scores(row: Row, where: str) -> tuple[float | None, float | None]:
    """The rewards of both sides, where the row has a score for each."""
    for names in SCORES:
        if not any(is_absent(row.get(name)) for name in names):
            scores = [parsed(row[name]) for name in names]
            if not all(map(is_reward, scores)):
                raise UserError(
                    f"{where}: fields {names[0]} and {names[1]}: need two finite numbers; correct the row"
                )
            return float(scores[0]), float(scores[1])
    return None, None
