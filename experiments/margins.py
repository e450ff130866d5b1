"""Margins of majority and minority on held-out pairs of one run: finding 1 of the GDPO paper.

    python -m experiments.margins run=outputs/gdpo split=eval output=margins.jsonl

Contract: the implied reward of the accepted answer minus that of the other, beta (r_w - r_l), against what
the run started from. The pairs are drawn from p* with a fixed seed, the same for all runs; a run sees them as
it was trained: both answers under the accepted belief (GDPO), or each after its own (DPO).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import groups as data
import ranks
from evaluation import find_checkpoints
from evaluation.checkpoints import fill_settings, saved_config
from evaluation.defaults import default_keys
from evaluation.kept import Kept
from evaluation.kinds import question_of
from evaluation.scoring import Scored, score_examples
from groups import Group
from groups.run_splits import each_once
from preference_datasets import load_groups, naming_of
from settings import EvaluationSettings, evaluation_settings
from utils import UserError, atomic_path, keep_freed_memory, log, run_entry, setup_logging

SEED, PAIRS_PER_PROMPT = 0, 16  # of the pairs that are drawn
USAGE = "usage: python -m experiments.margins run=FOLDER split=NAME output=FILE"

Line = dict[str, object]


def main() -> None:
    """Measure one run. Raises UserError for wrong arguments, and for a run without a reference."""
    run, split, output = _arguments()
    setup_logging()
    settings = _settings(run, split)
    (checkpoint,) = find_checkpoints(settings)
    if checkpoint.run is None:
        raise UserError(f"run={run}: is no run of train.py, so it has no reference; give a run folder")
    settings = fill_settings(settings, [checkpoint])
    world = ranks.init_distributed()
    keep_freed_memory()
    groups = _groups(settings)
    examples = data.view(groups, view_of(run), SEED, classes=settings.belief_classes)
    if not examples:
        raise UserError(f"split={split}: no prompt has pairs of different beliefs; choose another split")
    kept = Kept(output.parent, world)
    log.info("margins of %s on %d pairs of %d prompts", checkpoint.name, len(examples), len(groups))
    scored = score_examples(checkpoint, groups, examples, settings, {}, world, kept)
    write_lines(output, lines_of(checkpoint.name, groups, scored, checkpoint.beta))
    kept.clear()


def _arguments() -> tuple[str, str, Path]:
    given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    if sorted(given) != ["output", "run", "split"] or not all(given.values()):
        raise UserError(USAGE)
    return given["run"], given["split"], Path(given["output"])


def _settings(run: str, split: str) -> EvaluationSettings:
    """An evaluation of this run, as config/evaluate.yaml has it."""
    return evaluation_settings({**default_keys(), "ckpt": [run], "split": split})


def _groups(settings: EvaluationSettings) -> list[Group]:
    """The prompts with p*, with pairs drawn from it where the data has none."""
    groups: list[Group] = []
    for data_set in each_once("datasets", settings.datasets):
        groups += load_groups(
            data_set,
            settings.split,
            SEED,
            settings.belief_classes,
            PAIRS_PER_PROMPT,
            eval_fraction=settings.eval_fraction,
        )
    template = settings.group_template if settings.group_in_prompt else None
    naming = naming_of(template, settings.datasets)
    return [naming.named(group) for group in groups if group.belief_probs]


def view_of(run: str) -> str:
    """How a run sees a pair."""
    responses = str(saved_config(Path(run)).get("responses", ""))
    return "conditioned" if "conditioned" in responses else "own_belief"


def lines_of(name: str, groups: Sequence[Group], scored: Sequence[Scored], beta: float) -> list[Line]:
    """One line a prompt: its mean margins, apart for pairs whose accepted belief is the most common one."""
    margins: dict[int, dict[str, list[float]]] = {}
    for example in scored:
        accepted, other = example.log_ratios[:2]
        side = "margin_majority" if example.tree.is_majority else "margin_minority"
        margins.setdefault(example.tree.group, {}).setdefault(side, []).append(beta * (accepted - other))
    lines = []
    for i, of_prompt in sorted(margins.items()):
        group = groups[i]
        means = {side: sum(values) / len(values) for side, values in sorted(of_prompt.items())}
        of_group = {"id": group.id, "dataset": group.dataset, "question": question_of(group)}
        lines.append({"checkpoint": name, **of_group, "weight": group.weight, **means})
    return lines


def write_lines(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    """JSON lines, all or none. Raises UserError where the disk refuses them."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_text("".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({os.strerror(error.errno or 0)})") from error


if __name__ == "__main__":
    run_entry(main)
