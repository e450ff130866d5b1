"""What a data set holds, for data_audit.json: counts, drops, duplicates, ties, lengths, truncation, balance.

Contract: every number is counted from the groups, examples and trees that a run uses, or was counted where
something was dropped. `Auditor` takes them a part at a time and keeps a few numbers of each.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from groups.record import Example, Group, Response
from trees import TokenTree, deviations, reward_levels, tree_tokens

Audit = dict[str, Any]  # JSON: the name of a number -> the number, or a table of numbers
NOTE = "note: "  # what a reader says of rows that it keeps


def audit_groups(
    groups: Sequence[Group],
    examples: Sequence[Example],
    trees: Sequence[TokenTree] = (),
    counts: Counter | None = None,
) -> Audit:
    """What a split of a data set holds, for data_audit.json.

    Counts, what was dropped and why, duplicates, ties, lengths (tokens where there are trees, else
    characters), truncation, the share of tokens that sharing saves, and label balance.
    """
    auditor = Auditor()
    auditor.add_groups(groups)
    auditor.add_examples(groups, examples)
    auditor.add_trees(trees)
    return auditor.audit(counts)


COLUMNS = ("data", "split", "rows", "prompts", "responses", "examples", "left out", "cut", "prompt", "answer")


def audit_lines(audits: dict[str, dict[str, Audit]]) -> list[str]:
    """A run's audits, by data set and split, as lines: a table, then what was left out and why.

    prompt, answer: median and maximum length in tokens; cut: prompts and responses that were truncated.
    """
    rows, told = [COLUMNS], []
    for name, splits in audits.items():
        for split, audit in splits.items():
            rows.append(_row(name, split, audit))
            told += textwrap.wrap(_remarks(name, split, audit), 100, subsequent_indent="  ")
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        words = [cell.ljust(width) for cell, width in zip(row[:2], widths)]
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:])]
        lines.append("  ".join([*words, *numbers]).rstrip())
    return lines + told


def _remarks(name: str, split: str, audit: Audit) -> str:
    """What was left out of a split, or noted, with how often; "" where nothing was."""
    counts = {**audit["dropped"], **audit.get("notes", {})}
    for reason in ("prompts_in_train", "preferred_equal_to_rejected", "duplicate_prompts"):
        counts[reason.replace("_", " ")] = audit.get(reason, 0)
    remarks = "; ".join(f"{count} {why}" for why, count in counts.items() if count)
    return f"{name}, {split}: {remarks}" if remarks else ""


def _row(name: str, split: str, audit: Audit) -> tuple[str, ...]:
    """A split's row of the table."""
    counts = [audit[key] for key in ("rows_read", "prompts", "responses", "examples")]
    cut = audit.get("prompts_truncated", 0) + audit.get("responses_truncated", 0)
    counts += [sum(audit["dropped"].values()), cut]
    lengths = [_length(audit.get(f"{what}_tokens", {})) for what in ("prompt", "answer")]
    return name, split, *map(str, counts), *lengths


def _length(summary: dict[str, float]) -> str:
    """Median and maximum: 31 (59)."""
    return f"{summary['median']:g} ({summary['max']:g})" if summary else "-"


