"""A chat model behind a server of OpenAI's protocol as the judge: of stated beliefs, of pairs, of single
answers.

Contract: greedy, short replies, each kept on the disk by the hash of its request, so that nothing is asked
twice and a run that was killed goes on. A request that failed, and a reply that says nothing of what was
asked, are None and are counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import chat
from chat import Counts, Endpoint, Reply, Request
from evaluation.judges import replies
from evaluation.judges.prompts import question
from evaluation.judges.record import Answered, Compared, Stated
from groups import Prompt
from utils import UserError, log

Said = TypeVar("Said", bool, float)

REPLY_TOKENS = 256  # a verdict and a sentence
THINKING_TOKENS = 8192  # of a model that thinks before it says anything


class ChatJudge:
    """Asks one model at one server. A `BeliefJudge`, a `PairJudge` and a `ScoreJudge`."""

    def __init__(self, endpoint: Endpoint, model: str):
        self.endpoint, self.model = endpoint, model
        self.name = f"openai {model}"
        self.store = chat.Store(chat.store_path("judge", endpoint, model))
        self.asking = Counts()
        self.pairs, self.orders_disagreed = 0, 0
        self.served_as: set[str] = set()  # what the server calls the model: its dated version, say

    def voices(self, answers: Sequence[Stated]) -> list[bool | None]:
        """Whether each answer voices the belief that it states. An empty answer voices none and is not asked
        about."""
        written = [stated for stated in answers if stated.answer.strip()]
        questions = [question("belief", stated._asdict()) for stated in written]
        said = iter(self._verdicts(questions, replies.yes_or_no, "beliefs"))
        return [next(said) if stated.answer.strip() else False for stated in answers]

    def preferences(self, pairs: Sequence[Compared]) -> list[float | None]:
        """The mean of the verdicts in both orders, so that a judge that always takes the first one says 0.5:
        1 for the policy's response, 0 for the baseline's, 0.5 for a tie.

        None where an order has no verdict. Equal responses are a tie and are not asked about.
        """
        differing = [pair for pair in pairs if pair.response != pair.baseline]
        questions = [_pair_question(p.prompt, p.response, p.baseline) for p in differing]
        questions += [_pair_question(p.prompt, p.baseline, p.response) for p in differing]
        said = self._verdicts(questions, replies.preferred, "pairs, both orders")
        means = iter(map(self._in_both_orders, said[: len(differing)], said[len(differing) :]))
        return [next(means) if pair.response != pair.baseline else 0.5 for pair in pairs]

    def scores(self, responses: Sequence[Answered | tuple[Prompt, str]]) -> list[float | None]:
        """1 to 10 for each response, which follows all messages of its prompt: of two turns, the second is
        scored. Beside the reference answer where one is given."""
        questions = [_score_question(Answered(*response)) for response in responses]
        return self._verdicts(questions, replies.score, "scores")

    def counts(self) -> Mapping[str, int]:
        """Requests that were asked, known from before (or alike), failed and unparsable so far, and tokens;
        of pairs, how many were judged in both orders, and how many verdicts changed with the order."""
        counted = dataclasses.asdict(self.asking)
        if self.pairs:
            counted |= {"pairs": self.pairs, "orders_disagreed": self.orders_disagreed}
        return counted

    def _in_both_orders(self, first: float | None, second: float | None) -> float | None:
        """The mean of a pair's verdicts, for the policy's response; it was A in the first."""
        if first is None or second is None:
            return None
        self.pairs += 1
        self.orders_disagreed += first != 1 - second
        return (first + 1 - second) / 2

    def _verdicts(
        self, questions: Sequence[str], read: Callable[[str], Said | None], what: str
    ) -> list[Said | None]:
        """What the replies to these questions say."""
        answered = self._ask(questions, REPLY_TOKENS, what)
        thinking = [i for i, reply in enumerate(answered) if reply is not None and _is_thinking(reply)]
        if thinking:  # once more, with room to come to an end
            longer = self._with_more_room([questions[i] for i in thinking], what)
            for i, reply in zip(thinking, longer):
                answered[i] = answered[i] if reply is None else reply
        return [self._read(reply, read) for reply in answered]

    def _with_more_room(self, questions: Sequence[str], what: str) -> list[Reply | None]:
        """Longer replies; none where the server, which has just answered, has no room for them."""
        try:
            return self._ask(questions, THINKING_TOKENS, f"{what}, with more room")
        except UserError as error:
            log.warning("%s; %d replies that were cut stay without a verdict", error, len(questions))
            return [None] * len(questions)

    def _read(self, reply: Reply | None, read: Callable[[str], Said | None]) -> Said | None:
        """The verdict of a reply. A refusal is none, whatever word it begins with."""
        if reply is None:
            return None
        verdict = None if reply.finish == "filtered" else read(reply.text)
        self.asking.unparsable += verdict is None
        return verdict

    def _ask(self, questions: Sequence[str], max_tokens: int, what: str) -> list[Reply | None]:
        """The replies; None where there is none after all attempts."""
        requests = [Request(self.model, [{"role": "user", "content": q}], max_tokens) for q in questions]
        answered: list[Reply | None] = [None] * len(requests)

        def keep(number: int, reply: Reply | None) -> None:
            answered[number] = reply

        if requests:
            desc = f"{self.name}: {what}"
            chat.ask_all(self.endpoint, requests, self.asking, keep, self.store, desc)
        self._note_versions({reply.model for reply in answered if reply is not None and reply.model})
        return answered

    def _note_versions(self, names: set[str]) -> None:
        for name in sorted(names - self.served_as - {self.model}):
            log.info("%s: the server answers as %s", self.name, name)
        self.served_as |= names


def _is_thinking(reply: Reply) -> bool:
    """Was the reply cut before its first word, behind thoughts or with nothing to show?"""
    return reply.finish == "length" and not replies.without_thoughts(reply.text).strip()


def _pair_question(prompt: Prompt, a: str, b: str) -> str:
    return question("pair", {"prompt": prompt, "a": a, "b": b})


def _score_question(answered: Answered) -> str:
    texts = {"prompt": answered.prompt, "response": answered.response}
    if answered.reference:
        return question("score_reference", {**texts, "reference": answered.reference})
    return question("score", texts)
