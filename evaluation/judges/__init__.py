"""Judges of responses: sentence embeddings, a chat model, a reward model, or a function of the user's."""

from evaluation.judges.embedding import EmbeddingJudge, check_embedder, embedding_model_path
from evaluation.judges.record import BeliefJudge, Compared, Judge, PairJudge, ScoreJudge, Stated, Verdict

__all__ = [
    "BeliefJudge",
    "Compared",
    "EmbeddingJudge",
    "Judge",
    "PairJudge",
    "ScoreJudge",
    "Stated",
    "Verdict",
    "check_embedder",
    "embedding_model_path",
]
