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
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import elsewhere
from checking import list_keys, meant, nearest, text_keys
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
SHORT_OPTIONS = "-h -c -p -r -m -sc -cp -cn -cd -i".split()  # likewise
GLOBAL = "# @package _global_"
MOST_SHOWN = 3  # losses that have a key, in a message


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

    def checked(config: DictConfig) -> Any:
        check_loss_file(config, arguments)
        try:
            return main(config)
        except OmegaConfBaseException as error:  # hydra would print a line of its own
            raise UserError(explained(error, door, arguments)) from error

    start = hydra.main(version_base=None, config_path=CONFIGS, config_name=door.config)(guarded(checked))

    def read_and_start() -> None:
        check_dashes(arguments, door)
        sys.argv[1:] = as_hydra_reads(arguments, door.settings)
        try:
            start()
        except yaml.MarkedYAMLError as error:
            raise UserError(no_yaml(error)) from error

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
        if not re.match("-+[A-Za-z]", option) or _is_hydras(option):
            continue
        key = option.strip("-").replace("-", "_")
        known = list(keys_of(Path(CONFIGS) / f"{door.config}.yaml"))
        if key in known or key.startswith("loss."):
            named = f"write {key}={value if equals else 'VALUE'}"
        else:
            named = f"{meant(key, known)}they stand in config/{door.config}.yaml"
        raise UserError(f"option {option}: keys are written key=value, without dashes; {named}")


def _is_hydras(option: str) -> bool:
    """Is it an option of hydra's, or the beginning of a long one?"""
    if option.startswith("--"):
        return any(known.startswith(option) for known in HYDRA_OPTIONS)
    return option in SHORT_OPTIONS


def check_loss_file(config: DictConfig, arguments: Sequence[str]) -> None:
    """Raises UserError for a loss's file whose keys hydra has put below `loss`, itself included."""
    chosen = config.get("loss")
    if isinstance(chosen, DictConfig) and "loss" in chosen:
        file = _file_of("loss", _chosen_loss(arguments), arguments)
        raise UserError(
            f"{_shown(file)}: its first line must be `{GLOBAL}`, so that its keys are the config's own"
        )


def no_yaml(error: yaml.MarkedYAMLError) -> str:
    """The place and the problem of a file of keys that is no YAML, on one line."""
    mark = error.problem_mark or error.context_mark
    place = f"{_shown(Path(mark.name))}, line {mark.line + 1}" if mark else "config"
    return f"{place}: no YAML, {one_line(error.problem or error.context)}; correct the file"


def explained(error: Exception, door: Door, arguments: Sequence[str]) -> str:
    """Hydra's error on one line, with what was meant where it is a key or a file that is not there."""
    text = one_line(error)
    if unknown := re.search(r"Could not override '([^'=]+)'", text):
        return _unknown_key(unknown[1], door, arguments)
    if missing := re.search(r"Could not find '(\w+)/([^']+)'", text):
        return _unknown_choice(missing[1], missing[2], arguments)
    if isinstance(error, OverrideParseException):
        return (
            f"config: {error.override} is not read as key=value; write it as one word, without spaces "
            "around = or behind commas, or in quotes as a whole"
        )
    return f"config: {text}; the keys stand in config/{door.config}.yaml"


def _unknown_key(key: str, door: Door, arguments: Sequence[str]) -> str:
    known = list(keys_of(Path(CONFIGS) / f"{door.config}.yaml"))
    if key.startswith("loss.") and "loss" in known:
        return _unknown_key_of_loss(key, arguments)
    return f"config key {key}: unknown; {meant(key, known)}the keys stand in config/{door.config}.yaml"


# --- files of config/loss/ and config/model/, and of a folder of one's own ----------------------------------


def _unknown_key_of_loss(key: str, arguments: Sequence[str]) -> str:
    chosen = _chosen_loss(arguments)
    keys = {name: _keys_of_loss(name, arguments) for name in _choices("loss", arguments)}
    known = [name for name in keys.get(chosen, []) if name != "loss.name"]
    if key in known:  # a section, {} in the file: hydra takes no entries that it has not
        return f"config key {key}: entries are added to it one by one; write +{key}.NAME=VALUE"
    hint = meant(key, known)
    others = [name for name, of_loss in keys.items() if key in of_loss]
    if others:
        listed = ", ".join(others[:MOST_SHOWN]) + (", ..." if len(others) > MOST_SHOWN else "")
        hint = f"it is a key of loss={listed}, and the loss is {chosen}; "
    place = _shown(_file_of("loss", chosen, arguments))
    return f"config key {key}: unknown; {hint}the keys stand in {place}"


def _chosen_loss(arguments: Sequence[str]) -> str:
    """The loss that the command line names last, or the default one."""
    chosen = [argument.partition("=")[2] for argument in arguments if argument.startswith("loss=")]
    return chosen[-1] if chosen else keys_of(Path(CONFIGS) / "config.yaml")["loss"].default


def _keys_of_loss(name: str, arguments: Sequence[str]) -> list[str]:
    """The keys of a loss's file and of the files that it builds on; none of a file that cannot be read."""
    file = _file_of("loss", name, arguments)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    if not isinstance(values, dict):
        return []
    own = values.get("loss")
    keys = [f"loss.{key}" for key in own] if isinstance(own, dict) else []
    for base in values.get("defaults") or []:
        if isinstance(base, str) and base not in ("_self_", name):
            keys += _keys_of_loss(base, arguments)
    return list(dict.fromkeys(keys))


def _folders(arguments: Sequence[str]) -> list[Path]:
    """Where hydra looks for files: the project's folder, and that of --config-dir."""
    folders = [Path(CONFIGS)]
    for argument, follower in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        if option == "-cd" or (option.startswith("--config-d") and "--config-dir".startswith(option)):
            folders.append(Path(value if equals else follower))
    return folders


def _choices(group: str, arguments: Sequence[str]) -> list[str]:
    """The names of a group's files, those that build on others last."""
    files = {path.stem: path for folder in _folders(arguments) for path in (folder / group).glob("*.yaml")}
    return sorted(files, key=lambda name: ("\ndefaults:" in files[name].read_text(errors="replace"), name))


def _file_of(group: str, name: str, arguments: Sequence[str]) -> Path:
    """The file of a choice; where there is none, the one that the project would have."""
    files = [folder / group / f"{name}.yaml" for folder in _folders(arguments)]
    return next((file for file in files if file.is_file()), files[0])


def _shown(file: Path) -> str:
    """A file's path as a reader of the project knows it."""
    configs = Path(CONFIGS)
    return str(file.relative_to(configs.parent)) if file.is_relative_to(configs) else str(file)


def _unknown_choice(group: str, name: str, arguments: Sequence[str]) -> str:
    if group == "model" and "/" in name:
        return f"model={name}: a folder or a hub name is given as model.name_or_path={name}"
    known = sorted(_choices(group, arguments))
    other = elsewhere.hint(f"{group}={name}", known)
    hint = f"{other}; " if other else nearest(name, known, f"{group}=", cutoff=0.6)
    listed = f"choose one of {', '.join(known)}, or add the file"
    return f"{group}={name}: there is no config/{group}/{name}.yaml; {hint}{listed}"
