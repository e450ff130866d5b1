"""task=dialogues: distributions of answers to dialogues under beliefs, as the GDPO paper makes its opinions
(arXiv 2412.20299, data): each question in several phrasings, with an answer for each of its options.

Contract: a phrasing is in the data only where every option has an answer that passed all checks. What did not
pass is listed with the reason of each try. All groups of people read the same texts; they differ in p* alone.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from synthesis.briefs import AS_IT_STANDS, STYLES, TEMPLATES, Brief, answer_briefs, phrasing_brief
from synthesis.config import SynthesisSettings
from synthesis.desk import Desk
from synthesis.dialogue_check import check_dialogues
from synthesis.dialogue_rows import Dialogue, Row, mmoqa_rows, own_row, split_dialogues, without_all_held_out
from synthesis.questions import Questions, read_questions
from synthesis.record import Json, Provenance
from synthesis.text_checks import VERSION
from synthesis.voicing import VoiceJudge, check_judge, judged_by, open_judge
from synthesis.work import Work, open_work
from synthesis.writers import Writer, open_writer
from utils import UserError

MOST_SHOWN = 6  # reasons on the screen
# how the rows are written from the texts that are there: these may change, and nothing is written anew
OF_ROWS = ("columns", "pairs_per_prompt", "eval_phrasings", "test_phrasings", "test_fraction", "n")

Chosen = list[tuple[Brief, list[Brief]]]  # a phrasing, and the answers to it; []: it did not pass


def make_dialogues(settings: SynthesisSettings, folder: Path) -> str:
    """Write the dialogues of the sources' questions and the data of every group of people.

    Returns what became of them, in some lines. Raises UserError for bad input, a writer or judge that cannot
    be asked (what is done is kept), and where no dialogue passed.
    """
    if settings.check:
        return check_dialogues(settings, folder)
    check_judge(settings)
    _check_styles(settings.styles)
    asked = read_questions(settings)
    judge = open_judge(settings)
    with contextlib.closing(open_writer(settings, folder)) as writer:
        with open_work(folder, "dialogues", _facts(settings, writer), settings.overwrite) as work:
            desk = Desk(work, writer, judge, settings)
            chosen = _write(desk, asked, settings)
            dialogues = _whole(desk, chosen)
            parts = split_dialogues(dialogues, settings)
            files = _files(parts, asked, settings)
            provenance = _provenance(asked, writer, judge, settings)
            counts = {**provenance.counts, **_counts(work, chosen, dialogues, files)}
            counts["questions_without_all_held_out"] = without_all_held_out(parts, settings)
            work.finish(files, provenance._replace(counts=counts))
            return _summary(work, folder, counts, files) + _lacking(counts, settings)


def _check_styles(styles: Sequence[str]) -> None:
    """Raises UserError for a style whose phrasings would be named as the answers to another one's are."""
    for style in styles:
        other, _, number = style.rpartition("/")
        if other in styles and number.isdecimal():
            raise UserError(
                f"config key styles: {style} is the name of an answer to style {other}; say it in other words"
            )


def _facts(settings: SynthesisSettings, writer: Writer) -> dict[str, Json]:
    return {
        "ckpt": settings.ckpt,
        "generator": settings.generator,
        "writer": writer.identity,
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "tries": settings.tries,
        "near": settings.near,
        "checks": VERSION,
        "judge": judged_by(settings),
    }


def _write(desk: Desk, asked: Questions, settings: SynthesisSettings) -> Chosen:
    """All phrasings, then the answers to those that passed."""
    phrasings = [
        (question, style, phrasing_brief(question, style))
        for question in asked.questions
        for style in settings.styles
    ]
    desk.write([brief for _, _, brief in phrasings], "phrasings")
    chosen: Chosen = []
    for question, style, brief in phrasings:
        phrasing = desk.text_of(brief)
        chosen.append((brief, answer_briefs(question, style, phrasing) if phrasing else []))
    desk.write([answer for _, answers in chosen for answer in answers], "answers")
    return chosen


def _whole(desk: Desk, chosen: Chosen) -> list[Dialogue]:
    """The phrasings of which every option has its answer."""
    dialogues = []
    for brief, answers in chosen:
        texts = tuple(desk.text_of(answer) for answer in answers)
        if texts and all(texts):
            style = brief.item.key.removeprefix(f"{brief.question.key}/")
            dialogues.append(Dialogue(brief.question, style, desk.text_of(brief), texts))
    return dialogues


