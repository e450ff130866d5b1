"""Replies on the disk, so that no question is paid for twice.

Contract: a file holds one reply a line and only grows; a reply is in it before anybody hears of it. A line
that a killed process left unfinished is cut, and its request is asked again. Several processes may add at
once.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

from chat.record import Endpoint, Reply
from utils import UserError, cache_dir, locked, log

BLOCK = 1 << 16  # bytes, to look back for the last line's end


class Store:
    """Replies by their request's digest; `path` None: in memory alone. Threads may share one.

    Raises UserError where the file cannot be opened.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.replies: dict[str, Reply] = {}
        self.guard = threading.Lock()
        self.is_writable = path is not None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                self._read()
            except OSError as error:
                problem = error.strerror or type(error).__name__
                raise UserError(
                    f"{path}: cannot keep a server's replies ({problem}); make room, or set GROVE_CACHE to "
                    "a folder that can be written"
                ) from error

    def __len__(self) -> int:
        return len(self.replies)

    def get(self, digest: str) -> Reply | None:
        """The reply to a request; None where it is not known."""
        return self.replies.get(digest)

    def put(self, digest: str, reply: Reply) -> None:
        """Keep a reply; the first one of a request stays.

        Where the disk refuses it, with a warning, it is kept in memory alone.
        """
        with self.guard:
            if digest in self.replies:
                return
            self.replies[digest] = reply
            if not self.is_writable:
                return
            try:
                self._append(json.dumps([digest, *reply], ensure_ascii=True))
            except OSError as error:
                self.is_writable = False
                log.warning(
                    "%s cannot be written (%s): replies are kept in memory alone", self.path, error.strerror
                )

    def _append(self, line: str) -> None:
        with locked(self.path.parent, wait=True):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                _cut_torn_line(handle)
                rest = line.encode() + b"\n"
                while rest:
                    rest = rest[os.write(handle, rest) :]
            finally:
                os.close(handle)

    def _read(self) -> None:
        """Read the lines that are there."""
        with locked(self.path.parent, wait=True):
            handle = os.open(self.path, os.O_RDWR)
            try:
                _cut_torn_line(handle)
            finally:
                os.close(handle)
        damaged = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):  # another process is writing it
                    break
                entry = _entry(line)
                if entry is None:
                    damaged += 1
                else:
                    self.replies.setdefault(*entry)
        if damaged:
            log.warning("%s: %d lines are damaged; what they answered is asked again", self.path, damaged)


def store_path(kind: str, endpoint: Endpoint, model: str) -> Path:
    """Where the replies of a model at a server are kept. kind: what they are for, a plain name."""
    text = json.dumps([endpoint.server, model])
    folder = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return cache_dir() / "chat" / folder / f"{kind}.jsonl"


def _entry(line: bytes) -> tuple[str, Reply] | None:
    """The digest and the reply of a line; None where it holds none."""
    try:
        digest, text, finish, prompt_tokens, completion_tokens, first_logprobs, model = json.loads(line)
        reply = Reply(
            text,
            finish,
            int(prompt_tokens),
            int(completion_tokens),
            tuple((str(token), float(logprob)) for token, logprob in first_logprobs),
            model,
        )
    except (ValueError, TypeError, RecursionError):
        return None
    is_text = all(isinstance(value, str) for value in (digest, text, finish, model))
    return (digest, reply) if is_text else None


def _cut_torn_line(handle: int) -> None:
    """Cut what stands behind the last line's end. Only under the lock: nobody is writing then."""
    end = os.fstat(handle).st_size
    if end == 0 or os.pread(handle, 1, end - 1) == b"\n":
        return
    keep = end
    while keep > 0:
        start = max(0, keep - BLOCK)
        at = os.pread(handle, keep - start, start).rfind(b"\n")
        if at >= 0:
            keep = start + at + 1
            break
        keep = start
    os.ftruncate(handle, keep)
