"""Evaluate checkpoints: `python evaluate.py ckpt=outputs/gdpo`, or `ckpt=base,sft,gdpo` side by side.

The door: checkpoints -> folder of the report -> prompts -> measures -> report, in this order. The config ends
here, as a checked record; data set and settings come from the run's saved config unless they are given.

Every prompt is measured as its kind is. With belief_probs: probabilities of the beliefs at the prompt's end,
sampled responses, the papers' metrics (JSD, CBC, BPC, RS, majority share). With a preference, by rewards or
pairs: how implied rewards order the given responses (pair and set accuracy, Kendall's tau, mass on Y-,
margin, KL to the reference, log-probs). With labels: implied rewards of desirable and undesirable responses,
and how well they tell them apart. With one response, as SFT data has it: NLL a token and perplexity.

Then report.json, predictions.jsonl, distributions.jsonl, and of them a page and figures, which `report.py`
makes again. An evaluation that ends early goes on where it was with the same command.
"""

from __future__ import annotations

import environment  # noqa: F401  # isort: skip  # first: it says what is missing, in one line

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from doorway import Door, enter
from evaluation import (
    Checkpoint,
    check_folder,
    check_held_out,
    default_output,
    fill_settings,
    find_checkpoints,
)
from settings import DataSet, EvaluationSettings, evaluation_settings, names_of
from utils import UserError, keep_freed_memory, setup_logging, without_secrets

DOOR = Door(
    config="evaluate",
    settings=EvaluationSettings,
    purpose="Evaluate checkpoints, also side by side: measures with intervals, differences, and a page.",
    examples=(
        "python evaluate.py ckpt=outputs/gdpo",
        "python evaluate.py ckpt=outputs/sft,outputs/gdpo split=test_questions n_samples=16",
        "python evaluate.py task=alpaca_eval ckpt=outputs/gdpo judge=openai judge_model=gpt-4o",
    ),
    keys=(
        "ckpt",
        "datasets",
        "split",
        "n_prompts",
        "n_samples",
        "max_new_tokens",
        "task",
        "judge",
        "generator",
        "output",
    ),
)
TYPED = {"evaluate.py": "python evaluate.py", "grove-evaluate": "grove-evaluate"}  # by the program's file


def main(config: DictConfig) -> None:
    """Check config, checkpoints and folder, then measure and report."""
    given = evaluation_settings(OmegaConf.to_container(config, resolve=True))
    setup_logging()
    checkpoints = find_checkpoints(given)
    settings = fill_settings(given, checkpoints)
    output = Path(settings.output) if settings.output else default_output(checkpoints, settings.task)
    if os.environ.get("RANK", "0") == "0":  # one rank tries it for all
        check_folder(output)
    import_all()
    check_groups(checkpoints, settings)
    rewarded.check_keys(settings)
    if settings.task:
        tasks.check_task(settings)
        answering = tasks.answering(checkpoints, settings)
    else:
        answering = rewarded.with_baseline(checkpoints, settings)
    engines.check_engines(answering, settings)
    judges.check(settings)
    generation.decodings_of(settings.decoding, settings.temperature)
    prompts = None if settings.task else read_prompts(settings)
    if prompts is not None:
        check_measurable(checkpoints, prompts)
        rewarded.check_used(prompts, settings)
        only_rewards = bool(prompts.rewarded) and not prompts.of_kinds(kinds.BELIEFS)
        settings = fill_settings(given, checkpoints, only_rewards)
    check_options(prompts, settings)
    if settings.check:
        check(prompts, settings, output)
        return
    if ranks.run_on_ranks(engines.processes_of(answering, settings), settings.device):
        return
    world = ranks.init_distributed(asked=settings.device)
    setup_logging(is_main=world.is_main)
    keep_freed_memory()
    with predictions.open_predictions(output, answering, settings, world) as made:
        if prompts is None:
            finish(tasks.evaluate_task(checkpoints, settings, world, made), made)
        else:
            evaluate(answering, prompts, settings, world, made)


def import_all() -> None:
    """What evaluates, once config and checkpoints are checked: torch and transformers take seconds."""
    global \
        beliefs, \
        data, \
        engines, \
        generation, \
        judges, \
        kept, \
        kinds, \
        predictions, \
        ranks, \
        report, \
        responses, \
        rewarded, \
        tasks
    import generation
    import preference_datasets as data
    import ranks
    from evaluation import (
        beliefs,
        engines,
        judges,
        kept,
        kinds,
        predictions,
        report,
        responses,
        rewarded,
        tasks,
    )


def check(prompts: kinds.Prompts | None, settings: EvaluationSettings, output: Path) -> None:
    """Try what is cheap beside the prompts, and say what would be evaluated."""
    if prompts is None:
        print(f"{tasks.scope_of(tasks.plan(settings).questions, settings)}; report: {output}")
        return
    if prompts.of_kinds(kinds.BELIEFS):
        judges.check_embedder(settings.embedder)
    print(f"{report.scope_of(prompts, settings)}; report: {output}")


def read_prompts(settings: EvaluationSettings) -> kinds.Prompts:
    """The prompts to evaluate on, after `few_shot` solved train examples. Each has its question's name.

    Raises UserError where there are none.
    """
    naming = naming_of(settings)
    asked_of = [*settings.datasets, *(settings.eval_groups or [])]
    read = read_split(settings, settings.split, asked_of)
    groups = data.told_apart([naming.named(group) for group in read])
    if not groups:
        raise UserError(
            f"datasets={names_of(settings.datasets)}: split {settings.split} is empty; set split=..."
        )
    prompts = kinds.measurable(groups)
    sampled = kinds.rewardable(groups, settings.reward is not None) if settings.n_samples else []
    donors = read_split(settings, "train", settings.datasets) if settings.few_shot else ()

    def asked(some: Sequence[data.Group]) -> list[data.Group]:
        # before the shots, which differ between groups of one prompt
        first = [group._replace(question=kinds.question_of(group)) for group in some[: settings.n_prompts]]
        return data.with_shots(first, donors, settings.few_shot, settings.seed)

    return prompts._replace(groups=asked(prompts.groups), rewarded=asked(sampled))


