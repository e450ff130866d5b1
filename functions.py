"""Functions of the user's own, which a config names as module:function.

Contract: a module is imported only when its function is asked for; it is looked for in the working folder,
then where Python looks. Whatever goes wrong ends with one line that names the key, the place and the remedy.
"""

from __future__ import annotations

import importlib
import operator
import os
import sys
from collections.abc import Callable
from typing import Any

from utils import UserError, one_line


def function_of(name: str, key: str) -> Callable[..., Any]:
    """The function of a name, module:function. key: of the config, for errors.

    Raises UserError where there is no such module or function, and where the module cannot be imported.
    """
    module_name, _, function_name = name.partition(":")
    module = _module_of(module_name, f"{key}={name}")
    try:
        function = operator.attrgetter(function_name)(module)
    except AttributeError as error:
        raise UserError(
            f"{key}={name}: there is no {function_name} in module {module_name}; correct the name"
        ) from error
    if not callable(function):
        raise UserError(
            f"{key}={name}: {function_name} is no function in module {module_name}; correct the name"
        )
    return function


def _module_of(name: str, given: str) -> object:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name and not name.startswith(f"{error.name}."):
            raise UserError(f"{given}: its module needs {_words(error)}; install that") from error
        raise UserError(
            f"{given}: there is no module {name}; run from the folder that holds it, "
            "or add that folder to PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # a user's code raises what it likes
        raise UserError(f"{given}: module {name} cannot be imported ({_words(error)}); correct it") from error


def _words(error: BaseException) -> str:
    """An error's kind and text on one short line."""
    return f"{type(error).__name__}: {one_line(error)}"[:160]
