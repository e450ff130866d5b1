"""What every floor may lean on: user errors, entry points, logging and files.

Nothing here knows about models, data or losses. A function that does belongs in another file.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import io
import json
import logging
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger("grove")

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what asks a run to end
# what file systems answer to a call that they do not know (FAT, network shares, FUSE)
UNSUPPORTED = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
LAUNCHER = "GROVE_LAUNCHER"  # the environment variable with the number of the process that started this rank
PR_SET_PDEATHSIG = 1  # of prctl: the signal to get when the parent dies
ECHO = 0.5  # seconds in which a second signal says no more than the first

_stop_asked: int | None = None  # the signal that asked this process to end

LONGEST_PATH = 1023 if sys.platform == "darwin" else 4095  # bytes that the system takes
LONGEST_NAME = 255  # of them, between two slashes


class UserError(Exception):
    """Bad input.
    The message is one line that names the place and the remedy; the entry points exit with code 2."""


class Stopped(BaseException):
    """A signal asked the run to end; `exit_code` is 128 + the signal's number.
    agreed: all ranks were asked what signals they had, and leave together.

    No Exception: libraries, and handlers of ours, that go on after any error must not go on after this one.
    """

    def __init__(self, signum: int, agreed: bool = False):
        super().__init__(signum, agreed)  # as they are: it may travel between ranks
        self.exit_code, self.agreed = 128 + signum, agreed

    def __str__(self) -> str:
        return signal.Signals(self.args[0]).name


# --- entry points -------------------------------------------------------------------------------------------


def run_entry(main: Callable[[], Any], explained: Callable[[Exception], str] | None = None) -> None:
    """Run an entry point: bad input ends with one line and exit code 2, a signal with 128 + its number.
    explained: the words for an error of hydra's, where they say more than its own."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra would print its own trace and exit with 1
    sys.stdout, sys.stderr = lasting(sys.stdout), lasting(sys.stderr)
    for signum in STOPS:
        if not is_ignored(signum):
            signal.signal(signum, _stop)  # all alike: what was begun is cleaned up
    end_with_launcher()
    try:
        guarded(main)()
    except Exception as error:
        if not type(error).__module__.startswith(("hydra", "omegaconf")):
            raise
        said = explained or (lambda error: f"config: {one_line(error)}; the keys stand in config/*.yaml")
        _exit(f"error: {one_line(said(error))}", 2)


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


def is_ignored(signum: int) -> bool:
    """Was this process started with the signal ignored, as nohup does with SIGHUP?"""
    return signal.getsignal(signum) is signal.SIG_IGN


def _stop(signum: int, _frame: Any) -> None:
    """Note the signal too: an exception that comes in a destructor or a callback is lost."""
    global _stop_asked
    _stop_asked = signum
    raise Stopped(signum)


def _exit(message: str, code: int) -> None:
    print(without_secrets(message), file=sys.stderr, flush=True)
    sys.exit(code)


