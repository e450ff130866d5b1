"""Which format rows are in: how one is recognised, and how rows are checked against it.

Contract: a format is recognised by its columns and the kinds of their values, exactly; `format=` names one
where rows could be of two. A row that does not fit raises `UserError` with the place and the remedy. A column
that no format uses is ignored and counted; one that another format would use is never ignored, unless
`format=` names the format.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from groups.kinds import ANYTHING, described, is_blank, messages_in
from groups.layout import Format, always
from groups.layouts_hub import HUB_FORMATS
from groups.layouts_libraries import LIBRARY_FORMATS, OWN, REFUSED
from groups.record import Group
from groups.rows import Row, Rows, Source
from utils import UserError

__all__ = ["FORMATS", "OWN", "Format", "choose_format", "read_groups"]

FORMATS = (*HUB_FORMATS, *LIBRARY_FORMATS)  # of two that use the same columns, the first
KNOWN = (*FORMATS, OWN)
NEAR_NAME = 0.8  # how alike a misspelt column is to what is meant, as difflib counts
MOST_LOOKED_AT = 1000  # rows from which a format is told
NAMES = ", ".join(known.name for known in KNOWN)
# columns that hold what is said, of whatever kind their values are
SAID = {
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "messages",
    "conversations",
    "instruction",
    "system",
    "system_prompt",
}
NOT_SHOWN = (  # columns that would change what the model sees
    "tools",
    "functions",
    "chat_template_kwargs",
    "image",
    "images",
    "video",
    "videos",
    "audio",
    "audios",
)


def _formats_by_column() -> dict[str, list[Format]]:
    """The formats that use each column."""
    users: dict[str, list[Format]] = {}
    for known in FORMATS:
        for column in (*known.fields, *known.optional):
            users.setdefault(column, []).append(known)
    return users


USERS = _formats_by_column()


def choose_format(rows: Rows, place: str, name: str | None = None) -> Format:
    """The format of most rows, or the one that `name` names.

    Raises UserError where the rows could be of several formats, or no row is of a known one, or a column's
    name is nearly one with which they were of another format.
    """
    if name is not None:
        return _named(name)
    rows = rows[:MOST_LOOKED_AT]
    verdicts = [_formats_of(row) for _, row in rows]
    counts = Counter(_names(verdict) for verdict in verdicts if verdict)
    if not counts:
        raise _unknown(rows, place)
    names, _ = counts.most_common(1)[0]  # of equals, that of the first row
    first = next(n for n, verdict in enumerate(verdicts) if _names(verdict) == names)
    where, row = rows[first]
    misspelt = _misspelt(row, frozenset().union(*(known.used(row) for known in verdicts[first])))
    if misspelt is not None and not verdicts[first][0].uses_all:
        raise UserError(f"{where}: {misspelt}; or name the format with format={names[0]}")
    if len(names) > 1:
        raise UserError(f"{where}: could be of {' or '.join(names)}; name one with format=")
    return verdicts[first][0]


def _names(verdict: Sequence[Format]) -> tuple[str, ...]:
    return tuple(known.name for known in verdict)


def _named(name: str) -> Format:
    if name in REFUSED:
        raise UserError(f"format={name}: {REFUSED[name][1]}; choose one of {NAMES}")
    for known in KNOWN:
        if known.name == name:
            return known._replace(is_named=True)
    raise UserError(f"format={name}: unknown; choose one of {NAMES}")


def _formats_of(row: Row) -> list[Format]:
    """The formats that a row could be of: one, where it uses all columns that the others would use."""
    fitting = [known for known in FORMATS if known.is_recognised and known.fits(row)]
    if not fitting:
        return [OWN] if "responses" in row else []
    used = {known.name: known.used(row) for known in fitting}
    every = frozenset().union(*used.values())
    for known in fitting:
        if all(_says_again(known, column, row) for column in every - used[known.name]):
            return [known]
    return [k for k in fitting if not any(used[k.name] < used[other.name] for other in fitting)]


# --- names of columns that are nearly right -----------------------------------------------------------------


def _misspelt(row: Row, used: frozenset[str] = frozenset()) -> str | None:
    """What to rename, where unused columns have nearly the names by which a format would use them."""
    others = [name for name in USERS if name not in row]
    meant: dict[str, str] = {}
    for column in row:
        near = difflib.get_close_matches(column.strip().lower(), others, 1, NEAR_NAME)
        if near and column not in used and not is_blank(row[column]):
            meant[column] = near[0]
    for column, name in meant.items():
        if known := _format_with(row, {column: name}):
            return f"field {column}: rename it to {name}, if it is that of format {known.name}"
    if len(meant) > 1 and (known := _format_with(row, meant)):
        names = ", ".join(meant.values())
        return f"fields {', '.join(meant)}: rename them to {names}, if they are those of format {known.name}"
    return None


def _format_with(row: Row, meant: Mapping[str, str]) -> Format | None:
    """The one format of a row whose columns are renamed, if it uses all of these."""
    renamed = {name: row[column] for column, name in meant.items()}
    formats = _formats_of({**row, **renamed})
    if len(formats) == 1 and formats[0] is not OWN and renamed.keys() <= formats[0].used(renamed):
        return formats[0]
    return None


# --- checks -------------------------------------------------------------------------------------------------


def read_groups(known: Format, rows: Sequence, source: Source) -> list[Group]:
    """The groups of some rows, each of which must have what the format needs. Raises UserError."""
    if known.name != OWN.name:
        for where, row in rows:
            _check_fields(known, row, where)
            _check_others(known, row, where, source)
    return known.read(rows, source)


def _check_fields(known: Format, row: Row, where: str) -> None:
    for column in sorted(known.fields):
        kind = known.fields[column]
        if column not in row:
            has = ", ".join(sorted(row)) or "nothing"
            raise UserError(
                f"{where}: field {column}: missing, and format {known.name} needs it (this one has {has}); "
                "add it or leave the row out"
            )
        if not kind.holds(row[column]):
            raise _wrong_kind(known, column, row, where)
    for column, kind in known.optional.items():
        if not is_blank(row.get(column)) and not kind.holds(row[column]):
            raise _wrong_kind(known, column, row, where)


def _wrong_kind(known: Format, column: str, row: Row, where: str) -> UserError:
    needed = (known.fields.get(column) or known.optional[column]).words
    return UserError(
        f"{where}: field {column}: is {described(row[column])}, and format {known.name} needs {needed}; "
        "correct it or leave the row out"
    )


def _check_others(known: Format, row: Row, where: str, source: Source) -> None:
    """Count the columns that the format does not use. Raises UserError for one that may not be ignored."""
    if known.uses_all:
        return
    for column, value in row.items():
        if column in known.fields or column in known.optional or is_blank(value):
            continue
        if column in NOT_SHOWN:
            raise UserError(
                f"{where}: field {column}: is not shown to the model here; remove it or leave the row out"
            )
        if column == "weight":
            raise UserError(
                f"{where}: field weight: format {known.name} has no weights; remove it or write the rows as "
                f"format {OWN.name}"
            )
        if column not in known.repeated and not known.is_named:
            _check_ignored(known, column, row, where)
        source.note(f"ignored column: {column}", where)


def _check_ignored(known: Format, column: str, row: Row, where: str) -> None:
    """Raises UserError where another format would use a column that says something of its own."""
    candidates = USERS.get(column, ())
    users = [other.name for other in candidates if _would_use(other, column, row)]
    meant = [other for other in candidates if _extends(other, known, column, row)]
    if (users or meant or column in SAID) and not _says_again(known, column, row):
        others = f"it is {described(row[column])}"
        remedy = "remove the column"
        if users:
            others = f"formats {', '.join(users[:4])} use it"
        elif meant:
            others += f" where format {meant[0].name} needs {meant[0].fields[column].words}"
            remedy = "correct it or remove the column"
        raise UserError(
            f"{where}: field {column}: is not used by format {known.name}, and {others}; {remedy}, or name "
            f"the format with format={known.name}"
        )


def _says_again(known: Format, column: str, row: Row) -> bool:
    """Whether all that a column says stands in the columns that a format uses, too.

    So it does where the column is one text that holds all of theirs: a prompt template, filled in.
    """
    said = {text for used in (*known.fields, *known.optional) for text in _texts_of(row.get(used))}
    texts = _texts_of(row[column])
    is_filled = len(texts) == 1 and len(said) > 1 and all(text in texts[0] for text in said)
    return is_filled or (bool(texts) and all(text in said for text in texts))


def _texts_of(value: Any) -> list[str]:
    """A text's or messages' words, without the spaces around them; none of other values."""
    messages = messages_in(value)
    if messages is None:
        return [value.strip()] if isinstance(value, str) and value.strip() else []
    texts = [message.get("value") if "from" in message else message.get("content") for message in messages]
    return [text.strip() if isinstance(text, str) else str(text) for text in texts]


def _would_use(known: Format, column: str, row: Row) -> bool:
    kind = known.fields.get(column) or known.optional.get(column)
    return kind is not None and kind is not ANYTHING and kind.holds(row[column])


def _extends(other: Format, known: Format, column: str, row: Row) -> bool:
    """Has a row all columns of a format that needs one more than the known one, of whatever kind?"""
    return column in other.fields and known.columns < other.columns <= row.keys()


# --- rows of no format --------------------------------------------------------------------------------------


def _unknown(rows: Rows, place: str) -> UserError:
    """Why no row is of a known format: what the nearest one lacks."""
    if not rows:
        return UserError(f"{place}: holds no rows; write one object a row")
    where, row = rows[0]
    misspelt = _misspelt(row)
    if misspelt is not None:
        return UserError(f"{where}: {misspelt}")
    for name, (fields, lacks) in REFUSED.items():
        if _has_all(fields, row) and _most_present(row) <= len(fields):
            rest = [column for column in sorted(row) if column not in fields][:4]
            beside = f" (beside {', '.join(rest)})" if rest else ""
            return UserError(
                f"{where}: is of format {name}{beside}: {lacks}; give rows with responses, as prompt and "
                "completion, or prompt, chosen and rejected"
            )
    recognised = [known for known in FORMATS if known.is_recognised]
    nearest = max(recognised, key=lambda known: _nearness(known, row))
    if not _nearness(nearest, row)[0]:
        columns = ", ".join(sorted(row)) or "none"
        return UserError(
            f"{where}: columns {columns} are no known data set; write prompt and responses, or the columns "
            f"of a supported format ({NAMES}; docs/data.md shows a row of each)"
        )
    return UserError(f"{where}: nearest format is {nearest.name}: {_lacking(nearest, row)}")


def _has_all(fields: Iterable[str], row: Row) -> bool:
    return all(not is_blank(row.get(column)) and fields[column].holds(row[column]) for column in fields)


def _most_present(row: Row) -> int:
    """How many columns of one format a row has, at most."""
    return max(len(known.columns & row.keys()) for known in FORMATS)


def _nearness(known: Format, row: Row) -> tuple[float, int, bool, int]:
    """How much of a format's columns a row has: their share, their number, and how many are of their kind.

    Of two, the one that is told by columns alone is nearer.
    """
    present = [column for column in known.fields if column in row]
    right = sum(known.fields[column].holds(row[column]) for column in present)
    return len(present) / len(known.fields), len(present), known.looks_like is always, right


def _lacking(known: Format, row: Row) -> str:
    """The first column of a format that a row lacks, or that is of another kind."""
    for column in known.fields:
        if column not in row:
            return f"field {column}: missing; add it, or name another format with format="
    for column, kind in {**known.fields, **known.optional}.items():
        if column in row and not kind.holds(row[column]):
            return (
                f"field {column}: is {described(row[column])}, needs {kind.words}; correct it, or name "
                "another format with format="
            )
    return "its values do not fit together; see the row of this format in docs/data.md"
