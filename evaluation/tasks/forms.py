"""Answer files, in the forms that the benchmarks' own tools read.

Contract: what is written here is read by `alpaca_eval` (model_outputs_NAME.json), FastChat's `llm_judge` and
`arena-hard-auto` (model_answer/NAME.jsonl) as their own files are. One file holds one answer to each
question: several decodings or samples are several files, but FastChat's form and the first one of Arena-Hard
have room for samples.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from evaluation.folder import writing
from evaluation.tasks.record import (
    ALPACA,
    ARENA_V01,
    ARENA_V2,
    FASTCHAT,
    PLAIN,
    Question,
    Questions,
    Samples,
    TaskAnswers,
    Turns,
    as_file_name,
    sheets_of,
)
from utils import atomic_path

Line = Mapping[str, object]

FOLDER = "model_answer"  # as FastChat and arena-hard-auto name it
CODE = re.compile(r"```[^`]*```")
MARKDOWN = {  # what Arena-Hard's control of style counts outside of code, as its own files name them
    "header_count": {f"h{depth}": rf"(?m)^#{{{depth}}}\s" for depth in range(1, 7)},
    "list_count": {"ordered": r"(?m)^\s*\d+\.\s", "unordered": r"(?m)^\s*[-*+]\s"},
    "bold_count": {"**": r"\*\*[^*\n]+\*\*", "__": r"__[^_\n]+__"},
}


def write_answers(folder: Path, questions: Questions, answered: Sequence[TaskAnswers]) -> list[Path]:
    """Write what checkpoints answered below `folder`; return the files. Raises UserError where the disk
    refuses them."""
    paths = []
    with writing(folder):
        for of_checkpoint in answered:
            for name, lines in _files_of(questions, of_checkpoint).items():
                paths.append(_path_of(folder, questions.form, name))
                _write(paths[-1], lines)
    return paths


def _path_of(folder: Path, form: str, name: str) -> Path:
    if form == ALPACA:
        return folder / as_file_name(f"model_outputs_{name}", ".json")
    if form == PLAIN:
        return folder / as_file_name(f"answers_{name}", ".jsonl")
    return folder / FOLDER / as_file_name(name, ".jsonl")


def _write(path: Path, lines: Sequence[Line]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        write_list(path, lines)
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(as_json(line) + b"\n" for line in lines))


def write_list(path: Path, lines: Sequence[Line]) -> None:
    """Write a file of one JSON list, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(as_json(lines, indent=2) + b"\n")


def as_json(value: object, indent: int | None = None) -> bytes:
    """A value as JSON in UTF-8."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can say
        return json.dumps(value, indent=indent).encode()


# --- which files, and their lines ---------------------------------------------------------------------------


def _files_of(questions: Questions, answered: TaskAnswers) -> dict[str, list[Line]]:
    """The lines of each file, by the name of the model that they are said to be of."""
    if questions.form in WITH_SAMPLES:
        line_of = WITH_SAMPLES[questions.form]
        files = {}
        for decoding, of_questions in answered.samples.items():
            name = f"{answered.name}-{decoding}" if len(answered.samples) > 1 else answered.name
            files[name] = [line_of(q, name, samples) for q, samples in zip(questions.asked, of_questions)]
        return files
    line_of = OF_ONE[questions.form]
    return {
        sheet.name: [line_of(q, sheet.name, turns) for q, turns in zip(questions.asked, sheet.turns)]
        for sheet in sheets_of(answered)
    }


def alpaca_line(question: Question, name: str, turns: Turns) -> Line:
    """One answer as AlpacaEval has it, with the columns of the instruction that it hands on."""
    kept = {column: question.row[column] for column in ("dataset", "datasplit") if column in question.row}
    return {**kept, "instruction": question.row["instruction"], "output": turns[0].text, "generator": name}


def fastchat_line(question: Question, name: str, samples: Samples) -> Line:
    """The answers to one question as FastChat has them: a choice a sample, with a text a turn."""
    choices = [
        {"index": index, "turns": [written.text for written in turns]} for index, turns in enumerate(samples)
    ]
    return {
        "question_id": question.row.get("question_id", question.row.get("prompt_id")),
        "answer_id": _answer_id(question, name),
        "model_id": name,
        "choices": choices,
        "tstamp": time.time(),
    }


def arena_v01_line(question: Question, name: str, samples: Samples) -> Line:
    """The answers to one question as Arena-Hard v0.1 has them: FastChat's form with an object a turn."""
    choices = [
        {"index": index, "turns": [{"content": written.text} for written in turns]}
        for index, turns in enumerate(samples)
    ]
    return {
        **fastchat_line(question, name, samples),
        "choices": choices,
        "conv_metadata": style_of(samples[0]),
    }


def arena_v2_line(question: Question, name: str, turns: Turns) -> Line:
    """One answer as Arena-Hard v2.0 has it."""
    return {
        "uid": question.row["uid"],
        "ans_id": _answer_id(question, name),
        "model": name,
        "messages": [
            {"role": "user", "content": question.row["prompt"]},
            {"role": "assistant", "content": {"answer": turns[0].text}},
        ],
        "tstamp": time.time(),
        "metadata": style_of(turns),
    }


def plain_line(question: Question, name: str, turns: Turns) -> Line:
    """One answer to a prompt of the user's own."""
    (written,) = turns
    return {
        "id": question.id,
        "prompt": question.prompt,
        "response": written.text,
        "model": name,
        "finish": written.finish,
        "tokens": written.tokens,
    }


WITH_SAMPLES: dict[str, Callable[[Question, str, Samples], Line]] = {
    FASTCHAT: fastchat_line,
    ARENA_V01: arena_v01_line,
}
OF_ONE: dict[str, Callable[[Question, str, Turns], Line]] = {
    ALPACA: alpaca_line,
    ARENA_V2: arena_v2_line,
    PLAIN: plain_line,
}


def style_of(turns: Turns) -> Line:
    """Length and counts of Markdown of an answer, for Arena-Hard's control of style.

    `token_len` is in the answering model's own tokens; arena-hard-auto counts those of GPT-4's tokenizer.
    """
    text = CODE.sub("", turns[-1].text)
    counts: dict[str, object] = {"token_len": turns[-1].tokens}
    for name, patterns in MARKDOWN.items():
        counts[name] = {element: len(re.findall(pattern, text)) for element, pattern in patterns.items()}
    return counts


def _answer_id(question: Question, name: str) -> str:
    """22 characters, as many as the projects' own ids have; the same for the same model and question."""
    return hashlib.blake2b(json.dumps([question.id, name]).encode(), digest_size=11).hexdigest()
