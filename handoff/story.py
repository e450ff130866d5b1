"""What there is to say of a checkpoint: its run's config, data and start, and its newest evaluation.

Contract: files go in, a frozen record comes out; what is not recorded is left out, never guessed. A report of
another checkpoint, or of one that stood in its place before, is none of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import models
from evaluation import Checkpoint
from evaluation.checkpoints import saved_config
from handoff.weights import state_of
from measures.summaries import Summary
from provenance import own_version
from reporting.files import Fields, read_object
from reporting.reading import REPORT, read_evaluation
from reporting.record import Evaluation
from runs.folder import find_run
from runs.start import read_start
from settings import flatten
from utils import UserError, log

AUDIT = "data_audit.json"
SIZES = ("prompts", "responses", "examples")
KEYS = (  # of a run's config, beside the loss's own
    "responses",
    "optimizer",
    "optimizer_keys",
    "weight_decay",
    "lr",
    "lr_schedule",
    "lr_schedule_keys",
    "warmup_steps",
    "warmup_ratio",
    "max_grad_norm",
    "batch_size",
    "n_epochs",
    "n_examples",
    "max_length",
    "max_prompt_length",
    "max_responses",
    "icf_shots",
    "group_in_prompt",
    "seed",
    "model.policy_dtype",
    "model.compute_dtype",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
    "lora.dropout",
    "lora.quantize",
)
OVERRIDDEN = {
    "warmup_steps": "warmup_ratio",
    "n_epochs": "n_examples",
}  # does not count where the other is set
REPORTS = (f"*/{REPORT}", f"../{REPORT}", f"../*/{REPORT}", f"../*/*/{REPORT}")  # from a run's folder
REMEDY = "it is left out of the card"


class Size(NamedTuple):
    """How much of a data set there was in a split."""

    data_set: str
    split: str
    counts: Mapping[str, int]  # by a name of SIZES


class Story(NamedTuple):
    """What a card tells."""

    name: str
    loss: str | None  # None: no run of ours made it
    loss_keys: Mapping[str, object]
    keys: Mapping[str, object]  # of the config, and how far training had come
    sizes: list[Size]
    has_beliefs: bool  # a response of the data is a belief, then an answer
    stages: list[str]  # what came before it, the last first: runs of ours, and the base model as they name it
    evaluation: Evaluation | None
    row: str  # of the evaluation's table
    versions: Mapping[str, str]


def story_of(checkpoint: Checkpoint) -> Story:
    """All that is known of it. Raises UserError for files of its run that are damaged."""
    config = saved_config(checkpoint.run)
    loss = dict(config.get("loss", {}))
    audit = read_audit(checkpoint.run)
    evaluation, row = newest_evaluation(checkpoint)
    return Story(
        name=checkpoint.name,
        loss=loss.pop("name", None),
        loss_keys=loss,
        keys={**keys_that_count(config), **state_of(checkpoint)},
        sizes=list(sizes_of(audit)),
        has_beliefs=any("preferred_beliefs" in split.values for _, _, split in _splits(audit)),
        stages=stages_of(checkpoint),
        evaluation=evaluation,
        row=row,
        versions=versions(checkpoint.run),
    )


def keys_that_count(config: Mapping[str, object]) -> dict[str, object]:
    """What a run's config says of its training, without the keys that others override; sections, such as
    `optimizer_keys`, by their entries."""
    flat = {key: value for key, value in flatten(config).items() if value is not None}
    keys = {
        name: value
        for key in KEYS
        for name, value in flat.items()
        if (name == key or name.startswith(f"{key}.")) and OVERRIDDEN.get(key) not in flat
    }
    if "lora.rank" not in flat:
        keys = {key: value for key, value in keys.items() if not key.startswith("lora.")}
    return keys


# --- data and start -----------------------------------------------------------------------------------------


def read_audit(run: Path | None) -> Fields | None:
    """A run's data_audit.json; None where there is none."""
    if run is None or not (run / AUDIT).is_file():
        return None
    return read_object(run / AUDIT, "restore the file, or remove it to have a card without sizes")


def _splits(audit: Fields | None) -> Iterator[tuple[str, str, Fields]]:
    for name in audit.values if audit else ():
        of_set = audit.inner(name)
        for split in of_set.values:
            yield name, split, of_set.inner(split)


def sizes_of(audit: Fields | None) -> Iterator[Size]:
    """The sizes of every data set and split."""
    for name, split, values in _splits(audit):
        yield Size(name, split, {key: int(values.number(key)) for key in SIZES})


def stages_of(checkpoint: Checkpoint) -> list[str]:
    """The runs that a checkpoint comes from by name, the last first, and the model that they began with."""
    if checkpoint.run is None:
        return [checkpoint.model.name_or_path]
    stages, run = [], checkpoint.run
    while True:
        start = read_start(run)
        if start is None:  # an older run, which recorded none
            return [*stages, checkpoint.model.archive or checkpoint.model.name_or_path]
        before = find_run(start.source)
        if before is None or before.resolve() == run.resolve() or len(stages) > 100:
            return [*stages, start.name]
        stages.append(before.resolve().name)
        run = before


# --- the newest evaluation ----------------------------------------------------------------------------------


def newest_evaluation(checkpoint: Checkpoint) -> tuple[Evaluation | None, str]:
    """(the newest evaluation that this very checkpoint has a row in, the row's name); (None, "") where there
    is none."""
    source = Path(checkpoint.source)
    if checkpoint.run is None or not (source / "config.json").is_file():
        return None, ""
    made = (source / "config.json").stat().st_mtime
    reports = {path.resolve() for pattern in REPORTS for path in checkpoint.run.resolve().glob(pattern)}
    for report in sorted(reports, key=lambda path: path.stat().st_mtime, reverse=True):
        row = _row_of(report, source)
        if row is None:
            continue
        if report.stat().st_mtime < made:
            log.warning("%s is older than %s, so it is of another checkpoint: %s", report, source, REMEDY)
            continue
        try:
            evaluation = read_evaluation(report.parent)
        except UserError as error:
            log.warning("%s", error)
            continue
        if row in evaluation.results:
            return evaluation, row
    return None, ""


def _row_of(report: Path, source: Path) -> str | None:
    """What a report's table calls a checkpoint; None where it does not hold it, or is damaged."""
    try:
        values = read_object(report, REMEDY).values
    except UserError as error:
        log.warning("%s", error)
        return None
    settings = values.get("settings")
    sources = settings.get("sources") if isinstance(settings, dict) else None
    for name, place in sources.items() if isinstance(sources, dict) else ():
        if isinstance(place, str) and Path(place).resolve() == source.resolve():
            return name
    return None


def summaries_of(story: Story) -> Mapping[str, Summary]:
    """The numbers of the evaluation, by metric; those without a value are left out."""
    if story.evaluation is None:
        return {}
    row = story.evaluation.results[story.row]
    return {metric: summary for metric, summary in row.items() if summary["value"] is not None}


# --- versions -----------------------------------------------------------------------------------------------


def versions(run: Path | None) -> dict[str, str]:
    """What trained, where its run recorded it, and what exports: this project with the commit of its clone,
    Python and what computes."""
    start = read_start(run) if run is not None else None
    trained = {"grove, training": start.code} if start is not None and start.code else {}
    return {**trained, "grove, export": own_version(), "python": sys.version.split()[0], **models.versions()}
