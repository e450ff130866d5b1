"""Ask many requests at once: retried, kept, counted, and handed over as they come.

Contract: every request is delivered once, in the caller's thread: with its reply, or with None where all its
attempts failed. Equal requests are asked once. A server that cannot be asked ends everything soon, with one
line, and whatever was answered by then is delivered and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from tqdm import tqdm

from chat.endpoint import named_server
from chat.protocol import NoReply, Refused
from chat.record import Counts, Endpoint, Reply, Request
from chat.store import Store
from chat.workers import Outcome, Workers
from utils import UserError, log

SHORTEST_ROUND = 4  # requests that fail in a row before a server counts as gone
MOST_REFUSED = 16  # requests that are refused, and none answered, before the others are not tried

Done = Callable[[int, Reply | None], None]


def ask_all(
    endpoint: Endpoint,
    requests: Sequence[Request],
    counts: Counts,
    done: Done,
    store: Store | None = None,
    desc: str = "",
    answered_before: int = 0,
) -> None:
    """Ask all requests, `endpoint.concurrency` at once, and call `done(index, reply)` for each.

    counts: is added to. store: holds what was answered before, and gets what is answered now. desc: of the
    progress bar; "": no bar. answered_before: requests of the same work that this server answered in other
    calls, so that the last one that it does not answer is no sign of a dead server. Raises UserError, one
    line that names server, model and remedy, where no request can be answered: a refused key, an unknown
    model or address, nobody there, or a whole round that failed.
    """
    store = Store(None) if store is None else store
    indices: dict[str, list[int]] = {}  # of equal requests, by their digest
    for index, request in enumerate(requests):
        indices.setdefault(request.digest(endpoint.base_url), []).append(index)
    unknown: dict[str, Request] = {}
    known = 0
    for digest, alike in indices.items():
        reply = store.get(digest)
        if reply is None:
            unknown[digest] = requests[alike[0]]
            continue
        known += len(alike)
        counts.cached += len(alike)
        for index in alike:
            done(index, reply)
    if not unknown:
        return
    ending = Ending(endpoint, len(unknown), known + answered_before)
    workers = Workers(endpoint, unknown, counts, store)
    shown = {"desc": desc, "unit": "request", "disable": not desc, "dynamic_ncols": True}
    with tqdm(total=len(requests), initial=known, **shown) as bar, closing(workers):

        def deliver(outcome: Outcome) -> None:
            alike = indices[outcome.digest]
            _count(counts, outcome, len(alike))
            for index in alike:
                done(index, outcome.reply)
                bar.update()

        for outcome in workers.outcomes():
            deliver(outcome)
            reason = ending.reason(outcome, unknown[outcome.digest])
            if reason is not None:
                for late in workers.answered_meanwhile():
                    deliver(late)
                    ending.answered += 1
                raise UserError(reason + ending.what_is_kept())


def _count(counts: Counts, outcome: Outcome, alike: int) -> None:
    """Count an outcome; alike: so many requests are equal to this one, itself included."""
    if outcome.reply is None:
        counts.failed += alike
        return
    counts.asked += 1
    counts.cached += alike - 1
    counts.prompt_tokens += outcome.reply.prompt_tokens
    counts.completion_tokens += outcome.reply.completion_tokens


class Ending:
    """Says when it makes no sense to go on.

    total: requests to ask. known: replies that were known before.
    """

    def __init__(self, endpoint: Endpoint, total: int, known: int):
        self.endpoint, self.total, self.known = endpoint, total, known
        self.answered = self.refused = self.failed_in_a_row = 0
        self.was_heard = False  # did the server answer anything at all?

    def reason(self, outcome: Outcome, request: Request) -> str | None:
        """Log why a request has no reply. The reason to end where the others would have none, either."""
        error, named = outcome.error, named_server(self.endpoint, request)
        if error is None:
            self.answered += 1
            self.failed_in_a_row, self.was_heard = 0, True
        elif isinstance(error, Refused):
            self.refused += 1
            self.failed_in_a_row, self.was_heard = 0, True
            log.warning("%s: a request was refused (%s)", named, error)
            return self._all_are_refused(named, error)
        elif isinstance(error, NoReply):
            self.failed_in_a_row += 1
            self.was_heard |= error.heard
            log.warning("%s: no reply after %d attempts (%s)", named, self.endpoint.retries + 1, error)
            return self._nobody_answers(named, error)
        return None

    def _all_are_refused(self, named: str, error: Refused) -> str | None:
        most = min(self.total, max(self.endpoint.concurrency, MOST_REFUSED))
        if self.known or self.answered or self.refused < most:
            return None
        return (
            f"{named}: the server refuses every request, {self.refused} of {self.refused} that were tried "
            f"({error}); see to the model's name, its context length and the prompts"
        )

    def _nobody_answers(self, named: str, error: NoReply) -> str | None:
        attempts = self.endpoint.retries + 1
        if not self.was_heard:
            return (
                f"{named}: cannot be reached after {attempts} attempts ({error}); start the server, or "
                "correct base_url"
            )
        most = max(self.endpoint.concurrency, SHORTEST_ROUND)
        none_is_answered = not (self.known or self.answered)
        if self.failed_in_a_row < (min(most, self.total) if none_is_answered else most):
            return None
        remedy = "; see to the server and to base_url" if none_is_answered else ""
        failed = "the only request" if self.total == 1 else f"{self.failed_in_a_row} requests in a row"
        return f"{named}: {failed} got no reply ({error}){remedy}"

    def what_is_kept(self) -> str:
        """The end of the line that ends everything."""
        kept = self.known + self.answered
        return f"; {kept} replies are kept, and the same command goes on from there" if kept else ""
