"""The engine `hf`: a model in this process writes.

Contract: a response is a function of (weights, prompt, decoding, seed, number), up to rounding; it does not
depend on `batch_size`, which is memory and speed. Where the model is sharded over ranks, all of them call
`identity` and `write`, with the same prompts, each with its own draws, or with none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

import devices
import groups
import models
from generation.record import Decoding, Draw, OnWritten, Written
from utils import UserError, log

SAMPLER = 1  # how the same seed becomes other responses: a change of the draws is another number


class LocalGenerator:
    """A `generation.Generator` around a policy.

    limits: of prompts, as in training; batch_size: responses at work at once.
    """

    def __init__(
        self,
        policy: models.Scorer,
        tokenizer: PreTrainedTokenizerBase,
        limits: groups.Limits,
        max_new_tokens: int,
        batch_size: int,
        name: str,
    ):
        self.policy: models.Scorer | None = policy
        self.tokenizer, self.limits, self.name = tokenizer, limits, name
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        ignored = models.ignored_settings(policy)
        if ignored:
            values = ", ".join(f"{key}={value}" for key, value in ignored.items())
            log.info("%s: responses are drawn without its own settings for generation: %s", name, values)

    def identity(self) -> Mapping[str, object]:
        """All that determines the responses. A call for all ranks."""
        policy = self._opened()
        return {
            "engine": "hf",
            "sampler": SAMPLER,
            **models.identity(policy),
            "tokenizer": groups.tokenizer_identity(self.tokenizer),
            "limits": list(self.limits),
            "max_new_tokens": self.max_new_tokens,
            "ends": self._ends(policy),
        }

    def write(
        self,
        prompts: Sequence[groups.Group],
        draws: Sequence[Draw],
        decoding: Decoding,
        seed: int,
        done: OnWritten,
    ) -> None:
        """Write all draws. Raises UserError for a prompt that cannot be encoded, or has no room before the
        model's last position, before any is written.
        """
        policy = self._opened()
        if not prompts:
            return
        encoded = [groups.prompt_ids(self.tokenizer, group, self.limits) for group in prompts]
        for group, ids in zip(prompts, encoded):
            if not ids:
                raise UserError(
                    f"{group.where}: field prompt: holds no token; write one, or set add_bos=true"
                )
        models.check_room(policy, encoded, self.max_new_tokens)

        def on_sample(draw: models.Draw, ids: list[int], finish: models.Finish) -> None:
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            done(Draw(*draw), Written(text, finish, len(ids) + (finish == "stop")))

        sampling = models.Sampling(
            self.max_new_tokens,
            self.tokenizer.pad_token_id,
            self.tokenizer.eos_token_id,
            decoding.temperature,
            groups.stop_ids(self.tokenizer),
        )
        models.generate_draws(policy, encoded, draws, sampling, seed, on_sample, self.batch_size)

    def close(self) -> None:
        """Let go of the model's memory."""
        self.policy = None
        devices.free_memory()

    def _opened(self) -> models.Scorer:
        assert self.policy is not None, "this generator was closed"
        return self.policy

    def _ends(self, policy: models.Scorer) -> list[int]:
        return models.end_ids(policy, groups.stop_ids(self.tokenizer))
