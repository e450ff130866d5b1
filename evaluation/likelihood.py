"""How likely a checkpoint finds the target responses: what data without a preference can say.

Contract: scored examples of one answer go in, summaries come out. The negative log-likelihood a token is
-sum log-prob / sum tokens over all prompts, so a long response counts more than a short one; perplexity is
its exponential, which the same intervals belong to. By prompt, every response's own mean over its tokens
counts alike, as in `loss=sft`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import metrics
from evaluation.differences import Difference, of_means
from evaluation.kinds import TARGET
from evaluation.scoring import Logps, Scored
from groups import Group


def summaries_of(scored: Sequence[Scored], groups: Sequence[Group]) -> dict[str, metrics.Summary]:
    """NLL a token, by prompt too, and perplexity, with the reference's where there is one."""
    if not scored:
        return {}
    of_policy = _nll(scored, groups, [example.logps for example in scored])
    summaries = {**of_policy, "perplexity": _exponential(of_policy["nll"])}
    if all(example.tree.reference for example in scored):
        of_reference = _nll(scored, groups, [list(example.tree.reference) for example in scored])
        summaries["reference_nll"] = of_reference["nll"]
        summaries["reference_perplexity"] = _exponential(of_reference["nll"])
    return summaries


def _nll(
    scored: Sequence[Scored], groups: Sequence[Group], logps: Sequence[Logps]
) -> dict[str, metrics.Summary]:
    """Over all tokens, and by prompt."""
    members = [groups[example.tree.group] for example in scored]
    questions = [group.question for group in members]
    of_prompts = [_nll_a_token(example, of_example) for example, of_example in zip(scored, logps)]
    weights = [group.weight for group in members]
    of_tokens = [weight * example.tokens[0] for weight, example in zip(weights, scored)]
    return {
        "nll": metrics.summarize(of_prompts, clusters=questions, weights=of_tokens),
        "nll_by_prompt": metrics.summarize(of_prompts, clusters=questions, weights=weights),
    }


def _nll_a_token(example: Scored, logps: Logps) -> float:
    (logp,) = logps
    return -logp / example.tokens[0]


def differences_of(
    by_checkpoint: Mapping[str, Sequence[Scored]], groups: Sequence[Group]
) -> list[Difference]:
    """How the checkpoints' NLLs differ, on the responses that are as many tokens for both."""
    of_prompts: dict[str, dict[int, float]] = {}
    tokens: dict[str, dict[int, float]] = {}
    for name, scored in by_checkpoint.items():
        of_prompts[name] = {e.tree.group: _nll_a_token(e, e.logps) for e in scored}
        tokens[name] = {e.tree.group: e.tokens[0] for e in scored}
    over_tokens = {name: {"nll": held} for name, held in of_prompts.items() if held}
    by_prompt = {name: {"nll_by_prompt": held} for name, held in of_prompts.items() if held}
    return [*of_means(over_tokens, groups, TARGET, tokens), *of_means(by_prompt, groups, TARGET)]


def _exponential(summary: metrics.Summary) -> metrics.Summary:
    """The perplexity of an NLL; None where it is larger than any number."""
    numbers = {key: summary[key] for key in ("value", "low", "high")}
    return {**{key: _exp(number) for key, number in numbers.items()}, "n": summary["n"]}


def _exp(number: float | None) -> float | None:
    try:
        return None if number is None else math.exp(number)
    except OverflowError:
        return None
