"""Readers of responses with a reward each: scores of judges, and ranks.

Contract: every group has two or more different responses with a reward on each. What has none is left out and
counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groups.conversations import (
    PromptColumns,
    common_start,
    last_answer,
    read_messages_of,
    read_prompt,
    user_turn,
)
from groups.kinds import NUMBERS, RANKED_TEXTS, TEXTS, described, is_message, is_messages
from groups.record import Group, Prompt, Response
from groups.rows import Row, Rows, Source, is_number, is_reward, text_field
from groups.values import is_absent, parsed
from utils import UserError

HELPSTEER_TURN = "<extra_id_1>"  # stands before the role of every turn but the first
RESPONSES_OF_NCA = ("A0", "A1", "A2", "A3")


def rated_group(
    where: str,
    prompt: Prompt,
    candidates: Sequence[tuple[Any, Any]],
    source: Source,
    truncation: str = "keep_end",
) -> list[Group]:
    """A group of (text, score) candidates, or none where fewer than two can be used; drops are counted."""
    kept: dict[str, Response] = {}
    for number, (text, score) in enumerate(candidates, 1):
        score = parsed(score)
        if not isinstance(text, str) or not text.strip():
            source.drop("empty_responses", where)
        elif is_absent(score) or not is_number(score):  # UltraFeedback writes "N/A"
            source.drop("responses_without_score", where)
        elif not is_reward(score):
            raise UserError(f"{where}: response {number}: score {score} is no finite number; correct the row")
        elif text in kept:
            source.drop("repeated_responses", where)
        else:
            kept[text] = Response(text, float(score))
    if len(kept) < 2:
        source.drop("prompts_with_fewer_than_two_responses", where)
        return []
    return [Group(where, prompt, tuple(kept.values()), where=where, truncation=truncation)]


# --- scores -------------------------------------------------------------------------------------------------


def read_helpsteer2(rows: Rows, source: Source) -> list[Group]:
    """nvidia/HelpSteer2: the responses of one prompt in rows of their own; the reward is `helpfulness`."""
    return _rows_of_prompts(rows, source, "response", "helpfulness")


def helpsteer_prompt(text: str) -> Prompt:
    """A HelpSteer prompt as messages: its later turns begin with a mark and a role."""
    first, *others = text.split(HELPSTEER_TURN)
    messages = user_turn(first.removesuffix("\n"))
    for turn in others:
        name, _, said = turn.partition("\n")
        role = "assistant" if name.strip() == "Assistant" else "user"
        messages.append({"role": role, "content": said.removesuffix("\n")})
    return messages


def _rows_of_prompts(rows: Rows, source: Source, answer: str, score: str) -> list[Group]:
    """The groups of rows with one response each."""
    places: dict[str, str] = {}
    candidates: dict[str, list[tuple[Any, Any]]] = {}
    for where, row in rows:
        prompt = text_field(row, "prompt", where)
        places.setdefault(prompt, where)
        candidates.setdefault(prompt, []).append((row[answer], row[score]))
    groups = []
    for prompt, where in places.items():
        groups += rated_group(where, helpsteer_prompt(prompt), candidates[prompt], source)
    return groups


def read_ultrafeedback_reward(rows: Rows, source: Source) -> list[Group]:
    """ChenDRAG/ultrafeedback_reward, the NCA paper's data: four conversations and a score for each.

    They differ in the last turn. A response may stand as {"text", "score"}, too.
    """
    groups = []
    for where, row in rows:
        sides = [parsed(row[name]) for name in RESPONSES_OF_NCA]
        if all(map(is_messages, sides)):
            groups += _rated_conversations(where, row, sides, source)
            continue
        if not all(isinstance(side, dict) and "text" in side for side in sides) or is_absent(
            row.get("prompt")
        ):
            raise UserError(
                f"{where}: fields A0 to A3: need messages with score_A0 to score_A3 beside them, or objects "
                "with a text and a score and a prompt; correct the row"
            )
        prompt = read_prompt(row, PromptColumns("prompt", is_chat=True), where, source)
        groups += rated_group(where, prompt, [(side["text"], side.get("score")) for side in sides], source)
    return groups


def _rated_conversations(where: str, row: Row, sides: Sequence[Any], source: Source) -> list[Group]:
    read = [read_messages_of(side, name, where, source) for name, side in zip(RESPONSES_OF_NCA, sides)]
    prompt = common_start(read)
    if not prompt or any(len(side) != len(prompt) + 1 for side in read):
        source.drop("sides_without_a_common_prompt", where)
        return []
    if any(side[-1]["role"] != "assistant" for side in read):
        source.drop("without_assistant_turn", where)
        return []
    scores = [row.get(f"score_{name}") for name in RESPONSES_OF_NCA]
    return rated_group(where, prompt, list(zip([side[-1]["content"] for side in read], scores)), source)


def read_halos_scalar(rows: Rows, source: Source) -> list[Group]:
    """HALOs' scalar feedback: sampled outputs with a reward each, in rows of their own."""
    places: dict[str, tuple[str, Prompt]] = {}
    candidates: dict[str, list[tuple[Any, Any]]] = {}
    for where, row in rows:
        prompt = read_prompt(row, PromptColumns("prompt", is_chat=True), where, source)
        text = output_text(row, "output", where, source)
        if text is None:
            continue
        places.setdefault(str(prompt), (where, prompt))
        candidates.setdefault(str(prompt), []).append((text, row["reward"]))
    groups = []
    for name, (where, prompt) in places.items():
        groups += rated_group(where, prompt, candidates[name], source)
    return groups


