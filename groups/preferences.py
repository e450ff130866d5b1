"""Readers of preference data: pairs that people chose between, and responses with a reward.

Contract: every group has pairs, or two or more responses with a reward on each. What carries no preference is
left out and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from typing import Any

from groups.conversations import user_turn
from groups.rated import rated_group
from groups.record import Group, Response
from groups.rows import PairsOfPrompt, Row, Rows, Source, is_reward, text_field, usual_role
from groups.values import parsed
from utils import UserError

HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant:"  # the DPO repository's turns

# --- responses with a reward --------------------------------------------------------------------------------


def read_ultrafeedback(rows: Rows, source: Source) -> list[Group]:
    """openbmb/UltraFeedback: up to four completions with GPT-4's overall score.

    Use a revision of the data from after that score was corrected.
    """
    groups = []
    for where, row in rows:
        completions = parsed(row["completions"])
        if not _all_objects(completions, lambda c: "response" in c):
            raise UserError(
                f"{where}: field completions: is no list of objects with a response; correct the row"
            )
        candidates = [(c["response"], c.get("overall_score")) for c in completions]
        prompt = user_turn(text_field(row, "instruction", where))
        groups += rated_group(where, prompt, candidates, source)
    return groups


def read_armorm(rows: Rows, source: Source) -> list[Group]:
    """princeton-nlp/*-ultrafeedback-armorm: five sampled responses with ArmoRM scores.

    Repeated responses are counted.
    """
    groups = []
    for where, row in rows:
        texts, scores = parsed(row["all_generated_responses"]), parsed(row["all_rm_scores"])
        if not isinstance(texts, list) or not isinstance(scores, list) or len(texts) != len(scores):
            raise UserError(
                f"{where}: fields all_generated_responses and all_rm_scores: need lists of one length; "
                "correct the row"
            )
        prompt = user_turn(text_field(row, "prompt", where))
        groups += rated_group(where, prompt, list(zip(texts, scores)), source)
    return groups


def read_binarized(rows: Rows, source: Source) -> list[Group]:
    """HuggingFaceH4/ultrafeedback_binarized: two conversations that differ in the last turn, with scores."""
    groups = []
    for where, row in rows:
        sides = [parsed(row["chosen"]), parsed(row["rejected"])]
        if not all(_is_conversation(side) for side in sides):
            raise UserError(
                f"{where}: fields chosen and rejected: need lists of messages, "
                "with a role and a content each; correct the row"
            )
        if not all(_is_answered(side) for side in sides):  # the splits for generation have no answer
            source.drop("without_assistant_turn", where)
            continue
        chosen, rejected = [_plain_messages(side) for side in sides]
        if chosen[:-1] != rejected[:-1]:
            raise UserError(f"{where}: fields chosen and rejected: have different prompts; correct the row")
        if chosen == rejected:
            source.drop("preferred_equal_to_rejected", where)
            continue
        texts = [chosen[-1]["content"], rejected[-1]["content"]]
        scores = [row["score_chosen"], row["score_rejected"]]
        groups += rated_group(where, chosen[:-1], list(zip(texts, scores)), source)
    return groups


def read_se(rows: Rows, source: Source) -> list[Group]:
    """HuggingFaceH4/stack-exchange-preferences: answers with pm_score.

    The DPO repository takes `responses=pairs.all` of them.
    """
    groups = []
    for where, row in rows:
        answers = parsed(row["answers"])
        if not _all_objects(answers, lambda a: isinstance(a.get("text"), str)):
            raise UserError(f"{where}: field answers: is no list of objects with a text; correct the row")
        prompt = f"{HUMAN}{_plain_text(text_field(row, 'question', where))}{ASSISTANT}"
        candidates = [(f" {_plain_text(a['text'])}", a.get("pm_score")) for a in answers]
        of_row = rated_group(where, prompt, candidates, source, truncation="keep_start")
        groups += [group._replace(question=str(row.get("qid") or "")) for group in of_row]
    return groups


def _all_objects(values: Any, holds: Callable[[Row], bool]) -> bool:
    """Whether a raw value is a list of objects for each of which `holds` is true."""
    return isinstance(values, list) and all(isinstance(v, dict) and holds(v) for v in values)


def _is_conversation(side: Any) -> bool:
    return bool(side) and _all_objects(side, _is_message)


def _is_message(value: Row) -> bool:
    return isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _is_answered(side: Sequence[Row]) -> bool:
    return len(side) >= 2 and usual_role(side[-1]["role"]) == "assistant"


def _plain_messages(side: Sequence[Row]) -> list[dict[str, str]]:
    return [{"role": m["role"], "content": m["content"]} for m in side]


# --- pairs --------------------------------------------------------------------------------------------------


def read_hh(rows: Rows, source: Source) -> list[Group]:
    """Anthropic/hh-rlhf, as in the DPO repository: the prompt ends with the last "Assistant:".

    Long prompts keep their end.
    """
    merged: dict[str, PairsOfPrompt] = {}
    for where, row in rows:
        chosen, rejected = text_field(row, "chosen", where), text_field(row, "rejected", where)
        prompt = chosen[: chosen.rfind(ASSISTANT) + len(ASSISTANT)]
        if ASSISTANT not in chosen or not rejected.startswith(prompt):
            source.drop("sides_without_a_common_prompt", where)
            continue
        sides = [text[len(prompt) :] for text in (chosen, rejected)]
        if not all(side.strip() for side in sides):
            source.drop("empty_responses", where)
        elif sides[0] == sides[1]:
            source.drop("preferred_equal_to_rejected", where)
        else:
            gathered = merged.setdefault(prompt, PairsOfPrompt(where, {}, []))
            _add_pair(gathered, Response(sides[0]), Response(sides[1]), source)
    return [_paired_group(prompt, gathered, "keep_end") for prompt, gathered in merged.items()]


def read_shp(rows: Rows, source: Source) -> list[Group]:
    """stanfordnlp/SHP, as in the DPO repository: pairs of comments.

    Their scores differ by a factor of 2 or more. Long prompts keep their start.
    """
    merged: dict[str, PairsOfPrompt] = {}
    for where, row in rows:
        scores, label = [parsed(row["score_A"]), parsed(row["score_B"])], parsed(row["labels"])
        if not all(is_reward(s) for s in scores) or label not in (0, 1):
            raise UserError(
                f"{where}: fields score_A, score_B, labels: need two finite numbers and 0 or 1; "
                "correct the row"
            )
        if max(scores) < 2 * min(scores):
            source.drop("score_ratio_below_2", where)
            continue
        first = Response(f" {text_field(row, 'human_ref_A', where)}", float(scores[0]))
        second = Response(f" {text_field(row, 'human_ref_B', where)}", float(scores[1]))
        prompt = f"{HUMAN}{text_field(row, 'history', where)}{ASSISTANT}"
        preferred, other = (first, second) if label == 1 else (second, first)
        gathered = merged.setdefault(prompt, PairsOfPrompt(where, {}, []))
        _add_pair(gathered, preferred, other, source)
    return [_paired_group(prompt, gathered, "keep_start") for prompt, gathered in merged.items()]


def _add_pair(gathered: PairsOfPrompt, preferred: Response, other: Response, source: Source) -> None:
    """Add a pair to its prompt's; the same pair once more is counted."""
    pair = gathered.pair_of(preferred, other)
    if pair in gathered.pairs:
        source.drop("repeated_pairs", gathered.where)
    else:
        gathered.pairs.append(pair)


def _paired_group(prompt: str, gathered: PairsOfPrompt, truncation: str) -> Group:
    where, responses, pairs = gathered
    return Group(where, prompt, tuple(responses), tuple(pairs), where=where, truncation=truncation)


# --- HTML ---------------------------------------------------------------------------------------------------


def _plain_text(html: str) -> str:
    """The text of an HTML page; code keeps its tags, paragraphs become blank lines."""
    parser = _PlainText()
    parser.feed(html)
    parser.close()
    return "".join(parser.parts).strip()


class _PlainText(HTMLParser):
    """Gathers the parts of a page's text."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "code":
            self.parts.append("<code>")

    def handle_endtag(self, tag: str) -> None:
        if tag == "code":
            self.parts.append("</code>")
        elif tag == "p":
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if data.strip() or "\n" not in data:  # line breaks between tags are no text
            self.parts.append(data)
