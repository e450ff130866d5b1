"""Readers of data with p*, the probabilities of a group of people over the belief classes.

Contract: every group has `belief_probs` (one entry a class, sum 1), and every response has a belief.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from groups.draws import rng_of
from groups.files import DATA, OPINION_GROUPS, OPINION_SPLITS, read_rows
from groups.options import answers_of, labels_by_position, options_of_rows
from groups.record import CLASSES, Belief, Group, Pair, Response
from groups.rows import PairsOfPrompt, Row, Rows, Source, is_share, text_field
from groups.values import is_absent, label_of, parsed
from utils import UserError

# --- the embedded opinions ----------------------------------------------------------------------------------


def read_opinions(
    name: str, split: str, seed: int, pairs_per_prompt: int, classes: Sequence[str] = CLASSES
) -> list[Group]:
    """The embedded survey opinions of a US party group.

    49 questions in five phrasings, with p* from the surveys' counts.
    Raises UserError for an unknown group or split, or classes that lack one of its labels.
    """
    party = name.removeprefix("opinions").removeprefix("/")
    if party not in OPINION_GROUPS:
        known = ", ".join(f"opinions/{group}" for group in OPINION_GROUPS)
        raise UserError(f"data set {name}: no such group; choose one of {known}")
    if split not in OPINION_SPLITS:
        raise UserError(f"data set {name}: no split {split}; choose one of {', '.join(OPINION_SPLITS)}")
    lacking = [label for label in CLASSES if label not in classes]
    if lacking:
        raise UserError(
            f"belief_classes={list(classes)}: data set {name} has class {lacking[0]}, too; "
            f"give {', '.join(CLASSES)} in any order"
        )
    questions = {q["id"]: q for q in read_rows(DATA / "opinions" / "questions.jsonl")}
    groups = []
    for row in read_rows(DATA / "opinions" / "language.jsonl"):
        question = questions[row["id"]]
        if row["split"] == split and party in question["groups"]:
            group = _opinion_group(row, question, party, classes)
            groups.append(group._replace(pairs=draw_pairs(group, classes, pairs_per_prompt, seed)))
    return groups


def _opinion_group(row: Row, question: Row, party: str, classes: Sequence[str]) -> Group:
    """One phrasing of a question; the reward of an answer is ten times its share in p*."""
    counts, labels = question["groups"][party]["counts"], [str(c) for c in question["option_class"]]
    probs = {label: count / sum(counts) for label, count in zip(labels, counts)}
    responses = tuple(
        Response(row["answers"][option], 10 * probs[label], Belief(label, option))
        for option, label in zip(question["options"], labels)
    )
    name = f"{row['id']}/{row['style']}"
    return Group(
        id=name,
        prompt=f"<Q>{row['prompt']}<A>",
        responses=responses,
        belief_probs=tuple(probs.get(c, 0.0) for c in classes),
        where=f"opinions, {name}",
        question=row["id"],
        options=tuple(response.belief for response in responses),
    )


def draw_pairs(group: Group, classes: Sequence[str], num_pairs: int, seed: int) -> tuple[Pair, ...]:
    """GDPO's pairing: b_w is drawn from p*, b_l uniformly from the other beliefs that have a response.

    Fixed by (seed, group id). Raises UserError where fewer than two beliefs have a response, or where p* is 0
    for all that have one.
    """
    members = [_indices_under(group, label) for label in classes]
    present = [k for k, indices in enumerate(members) if indices]
    weights = np.asarray([group.belief_probs[k] for k in present], float)
    if len(present) < 2 or weights.sum() <= 0:
        raise UserError(
            f"{group.where}: field responses: needs answers under at least two beliefs, "
            "one with belief_probs > 0, to draw pairs; add some or give pairs"
        )
    rng = rng_of(seed, group.id)
    pairs = []
    for belief_w in rng.choice(len(present), num_pairs, p=weights / weights.sum()):
        belief_l = rng.integers(len(present) - 1)
        if belief_l >= belief_w:  # any belief but b_w
            belief_l += 1
        winner = rng.choice(members[present[belief_w]])
        loser = rng.choice(members[present[belief_l]])
        pairs.append((int(winner), int(loser)))
    return tuple(pairs)


def _indices_under(group: Group, label: str) -> list[int]:
    """The responses that hold a belief."""
    return [i for i, r in enumerate(group.responses) if r.belief is not None and r.belief.label == label]


# --- the GDPO authors' files --------------------------------------------------------------------------------


def read_mmoqa(rows: Rows, source: Source) -> list[Group]:
    """The GDPO authors' opinions and movie reviews (Binwei01/*).

    The rows of one prompt and p* are the pairs of one group; where they list all options' answers, those
    stand behind the pairs' responses. Movie reviews have no accept_choice: their belief is the class token
    alone. A `context` stands before the question. Rows with all-zero probabilities or equal sides carry no
    preference; they are left out and counted.
    """
    merged: dict[tuple[str, tuple[float, ...]], PairsOfPrompt] = {}
    rows_of: dict[tuple[str, tuple[float, ...]], list[Row]] = {}
    for where, row in rows:
        probs = _mmoqa_probs(row, where, source.classes)
        context = row.get("context")
        prompt = f"{'' if is_absent(context) else context}<Q>{text_field(row, 'prompt', where)}<A>"
        if sum(probs) == 0:
            source.drop("all_zero_probabilities", where)
            continue
        accepted = _mmoqa_response(row, "accept", where, source.classes, probs)
        rejected = _mmoqa_response(row, "reject", where, source.classes, probs)
        if accepted == rejected:
            source.drop("preferred_equal_to_rejected", where)
            continue
        gathered = merged.setdefault((prompt, probs), PairsOfPrompt(where, {}, []))
        gathered.pairs.append(gathered.pair_of(accepted, rejected))
        rows_of.setdefault((prompt, probs), []).append(row)
    return [
        _mmoqa_group(prompt, probs, gathered, rows_of[prompt, probs], source.classes)
        for (prompt, probs), gathered in merged.items()
    ]


def _mmoqa_probs(row: Row, where: str, classes: Sequence[str]) -> tuple[float, ...]:
    """The row's probabilities in the order of the classes, of any sum: by label, or by id 0, 1, ..."""
    given = parsed(row.get("probabilities"))
    by_label: dict[str, Any] = {"": None}
    if isinstance(given, list) and len(given) == len(classes):
        by_label = dict(zip(labels_by_position(classes), given))
    elif isinstance(given, dict):
        by_label = {label_of(label, classes): 0 if p is None else p for label, p in given.items()}
    if set(by_label) <= set(classes) and all(is_share(p) for p in by_label.values()):
        return tuple(by_label.get(label, 0) for label in classes)
    raise UserError(
        f"{where}: field probabilities: {str(given)[:80]} are not {len(classes)} non-negative numbers; "
        "correct the row"
    )


