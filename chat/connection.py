"""One attempt at a server, through the openai package.

Contract: an attempt gives a reply, or raises `NoReply` (try again), `Refused` (this request, never) or
UserError (no request, before something changes). No error holds a key.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Mapping
from typing import Any

from chat.endpoint import hidden
from chat.protocol import NoReply, Refused, read_reply
from chat.record import OPENAI_URL, Endpoint, Reply
from utils import UserError

RETRIED = (408, 409, 425, 429)  # and all from 500 on
REFUSED = (400, 413, 422)  # of one request
LONGEST_CONNECT = 10.0  # seconds until a server must have taken a connection
CANNOT_CONNECT = ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol")
LONGEST_PAUSE = 60.0  # seconds, whatever a server asks for


def connect(endpoint: Endpoint) -> tuple[Callable[[Mapping[str, Any]], Reply], Callable[[], None]]:
    """(attempt, close): `attempt(arguments)` asks once, from any thread. Raises UserError where the openai
    package is missing."""
    try:
        import openai
    except ImportError as error:
        raise UserError(
            "the package openai, which asks servers, is not installed; run: pip install openai"
        ) from error

    client = openai.OpenAI(
        api_key=endpoint.key,
        base_url=endpoint.base_url or OPENAI_URL,
        timeout=openai.Timeout(endpoint.timeout, connect=min(endpoint.timeout, LONGEST_CONNECT)),
        max_retries=0,
    )
    completions = client.chat.completions.with_streaming_response

    def fetch(arguments: Mapping[str, Any]) -> tuple[bytes, str]:
        """The body and its type. Raises what an attempt raises."""
        deadline = time.monotonic() + endpoint.timeout
        try:
            with completions.create(**arguments) as response:
                body = bytearray()
                for part in response.iter_bytes():
                    body += part
                    if time.monotonic() > deadline:  # the client's own limit is for each part of the body
                        raise NoReply(f"no whole reply in {endpoint.timeout:g} s")
                return bytes(body), response.headers.get("content-type", "")
        except openai.APIStatusError as error:
            raise _of_status(error.status_code, error.body, error.response.headers, endpoint) from None
        except openai.APIConnectionError as error:  # timeouts included
            raise _of_connection(error, endpoint) from None
        except UnicodeEncodeError:
            raise Refused("a text with half a character, which no JSON can say") from None
        except (NoReply, TypeError, AttributeError):
            raise  # ours, and faults
        except Exception as error:
            # the connection broke within the body: the package hands on errors of its HTTP library, which is
            # another one in other versions
            raise NoReply(f"the connection broke off ({hidden(str(error), endpoint)})") from None

    def attempt(arguments: Mapping[str, Any]) -> Reply:
        body, content_type = fetch(arguments)
        try:
            return read_reply(body, content_type)
        except NoReply as error:  # it may hold a server's words
            raise NoReply(hidden(str(error), endpoint)) from None

    return attempt, client.close


def _of_connection(error: Exception, endpoint: Endpoint) -> NoReply:
    """What a connection that failed means; the HTTP library's error stands behind the package's."""
    cause = error.__cause__ or error
    kind, words = type(cause).__name__, hidden(str(cause), endpoint)
    if kind in CANNOT_CONNECT:
        return NoReply(f"no connection: {words or kind}", heard=False)
    if kind.endswith("Timeout"):
        return NoReply(f"nothing came in {endpoint.timeout:g} s")
    return NoReply(f"the connection broke off ({words or kind})")


def _of_status(
    status: int, body: object, headers: Mapping[str, str], endpoint: Endpoint
) -> NoReply | Refused | UserError:
    """What an answer of this status means for the request."""
    words, param, code = words_of(body)
    words = hidden(words, endpoint)
    said = f"{status}: {words}" if words else f"{status}"
    if code == "insufficient_quota" or status == 402:
        return UserError(f"the account has no credit left ({said}); top it up, or set another key")
    if status in RETRIED or status >= 500:
        return NoReply(f"status {said}", pause_of(headers.get("retry-after")))
    if status in REFUSED or (status == 403 and "logprobs" in words):
        return Refused(said, param)
    if status in (401, 403):
        return UserError(
            f"the key was refused ({said}); set the environment variable of the key (OPENAI_API_KEY, or "
            "JUDGE_API_KEY for a judge) to one that may use this model"
        )
    return UserError(
        f"no such model, or no chat server at this address ({said}); see to the model's name and to "
        "base_url, which mostly ends with /v1"
    )


def words_of(body: object) -> tuple[str, str, str]:
    """(words, parameter, code) of an error's body; "" for what it does not say. FastAPI's lists of details
    are read without the input that they repeat."""
    if isinstance(body, str):
        return body, "", ""
    if not isinstance(body, Mapping):
        return "", "", ""
    words = body.get("message") or body.get("detail") or body.get("error") or ""
    param, code = body.get("param"), body.get("code")
    if isinstance(words, list):
        parts = [part for part in words if isinstance(part, Mapping)]
        places = [_last(part.get("loc")) for part in parts]
        param = places[0] if places else param
        words = "; ".join(f"{place}: {part.get('msg', '')}" for place, part in zip(places, parts))
    return str(words), param if isinstance(param, str) else "", code if isinstance(code, str) else ""


def _last(place: object) -> str:
    """The field that a path of FastAPI's ends at."""
    return str(place[-1]) if isinstance(place, list) and place else ""


def pause_of(retry_after: str | None) -> float | None:
    """The seconds of a header Retry-After, a number or a date, up to LONGEST_PAUSE; None for none."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_PAUSE) if seconds == seconds else None
