"""Readers of data with p*, the probabilities of a group of people over the belief classes.

Contract: every group has `belief_probs` (one entry a class, sum 1), and every response has a belief.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from groups.draws import rng_of
from groups.files import DATA, OPINION_GROUPS, OPINION_SPLITS, read_rows
from groups.record import CLASSES, Belief, Group, Pair, Response
from groups.rows import PairsOfPrompt, Row, Rows, Source, is_share, text_field
from utils import UserError

# --- the embedded opinions ----------------------------------------------------------------------------------


def read_opinions(name: str, split: str, seed: int, pairs_per_prompt: int) -> list[Group]:
    """The embedded survey opinions of a US party group.

    49 questions in five phrasings, with p* from the surveys' counts.
    Raises UserError for an unknown group or split.
    """
    party = name.removeprefix("opinions").removeprefix("/")
    if party not in OPINION_GROUPS:
        known = ", ".join(f"opinions/{group}" for group in OPINION_GROUPS)
        raise UserError(f"data set {name}: no such group; choose one of {known}")
    if split not in OPINION_SPLITS:
        raise UserError(f"data set {name}: no split {split}; choose one of {', '.join(OPINION_SPLITS)}")
    questions = {q["id"]: q for q in read_rows(DATA / "opinions" / "questions.jsonl")}
    groups = []
    for row in read_rows(DATA / "opinions" / "language.jsonl"):
        question = questions[row["id"]]
        if row["split"] == split and party in question["groups"]:
            group = _opinion_group(row, question, party)
            groups.append(group._replace(pairs=draw_pairs(group, CLASSES, pairs_per_prompt, seed)))
    return groups


def _opinion_group(row: Row, question: Row, party: str) -> Group:
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
        belief_probs=tuple(probs.get(c, 0.0) for c in CLASSES),
        where=f"opinions, {name}",
        question=row["id"],
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

    The rows of one prompt and p* are the pairs of one group. Movie reviews have no accept_choice: their
    belief is the class token alone. A `context` stands before the question. Rows with all-zero probabilities
    or equal sides carry no preference; they are left out and counted.
    """
    merged: dict[tuple[str, tuple[float, ...]], PairsOfPrompt] = {}
    questions: dict[str, str] = {}  # by prompt
    for where, row in rows:
        probs = _mmoqa_probs(row, where, len(source.classes))
        prompt = f"{row.get('context') or ''}<Q>{text_field(row, 'prompt', where)}<A>"
        if sum(probs) == 0:
            source.dropped["all_zero_probabilities"] += 1
            continue
        accepted = _mmoqa_response(row, "accept", where, source.classes, probs)
        rejected = _mmoqa_response(row, "reject", where, source.classes, probs)
        if accepted == rejected:
            source.dropped["preferred_equal_to_rejected"] += 1
            continue
        gathered = merged.setdefault((prompt, probs), PairsOfPrompt(where, {}, []))
        gathered.pairs.append(gathered.pair_of(accepted, rejected))
        questions[prompt] = str(row.get("question") or "")
    return [
        _mmoqa_group(prompt, probs, gathered)._replace(question=questions[prompt])
        for (prompt, probs), gathered in merged.items()
    ]


def _mmoqa_probs(row: Row, where: str, num_classes: int) -> tuple[float, ...]:
    """The row's probabilities as they stand there, of any sum."""
    probs = row.get("probabilities")
    if not isinstance(probs, list) or len(probs) != num_classes or not all(is_share(p) for p in probs):
        raise UserError(
            f"{where}: field probabilities: {probs} are not {num_classes} non-negative numbers; "
            "correct the row"
        )
    return tuple(probs)


def _mmoqa_response(
    row: Row, side: str, where: str, classes: Sequence[str], probs: Sequence[float]
) -> Response:
    label = str(row.get(f"{side}_choice_id"))
    if label not in classes:
        raise UserError(
            f"{where}: field {side}_choice_id: {label} is none of {', '.join(classes)}; "
            "correct the row or set belief_classes"
        )
    share = probs[list(classes).index(label)] / sum(probs)
    belief = Belief(label, str(row.get(f"{side}_choice") or ""))
    return Response(text_field(row, f"{side}_response", where), 10 * share, belief)


def _mmoqa_group(prompt: str, probs: Sequence[float], gathered: PairsOfPrompt) -> Group:
    return Group(
        id=gathered.where,
        prompt=prompt,
        responses=tuple(gathered.responses),
        pairs=tuple(gathered.pairs),
        belief_probs=tuple(p / sum(probs) for p in probs),
        where=gathered.where,
    )


# --- surveys of many countries ------------------------------------------------------------------------------


class _Question(NamedTuple):
    """A survey question in raw values."""

    countries: list[str]  # that were asked
    shares: Any  # the chosen country's answers; None: it was not asked
    options: Any


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
            source.dropped[reason] += 1
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
        printed = str(row["selections"])  # defaultdict(<class 'list'>, {'Chile': [0.25, 0.75], ...})
        shares = ast.literal_eval(printed[printed.index("{") : printed.rindex("}") + 1])
        options = row["options"]
        if isinstance(options, str):
            options = ast.literal_eval(options)
        return _Question([str(name) for name in shares], shares.get(country), options)
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
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
    if len(shares) != len(options) or len(options) < 2 or not all(is_share(p) for p in shares):
        return "shares_do_not_fit_options"
    if sum(shares) <= 0:
        return "all_zero_probabilities"
    return ""


def _goqa_group(row: Row, question: _Question, where: str, classes: Sequence[str]) -> Group:
    options = [str(option) for option in question.options]
    total = sum(question.shares)
    probs = tuple(p / total for p in question.shares)
    listed = "".join(f"\n{label}: {option}" for label, option in zip(classes, options))
    return Group(
        id=where,
        prompt=f"<Q>{text_field(row, 'question', where)}{listed}<A>",
        responses=tuple(Response("", None, Belief(*belief)) for belief in zip(classes, options)),
        belief_probs=probs + (0.0,) * (len(classes) - len(options)),
        where=where,
        question=row["question"],
    )