def output_text(row: Row, field: str, where: str, source: Source) -> str | None:
    """A text, or the text of one assistant's message; None, counted, where there are other messages."""
    value = row[field]
    if not is_message(value) and not is_messages(value):
        return value
    messages = read_messages_of(value, field, where, source)
    if len(messages) != 1:
        source.drop("responses_of_several_turns", where)
        return None
    exchange = last_answer(value, [*user_turn(""), *messages], source, where)
    return None if exchange is None else exchange.text


# --- ranks --------------------------------------------------------------------------------------------------


def rewards_of_ranks(ranks: Sequence[Any]) -> list[float | None]:
    """Rewards in the order of ranks, 1 for the best: how many of the responses rank behind it.

    So K different ranks give K - 1 ... 0; a rank that is no number gives None.
    """
    numbers = [parsed(rank) for rank in ranks]
    known = [number for number in numbers if is_reward(number)]
    return [
        float(sum(other > number for other in known)) if is_reward(number) else None for number in numbers
    ]


def read_nectar(rows: Rows, source: Source) -> list[Group]:
    """berkeley-nest/Nectar: seven answers with GPT-4's rank.

    The space behind the prompt's "Assistant:" begins the answers, as in the DPO repository's data.
    """
    groups = []
    for where, row in rows:
        prompt, answers = text_field(row, "prompt", where), parsed(row["answers"])
        texts = [answer["answer"] for answer in answers]
        if prompt.endswith("Assistant: "):
            prompt = prompt[:-1]
            texts = [f" {text}" if isinstance(text, str) and text.strip() else text for text in texts]
        groups += _ranked_group(where, prompt, texts, [answer["rank"] for answer in answers], source)
    return groups


def read_ranks(rows: Rows, source: Source) -> list[Group]:
    """Responses with a rank, 1 for the best: objects, or lists of texts and of ranks."""
    groups = []
    for where, row in rows:
        texts, ranks = _texts_and_ranks(row, where)
        prompt = read_prompt(row, PromptColumns("prompt"), where, source)
        groups += _ranked_group(where, prompt, texts, ranks, source)
    return groups


def _texts_and_ranks(row: Row, where: str) -> tuple[list[Any], list[Any]]:
    responses, ranks = parsed(row["responses"]), parsed(row.get("rank"))
    if RANKED_TEXTS.holds(responses):
        return [r["text"] for r in responses], [r["rank"] for r in responses]
    if not TEXTS.holds(responses) or not NUMBERS.holds(ranks):
        raise UserError(
            f"{where}: field responses: is {described(responses)}, and format ranks needs objects with a "
            "text and a rank, or texts and a list of their ranks in rank; correct the row"
        )
    if len(ranks) != len(responses):
        raise UserError(
            f"{where}: field rank: has {len(ranks)} ranks for {len(responses)} responses; correct the row"
        )
    return responses, ranks


def _ranked_group(
    where: str, prompt: Prompt, texts: Sequence[Any], ranks: Sequence[Any], source: Source
) -> list[Group]:
    source.note("rewards are made from ranks", where)
    return rated_group(where, prompt, list(zip(texts, rewards_of_ranks(ranks))), source)