def _files(
    parts: Mapping[str, Sequence[Dialogue]], asked: Questions, settings: SynthesisSettings
) -> dict[str, list[Row]]:
    """The rows of every group and split by the file's name, GROUP/SPLIT.jsonl."""
    names = folder_names(asked.groups)
    files: dict[str, list[Row]] = {}
    for split, part in parts.items():
        for group in asked.groups:
            rows: list[Row] = []
            for dialogue in part:
                if group not in dialogue.question.shares:
                    continue
                if settings.columns == "mmoqa":
                    rows += mmoqa_rows(dialogue, group, settings)
                else:
                    rows.append(own_row(dialogue, group, settings.belief_classes))
            if rows:
                files[f"{names[group]}/{split}.jsonl"] = rows
    return files


def folder_names(groups: Sequence[str]) -> dict[str, str]:
    """A plain folder name for each group of people: United States -> united_states."""
    names: dict[str, str] = {}
    for group in groups:
        plain = re.sub(r"\W+", "_", group.casefold()).strip("_")[:60] or "group"
        taken = set(names.values())
        number, name = 1, plain
        while name in taken:
            number += 1
            name = f"{plain}_{number}"
        names[group] = name
    return names


# --- what is said of it -------------------------------------------------------------------------------------


def _provenance(
    asked: Questions, writer: Writer, judge: VoiceJudge | None, settings: SynthesisSettings
) -> Provenance:
    makers = (writer.maker,) if judge is None else (writer.maker, judge.maker)
    of_judge = {} if judge is None else judge.prompts
    known = {**STYLES, AS_IT_STANDS: "the survey's own words"}
    ways = {f"style {style}": known.get(style, style) for style in settings.styles}
    counts: dict[str, Json] = {
        "questions": len(asked.questions),
        "questions_of_group": {
            group: sum(group in question.shares for question in asked.questions) for group in asked.groups
        },
        "left_out_by_reader": dict(asked.left_out),
        "written_as": {key: vars(settings)[key] for key in OF_ROWS},
    }
    return Provenance(asked.origins, makers, {**TEMPLATES, **ways, **of_judge}, counts, settings.licence)


def _counts(
    work: Work,
    chosen: Chosen,
    dialogues: Sequence[Dialogue],
    files: Mapping[str, Sequence[Row]],
) -> dict[str, Json]:
    """How many texts were to be written, how many passed, and at which try."""
    phrasings = [brief for brief, _ in chosen]
    answers = [answer for _, of_phrasing in chosen for answer in of_phrasing]
    return {
        "phrasings": _passed(work, phrasings),
        "answers": _passed(work, answers),
        "dialogues": {"asked": len(chosen), "whole": len(dialogues)},
        "questions_with_dialogues": len({dialogue.question.key for dialogue in dialogues}),
        "rows": {name: len(rows) for name, rows in files.items()},
    }


def _passed(work: Work, briefs: Sequence[Brief]) -> dict[str, Json]:
    tries: Counter[int] = Counter()
    for brief in briefs:
        result = work.result(brief.item)
        match result.value if result else None:
            case {"try": int(number)}:
                tries[number] += 1
    by_try: dict[str, Json] = {str(number): tries[number] for number in sorted(tries)}
    return {"asked": len(briefs), "passed": tries.total(), "passed_at_try": by_try}


def _lacking(counts: Mapping[str, Json], settings: SynthesisSettings) -> str:
    """What was not held out, as a line for the screen; "" where all was."""
    lacking = counts["questions_without_all_held_out"]
    if not lacking:
        return ""
    asked = f"eval_phrasings={settings.eval_phrasings} and test_phrasings={settings.test_phrasings}"
    return f"\n{lacking} questions have too few phrasings for {asked}; one of each stays in train"


def _summary(work: Work, folder: Path, counts: Mapping[str, Json], files: Mapping[str, Sequence[Row]]) -> str:
    """Some lines for the screen. Raises UserError where no dialogue passed."""
    reasons = work.reasons()
    lines = [f"{folder / name}: {len(rows)} rows" for name, rows in files.items()]
    match counts["questions_of_group"]:
        case dict(of_group):
            most = list(of_group.items())[:MOST_SHOWN]
            lines.append("questions: " + ", ".join(f"{count} of {group}" for group, count in most))
    for kind in ("phrasings", "answers"):
        match counts[kind]:
            case {"asked": int(asked), "passed": int(passed)}:
                share = f" ({100 * passed / asked:.1f}%)" if asked else ""
                lines.append(f"{passed} of {asked} {kind} passed{share}")
    match counts["dialogues"]:
        case {"asked": int(asked), "whole": int(whole)}:
            lines.append(f"{whole} of {asked} phrasings have an answer for every option")
    lines += [f"  not passed: {count} ({reason})" for reason, count in reasons.most_common(MOST_SHOWN)]
    if not files:
        raise UserError(
            f"{folder}: no phrasing has an answer for every option ({'; '.join(map(str.strip, lines))}); "
            f"see {folder / 'synthesis.json'}, and give a stronger writer, more tries, or another judge, "
            "with overwrite=true or another output"
        )
    return "\n".join(lines)
