"""Which server is asked, with which key, and what may be said of it.

Contract: a key comes from the environment alone, and no text that passes `hidden` holds it.
"""

from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Iterable, Sequence
from urllib.parse import unquote, urlsplit

from chat.record import Endpoint, Request
from settings import ApiSettings
from utils import UserError, without_secrets

NO_KEY = "none"  # sent where there is no key: a local server looks at none, and the protocol wants one
SHORTEST_HIDDEN = 4  # characters; hiding less would garble words
LONGEST_WORDS = 240  # characters of a server's words


def endpoint_of(
    api: ApiSettings, fallback: ApiSettings | None = None, keys: Sequence[str] = ("OPENAI_API_KEY",)
) -> Endpoint:
    """The server of a config's section; what is null there is as in `fallback`.

    base_url: else $OPENAI_BASE_URL, else OpenAI's own. The key is the first of the environment variables
    `keys` that has a value; a server with a base_url may need none. Raises UserError where there is neither
    key nor base_url, and for a base_url that is no address.
    """
    base_url = api.base_url or (fallback.base_url if fallback else None)
    if base_url is not None:
        _check_url("base_url", base_url)
    elif from_environment := os.environ.get("OPENAI_BASE_URL", "").strip():
        base_url = from_environment
        _check_url("$OPENAI_BASE_URL", base_url)
    key = next(filter(None, (os.environ.get(name, "").strip() for name in keys)), None)
    if key is None and base_url is None:
        raise UserError(
            f"OpenAI's server: no key; set the environment variable {' or '.join(keys)}, or base_url to a "
            "server that needs none"
        )
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UserError(f"the key in {' or '.join(keys)}: holds characters that no key has; set it again")
    given = [section for section in (api, fallback) if section is not None]
    limits = {
        "concurrency": _first(section.concurrency for section in given),
        "retries": _first(section.retries for section in given),
        "timeout": _first(section.timeout for section in given),
    }
    known = {name: value for name, value in limits.items() if value is not None}
    return dataclasses.replace(Endpoint(base_url, key or NO_KEY), **known)


def _first(values: Iterable[float | None]) -> float | None:
    """The first value that is given."""
    return next((value for value in values if value is not None), None)


def _check_url(name: str, base_url: str) -> None:
    """Raises UserError, which does not show the address, where it is none of the web."""
    try:
        parts = urlsplit(base_url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or not base_url.isprintable() or any(sign in base_url for sign in " ?#"):
        raise UserError(
            f"{name}: no address of a server, without a query; give one as http://localhost:8000/v1"
        )


def named_server(endpoint: Endpoint, request: Request) -> str:
    """The server and the model of a request, for errors."""
    return f"server {endpoint.server}, model {request.model}"


def hidden(text: str, endpoint: Endpoint) -> str:
    """The text on one line, shortened, without the endpoint's key and password and the environment's
    secrets."""
    for secret in _secrets_of(endpoint):
        if len(secret) >= SHORTEST_HIDDEN:
            text = text.replace(secret, "(hidden)")
    text = without_secrets(text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= LONGEST_WORDS else text[: LONGEST_WORDS - 3] + "..."


def _secrets_of(endpoint: Endpoint) -> list[str]:
    """The key, and what the address has: also as it is sent, in base64, which a server may repeat."""
    parts = urlsplit(endpoint.base_url or "")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    sent = base64.b64encode(f"{user}:{password}".encode()).decode() if password else ""
    key = "" if endpoint.key == NO_KEY else endpoint.key
    return [secret for secret in (key, sent, parts.password, password, parts.query) if secret]
