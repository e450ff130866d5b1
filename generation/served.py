"""Generation by a server of OpenAI's chat protocol: an API model is a row of the table like any checkpoint.

Contract: a response is asked for with a seed that is a function of (seed, prompt, number). Whether it is one
of that seed is up to the server; so are its chat template and what it cuts off a distribution.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence

import chat
from chat import Endpoint, Message, Reply, Request
from generation.record import Decoding, Draw, OnWritten, Written
from groups import Group
from utils import UserError, log

MOST_LOGPROBS = 20  # alternatives of a token: no server gives more
LEAST_REPEATS = 3  # samples that say the same as another, before it is worth a word


class ServedGenerator:
    """A model at a server; implements `Generator`.

    model: its name there. max_new_tokens: of a response. store: where replies are kept over calls; None: in
    memory, since a server may hold another model under the same name tomorrow. counts: what asking cost.
    """

    def __init__(self, endpoint: Endpoint, model: str, max_new_tokens: int, store: chat.Store | None = None):
        self.endpoint, self.model, self.max_new_tokens = endpoint, model, max_new_tokens
        self.store = chat.Store(None) if store is None else store
        self.counts = chat.Counts()
        self.name = model

    def identity(self) -> Mapping[str, object]:
        """The server, without what it must not tell of its address, and the model's name there."""
        return {"server": self.endpoint.server, "model": self.model, "max_new_tokens": self.max_new_tokens}

    def write(
        self, prompts: Sequence[Group], draws: Sequence[Draw], decoding: Decoding, seed: int, done: OnWritten
    ) -> None:
        """Write all draws. Raises UserError for an empty prompt, before it asks; where the server cannot be
        asked; and, once all others are written, where some got no reply."""
        messages = [messages_of(group) for group in prompts]
        requests = []
        for draw in draws:
            request = Request(
                self.model,
                messages[draw.prompt],
                self.max_new_tokens,
                decoding.temperature,
                request_seed(seed, messages[draw.prompt], draw.number),
                number=draw.number,
            )
            requests.append(request)
        texts: dict[int, list[str]] = {}  # by prompt

        def on_reply(index: int, reply: Reply | None) -> None:
            if reply is not None:
                texts.setdefault(draws[index].prompt, []).append(reply.text)
                used = reply.completion_tokens, reply.prompt_tokens
                done(draws[index], Written(reply.text, reply.finish, *used))

        chat.ask_all(self.endpoint, requests, self.counts, on_reply, self.store)
        self._check(len(requests) - sum(map(len, texts.values())), len(requests))
        if decoding.temperature > 0 and always_the_same(texts.values()):
            log.warning(
                "server %s, model %s: says the same in every sample of a prompt at temperature %g; does it "
                "sample? (transformers serve does where the model's generation_config.json says do_sample)",
                self.endpoint.server,
                self.model,
                decoding.temperature,
            )

    def class_logprobs(
        self, prompts: Sequence[Group], classes: Sequence[str]
    ) -> list[dict[str, float]] | None:
        """For each prompt the probabilities of the class labels as the first token, by label.

        They are shares of the whole vocabulary; a label that is not among the likeliest 20 tokens has 0, and
        a label with and without a space before it is one. None where the server offers no log-probs, which
        the first reply says. Raises UserError as `write` does.
        """
        requests = [
            Request(self.model, messages_of(group), 1, 1.0, top_logprobs=MOST_LOGPROBS) for group in prompts
        ]
        replies: dict[int, Reply | None] = {}
        chat.ask_all(self.endpoint, requests[:1], self.counts, replies.__setitem__, self.store)
        first = replies.get(0)
        if first is not None and not first.first_logprobs:
            return None
        chat.ask_all(self.endpoint, requests, self.counts, replies.__setitem__, self.store)
        answered = [reply for _, reply in sorted(replies.items()) if reply is not None]
        self._check(len(requests) - len(answered), len(requests))
        return [class_probabilities(reply, classes) for reply in answered]

    def close(self) -> None:
        """Nothing is held between calls."""

    def _check(self, failed: int, total: int) -> None:
        if failed:
            raise UserError(
                f"server {self.endpoint.server}, model {self.model}: {failed} of {total} requests got no "
                "reply (the log says why); what was answered is kept; run the same command again"
            )


def messages_of(group: Group) -> list[Message]:
    """A prompt as messages: a text is one of the user's. Raises UserError for one without any text."""
    prompt = group.prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not any(message["content"].strip() for message in messages):
        raise UserError(f"{group.where or group.id}: the prompt is empty; a server answers none")
    return messages


def request_seed(seed: int, messages: Sequence[Message], number: int) -> int:
    """The seed of one response, from 0 to 2**31 - 1: the range that every server takes."""
    text = json.dumps([seed, messages, number], sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 33


def always_the_same(texts: Iterable[Sequence[str]]) -> bool:
    """Are all samples of a prompt the same, of every prompt, where there are enough to tell?"""
    several = [of_prompt for of_prompt in texts if len(of_prompt) > 1]
    repeats = sum(len(of_prompt) - 1 for of_prompt in several)
    return repeats >= LEAST_REPEATS and all(len(set(of_prompt)) == 1 for of_prompt in several)


def class_probabilities(reply: Reply, classes: Sequence[str]) -> dict[str, float]:
    """The probability of each class label as a reply's first token."""
    probabilities = dict.fromkeys(classes, 0.0)
    for token, logprob in reply.first_logprobs:
        label = token.strip()
        if label in probabilities:
            probabilities[label] += math.exp(logprob)
    return probabilities
