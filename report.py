"""Make a report again: `python report.py outputs/gdpo`, or several runs and evaluations side by side.

The door: files -> page. It reads what runs and evaluations wrote and generates nothing, so it takes seconds,
and shows the curves so far of a run that is still training.
"""

from __future__ import annotations

import environment  # noqa: F401  # isort: skip  # first: it says what is missing, in one line

import argparse
import os
from pathlib import Path

from checking import check_options
from utils import run_entry


def main() -> None:
    """Read the command line, write the files and say where the page is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="RUN_OR_EVALUATION",
        help="a run's folder (outputs/gdpo), with its evaluations, or an evaluation's (outputs/gdpo/report)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of report.html, report.md and figures/; default: an evaluation's own, curves/ in a run "
        "without one, compared/ beside several",
    )
    given = parser.parse_args()
    check_options([path for path in given.paths if not os.path.exists(path)], ["output"])
    import reporting.writing

    page = reporting.writing.write_page(given.paths, given.output)
    print(f"report: {os.path.relpath(page)}")


def command() -> None:
    """The command, as `python report.py` and as `grove-report`."""
    run_entry(main)


if __name__ == "__main__":
    command()
