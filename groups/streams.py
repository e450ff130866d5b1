"""A file's bytes and lines, decompressed on the way, never all of them at once.

Contract: `opened` gives the bytes of a file, whatever its compression; `lines_of` gives its text line by
line. What cannot be read raises `UserError` with the file and the remedy.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from utils import UserError

CODECS = {".gz": "gzip", ".zst": "zstd"}  # suffix: the codec's name in pyarrow
BUFFER = 1 << 20  # bytes that are read at once
BYTE_ORDER_MARK = "\ufeff"
OTHER_ENCODINGS = {  # by the mark that a file begins with; the longer marks first
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """A file's bytes, decompressed where its name ends in .gz or .zst.

    Raises UserError where the system does not give them, or where they are damaged or cut.
    """
    codec = CODECS.get(path.suffix)
    try:
        with open(path, "rb", buffering=BUFFER) as file:
            yield file if codec is None else io.BufferedReader(_decompressed(file, codec), BUFFER)
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged or cut {path.suffix} file ({reason}); copy it again") from error


def _decompressed(file: IO[bytes], codec: str) -> IO[bytes]:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), codec)


def lines_of(path: Path) -> Iterator[str]:
    r"""The lines of a text file, with their ends: \n, \r\n or \r, as the file has them.

    A byte-order mark is read past. Raises UserError where the file is no UTF-8.
    """
    position = 0  # of the line's first byte
    with opened(path) as file:
        _check_encoding(path, file.peek(4)[:4])
        for raw in file:
            line = _decoded(path, raw, position)
            if position == 0:
                line = line.removeprefix(BYTE_ORDER_MARK)
            position += len(raw)
            if "\r" in line.removesuffix("\r\n"):
                yield from io.StringIO(line, newline="")  # which ends lines at \r, too
            else:
                yield line


def _check_encoding(path: Path, start: bytes) -> None:
    for mark, name in OTHER_ENCODINGS.items():
        if start.startswith(mark):
            raise UserError(f"{path}: {name} text; save the file as UTF-8")
    if b"\0" in start:
        raise UserError(f"{path}: holds null bytes, as UTF-16 text does; save the file as UTF-8")


def _decoded(path: Path, raw: bytes, position: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text at byte {position + error.start}; save the file as UTF-8"
        ) from error
