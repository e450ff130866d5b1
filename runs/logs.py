"""What a run says: lines of metrics, a tracker, sampled responses.

Contract: a line is on the disk when `write` returns. A run that resumes keeps the lines that its checkpoint
knows, so that each of its steps stands in one line. Training does not depend on a tracker.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from transformers import PreTrainedTokenizerBase

import models
from forest import Ids
from groups import stop_ids
from settings import WandbSettings
from utils import UserError, atomic_path, log, where_supported

Result = TypeVar("Result")
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


class Tracker:
    """wandb, where a login (or offline mode) exists; it is off from the first of its faults on."""

    def __init__(self, settings: WandbSettings, name: str, config: Mapping[str, Any], folder: Path):
        self.run = None
        if settings.enabled:
            self.run = self._if_it_works("start", lambda: _start_wandb(settings, name, config, folder))

    def log(self, values: Mapping[str, Any]) -> None:
        if self.run is None:
            return
        step = values["counters/updates"]
        logged = self._if_it_works("log", lambda: self.run.log(values, step=step) or True)
        if logged is None:
            self.run = None

    def close(self) -> None:
        """End the tracker's run: a run that follows in this process must not write into it."""
        run, self.run = self.run, None
        if run is not None:
            failed = sys.exc_info()[0] is not None  # as wandb itself would say where the process ends
            self._if_it_works("finish", lambda: run.finish(exit_code=int(failed)) or True)

    @staticmethod
    def _if_it_works(what: str, action: Callable[[], Result]) -> Result | None:
        """What `action` returns; None, with a warning, where wandb fails at it."""
        try:
            return action()
        except Exception as error:  # wandb raises many kinds, of the network and of its own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("wandb is off from here on: it failed to %s (%s)", what, reason)
            return None


def _start_wandb(settings: WandbSettings, name: str, config: Mapping[str, Any], folder: Path):
    """A wandb run, or None without a login.

    A run that resumes goes on in its own one, where steps made again are not repeated.
    """
    import wandb

    if os.environ.get("WANDB_MODE") != "offline" and not wandb.login(prompt=False):
        log.info("wandb is off: no login found (run `wandb login`, or set WANDB_MODE=offline)")
        return None
    place = folder / "wandb_id.txt"
    if not place.exists():
        with atomic_path(place) as temporary:
            temporary.write_text(secrets.token_hex(8))
    return wandb.init(
        project=settings.project,
        entity=settings.entity,
        id=place.read_text(),
        resume="allow",
        name=name,
        config=dict(config),
        dir=folder,
    )


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
    ):
        self.policy, self.tokenizer, self.prompts, self.seed, self.file = (
            policy,
            tokenizer,
            prompts,
            seed,
            file,
        )

    def show(self, step: int) -> None:
        tokenizer = self.tokenizer
        sampling = models.Sampling(
            SAMPLE_TOKENS, tokenizer.pad_token_id, tokenizer.eos_token_id, stop_ids=stop_ids(tokenizer)
        )
        responses = models.generate(self.policy, self.prompts, sampling, self.seed + step)
        for prompt, ids in zip(self.prompts, responses):
            response = self.tokenizer.decode(ids, skip_special_tokens=True)
            texts = {"prompt": self.tokenizer.decode(prompt), "response": response}
            log.info("sample at step %d: %s", step, json.dumps(texts, ensure_ascii=False))
            if self.file:
                self.file.write({"counters/updates": step, **texts})


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
