"""What a report is made of: files that are damaged, old or missing, and the command that reads them."""

import json
import sys

import pytest
from helpers import command
from report_helpers import write_evaluation, write_run

import report
from reporting.writing import write_page
from utils import UserError


def damage_line(path, number, change):
    lines = path.read_text().splitlines()
    values = json.loads(lines[number - 1])
    change(values)
    lines[number - 1] = json.dumps(values)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "file,change,message",
    [
        (
            "distributions.jsonl",
            lambda line: line.pop("prompt"),
            "line 2: prompt must be a text, or messages",
        ),
        ("distributions.jsonl", lambda line: line.update(offered=[True]), "offered must be 6 entries"),
        ("distributions.jsonl", lambda line: line.update(belief_probs=[1, 1, 0, 0, 0, 0]), "that sum to 1"),
        (
            "distributions.jsonl",
            lambda line: line["checkpoints"].update(sft=[-1, 2, 0, 0, 0, 0]),
            "sft must be 6",
        ),
        ("predictions.jsonl", lambda line: line.update(response=3), "line 2: response must be a text"),
        ("predictions.jsonl", lambda line: line.update(similarity="high"), "similarity must be a number"),
        (
            "report.json",
            lambda line: line.update(checkpoints=[]),
            "checkpoints must be an object",
        ),
        (
            "report.json",
            lambda line: line["differences"][0].pop("value"),
            r"differences\[0\]: value must be a",
        ),
        (
            "report.json",
            lambda line: line["checkpoints"]["sft"].update(cbc={}),
            "sft, cbc: n must be a number",
        ),
    ],
)
def test_a_damaged_file_is_named_with_line_field_and_remedy(tmp_path, file, change, message):
    folder = write_evaluation(tmp_path / "report", num_prompts=3)
    damage_line(folder / file, 1 if file == "report.json" else 2, change)
    with pytest.raises(UserError, match=f"{file}.*{message}.*; run evaluate.py again") as raised:
        write_page([str(folder)])
    assert "\n" not in str(raised.value)


def test_a_line_of_metrics_that_is_none_is_named_unless_it_is_still_being_written(tmp_path):
    run = write_run(tmp_path / "run", torn=True)
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 37: is no JSON .*; restore the file"):
        write_page([str(run)])


def test_an_older_evaluation_has_a_page_of_what_it_has(tmp_path):
    folder = write_evaluation(tmp_path / "report")
    (folder / "distributions.jsonl").unlink()
    (folder / "predictions.jsonl").unlink()
    found = json.loads((folder / "report.json").read_text())
    del found["differences"], found["settings"]["scope"]
    (folder / "report.json").write_text(json.dumps(found))
    page = write_page([str(folder)]).read_text()
    assert '<table class="results">' in page and 'class="questions"' not in page


def test_an_option_typed_as_a_key_is_told_how_it_is_written(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report.py", "outputs/gdpo", "output=foo"])
    with pytest.raises(UserError, match="output=foo: .* write --output foo"):
        report.main()


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_a_path_that_is_neither_run_nor_evaluation_is_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="give a run .outputs/gdpo. or an evaluation"):
        write_page([path])


def test_the_command_makes_the_page_without_torch_and_refuses_what_is_none(tmp_path):
    run = write_run(tmp_path / "run", num_steps=5)
    script = (
        "import runpy, sys; sys.argv = ['report.py', sys.argv[1]]; "
        "runpy.run_path('report.py', run_name='__main__'); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = command(sys.executable, "-c", script, str(run))
    assert done.stdout.startswith("report: ") and done.stdout.strip().endswith("curves/report.html")
    done = command(sys.executable, "report.py", str(tmp_path / "none"), code=2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
