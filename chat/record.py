"""What is said to a server of OpenAI's chat protocol, and what it answers.

Contract: records are frozen. A request's hash determines its reply: nothing is asked twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

OPENAI_URL = "https://api.openai.com/v1"

Message = dict[str, str]  # {"role": ..., "content": ...}


@dataclass(frozen=True)
class Endpoint:
    """A server, and how to ask it. The key is not shown, nor part of any hash."""

    base_url: str | None  # None: OpenAI's own
    key: str = dataclasses.field(repr=False, compare=False)
    concurrency: int = 8  # requests under way at once
    retries: int = 6  # of a request
    timeout: float = 120.0  # seconds for a reply

    @property
    def server(self) -> str:
        """The address as it may be shown, saved and hashed: without user, password and query."""
        return server_of(self.base_url)

    def __repr__(self) -> str:
        return (
            f"Endpoint({self.server}, concurrency={self.concurrency}, retries={self.retries}, "
            f"timeout={self.timeout:g})"
        )


class Request(NamedTuple):
    """One question."""

    model: str
    messages: Sequence[Message]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    top_logprobs: int = 0  # of the first token's alternatives; 0: none are asked for
    number: int = 0  # tells requests apart that are alike but for it: samples of one prompt

    def digest(self, base_url: str | None) -> str:
        """A hash of all that determines the reply: of the address, what `server_of` leaves of it."""
        text = json.dumps([server_of(base_url), *self], ensure_ascii=True, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Reply(NamedTuple):
    """What a server answered."""

    text: str
    finish: str  # "stop", "length", "filtered" (withheld, or refused by the server's filter)
    prompt_tokens: int
    completion_tokens: int
    first_logprobs: tuple[tuple[str, float], ...] = ()  # (token, log-prob) alternatives of the first token
    model: str = ""  # as the server names it: a dated version, say


@dataclass
class Counts:
    """What asking cost; `asked` counts requests that got their reply now, not attempts."""

    asked: int = 0
    cached: int = 0  # known from before, or asked by an equal request
    retried: int = 0  # attempts beyond a request's first
    failed: int = 0  # requests without a reply after all attempts
    unparsable: int = 0  # replies that say nothing of what was asked: their reader counts them
    prompt_tokens: int = 0
    completion_tokens: int = 0


def server_of(base_url: str | None) -> str:
    """A server's address without user, password, query and last slash; OpenAI's own for None."""
    parts = urlsplit(base_url or OPENAI_URL)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
