"""What a loss asks of its examples, checked before any model is loaded.

Contract: a check passes, or raises `UserError` with the key or the row and the remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from groups.record import Example, Group
from groups.views import VIEWS
from settings import TrainSettings
from utils import UserError

if TYPE_CHECKING:  # torch is slow to import, and this is needed for its name alone
    from losses import Needs

COMPARED = {  # by what a loss declares
    "pair": "two responses",
    "side": "responses to like with others to avoid",
    "several": "several responses",
}


def check_beliefs(groups: Sequence[Group], loss: str) -> None:
    """Raises UserError where a group has no distribution that the loss could calibrate to."""
    for group in groups:
        if not group.belief_probs:
            raise UserError(
                f"{group.where}: field belief_probs: missing, and loss.name={loss} needs it; add the group's "
                "distribution or choose a loss that needs none (docs/objectives.md)"
            )


def check_examples(
    groups: Sequence[Group], examples: Sequence[Example], settings: TrainSettings, needs: Needs
) -> None:
    """Raises UserError where the examples do not have the columns or rewards that the loss reads."""
    chosen = VIEWS[settings.responses]
    if needs.beliefs and not chosen.conditioned:
        raise UserError(
            f"responses={settings.responses}: {settings.loss.name}'s answers stand under one belief; "
            f"set responses={_fitting_view(settings, needs)}"
        )
    _check_columns(examples, settings, needs)
    if needs.rewards:
        _check_rewards(groups, examples, settings, needs)


def _check_columns(examples: Sequence[Example], settings: TrainSettings, needs: Needs) -> None:
    if all(_has_columns(example.columns, needs.columns) for example in examples):
        return
    raise UserError(
        f"responses={settings.responses}: loss.name={settings.loss.name} compares {COMPARED[needs.columns]}; "
        f"set responses={_fitting_view(settings, needs)}"
    )


def _fitting_view(settings: TrainSettings, needs: Needs) -> str:
    """The view that gives what the loss compares, in expectation where the config's is and there is one."""
    expected = f"expected.{needs.responses}"
    is_expected = VIEWS[settings.responses].is_expected and expected in VIEWS
    return expected if is_expected else needs.responses


def _has_columns(columns: Sequence[int | None], wanted: str) -> bool:
    """Does an example have the columns that a loss reads?"""
    whole = None not in columns
    return {
        "any": True,
        "side": len(columns) == 2,
        "pair": len(columns) == 2 and whole,
        "several": len(columns) > 1 and whole,
    }[wanted]


def _check_rewards(
    groups: Sequence[Group], examples: Sequence[Example], settings: TrainSettings, needs: Needs
) -> None:
    bare = next((example for example in examples if not example.rewards), None)
    if bare is None:
        return
    remedy = f"set responses={needs.responses}"
    if not needs.beliefs:
        remedy += ", with a reward on each, or choose a loss that needs none (docs/objectives.md)"
    raise UserError(
        f"{groups[bare.group].where}: field responses: loss.name={settings.loss.name} needs rewards, "
        f"and responses={settings.responses} carries none; {remedy}"
    )
