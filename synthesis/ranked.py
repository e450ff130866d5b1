"""task=ranked: samples of a policy, in the order that a reward gives them: what loss=swepo trains on.

Contract: the data is a function of (weights, prompts, sampling settings, seed, reward). Of responses to one
prompt that say nearly the same the first stays; prompts whose rewards are all equal stand apart, in
equal.jsonl. Samples are kept one by one; the same ones can be scored anew.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from groups import Group, Response
from synthesis.config import SynthesisSettings
from synthesis.duplicates import near_pairs
from synthesis.entries import own_row
from synthesis.prompts import Asked, read_prompts
from synthesis.record import Json, Provenance
from synthesis.sampling import Policy, Sample, find_policy, loaded, samples_of, wanted_of, write_missing
from synthesis.scores import Scorer, check_prompts, scorer_of
from synthesis.work import RECORD, open_work
from utils import UserError, log

RANKED, EQUAL = "train.jsonl", "equal.jsonl"


class Ranked(NamedTuple):
    """One prompt's responses with their rewards, without those that say the same."""

    group: Group
    responses: tuple[Response, ...]
    near_duplicates: int
    cut: int  # of the responses: how many ended at max_new_tokens
    without_score: int

    @property
    def rewards(self) -> list[float]:
        return [response.reward for response in self.responses if response.reward is not None]

    @property
    def is_equal(self) -> bool:
        """Is no response better than another?"""
        return len(set(self.rewards)) < 2


def ranked(settings: SynthesisSettings, folder: Path) -> str:
    """Sample, score and write. Raises UserError for bad input, a policy or a judge that cannot be had, and
    where no prompt has unequal rewards; what was sampled is kept.
    """
    scorer = scorer_of(settings)
    policy = find_policy(settings)
    asked = read_prompts(settings)
    check_prompts(asked.groups, settings)
    made_by = _made_by(settings, scorer)
    wanted = wanted_of(asked.groups, settings.n_samples)
    with contextlib.ExitStack() as stack:
        generator = stack.enter_context(loaded(policy))
        facts = {"policy": dict(generator.identity()), "temperature": settings.temperature}
        with open_work(folder, "ranked", {**facts, "seed": settings.seed}, settings.overwrite) as work:
            _check_scored(folder, made_by, settings.overwrite)
            write_missing(generator, asked.groups, wanted, work, settings)
            stack.close()  # a reward model may need the room
            samples = samples_of(asked.groups, wanted, work)
            of_prompts = _in_order(asked.groups, samples, scorer, settings)
            parts = _parts(of_prompts)
            counts = _counts(of_prompts, asked, made_by)
            work.finish(parts, _provenance(policy, scorer, asked, counts, settings))
    return _said(folder, parts, counts)


def _made_by(settings: SynthesisSettings, scorer: Scorer) -> dict[str, Json]:
    """What the data depends on beside its samples."""
    values = {"reward": scorer.name, "near": settings.near, "n_samples": settings.n_samples}
    prompts = {"sources": [source.name for source in settings.sources or []], "split": settings.split}
    return {**values, **prompts, "n": settings.n}


