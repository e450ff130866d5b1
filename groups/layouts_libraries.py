"""The formats of libraries: TRL, LLaMA-Factory, axolotl, OpenRLHF, OpenAI's files, HALOs' binary feedback.

Contract: see `groups.layout`. Where rows fit two formats that use the same columns, the one that stands first
is theirs. docs/data.md shows a row of each.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

from groups.conversations import PromptColumns
from groups.demonstrations import AnswerColumns, read_answers, read_text
from groups.kinds import (
    ANSWER,
    ANYTHING,
    FLAG,
    MESSAGES,
    NUMBER,
    NUMBERS,
    SPOKEN,
    TEXT,
    TEXT_OR_MESSAGES,
    TEXTS,
    TURNS,
    Kind,
    is_messages,
    one_of,
)
from groups.layout import SCORED, SYSTEM, Fields, Format, all_of
from groups.own import ROW_FIELDS, read_own
from groups.pairs import PairColumns, read_openai_pairs, read_pairs
from groups.preferences import ASSISTANT, read_hh
from groups.rows import Reader, Row
from groups.values import parsed


def _of_dialogue(row: Row) -> Hashable:
    chosen = str(row.get("chosen"))
    return chosen[: chosen.rfind("Assistant:")]


def _is_dialogue(row: Row) -> bool:
    return ASSISTANT in row["chosen"]


def _is_unrated(row: Row) -> bool:
    return "score" not in row


def _is_of_no_tree(row: Row) -> bool:
    return "message_tree_id" not in row


def _has_input_messages(value: Any) -> bool:
    value = parsed(value)
    return isinstance(value, dict) and is_messages(value.get("messages"))


OPENAI_INPUT = Kind("an object with messages", _has_input_messages)
CALLED = PromptColumns("instruction", below=("input",), is_chat=True)
CALLED_AFTER = CALLED._replace(history="history")
ALPACA: Fields = {"input": TEXT, "history": TURNS}
STATUS: Fields = {"status": one_of("tie", "unchanged", "swapped")}


def _pairs(prompt: PromptColumns | None, chosen: str = "chosen", rejected: str = "rejected") -> Reader:
    return partial(read_pairs, columns=PairColumns(prompt, chosen, rejected))


def _answers(prompt: PromptColumns | None, answer: str, label: str = "") -> Reader:
    return partial(read_answers, columns=AnswerColumns(prompt, answer, label))


# --- the table ----------------------------------------------------------------------------------------------

PAIRED = (
    Format(
        "hh",
        {"chosen": TEXT, "rejected": TEXT},
        read_hh,
        key=_of_dialogue,
        looks_like=_is_dialogue,
    ),
    Format(
        "trl-preference",
        {"prompt": TEXT_OR_MESSAGES, "chosen": ANSWER, "rejected": ANSWER},
        _pairs(PromptColumns("prompt")),
        optional=SYSTEM | SCORED,
    ),
    Format(
        "trl-preference-implicit",
        {"chosen": ANSWER, "rejected": ANSWER},
        _pairs(None),
        optional=SYSTEM | SCORED,
    ),
    Format(
        "messages-pairs",
        {"messages": TEXT_OR_MESSAGES, "chosen": ANSWER, "rejected": ANSWER},
        _pairs(PromptColumns("messages", is_chat=True)),
        optional=SYSTEM | SCORED,
    ),
    Format(
        "alpaca-pairs",
        {"instruction": TEXT, "chosen": TEXT, "rejected": TEXT},
        _pairs(CALLED_AFTER),
        optional=ALPACA | SYSTEM | SCORED,
    ),
    Format(
        "sharegpt-pairs",
        {"conversations": MESSAGES, "chosen": SPOKEN, "rejected": SPOKEN},
        _pairs(PromptColumns("conversations")),
        optional=SYSTEM | SCORED,
    ),
    Format(
        "argilla-pairs",
        {"instruction": TEXT, "chosen_response": TEXT, "rejected_response": TEXT},
        _pairs(CALLED, "chosen_response", "rejected_response"),
        optional={"input": TEXT, **SYSTEM, **SCORED},
    ),
    Format(
        "orca-pairs",
        {"question": TEXT, "chosen": ANSWER, "rejected": ANSWER},
        _pairs(PromptColumns("question", is_chat=True)),
        optional=SYSTEM | SCORED,
    ),
    Format(
        "input-pairs",
        {"input": TEXT_OR_MESSAGES, "chosen": ANSWER, "rejected": ANSWER},
        _pairs(PromptColumns("input", is_chat=True)),
        optional=SYSTEM | STATUS,
        repeated=frozenset({"chosen_score"}),  # distilabel-intel-orca-dpo-pairs, which scores no other side
    ),
    Format(
        "stack-exchange-paired",
        {"question": TEXT, "response_j": TEXT, "response_k": TEXT},
        _pairs(PromptColumns("question", is_chat=True), "response_j", "response_k"),
        optional=SYSTEM,
    ),
    Format(
        "openai-preference",
        {"input": OPENAI_INPUT, "preferred_output": MESSAGES, "non_preferred_output": MESSAGES},
        read_openai_pairs,
        optional=SYSTEM,
    ),
)

LABELLED = (
    Format(
        "trl-unpaired",
        {"prompt": TEXT_OR_MESSAGES, "completion": ANSWER, "label": FLAG},
        _answers(PromptColumns("prompt"), "completion", "label"),
        optional=SYSTEM,
    ),
    Format(
        "trl-unpaired-implicit",
        {"completion": MESSAGES, "label": FLAG},
        _answers(None, "completion", "label"),
        optional=SYSTEM,
    ),
    Format(
        "alpaca-kto",
        {"instruction": TEXT, "output": TEXT, "kto_tag": FLAG},
        _answers(CALLED_AFTER, "output", "kto_tag"),
        optional=ALPACA | SYSTEM,
    ),
    Format(
        "sharegpt-kto",
        {"conversations": MESSAGES, "kto_tag": FLAG},
        _answers(None, "conversations", "kto_tag"),
        optional=SYSTEM,
    ),
    Format(
        "messages-kto",
        {"messages": MESSAGES, "label": FLAG},
        _answers(None, "messages", "label"),
        optional=SYSTEM,
    ),
    Format(
        "argilla-kto",
        {"instruction": TEXT, "completion": TEXT, "label": FLAG},
        _answers(CALLED, "completion", "label"),
        optional={"input": TEXT, **SYSTEM},
    ),
    Format(
        "orca-kto",
        {"question": TEXT, "completion": TEXT, "label": FLAG},
        _answers(PromptColumns("question", is_chat=True), "completion", "label"),
        optional=SYSTEM,
    ),
    Format(
        "response-kto",
        {"prompt": TEXT_OR_MESSAGES, "response": ANSWER, "label": FLAG},
        _answers(PromptColumns("prompt"), "response", "label"),
        optional=SYSTEM,
    ),
    Format(
        "beavertails",
        {"prompt": TEXT, "response": TEXT, "is_safe": FLAG},
        _answers(PromptColumns("prompt", is_chat=True), "response", "is_safe"),
        optional=SYSTEM,
    ),
    Format(
        "halos-binary",
        {
            "prompt": TEXT_OR_MESSAGES,
            "output": ANSWER,
            "label": FLAG,
            "type": one_of("binary_feedback"),
        },
        _answers(PromptColumns("prompt", is_chat=True), "output", "label"),
        optional=SYSTEM,
        repeated=frozenset({"reward"}),
    ),
)

SHOWN = (
    Format(
        "prompt-completion",
        {"prompt": TEXT_OR_MESSAGES, "completion": ANSWER},
        _answers(PromptColumns("prompt"), "completion"),
        optional=SYSTEM,
    ),
    Format(
        "messages",
        {"messages": MESSAGES},
        _answers(None, "messages"),
        optional={"prompt": TEXT, **SYSTEM},
    ),
    Format(
        "alpaca",
        {"instruction": TEXT, "output": TEXT},
        _answers(CALLED_AFTER, "output"),
        optional=ALPACA | SYSTEM,
        repeated=frozenset({"text"}),
    ),
    Format(
        "sharegpt",
        {"conversations": MESSAGES},
        _answers(None, "conversations"),
        optional={"prompt": TEXT, **SYSTEM},
    ),
    Format(
        "input-output",
        {"input": TEXT_OR_MESSAGES, "output": ANSWER},
        _answers(PromptColumns("input"), "output"),
        optional=SYSTEM,
    ),
    Format(
        "conversation",
        {"conversation": MESSAGES},
        _answers(None, "conversation"),
        optional={"prompt": TEXT, **SYSTEM},
    ),
    Format(
        "instruction-response",
        {"instruction": TEXT, "response": TEXT},
        _answers(CALLED_AFTER._replace(below=("input", "context")), "response"),
        optional={"context": TEXT, **ALPACA, **SYSTEM},
        looks_like=_is_unrated,
    ),
    Format(
        "prompt-response",
        {"prompt": TEXT_OR_MESSAGES, "response": ANSWER},
        _answers(PromptColumns("prompt"), "response"),
        optional=SYSTEM,
    ),
    Format(
        "question-response",
        {"question": TEXT, "response": TEXT},
        _answers(PromptColumns("question", is_chat=True), "response"),
        optional=SYSTEM,
    ),
    Format(
        "question-answer",
        {"question": TEXT, "answer": TEXT},
        _answers(PromptColumns("question", below=("context", "article"), is_chat=True), "answer"),
        optional={"context": TEXT, "article": TEXT, **SYSTEM},
    ),
    Format(
        "query-response",
        {"query": TEXT, "response": TEXT},
        _answers(PromptColumns("query", is_chat=True), "response"),
        optional=SYSTEM,
    ),
    Format("text", {"text": TEXT}, read_text, looks_like=_is_of_no_tree),
)

LIBRARY_FORMATS = (*PAIRED, *LABELLED, *SHOWN)
# reads rows with `responses` that no other format fits
OWN = Format(
    "grove", {"prompt": TEXT_OR_MESSAGES, "responses": ANYTHING}, read_own, optional=all_of(*ROW_FIELDS)
)
REFUSED = {  # formats that nothing here trains on: their columns, and what they lack
    "stepwise-supervision": (
        {"prompt": TEXT, "completions": TEXTS, "labels": ANYTHING},
        "labels the steps of one response, and no loss here takes steps",
    ),
    "prompt-only": ({"prompt": TEXT_OR_MESSAGES}, "has a prompt and no response"),
    "context-messages": ({"context_messages": MESSAGES}, "has a prompt and no response"),
    "message-tree": (
        {"message_tree_id": TEXT, "text": TEXT, "role": TEXT},
        "has one message a row, which belongs to those before it in its tree",
    ),
    "rated-responses": (
        {"instruction": TEXT, "response": TEXT, "score": NUMBER},
        "scores one response a row, and nothing says which score is good",
    ),
    "token-ids": ({"input_ids": NUMBERS}, "has token ids, and texts are tokenized here"),
    "template-free": ({"segments": ANYTHING}, "has pieces of text that no chat template orders"),
}
