"""The tables of several groups of people: each group's own measures, and every group against every prompt.

Contract: a record of numbers goes in, tables of texts come out.
"""

from __future__ import annotations

from collections.abc import Iterator

from reporting.groups import Matrix, PeopleGroups
from reporting.tables import Table, as_number, format_cell
from reporting.words import BELIEFS, TITLES

DISTANCES = {"js_distance": "JSD", "wasserstein": "Wasserstein"}
SHOWN = (  # measures of a group's own prompts
    "js_distance_probability",
    "js_distance_sampling",
    "wasserstein_probability",
    "wasserstein_sampling",
)
ABOUT = (
    "Row: whose answers; column: whom the prompt names. Each cell is the distance of the row's group to the "
    "model's distribution on the column's prompts, with its 95% interval over questions. A model that "
    "follows the name is near on the diagonal alone; one that has an average of all groups has rows of one "
    "number. Steering: how much nearer the model is to a group under its own name than under the others' "
    "(mean over groups); what a perfect model gets stands in the last row."
)


def group_table(groups: PeopleGroups) -> Table:
    """A row for each checkpoint and group: the distances on the group's own prompts."""
    measured = [of.by_group[name] for of in groups.checkpoints.values() for name in of.by_group]
    metrics = [metric for metric in SHOWN if any(metric in row for row in measured)]
    rows = []
    for checkpoint, of in groups.checkpoints.items():
        for name, row in of.by_group.items():
            cells = [format_cell(row.get(metric)) for metric in metrics]
            count = max((row[metric]["n"] for metric in metrics if metric in row), default=0)
            rows.append([checkpoint, groups.title(name), *cells, str(count)])
    titles = [TITLES[BELIEFS][metric] for metric in metrics]
    return Table("by group", ["", "group", *titles, "n"], rows)


def steering_table(groups: PeopleGroups) -> Table:
    """A row for each checkpoint, and one for a model that is each group itself."""
    rows = [
        [name, *(format_cell(of.steering.get(key)) for key in DISTANCES)]
        for name, of in groups.checkpoints.items()
    ]
    rows.append(["(the groups themselves)", *(format_cell(groups.apart.get(key)) for key in DISTANCES)])
    return Table("steering", ["", *(f"steering, {title}" for title in DISTANCES.values())], rows)


def matrices_of(groups: PeopleGroups) -> Iterator[tuple[str, str, Matrix]]:
    """(whose, distance, matrix) of every checkpoint and, last, of the groups themselves; empty ones left
    out."""
    parts = [(name, of.matrix) for name, of in groups.checkpoints.items()]
    for name, matrices in [*parts, ("(the groups themselves)", groups.between)]:
        for key, matrix in matrices.items():
            if any(cell["value"] is not None for row in matrix for cell in row):
                yield name, key, matrix


def matrix_table(groups: PeopleGroups, key: str, matrix: Matrix) -> Table:
    """Row: whose answers; column: whom the prompt names."""
    header = [f"{DISTANCES.get(key, key)} of, on prompts of", *map(groups.title, groups.names)]
    rows = [[groups.title(name), *map(format_cell, row)] for name, row in zip(groups.names, matrix)]
    return Table("matrix", header, rows)


def in_words(groups: PeopleGroups) -> str:
    """The matrix's gist, a sentence a checkpoint."""
    said = []
    apart = groups.apart.get("js_distance")
    for name, of in groups.checkpoints.items():
        gain = of.steering.get("js_distance")
        if gain is not None and gain["value"] is not None and apart is not None and apart["value"]:
            share = f"{gain['value'] / apart['value']:.0%} of what separates the groups"
            said.append(f"{name}: steering {as_number(gain['value'])} JSD, {share}")
    return "; ".join(said)
