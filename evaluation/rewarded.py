"""What responses are worth by a reward that a program computes: of a prompt's constraints, or of a function
of the user's, `reward=module:function`.

Contract: checkpoints and prompts go in, a `Part` of the report comes out, on the main rank alone. Responses
are sampled and kept as those to other prompts; rewards are computed anew each time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from evaluation import differences, reward_metrics
from evaluation.answers import open_generator, respond
from evaluation.checkpoints import Checkpoint, find_checkpoints
from evaluation.judges import FunctionJudge
from evaluation.kinds import REWARD, Prompts
from evaluation.predictions import Predictions
from evaluation.report import Part
from evaluation.reward_metrics import Rewarded, Samples, Values
from evaluation.tasks.baselines import is_answer_file
from generation import Written, decodings_of
from groups import Group
from metrics import Summary
from ranks import World
from rewards import Constraint, reward, satisfaction
from settings import EvaluationSettings
from utils import UserError, log

Results = Mapping[str, Mapping[str, Samples]]  # by checkpoint, then by decoding

# --- what can be refused at the beginning -------------------------------------------------------------------


def check_keys(settings: EvaluationSettings) -> None:
    """Raises UserError where a key of rewards would be ignored, or names no function."""
    if settings.reward is None:
        return
    if settings.task is not None:
        raise UserError(
            f"reward={settings.reward}: is for prompts of data sets, and here task={settings.task}; "
            f"set judge={settings.reward} instead"
        )
    if settings.n_samples == 0:
        raise UserError(f"reward={settings.reward}: needs responses, and n_samples=0; leave one of them out")
    _function_of(settings)


def check_used(prompts: Prompts, settings: EvaluationSettings) -> None:
    """Raises UserError where no prompt has a computed reward, and a key is there for one alone."""
    if prompts.rewarded:
        return
    if settings.reward is not None:
        raise UserError(
            f"reward={settings.reward}: is for prompts without belief_probs, and there are none; leave it out"
        )
    if settings.baseline is not None:
        why = "n_samples=0" if settings.n_samples == 0 else "no prompt states constraints"
        raise UserError(
            f"baseline={settings.baseline}: is for wins by a computed reward or of a task, and {why}; leave "
            "it out, or set reward=module:function"
        )


def with_baseline(checkpoints: Sequence[Checkpoint], settings: EvaluationSettings) -> list[Checkpoint]:
    """The checkpoints, behind the one that `baseline` names where it is none of them.

    Raises UserError for a baseline that cannot be found, or is all that is to be compared with it.
    """
    if settings.baseline is None:
        return list(checkpoints)
    if is_answer_file(settings.baseline):
        raise UserError(
            f"baseline={settings.baseline}: a file of answers is for tasks; give a checkpoint to sample"
        )
    named = baseline_of(checkpoints, settings)
    if named and len(checkpoints) == 1:
        raise UserError(
            f"baseline={settings.baseline}: is the checkpoint itself; give another one, or leave it out"
        )
    if named:
        return list(checkpoints)
    *own, found = find_checkpoints(dataclasses.replace(settings, ckpt=[*settings.ckpt, settings.baseline]))
    return [found, *own]


def baseline_of(checkpoints: Sequence[Checkpoint], settings: EvaluationSettings) -> str | None:
    """The name of what wins are counted against: `baseline`, else the first of several; None: none."""
    if settings.baseline is None:
        return checkpoints[0].name if len(checkpoints) > 1 else None
    (named,) = find_checkpoints(dataclasses.replace(settings, ckpt=[settings.baseline]))
    return next((checkpoint.name for checkpoint in checkpoints if checkpoint.source == named.source), None)


def _function_of(settings: EvaluationSettings) -> FunctionJudge | None:
    """The user's function; None where constraints say the reward."""
    return None if settings.reward is None else FunctionJudge(settings.reward, "reward")


# --- measures -----------------------------------------------------------------------------------------------


def evaluate_rewards(
    checkpoints: Sequence[Checkpoint],
    groups: Sequence[Group],
    settings: EvaluationSettings,
    world: World,
    predictions: Predictions,
) -> Part | None:
    """The measures of every checkpoint, side by side; None on other ranks than the main one.

    Ranks share the sampling; what is written is in `predictions` from then on. Raises UserError where a
    checkpoint cannot be loaded, and where the user's function raises or gives no finite number.
    """
    function = _function_of(settings) if world.is_main else None
    results: dict[str, dict[str, Samples]] = {}
    for checkpoint in checkpoints:
        log.info(
            "sampling %d responses of %s to each of %d prompts",
            settings.n_samples,
            checkpoint.name,
            len(groups),
        )
        with open_generator(checkpoint, settings, world) as generator:
            written = respond(generator, checkpoint.name, groups, settings, world, predictions)
        if world.is_main:
            results[checkpoint.name] = {
                decoding: rewarded(groups, of_prompts, function) for decoding, of_prompts in written.items()
            }
    if not world.is_main:
        return None
    return part_of(groups, results, baseline_of(checkpoints, settings), settings, predictions)


