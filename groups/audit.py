"""What a data set holds, for data_audit.json: counts, drops, duplicates, ties, lengths, truncation, balance.

Contract: every number is counted from the groups, examples and trees that a run uses, or was counted where
something was dropped.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from forest import TokenTree, tree_tokens
from groups.record import Example, Group, Response
from trees import deviations, reward_levels

Audit = dict[str, Any]  # JSON: the name of a number -> the number, or a table of numbers
Split = tuple[list[Group], list[Example], list[TokenTree]]


def audit_splits(
    splits: dict[str, Split], counts: dict[str, dict[str, Counter]]
) -> dict[str, dict[str, Audit]]:
    """{data set: {split: audit}} of splits whose groups may come from several data sets.

    `counts` is {split: {data set: what was dropped}}.
    """
    result: dict[str, dict[str, Audit]] = {}
    for split, parts in splits.items():
        for name, dropped in counts[split].items():
            result.setdefault(name, {})[split] = audit_groups(*_of_data_set(name, *parts), dropped)
    return result


def _of_data_set(
    name: str, groups: Sequence[Group], examples: Sequence[Example], trees: Sequence[TokenTree]
) -> Split:
    """The part of a split that comes from one data set; its groups are numbered anew, its trees are not."""
    numbers = [i for i, group in enumerate(groups) if group.dataset == name]
    new_number = {old: new for new, old in enumerate(numbers)}
    return (
        [groups[i] for i in numbers],
        [e._replace(group=new_number[e.group]) for e in examples if e.group in new_number],
        [tree for tree in trees if tree.group in new_number],
    )


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
    drops = Counter(counts or {})
    rows_read = drops.pop("rows_read", len(groups))
    in_other_splits = drops.pop("in_other_splits", 0)
    in_train = drops.pop("prompts_in_train", 0)
    truncated = {key: drops.pop(key, 0) for key in ("prompts_truncated", "responses_truncated")}
    result: Audit = {
        "rows_read": rows_read,
        "in_other_splits": in_other_splits,
        "prompts": len(groups),
        "responses": sum(len(g.responses) for g in groups),
        "examples": len(trees) or len(examples),
        "dropped": {reason: count for reason, count in sorted(drops.items()) if count},
    }
    if in_train:
        result["prompts_in_train"] = in_train
    result |= _duplicates(groups, examples)
    result |= _token_counts(trees, truncated) if trees else _character_counts(groups)
    result |= _balance(groups, examples)
    return result


def _duplicates(groups: Sequence[Group], examples: Sequence[Example]) -> Audit:
    """Prompts and responses that recur, and preferences that prefer nothing."""
    rewards = [reward_levels(_rewards_of(g)) for g in groups]
    compared = _compared(groups, examples)
    return {
        "duplicate_prompts": len(groups) - len({json.dumps(g.prompt) for g in groups}),
        "duplicate_responses": sum(len(g.responses) - len(set(g.responses)) for g in groups),
        "preferred_equal_to_rejected": sum(a.text == b.text and a.belief == b.belief for a, b in compared),
        "equal_rewards": sum(len(r) > 1 and not any(deviations(r)) for r in rewards),
        "some_equal_rewards": sum(len(set(r)) < len(r) for r in rewards),
    }


def _compared(groups: Sequence[Group], examples: Sequence[Example]) -> list[tuple[Response, Response]]:
    """The preferred response of every example with each of the others that it is compared with."""
    compared = []
    for example in examples:
        responses = groups[example.group].responses
        preferred, *others = example.columns
        if preferred is not None:
            compared += [(responses[preferred], responses[c]) for c in others if c is not None]
    return compared


def _rewards_of(group: Group) -> list[float]:
    return [r.reward for r in group.responses if r.reward is not None]


def _token_counts(trees: Sequence[TokenTree], truncated: dict[str, int]) -> Audit:
    """Lengths in tokens, what was cut, what sharing saves, and how often the majority's belief leads."""
    by_prompt: defaultdict[tuple[int, ...], list[TokenTree]] = defaultdict(list)
    for tree in trees:
        by_prompt[tree.prompt].append(tree)
    paths = [(tree, answer) for tree in trees for answer in tree.answers if answer]
    one_by_one = sum(len(tree.prompt) + len(tree.belief) + len(answer) - 1 for tree, answer in paths)
    shared = sum(tree_tokens(of_prompt) for of_prompt in by_prompt.values())
    result: Audit = {
        "prompt_tokens": _summary([len(prompt) for prompt in by_prompt]),
        "answer_tokens": _summary([len(answer) for _, answer in paths]),
        **truncated,
        "tokens_one_by_one": one_by_one,
        "tokens_shared": shared,
        "saved_by_sharing": round(1 - shared / one_by_one, 4),
    }
    if trees[0].is_majority is not None:
        result["majority_share"] = round(sum(bool(t.is_majority) for t in trees) / len(trees), 4)
    return result


def _character_counts(groups: Sequence[Group]) -> Audit:
    """Lengths in characters, where nothing is tokenized."""
    return {
        "prompt_characters": _summary([_prompt_length(g) for g in groups]),
        "answer_characters": _summary([len(r.text) for g in groups for r in g.responses]),
    }


def _prompt_length(group: Group) -> int:
    if isinstance(group.prompt, str):
        return len(group.prompt)
    return sum(len(message["content"]) for message in group.prompt)


def _balance(groups: Sequence[Group], examples: Sequence[Example]) -> Audit:
    """How labels, beliefs and rewards are balanced, each where the data has them."""
    result: Audit = {}
    if any(None in e.columns for e in examples):
        desirable = sum(e.columns[0] is not None for e in examples)
        result["desirable_share"] = round(desirable / len(examples), 4)
    preferred = [groups[e.group].responses[e.columns[0]] for e in examples if e.columns[0] is not None]
    beliefs = Counter(r.belief.label for r in preferred if r.belief)
    if beliefs:
        result["preferred_beliefs"] = dict(sorted(beliefs.items()))
    rewards = [reward for g in groups for reward in _rewards_of(g)]
    if rewards:
        result["reward"] = _summary(rewards)
    return result


def _summary(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        "min": min(values),
        "median": float(np.median(values)),
        "mean": round(float(np.mean(values)), 2),
        "max": max(values),
    }
