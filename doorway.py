"""How a command begins: its help, its command line as hydra is to read it, and what a mistyped key meant.

Contract: help and mistakes are answered before anything slow is imported, on one line where they are
mistakes. Lists may be typed without brackets: `ckpt=a,b` is `ckpt=[a,b]`, but for --multirun, which sweeps.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import yaml
from hydra.errors import OverrideParseException

from checking import list_keys, meant, text_keys
from commented import help_text, keys_of
from environment import CONFIGS
from utils import UserError, guarded, one_line, run_entry

NUMBER_LIKE = re.compile(r"[+-]?(\d[\w.+-]*|\.\d+|inf|nan)|true|false", re.I)  # to hydra
SWEEPS = {"--multirun", "-m"}
HELP = {"--help", "-h"}
OPENING, CLOSING = "[{(", "]})"
HYDRA_OPTIONS = (  # a test holds them against hydra's own parser
    "--help --hydra-help --version --cfg --resolve --package --run --multirun --shell-completion "
    "--config-path --config-name --config-dir --experimental-rerun --info"
).split()


class Door(NamedTuple):
    """What a command is, before anything of it runs."""

    config: str  # config/<config>.yaml
    settings: type  # its record
    purpose: str
    examples: tuple[str, ...]
    keys: tuple[str, ...]  # that matter most, for --help


def enter(door: Door, main: Callable[[Any], Any]) -> None:
    """Run a door's `main` with its composed config, or print its help."""
    arguments = sys.argv[1:]
    if HELP & set(arguments):
        run_entry(lambda: print(help_of(door)))
        return
    start = hydra.main(version_base=None, config_path=CONFIGS, config_name=door.config)(guarded(main))

    def read_and_start() -> None:
        check_dashes(arguments, door)
        sys.argv[1:] = as_hydra_reads(arguments, door.settings)
        start()

    run_entry(read_and_start, lambda error: explained(error, door, arguments))


def help_of(door: Door) -> str:
    """What `--help` prints."""
    path = Path(CONFIGS) / f"{door.config}.yaml"
    return help_text(door.purpose, door.examples, door.keys, path, f"config/{path.name}")


# --- the command line ---------------------------------------------------------------------------------------


def as_hydra_reads(arguments: Sequence[str], settings: type) -> list[str]:
    """The overrides with brackets around lists, and quotes around texts that hydra would read as numbers."""
    bracketed = list(arguments)
    if not SWEEPS & set(arguments):
        bracketed = with_lists_bracketed(arguments, list_keys(settings))
    return with_texts_quoted(bracketed, text_keys(settings))


def with_lists_bracketed(arguments: Sequence[str], keys: Collection[str]) -> list[str]:
    """The overrides, `key=a,b` as `key=[a,b]` where one of these keys wants a list."""
    bracketed = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key.lstrip("+") in keys and _has_commas(value):
            value = f"[{value}]"
        bracketed.append(key + equals + value)
    return bracketed


def _has_commas(text: str) -> bool:
    """Does a comma stand outside of all brackets and quotes?"""
    depth, quote = 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in OPENING + CLOSING:
            depth += 1 if letter in OPENING else -1
        elif letter == "," and depth == 0:
            return True
    return False


def with_texts_quoted(arguments: Sequence[str], keys: Collection[str]) -> list[str]:
    """The command line's overrides, quoted where one of these keys wants a text and hydra would read a
    number: exp_name=2026_11_25 would be 20261125."""
    quoted = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key.lstrip("+") in keys:
            parts = re.split(r"([,\[\]])", value)
            value = "".join(f"'{part}'" if NUMBER_LIKE.fullmatch(part) else part for part in parts)
        quoted.append(key + equals + value)
    return quoted


# --- mistakes -----------------------------------------------------------------------------------------------


def check_dashes(arguments: Sequence[str], door: Door) -> None:
    """Raises UserError for a key that is typed as an option, `--lr=1e-4` or `--lr 1e-4`: hydra would answer
    with a page about its own options."""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if not option.startswith("--") or any(known.startswith(option) for known in HYDRA_OPTIONS):
            continue
        key = option.strip("-").replace("-", "_")
        known = list(keys_of(Path(CONFIGS) / f"{door.config}.yaml"))
        if key in known or key.startswith("loss."):
            named = f"write {key}={value if equals else 'VALUE'}"
        else:
            named = f"{meant(key, known)}they stand in config/{door.config}.yaml"
        raise UserError(f"option {option}: keys are written key=value, without dashes; {named}")


def explained(error: Exception, door: Door, arguments: Sequence[str]) -> str:
    """Hydra's error on one line, with what was meant where it is a key or a file that is not there."""
    text = one_line(error)
    if unknown := re.search(r"Could not override '([^'=]+)'", text):
        return _unknown_key(unknown[1], door, arguments)
    if missing := re.search(r"Could not find '(\w+)/([^']+)'", text):
        return _unknown_choice(missing[1], missing[2])
    if isinstance(error, OverrideParseException):
        return (
            f"config: {error.override} is not read as key=value; write it as one word, without spaces "
            "around = or behind commas, or in quotes as a whole"
        )
    return f"config: {text}; the keys stand in config/{door.config}.yaml"


def _unknown_key(key: str, door: Door, arguments: Sequence[str]) -> str:
    known = list(keys_of(Path(CONFIGS) / f"{door.config}.yaml"))
    place = f"config/{door.config}.yaml"
    if key.startswith("loss."):
        file = _loss_file(arguments)
        place = f"config/loss/{file.name}"
        known = [f"loss.{name}" for name in yaml.safe_load(file.read_text(encoding="utf-8"))["loss"]]
    return f"config key {key}: unknown; {meant(key, known)}the keys stand in {place}"


def _loss_file(arguments: Sequence[str]) -> Path:
    """The file of the loss that was chosen; where it is no file of ours, DPO's, which most resemble."""
    chosen = [argument.partition("=")[2] for argument in arguments if argument.startswith("loss=")]
    files = [Path(CONFIGS) / "loss" / f"{name}.yaml" for name in [*chosen[-1:], "dpo"]]
    return next(file for file in files if file.is_file())


def _unknown_choice(group: str, name: str) -> str:
    known = sorted(path.stem for path in (Path(CONFIGS) / group).glob("*.yaml"))
    choices = [f"{group}={stem}" for stem in known]
    listed = f"choose one of {', '.join(known)}, or add the file"
    return (
        f"{group}={name}: there is no config/{group}/{name}.yaml; {meant(f'{group}={name}', choices)}{listed}"
    )
