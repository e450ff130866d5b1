"""Readers of data with p*, the probabilities of a group of people over the belief classes.

Contract: every group has `belief_probs` (one entry a class, sum 1), and every response has a belief.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groups.drawing import draw_pairs
from groups.files import DATA, OPINION_GROUPS, OPINION_SPLITS, read_rows
from groups.options import answers_of, labels_by_position, options_of_rows
from groups.record import CLASSES, Belief, Group, Response
from groups.rows import PairsOfPrompt, Row, Rows, Source, is_share, text_field
from groups.values import is_absent, label_of, parsed
from utils import UserError

PEOPLE = {  # as a question may address them
    "democrat": "Democrats",
    "independent": "Independents",
    "republican": "Republicans",
    "strong_democrat": "strong Democrats",
    "strong_republican": "strong Republicans",
}

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
    if split not in (*OPINION_SPLITS, "all"):
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
        if split in (row["split"], "all") and party in question["groups"]:
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
        people=PEOPLE[party],
        prompt=f"<Q>{row['prompt']}<A>",
        responses=responses,
        belief_probs=tuple(probs.get(c, 0.0) for c in classes),
        where=f"opinions, {name}",
        question=row["id"],
        options=tuple(response.belief for response in responses),
    )


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
