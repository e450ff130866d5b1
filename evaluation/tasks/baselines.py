"""What wins are counted against: a file of answers, or the answers of another checkpoint.

Contract: a baseline has one answer to every question, found by the question's id or, in AlpacaEval's form, by
its instruction (the first of several that are alike has the first answer). A file that lacks one is a
UserError that names it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.tasks import hub
from evaluation.tasks.record import ALPACA, ARENA_V01, ARENA_V2, Question, Questions
from groups import SUFFIXES, open_table
from groups.rows import Row
from groups.streams import CODECS
from groups.values import clipped, is_absent
from utils import UserError

# AlpacaEval 2's, and those of Arena-Hard's versions, by category where it has several
ALPACA_FILE = "alpaca_eval_gpt4_baseline.json"
ARENA_FILES = {
    ARENA_V01: "data/arena-hard-v0.1/model_answer/gpt-4-0314.jsonl",
    ARENA_V2: "data/arena-hard-v2.0/model_answer/o3-mini-2025-01-31.jsonl",
}
ARENA_WRITING = ("creative_writing", "data/arena-hard-v2.0/model_answer/gemini-2.0-flash-001.jsonl")


def is_answer_file(name: str) -> bool:
    """Is a baseline's name that of a file of answers? Others are names of checkpoints."""
    path = Path(name)
    suffix = Path(path.stem).suffix if path.suffix in CODECS else path.suffix
    return suffix in SUFFIXES


def read_file(name: str, asked: Sequence[Question]) -> tuple[str, list[str]]:
    """The model's name and its answer to every question, from a file in any of the answer forms."""
    models: dict[str, str] = {}
    found: dict[str, deque[str]] = defaultdict(deque)
    for where, row in open_table(name, "all").rows():
        model, key, text = _answer_of(row, where, Path(name).stem)
        models.setdefault(model, where)
        if key.startswith("id ") and key in found:
            raise UserError(f"{where}: has a second answer to {clipped(key)}; keep one a question")
        found[key].append(text)
    if len(models) > 1:
        names = ", ".join(clipped(model) for model in list(models)[:3])
        raise UserError(f"baseline {name}: holds answers of several models ({names}); give a file of one")
    texts = []
    for question in asked:
        answers = next((found[key] for key in _keys_of(question) if found.get(key)), None)
        if not answers:
            raise UserError(
                f"baseline {name}: has no answer to question {clipped(question.id)} ({question.where}); "
                "complete the file or give another"
            )
        texts.append(answers.popleft())
    return next(iter(models)), texts


def _keys_of(question: Question) -> list[str]:
    """What an answer to a question may be found by."""
    text = question.prompt[-1]["content"] if isinstance(question.prompt, list) else question.prompt
    return [f"id {question.id}", f"text {text}"]


def _answer_of(row: Row, where: str, stem: str) -> tuple[str, str, str]:
    """(model, what it answers, text) of one row. Raises UserError where it is of no known form."""
    try:
        if "output" in row and not is_absent(row.get("instruction")):
            return str(row.get("generator", stem)), f"text {row['instruction']}", _text(row["output"])
        if "choices" in row:
            turn = row["choices"][0]["turns"][0]
            text = turn["content"] if isinstance(turn, dict) else turn
            return str(row["model_id"]), f"id {row['question_id']}", _text(text)
        if "uid" in row:
            content = row["messages"][-1]["content"]
            text = content["answer"] if isinstance(content, dict) else content
            return str(row["model"]), f"id {row['uid']}", _text(text)
        if "response" in row:
            return str(row.get("model", stem)), f"id {row['id']}", _text(row["response"])
    except (LookupError, TypeError) as error:
        raise UserError(f"{where}: is no answer of a known form ({error!r}); write it again") from error
    has = ", ".join(sorted(row)) or "nothing"
    raise UserError(
        f"{where}: is no answer (columns {has}); give instruction and output, FastChat's or Arena-Hard's "
        "answers, or id and response"
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("the answer is no text")
    return value


# --- the tasks' own -----------------------------------------------------------------------------------------


def read_default(questions: Questions) -> tuple[str, list[str]]:
    """The task's own baseline, from the hub. Raises UserError where it cannot be fetched."""
    files = _default_files(questions)
    names: dict[str, None] = {}
    texts: dict[str, str] = {}
    for name, asked in files.items():
        repo = hub.ALPACA if questions.form == ALPACA else hub.ARENA
        path = hub.fetch(repo, name, "baseline", "baseline=<file of answers, or a ckpt>")
        model, of_questions = read_file(path, asked)
        names[model] = None
        texts |= {question.id: text for question, text in zip(asked, of_questions)}
    return ", ".join(names), [texts[question.id] for question in questions.asked]


def _default_files(questions: Questions) -> Mapping[str, list[Question]]:
    """The files of a task's own baselines, with the questions that each is for."""
    if questions.form == ALPACA:
        return {ALPACA_FILE: list(questions.asked)}
    files: dict[str, list[Question]] = {}
    for question in questions.asked:
        is_writing = questions.form == ARENA_V2 and question.category == ARENA_WRITING[0]
        name = ARENA_WRITING[1] if is_writing else ARENA_FILES[questions.form]
        files.setdefault(name, []).append(question)
    return files
