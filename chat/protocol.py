"""The chat protocol: a request as the arguments of a call, and a body as a reply.

Contract: a body that is no whole reply is a `NoReply`, never a reply with holes. What a server does not take
is left out of all further requests, said once in the log, and never where it would change the numbers.
"""

from __future__ import annotations

import json
import re
import threading
from typing import Any

from chat.record import Reply, Request
from utils import UserError, log

FINISHES = {  # what servers say, and what that is; anything else ended in the middle
    None: "stop",
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "filtered",
}
NOT_TAKEN = re.compile(
    r"unsupported|not supported|n.t support|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|"
    r"not allowed|forbidden|extra (input|field|param)|no such|invalid (param|arg|field)|deprecated|"
    r"not (a )?(valid|available|implemented)|only the default|instead",
    re.I,
)
LEAST_LOGPROB = -9999.0  # what servers say of a token without probability
DROPPABLE = ("top_logprobs", "logprobs", "seed", "max_tokens", "max_completion_tokens", "temperature")


class NoReply(Exception):
    """An attempt that brought no reply; another one may.

    pause: seconds that the server asks for; None: it names none. heard: did a server answer at all?
    """

    def __init__(self, reason: str, pause: float | None = None, heard: bool = True):
        super().__init__(reason)
        self.pause, self.heard = pause, heard


class Refused(Exception):
    """The server does not take this request (too long, say), and would not take it again.

    words: the server's; param: of the request, what it complains of, "" where it does not say.
    """

    def __init__(self, words: str, param: str = ""):
        super().__init__(words)
        self.param = param


class Dialect:
    """What one server takes of a request; learnt from its refusals. Threads share one."""

    def __init__(self) -> None:
        self.left_out: set[str] = set()
        self.length_key = "max_tokens"  # newer models of OpenAI's want max_completion_tokens
        self.guard = threading.Lock()

    def arguments(self, request: Request) -> dict[str, Any]:
        """The arguments of the call."""
        arguments: dict[str, Any] = {
            "model": request.model,
            "messages": list(request.messages),
            self.length_key: request.max_tokens,
            "temperature": request.temperature,
        }
        if request.seed is not None:
            arguments["seed"] = request.seed
        if request.top_logprobs:
            arguments |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        return {key: value for key, value in arguments.items() if key not in self.left_out}

    def adapt(self, sent: dict[str, Any], refusal: Refused) -> bool:
        """Learn from a refusal of `sent`; is there another way to ask?

        Raises UserError where the server does not take a temperature that determines the numbers.
        """
        name = _refused_parameter(sent, refusal)
        if name is None:
            return False
        with self.guard:
            if name in self.left_out or (name == "max_tokens" and self.length_key != name):
                return True  # another thread was first
            if name == "temperature" and sent[name] != 1:
                raise UserError(
                    f"the model takes no temperature={sent[name]:g} ({refusal}); set temperature=1, which "
                    "is its own, or ask another model"
                )
            if name == "max_tokens":
                self.length_key = "max_completion_tokens"
                log.info("the server takes no max_tokens: asking with max_completion_tokens")
                return True
            names = ("logprobs", "top_logprobs") if "logprobs" in name else (name,)
            self.left_out |= set(names)
            log.info("the server takes no %s: asking without", " and ".join(names))
        return True


def _refused_parameter(sent: dict[str, Any], refusal: Refused) -> str | None:
    """The parameter of `sent` that a server does not know; None where the refusal is about something else."""
    words = str(refusal)
    if not NOT_TAKEN.search(words):
        return None
    for name in DROPPABLE:
        is_named = name == refusal.param or re.search(rf"(?<![\w]){name}(?![\w])", words)
        if name in sent and is_named and name != "max_completion_tokens":
            return name
    return None


def read_reply(body: bytes, content_type: str) -> Reply:
    """The reply in a body. Raises NoReply where it holds no whole one."""
    if content_type and "json" not in content_type.lower():
        raise NoReply(f"a body of type {content_type.split(';')[0]} and not JSON")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise NoReply(f"a body that is no whole JSON ({len(body)} bytes)") from None
    if not isinstance(value, dict):
        raise NoReply("a body without choices")
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise NoReply(f"a body without choices{_words_of_error(value)}")
    choice = choices[0]
    text, finish = _text_and_finish(choice)
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text,
        finish,
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _first_logprobs(choice),
        value["model"] if isinstance(value.get("model"), str) else "",
    )


def _words_of_error(value: dict[str, Any]) -> str:
    """What some servers say with the status of a success."""
    error = value.get("error")
    words = error.get("message") if isinstance(error, dict) else error
    return f": {words}" if isinstance(words, str) and words else ""


def _text_and_finish(choice: dict[str, Any]) -> tuple[str, str]:
    message, said = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, dict):
        raise NoReply("a choice without a message")
    if not (said is None or isinstance(said, str)) or said not in FINISHES:
        raise NoReply(f"a reply that ended with {said}")
    content, refusal = message.get("content"), message.get("refusal")
    if isinstance(refusal, str) and refusal:
        return _whole(refusal), "filtered"
    finish = FINISHES[said]
    if isinstance(content, str):
        return _whole(content), finish
    if content is None and finish in ("length", "filtered"):
        return "", finish  # it thought until the limit, or everything was withheld
    raise NoReply("a message without content")


def _whole(text: str) -> str:
    """The text with a sign in place of half characters, which no file takes: a limit may cut within one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _first_logprobs(choice: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """The alternatives of the first token, the likeliest first; () where the server gives none."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return ()
    alternatives = content[0].get("top_logprobs")
    known: dict[str, float] = {}
    for entry in [*(alternatives if isinstance(alternatives, list) else []), content[0]]:
        if not isinstance(entry, dict):
            continue
        token, logprob = entry.get("token"), entry.get("logprob")
        if isinstance(token, str) and isinstance(logprob, int | float) and logprob == logprob:
            known.setdefault(token, float(min(max(logprob, LEAST_LOGPROB), 0)))
    return tuple(sorted(known.items(), key=lambda item: -item[1]))


def _count(value: object) -> int:
    """A number of tokens; 0 where the server gives none."""
    return max(value, 0) if isinstance(value, int) and not isinstance(value, bool) else 0
