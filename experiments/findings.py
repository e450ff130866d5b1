"""The GDPO paper's findings 1 to 4, each part seen, not seen or contradicted by a rule on an interval.

Contract: the rule stands beside every verdict. Intervals are 95% ones over questions, of values averaged over
seeds; a difference is paired by question.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from experiments.numbers import Numbers, Part
from experiments.rows import DPO, FEW_SHOT, GDPO, ICF, SFT, title_of
from measures.differences import Difference
from measures.summaries import Summary

Verdict = Literal["seen", "not seen", "contradicted", "not measured"]
Rule = Literal["above", "not above", "not below"]
RULES = {
    "above": "seen: the interval lies above 0; contradicted: below 0; not seen: it includes 0",
    "not above": "seen: the interval includes 0 or lies below; contradicted: it lies above 0",
    "not below": "seen: the interval includes 0 or lies above; contradicted: it lies below 0",
}
FINDINGS = {
    1: "minority margins rise under GDPO, and stay near or below 0 under DPO",
    2: "JSD: DPO above SFT above GDPO",
    3: "BPC and RS are highest under GDPO, and CBC is kept",
    4: "answers differ by the belief they state, and suit it, minority beliefs too",
}
BASELINES = (FEW_SHOT, ICF, SFT, DPO)  # of the paper


class Claim(NamedTuple):
    """A part of a finding: one row's measure, or the difference of two."""

    finding: int
    metric: str
    a: str
    b: str | None  # None: the measure itself
    rule: Rule


class Judged(NamedTuple):
    """A claim, and what the numbers say of it."""

    claim: Claim
    found: Summary | Difference | None
    verdict: Verdict


CLAIMS = (
    Claim(1, "margin_minority", GDPO, None, "above"),
    Claim(1, "margin_minority", DPO, None, "not above"),
    Claim(1, "margin_minority", GDPO, DPO, "above"),
    Claim(2, "js_distance_probability", DPO, SFT, "above"),
    Claim(2, "js_distance_probability", SFT, GDPO, "above"),
    *(Claim(3, metric, GDPO, other, "above") for metric in ("bpc", "rs") for other in BASELINES),
    Claim(3, "cbc", GDPO, SFT, "not below"),
    Claim(4, "belief_dependence", GDPO, None, "above"),
    Claim(4, "bpc_minority", GDPO, SFT, "above"),
    Claim(4, "bpc_minority", GDPO, DPO, "above"),
)


def judge(numbers: Numbers, part: Part) -> list[Judged]:
    """All claims on one population and split."""
    judged = []
    for claim in CLAIMS:
        if claim.b is None:
            found = numbers.summary(part, claim.a, claim.metric)
        else:
            found = numbers.difference(part, claim.a, claim.b, claim.metric)
        judged.append(Judged(claim, found, verdict_of(found, claim.rule)))
    return judged


def verdict_of(found: Summary | Difference | None, rule: Rule) -> Verdict:
    """By the rule; "not measured" where there is no interval."""
    if found is None or found["low"] is None or found["high"] is None:
        return "not measured"
    is_above, is_below = found["low"] > 0, found["high"] < 0
    if rule == "above":
        return "seen" if is_above else "contradicted" if is_below else "not seen"
    is_against = is_above if rule == "not above" else is_below
    return "contradicted" if is_against else "seen"


def whole(parts: list[Judged]) -> str:
    """A finding in a word, or how many of its parts are what: "seen", "5 of 9 seen, 1 contradicted"."""
    verdicts = [part.verdict for part in parts]
    if len(set(verdicts)) == 1:
        return verdicts[0]
    counts = [f"{verdicts.count('seen')} of {len(verdicts)} parts seen"]
    for verdict in ("not seen", "contradicted", "not measured"):
        if verdict in verdicts:
            counts.append(f"{verdicts.count(verdict)} {verdict}")
    return ", ".join(counts)


def words_of(claim: Claim) -> str:
    """ "GDPO - SFT", or "GDPO"."""
    return title_of(claim.a) if claim.b is None else f"{title_of(claim.a)} - {title_of(claim.b)}"