def _check_scored(folder: Path, made_by: Mapping[str, Json], overwrite: bool) -> None:
    """Raises UserError where the folder has data of the same samples under other settings."""
    path = folder / RECORD
    if overwrite or not path.is_file():
        return
    try:
        before = json.loads(path.read_bytes())["counts"]["made_by"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged; remove it, and run the same command again") from error
    for key, value in made_by.items():
        if before.get(key) != value:
            raise UserError(
                f"config key output={folder}: its data is of {key}={before.get(key)}, and it is {value} now; "
                "set output=<another folder>, or overwrite=true to make it anew of the samples that are there"
            )


# --- from samples to rows -----------------------------------------------------------------------------------


def _in_order(
    groups: Sequence[Group], samples: Sequence[Sequence[Sample]], scorer: Scorer, settings: SynthesisSettings
) -> list[Ranked]:
    """The samples of every prompt that differ, with their rewards."""
    kept = [_different(of_prompt, settings.near) for of_prompt in samples]
    every = [(group, sample.text) for group, some in zip(groups, kept) for sample in some]
    scores = iter(scorer.scores(every))
    found = []
    for group, of_prompt, some in zip(groups, samples, kept):
        responses = [Response(sample.text, next(scores)) for sample in some]
        scored = tuple(response for response in responses if response.reward is not None)
        cut = sum(sample.is_cut for sample in some)
        dropped = len(of_prompt) - len(some)
        found.append(Ranked(group, scored, dropped, cut, len(responses) - len(scored)))
    return found


def _different(samples: Sequence[Sample], near: float) -> list[Sample]:
    """The samples of which no earlier one says nearly the same."""
    gone: set[int] = set()
    for one, other in near_pairs([sample.text for sample in samples], near):
        if one not in gone:
            gone.add(other)
    return [sample for place, sample in enumerate(samples) if place not in gone]


def _parts(of_prompts: Sequence[Ranked]) -> dict[str, list[dict[str, Json]]]:
    """The rows of both files. Raises UserError where there is none to train on."""
    parts: dict[str, list[dict[str, Json]]] = {RANKED: []}
    for one in of_prompts:
        if one.responses:
            name = EQUAL if one.is_equal else RANKED
            group = one.group._replace(responses=one.responses)
            parts.setdefault(name, []).append(own_row(group, group.dataset))
    if not parts[RANKED]:
        raise UserError(f"task=ranked: {_why_none(of_prompts)}")
    return parts


def _why_none(of_prompts: Sequence[Ranked]) -> str:
    """Why no prompt has an order, and what helps."""
    unscored = sum(one.without_score for one in of_prompts)
    if unscored and not any(one.responses for one in of_prompts):
        return f"all {unscored} responses have no score; give another reward (the samples are kept)"
    also = f" ({unscored} responses have no score)" if unscored else ""
    return (
        f"the rewards of all {len(of_prompts)} prompts are equal{also}, so none has an order; give more "
        "samples or another reward (the samples are kept), or a higher temperature with overwrite=true"
    )


def _counts(of_prompts: Sequence[Ranked], asked: Asked, made_by: Mapping[str, Json]) -> dict[str, Json]:
    """What is in the data, and what was left out of it; rewards over all prompts that have a response."""
    some = [one.rewards for one in of_prompts if one.responses]
    equal: list[Json] = [one.group.id for one in of_prompts if one.is_equal]
    return {
        "made_by": dict(made_by),
        "prompts": len(of_prompts),
        "repeated_prompts": asked.repeated,
        "responses": sum(map(len, some)),
        "near_duplicates": sum(one.near_duplicates for one in of_prompts),
        "without_score": sum(one.without_score for one in of_prompts),
        "cut_at_max_new_tokens": sum(one.cut for one in of_prompts),
        "mean_reward": round(fmean(map(fmean, some)), 4) if some else None,
        "best_reward": round(fmean(map(max, some)), 4) if some else None,
        "equal_rewards": equal,
    }


def _provenance(
    policy: Policy, scorer: Scorer, asked: Asked, counts: Mapping[str, Json], settings: SynthesisSettings
) -> Provenance:
    makers = [policy.maker] + ([scorer.maker] if scorer.maker else [])
    return Provenance(asked.origins, tuple(makers), scorer.prompts, counts, settings.licence)


def _said(folder: Path, parts: Mapping[str, Sequence[object]], counts: Mapping[str, Json]) -> str:
    """What was made, on one line."""
    equal = counts["equal_rewards"]
    left_out = ""
    if isinstance(equal, list) and equal:
        shown = ", ".join(map(str, equal[:3])) + (", ..." if len(equal) > 3 else "")
        left_out = f"; {len(equal)} prompts with equal rewards left out ({shown})"
        log.info("prompts whose rewards are all equal: %s", ", ".join(map(str, equal)))
    rewards = f"mean reward {counts['mean_reward']}, of the best of each prompt {counts['best_reward']}"
    return f"{folder / RANKED}: {len(parts[RANKED])} prompts; {rewards}{left_out}"
