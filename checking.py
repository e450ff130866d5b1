"""Config values, checked against annotated records: what a key must be is said once, at the key.

Contract: `record` gives a record whose values are of their kinds, or raises `UserError` that names the key
and says what it must be.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import elsewhere
from utils import UserError, environment_secrets, is_name, named_as_secret, texts_in, without_secrets

Record = TypeVar("Record")
ALMOST = 0.9  # difflib's ratio of what is surely a slip of the finger


class AtLeast(NamedTuple):
    """The range of a number, both ends included."""

    least: float
    most: float = 2**63 - 1


class Rule(NamedTuple):
    """What a value must be beside its kind: a pattern of its whole text, or different entries; and how that
    is said."""

    wanted: str
    pattern: str = ".*"
    distinct: bool = False


def wants_text(kinds: tuple) -> bool:
    """Is a key of these kinds a text, or a list of texts?"""
    return str in kinds or any(get_origin(kind) is list for kind in kinds)


def wants_list(kinds: tuple) -> bool:
    """Is a key of these kinds a list, and never a lone text?"""
    return str not in kinds and any(get_origin(kind) is list for kind in kinds)


def as_list(value: Any) -> Any:
    """A lone text as the list of it; other values as they are."""
    return [value] if isinstance(value, str) and value else value


def as_text(value: Any) -> Any:
    """A number or a date as the text that was meant, also in a list; other values as they are."""
    if isinstance(value, list):
        return [as_text(part) for part in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number or isinstance(value, datetime.date) else value


# --- checks -------------------------------------------------------------------------------------------------


def record(kind: type[Record], values: Mapping[str, Any], file: str, prefix: str = "") -> Record:
    """A record of checked values. Raises UserError for one that is unknown or not of its kind."""
    hints = get_type_hints(kind, include_extras=True)
    unknown = sorted(set(values) - set(hints), key=str)
    if unknown:
        key = f"{prefix}{unknown[0]}"
        hint = meant(key, [f"{prefix}{name}" for name in hints])
        raise UserError(f"config key {key}: unknown; {hint}the keys stand in config/{file}")
    checked = {}
    for key, hint in hints.items():
        kinds = kinds_of(hint)
        value = as_list(values.get(key)) if wants_list(kinds) else values.get(key)
        checked[key] = as_text(value) if wants_text(kinds) else value
        _check(f"{prefix}{key}", checked[key], hint)
    return kind(**checked)


def _check(key: str, value: Any, hint: Any) -> None:
    """Raises UserError, which says what the key must be, where `value` is not of the annotated kind."""
    constraints, kinds = constraints_of(hint), kinds_of(hint)
    if not any(_fits(value, kind, constraints) for kind in kinds):
        raise UserError(f"config key {key}{_shown(key, value)}: {_wanted(key, kinds, constraints)}")


def constraints_of(hint: Any) -> tuple:
    """What is annotated beside the kind."""
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def _shown(key: str, value: Any) -> str:
    """The value for a message; nothing of it where it may be a secret."""
    if named_as_secret(key):
        return ""
    return f"={without_secrets(str(value))}"


def kinds_of(hint: Any) -> tuple:
    """The kinds of an annotated hint: the members of a union, or the one that is none."""
    kind = get_args(hint)[0] if constraints_of(hint) else hint
    return get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)


def _fits(value: Any, kind: Any, constraints: tuple) -> bool:
    """Is `value` of this one kind, within its constraints?"""
    if kind is NoneType:
        return value is None
    if kind in (int, float):
        limits = next((c for c in constraints if isinstance(c, AtLeast)), AtLeast(-(2**63)))
        numbers = int if kind is int else (int, float)
        right = isinstance(value, numbers) and not isinstance(value, bool)
        return right and limits.least <= value <= limits.most
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is str:
        return is_name(value) and all(re.fullmatch(rule.pattern, value, re.S) for rule in _rules(constraints))
    if get_origin(kind) is list:
        (of_entries,) = get_args(kind)
        is_entry = is_name if of_entries is str else lambda entry: isinstance(entry, of_entries)
        if not isinstance(value, list) or not value or not all(map(is_entry, value)):
            return False
        return len(set(value)) == len(value) or not any(rule.distinct for rule in _rules(constraints))
    return isinstance(value, kind)


def _rules(constraints: tuple) -> list[Rule]:
    return [c for c in constraints if isinstance(c, Rule)]


def _wanted(key: str, kinds: tuple, constraints: tuple) -> str:
    """What a key must be, in words."""
    if rules := _rules(constraints):
        return rules[0].wanted
    kind, nullable = kinds[0], NoneType in kinds
    if get_origin(kind) is Literal:
        return "choose one of " + ", ".join((["null"] if nullable else []) + list(get_args(kind)))
    if kind in (int, float):
        limits = next(c for c in constraints if isinstance(c, AtLeast))
        bounded = limits.most != AtLeast(0).most
        limit = f"{limits.least} to {limits.most}" if bounded else f"{limits.least} or more"
        what = f"must be a {'whole ' if kind is int else ''}number, {limit}"
    elif kind is bool:
        what = "must be true or false"
    elif get_origin(kind) is list:
        what = f"must be a list, {key}=name,..."
    elif kind is dict:
        what = f"must be a section, {key}={{name: value, ...}}"
    else:
        what = "must be a name or a path"
    return what + (", or null" if nullable else "")


# --- configs as they are composed ---------------------------------------------------------------------------


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"loss": {"beta": 1}} as {"loss.beta": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def check_for_secrets(config: Mapping[str, Any]) -> None:
    """Raises UserError where a key or a value holds that of a secret environment variable: configs are saved
    and sent to trackers. The first of all checks, since the others print what they refuse."""
    secrets = environment_secrets()
    for key, value in flatten(config).items():
        texts = [key, *texts_in(value)]
        for name, secret in secrets.items():
            if any(secret in text for text in texts):
                raise UserError(
                    f"config key {without_secrets(key)}: holds the value of ${name}; leave secrets in the "
                    "environment, where they are found"
                )


def text_keys(record: type) -> list[str]:
    """The keys of a record, and of its sections, that hold a text or a list of texts."""
    return _keys_that(wants_text, record)


def list_keys(record: type) -> list[str]:
    """The keys of a record, and of its sections, that may hold a list."""
    return _keys_that(lambda kinds: any(get_origin(kind) is list for kind in kinds), record)


def _keys_that(wants: Callable[[tuple], bool], record: type, prefix: str = "") -> list[str]:
    """The keys of a record, and of its sections, whose kinds are as `wants` says."""
    keys: list[str] = []
    for key, hint in get_type_hints(record, include_extras=True).items():
        kinds = kinds_of(hint)
        if dataclasses.is_dataclass(kinds[0]):
            keys += _keys_that(wants, kinds[0], f"{prefix}{key}.")
        elif wants(kinds):
            keys.append(f"{prefix}{key}")
    return keys


# --- what a mistyped key meant ------------------------------------------------------------------------------


def meant(key: str, known: Iterable[str]) -> str:
    """What somebody who typed `key` may have meant, with a semicolon behind it; "" where nothing is near."""
    names = list(known)
    if other := elsewhere.hint(key, names):
        return f"{other}; "
    if other := elsewhere.synonym(key, names):
        return f"did you mean {other}? "
    return nearest(key, names)


def nearest(key: str, known: Iterable[str], shown: str = "", cutoff: float = 0.7) -> str:
    """A question that names the known key nearest to `key`, or the first that ends or begins with it; "" for
    none near. Capitals do not count. shown: what to write before the key; cutoff: difflib's ratio."""
    by_plain = {elsewhere.plain(name): name for name in known}
    plain = elsewhere.plain(key)
    near = difflib.get_close_matches(plain, list(by_plain), n=1, cutoff=ALMOST)
    near = near or [name for name, full in by_plain.items() if elsewhere.plain(full.split(".")[-1]) == plain]
    near = near or [name for name in by_plain if len(plain) >= 4 and name.startswith(plain)]
    near = near or difflib.get_close_matches(plain, list(by_plain), n=1, cutoff=cutoff)
    return f"did you mean {shown}{by_plain[near[0]]}? " if near else ""


def check_options(words: Iterable[str], options: Iterable[str]) -> None:
    """Raises UserError for an option that is typed as the keys of other commands are, `responses=pairs`."""
    names = {option.replace("_", "-") for option in options}
    for word in words:
        key, equals, value = word.partition("=")
        name = key.strip("-").replace("_", "-")
        if equals and name in names:
            raise UserError(
                f"{word}: options of this command are written with dashes; write --{name} {value}"
            )
