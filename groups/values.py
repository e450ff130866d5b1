"""Values as files hold them -> the plain ones that readers take: text, numbers, lists and objects.

Contract: pure functions. `plain` makes JSON's own types of what other formats hold; `parsed` reads what
stands as text because its file can hold nothing else; what it does not know stays, for the reader to refuse.
"""

from __future__ import annotations

import ast
import datetime
import decimal
import json
import math
import re
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

JSON_TYPES = (str, int, float, bool, type(None))
NUMPY_PRINT = re.compile(r"\[\s*[-+.\deE]+(\s+[-+.\deE]+)*\s*\]")  # [0.1 0.9], as numpy prints an array


def plain(value: Any) -> Any:
    """A value in JSON's types. What has no such value (pictures, bytes that are no text) is absent: None."""
    if type(value) in JSON_TYPES:
        return value
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, decimal.Decimal):
        return _of_decimal(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        return _of_bytes(value)
    return None


def _of_decimal(value: decimal.Decimal) -> int | float:
    if value.is_finite() and value == value.to_integral_value():
        return int(value)
    return float(value)


def _of_bytes(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def parsed(value: Any) -> Any:
    """A number, list or object that stands as text: JSON, or as Python or numpy prints it.

    Other values, and texts that are none of these, stay. For fields that must not be texts.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if NUMPY_PRINT.fullmatch(text):
        numbers = text[1:-1].split()
        text = f"[{','.join(numbers)}]"
    for read in (json.loads, ast.literal_eval):
        try:
            return plain(read(text))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return value


def is_absent(value: Any) -> bool:
    """Whether a field's value says that there is none: null, an empty text, or not a number.

    Columns hold these where a row has no such field.
    """
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def clipped(value: Any, most: int = 40) -> str:
    """A value for an error, which is one short line."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[:most] + "..."


def label_of(value: Any, classes: Sequence[str] = ()) -> str:
    """A class label as the classes write it: 4, 4.0 and "4.0" are "4". Other values are what they print."""
    if isinstance(value, str) and value in classes:
        return value
    number = parsed(value)
    if isinstance(number, float) and number.is_integer():
        return str(int(number))
    return str(value)
