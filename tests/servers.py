"""Servers of the chat protocol on loopback: one that says and breaks what a test wants and counts what it was
asked, and a real one.

    with server(lambda asked: "Yes") as s:            # a judge: what it says of the messages
    with server([fails(429), fails(500)]) as s:       # so to the first two requests; then it echoes
    with server(each(fails(500), cut())) as s:        # so to the first two attempts of every content
        s.url, s.count, s.by_content, s.asked
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers import ON_CPU

import models

JSON = "application/json"


class Asked(NamedTuple):
    """One request that came in."""

    body: dict[str, Any]
    headers: Mapping[str, str]  # names in lower case
    number: int  # of the request, from 0 on
    attempt: int  # of the same body, from 0 on

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.body["messages"]

    @property
    def content(self) -> str:
        """Of the last message."""
        return self.messages[-1]["content"]


class Answer(NamedTuple):
    """What goes back: the body of a status, after so many seconds."""

    status: int = 200
    body: bytes = b""
    content_type: str | None = JSON
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0  # seconds before it
    drip: float = 0.0  # seconds between its bytes; 0: all at once
    promised: int = 0  # bytes that the header says beyond those that come, before the connection closes
    is_silent: bool = False  # nothing at all: the connection closes


Script = Callable[[Asked], "Answer | str"]


# --- answers ------------------------------------------------------------------------------------------------


def says(text: str | None, finish: str | None = "stop", delay: float = 0.0, **message: Any) -> Answer:
    """A reply with this text; `message`: more of its fields."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish,
    }
    return replies({"choices": [choice]})._replace(delay=delay)


def likely(text: str, logprobs: Mapping[str, float]) -> Answer:
    """A reply with the alternatives of its first token, by their log-probs."""
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in logprobs.items()]
    first = {"token": text, "logprob": logprobs[text], "bytes": None, "top_logprobs": top}
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": {"content": [first]}}
    return replies({"choices": [choice]})


