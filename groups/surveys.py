"""Readers of published surveys: GlobalOpinionQA, OpinionQA and SubPOP; the members of any survey.

Contract: as in `questions`. A group of people that a name asks for is in the rows, or it is a UserError.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from groups.questions import Question, groups_of, known_labels
from groups.record import Group
from groups.rows import Row, Rows, Source, is_share, text_field
from groups.share_tables import share_questions, shares_group
from groups.values import clipped, is_absent, parsed
from utils import UserError

MOST_NAMED = 5  # members that an error names
NO_GROUPS = ("MC_options", "question_text", "key")  # of an OpinionQA row


# --- GlobalOpinionQA ----------------------------------------------------------------------------------------


def read_goqa(rows: Rows, source: Source) -> list[Group]:
    """Anthropic/llm_global_opinions (arXiv 2306.16388): questions with the answers' shares in many countries.

    Rows of one group of people alone, with a list of shares and a `group`, are read too; `option_class` gives
    the classes of their options. Raises UserError where a row has many countries, and none is named.
    """
    groups = []
    for where, row in rows:
        shares = _goqa_shares(where, row)
        if not source.member and isinstance(shares, dict) and "group" not in row:
            raise UserError(_no_country(where, shares))
        groups += groups_of(_goqa_question(where, row, shares, source.classes), source)
    return groups


def _goqa_question(where: str, row: Row, shares: dict[str, Any], classes: Sequence[str]) -> Question:
    options = _texts(row["options"])
    if options is None:
        raise UserError(_no_table(where))
    stated = parsed(row.get("option_class"))
    labels: list[str] = []
    if isinstance(stated, list) and len(stated) == len(options):
        labels = known_labels(stated, where, "option_class", classes)
    return Question(where, text_field(row, "question", where), options, labels, shares)


def _goqa_shares(where: str, row: Row) -> dict[str, Any]:
    """{country: shares} of a row, as printed: defaultdict(<class 'list'>, {'Chile': [0.25, 0.75], ...})."""
    shares = row.get("selections")
    if isinstance(shares, str) and "{" in shares:
        shares = shares[shares.index("{") : shares.rfind("}") + 1]
    shares = parsed(shares)
    if isinstance(shares, list) and not is_absent(row.get("group")):
        return {str(row["group"]): shares}
    if not isinstance(shares, dict):
        raise UserError(_no_table(where))
    return {str(name): values for name, values in shares.items() if values is not None}


def _no_table(where: str) -> str:
    return f"{where}: fields selections and options: are no printed table and list; correct the row"


def _no_country(where: str, shares: dict[str, Any]) -> str:
    some = list(shares)[:MOST_NAMED] or ["Germany"]
    return (
        f"{where.rpartition(', ')[0]}: no country is named; give one after a colon, "
        f"datasets=...:{some[0]}, or several, {'+'.join(some[:2])}; there are {', '.join(some)}, ..."
    )


# --- OpinionQA, SubPOP --------------------------------------------------------------------------------------


def read_opinionqa(rows: Rows, source: Source) -> list[Group]:
    """OpinionQA's counts (arXiv 2303.17548, `*_data.json` of its repository): {option: people} a group.

    A refusal is an option like others.
    """
    groups = []
    for where, row in rows:
        groups += groups_of(_opinionqa_question(where, row), source)
    return groups


def _opinionqa_question(where: str, row: Row) -> Question:
    options = _options(row, "MC_options", where)
    shares = {name: _in_order(row[name], options) for name in _opinionqa_groups(where, row)}
    return Question(where, text_field(row, "question_text", where), options, [], shares)


def _opinionqa_groups(where: str, row: Row) -> list[str]:
    return [name for name, counts in row.items() if name not in NO_GROUPS and isinstance(counts, dict)]


def _in_order(counts: dict[str, Any], options: Sequence[str]) -> list[Any]:
    """The options' counts in their order; [] where there is one of no option. None is nobody."""
    if any(words not in options for words, count in counts.items() if count):
        return []
    return [0 if counts.get(words) is None else counts[words] for words in options]


