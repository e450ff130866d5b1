"""What a loss needs, declared beside its function: `@declare(Needs(columns="pair"))`.

Contract: everything outside the losses that depends on which loss it is (the view of the data, rewards,
beliefs, mismatched pairs, the reference) asks the declaration. A loss's keys are its signature: each has an
annotation that says which values it takes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch


class Bounds(NamedTuple):
    """The range [least, below) of a key that is a number; `said` in words."""

    least: float
    below: float
    said: str


Positive = Annotated[float, Bounds(math.ulp(0.0), math.inf, "greater than 0")]
NotNegative = Annotated[float, Bounds(0.0, math.inf, "0 or more")]
Smoothing = Annotated[float, Bounds(0.0, 0.5, "in [0, 0.5)")]
Keys = Mapping[str, Any]  # of a loss, as its YAML has them
Loss = Callable[..., torch.Tensor]  # loss(scores, **keys) -> (N,)
Columns = Literal["any", "pair", "side", "several"]

# for what a loss compares: the view of config key `responses` that gives it, and the one where all answers of
# an example stand under a belief
NATURAL_VIEWS: dict[Columns, tuple[str, str]] = {
    "any": ("target", "conditioned"),
    "pair": ("pairs", "conditioned"),
    "side": ("binary", "conditioned.all"),
    "several": ("ranked", "conditioned.all"),
}


class Needs(NamedTuple):
    """What a loss asks of the data.

    `columns`: any, pair (two responses), side (a pair or one side of it), or several (two or more).
    `mismatched`: the mean log-ratio of mismatched pairs (`Scores.kl`). `pair_reward`: what a pair without
    rewards gives its preferred response, beside 0 for the other; None: rewards are not made up.
    """

    columns: Columns
    reference: bool = True
    rewards: bool = False
    beliefs: bool = False
    mismatched: bool = False
    pair_reward: float | None = None

    @property
    def responses(self) -> str:
        """The view, of config key `responses`, that gives what the loss compares."""
        plain, under_belief = NATURAL_VIEWS[self.columns]
        return under_belief if self.beliefs else plain


class Declaration(NamedTuple):
    """Beside a loss: what it needs, or a function of its keys (defaults included) that says so; what else its
    keys must meet than their annotations (ValueError, one line); and the names of its terms, each of which
    has its weight in a key NAME_weight.
    """

    needs: Needs | Callable[[Keys], Needs]
    check: Callable[[Keys], None] | None = None
    terms: tuple[str, ...] = ()


DECLARED: dict[Loss, Declaration] = {}  # in the order of their definition


def declare(
    needs: Needs | Callable[[Keys], Needs],
    check: Callable[[Keys], None] | None = None,
    terms: tuple[str, ...] = (),
) -> Callable[[Loss], Loss]:
    """Declare what the function below needs; the function itself stays as it is.

    A loss with a key `reference_free` reads no reference where that is true, whatever is declared.
    """

    def declared(loss: Loss) -> Loss:
        DECLARED[loss] = Declaration(needs, check, terms)
        return loss

    return declared


def declaration_of(loss: Loss) -> Declaration | None:
    """What stands beside a loss, or beside the one that it wraps (`functools.wraps`); None: nothing."""
    return DECLARED.get(inspect.unwrap(loss, stop=DECLARED.__contains__))
