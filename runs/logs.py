"""What a run says: lines of metrics, and sampled responses.

Contract: a line is on the disk when `write` returns. A run that resumes keeps the lines that its checkpoint
knows, so that each of its steps stands in one line.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

import models
from forest import Ids
from groups import stop_ids
from runs.trackers import Trackers
from utils import UserError, log, where_supported

SAMPLE_TOKENS = 64  # of a response that is sampled at validation
SHOWN = (  # of a validation, on the terminal
    "loss/eval",
    "js_distance_eval",
    "class_mass_eval",
    "rewards_eval/accuracies",
    "rewards_eval/margins_majority",
    "rewards_eval/margins_minority",
)


class MetricsFile:
    """A file of JSON objects, one a line: metrics.jsonl. `lines` of it are kept."""

    def __init__(self, path: Path, lines: int):
        self.path = path
        try:
            self.file = path.open("ab+", buffering=0)
            self.file.seek(0)
            ends = [match.end() for match in re.finditer(rb"\n", self.file.read())]
            if len(ends) < lines:
                log.warning(
                    "%s holds %d lines where the checkpoint knows %d: the others are lost",
                    path,
                    len(ends),
                    lines,
                )
            self.file.truncate(([0, *ends])[min(lines, len(ends))])
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); set output_dir") from error

    def write(self, values: Mapping[str, Any]) -> None:
        """Raises UserError where the disk refuses the line."""
        line = (json.dumps(values) + "\n").encode()
        try:
            if self.file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with where_supported():
                os.fsync(self.file.fileno())
        except OSError as error:
            remedy = "make room, then run the same command again"
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); {remedy}") from error

    def close(self) -> None:
        self.file.close()


class Logged(NamedTuple):
    """A number of a line of metrics, and the step of that line."""

    step: int
    value: float


def last_logged(path: Path, name: str) -> Logged | None:
    """The last number of this name in a file of metrics; None where no line that can be read has one."""
    for text in reversed(path.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if name in line:
            return Logged(line["counters/updates"], line[name])
    return None


class Samples:
    """Responses sampled to a few prompts at every validation, for train.log and samples.jsonl.

    All ranks call `show`, and sample the same batch, so that the responses are the same on any number of
    them.
    """

    def __init__(
        self,
        policy: models.Scorer,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Ids],
        seed: int,
        file: MetricsFile | None,
        trackers: Trackers | None = None,
    ):
        self.policy, self.tokenizer, self.prompts, self.seed = policy, tokenizer, prompts, seed
        self.file, self.trackers = file, trackers

    def show(self, step: int, examples: int) -> None:
        """Sample after `step` updates on so many examples."""
        tokenizer = self.tokenizer
        sampling = models.Sampling(
            SAMPLE_TOKENS, tokenizer.pad_token_id, tokenizer.eos_token_id, stop_ids=stop_ids(tokenizer)
        )
        responses = models.generate(self.policy, self.prompts, sampling, self.seed + step)
        rows: list[list[str]] = []
        for prompt, ids in zip(self.prompts, responses):
            response = self.tokenizer.decode(ids, skip_special_tokens=True)
            texts = {"prompt": self.tokenizer.decode(prompt), "response": response}
            log.info("sample at step %d: %s", step, json.dumps(texts, ensure_ascii=False))
            if self.file:
                self.file.write({"counters/updates": step, **texts})
            rows.append([texts["prompt"], response])
        if self.trackers:
            counters = {"counters/updates": step, "counters/examples": examples}
            self.trackers.table("samples", ["prompt", "response"], rows, counters)


def samples_file(folder: Path, step: int) -> MetricsFile:
    """samples.jsonl of a run that goes on after `step` (0: it begins)."""
    path = folder / "samples.jsonl"
    kept = 0
    if step and path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        whole = [json.loads(line) for line in lines if line.endswith("}")]
        kept = sum(line["counters/updates"] <= step for line in whole)
    return MetricsFile(path, kept)


def say_validation(values: Mapping[str, Any]) -> None:
    """The numbers of a validation that matter most, on the terminal and in train.log."""
    numbers = ", ".join(f"{name} {values[name]:.4f}" for name in SHOWN if name in values)
    log.info("eval at %d examples: %s", values["counters/examples"], numbers)
