"""From a config to judges: which there are, and whether they could be made.

Contract: what is missing (a key, a model's name, a folder, a function) is a UserError before any model of a
checkpoint is loaded.
"""

from __future__ import annotations

from typing import NamedTuple

import chat
from evaluation.judges.chat_judge import ChatJudge
from evaluation.judges.embedding import EmbeddingJudge
from evaluation.judges.function import FunctionJudge
from evaluation.judges.record import BeliefJudge, PairJudge, ScoreJudge
from evaluation.judges.reward_model import RewardModelJudge
from settings import ApiSettings, EvaluationSettings
from utils import UserError

KEYS = ("JUDGE_API_KEY", "OPENAI_API_KEY")  # environment variables, the first that is set
WITH_MODEL = {
    "openai": "the name of a model at the server",
    "reward_model": "the folder or hub name of a reward model",
}
UNSET = ApiSettings(None, None, None, None)


class Judges(NamedTuple):
    """The judges of an evaluation; None: the config names none that does this."""

    embedding: EmbeddingJudge | None  # BPC where `belief` is None, and RS; None: of tasks, which have neither
    belief: BeliefJudge | None = None  # BPC
    pair: PairJudge | None = None  # win rates
    score: ScoreJudge | None = None


def make_judges(settings: EvaluationSettings) -> Judges:
    """The judges that a config asks for, on the main rank. Raises UserError like `check`, and where the
    embedder of an evaluation without a task cannot be loaded."""
    chosen = _chosen(settings)
    embedding = EmbeddingJudge(settings.embedder) if settings.task is None else None
    if chosen is None:
        return Judges(embedding)
    belief = chosen if isinstance(chosen, ChatJudge) else None
    return Judges(embedding, belief, chosen, chosen)


def check(settings: EvaluationSettings) -> None:
    """Raises UserError where the config's judge could not be made: what is cheap to know before any model
    loads. The embedder is not looked at: `check_embedder` does, where data has beliefs."""
    _chosen(settings)


def _chosen(settings: EvaluationSettings) -> ChatJudge | RewardModelJudge | FunctionJudge | None:
    """The judge that `judge` names; None: embeddings alone."""
    _check_keys(settings)
    if settings.judge == "embedding":
        return None
    if settings.judge == "openai":
        return ChatJudge(chat.endpoint_of(settings.judge_api, settings.api, KEYS), settings.judge_model)
    if settings.judge == "reward_model":
        return RewardModelJudge(settings.judge_model, settings.device)
    return FunctionJudge(settings.judge)


def _check_keys(settings: EvaluationSettings) -> None:
    """Raises UserError where a key of the judge is missing, or would be ignored."""
    judge, model = settings.judge, settings.judge_model
    if judge in WITH_MODEL and model is None:
        raise UserError(f"judge={judge}: needs judge_model=..., {WITH_MODEL[judge]}")
    if judge not in WITH_MODEL and model is not None:
        raise UserError(
            f"judge_model={model}: is for judge={' or judge='.join(WITH_MODEL)}, and here judge={judge}; "
            "leave it out or set judge"
        )
    if settings.task is not None and settings.embedder is not None:
        raise UserError(
            f"embedder={settings.embedder}: is for data with beliefs, and here task={settings.task}; "
            "leave it out"
        )
    if judge != "openai" and settings.judge_api != UNSET:
        raise UserError(
            f"judge_api: is the server of judge=openai, and here judge={judge}; leave it out or set judge"
        )
