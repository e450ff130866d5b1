"""A file's bytes -> rows: .jsonl, .json, .csv and .parquet, as people's tools write them.

Contract: rows are raw JSON values in the order of the file. What cannot be read raises `UserError` with the
place and the remedy; marks that tools leave (byte-order marks, line ends) are read past.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groups.values import parsed, plain
from utils import UserError, log

BYTE_ORDER_MARK = "\ufeff"
OTHER_ENCODINGS = {  # by the mark that a file begins with; the longer marks first
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
DELIMITERS = ",;\t"  # of .csv files; spreadsheets write the others where a comma is the decimal point


def read_text(path: Path) -> str:
    """A file's text, its line ends as they are. Raises UserError where it is no UTF-8."""
    content = path.read_bytes()
    for mark, name in OTHER_ENCODINGS.items():
        if content.startswith(mark):
            raise UserError(f"{path}: {name} text; save the file as UTF-8")
    if b"\0" in content[:4]:
        raise UserError(f"{path}: holds null bytes, as UTF-16 text does; save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; save the file as UTF-8") from error


# --- tables -------------------------------------------------------------------------------------------------


def parse_csv(path: Path, text: str) -> list[dict[str, Any]]:
    """Rows of a .csv file: every value is a text. Line breaks of any kind may stand inside quotes."""
    csv.field_size_limit(2**31 - 1)  # a printed table of countries is one long field
    stream = io.StringIO(text, newline="")
    try:
        reader = csv.DictReader(stream, delimiter=_delimiter(text))
        _check_header(path, reader.fieldnames or ())
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{path}: not a readable csv file ({error}); write it again") from error
    for number, row in enumerate(rows, 1):
        if None in row:
            raise UserError(
                f"{path}, row {number}: has more fields than the header; "
                "put quotes around fields that hold commas"
            )
        row |= _messages_of(row)
    return rows


def _delimiter(text: str) -> str:
    """The delimiter of the first line: the first of DELIMITERS that stands in it."""
    header = text.lstrip("\r\n").partition("\n")[0]
    return next((mark for mark in DELIMITERS if mark in header), ",")


def _check_header(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if name and names.count(name) > 1:
            raise UserError(f"{path}: two columns are named {name}; give each a name of its own")


def _messages_of(row: dict[str, Any]) -> dict[str, Any]:
    """The prompt as messages, where its text is a list of them: a .csv file can hold it in no other way."""
    prompt = row.get("prompt")
    if prompt and prompt.lstrip().startswith("["):
        prompt = parsed(prompt)
    is_messages = isinstance(prompt, list) and all(isinstance(m, dict) and "content" in m for m in prompt)
    return {"prompt": prompt} if is_messages else {}


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """Rows of a .parquet file, in JSON's types."""
    import pyarrow
    import pyarrow.parquet

    # pyarrow raises OSError also for values that it does not know
    unreadable = (pyarrow.ArrowException, OSError, ValueError, OverflowError)
    try:
        table = pyarrow.parquet.read_table(path)
    except unreadable as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: not a readable parquet file ({reason}); write it again") from error
    columns = {}
    for name, column in zip(table.column_names, table.columns):
        values = _values_of(column, unreadable)
        if values is None:
            log.warning("%s: column %s holds %s, for which there is no value here", path, name, column.type)
        else:
            columns[name] = values
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _values_of(column: Any, unreadable: tuple[type[Exception], ...]) -> list[Any] | None:
    """A column's values in JSON's types; None where Python has none for them (a time in nanoseconds)."""
    for as_text in (False, True):
        try:
            chosen = column.cast("string") if as_text else column
            return [plain(value) for value in chosen.to_pylist()]
        except unreadable:
            continue
    return None


# --- JSON ---------------------------------------------------------------------------------------------------


def parse_json(path: Path, text: str) -> list[Any]:
    """Rows of a .json file: one list of them."""
    value = _loads(text, str(path), "write one list of objects, or one object a line in a .jsonl file")
    if not isinstance(value, list):
        raise UserError(f"{path}: holds no list; write one list of objects")
    return value


def parse_jsonl(path: Path, text: str) -> list[Any]:
    """Rows of a .jsonl file, one a line."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")  # all other breaks are text
    return [
        _loads(line.lstrip(BYTE_ORDER_MARK), f"{path}, row {number}", "write one JSON object a line")
        for number, line in enumerate(lines, 1)
        if line.strip().strip(BYTE_ORDER_MARK)
    ]


def _loads(text: str, place: str, remedy: str) -> Any:
    """JSON that no later step stumbles over. Raises UserError."""
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # half of a surrogate pair is no character, and no tokenizer takes it
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        at = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise UserError(f"{place}: not valid JSON ({at}); {remedy}") from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: holds half of a surrogate pair (\\ud800 to \\udfff); write the text as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:  # digits without end, brackets without end
        raise UserError(f"{place}: not usable JSON ({str(error)[:80]}); {remedy}") from error
