"""task=dialogues check=true: the checks of written dialogues, on the answers of data that is there.

Contract: nothing is written anew; every phrasing and every answer is an item with what is wrong with it, by
the same functions as when dialogues are written. `faults.jsonl` lists what did not pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from groups import DATA, Group, read_rows
from groups.contents import identity_of
from settings import DataSet
from synthesis.config import SynthesisSettings
from synthesis.entries import read_entries
from synthesis.record import Item, Json, Origin, Provenance
from synthesis.text_checks import VERSION, Taken, fault_of_answer, fault_of_phrasing, fault_of_text
from synthesis.voicing import NO_VERDICT, Claim, VoiceJudge, judged_by, open_judge
from synthesis.work import Work, open_work
from utils import UserError

OPINIONS = "opinions"  # the embedded questions, of all groups together
FAULTS = "faults.jsonl"
JUDGED_AT_ONCE = 256  # answers: so many may be judged again after a kill
UNANSWERED = "no answer"
MARKED = re.compile(r"\s*<Q>(.*)<A>\s*", re.S)
MOST_SHOWN = 8  # reasons on the screen

Row = dict[str, Json]


class Answer(NamedTuple):
    """What stands for an option; "" where nothing does."""

    option: str
    label: str
    text: str


class Asked(NamedTuple):
    """A phrasing that is there, with its answers."""

    key: str
    question: str  # what it is a phrasing of
    phrasing: str
    answers: tuple[Answer, ...]


class Checked(NamedTuple):
    """A text with what is wrong with it, as far as texts tell."""

    item: Item
    asked: Asked
    answer: Answer | None  # None: it is the phrasing
    fault: str

    @property
    def text(self) -> str:
        return self.asked.phrasing if self.answer is None else self.answer.text


def check_dialogues(settings: SynthesisSettings, folder: Path) -> str:
    """Check all phrasings and answers of the sources, and write what is wrong.

    Returns how many passed, with the reasons of the others. Raises UserError for sources without answers
    under beliefs, and where the judge cannot be asked.
    """
    judge = open_judge(settings)
    all_asked, origins = _read(settings)
    facts: dict[str, Json] = {"check": True, "checks": VERSION, "judge": judged_by(settings)}
    facts |= {"sources": [origin.fact for origin in origins], "near": settings.near}
    with open_work(folder, "dialogues", facts, settings.overwrite) as work:
        checked = list(_checked(all_asked, settings.near))
        work.expect([one.item for one in checked])
        missing = {item.key for item in work.missing([one.item for one in checked])}
        left = [one for one in checked if one.item.key in missing]
        for start in range(0, len(left), JUDGED_AT_ONCE):
            _judge(work, left[start : start + JUDGED_AT_ONCE], judge)
        makers, prompts = ((), {}) if judge is None else ((judge.maker,), judge.prompts)
        counts = _counts(work, checked)
        work.finish(
            {FAULTS: _faults(work, checked)}, Provenance(origins, makers, prompts, counts, settings.licence)
        )
        return _summary(work, checked, folder)


# --- what is there ------------------------------------------------------------------------------------------


def _read(settings: SynthesisSettings) -> tuple[list[Asked], tuple[Origin, ...]]:
    all_asked: list[Asked] = []
    origins: list[Origin] = []
    for source in settings.sources or ():
        if source.name == OPINIONS:
            found, origin = _opinions()
        else:
            found, origin = _of_data(source, settings)
        all_asked += found
        origins.append(origin)
    if not all_asked:
        raise UserError("sources: no answers under beliefs; give data with belief_probs and responses")
    return all_asked, tuple(origins)


def _opinions() -> tuple[list[Asked], Origin]:
    """The embedded questions, whatever group was asked them."""
    paths = [DATA / OPINIONS / name for name in ("questions.jsonl", "language.jsonl")]
    questions = {row["id"]: row for row in read_rows(paths[0])}
    rows = read_rows(paths[1])
    found = []
    for row in rows:
        question = questions[row["id"]]
        labels = zip(question["options"], question["option_class"])
        answers = tuple(
            Answer(option, str(label), row["answers"].get(option, "")) for option, label in labels
        )
        found.append(Asked(f"{row['id']}/{row['style']}", question["question"], row["prompt"], answers))
    return found, Origin(OPINIONS, identity_of(paths), len(rows))


def _of_data(source: DataSet, settings: SynthesisSettings) -> tuple[list[Asked], Origin]:
    """The phrasings of a data set whose responses have beliefs. Raises UserError where they have none."""
    entries = read_entries(source, settings)
    found = []
    for number, entry in enumerate(entries.entries, 1):
        group = entry.group
        if not group.belief_probs or not isinstance(group.prompt, str):
            raise UserError(f"{group.where}: no answers under beliefs; give data with belief_probs")
        marked = MARKED.fullmatch(group.prompt)
        phrasing = marked[1] if marked else group.prompt
        key = f"{source.name}/{number}"
        found.append(Asked(key, group.question or phrasing, phrasing, tuple(_answers(group))))
    return found, entries.origin


def _answers(group: Group) -> Iterator[Answer]:
    """Every response, and every option that has none."""
    answered = set()
    for response in group.responses:
        if response.belief is not None:
            answered.add(response.belief)
            yield Answer(response.belief.text, response.belief.label, response.text)
    for option in group.options:
        if option not in answered:
            yield Answer(option.text, option.label, "")


# --- checks -------------------------------------------------------------------------------------------------


def _checked(all_asked: Sequence[Asked], near: float) -> Iterator[Checked]:
    """Every phrasing and answer with what texts tell of it."""
    taken = Taken(near)
    for asked in all_asked:
        fault = fault_of_text(asked.phrasing, "stop")
        if asked.question != asked.phrasing:
            fault = fault or fault_of_phrasing(asked.phrasing, asked.question)
        yield _one(asked, None, asked.key, fault, taken)
        for place, answer in enumerate(asked.answers, 1):
            fault = fault_of_text(answer.text, "stop") if answer.text else UNANSWERED
            fault = fault or fault_of_answer(answer.text, answer.option, answer.label)
            yield _one(asked, answer, f"{asked.key}/{place}", fault, taken)


def _one(asked: Asked, answer: Answer | None, key: str, fault: str, taken: Taken) -> Checked:
    text = asked.phrasing if answer is None else answer.text
    fault = fault or taken.fault(text, asked.question)
    taken.add(text, asked.question, key)
    inputs: list[Json] = [asked.question, asked.phrasing]
    if answer is not None:
        inputs += [list(answer), [other.option for other in asked.answers]]
    return Checked(Item(key, inputs), asked, answer, fault)


def _judge(work: Work, part: Sequence[Checked], judge: VoiceJudge | None) -> None:
    """Keep what is wrong with some texts; the judge says it of answers in which nothing else is."""
    claims: dict[str, Claim] = {}
    for one in part:
        is_text_right = judge is not None and not one.fault
        if is_text_right and one.answer is not None and one.answer.option:  # a class alone has no words
            options = tuple(dict.fromkeys(answer.option for answer in one.asked.answers))
            claims[one.item.key] = Claim(
                one.asked.question, one.asked.phrasing, options, one.answer.option, one.answer.text
            )
    said = judge.faults(list(claims.values())) if judge is not None and claims else []
    faults = dict(zip(claims, said))
    for one in part:
        fault = one.fault or faults.get(one.item.key, "")
        if fault == NO_VERDICT:
            work.fail(one.item, fault)
        elif fault:
            work.reject(one.item, fault)
        else:
            work.keep(one.item, True)


# --- what is said of it -------------------------------------------------------------------------------------


def _faults(work: Work, checked: Sequence[Checked]) -> list[Row]:
    """A row for each text that did not pass."""
    rejects = work.rejects()
    rows: list[Row] = []
    for one in checked:
        reason = rejects.get(one.item.key)
        if reason:
            option = None if one.answer is None else one.answer.option
            rows.append({"id": one.item.key, "option": option, "text": one.text, "fault": reason})
    return rows


def _counts(work: Work, checked: Sequence[Checked]) -> dict[str, Json]:
    rejects = work.rejects()
    counts: dict[str, Json] = {}
    for kind, is_answer in (("phrasings", False), ("answers", True)):
        of_kind = [one for one in checked if (one.answer is not None) == is_answer]
        passed = sum(one.item.key not in rejects for one in of_kind)
        counts[kind] = {"checked": len(of_kind), "passed": passed}
    return counts


def _summary(work: Work, checked: Sequence[Checked], folder: Path) -> str:
    reasons = work.reasons()
    lines = []
    for kind, of_kind in _counts(work, checked).items():
        match of_kind:
            case {"checked": int(count), "passed": int(passed)} if count:
                lines.append(f"{passed} of {count} {kind} pass ({100 * passed / count:.1f}%)")
    lines += [f"  not passed: {count} ({reason})" for reason, count in reasons.most_common(MOST_SHOWN)]
    return "\n".join([*lines, f"{folder / FAULTS}: {sum(reasons.values())} rows"])
