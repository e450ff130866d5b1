"""Where DPO goes: with the accepted belief drawn from p* and the other uniformly, its population optimum is
pi_ref(b) p*(b)^(1/beta), normalised. The theory as a line, trained models as points.

Contract: distributions over a prompt's belief classes in, means over prompts out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.results import Json
from experiments.rows import SFT, Place, Wanted
from measures.distributions import js_distance
from reporting.reading import read_evaluation
from reporting.record import Shares
from utils import UserError

BETAS = np.geomspace(0.03, 3, 41)  # of the line


def optimum(reference: np.ndarray, p: np.ndarray, beta: float) -> np.ndarray:
    """pi_ref(b) p*(b)^(1/beta), normalised. reference, p: (C,); a class without p* gets nothing."""
    with np.errstate(divide="ignore"):
        logs = np.log(reference) + np.log(p) / beta
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def collect(folder: Path, wanted: Wanted) -> Json | None:
    """Mass on the group's most common belief, and JSD to the group, over beta; None: not asked."""
    if not wanted.collapse_betas:
        return None
    group, slug = wanted.groups[0]
    seed, split = wanted.seeds[0], wanted.splits[0]
    place = Place(folder, seed, slug)
    reference = read_shares(place.report(SFT, split))
    p = [np.asarray(of_prompt.belief_probs) for of_prompt in reference]
    start = [distribution_of(of_prompt) for of_prompt in reference]
    theory = []
    for beta in sorted({*BETAS.round(4).tolist(), *map(float, wanted.collapse_betas)}):
        theory.append({"beta": beta, **measured(p, [optimum(q, t, beta) for q, t in zip(start, p)])})
    points = []
    for beta in wanted.collapse_betas:
        of_run = read_shares(place.report(f"dpo-beta-{beta}", split))
        points.append({"beta": float(beta), **measured(p, [distribution_of(s) for s in of_run])})
    where = {"group": group, "split": split, "seed": seed}
    return {
        **where,
        "sft": measured(p, start),
        "group_itself": measured(p, p),
        "theory": theory,
        "points": points,
    }


def read_shares(report: Path) -> Sequence[Shares]:
    """The distributions of an evaluation of one checkpoint. Raises UserError where there are none."""
    shares = read_evaluation(report).shares
    if not shares:
        raise UserError(f"{report}: has no distributions; set it aside, and run the experiment again")
    return shares


def distribution_of(of_prompt: Shares) -> np.ndarray:
    """(C,) of the one checkpoint that was evaluated."""
    (shares,) = of_prompt.checkpoints.values()
    return np.asarray(shares)


def measured(p: Sequence[np.ndarray], q: Sequence[np.ndarray]) -> dict[str, float]:
    """Means over prompts: q's mass on the most common belief of p, and the distance of the two."""
    mass = [float(model[np.argmax(group)]) for group, model in zip(p, q)]
    gaps = [float(js_distance(group, model)) for group, model in zip(p, q)]
    return {"majority": round(float(np.mean(mass)), 5), "js_distance": round(float(np.mean(gaps)), 5)}
