"""Engine `openai`: a stand-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chat import Endpoint
from generation.record import Decoding, Draw, OnWritten
from groups import Group


class ServedGenerator:
    """A model that a server has."""

    def __init__(self, endpoint: Endpoint, model: str, max_new_tokens: int):
        self.endpoint, self.model, self.name, self.max_new_tokens = endpoint, model, model, max_new_tokens

    def identity(self) -> Mapping[str, object]:
        return {"base_url": self.endpoint.base_url, "model": self.model}

    def write(
        self, prompts: Sequence[Group], draws: Sequence[Draw], decoding: Decoding, seed: int, done: OnWritten
    ) -> None:
        raise NotImplementedError

    def class_logprobs(self, prompts: Sequence[Group], labels: Sequence[str]) -> list[list[float]] | None:
        raise NotImplementedError

    def close(self) -> None:
        pass