def rewarded(
    groups: Sequence[Group], written: Sequence[Sequence[Written]], function: FunctionJudge | None
) -> list[list[Rewarded]]:
    """The responses to every prompt with their rewards: the function's, else those of the constraints."""
    found = []
    for group, of_prompt in zip(groups, written):
        rewards = _rewards_of(group, [response.text for response in of_prompt], function)
        met = [tuple(satisfaction(one, response.text) for one in group.constraints) for response in of_prompt]
        found.append(list(map(Rewarded, of_prompt, rewards, met)))
    return found


def _rewards_of(group: Group, texts: Sequence[str], function: FunctionJudge | None) -> list[float]:
    if function is not None:
        return function.values([(group.prompt, text) for text in texts])
    return [reward(group.constraints, text) for text in texts]


def values_by_decoding(
    samples: Mapping[str, Samples], baseline: Mapping[str, Samples] | None
) -> list[Values]:
    """One table of values a decoding; with wins where there is a baseline."""
    tables = []
    for decoding, of_prompts in samples.items():
        values = reward_metrics.values_of(of_prompts)
        if baseline is not None:
            values[reward_metrics.WIN_RATE] = reward_metrics.wins_of(of_prompts, baseline[decoding])
        tables.append(values)
    return tables


# --- what the report says -----------------------------------------------------------------------------------


def part_of(
    groups: Sequence[Group],
    results: Results,
    baseline: str | None,
    settings: EvaluationSettings,
    predictions: Predictions,
) -> Part:
    """All results, how checkpoints differ, and how they were made. baseline: a checkpoint's name."""
    rows: dict[str, Mapping[str, Summary]] = {}
    by_checkpoint = {}
    lines: list[dict[str, object]] = []
    for name, samples in results.items():
        has_wins = baseline is not None and name != baseline
        tables = values_by_decoding(samples, results[baseline] if has_wins else None)
        whole = reward_metrics.averaged(tables)
        rows[name] = reward_metrics.summaries_of(whole, groups)
        by_checkpoint[name] = reward_metrics.by_prompt(whole)
        if len(tables) > 1:
            for decoding, values in zip(samples, tables):
                rows[f"{name} ({decoding})"] = reward_metrics.summaries_of(values, groups)
        lines += _lines_of(name, groups, samples, predictions)
    return Part(
        results=rows,
        facts=_facts_of(groups, settings, baseline),
        predictions=lines,
        differences=differences.of_means(by_checkpoint, groups, REWARD),
        by_prompt=[
            line
            for name, values in by_checkpoint.items()
            for line in differences.lines_of(name, groups, values)
        ],
    )


def _facts_of(
    groups: Sequence[Group], settings: EvaluationSettings, baseline: str | None
) -> dict[str, object]:
    """How the measures were made."""
    facts: dict[str, object] = {
        "reward": settings.reward or "how far a response keeps to its prompt's constraints, 0 to 10",
        "rewarded_prompts": len(groups),
        "baseline": baseline,
        "temperature": settings.temperature,
        "decoding": [d.name for d in decodings_of(settings.decoding, settings.temperature)],
        "generator": settings.generator,
        "max_new_tokens": settings.max_new_tokens,
    }
    if settings.reward is not None:
        facts["judges"] = {metric: settings.reward for metric in (reward_metrics.REWARD, reward_metrics.BEST)}
    return facts


def _lines_of(
    name: str, groups: Sequence[Group], samples: Mapping[str, Samples], predictions: Predictions
) -> list[dict[str, object]]:
    """The lines of predictions.jsonl, prompt by prompt: what was written, its reward, and what it misses."""
    lines = []
    for i, group in enumerate(groups):
        for decoding, of_prompts in samples.items():
            for number, response in enumerate(of_prompts[i]):
                line = predictions.line_of(name, group, decoding, number)
                lines.append({**line, **_fields_of(group, response)})
    return lines


def _fields_of(group: Group, response: Rewarded) -> dict[str, object]:
    found: dict[str, object] = {"reward": response.reward}
    if group.constraints:
        met = zip(group.constraints, response.satisfactions)
        found["satisfactions"] = list(response.satisfactions)
        found["missed"] = [in_words(constraint) for constraint, share in met if share < 1]
    return found


def in_words(constraint: Constraint) -> str:
    """A constraint for readers: "words (at least 20, at most 40)"."""
    kind = constraint.kind.replace("_", " ")
    arguments = []
    for name, value in constraint.arguments.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        arguments.append(f"{name.replace('_', ' ')} {shown}")
    return f"{kind} ({', '.join(arguments)})" if arguments else kind