class Auditor:
    """Counts parts of a split: all of its groups, and all of its examples with their trees."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.prompts = Prompts()  # as texts
        self.encoded_prompts = Prompts()  # as ids
        self.prompt_characters, self.answer_characters = array("q"), array("q")
        self.rewards, self.answer_tokens = array("d"), array("q")
        self.preferred_beliefs: defaultdict[str, float] = defaultdict(float)  # as many examples
        self.weight = self.majority_weight = 0.0  # of trees

    def add_groups(self, groups: Sequence[Group]) -> None:
        """Count prompts, responses and rewards."""
        for group in groups:
            self.counts["prompts"] += 1
            self.counts["responses"] += len(group.responses)
            self.counts["duplicate_responses"] += len(group.responses) - len(set(group.responses))
            self.prompts.add(json.dumps(group.prompt).encode(), 0)
            self.prompt_characters.append(_prompt_length(group))
            self.answer_characters.extend(len(response.text) for response in group.responses)
            self._add_rewards(group)

    def _add_rewards(self, group: Group) -> None:
        rewards = [r.reward for r in group.responses if r.reward is not None]
        self.rewards.extend(rewards)
        levels = reward_levels(rewards)
        self.counts["equal_rewards"] += len(levels) > 1 and not any(deviations(levels))
        self.counts["some_equal_rewards"] += len(set(levels)) < len(levels)

    def add_examples(self, groups: Sequence[Group], examples: Sequence[Example]) -> None:
        """Count what is compared; `examples` are of these groups."""
        for example in examples:
            responses = groups[example.group].responses
            preferred = example.columns[0]
            self.counts["examples"] += example.row == 0
            self.counts["rows"] += 1
            self.counts["one_sided"] += None in example.columns
            for one, other in _compared(responses, example):
                same = one.text == other.text and one.belief == other.belief
                self.counts["preferred_equal_to_rejected"] += same
            if preferred is None:
                continue
            self.counts["with_preferred"] += 1
            if responses[preferred].belief:
                self.preferred_beliefs[responses[preferred].belief.label] += example.weight

    def add_trees(self, trees: Sequence[TokenTree]) -> None:
        """Count tokens. Trees of one prompt that come together share it."""
        by_prompt: defaultdict[tuple[int, ...], list[TokenTree]] = defaultdict(list)
        for tree in trees:
            by_prompt[tree.prompt].append(tree)
            self.counts["trees"] += tree.row == 0
            self.counts["rows_of_trees"] += 1
            self.counts["with_majority"] += tree.is_majority is not None
            self.weight += tree.weight
            self.majority_weight += tree.weight * bool(tree.is_majority)
            above = len(tree.prompt) + len(tree.belief) - 1
            for answer in filter(None, tree.answers):
                self.answer_tokens.append(len(answer))
                self.counts["tokens_one_by_one"] += above + len(answer)
        for prompt, of_prompt in by_prompt.items():
            self.encoded_prompts.add(np.asarray(prompt, np.int64).tobytes(), len(prompt))
            self.counts["tokens_shared"] += tree_tokens(of_prompt)

    def audit(self, counts: Counter | None = None) -> Audit:
        """The numbers. counts: what was dropped, and what else was counted on the way."""
        drops = Counter(counts or {})
        rows_read = drops.pop("rows_read", self.counts["prompts"])
        in_other_splits = drops.pop("in_other_splits", 0)
        in_train = drops.pop("prompts_in_train", 0)
        truncated = {key: drops.pop(key, 0) for key in ("prompts_truncated", "responses_truncated")}
        notes = {name.removeprefix(NOTE): drops.pop(name) for name in sorted(drops) if name.startswith(NOTE)}
        result: Audit = {
            "rows_read": rows_read,
            "in_other_splits": in_other_splits,
            "prompts": self.counts["prompts"],
            "responses": self.counts["responses"],
            "examples": self.counts["trees"] or self.counts["examples"],
            "dropped": {reason: count for reason, count in sorted(drops.items()) if count},
        }
        rows = self.counts["rows_of_trees"] or self.counts["rows"]
        if rows > result["examples"]:
            result["weighted_rows"] = rows  # of the examples that are whole groups
        if notes:
            result["notes"] = notes
        if in_train:
            result["prompts_in_train"] = in_train
        result["duplicate_prompts"] = self.counts["prompts"] - self.prompts.distinct()
        for name in (
            "duplicate_responses",
            "preferred_equal_to_rejected",
            "equal_rewards",
            "some_equal_rewards",
        ):
            result[name] = self.counts[name]
        result |= self._tokens(truncated) if self.counts["trees"] else self._characters()
        return result | self._balance()

    def _tokens(self, truncated: dict[str, int]) -> Audit:
        """Lengths in tokens, what was cut, what sharing saves, and how often the majority's belief leads."""
        one_by_one = self.counts["tokens_one_by_one"]
        shared = self.counts["tokens_shared"] - self.encoded_prompts.repeated()
        result: Audit = {
            "prompt_tokens": _summary(self.encoded_prompts.lengths_of_distinct()),
            "answer_tokens": _summary(self.answer_tokens),
            **truncated,
            "tokens_one_by_one": one_by_one,
            "tokens_shared": shared,
            "saved_by_sharing": round(1 - shared / one_by_one, 4),
        }
        if self.counts["with_majority"]:
            result["majority_share"] = round(self.majority_weight / self.weight, 4)
        return result

    def _characters(self) -> Audit:
        """Lengths in characters, where nothing is tokenized."""
        return {
            "prompt_characters": _summary(self.prompt_characters),
            "answer_characters": _summary(self.answer_characters),
        }

    def _balance(self) -> Audit:
        """How labels, beliefs and rewards are balanced, each where the data has them."""
        result: Audit = {}
        if self.counts["one_sided"]:
            result["desirable_share"] = round(self.counts["with_preferred"] / self.counts["examples"], 4)
        if self.preferred_beliefs:
            beliefs = sorted(self.preferred_beliefs.items())
            result["preferred_beliefs"] = {label: _number(count) for label, count in beliefs}
        if self.rewards:
            result["reward"] = _summary(self.rewards)
        return result


class Prompts:
    """Prompts by a hash, with their lengths: which recur, and how long the different ones are."""

    def __init__(self) -> None:
        self.hashes, self.lengths = array("Q"), array("q")

    def add(self, prompt: bytes, length: int) -> None:
        self.hashes.append(int.from_bytes(hashlib.blake2b(prompt, digest_size=8).digest()))
        self.lengths.append(length)

    def distinct(self) -> int:
        """How many different ones there are."""
        return len(np.unique(np.array(self.hashes, np.uint64)))

    def lengths_of_distinct(self) -> np.ndarray:
        """The length of every different one, in the order in which they came."""
        _, firsts = np.unique(np.array(self.hashes, np.uint64), return_index=True)
        return np.array(self.lengths, np.int64)[np.sort(firsts)]

    def repeated(self) -> int:
        """The lengths of those that were there before, together."""
        return int(sum(self.lengths) - self.lengths_of_distinct().sum())


def _compared(responses: Sequence[Response], example: Example) -> Iterator[tuple[Response, Response]]:
    """An example's preferred response with each of the others."""
    preferred, *others = example.columns
    if preferred is not None:
        for other in others:
            if other is not None:
                yield responses[preferred], responses[other]


def _prompt_length(group: Group) -> int:
    if isinstance(group.prompt, str):
        return len(group.prompt)
    return sum(len(message["content"]) for message in group.prompt)


def _number(count: float) -> float:
    """A count of whole examples as an int, one of parts of them to four digits."""
    return int(count) if count.is_integer() else round(count, 4)


def _summary(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    numbers = np.asarray(values)
    return {
        "min": numbers.min().item(),
        "median": float(np.median(numbers)),
        "mean": round(float(np.mean(numbers)), 2),
        "max": numbers.max().item(),
    }
