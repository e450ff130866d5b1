"""The answer of an evaluation in one sentence: which checkpoint is best, by how much, and is it sure?

Contract: the sentence says what the paired difference of the two best checkpoints says and no more: where its
interval holds 0, they cannot be told apart. It names what guessing gets where that is known.
"""

from __future__ import annotations

from reporting.record import Difference, Evaluation
from reporting.tables import as_number, as_p, with_interval
from reporting.words import HEADLINE, TITLES, better_side

UNIFORM = "(uniform over options)"
MEANINGS = {  # of a metric, where its title alone says too little
    "js_distance_probability": "JSD to the group",
    "js_distance_sampling": "JSD to the group, by sampling,",
    "true_reward": "reward",
    "reward_win_rate": "win rate by reward",
    "win_rate": "win rate",
    "length_controlled_win_rate": "length-controlled win rate",
}


def answer_of(evaluation: Evaluation) -> str:
    """The sentence; of the first headline metric that any checkpoint has."""
    metric = _first_metric(evaluation)
    if metric is None:
        return f"{_listed(evaluation.checkpoints)}: there is no number that says which is better."
    ranked = _ranked(evaluation, metric)
    best = ranked[0]
    meaning, value = _meaning_of(evaluation, metric), _in_words(evaluation, best, metric)
    if len(ranked) == 1:
        return f"{best} has a {meaning} of {value}{_beside_guessing(evaluation, best, metric)}."
    most = "lowest" if better_side(metric) < 0 else "highest"
    beside = _beside_guessing(evaluation, best, metric)
    against = _against(evaluation, best, ranked[1], metric)
    return f"{best} has the {most} {meaning}: {value}, {against}{beside}."


def _first_metric(evaluation: Evaluation) -> str | None:
    """The metric that a reader looks for first, of those that have a better side."""
    for metric in HEADLINE:
        if better_side(metric) and _ranked(evaluation, metric):
            return metric
    return None


def _ranked(evaluation: Evaluation, metric: str) -> list[str]:
    """The checkpoints that have the metric, the best one first."""
    values = {}
    for name in evaluation.checkpoints:
        summary = evaluation.results[name].get(metric)
        if summary is not None and summary["value"] is not None:
            values[name] = summary["value"]
    return sorted(values, key=lambda name: -better_side(metric) * values[name])


def _against(evaluation: Evaluation, best: str, second: str, metric: str) -> str:
    """How the best one compares to the second one, by their paired difference."""
    difference = _difference(evaluation, best, second, metric)
    if difference is None:
        return f"before {second} with {_in_words(evaluation, second, metric)} (not compared prompt by prompt)"
    amount = f"{as_number(abs(difference.value))} {'below' if difference.value < 0 else 'above'} {second}"
    if difference.low is None or difference.high is None:
        return f"{amount} (one question alone: nothing is known of the spread)"
    interval = f"[{as_number(difference.low)}, {as_number(difference.high)}]"
    if difference.low <= 0 <= difference.high:
        return (
            f"but it cannot be told apart from {second}: the interval of their paired difference, "
            f"{interval}, holds 0"
        )
    if as_number(abs(difference.value)) == as_number(0.0):  # sure, and too small to matter
        return f"and {second} has the same to three decimals"
    p = f", p = {as_p(difference.p)}" if difference.p is not None else ""
    p = ", p < 0.001" if difference.p is not None and difference.p < 0.001 else p
    return f"{amount} (95% interval of the paired difference {interval}{p})"


def _difference(evaluation: Evaluation, best: str, second: str, metric: str) -> Difference | None:
    """The paired difference `best` - `second`, whichever way it was taken."""
    for d in evaluation.differences:
        if d.metric == metric and (d.a, d.b) == (best, second):
            return d
        if d.metric == metric and (d.a, d.b) == (second, best):
            low = None if d.high is None else -d.high
            high = None if d.low is None else -d.low
            return d._replace(a=best, b=second, value=-d.value, low=low, high=high)
    return None


def _beside_guessing(evaluation: Evaluation, best: str, metric: str) -> str:
    """What guessing gets, and whether the best checkpoint is better than that."""
    guess = evaluation.results.get(UNIFORM, {}).get(metric)
    if guess is None or guess["value"] is None:
        return ""
    value = evaluation.results[best][metric]["value"]
    gets = f"a uniform guess over a question's options gets {as_number(guess['value'])}"
    is_better = better_side(metric) * (value - guess["value"]) > 0
    return f"; {gets}" if is_better else f"; {gets}, which is better than every checkpoint"


def _meaning_of(evaluation: Evaluation, metric: str) -> str:
    baseline = evaluation.settings.get("baseline")
    if "win_rate" in metric and isinstance(baseline, str):
        return f"{MEANINGS[metric]} against {baseline}"
    if metric in MEANINGS:
        return MEANINGS[metric]
    return next(titles[metric] for titles in TITLES.values() if metric in titles)


def _in_words(evaluation: Evaluation, name: str, metric: str) -> str:
    summary = evaluation.results[name][metric]
    return with_interval(summary["value"], summary["low"], summary["high"])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0] if names else "Nothing"