def read_subpop(rows: Rows, source: Source) -> list[Group]:
    """SubPOP (jjssuh/subpop, arXiv 2502.16761): one question and one subpopulation a row.

    `responses` are shares among those who answered, in the options' order without the last, the refusal;
    `refusal_rate` is the share of the refusal among all. Raises UserError where a row has not both.
    """
    groups = []
    for where, row in rows:
        groups += groups_of(_subpop_question(where, row), source)
    return groups


def _subpop_question(where: str, row: Row) -> Question:
    (name,) = _subpop_group(where, row)
    options = _options(row, "options", where)
    shares = parsed(row["responses"])
    if isinstance(shares, list) and len(shares) + 1 == len(options) and all(map(is_share, shares)):
        shares = _with_refusal(row, where, shares)
    return Question(where, text_field(row, "question", where), options, [], {name: shares})


def _subpop_group(where: str, row: Row) -> list[str]:
    return [f"{text_field(row, 'attribute', where)}={text_field(row, 'group', where)}"]


def _with_refusal(row: Row, where: str, shares: Sequence[float]) -> list[float]:
    """The shares among all people, the refusal's behind the others'."""
    rate, total = parsed(row.get("refusal_rate")), sum(shares)
    if not is_share(rate) or rate > 1:
        raise UserError(
            f"{where}: field refusal_rate: {clipped(rate)} is no share from 0 to 1, and the last option has "
            "no other; correct the row or remove its last option"
        )
    return [share / total * (1 - rate) if total else 0.0 for share in shares] + [rate]


def _texts(value: Any) -> list[str] | None:
    """A list of the options' words, which may be printed; None where it is none."""
    listed = parsed(value)
    if not isinstance(listed, list) or any(isinstance(words, list | dict) for words in listed):
        return None
    return [str(words) for words in listed]


def _options(row: Row, field: str, where: str) -> list[str]:
    """The options' words. Raises UserError where the field holds none."""
    options = _texts(row[field])
    if options is None:
        raise UserError(f"{where}: field {field}: is no list of texts; correct the row")
    return options


# --- any of them -------------------------------------------------------------------------------------------


MEMBERS: dict[str, Callable[[str, Row], Iterable[str]]] = {  # of a row, by the format's name
    "goqa": _goqa_shares,
    "opinionqa": _opinionqa_groups,
    "subpop": _subpop_group,
    "shares": shares_group,
    "counts": shares_group,
}


def questions_of(known: str, rows: Rows, classes: Sequence[str]) -> Iterator[Question]:
    """The questions of rows with the shares of all groups of people, as they stand in the file.

    known: the name of the rows' format, one of MEMBERS. Raises UserError for a row that is none of it.
    """
    if known in ("shares", "counts"):
        yield from share_questions(rows, classes)
        return
    for where, row in rows:
        if known == "goqa":
            yield _goqa_question(where, row, _goqa_shares(where, row), classes)
        else:
            yield _opinionqa_question(where, row) if known == "opinionqa" else _subpop_question(where, row)


def check_member(known: str, rows: Iterable[tuple[str, Row]], member: str, place: str) -> None:
    """See that every group of people behind the colon is in the rows of a survey. Raises UserError.

    known: the name of the format; formats without members pass.
    """
    members_of = MEMBERS.get(known)
    if not member or members_of is None:
        return
    present: Counter[str] = Counter()
    for where, row in rows:
        with suppress(UserError):  # of a row that the reader refuses, in its place among the others
            present.update(list(members_of(where, row)))
    names: dict[str, list[str]] = {}  # whole, and without what they are a value of
    for name in present:
        for spelled in {name, name.partition("=")[2] or name}:
            names.setdefault(spelled, []).append(name)
    left = member
    while left:
        fitting = [name for name in names if left == name or left.startswith(f"{name}+")]
        if not fitting:
            raise UserError(_unknown_member(place, left.partition("+")[0], present))
        named = max(fitting, key=len)
        if len(names[named]) > 1:
            raise UserError(f"{place}: {named} may be {' or '.join(names[named])}; give one of these")
        left = left[len(named) + 1 :]


def _unknown_member(place: str, name: str, present: Counter[str]) -> str:
    if not set(present) - {""}:
        return f"{place}: its rows name no groups of people; remove :{name}"
    most = ", ".join(known for known, _ in present.most_common(MOST_NAMED))
    return f"{place}: no group {name}; there are {most}{', ...' if len(present) > MOST_NAMED else ''}"
