"""Finished evaluations from their folders, and which evaluations and runs a path of the user's names.

Contract: report.json must be there; what an older version did not write beside it is left out of the page. A
file that is damaged is a UserError that names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from measures.summaries import Summary
from reporting.curves import METRICS, read_run
from reporting.files import Fields, hashes_of, read_lines, read_object
from reporting.groups import read_groups, summary_of
from reporting.record import Answer, Difference, Evaluation, Run, Shares, Story
from reporting.words import TITLES
from runs.folder import find_run
from utils import UserError

REPORT, DISTRIBUTIONS, PREDICTIONS = "report.json", "distributions.jsonl", "predictions.jsonl"
REMEDY = "run evaluate.py again with overwrite=true"
SUMS_TO_ONE = 1e-3  # tolerance, of shares that were rounded


def read_story(paths: Sequence[str]) -> Story:
    """All that these paths name: evaluations, runs, and the runs whose checkpoints were evaluated.

    Raises UserError for a path that is neither, and for damaged files.
    """
    folders: dict[Path, None] = {}
    runs: dict[Path, None] = {}
    for path in paths:
        of_path, is_run = _evaluations_at(path)
        folders |= dict.fromkeys(of_path)
        if is_run:
            runs[Path(path).resolve()] = None
    evaluations = [read_evaluation(folder) for folder in folders]
    evaluated = [run for evaluation in evaluations for run in _runs_of(evaluation)]
    runs = dict.fromkeys([*evaluated, *runs])  # in the order of the tables, where they stand in one
    return Story(evaluations, _named_apart([read_run(run) for run in runs]))


def _evaluations_at(given: str) -> tuple[list[Path], bool]:
    """(folders of evaluations, whether the path is a run). Raises UserError where it is neither."""
    path = Path(given)
    if path.name == REPORT and path.is_file():
        path = path.parent
    if not path.is_dir():
        raise UserError(f"{given}: is no folder; give a run (outputs/gdpo) or an evaluation's folder")
    if _is_evaluation(path):
        return [path.resolve()], False
    is_run = (path / METRICS).is_file()
    inner = [folder.parent.resolve() for folder in sorted(path.glob(f"*/{REPORT}"))]
    found = [folder for folder in inner if _is_evaluation(folder)]
    if not is_run and not found:
        raise UserError(
            f"{given}: holds neither {REPORT} nor {METRICS}; give a run (outputs/gdpo) or an evaluation"
        )
    return found, is_run


def _is_evaluation(folder: Path) -> bool:
    """Is a report.json there that is not a page's of several evaluations?"""
    path = folder / REPORT
    return path.is_file() and "evaluations" not in read_object(path, REMEDY).values


def _runs_of(evaluation: Evaluation) -> Iterable[Path]:
    """The runs that made its checkpoints, as far as they are still where they were."""
    sources = evaluation.settings.get("sources")
    for source in sources.values() if isinstance(sources, dict) else ():
        run = find_run(source) if isinstance(source, str) else None
        if run is not None and (run / METRICS).is_file():
            yield run.resolve()


