"""An evaluation and a run as their files would be, made up: some checkpoints, any number of questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from measures.differences import summarize_difference
from measures.distributions import js_distance
from measures.summaries import summarize

CLASSES = ["0", "1", "2", "3", "4", "5"]
OFFERED = [False, True, True, False, True, True]
OPTIONS = ["0", "Strongly oppose", "Somewhat oppose", "3", "Somewhat favor", "Strongly favor"]
TOPICS = (
    "taxes on high incomes",
    "the border",
    "public schools",
    "clean energy",
    "health insurance",
    "courts",
)
HOSTILE = (
    "</script><script>document.title='owned'</script> "
    "<img src=x onerror=\"document.title='owned'\"> '\"`${1}` {{ 7 * 7 }} <!-- & &amp; "
    "\u2028\u2029 \ud800 $$x^2$$ \\(y\\) @prompt _a_ | b"
)


def write_evaluation(
    folder: Path,
    names: Sequence[str] = ("base", "sft", "gdpo"),
    num_prompts: int = 40,
    words: str = "",
    sources: Sequence[str] = (),
) -> Path:
    """report.json, distributions.jsonl and predictions.jsonl of a made-up evaluation: each checkpoint is
    nearer to the group than the one before. words: added to every text that a user or a model may write.
    """
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(7)
    lines, answers, gaps = [], [], {name: [] for name in names}
    for i in range(num_prompts):
        p = _group(numbers)
        prompt = f"Would you favor or oppose more money for {TOPICS[i % len(TOPICS)]}, question {i}?{words}"
        q = {name: _near(p, 0.9 / (k + 1) ** 1.6, numbers) for k, name in enumerate(names)}
        lines.append(
            {
                "id": f"q{i}",
                "dataset": "opinions/made-up" + words,
                "question": f"question {i // 2}",
                "prompt": prompt,
                "classes": CLASSES,
                "offered": OFFERED,
                "options": [option + words for option in OPTIONS],
                "belief_probs": p.tolist(),
                "checkpoints": {name: shares.tolist() for name, shares in q.items()},
                "sampled": [],
            }
        )
        for name, shares in q.items():
            gaps[name].append(float(js_distance(p, shares)))
            answers += _answers(name, f"q{i}", prompt, shares, words, numbers)
    _write_lines(folder / "distributions.jsonl", lines)
    _write_lines(folder / "predictions.jsonl", answers)
    report = _report(names, gaps, answers, lines, words)
    report["settings"]["sources"] = dict(zip(names, sources or [f"outputs/{name}" for name in names]))
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def _group(numbers: np.random.Generator) -> np.ndarray:
    p = numbers.dirichlet([0.8] * 6) * OFFERED
    return p / p.sum()


def _near(p: np.ndarray, distance: float, numbers: np.random.Generator) -> np.ndarray:
    """A distribution beside p: mixed with a random one."""
    mixed = (1 - distance) * p + distance * (0.1 + numbers.dirichlet([0.5] * 6))
    return mixed / mixed.sum()


def _answers(
    name: str, prompt_id: str, prompt: str, q: np.ndarray, words: str, numbers: np.random.Generator
) -> list[dict]:
    made = []
    for sample in range(3):
        k = int(numbers.choice(6, p=q))
        answer = f"Because of {OPTIONS[k].lower()}, I would say so.{words}"
        consistent = [True, False, None][int(numbers.choice(3, p=[0.6, 0.3, 0.1]))]
        made.append(
            {
                "checkpoint": name,
                "decoding": "t1",
                "sample": sample,
                "id": prompt_id,
                "prompt": prompt,
                "response": f"{CLASSES[k]}<{OPTIONS[k]}>{answer}",
                "finish": "stop" if k else "length",
                "made_by": "asked-0123456789abcdef",
                "class": CLASSES[k],
                "belief": OPTIONS[k] + words,
                "answer": answer,
                "class_belief_consistent": OFFERED[k],
                "belief_answer_consistent": consistent,
                "similarity": round(float(numbers.uniform()), 4),
            }
        )
    return made


def _report(names: Sequence[str], gaps: dict, answers: list[dict], lines: list[dict], words: str) -> dict:
    clusters = [line["question"] for line in lines]
    checkpoints = {}
    for name in names:
        verdicts = [a["belief_answer_consistent"] is True for a in answers if a["checkpoint"] == name]
        checkpoints[name] = {
            "js_distance_probability": summarize(gaps[name], clusters=clusters),
            "bpc": summarize([float(verdict) for verdict in verdicts]),
            "class_mass": summarize([0.9] * len(lines), clusters=clusters),
        }
    uniform = [js_distance(line["belief_probs"], OFFERED) for line in lines]
    checkpoints["(uniform over options)"] = {"js_distance_probability": summarize(uniform, clusters=clusters)}
    differences = []
    for second, first in ((0, 1), (0, 2), (1, 2)):
        a, b = names[first], names[second]
        found = summarize_difference(gaps[a], gaps[b], clusters, None)
        of = {"metric": "js_distance_probability", "kind": "beliefs", "a": a, "b": b, "p_holm": found["p"]}
        differences.append({**of, **found})
    scope = (
        f"{len(lines)} prompts on {len(set(clusters))} questions of opinions/made-up (eval); 3 samples each"
    )
    settings = {
        "scope": scope + words,
        "datasets": ["opinions/made-up" + words],
        "split": "eval",
        "n_samples": 3,
        "seed": 0,
        "judges": {"bpc": "a judge" + words},
        "unjudged": {name: {"samples": 120, "without_verdict": 12} for name in names},
        "torch": "2.13.0",
        "command": "python evaluate.py ckpt=[base,sft,gdpo] split=eval n_samples=3" + words,
    }
    return {"checkpoints": checkpoints, "differences": differences, "settings": settings}


def write_run(folder: Path, num_steps: int = 30, torn: bool = False) -> Path:
    """metrics.jsonl and config.yaml of a made-up run. torn: its last line is half written."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(len(folder.name))
    lines = []
    for step in range(1, num_steps + 1):
        progress = 1 - np.exp(-step / 10)
        line = {
            "counters/examples": step * 16,
            "counters/updates": step,
            "loss/train": 4 - 2 * progress + numbers.normal(0, 0.1),
            "js_distance_train": 0.5 - 0.3 * progress + numbers.normal(0, 0.02),
            "rewards_train/margins_majority": progress + numbers.normal(0, 0.1),
            "rewards_train/margins_minority": 0.4 * progress + numbers.normal(0, 0.1),
        }
        lines.append(line)
        if step % 5 == 0:
            evaluated = {key.replace("train", "eval"): value for key, value in line.items() if "train" in key}
            lines.append({**evaluated, "counters/examples": step * 16, "counters/updates": step})
    _write_lines(folder / "metrics.jsonl", lines)
    if torn:
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"counters/examples": 4')
    (folder / "config.yaml").write_text("seed: 0\nlr: 2.0e-5\nloss:\n  name: gdpo\n")
    (folder / "start.json").write_text(json.dumps({"name": "outputs/sft", "fingerprint": "58f4ace014dfaf94"}))
    return folder


def _write_lines(path: Path, lines: Sequence[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
