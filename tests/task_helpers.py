"""Questions of the benchmarks' own forms, and answers to them, as files hold them."""

from __future__ import annotations

from data_helpers import write
from helpers import compose
from omegaconf import OmegaConf

from evaluation.tasks.prompts import read_questions
from evaluation.tasks.record import TaskAnswers
from generation import Written
from settings import evaluation_settings

ALPACA = [
    {"instruction": "Name a river.", "dataset": "helpful_base", "output": "x", "generator": "y"},
    {"instruction": "Name a hill.", "dataset": "koala"},
    {"instruction": "Name a lake.", "dataset": "koala"},
]
MT_BENCH = [
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Make it shorter."]},
    {
        "question_id": 111,
        "category": "math",
        "turns": ["What is 2 + 2?", "And doubled?"],
        "reference": ["4", "8"],
    },
]
MT_BENCH_HUB = [
    {
        "prompt_id": 81,
        "category": "writing",
        "prompt": ["Write a line.", "Make it shorter."],
        "reference": [],
    },
    {"prompt_id": 111, "category": "math", "prompt": ["What is 2 + 2?", "And?"], "reference": ["4", None]},
]
ARENA_V01 = [
    {
        "question_id": "328c149ed45a41c0b9d6f14659e63599",
        "category": "arena-hard-v0.1",
        "cluster": "ABC Sequence Puzzles",
        "turns": [{"content": "Use ABC notation."}],
    },
    {
        "question_id": "2",
        "category": "arena-hard-v0.1",
        "cluster": "Maths",
        "turns": [{"content": "Prove it."}],
    },
]
ARENA_V2 = [
    {
        "uid": "2edbb5f36f5b42be",
        "category": "hard_prompt",
        "subcategory": "coding",
        "prompt": "Write me code.",
    },
    {"uid": "a1", "category": "creative_writing", "subcategory": "story", "prompt": "Tell a story."},
]


def settings_of(task, prompts="x", **changes):
    """The settings of a task, filled as a run of no training would fill them."""
    config = OmegaConf.to_container(compose(f"task={task}", "ckpt=x", name="evaluate"), resolve=True)
    filled = {"few_shot": 0, "n_samples": 1, "max_new_tokens": 8, "temperature": 0.0, "seed": 0}
    return evaluation_settings({**config, **filled, "prompts": prompts and str(prompts), **changes})


def questions_of(tmp_path, task, rows, name="question.jsonl", **changes):
    return read_questions(settings_of(task, write(tmp_path / name, *rows), **changes))


def written(text, finish="stop"):
    return Written(text, finish, len(text.split()) + 1)


def answers_of(questions, *texts, name="tiny", finish="stop"):
    """One sample of one decoding: a tuple of texts a question, one a turn."""
    samples = [[tuple(written(text, finish) for text in turns)] for turns in texts]
    return TaskAnswers(name, {"greedy": samples}, {})
