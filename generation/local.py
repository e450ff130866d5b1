"""Engine `hf`: a stand-in over `models.generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

import groups
import models
from generation.record import Decoding, Draw, OnWritten, Written
from groups import Group, Limits


class LocalGenerator:
    """A policy that is loaded here."""

    def __init__(
        self,
        policy: models.Scorer,
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        max_new_tokens: int,
        batch_size: int,
        name: str,
    ):
        self.policy, self.tokenizer, self.limits = policy, tokenizer, limits
        self.max_new_tokens, self.batch_size, self.name = max_new_tokens, batch_size, name

    def identity(self) -> Mapping[str, object]:
        return {
            "weights": models.fingerprint(self.policy),
            "tokenizer": groups.tokenizer_identity(self.tokenizer),
            "limits": list(self.limits),
            **models.versions(),
        }

    def write(
        self, prompts: Sequence[Group], draws: Sequence[Draw], decoding: Decoding, seed: int, done: OnWritten
    ) -> None:
        tokenizer = self.tokenizer
        sampling = models.Sampling(
            self.max_new_tokens,
            tokenizer.pad_token_id,
            tokenizer.eos_token_id,
            decoding.temperature,
            groups.stop_ids(tokenizer),
        )
        for draw in draws:
            prompt = groups.prompt_ids(tokenizer, prompts[draw.prompt], self.limits)
            own_seed = seed * 1_000_003 + draw.number + sum(prompt)
            (ids,) = models.generate(self.policy, [prompt], sampling, own_seed)
            finish = "length" if len(ids) == self.max_new_tokens else "stop"
            text = tokenizer.decode(ids, skip_special_tokens=True)
            done(draw, Written(text, finish, len(ids) + (finish == "stop")))

    def close(self) -> None:
        pass
