"""Readers of surveys: the shares of a question's options in groups of people, the members of a survey.

Contract: one group of people and one question are a `Group` with `belief_probs`; a response is its belief
alone, so this is data for calibration and for evaluation. The options stand in the prompt behind the labels
of their classes: those that the row states, else the belief classes in their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from groups.record import Belief, Group, Response
from groups.rows import Row, Rows, Source, is_share, text_field
from groups.values import clipped, is_absent, label_of, parsed
from utils import UserError

MOST_NAMED = 5  # members that an error names
NO_GROUPS = ("MC_options", "question_text", "key")  # of an OpinionQA row


class Question(NamedTuple):
    """A question as some groups of people were asked it, in raw values."""

    where: str
    text: str
    options: list[str]
    labels: list[str]  # the options' classes; []: the row states none
    shares: dict[str, Any]  # {group of people: the options' shares or counts}


# --- members ------------------------------------------------------------------------------------------------


def is_named(name: str, member: str) -> bool:
    """Is a group of people among those behind the colon, `Germany+Japan`? Without any, all are.

    POLPARTY=Democrat is also named by Democrat.
    """
    named = f"+{member}+"
    return not member or f"+{name}+" in named or f"+{name.partition('=')[2] or name}+" in named


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


# --- questions to groups ------------------------------------------------------------------------------------


def _groups_of(question: Question, source: Source) -> Iterator[Group]:
    """The groups of a question, one for each of the people that are named; others are counted."""
    named = [name for name in question.shares if is_named(name, source.member)]
    if not named:
        source.drop("not_asked_of_this_group", question.where)
    for name in named:
        reason = _why_left_out(question, name, source.classes)
        if reason:
            source.drop(reason, question.where)
            continue
        is_alone = len(question.shares) == 1 or name == source.member
        identity = question.where if is_alone else f"{question.where}, {name}"
        group = _group(question, question.shares[name], identity, source.classes)
        yield group._replace(people=name.partition("=")[2] or name)


def _why_left_out(question: Question, name: str, classes: Sequence[str]) -> str:
    """The reason under which a question is counted as dropped, or "" where it can be used."""
    shares, options = question.shares[name], question.options
    if not question.labels and len(options) > len(classes):
        return "more_options_than_classes"
    if not isinstance(shares, list) or len(shares) != len(options) or len(options) < 2:
        return "shares_do_not_fit_options"
    if not all(map(is_share, shares)) or not is_share(float(sum(shares))):
        return "shares_do_not_fit_options"
    if sum(shares) <= 0:
        return "all_zero_probabilities"
    if question.labels and len(set(question.labels)) < 2:
        return "options_of_one_class"
    return ""


def _group(question: Question, shares: Sequence[float], identity: str, classes: Sequence[str]) -> Group:
    labels = question.labels or classes
    beliefs = tuple(Belief(label, words) for label, words in zip(labels, question.options))
    probs = dict.fromkeys(classes, 0.0)
    for belief, share in zip(beliefs, shares):
        probs[belief.label] += share / sum(shares)
    listed = "".join(f"\n{belief.label}: {belief.text}" for belief in beliefs)
    return Group(
        id=identity,
        prompt=f"<Q>{question.text}{listed}<A>",
        responses=tuple(Response("", None, belief) for belief in beliefs),
        belief_probs=tuple(probs.values()),
        where=question.where,
        question=question.text,
        options=beliefs,
    )


def _known_labels(labels: Sequence[Any], where: str, field: str, classes: Sequence[str]) -> list[str]:
    """The classes that a row states, as the run writes them. Raises UserError for one that is none."""
    known = [label_of(label, classes) for label in labels]
    for label in known:
        if label not in classes:
            raise UserError(
                f"{where}: field {field}: {clipped(label)} is none of {', '.join(classes)}; "
                "correct the row or set belief_classes"
            )
    return known


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
        groups += _groups_of(_goqa_question(where, row, shares, source.classes), source)
    return groups


def _goqa_question(where: str, row: Row, shares: dict[str, Any], classes: Sequence[str]) -> Question:
    options = _texts(row["options"])
    if options is None:
        raise UserError(_no_table(where))
    stated = parsed(row.get("option_class"))
    labels: list[str] = []
    if isinstance(stated, list) and len(stated) == len(options):
        labels = _known_labels(stated, where, "option_class", classes)
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
        groups += _groups_of(_opinionqa_question(where, row), source)
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
        groups += _groups_of(_subpop_question(where, row), source)
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


# --- a plain table of shares --------------------------------------------------------------------------------


class _Option(NamedTuple):
    """One row of a plain table."""

    where: str
    words: str
    mass: float
    weight: float | None
    is_count: bool
    label: str | None  # of its class, where the row states it


def read_shares(rows: Rows, source: Source) -> list[Group]:
    """A plain table: question, option, share or count, and where they are: group, weight, class.

    The rows of one question and group of people are a `Group`, its options in their order. A weight
    multiplies the share or count. Counts of an option that comes again add up, and so do weighted shares;
    raises UserError for shares of it without weights.
    """
    groups = []
    for question in _share_questions(rows, source.classes):
        groups += _groups_of(question, source)
    return groups


def _share_questions(rows: Rows, classes: Sequence[str]) -> Iterator[Question]:
    questions: dict[tuple[str, str], list[_Option]] = {}
    for where, row in rows:
        (name,) = _shares_group(where, row)
        option = _option(where, row, classes)
        questions.setdefault((text_field(row, "question", where), name), []).append(option)
    for (text, name), members in questions.items():
        yield _merged(text, name, members)


def key_of_shares(row: Row) -> Hashable:
    """What the rows of one `Group` have in common."""
    return str(row.get("question")), str(row.get("group"))


def _shares_group(where: str, row: Row) -> list[str]:
    name = row.get("group")
    if isinstance(name, list | dict):
        raise UserError(f"{where}: field group: holds a {type(name).__name__}; give a text")
    return ["" if is_absent(name) else str(name)]


def _option(where: str, row: Row, classes: Sequence[str]) -> _Option:
    words = row.get("option")
    if is_absent(words) or isinstance(words, list | dict):
        raise UserError(f"{where}: field option: is no text; give the option's words")
    field = "share" if is_absent(row.get("count")) else "count"
    mass, weight = parsed(row.get(field)), parsed(row.get("weight"))
    if not is_share(mass):
        raise UserError(
            f"{where}: field {field}: {clipped(row.get(field))} is no number of 0 or more; correct the row"
        )
    if is_absent(weight):
        weight = None
    elif not is_share(weight):
        raise UserError(
            f"{where}: field weight: {clipped(weight)} is no number of 0 or more; correct the row"
        )
    label = None
    if not is_absent(row.get("class")):
        (label,) = _known_labels([row["class"]], where, "class", classes)
    return _Option(where, str(words), mass, weight, field == "count", label)


def _merged(text: str, name: str, members: Sequence[_Option]) -> Question:
    """The question of some rows. Raises UserError where they contradict one another."""
    first = members[0]
    for field, values in (
        ("weight", {m.weight is None for m in members}),
        ("class", {m.label is None for m in members}),
    ):
        if len(values) > 1:
            raise UserError(f"{first.where}: field {field}: not all options of the question have it; add it")
    masses: dict[str, float] = {}
    labels: dict[str, str] = {}
    for option in members:
        if option.words in masses and option.weight is None and not option.is_count:
            raise UserError(
                f"{option.where}: field option: {option.words} comes a second time; correct the row, "
                "or add counts or weights by which shares add up"
            )
        mass = option.mass * (1 if option.weight is None else option.weight)
        masses[option.words] = masses.get(option.words, 0) + mass
        if option.label is not None and labels.setdefault(option.words, option.label) != option.label:
            raise UserError(
                f"{option.where}: field class: {clipped(option.words)} has two classes; correct the row"
            )
    return Question(first.where, text, list(masses), list(labels.values()), {name: list(masses.values())})


MEMBERS: dict[str, Callable[[str, Row], Iterable[str]]] = {  # of a row, by the format's name
    "goqa": _goqa_shares,
    "opinionqa": _opinionqa_groups,
    "subpop": _subpop_group,
    "shares": _shares_group,
    "counts": _shares_group,
}


def questions_of(known: str, rows: Rows, classes: Sequence[str]) -> Iterator[Question]:
    """The questions of rows with the shares of all groups of people, as they stand in the file.

    known: the name of the rows' format, one of MEMBERS. Raises UserError for a row that is none of it.
    """
    if known in ("shares", "counts"):
        yield from _share_questions(rows, classes)
        return
    for where, row in rows:
        if known == "goqa":
            yield _goqa_question(where, row, _goqa_shares(where, row), classes)
        else:
            yield _opinionqa_question(where, row) if known == "opinionqa" else _subpop_question(where, row)
