"""The threads that ask: each takes a request, asks until it has a reply or no attempt is left, and goes on.

Contract: a reply is in the store before anybody hears of it. `close` ends all at once: who sleeps wakes up,
and who waits for a server is left behind, which holds up neither the caller nor the end of the process.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from chat.connection import connect
from chat.endpoint import named_server
from chat.protocol import Dialect, NoReply, Refused
from chat.record import Counts, Endpoint, Reply, Request
from chat.store import Store
from utils import UserError, log

FIRST_PAUSE, LONGEST_OWN_PAUSE = 0.5, 30.0  # seconds between attempts, doubled each time
SECONDS_BETWEEN_LINES = 10.0  # in the log, about attempts that failed


class Outcome(NamedTuple):
    """What became of a request."""

    digest: str
    reply: Reply | None
    error: Exception | None = None  # why there is no reply


class Workers:
    """Threads that ask requests, given by their digests.

    counts: `retried` is added to here, the rest by whoever reads the outcomes.
    """

    def __init__(self, endpoint: Endpoint, requests: Mapping[str, Request], counts: Counts, store: Store):
        self.endpoint, self.requests, self.counts, self.store = endpoint, requests, counts, store
        self.attempt, self.disconnect = connect(endpoint)
        self.dialect = Dialect()
        self.came: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self.waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        for digest in requests:
            self.waiting.put(digest)
        self.stopped = threading.Event()
        self.guard = threading.Lock()
        self.at_work = 0  # threads
        self.open_at = 0.0  # monotonic seconds, from when on the server wants to be asked
        self.silent_until = 0.0  # monotonic seconds, of the log
        self.random = random.Random()  # no draw from the generator that others seed

    def outcomes(self) -> Iterator[Outcome]:
        """Ask all; one outcome for each request, as they come. Raises UserError for what concerns all
        requests, and faults as they are."""
        self.at_work = min(self.endpoint.concurrency, len(self.requests))
        for _ in range(self.at_work):
            threading.Thread(target=self._work, name="chat", daemon=True).start()
        for _ in self.requests:
            try:
                outcome = self.came.get()
            except BaseException:  # a signal
                yield from self.answered_meanwhile()
                raise
            if outcome.error is not None and not isinstance(outcome.error, NoReply | Refused):
                yield from self.answered_meanwhile()
                raise outcome.error
            yield outcome

    def answered_meanwhile(self) -> Iterator[Outcome]:
        """The replies that came and wait here, for one who wants no more."""
        self.close()
        while not self.came.empty():
            outcome = self.came.get()
            if outcome.reply is not None:
                yield outcome

    def close(self) -> None:
        """No request is sent any more. A reply that is under way is kept still, if the process lives."""
        self.stopped.set()

    def _work(self) -> None:
        """Ask one request after the other; who leaves last closes the connections."""
        try:
            self._ask_waiting()
        finally:
            with self.guard:
                self.at_work -= 1
                is_last = self.at_work == 0
            if is_last:
                self.disconnect()

    def _ask_waiting(self) -> None:
        while not self.stopped.is_set():
            try:
                digest = self.waiting.get_nowait()
            except queue.Empty:
                return
            try:
                reply = self._ask(self.requests[digest])
                self.store.put(digest, reply)
                outcome = Outcome(digest, reply)
            except UserError as error:
                named = named_server(self.endpoint, self.requests[digest])
                outcome = Outcome(digest, None, UserError(f"{named}: {error}"))
            except Exception as error:  # raised in the caller's thread
                outcome = Outcome(digest, None, error)
            self.came.put(outcome)

    def _ask(self, request: Request) -> Reply:
        """The reply to a request. Raises NoReply after all attempts, or what the connection raises."""
        attempts = failed = 0
        was_heard = False
        while not self.stopped.wait(max(0.0, self.open_at - time.monotonic())):
            with self.guard:
                self.counts.retried += attempts > 0
            attempts += 1
            arguments = self.dialect.arguments(request)
            try:
                return self.attempt(arguments)
            except Refused as refusal:
                if not self.dialect.adapt(arguments, refusal):
                    raise
            except NoReply as error:
                failed, was_heard = failed + 1, was_heard or error.heard
                if failed > self.endpoint.retries:
                    error.heard = was_heard
                    raise
                self._pause(error, failed)
        raise NoReply("the caller left")

    def _pause(self, error: NoReply, failed: int) -> None:
        """Wait before the next attempt: as long as the server says, which holds for all, or longer each
        time."""
        own = min(FIRST_PAUSE * 2 ** (failed - 1), LONGEST_OWN_PAUSE) * self.random.uniform(0.5, 1)
        now = time.monotonic()
        with self.guard:
            if error.pause is not None:
                self.open_at = max(self.open_at, now + error.pause)
            is_told = now >= self.silent_until
            self.silent_until = now + SECONDS_BETWEEN_LINES if is_told else self.silent_until
        if is_told:
            log.info("%s: %s; trying again", self.endpoint.server, error)
        self.stopped.wait(own if error.pause is None else error.pause)