def _named_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs, those of one name told apart by the folder above."""
    names = [run.name for run in runs]
    apart = []
    for run in runs:
        name = f"{Path(run.folder).parent.name}/{run.name}" if names.count(run.name) > 1 else run.name
        apart.append(run._replace(name=name))
    return apart


# --- one evaluation -----------------------------------------------------------------------------------------


def read_evaluation(folder: Path) -> Evaluation:
    """What a finished evaluation wrote. Raises UserError for damaged files."""
    report = read_object(folder / REPORT, REMEDY)
    results = report.inner("checkpoints")
    settings = report.inner("settings").values
    answers, makers = _answers_of(folder / PREDICTIONS)
    return Evaluation(
        name=_name_of(folder),
        folder=str(folder),
        results={name: _row_of(results.inner(name)) for name in results.values},
        differences=_differences_of(report),
        settings=settings,
        shares=[_shares_of(line) for line in read_lines(folder / DISTRIBUTIONS, REMEDY)],
        answers=answers,
        hashes=hashes_of(folder, REPORT, DISTRIBUTIONS, PREDICTIONS),
        makers=makers,
        groups=read_groups(report.inner("groups")) if "groups" in report.values else None,
    )


def _name_of(folder: Path) -> str:
    return folder.parent.name if folder.name == "report" else f"{folder.parent.name}/{folder.name}"


def _row_of(row: Fields) -> dict[str, Summary]:
    return {metric: summary_of(row.inner(metric)) for metric in row.values}


def _differences_of(report: Fields) -> list[Difference]:
    given = report.values.get("differences", [])  # older versions wrote none
    if not isinstance(given, list):
        report.refuse("differences", "a list")
    found = []
    for number, values in enumerate(given):
        place = f"{report.place}, differences[{number}]"
        if not isinstance(values, dict):
            report.refuse(f"differences[{number}]", "an object")
        fields = Fields(values, place, report.remedy)
        found.append(_difference_of(fields))
    return found


def _difference_of(fields: Fields) -> Difference:
    if fields.text("kind") not in TITLES:
        fields.refuse("kind", f"one of {', '.join(TITLES)}")
    return Difference(
        metric=fields.text("metric"),
        kind=fields.text("kind"),
        a=fields.text("a"),
        b=fields.text("b"),
        value=fields.number("value"),
        low=fields.number_or_none("low"),
        high=fields.number_or_none("high"),
        p=fields.number_or_none("p"),
        p_holm=fields.number_or_none("p_holm"),
        n=int(fields.number("n")),
    )


def _shares_of(line: Fields) -> Shares:
    classes, of_checkpoints = line.texts("classes"), line.inner("checkpoints")
    shares = Shares(
        id=line.text("id"),
        dataset=line.text("dataset"),
        question=line.text("question"),
        prompt=line.prompt("prompt"),
        classes=classes,
        options=line.texts("options"),
        offered=line.truths("offered"),
        belief_probs=line.numbers("belief_probs"),
        checkpoints={name: of_checkpoints.numbers(name) for name in of_checkpoints.values},
        sampled=line.texts("sampled"),
    )
    for key in ("options", "offered", "belief_probs"):
        if len(line.values[key]) != len(classes):
            line.refuse(key, f"{len(classes)} entries, one a class")
    for name, probs in (("belief_probs", shares.belief_probs), *shares.checkpoints.items()):
        is_distribution = len(probs) == len(classes) and min(probs, default=-1) >= 0
        if not (is_distribution and abs(sum(probs) - 1) < SUMS_TO_ONE):
            line.refuse(name, f"{len(classes)} shares that sum to 1")
    return shares


def _answers_of(path: Path) -> tuple[list[Answer], dict[str, str]]:
    """(sampled responses, by checkpoint the hash of what answered); scores of given responses are none."""
    answers, makers = [], {}
    for line in read_lines(path, REMEDY):
        if "response" not in line.values:
            continue
        answer = _answer_of(line)
        answers.append(answer)
        maker = line.text_or_none("made_by")
        if maker:
            makers.setdefault(answer.checkpoint, maker.split("-")[-1])
    return answers, makers


def _answer_of(line: Fields) -> Answer:
    return Answer(
        checkpoint=line.text("checkpoint"),
        id=line.text("id"),
        prompt=line.prompt("prompt"),
        decoding=line.text("decoding"),
        sample=int(line.number("sample")),
        response=line.text("response"),
        finish=line.text("finish"),
        label=line.text_or_none("class"),
        belief=line.text_or_none("belief"),
        answer=line.text_or_none("answer"),
        class_consistent=line.truth_or_none("class_belief_consistent"),
        consistent=line.truth_or_none("belief_answer_consistent"),
        similarity=line.number_or_none("similarity"),
        judge_score=line.number_or_none("judge_score"),
        preference=line.number_or_none("preference"),
        score=line.number_or_none("score"),
        reward=line.number_or_none("reward"),
        missed=None if line.values.get("missed") is None else line.texts("missed"),
    )
