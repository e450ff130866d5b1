"""Prove data/opinions complete, unique and split.

Contract: the first fault is named with its row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from groups import DATA, OPINION_SPLITS, read_rows
from utils import UserError

STYLES = ("casual", "formal", "street", "interview", "online")
SPLITS = (Counter(train=3, eval=1, test=1), Counter(test_questions=5))  # of a question's phrasings
COMMON = {"about", "right", "earth", "taxes", "people", "raise", "some"}  # no other word would do

Row = Mapping[str, Any]


def check_opinions() -> dict[str, int]:
    """Prove data/opinions complete, unique and split, and count it. Raises UserError at the first fault."""
    questions = {row["id"]: row for row in read_rows(DATA / "opinions" / "questions.jsonl")}
    rows = read_rows(DATA / "opinions" / "language.jsonl")
    seen: dict[str, str] = {}
    splits: dict[str, Counter] = {name: Counter() for name in questions}
    for row in rows:
        where = f"language.jsonl, {row['id']}/{row['style']}"
        _check_complete(row, questions.get(row["id"]), where)
        splits[row["id"]][row["split"]] += 1
        _check_unique(row, seen, where)
        _check_words(row, where)
    for name, counts in splits.items():
        if counts not in SPLITS:
            raise UserError(
                f"language.jsonl, {name}: split {dict(counts)}; "
                "three phrasings train, one eval, one test, or all five test_questions"
            )
    of_split = Counter(row["split"] for row in rows)
    return {
        "questions": len(questions),
        "prompts": len(rows),
        "answers": sum(len(row["answers"]) for row in rows),
        **{split: of_split[split] for split in OPINION_SPLITS},
    }


def _check_complete(row: Row, question: Row | None, where: str) -> None:
    known = question is not None and row["style"] in STYLES
    if not known or set(row["answers"]) != set(question["options"]):
        raise UserError(
            f"{where}: unknown question or style, or answers that are not the question's options; "
            "complete the row"
        )


def _check_unique(row: Row, seen: dict[str, str], where: str) -> None:
    """Raises UserError for a text that stood before; `seen` maps texts without punctuation to their place."""
    texts = {"id": f"{row['id']}/{row['style']}", "prompt": row["prompt"], **row["answers"]}
    for name, text in texts.items():
        key = re.sub(r"\W+", " ", text.lower()).strip()
        if key in seen:
            raise UserError(f"{where}: {name} stands also at {seen[key]}; write another text")
        seen[key] = where


def _check_words(row: Row, where: str) -> None:
    for option, text in row["answers"].items():
        repeated = ", ".join(sorted(repeated_words(option, text)))
        if repeated:
            raise UserError(
                f"{where}: the answer for {option!r} repeats {repeated}; voice the option in other words"
            )


def repeated_words(option: str, answer: str) -> set[str]:
    """Words of the option, or the option itself, that its answer repeats.
    Short and unavoidable words are free."""
    answer, whole = answer.lower(), option.lower()
    words = set()
    for word in re.findall(r"[^\W\d_]+", whole):
        if len(word) >= 5 or word in ("agree", "favor"):
            words.add(word)
    words -= COMMON
    if whole not in {*COMMON, "no"}:
        words.add(whole)
    repeated = {word for word in words if re.search(rf"\b{re.escape(word)}\b", answer)}
    if option in ("Yes", "No") and re.match(r"(yes|no)\b", answer):
        repeated.add(option)
    return repeated
