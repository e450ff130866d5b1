"""The formats of data sets on the hub, and of HALOs' feedback, which look like none of a library.

Contract: see `groups.layout`. docs/data.md shows a row of each.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

from groups.beliefs import read_mmoqa
from groups.comparisons import (
    TIES,
    WINNERS,
    read_arena,
    read_arena_turns,
    read_halos_pairs,
    read_helpsteer2_preference,
    read_helpsteer3,
    read_rewardbench2,
    read_saferlhf,
)
from groups.conversations import PromptColumns
from groups.kinds import (
    ANSWER,
    ANYTHING,
    FLAG,
    MESSAGES,
    NUMBER,
    NUMBERS,
    RANKED_ANSWERS,
    RANKED_TEXTS,
    TEXT,
    TEXT_OR_MESSAGES,
    TEXTS,
    is_blank,
    is_messages,
    one_of,
)
from groups.layout import SYSTEM, Format, all_of
from groups.pairs import PairColumns, read_pairs
from groups.preferences import (
    read_armorm,
    read_binarized,
    read_se,
    read_shp,
    read_ultrafeedback,
)
from groups.rated import (
    read_halos_scalar,
    read_helpsteer2,
    read_nectar,
    read_ranks,
    read_ultrafeedback_reward,
)
from groups.rows import Row
from groups.share_tables import key_of_shares, read_shares
from groups.surveys import read_goqa, read_opinionqa, read_subpop
from groups.values import parsed

REWARDBENCH_SUBSETS = (
    "alpacaeval-easy alpacaeval-length alpacaeval-hard mt-bench-easy mt-bench-med mt-bench-hard "
    "llmbar-natural llmbar-adver-neighbor llmbar-adver-GPTInst llmbar-adver-GPTOut llmbar-adver-manual "
    "refusals-dangerous refusals-offensive xstest-should-refuse xstest-should-respond donotanswer math-prm "
    "hep-cpp hep-go hep-java hep-js hep-python hep-rust"
).split()
SUBSET = one_of(*REWARDBENCH_SUBSETS)
VERDICT = one_of(*WINNERS, *TIES)


# --- keys of rows of one prompt -----------------------------------------------------------------------------


def _of_prompt(row: Row) -> Hashable:
    return str(row.get("prompt")), _numbers(row.get("probabilities")), str(row.get("context"))


def _numbers(value: Any) -> Hashable:
    """Shares that are alike, however they are printed."""
    value = parsed(value)
    if isinstance(value, list) and all(isinstance(entry, int | float) for entry in value):
        return tuple(value)
    return str(value)


def _of_prompt_alone(row: Row) -> Hashable:
    return str(row.get("prompt"))


def _of_history(row: Row) -> Hashable:
    return str(row.get("history"))


# --- what else tells a format -------------------------------------------------------------------------------


def _holds_list(row: Row, column: str) -> bool:
    return isinstance(parsed(row[column]), list)


def _has_messages(row: Row) -> bool:
    return is_messages(row["A0"]) or not is_blank(row.get("prompt"))


def _is_of_rewardbench(row: Row) -> bool:
    return SUBSET.holds(row.get("subset"))


def _has_ranks(row: Row) -> bool:
    """Whether the ranks stand in the responses, or in a list beside them."""
    in_responses = RANKED_TEXTS.holds(row["responses"])
    return in_responses or (TEXTS.holds(row["responses"]) and NUMBERS.holds(row.get("rank")))


# --- the table ----------------------------------------------------------------------------------------------

SURVEYS = (
    Format(
        "mmoqa",
        all_of(
            "prompt",
            "accept_response",
            "reject_response",
            "accept_choice_id",
            "reject_choice_id",
            "probabilities",
        ),
        read_mmoqa,
        key=_of_prompt,
        optional=all_of(
            "context",
            "question",
            "options",
            "selections",
            "answers",
            "options_map",
            "accept_choice",
            "reject_choice",
        ),
    ),
    Format(
        "goqa",
        all_of("question", "selections", "options"),
        read_goqa,
        takes_member=True,
        optional=all_of("group", "option_class"),
    ),
    Format(
        "opinionqa",
        all_of("MC_options", "question_text"),
        read_opinionqa,
        takes_member=True,
        uses_all=True,
    ),
    Format(
        "subpop",
        all_of("question", "options", "responses", "attribute", "group"),
        read_subpop,
        takes_member=True,
        optional=all_of("refusal_rate", "option_class"),
    ),
    Format(
        "shares",
        all_of("question", "option", "share"),
        read_shares,
        key_of_shares,
        takes_member=True,
        optional=all_of("group", "weight", "class"),
    ),
    Format(
        "counts",
        all_of("question", "option", "count"),
        read_shares,
        key_of_shares,
        takes_member=True,
        optional=all_of("group", "weight", "class"),
    ),
)

REWARDED = (
    Format(
        "ultrafeedback",
        all_of("instruction", "completions"),
        read_ultrafeedback,
        looks_like=partial(_holds_list, column="completions"),
    ),
    Format(
        "armorm",
        all_of("prompt", "all_generated_responses", "all_rm_scores"),
        read_armorm,
        repeated=frozenset({"chosen", "rejected"}),
    ),
    Format(
        "binarized",
        {"chosen": MESSAGES, "rejected": MESSAGES} | all_of("score_chosen", "score_rejected"),
        read_binarized,
        repeated=frozenset({"prompt", "messages"}),
    ),
    Format(
        "se",
        all_of("question", "answers"),
        read_se,
        looks_like=partial(_holds_list, column="answers"),
    ),
    Format(
        "helpsteer2",
        {"prompt": TEXT, "response": TEXT, "helpfulness": NUMBER},
        read_helpsteer2,
        key=_of_prompt_alone,
    ),
    Format("nectar", {"prompt": TEXT, "answers": RANKED_ANSWERS}, read_nectar),
    Format(
        "ranks",
        {"prompt": TEXT_OR_MESSAGES, "responses": ANYTHING},
        read_ranks,
        optional={"rank": NUMBERS, **SYSTEM},
        looks_like=_has_ranks,
    ),
    Format(
        "ultrafeedback-reward",
        all_of("A0", "A1", "A2", "A3"),
        read_ultrafeedback_reward,
        optional={"prompt": TEXT_OR_MESSAGES, **SYSTEM}
        | all_of("score_A0", "score_A1", "score_A2", "score_A3"),
        looks_like=_has_messages,
    ),
    Format(
        "halos-scalar",
        {
            "prompt": TEXT_OR_MESSAGES,
            "output": ANSWER,
            "reward": NUMBER,
            "type": one_of("scalar_feedback"),
        },
        read_halos_scalar,
        key=_of_prompt_alone,
        optional=SYSTEM,
    ),
)

COMPARED = (
    Format(
        "shp",
        all_of("history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"),
        read_shp,
        key=_of_history,
    ),
    Format(
        "helpsteer2-preference",
        {"prompt": TEXT, "response_1": TEXT, "response_2": TEXT, "preference_strength": NUMBER},
        read_helpsteer2_preference,
    ),
    Format(
        "helpsteer3",
        {"context": MESSAGES, "response1": TEXT, "response2": TEXT, "overall_preference": NUMBER},
        read_helpsteer3,
    ),
    Format(
        "helpsteer3-edits",
        {"context": MESSAGES, "good_edited_response": TEXT, "bad_edited_response": TEXT},
        partial(
            read_pairs,
            columns=PairColumns(PromptColumns("context"), "good_edited_response", "bad_edited_response"),
        ),
        optional=SYSTEM,
    ),
    Format(
        "saferlhf",
        {"prompt": TEXT, "response_0": TEXT, "response_1": TEXT, "better_response_id": FLAG},
        read_saferlhf,
        repeated=frozenset({"safer_response_id"}),
    ),
    Format(
        "saferlhf-safer",
        {"prompt": TEXT, "response_0": TEXT, "response_1": TEXT, "safer_response_id": FLAG},
        partial(read_saferlhf, verdict="safer_response_id"),
        is_recognised=False,
    ),
    Format(
        "arena",
        {"conversation_a": MESSAGES, "conversation_b": MESSAGES, "winner": VERDICT},
        read_arena,
    ),
    Format(
        "arena-turns",
        {
            "prompt": TEXTS,
            "response_a": TEXTS,
            "response_b": TEXTS,
            "winner_model_a": FLAG,
            "winner_model_b": FLAG,
        },
        read_arena_turns,
        optional={"winner_tie": FLAG},
    ),
    Format(
        "rewardbench",
        {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT},
        partial(read_pairs, columns=PairColumns(PromptColumns("prompt", is_chat=True))),
        optional={"subset": SUBSET, **SYSTEM},
        looks_like=_is_of_rewardbench,
    ),
    Format(
        "rewardbench2",
        {"prompt": TEXT, "chosen": TEXTS, "rejected": TEXTS, "num_correct": NUMBER},
        read_rewardbench2,
    ),
    Format(
        "halos-pairs",
        {
            "prompt": TEXT_OR_MESSAGES,
            "output_A": ANSWER,
            "output_B": ANSWER,
            "label": FLAG,
            "type": one_of("pairwise_feedback"),
        },
        read_halos_pairs,
        optional={"reward_A": NUMBER, "reward_B": NUMBER, **SYSTEM},
    ),
)

HUB_FORMATS = (*SURVEYS, *REWARDED, *COMPARED)
