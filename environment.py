"""Where the project runs at all: the system, the Python and the packages that every command needs.

Contract: importing this ends the process with one line and exit code 2 where a command could only fail with
a traceback, and from then on Ctrl-C ends a command with one line, too; so it is the first import of every
door, and holds nothing that an older Python cannot read.
Nothing is imported but the standard library.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import signal
import sys
from pathlib import Path

VERSION = "0.2.0"
LOWEST, ABOVE = (3, 11), (3, 14)  # the Pythons that are supported: from the first, below the second
NEEDED = ("hydra", "torch", "transformers", "peft", "accelerate")
HERE = Path(__file__).resolve().parent
CONFIGS = str(HERE / "config")  # what hydra composes, from whatever folder a command is typed in


def problem() -> str | None:
    """What keeps every command from running here, with the remedy; None where nothing does."""
    if platform.system() == "Windows":
        return "Windows: file locks and signals of POSIX are needed; run the same commands in WSL"
    if not LOWEST <= sys.version_info[:2] < ABOVE:
        return f"Python {platform.python_version()}: 3.11, 3.12 or 3.13 is needed; {way_in(HERE)}"
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return f"{sys.executable}: has no package {missing[0]}; {way_in(HERE)}"
    return None


def way_in(project: Path) -> str:
    """How to enter the environment of a project's folder, or how to make it first."""
    enter = project / ".venv" / "bin" / "activate"
    if enter.is_file():
        return "enter the environment: source " + shlex.quote(str(enter))
    script = project / "train_scripts" / "setup.sh"
    if not script.is_file():  # installed without its folder
        return "install the package again, with what it needs"
    made = f"bash {shlex.quote(str(script))} && source {shlex.quote(str(enter))}"
    return f"make the environment, once, and enter it: {made}"


def require() -> None:
    """End the process with one line where there is a problem."""
    found = problem()
    if found is not None:
        sys.stderr.write(f"error: {found}\n")
        sys.exit(2)


def end_in_one_line() -> None:
    """Let Ctrl-C end the process without a traceback while imports run; `utils.run_entry` takes it over then.
    A signal that somebody else handles, or ignores, is left to them."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(_signum: int, _frame: object) -> None:
    sys.stderr.write("stopped by SIGINT\n")
    sys.stderr.flush()
    os._exit(130)  # an exception would have to pass through half-made imports


def is_command() -> bool:
    """Is one of the project's own files what Python was started with?"""
    started = getattr(sys.modules["__main__"], "__file__", None)
    return started is not None and Path(started).resolve().parent == HERE


require()
if is_command():
    end_in_one_line()
