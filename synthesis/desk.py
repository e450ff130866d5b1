"""The desk: every text is written, checked, judged, and written anew until it passes or has no tries left.

Contract: which text an item gets is a function of the briefs, the writer, the judge and the settings; not of
where a command was killed. Texts are taken in the order of their briefs, so that of two that say the same the
first stays. A server that does not answer, and a judge that does not say, leave an item for another time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from synthesis.briefs import Brief
from synthesis.config import SynthesisSettings
from synthesis.record import NO_TOKENS, Json, Tokens
from synthesis.text_checks import Taken, cleaned, fault_of_answer, fault_of_phrasing, fault_of_text
from synthesis.voicing import NO_VERDICT, VoiceJudge
from synthesis.work import Work
from synthesis.writers import Text, Writer

NO_REPLY = "no reply: the server did not answer"
FOR_ANOTHER_TIME = (NO_REPLY, NO_VERDICT)


class Draft(NamedTuple):
    """A text that was written, and what is wrong with it as far as is known."""

    brief: Brief
    text: str
    fault: str


class Desk:
    """Writes the texts of one work."""

    def __init__(self, work: Work, writer: Writer, judge: VoiceJudge | None, settings: SynthesisSettings):
        self.work, self.writer, self.judge = work, writer, judge
        self.tries = settings.tries
        self.taken = Taken(settings.near)

    def write(self, briefs: Sequence[Brief], desc: str) -> None:
        """Keep or reject what is missing. desc: of the progress bar.

        Raises UserError where writer or judge cannot be asked; what they said by then is kept.
        """
        items = [brief.item for brief in briefs]
        self.work.expect(items)
        for brief in briefs:
            text = self.text_of(brief)
            if text:
                self.taken.add(text, brief.question.key, brief.item.key)
        missing = {item.key for item in self.work.missing(items)}
        left = [brief for brief in briefs if brief.item.key in missing and not self._is_given(brief)]
        spent: defaultdict[str, Tokens] = defaultdict(lambda: NO_TOKENS)
        faults: defaultdict[str, list[str]] = defaultdict(list)
        for number in range(self.tries):
            if not left:
                return
            said = f"{desc}, try {number + 1}" if number else desc
            drafts = self._judged(self._drafts(left, number, said, spent))
            left = self._settle(drafts, number, spent, faults)
        for brief in left:
            self._give_up(brief, faults[brief.item.key], spent[brief.item.key])

    def _is_given(self, brief: Brief) -> bool:
        """Keep a text that is there without a writer."""
        if not brief.given:
            return False
        self.work.keep(brief.item, {"text": brief.given, "try": 0}, NO_TOKENS)
        self.taken.add(brief.given, brief.question.key, brief.item.key)
        return True

    def text_of(self, brief: Brief) -> str:
        """What was written for a brief; "" where nothing was, or nothing passed."""
        result = self.work.result(brief.item)
        match result.value if result else None:
            case {"text": str(text)}:
                return text
        return ""

    def _drafts(
        self, briefs: Sequence[Brief], number: int, desc: str, spent: defaultdict[str, Tokens]
    ) -> list[Draft]:
        """Try `number` of every brief, checked as far as texts tell."""
        written = self.writer.write([brief.request for brief in briefs], number, desc)
        drafts = []
        for brief, text in zip(briefs, written):
            if text is not None:
                spent[brief.item.key] += text.tokens
            drafts.append(self._checked(brief, text))
        return drafts

    def _checked(self, brief: Brief, written: Text | None) -> Draft:
        if written is None:
            return Draft(brief, "", NO_REPLY)
        text = cleaned(written.words)
        fault = fault_of_text(text, written.finish)
        if not fault and brief.place is None:
            fault = fault_of_phrasing(text, brief.question.text)
        elif not fault:
            fault = fault_of_answer(text, brief.option, brief.label)
        return Draft(brief, text, fault or self.taken.fault(text, brief.question.key))

    def _judged(self, drafts: Sequence[Draft]) -> list[Draft]:
        """With what the judge says of the answers in which nothing else is wrong."""
        judged = {
            place: draft.brief.claim(draft.text)
            for place, draft in enumerate(drafts)
            if not draft.fault and draft.brief.place is not None
        }
        if self.judge is None or not judged:
            return list(drafts)
        faults = dict(zip(judged, self.judge.faults(list(judged.values()))))
        return [
            draft._replace(fault=faults[place]) if place in faults else draft
            for place, draft in enumerate(drafts)
        ]

    def _settle(
        self,
        drafts: Sequence[Draft],
        number: int,
        spent: Mapping[str, Tokens],
        faults: Mapping[str, list[str]],
    ) -> list[Brief]:
        """Keep the drafts that pass, in their order; the briefs of those that are to be drawn again."""
        left = []
        for brief, text, fault in drafts:
            key = brief.item.key
            fault = fault or self.taken.fault(text, brief.question.key)
            if fault in FOR_ANOTHER_TIME:
                self.work.fail(brief.item, fault)
                continue
            if fault:
                faults[key].append(fault)
                left.append(brief)
                continue
            value: Json = {"text": text, "try": number + 1}
            self.work.keep(brief.item, value, spent[key])
            self.taken.add(text, brief.question.key, key)
        return left

    def _give_up(self, brief: Brief, faults: Sequence[str], spent: Tokens) -> None:
        *before, last = faults
        colon = "" if ":" in last else ":"
        self.work.reject(
            brief.item, last + (f"{colon} (before: {'; '.join(before)})" if before else ""), spent
        )