def replies(value: Mapping[str, Any]) -> Answer:
    """A body of status 200 with these fields and the usual others."""
    usual = {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted-2026",
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
    return Answer(200, json.dumps({**usual, **value}).encode())


def fails(status: int, message: str = "scripted", retry_after: str | None = None, **error: Any) -> Answer:
    """An error of this status. retry_after: the header, seconds or a date; `error`: param, code."""
    headers = (("Retry-After", retry_after),) if retry_after is not None else ()
    body = {"error": {"message": message, "type": "scripted", "param": None, "code": None, **error}}
    return Answer(status, json.dumps(body).encode(), headers=headers)


def refuses(words: str = "I cannot say that.") -> Answer:
    """The model's own refusal."""
    return says(None, refusal=words)


def hangs(seconds: float = 60.0) -> Answer:
    """Says nothing for so long."""
    return says("too late", delay=seconds)


def drips(seconds: float = 0.05) -> Answer:
    """A reply that comes a byte at a time."""
    return says("too late")._replace(drip=seconds)


def cut() -> Answer:
    """A whole HTTP answer around half a JSON body."""
    whole = says("never whole")
    return whole._replace(body=whole.body[: len(whole.body) // 2])


def breaks_off() -> Answer:
    """Half of a body; then the connection closes."""
    half = cut()
    return half._replace(promised=100)


def closes() -> Answer:
    """The connection closes without an answer."""
    return Answer(is_silent=True)


def html() -> Answer:
    """The page of a proxy, with the status of a success."""
    return Answer(200, b"<html>one moment</html>", "text/html")


def empty() -> Answer:
    """No choices."""
    return replies({"choices": []})


# --- scripts ------------------------------------------------------------------------------------------------


def echo(asked: Asked) -> str:
    """The last message again."""
    return f"you said: {asked.content}"


def in_turn(*answers: Answer, then: Script = echo) -> Script:
    """The first requests get these answers, whatever they ask."""
    return lambda asked: answers[asked.number] if asked.number < len(answers) else then(asked)


def each(*answers: Answer, then: Script = echo) -> Script:
    """The first attempts of every request get these answers."""
    return lambda asked: answers[asked.attempt] if asked.attempt < len(answers) else then(asked)


# --- the server ---------------------------------------------------------------------------------------------


class Scripted(ThreadingHTTPServer):
    """A server that answers by a script and remembers what it was asked."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, script: Script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.guard = threading.Lock()
        self.asked: list[Asked] = []
        self.answered: list[Asked] = []  # those that got a whole answer with status 200
        self.busy = self.most_busy = 0  # requests under way at once

    @property
    def url(self) -> str:
        """The base_url."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def count(self) -> int:
        """Attempts so far."""
        return len(self.asked)

    @property
    def by_content(self) -> Counter[str]:
        """Attempts by the last message's content."""
        return Counter(asked.content for asked in self.asked)

    def note(self, body: dict[str, Any], headers: Mapping[str, str]) -> Asked:
        with self.guard:
            attempt = sum(asked.body == body for asked in self.asked)
            self.asked.append(Asked(body, headers, len(self.asked), attempt))
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
            return self.asked[-1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of the test's concern."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # 40 ms a reply
    server: Scripted

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        asked = self.server.note(
            json.loads(self.rfile.read(length)), {name.lower(): value for name, value in self.headers.items()}
        )
        try:
            answer = self.server.script(asked)
            self.send(says(answer) if isinstance(answer, str) else answer)
            if not isinstance(answer, Answer) or answer.status == 200:
                self.server.answered.append(asked)
        finally:
            with self.server.guard:
                self.server.busy -= 1

    def send(self, answer: Answer) -> None:
        time.sleep(answer.delay)
        if answer.is_silent:
            self.close_connection = True
            return
        self.send_response(answer.status)
        if answer.content_type is not None:
            self.send_header("Content-Type", answer.content_type)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body) + answer.promised))
        self.end_headers()
        pieces = [answer.body] if not answer.drip else [bytes([byte]) for byte in answer.body]
        for piece in pieces:
            self.wfile.write(piece)
            time.sleep(answer.drip)
        if answer.promised:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def server(script: Script | Sequence[Answer] = echo) -> Iterator[Scripted]:
    """A scripted server on loopback. A sequence: the answers to the first requests."""
    with Scripted(script if callable(script) else in_turn(*script)) as scripted:
        thread = threading.Thread(target=scripted.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield scripted
        finally:
            scripted.shutdown()
            thread.join()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


# --- a real one ---------------------------------------------------------------------------------------------


class Real(NamedTuple):
    """`transformers serve` with a model behind it."""

    url: str
    model: str  # as it wants to be called


STARTS_WITHIN = 120.0  # seconds


@pytest.fixture(scope="session")
def real_server(tmp_path_factory) -> Iterator[Real]:
    """A real server with the embedded SmolLM2; skips where it does not start."""
    folder = _sampling_copy(models.embedded_model("smollm2-135m-instruct"), tmp_path_factory.mktemp("model"))
    command = Path(sys.executable).with_name("transformers")
    if not command.exists():
        pytest.skip(f"no command {command.name} beside this Python")
    port = free_port()
    said = tmp_path_factory.mktemp("server") / "output"
    arguments = [command, "serve", folder, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, **ON_CPU}
    with said.open("wb") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        if not _is_ready(f"http://127.0.0.1:{port}/health", process):
            lines = said.read_text(errors="replace").strip().splitlines() or ["nothing"]
            pytest.skip(f"transformers serve does not start: {lines[-1][:200]}")
        yield Real(f"http://127.0.0.1:{port}/v1", folder)
    finally:
        process.kill()
        process.wait()


def _sampling_copy(model: Path, folder: Path) -> str:
    """The model in a folder that says that it is sampled: without, this server is greedy at any
    temperature."""
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**config, "do_sample": True}))
    return str(folder)


def _is_ready(url: str, process: subprocess.Popen) -> bool:
    """Wait until it answers; not longer than it lives, or than STARTS_WITHIN."""
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
        time.sleep(0.2)
    return False
