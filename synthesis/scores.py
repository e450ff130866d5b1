"""What responses are worth: by constraints, a reward model, a chat model, or a function of the user's.

Contract: what is missing (a key, a model, a function) is a `UserError` before any policy is loaded. A
response on which a chat model gives no score has None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import chat
from evaluation.judges import Answered, ChatJudge, FunctionJudge, RewardModelJudge, ScoreJudge
from evaluation.judges.making import KEYS
from evaluation.judges.prompts import template
from groups import Group
from rewards import reward
from synthesis.config import SynthesisSettings
from synthesis.record import Maker
from utils import UserError

CONSTRAINTS, SERVED, REWARD_MODEL = "constraints", "openai", "reward_model"

Responses = Sequence[tuple[Group, str]]  # (prompt, response)
Scores = list[float | None]


class Scorer(NamedTuple):
    """Who says what responses are worth."""

    name: str
    scores: Callable[[Responses], Scores]
    maker: Maker | None = None  # where a model says it
    prompts: Mapping[str, str] = {}  # by their role, the templates that it is sent


def scorer_of(settings: SynthesisSettings) -> Scorer:
    """The scorer that `reward` names. Raises UserError where it cannot be made."""
    name, model = settings.reward, settings.judge_model
    if name not in (SERVED, REWARD_MODEL) and model is not None:
        raise UserError(
            f"judge_model={model}: is for reward={SERVED} or reward={REWARD_MODEL}, and here reward={name}; "
            "leave it out or set reward"
        )
    if name == CONSTRAINTS:
        return Scorer(CONSTRAINTS, _by_constraints)
    if name not in (SERVED, REWARD_MODEL):
        return Scorer(name, _by_judge(FunctionJudge(name, "reward")))
    if model is None:
        what = "a model at the server of judge_api" if name == SERVED else "the folder or hub name of a model"
        raise UserError(f"reward={name}: needs judge_model=..., {what}")
    if name == REWARD_MODEL:
        judge: ScoreJudge = RewardModelJudge(model, settings.device)
        return Scorer(judge.name, _by_judge(judge), Maker("scores", model, ""))
    endpoint = chat.endpoint_of(settings.judge_api, settings.api, KEYS)
    judge = ChatJudge(endpoint, model)
    prompts = {"judge": template("score").template}
    return Scorer(judge.name, _by_judge(judge), Maker("scores", model, endpoint.server), prompts)


def check_prompts(groups: Sequence[Group], settings: SynthesisSettings) -> None:
    """Raises UserError where a prompt states nothing that its responses could be scored by."""
    if settings.reward != CONSTRAINTS:
        return
    bare = [group for group in groups if not group.constraints]
    if bare:
        raise UserError(
            f"{bare[0].where}: {len(bare)} of {len(groups)} prompts state no constraints, which "
            f"reward={CONSTRAINTS} goes by; add a field constraints, or set reward=module:function, "
            f"{REWARD_MODEL} or {SERVED}"
        )


def _by_constraints(responses: Responses) -> Scores:
    return [reward(group.constraints, text) for group, text in responses]


def _by_judge(judge: ScoreJudge) -> Callable[[Responses], Scores]:
    def scores(responses: Responses) -> Scores:
        return judge.scores([Answered(group.prompt, text) for group, text in responses])

    return scores
