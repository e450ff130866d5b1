"""The files of a report: report.html, report.md, figures/, and report.json where several are told as one.

Contract: files are written whole or not at all. An evaluation's own report.json is never written here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from reporting.figures import figures_of, files_of
from reporting.groups import as_json as groups_as_json
from reporting.markdown import markdown_of
from reporting.page import html_page
from reporting.reading import REPORT, read_story
from reporting.record import Story
from utils import UserError, atomic_path, write_json

PAGE, TEXT, FIGURES = "report.html", "report.md", "figures"
CURVES, COMPARED = "curves", "compared"  # folders of a run's page, and of one about several evaluations


def write_page(paths: Sequence[str], folder: Path | None = None) -> Path:
    """Tell of evaluations and runs; return the page's path.

    folder: where; None: an evaluation's own, for a run curves/ in its folder, for several evaluations
    compared/ beside the first one's. Raises UserError for paths that are neither, damaged files, and a folder
    that cannot be written or holds another report.
    """
    story = read_story(paths)
    folder = default_folder(story) if folder is None else folder
    _check_free(folder, story)
    try:
        return _write(folder, story)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); make room, or give another folder by --output"
        ) from error


def default_folder(story: Story) -> Path:
    """Where a page goes that was not told where."""
    if len(story.evaluations) == 1:
        return Path(story.evaluations[0].folder)
    if not story.evaluations and len(story.runs) == 1:
        return Path(story.runs[0].folder) / CURVES
    runs = {Path(e.folder).parent for e in story.evaluations} or {Path(run.folder) for run in story.runs}
    first = next(iter(runs))
    return (first if len(runs) == 1 else first.parent) / COMPARED


def _check_free(folder: Path, story: Story) -> None:
    """Raises UserError where the folder has a report that this page is not of."""
    path = folder / REPORT
    if _is_own(folder, story) or not path.exists():
        return
    try:
        is_ours = "evaluations" in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise UserError(f"{path}: is another evaluation's; give another folder by --output")


def _is_own(folder: Path, story: Story) -> bool:
    """Is this the folder of the one evaluation that is told of?"""
    return [Path(e.folder).resolve() for e in story.evaluations] == [folder.resolve()]


def _write(folder: Path, story: Story) -> Path:
    names = []
    for name, drawn in figures_of(story):
        names.append(name)
        for kind, content in files_of(drawn).items():
            _write_file(folder / FIGURES / f"{name}.{kind}", content)
    _write_file(folder / TEXT, markdown_of(story, names).encode(errors="backslashreplace"))
    if not _is_own(folder, story):
        write_json(folder / REPORT, as_json(story))
    page = folder / PAGE
    _write_file(page, html_page(story).encode(errors="xmlcharrefreplace"))
    return page


def as_json(story: Story) -> dict[str, object]:
    """The numbers of several evaluations and runs, as each has them in its own files."""
    evaluations: dict[str, dict[str, object]] = {}
    for evaluation in story.evaluations:
        evaluations[evaluation.folder] = {
            "checkpoints": evaluation.results,
            "differences": [difference._asdict() for difference in evaluation.differences],
            "settings": evaluation.settings,
        }
        if evaluation.groups is not None:
            evaluations[evaluation.folder]["groups"] = groups_as_json(evaluation.groups)
    runs = {}
    for run in story.runs:
        last = {key: {"examples": curve.x[-1], "value": curve.y[-1]} for key, curve in run.curves.items()}
        runs[run.folder] = last
    return {"evaluations": evaluations, "runs": runs}


def _write_file(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
