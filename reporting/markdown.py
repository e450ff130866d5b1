"""report.md: the numbers of the page as Markdown.

Contract: a Story goes in, a text comes out; names and prompts are escaped, so that none is markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from reporting.curves import has_curve, panels_of
from reporting.facts import commands_of, facts_of, shown_path, sources_of
from reporting.gaps import calibrations_of, gaps_of
from reporting.group_tables import ABOUT as ABOUT_GROUPS
from reporting.group_tables import DISTANCES, group_table, matrices_of, matrix_table, steering_table
from reporting.groups import PeopleGroups
from reporting.panels import shortened
from reporting.prompt_rewards import names_of, prompt_rewards
from reporting.record import Evaluation, Run, Story, text_of
from reporting.sentence import answer_of
from reporting.tables import Table, as_markdown, as_number, counts_table, differences_table, tables_of
from reporting.words import CAPTIONS

MARKUP = re.compile(r"([\\`*_|#~$]|\](?=[(\[:]))")
MOST_QUESTIONS = 200  # in the table of gaps
PROMPT_CHARACTERS = 100


def markdown_of(story: Story, figures: Sequence[str]) -> str:
    """All tables. figures: names of the pictures, below figures/."""
    parts = [part for evaluation in story.evaluations for part in _evaluation(evaluation)]
    parts += _training(story.runs)
    parts += [f"![{name}](figures/{name}.png)" for name in figures]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """A text on one line, none of which is markup."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKUP.sub(r"\\\1", line)


def _evaluation(evaluation: Evaluation) -> Iterator[str]:
    yield f"# {escaped(evaluation.name)}"
    yield f"**{escaped(answer_of(evaluation))}**"
    scope = evaluation.settings.get("scope")
    if isinstance(scope, str):
        yield f"{escaped(scope)}. Means with 95% bootstrap intervals over questions."
    for table in tables_of(evaluation.results, evaluation.n_samples, evaluation.judges):
        yield f"## {CAPTIONS[table.kind]}"
        yield _table(table)
    differences = differences_table(evaluation.differences, evaluation.n_samples, evaluation.judges)
    if differences.rows:
        yield "## Paired differences"
        yield _table(differences)
    if evaluation.groups is not None:
        yield from _of_groups(evaluation.groups)
    if evaluation.shares:
        yield from _of_shares(evaluation)
    yield from _of_rewards(evaluation)
    unjudged = evaluation.settings.get("unjudged")
    counts = counts_table(unjudged if isinstance(unjudged, Mapping) else {})
    if counts.rows:
        yield "## Not judged"
        yield _table(counts)
    yield "## How it was made"
    yield "\n".join(f"    {' '.join(command.split())}" for command in commands_of(evaluation))
    facts = [[fact.name, fact.value] for fact in facts_of(evaluation)]
    facts += [[f"weights of {s.checkpoint}", f"{s.place} {s.maker}".strip()] for s in sources_of(evaluation)]
    facts += [[f"SHA-256 of {name}", value] for name, value in evaluation.hashes.items()]
    yield _table(Table("facts", ["", ""], facts))


def _of_groups(groups: PeopleGroups) -> Iterator[str]:
    """Each group's measures, what its name is worth, and every group against every group's prompts."""
    yield "## Groups of people"
    yield _table(group_table(groups))
    yield _table(steering_table(groups))
    yield ABOUT_GROUPS
    for name, key, matrix in matrices_of(groups):
        yield f"### {escaped(name)}: {DISTANCES.get(key, escaped(key))}"
        yield _table(matrix_table(groups, key, matrix))


def _of_shares(evaluation: Evaluation) -> Iterator[str]:
    """Calibration, and the gap of every question, the largest of the last checkpoint first."""
    yield "## Share in the survey against share in the model"
    rows = []
    for c in calibrations_of(evaluation.shares):
        correlation = "-" if c.correlation is None else as_number(c.correlation)
        rows.append([c.checkpoint, correlation, as_number(c.mean_gap), str(len(c.points))])
    yield _table(Table("calibration", ["", "correlation", "mean absolute gap", "options"], rows))
    gaps = gaps_of(evaluation.shares)
    if not gaps:
        return
    yield "## JSD to the group by question"
    names, last = list(gaps), gaps[list(gaps)[-1]]
    order = sorted(range(len(evaluation.shares)), key=lambda i: -last.get(i, -1.0))
    rows = []
    for i in order[:MOST_QUESTIONS]:
        prompt = shortened(text_of(evaluation.shares[i].prompt), PROMPT_CHARACTERS)
        rows.append([prompt, *(as_number(gaps[name][i]) if i in gaps[name] else "-" for name in names)])
    yield _table(Table("questions", ["", *names], rows))
    if len(order) > MOST_QUESTIONS:
        yield f"The {len(order) - MOST_QUESTIONS} others are in distributions.jsonl."


def _of_rewards(evaluation: Evaluation) -> Iterator[str]:
    """The rewards of every prompt; where the last checkpoint gains most on the first comes first."""
    rewards = prompt_rewards(evaluation.answers)
    if not rewards:
        return
    yield "## Reward by prompt"
    names = names_of(rewards)
    rows = []
    for of_prompt in rewards[:MOST_QUESTIONS]:
        means = [as_number(of_prompt.means[n]) if n in of_prompt.means else "-" for n in names]
        rows.append([shortened(text_of(of_prompt.prompt), PROMPT_CHARACTERS), *means])
    yield _table(Table("rewards", ["", *names], rows))
    if len(rewards) > MOST_QUESTIONS:
        yield f"The {len(rewards) - MOST_QUESTIONS} others are in predictions.jsonl."


def _training(runs: Sequence[Run]) -> Iterator[str]:
    """The last number of every curve."""
    rows = []
    for panel in panels_of(runs):
        for line in panel.lines:
            for run in runs:
                if has_curve(run, line):
                    curve = run.curves[line.key]
                    rows.append([line.key, run.name, f"{curve.x[-1]:.0f}", f"{curve.y[-1]:.4f}"])
    if rows:
        yield "# Training"
        yield _table(Table("training", ["last value of", "run", "at examples", "value"], rows))
        yield "\n".join(
            f"- {escaped(run.name)}: {escaped(shown_path(run.folder))}, began with "
            f"{escaped(run.start.get('name', 'unknown weights'))} {escaped(run.start.get('fingerprint', ''))}"
            for run in runs
        )


def _table(table: Table) -> str:
    """A table whose texts are escaped."""
    header = [escaped(cell) for cell in table.header]
    rows = [[escaped(cell) for cell in row] for row in table.rows]
    return as_markdown(Table(table.kind, header, rows))
