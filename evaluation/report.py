"""Reports: report.json, predictions.jsonl, distributions.jsonl, by_prompt.jsonl, and a page and
figures of them all.

Contract: report.json is {"checkpoints": {name: {metric: {"value", "low", "high", "n"}}}, "differences":
[{"metric", "kind", "a", "b", "value", "low", "high", "p", "p_holm", "n"}], "settings": {...}}; the page is
made of these files alone, so that `report.py` can make it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import models
from evaluation.checkpoints import Checkpoint
from evaluation.differences import Difference
from evaluation.folder import writing
from evaluation.kinds import BELIEFS, Prompts, in_words
from metrics import Summary
from provenance import own_version
from reporting.group_tables import group_table, steering_table
from reporting.groups import PeopleGroups, as_json
from reporting.reading import DISTRIBUTIONS, PREDICTIONS, REPORT
from reporting.record import Results, Shares
from reporting.tables import Judges, as_markdown, markdown_differences, markdown_tables
from reporting.words import TITLES
from reporting.writing import write_page
from settings import EvaluationSettings, names_of
from utils import atomic_path, write_json

__all__ = ["TITLES", "Part", "Report", "in_terminal", "make_report", "scope_of", "write_report"]

BY_PROMPT = "by_prompt.jsonl"

Facts = Mapping[str, Any]


class Part(NamedTuple):
    """What was found on the prompts of some kinds."""

    results: Results
    facts: Facts  # how it was made, beside what `make_report` says; `judges` names them by metric
    predictions: Sequence[Mapping[str, Any]]  # lines of predictions.jsonl
    shares: Sequence[Shares] = ()  # belief distributions, prompt by prompt
    differences: Sequence[Difference] = ()  # of checkpoints, pair by pair
    by_prompt: Sequence[Mapping[str, Any]] = ()  # lines of by_prompt.jsonl
    groups: PeopleGroups | None = None  # of people, where several are named


class Report(NamedTuple):
    """What an evaluation found."""

    results: Results
    facts: Facts  # how it was made, `n_samples` among them: report.json's "settings"
    predictions: Sequence[Mapping[str, Any]]  # lines of predictions.jsonl
    shares: Sequence[Shares]  # belief distributions, prompt by prompt; (): there are none
    scope: str  # one line, see `scope_of`
    differences: Sequence[Difference] = ()
    by_prompt: Sequence[Mapping[str, Any]] = ()  # lines of by_prompt.jsonl; (): there are none
    groups: PeopleGroups | None = None  # of people, where several are named

    @property
    def judges(self) -> Judges:
        """By metric: the judge that its number is of."""
        return self.facts.get("judges", {})


def make_report(
    checkpoints: Sequence[Checkpoint], prompts: Prompts, settings: EvaluationSettings, parts: Sequence[Part]
) -> Report:
    """All parts as one report, with how they were made."""
    results: dict[str, dict[str, Summary]] = {}
    facts = _facts_of(checkpoints, prompts, settings)
    judges: dict[str, str] = {}
    for part in parts:
        judges |= part.facts.get("judges", {})
        facts |= part.facts
        for name, summaries in part.results.items():
            results.setdefault(name, {}).update(summaries)
    if judges:
        facts["judges"] = judges
    return Report(
        results,
        facts,
        predictions=[line for part in parts for line in part.predictions],
        shares=[of_prompt for part in parts for of_prompt in part.shares],
        scope=scope_of(prompts, settings),
        differences=[difference for part in parts for difference in part.differences],
        by_prompt=[line for part in parts for line in part.by_prompt],
        groups=next((part.groups for part in parts if part.groups is not None), None),
    )


def _facts_of(
    checkpoints: Sequence[Checkpoint], prompts: Prompts, settings: EvaluationSettings
) -> dict[str, Any]:
    """How any evaluation was made, and on what."""
    return {
        "datasets": names_of(settings.datasets),
        "eval_groups": names_of(settings.eval_groups or []),
        "group_in_prompt": settings.group_in_prompt,
        "split": settings.split,
        "seed": settings.seed,
        "few_shot": settings.few_shot,
        "n_samples": _num_samples(prompts, settings),
        "prompts": len(prompts.groups),
        "questions": _num_questions(prompts),
        "prompts_of_kind": prompts.counts(),
        "without_preference": {"left_out": prompts.left_out, "by_target": prompts.without_preference},
        "sources": {checkpoint.name: checkpoint.source for checkpoint in checkpoints},
        "grove": own_version(),
        **models.versions(),
    }


def _num_samples(prompts: Prompts, settings: EvaluationSettings) -> int:
    """Sampled responses a prompt; only those with beliefs or a computed reward are sampled on."""
    return settings.n_samples if BELIEFS in prompts.counts() or prompts.rewarded else 0


def _num_questions(prompts: Prompts) -> int:
    return len({group.question for group in prompts.groups})


def scope_of(prompts: Prompts, settings: EvaluationSettings) -> str:
    """How many prompts of what kind, how many questions they ask, and what is left out."""
    of_what = f"{', '.join(names_of(settings.datasets))} ({settings.split})"
    if settings.eval_groups:
        of_what += f", and {', '.join(names_of(settings.eval_groups))}, held out of training"
    scope = f"{len(prompts.groups)} prompts on {_num_questions(prompts)} questions of {of_what}"
    return "; ".join(filter(None, [scope, in_words(prompts), _samples_in_words(prompts, settings)]))


def _samples_in_words(prompts: Prompts, settings: EvaluationSettings) -> str:
    """How many responses are sampled to which prompts; "" where none are."""
    num_samples = _num_samples(prompts, settings)
    if not num_samples:
        return ""
    has_beliefs = BELIEFS in prompts.counts()
    if not prompts.rewarded:
        every = (
            "samples each" if len(prompts.counts()) == 1 else "samples for each of those with belief_probs"
        )
        return f"{num_samples} {every}"
    count = len(prompts.rewarded) + len(prompts.of_kinds(BELIEFS))
    of_whom = "with belief_probs or a computed reward" if has_beliefs else "whose reward a program computes"
    return f"{num_samples} samples for each of {count} prompts {of_whom}"


def in_terminal(report: Report) -> str:
    """The tables of results, and how the checkpoints differ by the metrics that a reader looks for first."""
    n_samples = report.facts["n_samples"]
    results = markdown_tables(report.results, n_samples, report.judges)
    differences = markdown_differences(report.differences, n_samples, report.judges)
    parts = [results]
    if differences:
        parts.append(f"Paired differences (95% interval, two-sided p):\n\n{differences}")
    if report.groups is not None:
        tables = [group_table(report.groups), steering_table(report.groups)]
        parts.append("Groups of people:\n\n" + "\n\n".join(map(as_markdown, tables)))
    return "\n\n".join(parts)


# --- the files ----------------------------------------------------------------------------------------------


def write_report(folder: Path, report: Report) -> Path:
    """Write predictions.jsonl, distributions.jsonl, by_prompt.jsonl, report.json and what `reporting` makes
    of them into `folder`; return the page's path. Raises UserError where the disk refuses them.
    """
    with writing(folder):
        _write_lines(folder / PREDICTIONS, report.predictions)
        shares = [of_prompt._asdict() for of_prompt in report.shares]
        for name, lines in ((DISTRIBUTIONS, shares), (BY_PROMPT, report.by_prompt)):
            if lines:
                _write_lines(folder / name, lines)
            else:
                (folder / name).unlink(missing_ok=True)
        found = {
            "checkpoints": report.results,
            "differences": [difference._asdict() for difference in report.differences],
            "settings": {"scope": report.scope, **report.facts},
        }
        if report.groups is not None:
            found["groups"] = as_json(report.groups)
        write_json(folder / REPORT, found)
        return write_page([str(folder)], folder)


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines, all of them or none."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(map(_line, rows)))


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can say
        return json.dumps(row).encode() + b"\n"
