"""A config's keys of a loss against the loss's signature.

Contract: `check_keys` passes, or raises ValueError with one line that names the key and the remedy.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from checking import nearest
from objectives.declared import Bounds, Keys, Loss

READABLE = "float, int, bool, str, Literal[...], or Positive, NotNegative or Keys of `losses`"


def parameters_of(loss: Loss) -> dict[str, inspect.Parameter]:
    """A loss's keys: its parameters after the scores, by name."""
    return dict(list(inspect.signature(loss).parameters.items())[1:])


def with_defaults(loss: Loss, keys: Keys) -> dict[str, Any]:
    """The keys, and the signature's defaults of those that are not given."""
    parameters = parameters_of(loss).values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {**defaults, **keys}


def check_keys(name: str, loss: Loss, keys: Keys) -> None:
    """Raises ValueError for an unknown key, a missing one, or a value that its annotation does not allow."""
    parameters = parameters_of(loss)
    hints = _hints_of(name, loss)
    for key, value in keys.items():
        if key not in parameters:
            near = nearest(key, parameters)
            known = ", ".join(parameters) or "none"
            raise ValueError(f"loss.{key}: {name} takes no such key; {near}it takes {known}")
        if key not in hints:
            raise ValueError(
                f"loss.{key}: {name} does not say which values it takes; annotate it ({READABLE})"
            )
        _check_value(key, value, hints[key])
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in keys:
            raise ValueError(f"loss.{key}: {name} needs this key; set loss.{key}=...")


def _hints_of(name: str, loss: Loss) -> dict[str, Any]:
    try:
        return get_type_hints(loss, include_extras=True)
    except NameError as error:
        raise ValueError(f"loss.name={name}: an annotation cannot be read ({error}); import it") from error


def _check_value(key: str, value: object, hint: object) -> None:
    """Raises ValueError where a key's value is not what the signature's annotation says."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"loss.{key}={value}: choose one of {', '.join(map(str, get_args(hint)))}")
    elif hint is bool:
        if not isinstance(value, bool):
            raise ValueError(f"loss.{key}={value}: must be true or false")
    elif hint is str:
        if not isinstance(value, str):
            raise ValueError(f"loss.{key}={value}: must be a name")
    elif hint is int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"loss.{key}={value}: must be a whole number")
    elif hint is float or get_origin(hint) is Annotated:
        _check_number(key, value, get_args(hint)[1:])
    elif hint in (Keys, Keys | None):
        if not isinstance(value, Mapping | None):
            raise ValueError(f"loss.{key}={value}: must be a section of keys")
    else:
        raise ValueError(f"loss.{key}: its annotation {hint} is not understood; take {READABLE}")


def _check_number(key: str, value: object, bounds: tuple[Bounds, ...]) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not abs(value) < 1e300:
        raise ValueError(f"loss.{key}={value}: must be a finite number")
    for bound in bounds:
        if not bound.least <= value < bound.below:
            raise ValueError(f"loss.{key}={value}: must be {bound.said}")