def _mmoqa_response(
    row: Row, side: str, where: str, classes: Sequence[str], probs: Sequence[float]
) -> Response:
    label, words = label_of(row.get(f"{side}_choice_id"), classes), row.get(f"{side}_choice")
    if label not in classes:
        raise UserError(
            f"{where}: field {side}_choice_id: {label} is none of {', '.join(classes)}; "
            "correct the row or set belief_classes"
        )
    share = probs[list(classes).index(label)] / sum(probs)
    belief = Belief(label, "" if is_absent(words) else str(words))
    return Response(text_field(row, f"{side}_response", where), 10 * share, belief)


def _mmoqa_group(
    prompt: str,
    probs: Sequence[float],
    gathered: PairsOfPrompt,
    rows: Sequence[Row],
    classes: Sequence[str],
) -> Group:
    """The group of one prompt's rows."""
    shares = tuple(p / sum(probs) for p in probs)
    options = options_of_rows(rows, probs, classes)
    rewards = {label: 10 * share for label, share in zip(classes, shares)}
    question = rows[0].get("question")
    return Group(
        id=gathered.where,
        prompt=prompt,
        responses=tuple(dict.fromkeys([*gathered.responses, *answers_of(rows[0], options, rewards)])),
        pairs=tuple(gathered.pairs),
        belief_probs=shares,
        where=gathered.where,
        question="" if is_absent(question) else str(question),
        options=tuple(options),
    )


# --- surveys of many countries ------------------------------------------------------------------------------


class _Question(NamedTuple):
    """A survey question in raw values."""

    countries: list[str]  # that were asked
    shares: Any  # the chosen country's answers; None: it was not asked
    options: list[Any]


def read_goqa(rows: Rows, source: Source) -> list[Group]:
    """Anthropic/llm_global_opinions: survey questions with the answers' shares in many countries.

    One country is a data set. The options stand in the prompt, labelled with the belief classes in their
    order; a response is its belief alone, so this is data for calibration and for evaluation. Raises
    UserError where no such country was asked.
    """
    groups = []
    countries: Counter[str] = Counter()
    for where, row in rows:
        question = _parse_question(row, where, source.member)
        countries.update(question.countries)
        reason = _why_left_out(question, len(source.classes))
        if reason:
            source.drop(reason, where)
        else:
            groups.append(_goqa_group(row, question, where, source.classes))
    if source.member not in countries:
        place = rows[0][0].rpartition(", ")[0]
        first = next(iter(countries), "Germany")
        most_asked = ", ".join(country for country, _ in countries.most_common(5))
        raise UserError(
            f"{place}: no country {source.member or 'is named'}; "
            f"give one after a colon, datasets=[...:{first}]; there are {most_asked}, ..."
        )
    return groups


def _parse_question(row: Row, where: str, country: str) -> _Question:
    try:
        shares = row["selections"]
        if isinstance(shares, str):  # defaultdict(<class 'list'>, {'Chile': [0.25, 0.75], ...})
            shares = parsed(shares[shares.index("{") : shares.rindex("}") + 1])
        options = parsed(row["options"])
        if not isinstance(options, list) or any(isinstance(option, list | dict) for option in options):
            raise ValueError("no list of options")
        return _Question([str(name) for name in shares.keys()], shares.get(country), options)
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{where}: fields selections and options: are no printed table and list; correct the row"
        ) from error


def _why_left_out(question: _Question, num_classes: int) -> str:
    """The reason under which a question is counted as dropped, or "" where it can be used."""
    shares, options = question.shares, question.options
    if shares is None:
        return "not_asked_in_this_country"
    if len(options) > num_classes:
        return "more_options_than_classes"
    if not isinstance(shares, list) or len(shares) != len(options) or len(options) < 2:
        return "shares_do_not_fit_options"
    if not all(is_share(p) for p in shares):
        return "shares_do_not_fit_options"
    if sum(shares) <= 0:
        return "all_zero_probabilities"
    return ""


def _goqa_group(row: Row, question: _Question, where: str, classes: Sequence[str]) -> Group:
    options = [str(option) for option in question.options]
    total = sum(question.shares)
    probs = tuple(p / total for p in question.shares)
    beliefs = tuple(Belief(*belief) for belief in zip(classes, options))
    listed = "".join(f"\n{label}: {option}" for label, option in zip(classes, options))
    return Group(
        id=where,
        prompt=f"<Q>{text_field(row, 'question', where)}{listed}<A>",
        responses=tuple(Response("", None, belief) for belief in beliefs),
        belief_probs=probs + (0.0,) * (len(classes) - len(options)),
        where=where,
        question=text_field(row, "question", where),
        options=beliefs,
    )
