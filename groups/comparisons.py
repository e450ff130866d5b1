"""Readers of two responses with a verdict beside them: HelpSteer, SafeRLHF, the arena, RewardBench 2, HALOs.

Contract: a row becomes a group with the pairs that its verdict gives. A tie is no preference: it is left out
and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groups.conversations import (
    Messages,
    PromptColumns,
    common_start,
    read_messages_of,
    read_prompt,
    user_turn,
)
from groups.kinds import flag
from groups.pairs import pair_group
from groups.rated import helpsteer_prompt, output_text
from groups.record import Group, Response
from groups.rows import Rows, Source, is_reward, text_field
from groups.values import is_absent, parsed
from utils import UserError

WINNERS = {"model_a": 0, "model_b": 1}
TIES = ("tie", "tie (bothbad)", "both_bad")


def _ordered(sides: Sequence[Any], preferred: int) -> list[Any]:
    return [sides[preferred], sides[1 - preferred]]


# --- HelpSteer ----------------------------------------------------------------------------------------------


def read_helpsteer2_preference(rows: Rows, source: Source) -> list[Group]:
    """nvidia/HelpSteer2, folder preference: two responses, a strength of -3 (the first) to 3 (the second)."""
    groups = []
    for where, row in rows:
        prompt = helpsteer_prompt(text_field(row, "prompt", where))
        texts = [row["response_1"], row["response_2"]]
        groups += _by_strength(where, prompt, texts, row["preference_strength"], source)
    return groups


def read_helpsteer3(rows: Rows, source: Source) -> list[Group]:
    """nvidia/HelpSteer3's preferences: a conversation, two responses, -3 (the first) to 3 (the second)."""
    groups = []
    for where, row in rows:
        prompt = read_messages_of(row["context"], "context", where, source)
        texts = [row["response1"], row["response2"]]
        groups += _by_strength(where, prompt, texts, row["overall_preference"], source)
    return groups


def _by_strength(
    where: str, prompt: Messages, texts: Sequence[str], strength: Any, source: Source
) -> list[Group]:
    strength = parsed(strength)
    if not is_reward(strength):
        raise UserError(f"{where}: the preference {strength} is no finite number; correct the row")
    if strength == 0:
        source.drop("ties", where)
        return []
    return pair_group(where, prompt, _ordered(texts, int(strength > 0)), source)


# --- PKU-SafeRLHF -------------------------------------------------------------------------------------------


def read_saferlhf(rows: Rows, source: Source, verdict: str = "better_response_id") -> list[Group]:
    """PKU-Alignment/PKU-SafeRLHF: two responses and the number of the more helpful one, or of the safer."""
    groups = []
    for where, row in rows:
        prompt = user_turn(text_field(row, "prompt", where))
        preferred = int(flag(row[verdict]))
        texts = [row["response_0"], row["response_1"]]
        groups += pair_group(where, prompt, _ordered(texts, preferred), source)
    return groups


# --- the arena ----------------------------------------------------------------------------------------------


def read_arena(rows: Rows, source: Source) -> list[Group]:
    """lmsys/chatbot_arena_conversations and later ones: two conversations and who won.

    Conversations whose earlier answers differ have no common prompt.
    """
    groups = []
    for where, row in rows:
        if row["winner"] in TIES:
            source.drop("ties", where)
            continue
        names = ("conversation_a", "conversation_b")
        sides = [read_messages_of(row[name], name, where, source) for name in names]
        shared = common_start(sides)
        if any(side[-1]["role"] != "assistant" for side in sides):
            source.drop("without_assistant_turn", where)
        elif not shared or any(len(side) != len(shared) + 1 for side in sides):
            source.drop("sides_without_a_common_prompt", where)
        else:
            texts = [side[-1]["content"] for side in sides]
            groups += pair_group(where, shared, _ordered(texts, WINNERS[row["winner"]]), source)
    return groups


def read_arena_turns(rows: Rows, source: Source) -> list[Group]:
    """lmsys/lmsys-arena-human-preference-55k: lists of what the user said and of what two models answered."""
    groups = []
    for where, row in rows:
        preferred = [bool(flag(row[f"winner_model_{side}"])) for side in "ab"]
        if preferred == [False, False]:
            source.drop("ties", where)
            continue
        if preferred == [True, True]:
            raise UserError(
                f"{where}: fields winner_model_a and winner_model_b: both won; give 1 for one of them"
            )
        said, *answers = (parsed(row[name]) for name in ("prompt", "response_a", "response_b"))
        if any(len(side) != len(said) for side in answers):
            raise UserError(
                f"{where}: fields prompt, response_a, response_b: have lists of different lengths; "
                "correct the row"
            )
        if answers[0][:-1] != answers[1][:-1]:
            source.drop("sides_without_a_common_prompt", where)
        elif None in said or None in answers[0][:-1]:
            source.drop("empty_turns", where)
        else:
            prompt = _turns(said, answers[0])
            texts = [side[-1] for side in answers]
            groups += pair_group(where, prompt, _ordered(texts, preferred.index(True)), source)
    return groups


def _turns(said: Sequence[str], answered: Sequence[str]) -> Messages:
    """The messages up to the last that the user said."""
    messages: Messages = []
    for text, answer in zip(said[:-1], answered):
        messages += [*user_turn(text), {"role": "assistant", "content": answer}]
    return messages + user_turn(said[-1])


# --- benchmarks of rewards ----------------------------------------------------------------------------------


def read_rewardbench2(rows: Rows, source: Source) -> list[Group]:
    """allenai/reward-bench-2: correct responses, each of which is preferred to every other one."""
    groups = []
    for where, row in rows:
        prompt = user_turn(text_field(row, "prompt", where))
        sides = [parsed(row["chosen"]), parsed(row["rejected"])]
        number_of: dict[str, int] = {}
        for text in (text for side in sides for text in side):
            if not text or not text.strip():
                source.drop("empty_responses", where)
            elif text in number_of:
                source.drop("repeated_responses", where)
            else:
                number_of[text] = len(number_of)
        chosen = [number_of[text] for text in dict.fromkeys(sides[0]) if text in number_of]
        rejected = [number_of[text] for text in dict.fromkeys(sides[1]) if text in number_of]
        pairs = tuple((better, worse) for better in chosen for worse in rejected if better != worse)
        if not pairs:
            source.drop("prompts_with_fewer_than_two_responses", where)
            continue
        groups.append(Group(where, prompt, tuple(map(Response, number_of)), pairs, where=where))
    return groups


# --- HALOs --------------------------------------------------------------------------------------------------


def read_halos_pairs(rows: Rows, source: Source) -> list[Group]:
    """HALOs' pairwise feedback: label 1 prefers output_A; rewards stand beside both."""
    groups = []
    for where, row in rows:
        prompt = read_prompt(row, PromptColumns("prompt", is_chat=True), where, source)
        texts = [output_text(row, name, where, source) for name in ("output_A", "output_B")]
        if None in texts:
            continue
        rewards = [_reward(row.get(name), name, where) for name in ("reward_A", "reward_B")]
        preferred = 0 if flag(row["label"]) else 1
        groups += pair_group(
            where, prompt, _ordered(texts, preferred), source, tuple(_ordered(rewards, preferred))
        )
    return groups


def _reward(value: Any, field: str, where: str) -> float | None:
    value = parsed(value)
    if is_absent(value):
        return None
    if not is_reward(value):
        raise UserError(f"{where}: field {field}: {str(value)[:40]} is no finite number; correct the row")
    return float(value)
