"""What every floor may lean on: user errors, entry points, logging and files.

Nothing here knows about models, data or losses. A function that does belongs in another file.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger("grove")


class UserError(Exception):
    """Bad input.
    The message is one line that names the place and the remedy; the entry points exit with code 2."""


class Stopped(Exception):
    """A signal asked the run to end; `exit_code` is 128 + the signal's number."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


def run_entry(main: Callable[[], Any]) -> None:
    """Run an entry point: bad input ends with one line and exit code 2, a signal with 128 + its number."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra would print its own trace and exit with 1
    signal.signal(signal.SIGTERM, _stop)  # like SIGINT everywhere: what was begun is cleaned up
    try:
        guarded(main)()
    except Exception as error:
        if not type(error).__module__.startswith(("hydra", "omegaconf")):
            raise
        _exit(f"error: config: {one_line(error)}; the keys stand in config/*.yaml", 2)


def guarded(main: Callable[..., Any]) -> Callable[..., Any]:
    """`main`, ending the process on a `UserError` or a signal.
    Inside hydra's job, so that hydra prints nothing around it."""

    @functools.wraps(main)
    def run(*args: Any) -> Any:
        try:
            return main(*args)
        except UserError as error:
            _exit(f"error: {one_line(error)}", 2)
        except Stopped as stopped:
            _exit(f"stopped by {stopped}", stopped.exit_code)
        except KeyboardInterrupt:
            _exit("stopped by SIGINT", 130)

    return run


def _stop(signum: int, _frame: Any) -> None:
    raise Stopped(signum)


def _exit(message: str, code: int) -> None:
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)


def one_line(error: object) -> str:
    """The error's text on one line, without hydra's hints on structs and appending."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(
        line for line in lines if line and not line.startswith(("full_key:", "object_type=", "To append"))
    )


def keep_freed_memory() -> None:
    """Let glibc keep what tensors free instead of returning it to the system.

    CPU steps allocate and free the same large activations again and again; fresh
    pages for each cost a quarter of the time.
    """
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(libc, "mallopt"):  # musl has none
        for option, value in (
            (-4, 0),
            (-1, -1),
            (-2, 256 * 2**20),
        ):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            libc.mallopt(option, value)


def setup_logging(folder: Path | None = None, is_main: bool = True) -> None:
    """Log to the terminal and, on the main rank, to `train.log` in the run's folder."""
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    log.propagate = False
    log.setLevel(logging.INFO if is_main else logging.WARNING)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if folder is not None and is_main:
        handlers.append(logging.FileHandler(folder / "train.log"))
        # a full disk: the terminal has the line, and a save says what is wrong
        handlers[-1].handleError = lambda record: None
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)


class StopFlag:
    """Remembers SIGINT and SIGTERM, so that the loop can stop between two steps.
    A second signal ends at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, signum: int, _frame: Any) -> None:
        if self.signum is not None:
            raise Stopped(signum)
        self.signum = signum

    def restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a folder for this process; yields False where another one has it.
    The lock ends with the process, however it ends."""
    handle, held = os.open(folder, os.O_RDONLY), True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        held = False
    except OSError as error:  # some network file systems lock nothing
        log.warning(
            "%s cannot be locked (%s): see to it that nothing else writes there", folder, error.strerror
        )
    try:
        yield held
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`; it takes the place of `path`, on
    disk, only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        to_disk(Path(name))
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.chmod(0o644)


def cache_dir() -> Path:
    """The user's cache folder of this project: $GROVE_CACHE, else grove in $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("GROVE_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(shared) / "grove"
