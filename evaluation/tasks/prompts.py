"""The questions of a task: the projects' own files, or a user's prompts.

Contract: a text is one user's message, so that the chat template is used; messages stay as they are; rows of
our own format with responses are asked as training asks them. What cannot be read is a UserError of one line
with the file, the row and the field. Nothing is repaired, and no row is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from evaluation.tasks import hub
from evaluation.tasks.record import ALPACA, ARENA_V01, ARENA_V2, FASTCHAT, PLAIN, Question, Questions
from groups import Prompt, Source, open_table, parse_group
from groups.conversations import read_messages_of, user_turn
from groups.kinds import is_messages
from groups.rows import Row
from groups.values import clipped, is_absent, parsed
from settings import EvaluationSettings
from utils import UserError, log

Rows = Sequence[tuple[str, Row]]  # (file and row, columns)

PROMPT_COLUMNS = ("prompt", "instruction", "question", "messages")
ID_COLUMNS = ("id", "prompt_id", "question_id", "uid")
TEXT_FILE = ".txt"
SPLIT = "test"  # of a hub data set: its test split, or what stands for it, or all that it has


def read_questions(settings: EvaluationSettings) -> Questions:
    """The questions of `settings.task`, from its file or from the hub, the first `n_prompts` of them.

    Raises UserError as above, and where the hub cannot be reached.
    """
    place, path, rows = _open(settings)
    form = _form_of(settings.task, *rows[0])
    asked = []
    for number, (where, row) in enumerate(rows, 1):
        if form != PLAIN and _form_of(settings.task, where, row) != form:
            raise UserError(f"{where}: is of another form than the first row; give questions of one form")
        asked.append(READERS[form](row, where, number))
    _check_ids(asked)
    if form == FASTCHAT:
        asked = _with_reference_file(asked, Path(path))
    asked = asked[: settings.n_prompts]
    questions = Questions(form, place, asked)
    if form == ALPACA:
        return _with_difficulty(questions, path, is_default=settings.prompts is None)
    return questions


# --- rows ---------------------------------------------------------------------------------------------------


def read_prompt_file(place: str) -> list[Question]:
    """The prompts of a file or a hub id, as task=prompts asks them. Raises UserError as above."""
    asked = []
    for number, (where, row) in enumerate(_rows_at(place), 1):
        asked.append(_plain(row, where, number))
    _check_ids(asked)
    return asked


def _open(settings: EvaluationSettings) -> tuple[str, str, Rows]:
    """The questions' name for readers, their path or hub id, and their rows."""
    given = settings.prompts
    if given is None and settings.task == "prompts":
        raise UserError("task=prompts: has no prompts of its own; give prompts=<file or hub id>")
    place, path = (given, given) if given else hub.questions_of(settings.task)
    return place, path, _rows_at(path)


def _rows_at(path: str) -> Rows:
    """The rows of a file or of a hub data set."""
    if Path(path).suffix.lower() == TEXT_FILE:
        return _text_rows(Path(path))
    return list(open_table(path, "all" if Path(path).exists() else SPLIT).rows())


def _text_rows(path: Path) -> Rows:
    """A prompt a line; blank lines are none. Raises UserError for a file that cannot be read or is empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a separator of Unicode is part of a prompt
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no UTF-8 text"
        raise UserError(f"prompts {path}: cannot be read ({reason}); give a text file in UTF-8") from error
    rows = [
        (f"{path}, line {n}", {"prompt": line.strip()}) for n, line in enumerate(lines, 1) if line.strip()
    ]
    if not rows:
        raise UserError(f"prompts {path}: holds no prompts; write one a line")
    return rows


def _form_of(task: str, where: str, row: Row) -> str:
    """Which form a row of a task's question file has. Raises UserError where it has none of them."""
    if task == "prompts":
        return PLAIN
    for form, columns in FORMS[task]:
        if all(not is_absent(row.get(column)) for column in columns):
            return form
    wanted = " or ".join(" with ".join(columns) for _, columns in FORMS[task])
    raise UserError(f"{where}: has no question of task={task} ({_filled(row)}); it needs {wanted}")


def _filled(row: Row) -> str:
    """Which of a row's columns hold something, for errors."""
    names = sorted(column for column, value in row.items() if not is_absent(value))
    return f"columns {', '.join(names)}" if names else "all of it is empty"


FORMS = {  # of each task: the columns that tell a form
    "alpaca_eval": [(ALPACA, ("instruction",))],
    "mt_bench": [(FASTCHAT, ("turns", "question_id")), (FASTCHAT, ("prompt", "prompt_id"))],
    "arena_hard": [(ARENA_V2, ("prompt", "uid")), (ARENA_V01, ("turns", "question_id"))],
}


# --- one row ------------------------------------------------------------------------------------------------


def _alpaca(row: Row, where: str, number: int) -> Question:
    if not is_absent(row.get("input")):
        raise UserError(f"{where}: field input: AlpacaEval 2 has none; write it into the instruction")
    prompt = user_turn(_text(row, "instruction", where))
    return Question(str(number - 1), prompt, (), _category(row, "dataset"), (), row, where)


def _fastchat(row: Row, where: str, number: int) -> Question:
    field, name = ("turns", "question_id") if not is_absent(row.get("turns")) else ("prompt", "prompt_id")
    turns = parsed(row[field])
    if not isinstance(turns, list) or len(turns) != 2 or not all(map(_is_text, turns)):
        raise UserError(f"{where}: field {field}: needs the texts of two turns; write [first, second]")
    references = _references(row.get("reference"), where)
    first, second = turns
    category = _category(row, "category")
    return Question(str(row[name]), user_turn(first), (second,), category, references, row, where)


