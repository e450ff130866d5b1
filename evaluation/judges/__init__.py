"""Judges of responses: sentence embeddings, a chat model, a reward model, or a function of the user's."""

from evaluation.judges.chat_judge import ChatJudge
from evaluation.judges.embedding import EmbeddingJudge, check_embedder, embedding_model_path
from evaluation.judges.function import FunctionJudge
from evaluation.judges.making import Judges, check, make_judges
from evaluation.judges.record import (
    Answered,
    BeliefJudge,
    Compared,
    Judge,
    PairJudge,
    ScoreJudge,
    Stated,
    Verdict,
)
from evaluation.judges.reward_model import RewardModelJudge

__all__ = [
    "Answered",
    "BeliefJudge",
    "ChatJudge",
    "Compared",
    "EmbeddingJudge",
    "FunctionJudge",
    "Judge",
    "Judges",
    "PairJudge",
    "RewardModelJudge",
    "ScoreJudge",
    "Stated",
    "Verdict",
    "check",
    "check_embedder",
    "embedding_model_path",
    "make_judges",
]