def one_line(error: object) -> str:
    """The error's text on one line, without hydra's hints on structs and appending."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(
        line for line in lines if line and not line.startswith(("full_key:", "object_type=", "To append"))
    )


def end_with_launcher() -> None:
    """Ask the system for SIGTERM when the process that started this rank dies, even by SIGKILL: ranks that
    nobody waits for would train on. Linux only."""
    launcher = os.environ.get(LAUNCHER)
    if sys.platform != "linux" or not (launcher or "TORCHELASTIC_RUN_ID" in os.environ):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if launcher and os.getppid() != int(launcher):  # it died before the call
        _exit("stopped by SIGTERM", 128 + signal.SIGTERM)


# --- output that may lose its reader ------------------------------------------------------------------------


class Lasting(io.TextIOWrapper):
    """A stream whose reader may go away (a closed terminal, `| head`, a dead `tee`), or whose disk may be
    full: what is written then is lost, and nothing else."""

    def __init__(self, stream: io.TextIOWrapper):
        self.replaced = stream  # alive, since its end would close the buffer
        how = {"encoding": stream.encoding, "errors": stream.errors, "line_buffering": stream.line_buffering}
        super().__init__(stream.buffer, **how)

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        """Write to nowhere from here on, where nobody will ever read again."""
        if error.errno not in (errno.EPIPE, errno.EIO):
            return
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def lasting(stream: Any) -> Any:
    """The stream as a `Lasting` one; to nowhere where it is closed from the start."""
    if stream is None:
        return open(os.devnull, "w")
    if isinstance(stream, Lasting) or not isinstance(stream, io.TextIOWrapper):
        return stream
    with suppress(OSError):
        stream.flush()
    return Lasting(stream)


# --- secrets ------------------------------------------------------------------------------------------------

SECRET_NAMES = re.compile(
    "KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL"
    "|(^|[_.-])(PASS|PAT|PWD|PW|CREDS?|AUTH|AUTHORIZATION|BEARER|COOKIE|JWT)S?([_.-]|$)"
)
SECRET_SHAPES = re.compile(  # of the hubs and trackers that people train with
    r"\b(hf_|sk-|ghp_|gho_|ghs_|github_pat_|glpat-|xox[abp]-|AKIA|wandb_v1_)[\w-]{12,}"
)
SHORTEST_SECRET = 8  # characters


def is_secret(name: str, value: str) -> bool:
    """Is this environment variable a secret? Short values and paths are none."""
    has_password = re.search(r"://[^/\s:@]*:[^/\s@]+@", value)
    if len(value) < SHORTEST_SECRET or value.startswith("/"):
        return False
    return bool(has_password) or named_as_secret(name)


def named_as_secret(name: str) -> bool:
    """Does a variable or a config key of this name hold a secret, by its name?"""
    return bool(SECRET_NAMES.search(name.upper())) and name not in ("PWD", "OLDPWD")


def environment_secrets() -> dict[str, str]:
    """The secrets in the environment, by name; the longest first, since one may hold another."""
    stripped = {name: value.strip() for name, value in os.environ.items()}
    held = [(name, value) for name, value in stripped.items() if is_secret(name, value)]
    return dict(sorted(held, key=lambda item: -len(item[1])))


def without_secrets(text: str) -> str:
    """The text with the names of secrets of the environment in their place; values of the command line whose
    keys are named as secrets are hidden too."""
    for name, secret in environment_secrets().items():
        text = text.replace(secret, f"${name}")
    for argument in sys.argv[1:]:
        key, _, value = argument.partition("=")
        if named_as_secret(key) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "(hidden)")
    return SECRET_SHAPES.sub("(hidden)", text)


def texts_in(value: Any) -> list[str]:
    """All texts in a value, also in lists of lists."""
    if isinstance(value, Mapping):
        value = [part for entry in value.items() for part in entry]
    if not isinstance(value, list | tuple):
        return [str(value)]
    return [text for part in value for text in texts_in(part)]


# --- the process --------------------------------------------------------------------------------------------


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


def give_back_freed_memory() -> None:
    """Return to the system what `keep_freed_memory` has kept: between buffers of many sizes it grows without
    end. The next step pays for fresh pages, so this is for once in a while.
    """
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


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
    """Remembers SIGINT, SIGTERM and SIGHUP, so that the loop can stop between two steps.
    A second signal ends at once, unless it is an echo of the first: the system may tell of a parent's death
    once for each of its threads. One that came before, and was swallowed by a library, counts."""

    def __init__(self) -> None:
        self.signum, self.since = _stop_asked, 0.0
        watched = [s for s in STOPS if s != signal.SIGHUP or not is_ignored(s)]
        self._previous = {s: signal.signal(s, self._note) for s in watched}

    def _note(self, signum: int, _frame: Any) -> None:
        now = time.monotonic()
        if self.signum is None:
            self.signum, self.since = signum, now
        elif now - self.since > ECHO:
            raise Stopped(signum)

    def restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)


# --- files --------------------------------------------------------------------------------------------------


def is_name(value: Any) -> bool:
    """Is it a name that the system takes, as a path or a part of one?"""
    if not isinstance(value, str) or value == "" or "\0" in value:
        return False
    try:
        encoded = value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: a byte of the command line that is no UTF-8
        return False
    return len(encoded) <= LONGEST_PATH and all(len(part) <= LONGEST_NAME for part in encoded.split(b"/"))


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


def beside(path: Path) -> Path:
    """A name for what will take the place of `path`, which nothing else has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`; it takes the place of `path`, on
    disk, only if the block succeeds. The file's mode is that of any new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode & 0o777
    try:
        yield temporary
        if temporary.stat().st_mode & 0o777 != mode:  # some libraries write their files for one user
            with where_supported():
                temporary.chmod(mode)
        to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def where_supported() -> Iterator[None]:
    """Go on where the file system does not know a call that is not needed for what is in the files."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with where_supported():
            os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def cache_dir() -> Path:
    """The user's cache folder of this project: $GROVE_CACHE, else grove in $XDG_CACHE_HOME or ~/.cache.

    Raises UserError where there is no home folder either.
    """
    own = os.environ.get("GROVE_CACHE")
    try:
        if own:
            return Path(own).expanduser()
        shared = os.environ.get("XDG_CACHE_HOME")
        return (Path(shared) if shared else Path.home() / ".cache") / "grove"
    except RuntimeError as error:
        raise UserError(f"cache folder: {one_line(error)}; set GROVE_CACHE to a folder") from error