def naming_of(settings: EvaluationSettings) -> data.Naming:
    """How prompts name the people that answer."""
    template = settings.group_template if settings.group_in_prompt else None
    return data.naming_of(template, [*settings.datasets, *(settings.eval_groups or [])])


def check_groups(checkpoints: Sequence[Checkpoint], settings: EvaluationSettings) -> None:
    """Raises UserError where groups of people are asked for that could not be measured as it is said."""
    held_out = names_of(settings.eval_groups or [])
    if held_out and settings.task is not None:
        raise UserError(
            f"eval_groups: is for prompts of data sets, and here task={settings.task}; leave it out"
        )
    if settings.group_in_prompt and settings.few_shot:
        raise UserError(
            "config keys group_in_prompt and few_shot: shots would be of other groups; leave one of them out"
        )
    twice = set(names_of(settings.datasets)) & set(held_out)
    if twice:
        raise UserError(f"eval_groups: {min(twice)} is among the datasets, too; leave it out of one of them")
    check_held_out(checkpoints, held_out)


def read_split(settings: EvaluationSettings, split: str, data_sets: Sequence[DataSet]) -> list[data.Group]:
    """All groups of a split of the data sets."""
    groups = []
    for data_set in data.each_once("datasets", data_sets):
        groups += data.load_groups(
            data_set,
            split,
            settings.seed,
            settings.belief_classes,
            eval_fraction=settings.eval_fraction,
        )
    return groups


def check_measurable(checkpoints: Sequence[Checkpoint], prompts: kinds.Prompts) -> None:
    """Raises UserError where nothing is left to measure: a server scores no given responses."""
    is_all_served = all(checkpoint.served is not None for checkpoint in checkpoints)
    if is_all_served and not prompts.of_kinds(kinds.BELIEFS) and not prompts.rewarded:
        raise UserError(
            f"ckpt={checkpoints[0].source}: a server gives no log-probs of given responses, and no prompt "
            "has belief_probs or a computed reward; give data that has them, task=prompts, or a checkpoint "
            "with weights"
        )


def check_options(prompts: kinds.Prompts | None, settings: EvaluationSettings) -> None:
    """Raises UserError for an option map that cannot be read, or that nothing here would use."""
    if settings.option_map is None:
        return
    if prompts is None or not prompts.of_kinds(kinds.BELIEFS):
        raise UserError(
            f"option_map={settings.option_map}: is for prompts with belief_probs, and there are none; leave "
            "it out"
        )
    beliefs.option_map_of(settings)


def evaluate(
    checkpoints: Sequence[Checkpoint],
    prompts: kinds.Prompts,
    settings: EvaluationSettings,
    world: ranks.World,
    made: predictions.Predictions,
) -> None:
    """Measure and report."""
    made.expect([*prompts.groups, *prompts.rewarded])
    unfinished = kept.Kept(made.folder, world)
    parts = measure(checkpoints, prompts, settings, world, unfinished, made)
    if world.is_main:
        finish(report.make_report(checkpoints, prompts, settings, parts), made)
        unfinished.clear()


def finish(outcome: report.Report | None, made: predictions.Predictions) -> None:
    """Write the report, and show it; None on other ranks than the main one."""
    if outcome is not None:
        made.check_replaced(outcome.predictions)
        outcome = outcome._replace(facts={**outcome.facts, **command_line()})
        show(outcome, report.write_report(made.folder, outcome))


def command_line() -> dict[str, str]:
    """What was typed, as a fact of the report; none where this module was called by another program."""
    typed = TYPED.get(Path(sys.argv[0]).name)
    if typed is None:
        return {}
    return {"command": without_secrets(" ".join([typed, *map(quoted, sys.argv[1:])]))}


def quoted(argument: str) -> str:
    """An argument for a shell, in double quotes where it has single ones of its own and nothing to expand."""
    if "'" in argument and not set(argument) & set('"$`\\!'):
        return f'"{argument}"'
    return shlex.quote(argument)


def measure(
    checkpoints: Sequence[Checkpoint],
    prompts: kinds.Prompts,
    settings: EvaluationSettings,
    world: ranks.World,
    unfinished: kept.Kept,
    made: predictions.Predictions,
) -> list[report.Part]:
    """What the kinds of data ask for; nothing on other ranks than the main one."""
    parts = []
    groups = prompts.of_kinds(kinds.BELIEFS)
    if groups:
        parts.append(beliefs.evaluate_beliefs(checkpoints, groups, settings, world, unfinished, made))
    if prompts.rewarded:
        parts.append(rewarded.evaluate_rewards(checkpoints, prompts.rewarded, settings, world, made))
    groups = prompts.of_kinds(kinds.PREFERENCE, kinds.LABELS, kinds.TARGET)
    scoring = engines.with_weights(checkpoints) if groups else []
    if scoring:
        parts.append(responses.evaluate_responses(scoring, groups, settings, world, unfinished))
    return parts if world.is_main else []


def show(outcome: report.Report, page: Path) -> None:
    """Print the tables and where the report lies."""
    print("\n" + report.in_terminal(outcome) + "\n")
    print(f"{outcome.scope}; means with 95% intervals over questions.")
    print(f"report: {os.path.relpath(page)}")


def command() -> None:
    """The command, as `python evaluate.py` and as `grove-evaluate`."""
    enter(DOOR, main)


if __name__ == "__main__":
    command()
