"""A file's bytes -> rows: .jsonl, .json, .csv, .parquet and .arrow, as people's tools write them.

Contract: rows are raw JSON values in the order of the file, and come one after the other: but for .json and
for compressed tables, memory does not grow with the file. What cannot be read raises `UserError` with the
place and the remedy; marks that tools leave (byte-order marks, line ends) are read past.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from groups.streams import BYTE_ORDER_MARK, CODECS, lines_of, opened
from groups.values import parsed, plain
from utils import UserError, log

DELIMITERS = ",;\t"  # of .csv files; spreadsheets write the others where a comma is the decimal point
BATCH_ROWS = 256  # of a .parquet file that are read at once


def read_values(path: Path, kind: str) -> Iterator[Any]:
    """The rows of a file of one of the KINDS. Raises UserError at the first that cannot be read."""
    return KINDS[kind](path)


# --- tables of text -----------------------------------------------------------------------------------------


def parse_csv(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .csv file: every value is a text. Line breaks of any kind may stand inside quotes."""
    yield from _parse_table(path, None)


def parse_tsv(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .tsv file, as those of a .csv file."""
    yield from _parse_table(path, "\t")


def _parse_table(path: Path, delimiter: str | None) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # a printed table of countries is one long field
    lines = itertools.dropwhile(lambda line: not line.strip("\r\n"), lines_of(path))
    header = next(lines, "")
    reader = csv.DictReader(itertools.chain([header], lines), delimiter=delimiter or _delimiter(header))
    try:
        _check_header(path, reader.fieldnames or ())
        for number, row in enumerate(reader, 1):
            if None in row:
                raise UserError(
                    f"{path}, row {number}: has more fields than the header; "
                    "put quotes around fields that hold commas"
                )
            yield row | _messages_of(row)
    except csv.Error as error:
        raise UserError(f"{path}: not a readable csv file ({error}); write it again") from error


def _delimiter(header: str) -> str:
    """The delimiter of the first line: the first of DELIMITERS that stands in it."""
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


# --- tables of Arrow's types --------------------------------------------------------------------------------


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .parquet file, in JSON's types."""
    import pyarrow.parquet

    def batches() -> Iterator[Any]:
        with opened(path) as file:
            source = pyarrow.BufferReader(file.read()) if path.suffix in CODECS else path
        with pyarrow.parquet.ParquetFile(source, page_checksum_verification=True) as table:
            yield from table.iter_batches(BATCH_ROWS, use_threads=False)

    yield from _rows_of_batches(path, batches(), "parquet")


def read_arrow(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of an .arrow file, a stream as `datasets` writes it or a file with a footer, in JSON's types."""
    import pyarrow

    def batches() -> Iterator[Any]:
        with opened(path) as file:
            is_compressed, has_footer = path.suffix in CODECS, file.peek(6)[:6] == b"ARROW1"
            source = pyarrow.BufferReader(file.read()) if is_compressed else pyarrow.memory_map(str(path))
        with source:
            if has_footer:
                table = pyarrow.ipc.open_file(source)
                yield from map(table.get_batch, range(table.num_record_batches))
            else:
                yield from pyarrow.ipc.open_stream(source)

    yield from _rows_of_batches(path, batches(), "arrow")


def _rows_of_batches(path: Path, batches: Iterable[Any], kind: str) -> Iterator[dict[str, Any]]:
    """The rows of record batches; a column for whose values Python has none is left out, with a warning."""
    import pyarrow

    # pyarrow raises OSError also for values that it does not know
    unreadable = (pyarrow.ArrowException, OSError, ValueError, OverflowError)
    without_value: set[str] = set()
    try:
        for batch in batches:
            batch.validate(full=True)  # a damaged file must not be followed out of its bounds
            columns = {}
            for name, column in zip(batch.schema.names, batch.columns):
                values = _values_of(path, name, column, unreadable)
                if values is not None:
                    columns[name] = values
                elif name not in without_value:
                    without_value.add(name)
                    log.warning(
                        "%s: column %s holds %s, for which there is no value here", path, name, column.type
                    )
            yield from (dict(zip(columns, row)) for row in zip(*columns.values()))
    except unreadable as error:
        reason = str(error).partition("\n")[0][:200]
        raise UserError(f"{path}: not a readable {kind} file ({reason}); write it again") from error


def _values_of(
    path: Path, name: str, column: Any, unreadable: tuple[type[Exception], ...]
) -> list[Any] | None:
    """A column's values in JSON's types; None where Python has none for them (a time in nanoseconds)."""
    for as_text in (False, True):
        try:
            chosen = column.cast("string") if as_text else column
            return [plain(value) for value in chosen.to_pylist()]
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: column {name}: not UTF-8 text; write the file again") from error
        except unreadable:
            continue
    return None


# --- JSON ---------------------------------------------------------------------------------------------------


def parse_json(path: Path) -> Iterator[Any]:
    """Rows of a .json file: one list of them, an object of them by name, or one object a line.

    The names of an object's rows are their `key`, unless they number them.
    """
    text = "".join(lines_of(path))
    if _is_of_lines(text):
        yield from parse_jsonl(path)
        return
    value = _loads(text, str(path), "write one list of objects, or one object a line in a .jsonl file")
    if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
        yield from (row if name.isdecimal() else {"key": name, **row} for name, row in value.items())
        return
    if not isinstance(value, list):
        raise UserError(f"{path}: holds no list; write one list of objects")
    yield from value


def _is_of_lines(text: str) -> bool:
    """Does the text hold an object in its first line, and more after it?"""
    first, _, rest = text.lstrip().partition("\n")
    if not first.startswith("{") or not rest.strip():
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def parse_jsonl(path: Path) -> Iterator[Any]:
    """Rows of a .jsonl file, one a line."""
    for number, line in enumerate(lines_of(path), 1):
        text = line.rstrip("\r\n").lstrip(BYTE_ORDER_MARK)
        if text.strip().strip(BYTE_ORDER_MARK):
            remedy = "write one JSON object a line"
            if number == 1 and text.startswith("["):
                remedy += f", or name a list of objects {path.with_suffix('.json').name}"
            yield _loads(text, f"{path}, row {number}", remedy)


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


KINDS = {  # of files, by the suffix that says it
    ".jsonl": parse_jsonl,
    ".ndjson": parse_jsonl,
    ".json": parse_json,
    ".csv": parse_csv,
    ".tsv": parse_tsv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
