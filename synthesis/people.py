"""Files of people's answers, as survey archives have them: CSV, parquet, Stata, SPSS.

Contract: values come out as texts, with the words that a file has for its columns and codes. A file that
cannot be read raises `UserError`; packages that read some of them are needed for those alone.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from groups.parsing import read_values
from groups.values import label_of
from utils import UserError

if TYPE_CHECKING:  # slow to import
    import pandas

ARCHIVES = (".dta", ".sav", ".zsav", ".por")  # of people's answers alone
KINDS = (".csv", ".tsv", ".parquet", *ARCHIVES)
MOST_NAMED = 12  # columns that an error names


class People(NamedTuple):
    """A file's people, and what it says of its columns."""

    path: Path
    table: pandas.DataFrame
    words: Mapping[str, str]  # of questions, by column
    options: Mapping[str, Sequence[str]]  # answers in their order, by column

    def column(self, name: str) -> list[str | None]:
        """A column's values as texts; None where there is none. Raises UserError where the file lacks it."""
        columns = [str(column) for column in self.table.columns]
        if name not in columns:
            more = ", ..." if len(columns) > MOST_NAMED else ""
            raise UserError(f"{self.path}: no column {name}; it has {', '.join(columns[:MOST_NAMED])}{more}")
        values = self.table.iloc[:, columns.index(name)]
        texts = [label_of(v).strip() if there else "" for v, there in zip(values, values.notna())]
        return [text or None for text in texts]


def read_people(path: Path) -> People:
    """A file's table, its columns' words and its categories. Raises UserError where it cannot be read."""
    kind = path.suffix.lower()
    if not path.is_file() or kind not in KINDS:
        raise UserError(f"data set {path}: no file of people's answers; give one of {', '.join(KINDS)}")
    try:
        import pandas
    except ImportError as error:
        raise UserError(
            f"{path}: the package pandas, which reads it, is not installed; run: pip install pandas"
        ) from error
    try:
        if kind in (".csv", ".tsv"):
            return People(path, pandas.DataFrame(list(read_values(path, kind)), dtype=object), {}, {})
        if kind == ".parquet":
            return _with_categories(path, pandas.read_parquet(path), {})
        if kind == ".dta":
            with pandas.read_stata(path, iterator=True) as reader:
                return _with_categories(path, reader.read(), reader.variable_labels())
        return _read_spss(path)
    except (ValueError, OSError, ImportError, LookupError, struct.error) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path}: cannot be read as {kind} ({reason}); write it again, or as .csv") from error


def _read_spss(path: Path) -> People:
    try:
        import pyreadstat
    except ImportError as error:
        remedy = "run: pip install pyreadstat"
        raise UserError(
            f"{path}: the package pyreadstat, which reads SPSS files, is not installed; {remedy}"
        ) from error
    read = pyreadstat.read_por if path.suffix.lower() == ".por" else pyreadstat.read_sav
    try:
        table, about = read(str(path))
    except pyreadstat.ReadstatError as error:
        raise UserError(f"{path}: cannot be read as SPSS ({error}); write it again, or as .csv") from error
    words = {column: label or "" for column, label in about.column_names_to_labels.items()}
    options = {}
    for column, labels in about.variable_value_labels.items():
        worded = {label_of(code): label.strip() for code, label in sorted(labels.items())}
        values = [label_of(v) if there else None for v, there in zip(table[column], table[column].notna())]
        table[column] = [None if value is None else worded.get(value, value) for value in values]
        options[column] = list(worded.values())
    return People(path, table, words, options)


def _with_categories(path: Path, table: pandas.DataFrame, labels: Mapping[str, str]) -> People:
    options = {}
    for column in table.columns:
        if str(table[column].dtype) == "category":
            options[str(column)] = [label_of(value).strip() for value in table[column].cat.categories]
    return People(path, table, labels, options)