def _references(value: object, where: str) -> tuple[str, ...]:
    """Reference answers, one a turn; null and an empty list are none."""
    value = parsed(value)
    if is_absent(value) or value == []:
        return ()
    is_list = isinstance(value, list) and len(value) <= 2
    if not is_list or not all(text is None or isinstance(text, str) for text in value):
        raise UserError(f"{where}: field reference: needs a text for each turn; correct it or leave it out")
    return tuple(text or "" for text in value)


def _arena_v01(row: Row, where: str, number: int) -> Question:
    turns = parsed(row["turns"])
    is_list = isinstance(turns, list) and len(turns) == 1 and isinstance(turns[0], dict)
    if not is_list or not _is_text(turns[0].get("content")):
        raise UserError(f'{where}: field turns: needs one turn; write [{{"content": "..."}}]')
    prompt = user_turn(turns[0]["content"])
    return Question(str(row["question_id"]), prompt, (), _category(row, "category"), (), row, where)


def _arena_v2(row: Row, where: str, number: int) -> Question:
    prompt = user_turn(_text(row, "prompt", where))
    return Question(str(row["uid"]), prompt, (), _category(row, "category"), (), row, where)


def _plain(row: Row, where: str, number: int) -> Question:
    name = next((row[column] for column in ID_COLUMNS if not is_absent(row.get(column))), number)
    category = _category(row, "category")
    if not is_absent(row.get("responses")) and parsed(row["responses"]) != []:
        group = parse_group(row, where)
        return Question(str(name), group.prompt, (), category, (), row, where)
    return Question(str(name), _plain_prompt(row, where), (), category, (), row, where)


def _plain_prompt(row: Row, where: str) -> Prompt:
    """The prompt of a row that has one column for it; `question` beside a prompt names what it asks."""
    columns = [column for column in PROMPT_COLUMNS if not is_absent(row.get(column))]
    if "question" in columns and len(columns) == 2:
        columns.remove("question")
    if not columns:
        wanted = " or ".join(PROMPT_COLUMNS)
        raise UserError(f"{where}: has no prompt ({_filled(row)}); it needs {wanted}")
    if len(columns) > 1:
        names = " and ".join(columns)
        raise UserError(f"{where}: fields {names}: which one is the prompt? remove the other")
    (column,) = columns
    if column != "messages" and not is_messages(row[column]):
        return user_turn(_text(row, column, where))
    messages = read_messages_of(row[column], column, where, Source((), "", Counter()))
    if messages[-1]["role"] == "assistant":  # demonstrations: what is asked stands before their answer
        messages = messages[:-1]
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise UserError(f"{where}: field {column}: no user's message to answer; end with one")
    return messages


def _text(row: Row, field: str, where: str) -> str:
    if not _is_text(row[field]):
        raise UserError(f"{where}: field {field}: is no text; write what is asked")
    return row[field]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _category(row: Row, field: str) -> str:
    value = row.get(field)
    return value if isinstance(value, str) else ""


READERS = {
    ALPACA: _alpaca,
    FASTCHAT: _fastchat,
    ARENA_V01: _arena_v01,
    ARENA_V2: _arena_v2,
    PLAIN: _plain,
}


# --- all rows -----------------------------------------------------------------------------------------------


def _check_ids(asked: Iterable[Question]) -> None:
    """Raises UserError where two questions have one id: their answers could not be told apart."""
    first: dict[str, str] = {}
    for question in asked:
        other = first.setdefault(question.id, question.where)
        if other != question.where:
            raise UserError(
                f"{question.where}: id {clipped(question.id)} is that of {other}, too; give each its own"
            )


def _with_difficulty(questions: Questions, file: str, is_default: bool) -> Questions:
    """With the difficulties, and the judged answers of gamed baselines, that AlpacaEval 2's fit knows, where
    their files are there. Raises UserError where one lacks."""
    path = hub.beside(file, hub.DIFFICULTY, is_default)
    if path is None:
        return questions
    known, count = hub.read_difficulty(path), len(questions.asked)
    missing = next((number for number in range(count) if number not in known), None)
    if missing is not None:
        raise UserError(f"{path}: has no difficulty of instruction {missing}; complete the file or remove it")
    gamed = hub.beside(file, hub.GAMED, is_default)
    return questions._replace(
        difficulty=[known[number] for number in range(count)],
        gamed=hub.read_gamed(gamed) if gamed else None,
    )


def _with_reference_file(asked: Sequence[Question], path: Path) -> list[Question]:
    """With FastChat's reference answers, where its folder `reference_answer` stands beside the questions.

    Raises UserError where that holds several files.
    """
    files = sorted((path.parent / "reference_answer").glob("*.jsonl")) if path.is_file() else []
    if not files:
        return list(asked)
    if len(files) > 1:
        raise UserError(f"{files[0].parent}: holds {len(files)} files of reference answers; keep one")
    known: dict[str, tuple[str, ...]] = {}
    for where, row in open_table(str(files[0]), "all").rows():
        try:
            texts = row["choices"][0]["turns"]
            known[str(row["question_id"])] = _references(texts, where)
        except (LookupError, TypeError) as error:
            raise UserError(f"{where}: is no answer in FastChat's form; write it again") from error
    log.info("%s has reference answers to %d questions", files[0], len(known))
    return [q if q.references else q._replace(references=known.get(q.id, ())) for q in asked]
