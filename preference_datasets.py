"""Text in: one short reader a data set, the views that turn groups into examples, and tokenization.

Contract: readers give `Group`s (a prompt with its responses), `view` says which responses an example compares and under
which belief, `tokenize` gives a `TokenTree`. Truncation lives here only. Nothing is silently repaired: a bad row raises
`UserError` with file, row, field and remedy; what is dropped on purpose is counted in the audit.

    python preference_datasets.py opinions/republican        # the audit of a data set, without a model
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from forest import TokenTree, tree_tokens
from utils import UserError, log, run_entry

DATA = Path(__file__).parent / "data"
CLASSES = (
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
)  # GDPO: 5 strongly positive ... 1 strongly negative, 0 don't know / refused
OPINION_GROUPS = ("democrat", "independent", "republican", "strong_democrat", "strong_republican")
OPINION_SPLITS = ("train", "eval", "test", "test_questions")
ALIASES = {
    "hh": "Anthropic/hh-rlhf",
    "shp": "stanfordnlp/SHP",
    "se": "HuggingFaceH4/stack-exchange-preferences",
    "goqa": "Anthropic/llm_global_opinions",
}
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")


class Belief(NamedTuple):
    """What a response holds before it argues: the class label and the option's words ("" where the class stands alone)."""

    label: str
    text: str


class Response(NamedTuple):
    text: str
    reward: float | None = None
    belief: Belief | None = None


class Group(NamedTuple):
    """A prompt with its responses; `pairs` are (preferred, other) indices, `belief_probs` the group's p*, one entry a class."""

    id: str
    prompt: Any  # str, or a list of {"role", "content"} messages
    responses: tuple[Response, ...]
    pairs: tuple[tuple[int, int], ...] = ()
    belief_probs: tuple[float, ...] = ()
    where: str = ""  # file and row, for errors
    truncation: str = "keep_end"  # which end of a long prompt to keep, unless the run says otherwise
    dataset: str = ""  # as the user named it


class Example(NamedTuple):
    """One row of a loss's table: which group, which responses (column 0 preferred, None: none there), whether they stand under
    the first one's belief, and their rewards where the view goes by reward."""

    group: int
    columns: tuple[int | None, ...]
    conditioned: bool
    rewards: tuple[float, ...] = ()


class Limits(NamedTuple):
    """Token limits of one example's path: prompt and response together, and the prompt alone (None: no limit of its own)."""

    max_length: int
    max_prompt_length: int | None
    truncation: str | None = None  # keep_end or keep_start; None: as the data set's reader says


def limits_with_shots(
    max_length: int, max_prompt_length: int | None, truncation: str | None, shots: int
) -> Limits:
    """Limits where every shot before the prompt may take as much as an example."""
    return Limits(
        max_length * (1 + shots), max_prompt_length and max_prompt_length + max_length * shots, truncation
    )


class Source(NamedTuple):
    """What a reader is told beside its rows: the belief classes, which member of the data (a country), where to count drops."""

    classes: Sequence[str]
    member: str
    dropped: Counter


Rows = Sequence[tuple[str, dict]]  # (file and row, columns)


# --- readers ------------------------------------------------------------------------------------------------


def load_groups(
    name: str,
    split: str,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    pairs_per_prompt: int = 16,
    eval_fraction: float = 0.05,
    dropped: Counter | None = None,
) -> list[Group]:
    """Read a data set's split: a known name, a path to .jsonl, .json, .parquet or .csv, or a hub id.

    A file has no splits of its own: its `eval` (or `test`) split is the ceil(eval_fraction * prompts) rows whose prompt has
    the smallest hash, `train` the others, `all` every row; so it is with hub data that has a train split alone. Survey data
    of many countries takes the country after a colon, `goqa:Germany`. `dropped` counts rows left out, by reason.
    Raises UserError for an unknown name or split, or an invalid row.
    """
    dropped = Counter() if dropped is None else dropped
    if name == "opinions" or name.startswith("opinions/"):
        groups = read_opinions(name, split, seed, pairs_per_prompt)
        dropped["rows_read"] += len(groups)
        return [g._replace(dataset=name) for g in groups]
    path, member = Path(name), ""
    if not path.exists() and ":" in name:
        path, member = Path(name.rpartition(":")[0]), name.rpartition(":")[2]
    is_file = path.suffix in SUFFIXES or path.exists()
    if is_file and split not in ("train", "eval", "test", "all"):
        raise UserError(f"data set {name}: no split {split}; a file has train, eval and all")
    place = str(path) if is_file else f"{name}/{split}"
    raw, whole = (read_rows(path), True) if is_file else _read_hub(ALIASES.get(str(path), str(path)), split)
    rows = [(f"{place}, row {n}", row) for n, row in enumerate(raw, 1)]
    if bad := next((where for where, row in rows if not isinstance(row, dict)), None):
        raise UserError(f"{bad}: not a JSON object; write one object a line")
    columns = set(rows[0][1]) if rows else set()
    read = next(
        (read for needed, read in READERS if needed <= columns),
        read_own if {"prompt", "responses"} & columns else None,
    )
    if read is None:
        known = "; ".join(", ".join(sorted(needed)) for needed, _ in READERS)
        raise UserError(
            f"{place}, row 1: columns {', '.join(sorted(columns)) or 'none'} are no known data set; write prompt "
            f"and responses, or the columns of a supported data set ({known})"
        )
    if member and read is not read_goqa:
        raise UserError(f"data set {name}: its columns have no members to choose from; remove :{member}")
    dropped["rows_read"] += len(rows)
    groups = [g._replace(dataset=name) for g in read(rows, Source(classes, member, dropped))]
    groups = [
        g
        if g.pairs or not g.belief_probs
        else g._replace(pairs=draw_pairs(g, classes, pairs_per_prompt, seed))
        for g in groups
    ]
    kept = _hold_out(groups, split, eval_fraction) if whole else groups
    dropped["in_other_splits"] += len(groups) - len(kept)
    return kept


def read_rows(path: Path) -> list[dict]:
    """Rows of a .jsonl, .json, .parquet or .csv file as dicts."""
    if not path.is_file():
        raise UserError(
            f"data set {path}: no such file; give a {', '.join(SUFFIXES)} file, a hub id, "
            f"or one of opinions/{{{','.join(OPINION_GROUPS)}}}"
        )
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(path).to_pylist()
        except (
            pyarrow.ArrowException,
            OSError,
            ValueError,
        ) as error:  # OSError also for values that it does not know
            raise UserError(
                f"{path}: not a readable parquet file ({str(error).splitlines()[0][:200]}); write it again"
            ) from error
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"data set {path}: cannot read {path.suffix or 'this kind of'} files; give {', '.join(SUFFIXES)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; save the file as UTF-8") from error
    if path.suffix == ".csv":
        csv.field_size_limit(2**31 - 1)  # a printed table of countries is one long field
        try:
            rows = list(csv.DictReader(text.splitlines(keepends=True)))
        except csv.Error as error:
            raise UserError(f"{path}: not a readable csv file ({error}); write it again") from error
        if bad := next((n for n, row in enumerate(rows, 1) if None in row), None):
            raise UserError(
                f"{path}, row {bad}: has more fields than the header; put quotes around fields that hold commas"
            )
    elif path.suffix == ".json":
        rows = _parse_json(path, text)
    else:
        rows = [
            _parse_line(path, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()
        ]
    if not rows:
        raise UserError(f"{path}: holds no rows; write one object a row")
    return rows


def _parse_json(path: Path, text: str) -> list:
    value = _loads(text, str(path), "write one list of objects, or one object a line in a .jsonl file")
    if not isinstance(value, list):
        raise UserError(f"{path}: holds no list; write one list of objects")
    return value


def _parse_line(path: Path, number: int, line: str) -> Any:
    return _loads(line, f"{path}, row {number}", "write one JSON object a line")


def _loads(text: str, place: str, remedy: str) -> Any:
    """JSON that no later step stumbles over. Raises UserError."""
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # half of a surrogate pair is no character, and no tokenizer takes it
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place}: not valid JSON ({error.msg} at line {error.lineno}, column {error.colno}); {remedy}"
        ) from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: holds half of a surrogate pair (\\ud800 to \\udfff); write the text as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:  # digits without end, brackets without end
        raise UserError(f"{place}: not usable JSON ({str(error)[:80]}); {remedy}") from error


SPLIT_NAMES = {
    "train": ("train", "train_prefs"),
    "eval": ("eval", "validation", "test_prefs", "test"),
    "test": ("test", "test_prefs"),
}


def _read_hub(name: str, split: str) -> tuple[list[dict], bool]:
    """Rows of a hub data set through `datasets` (its own cache and offline mode apply), and whether they hold all splits.

    Splits go by their usual names: eval is eval, validation, test_prefs or test; data with none of these is all in one split.
    """
    unknown = (
        f"data set {name}: unknown; give opinions/{{{','.join(OPINION_GROUPS)}}}, {', '.join(ALIASES)}, "
        f"a {', '.join(SUFFIXES)} file, or a hub id (owner/name)"
    )
    if name.count("/") != 1:
        raise UserError(unknown)
    import datasets

    try:
        present = datasets.get_dataset_split_names(name)
        whole = not any(n in present for n in SPLIT_NAMES["eval"])
        found = next(
            (n for n in SPLIT_NAMES["train" if whole else split] if n in present)
            if split in SPLIT_NAMES
            else (n for n in present if n == split),
            None,
        )
        if found is None:
            raise UserError(f"data set {name}: no split {split}; it has {', '.join(present)}")
        return list(datasets.load_dataset(name, split=found)), whole and split in SPLIT_NAMES
    except (OSError, ValueError) as error:  # datasets raises these for: no such data set or split, no network
        raise UserError(f"{unknown}; the hub said: {str(error).splitlines()[0][:160]}") from error


def _hold_out(groups: list[Group], split: str, fraction: float) -> list[Group]:
    if split == "all":
        return groups
    place = sorted(
        range(len(groups)), key=lambda i: hashlib.sha256(json.dumps(groups[i].prompt).encode()).hexdigest()
    )
    held = set(place[: math.ceil(fraction * len(groups))])
    return [g for i, g in enumerate(groups) if (i in held) == (split != "train")]


def read_opinions(name: str, split: str, seed: int, pairs_per_prompt: int) -> list[Group]:
    """The embedded survey opinions of a US party group: 49 questions in five phrasings, p* from the surveys' counts."""
    group = name.removeprefix("opinions").removeprefix("/")
    if group not in OPINION_GROUPS:
        raise UserError(
            f"data set {name}: no such group; choose one of {', '.join('opinions/' + g for g in OPINION_GROUPS)}"
        )
    if split not in OPINION_SPLITS:
        raise UserError(f"data set {name}: no split {split}; choose one of {', '.join(OPINION_SPLITS)}")
    questions = {q["id"]: q for q in read_rows(DATA / "opinions" / "questions.jsonl")}
    groups = []
    for row in read_rows(DATA / "opinions" / "language.jsonl"):
        question = questions[row["id"]]
        if row["split"] != split or group not in question["groups"]:
            continue
        counts = question["groups"][group]["counts"]
        probs = {str(c): n / sum(counts) for c, n in zip(question["option_class"], counts)}
        responses = tuple(
            Response(row["answers"][option], 10 * probs[str(c)], Belief(str(c), option))
            for option, c in zip(question["options"], question["option_class"])
        )
        made = Group(
            f"{row['id']}/{row['style']}",
            f"<Q>{row['prompt']}<A>",
            responses,
            belief_probs=tuple(probs.get(c, 0.0) for c in CLASSES),
            where=f"opinions, {row['id']}/{row['style']}",
        )
        groups.append(made._replace(pairs=draw_pairs(made, CLASSES, pairs_per_prompt, seed)))
    return groups


def draw_pairs(
    group: Group, classes: Sequence[str], num_pairs: int, seed: int
) -> tuple[tuple[int, int], ...]:
    """GDPO's pairing: b_w drawn from p*, b_l uniformly from the other beliefs with a response; fixed by (seed, group id)."""
    members = [
        [i for i, r in enumerate(group.responses) if r.belief is not None and r.belief.label == c]
        for c in classes
    ]
    present = [k for k, indices in enumerate(members) if indices]
    weights = np.asarray([group.belief_probs[k] for k in present], float)
    if len(present) < 2 or weights.sum() <= 0:
        raise UserError(
            f"{group.where}: field responses: needs answers under at least two beliefs, one with belief_probs > 0, "
            "to draw pairs; add some or give pairs"
        )
    rng, pairs = rng_of(seed, group.id), []
    for w in rng.choice(len(present), num_pairs, p=weights / weights.sum()):
        other = rng.integers(len(present) - 1)
        pairs.append(tuple(int(rng.choice(members[present[k]])) for k in (w, other + (other >= w))))
    return tuple(pairs)


def read_own(rows: Rows, source: Source) -> list[Group]:
    """This project's own format, one prompt a row."""
    return [parse_group(row, where, source.classes) for where, row in rows]


ROW_KEYS = {"id", "prompt", "responses", "pairs", "belief_probs"}
RESPONSE_KEYS = {"text", "reward", "belief"}


def parse_group(row: Any, where: str, classes: Sequence[str] = CLASSES) -> Group:
    """Check one row of this project's own format. Raises UserError that names the row, the field and the remedy."""

    def bad(field: str, problem: str, remedy: str) -> UserError:
        return UserError(f"{where}: field {field}: {problem}; {remedy}")

    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object; write one object a line")
    row = {k: v for k, v in row.items() if v is not None}  # parquet writes absent fields as null
    if unknown := sorted(set(row) - ROW_KEYS):
        raise bad(unknown[0], "unknown", f"known fields are {', '.join(sorted(ROW_KEYS))}")
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        if not prompt or not all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in prompt
        ):
            raise bad(
                "prompt",
                "messages need a role and a content string each",
                'write [{"role": "user", "content": "..."}]',
            )
    elif not isinstance(prompt, str) or not prompt.strip():
        raise bad("prompt", "missing or empty", "every row needs a prompt: a string or a list of messages")
    responses = row.get("responses")
    if not isinstance(responses, list) or not responses:
        raise bad("responses", "missing or empty", 'write a list of {"text": ...}')
    parsed = tuple(_parse_response(r, f"responses[{i}]", bad, classes) for i, r in enumerate(responses))
    probs = row.get("belief_probs", [])
    if "belief_probs" in row:
        if not isinstance(probs, list) or len(probs) != len(classes):
            raise bad(
                "belief_probs",
                f"has {len(probs) if isinstance(probs, list) else 'no'} entries for {len(classes)} classes",
                "give one probability a class, in the order of belief_classes",
            )
        if not all(_is_number(p) and p >= 0 for p in probs):
            raise bad(
                "belief_probs", f"{probs} holds a value that is negative or no number", "give probabilities"
            )
        if abs(sum(probs) - 1) > 0.01:
            raise bad("belief_probs", f"sums to {sum(probs):.4g}", "make it sum to 1")
        probs = [p / sum(probs) for p in probs]  # what rounding left
        if any(r.belief is None for r in parsed):
            raise bad(
                "responses",
                "belief_probs is given but a response has no belief",
                'add "belief": {"class": ..., "text": ...}',
            )
    pairs = row.get("pairs", [])
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not (
            isinstance(pair, list)
            and len(pair) == 2
            and all(type(i) is int and 0 <= i < len(parsed) for i in pair)
            and pair[0] != pair[1]
        ):
            raise bad(
                "pairs",
                f"{pair} is no [preferred, other] pair of two response indices",
                f"use indices 0 to {len(parsed) - 1}",
            )
    if twice := next((list(pair) for pair, count in Counter(map(tuple, pairs)).items() if count > 1), None):
        raise bad("pairs", f"{twice} stands there twice", "give each pair once")
    return Group(str(row.get("id", where)), prompt, parsed, tuple(map(tuple, pairs)), tuple(probs), where)


def _parse_response(
    value: Any, field: str, bad: Callable[[str, str, str], UserError], classes: Sequence[str]
) -> Response:
    if not isinstance(value, dict):
        raise bad(field, "is no object", 'write {"text": "..."}')
    value = {k: v for k, v in value.items() if v is not None}
    if unknown := sorted(set(value) - RESPONSE_KEYS):
        raise bad(f"{field}.{unknown[0]}", "unknown", f"known fields are {', '.join(sorted(RESPONSE_KEYS))}")
    if not isinstance(value.get("text"), str) or not value["text"].strip():
        raise bad(f"{field}.text", "missing or empty", "give the response's text or leave the response out")
    if "reward" in value and not (_is_number(value["reward"]) and math.isfinite(value["reward"])):
        raise bad(
            f"{field}.reward",
            f"{value['reward']} is no finite number",
            "give a number or leave the field out",
        )
    belief = value.get("belief")
    if belief is not None:
        if (
            not isinstance(belief, dict)
            or belief.get("class") not in classes
            or not isinstance(belief.get("text", ""), str)
        ):
            raise bad(
                f"{field}.belief",
                f"{belief!r} has no class among {', '.join(classes)}",
                'write {"class": "4", "text": "..."} or set belief_classes',
            )
        belief = Belief(belief["class"], belief.get("text") or "")
    return Response(value["text"], value.get("reward"), belief)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (isinstance(value, float) or abs(value) < 2**63)
    )


def read_mmoqa(rows: Rows, source: Source) -> list[Group]:
    """The GDPO authors' opinions and movie reviews (Binwei01/*): rows of one prompt and p* are its pairs, in one group.

    Movie reviews have no accept_choice: their belief is the class token alone. A `context` stands before the question.
    Rows with all-zero probabilities or equal sides carry no preference; they are left out and counted.
    """
    merged: dict[tuple, tuple[str, dict[Response, int], list]] = {}
    for where, row in rows:
        probs = row.get("probabilities")
        if (
            not isinstance(probs, list)
            or len(probs) != len(source.classes)
            or not all(_is_number(p) and p >= 0 for p in probs)
        ):
            raise UserError(
                f"{where}: field probabilities: {probs} are not {len(source.classes)} non-negative numbers; correct the row"
            )
        total, prompt = sum(probs), f"{row.get('context') or ''}<Q>{_text(row, 'prompt', where)}<A>"
        if total == 0:
            source.dropped["all_zero_probabilities"] += 1
            continue
        sides = [
            _mmoqa_response(row, side, where, source.classes, [p / total for p in probs])
            for side in ("accept", "reject")
        ]
        if sides[0] == sides[1]:
            source.dropped["preferred_equal_to_rejected"] += 1
            continue
        _, responses, pairs = merged.setdefault((prompt, tuple(probs)), (where, {}, []))
        pairs.append(tuple(responses.setdefault(r, len(responses)) for r in sides))
    return [
        Group(where, prompt, tuple(responses), tuple(pairs), tuple(p / sum(probs) for p in probs), where)
        for (prompt, probs), (where, responses, pairs) in merged.items()
    ]


def _mmoqa_response(
    row: dict, side: str, where: str, classes: Sequence[str], probs: Sequence[float]
) -> Response:
    label = str(row.get(f"{side}_choice_id"))
    if label not in classes:
        raise UserError(
            f"{where}: field {side}_choice_id: {label} is none of {', '.join(classes)}; correct the row or set belief_classes"
        )
    return Response(
        _text(row, f"{side}_response", where),
        10 * probs[list(classes).index(label)],
        Belief(label, str(row.get(f"{side}_choice") or "")),
    )


def _text(row: dict, field: str, where: str) -> str:
    if not isinstance(row.get(field), str) or not row[field].strip():
        raise UserError(f"{where}: field {field}: missing or empty; give the text or leave the row out")
    return row[field]


def _ask(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def _scored(
    where: str,
    prompt: Any,
    candidates: Sequence[tuple[Any, Any]],
    source: Source,
    truncation: str = "keep_end",
) -> list[Group]:
    """A group of (text, score) candidates, or none where fewer than two can be used; what is left out is counted."""
    kept: dict[str, Response] = {}
    for number, (text, score) in enumerate(candidates):
        if not isinstance(text, str) or not text.strip():
            source.dropped["empty_responses"] += 1
        elif not _is_number(score):  # UltraFeedback writes "N/A"
            source.dropped["responses_without_score"] += 1
        elif not math.isfinite(score):
            raise UserError(
                f"{where}: response {number + 1}: score {score} is no finite number; correct the row"
            )
        elif text in kept:
            source.dropped["repeated_responses"] += 1
        else:
            kept[text] = Response(text, float(score))
    if len(kept) < 2:
        source.dropped["prompts_with_fewer_than_two_responses"] += 1
        return []
    return [Group(where, prompt, tuple(kept.values()), where=where, truncation=truncation)]


def read_ultrafeedback(rows: Rows, source: Source) -> list[Group]:
    """openbmb/UltraFeedback: up to four completions with GPT-4's overall score (use a revision after that score was corrected)."""
    groups = []
    for where, row in rows:
        if not isinstance(row["completions"], list) or not all(
            isinstance(c, dict) and "response" in c for c in row["completions"]
        ):
            raise UserError(
                f"{where}: field completions: is no list of objects with a response; correct the row"
            )
        found = [(c["response"], c.get("overall_score")) for c in row["completions"]]
        groups += _scored(where, _ask(_text(row, "instruction", where)), found, source)
    return groups


def read_armorm(rows: Rows, source: Source) -> list[Group]:
    """princeton-nlp/*-ultrafeedback-armorm: five sampled responses with ArmoRM scores; repeated responses are counted."""
    groups = []
    for where, row in rows:
        texts, scores = row["all_generated_responses"], row["all_rm_scores"]
        if not isinstance(texts, list) or not isinstance(scores, list) or len(texts) != len(scores):
            raise UserError(
                f"{where}: fields all_generated_responses and all_rm_scores: need lists of one length; correct the row"
            )
        groups += _scored(where, _ask(_text(row, "prompt", where)), list(zip(texts, scores)), source)
    return groups


def read_binarized(rows: Rows, source: Source) -> list[Group]:
    """HuggingFaceH4/ultrafeedback_binarized: two conversations that differ in the last turn, with scores."""
    groups = []
    for where, row in rows:
        sides = [row["chosen"], row["rejected"]]
        if not all(
            isinstance(s, list)
            and s
            and all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in s)
            for s in sides
        ):
            raise UserError(f"{where}: fields chosen and rejected: need lists of messages; correct the row")
        if any(
            len(s) < 2 or s[-1].get("role") != "assistant" for s in sides
        ):  # the splits for generation have no answer
            source.dropped["without_assistant_turn"] += 1
            continue
        sides = [[{"role": m["role"], "content": m["content"]} for m in s] for s in sides]
        if sides[0][:-1] != sides[1][:-1]:
            raise UserError(f"{where}: fields chosen and rejected: have different prompts; correct the row")
        if sides[0] == sides[1]:
            source.dropped["preferred_equal_to_rejected"] += 1
            continue
        scored = zip((s[-1]["content"] for s in sides), (row["score_chosen"], row["score_rejected"]))
        groups += _scored(where, sides[0][:-1], list(scored), source)
    return groups


def read_hh(rows: Rows, source: Source) -> list[Group]:
    """Anthropic/hh-rlhf, as in the DPO repository: the prompt ends with the last "Assistant:"; long prompts keep their end."""
    mark, merged = "\n\nAssistant:", {}
    for where, row in rows:
        chosen, rejected = _text(row, "chosen", where), _text(row, "rejected", where)
        prompt = chosen[: chosen.rfind(mark) + len(mark)]
        if mark not in chosen or not rejected.startswith(prompt):
            source.dropped["sides_without_a_common_prompt"] += 1
            continue
        sides = [text[len(prompt) :] for text in (chosen, rejected)]
        if not all(s.strip() for s in sides):
            source.dropped["empty_responses"] += 1
        elif sides[0] == sides[1]:
            source.dropped["preferred_equal_to_rejected"] += 1
        else:
            _merge(merged, prompt, [Response(s) for s in sides], where, source)
    return [
        Group(where, prompt, tuple(found), tuple(pairs), where=where)
        for prompt, (where, found, pairs) in merged.items()
    ]


def _merge(merged: dict, prompt: str, sides: Sequence[Response], where: str, source: Source) -> None:
    """Add a (preferred, other) pair to its prompt's group; the same pair once more is counted."""
    _, responses, pairs = merged.setdefault(prompt, (where, {}, []))
    pair = tuple(responses.setdefault(r, len(responses)) for r in sides)
    if pair in pairs:
        source.dropped["repeated_pairs"] += 1
    else:
        pairs.append(pair)


def read_shp(rows: Rows, source: Source) -> list[Group]:
    """stanfordnlp/SHP, as in the DPO repository: pairs of comments whose scores differ by a factor of 2 or more."""
    merged: dict = {}
    for where, row in rows:
        scores = [row["score_A"], row["score_B"]]
        if not all(_is_number(s) and math.isfinite(s) for s in scores) or row["labels"] not in (0, 1):
            raise UserError(
                f"{where}: fields score_A, score_B, labels: need two finite numbers and 0 or 1; correct the row"
            )
        if max(scores) < 2 * min(scores):
            source.dropped["score_ratio_below_2"] += 1
            continue
        sides = [
            Response(f" {_text(row, f'human_ref_{side}', where)}", float(score))
            for side, score in zip("AB", scores)
        ]
        prompt = f"\n\nHuman: {_text(row, 'history', where)}\n\nAssistant:"
        _merge(merged, prompt, sides if row["labels"] == 1 else sides[::-1], where, source)
    return [
        Group(where, prompt, tuple(found), tuple(pairs), where=where, truncation="keep_start")
        for prompt, (where, found, pairs) in merged.items()
    ]


class _Plain(HTMLParser):
    """The text of an HTML page; code keeps its tags, paragraphs become blank lines."""

    def __init__(self, html: str):
        super().__init__()
        self.parts: list[str] = []
        self.feed(html)
        self.close()
        self.text = "".join(self.parts).strip()

    def handle_starttag(self, tag, attrs):
        self.parts += ["<code>"] if tag == "code" else []

    def handle_endtag(self, tag):
        self.parts += ["</code>"] if tag == "code" else ["\n\n"] if tag == "p" else []

    def handle_data(self, data):
        self.parts.append(data if data.strip() or "\n" not in data else "")


def read_se(rows: Rows, source: Source) -> list[Group]:
    """HuggingFaceH4/stack-exchange-preferences: answers with pm_score; the DPO repository takes `responses=pairs.all` of them."""
    groups = []
    for where, row in rows:
        if not isinstance(row["answers"], list) or not all(
            isinstance(a, dict) and isinstance(a.get("text"), str) for a in row["answers"]
        ):
            raise UserError(f"{where}: field answers: is no list of objects with a text; correct the row")
        prompt = f"\n\nHuman: {_Plain(_text(row, 'question', where)).text}\n\nAssistant:"
        found = [(f" {_Plain(a['text']).text}", a.get("pm_score")) for a in row["answers"]]
        groups += _scored(where, prompt, found, source, truncation="keep_start")
    return groups


def read_goqa(rows: Rows, source: Source) -> list[Group]:
    """Anthropic/llm_global_opinions: survey questions with the answers' shares in many countries, one country a data set.

    The options stand in the prompt, labelled with the belief classes in their order; a response is its belief alone, so
    this is data for calibration and for evaluation.
    """
    groups, countries = [], Counter()
    for where, row in rows:
        try:
            text = str(row["selections"])
            shares = ast.literal_eval(text[text.index("{") : text.rindex("}") + 1])
            options = ast.literal_eval(row["options"]) if isinstance(row["options"], str) else row["options"]
            countries.update(map(str, shares))
            probs = shares.get(source.member)
        except (ValueError, SyntaxError, AttributeError, TypeError) as error:
            raise UserError(
                f"{where}: fields selections and options: are no printed table and list; correct the row"
            ) from error
        if probs is None:
            source.dropped["not_asked_in_this_country"] += 1
        elif len(options) > len(source.classes):
            source.dropped["more_options_than_classes"] += 1
        elif (
            len(probs) != len(options) or not all(_is_number(p) and p >= 0 for p in probs) or len(options) < 2
        ):
            source.dropped["shares_do_not_fit_options"] += 1
        elif sum(probs) <= 0:
            source.dropped["all_zero_probabilities"] += 1
        else:
            labels = source.classes[: len(options)]
            listed = "".join(f"\n{label}: {option}" for label, option in zip(labels, options))
            responses = tuple(
                Response("", None, Belief(label, str(option))) for label, option in zip(labels, options)
            )
            total = sum(probs)
            full = tuple(p / total for p in probs) + (0.0,) * (len(source.classes) - len(options))
            groups.append(
                Group(where, f"<Q>{_text(row, 'question', where)}{listed}<A>", responses, (), full, where)
            )
    if source.member not in countries:
        some = ", ".join(c for c, _ in countries.most_common(5))
        raise UserError(
            f"{rows[0][0].rpartition(', ')[0]}: no country {source.member or 'is named'}; "
            f"give one after a colon, datasets=[...:{next(iter(countries), 'Germany')}]; there are {some}, ..."
        )
    return groups


READERS: list[
    tuple[set[str], Callable[[Rows, Source], list[Group]]]
] = [  # the first whose columns are all there reads the file
    (
        {
            "prompt",
            "accept_response",
            "reject_response",
            "accept_choice_id",
            "reject_choice_id",
            "probabilities",
        },
        read_mmoqa,
    ),
    ({"instruction", "completions"}, read_ultrafeedback),
    ({"prompt", "all_generated_responses", "all_rm_scores"}, read_armorm),
    ({"chosen", "rejected", "score_chosen", "score_rejected"}, read_binarized),
    ({"history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"}, read_shp),
    ({"question", "selections", "options"}, read_goqa),
    ({"question", "answers"}, read_se),
    ({"chosen", "rejected"}, read_hh),
]


# --- views --------------------------------------------------------------------------------------------------


def view(
    groups: Sequence[Group], responses: str, seed: int = 0, dropped: Counter | None = None
) -> list[Example]:
    """Turn groups into examples, as config key `responses` says.

    target: the preferred response alone. pairs: the group's own pairs, else best against worst by reward, each response
    after its own belief. own_belief: the same, beliefs required (the GDPO paper's DPO baseline). conditioned: both answers
    under the preferred one's belief (GDPO). conditioned.all: every answer of the prompt under the preferred one's belief,
    with reward 1 where that is its own belief and 0 elsewhere. binary: both sides of `pairs` apart, or every response by
    itself, desirable where its reward is above the prompt's mean. ranked: all responses, best first. By reward, whatever
    pairs are given: pairs.best_vs_worst, pairs.best_vs_random (drawn by the seed), pairs.best_vs_rest, pairs.all (ties left out).
    Prompts whose rewards are all equal hold no preference: views by reward leave them out and count them in `dropped`.
    """
    if responses not in VIEWS:
        raise UserError(f"responses={responses}: choose one of {', '.join(VIEWS)}")
    examples, dropped = [], Counter() if dropped is None else dropped
    for number, group in enumerate(groups):
        if responses in UNDER_BELIEFS and not all(r.belief for r in group.responses):
            raise UserError(
                f"{group.where}: responses={responses} needs a belief on every response; add belief or set responses=pairs"
            )
        rewards = [r.reward for r in group.responses]
        by_reward = responses in BY_REWARD or not group.pairs and responses != "target"
        if by_reward:
            if len(rewards) < 2 or None in rewards:
                raise UserError(
                    f"{group.where}: field responses: responses={responses} needs "
                    f"{'two or more responses' if len(rewards) < 2 else 'a reward on each'}; add them or set responses=target"
                )
            if max(rewards) == min(rewards):
                dropped["equal_rewards"] += 1
                continue
        pairs = _reward_pairs(group, responses, seed) if by_reward else group.pairs

        def example(*columns: int | None, number=number, rewards=rewards if by_reward else None) -> Example:
            return Example(
                number,
                columns,
                responses == "conditioned",
                () if rewards is None else tuple(0.0 if c is None else rewards[c] for c in columns),
            )

        if responses == "ranked":
            examples.append(example(*_by_reward(group)))
        elif responses == "target":
            best = max(range(len(rewards)), key=rewards.__getitem__) if None not in rewards else 0
            examples += [example(w) for w, _ in pairs] or [example(best)]
        elif responses == "binary" and by_reward:
            mean = sum(rewards) / len(rewards)
            examples += [example(i, None) if r > mean else example(None, i) for i, r in enumerate(rewards)]
        elif responses == "binary":
            examples += [side for w, other in pairs for side in (example(w, None), example(None, other))]
        elif responses == "conditioned.all":
            for w, _ in pairs:
                belief, others = group.responses[w].belief, [i for i in range(len(rewards)) if i != w]
                same = [float(group.responses[i].belief == belief) for i in others]
                if all(same):
                    dropped["without_another_belief"] += 1
                    continue
                examples.append(Example(number, (w, *others), True, (1.0, *same)))
        else:
            examples += [example(*pair) for pair in pairs]
    return examples


BY_REWARD = ("ranked", "pairs.best_vs_worst", "pairs.best_vs_random", "pairs.best_vs_rest", "pairs.all")
UNDER_BELIEFS = ("own_belief", "conditioned", "conditioned.all")
VIEWS = ("target", "binary", "pairs", *UNDER_BELIEFS, *BY_REWARD)


def _by_reward(group: Group) -> tuple[int, ...]:
    """Response indices, highest reward first; equal ones keep their order."""
    return tuple(sorted(range(len(group.responses)), key=lambda i: -group.responses[i].reward))


def _reward_pairs(group: Group, responses: str, seed: int) -> list[tuple[int, int]]:
    """(preferred, other) pairs by reward; both of a pair never have the same reward."""
    order = _by_reward(group)
    reward = [group.responses[i].reward for i in order]
    pairs = [
        (order[i], order[j])
        for i in range(len(order))
        for j in range(i + 1, len(order))
        if reward[i] > reward[j]
    ]
    of_best = [pair for pair in pairs if pair[0] == order[0]]
    if responses == "pairs.all":
        return pairs
    if responses == "pairs.best_vs_rest":
        return of_best
    if responses == "pairs.best_vs_random":
        return [of_best[rng_of(seed, group.id).integers(len(of_best))]]
    return [of_best[-1]]


def rng_of(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and on names alone, not on the order of the data."""
    digest = hashlib.sha256(" ".join((str(seed), *names)).encode()).digest()
    return np.random.default_rng(list(digest[:8]))


def with_shots(groups: Sequence[Group], donors: Sequence[Group], shots: int, seed: int) -> list[Group]:
    """Put `shots` solved examples before every prompt: prompts of other donors with a preferred response, drawn by the seed.

    Text prompts follow one another after a blank line; message prompts get turns. Few-shot prompting and, trained on,
    in-context finetuning (ICF, the GDPO paper's baseline). Raises UserError where there are not enough donors.
    """
    if not shots:
        return list(groups)
    pool = {json.dumps(d.prompt): d for d in donors}
    if len(pool) <= shots:
        raise UserError(
            f"{shots} shots need more than {shots} different train prompts, and there are {len(pool)}; lower the number"
        )
    names, shown = list(pool), []
    for group in groups:
        rng, own = rng_of(seed, "shots", group.id), json.dumps(group.prompt)
        picked = [
            pool[names[i]] for i in rng.choice(len(names), shots + 1, replace=False) if names[i] != own
        ][:shots]
        solved = [(d.prompt, response_text(d.responses[_preferred(d, rng)])) for d in picked]
        if isinstance(group.prompt, str) != isinstance(solved[0][0], str):
            raise UserError(
                f"{group.where}: field prompt: shots mix messages and plain texts; give prompts of one kind"
            )
        prompt = (
            "".join(f"{p}{r}\n\n" for p, r in solved) + group.prompt
            if isinstance(group.prompt, str)
            else [m for p, r in solved for m in (*p, {"role": "assistant", "content": r})]
            + list(group.prompt)
        )
        shown.append(group._replace(prompt=prompt))
    return shown


def _preferred(group: Group, rng: np.random.Generator) -> int:
    """A preferred response: of one of the group's pairs, else the one of highest reward, else the first."""
    if group.pairs:
        return group.pairs[rng.integers(len(group.pairs))][0]
    return max(range(len(group.responses)), key=lambda i: group.responses[i].reward or 0.0)


def response_text(response: Response) -> str:
    """A response as the model reads it: `4<Somewhat good job>The ...`, `4The ...` where the belief is its class alone."""
    if response.belief is None:
        return response.text
    return (
        f"{response.belief.label}{f'<{response.belief.text}>' if response.belief.text else ''}{response.text}"
    )


# --- tokens -------------------------------------------------------------------------------------------------


def class_token_ids(tokenizer, classes: Sequence[str]) -> tuple[int, ...]:
    """The single token of every belief class. Raises UserError where a label is not one token or two labels share one."""
    found = []
    for label in classes:
        ids = tokenizer(label, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:  # sentencepiece puts a space piece before a word: look the bare label up
            ids = [tokenizer.convert_tokens_to_ids(label)]
            if ids[0] in (None, tokenizer.unk_token_id):
                raise UserError(
                    f"belief_classes: the label {label!r} is no single token of this tokenizer; use labels such as 0 to 9"
                )
        found.append(ids[0])
    if len(set(found)) < len(found):
        raise UserError("belief_classes: two labels share a token; use distinct labels")
    return tuple(found)


def encode_prompt(tokenizer, prompt: Any) -> tuple[int, ...]:
    """A prompt's ids: messages through the chat template, text with the tokenizer's own BOS; never an EOS at its end.

    A tokenizer without a chat template gets the DPO repository's plain turns, "Human: ..." and "Assistant:".
    Raises UserError where the text holds the EOS or BOS token, or the template refuses the messages.
    """
    if not isinstance(prompt, str) and not tokenizer.chat_template:
        if not _NOTED:
            _NOTED.append(True)
            log.info(
                "this tokenizer has no chat template: messages are written as plain Human and Assistant turns"
            )
        names = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
        prompt = "".join(names.get(m["role"], "") + m["content"] for m in prompt) + "\n\nAssistant:"
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
        if ids and ids[-1] == tokenizer.eos_token_id and ids[-1] != tokenizer.bos_token_id:
            ids = ids[:-1]  # T5-like tokenizers close every text
        check_specials(tokenizer, ids[1:] if ids[:1] == [tokenizer.bos_token_id] else ids)
        return tuple(ids)
    for message in prompt:
        check_specials(tokenizer, tokenizer(message["content"], add_special_tokens=False)["input_ids"])
    try:
        text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # templates raise what they like, on roles or orders that they do not know
        raise UserError(
            f"prompt messages: the chat template refuses them ({str(error).splitlines()[0][:120]}); correct their roles "
            "and order"
        ) from error
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def check_specials(tokenizer, ids: Sequence[int]) -> None:
    """Raises UserError where a text holds the token that ends or begins a sequence: it would end early, or begin twice."""
    for name in ("eos_token", "bos_token"):
        if getattr(tokenizer, f"{name}_id") in ids:
            raise UserError(
                f"text: holds the tokenizer's {name} {getattr(tokenizer, name)} inside; remove it from the text"
            )


def tokenize(
    groups: Sequence[Group],
    examples: Sequence[Example],
    tokenizer,
    limits: Limits,
    classes: Sequence[str] = CLASSES,
    audit: Counter | None = None,
) -> list[TokenTree]:
    """Encode examples as token trees: prompt, belief and answer apart and then joined, so that no token crosses a border.

    A response is `4<Somewhat good job>The ...` + EOS; under a shared belief the belief's span ends before the closing `>`.
    Prompts are cut to max_prompt_length, then responses to what max_length leaves; a cut response has no EOS, is marked in
    `truncated` and counted. Examples whose prompt leaves no token for a response are left out and counted; `TokenTree.group`
    says which remain. Raises UserError where none does, and where a text holds the EOS token.
    """
    audit = Counter() if audit is None else audit
    has_beliefs = any(g.belief_probs for g in groups)
    class_ids = (
        class_token_ids(tokenizer, classes)
        if has_beliefs or any(r.belief for g in groups for r in g.responses)
        else ()
    )
    token_of = dict(zip(classes, class_ids))
    encoded: dict[str, tuple[int, ...]] = {}  # texts recur in many examples

    def ids(text: str, group: Group) -> tuple[int, ...]:
        if text not in encoded:
            found = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
            try:
                check_specials(tokenizer, found)
            except UserError as error:
                raise UserError(f"{group.where}: field responses: {error}") from error
            encoded[text] = found
        return encoded[text]

    def parts(response: Response, group: Group) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if response.belief is None:
            return (), ids(response.text, group)
        label, words = response.belief
        if not words:
            return (token_of[label],), ids(response.text, group)
        return (token_of[label], *ids(f"<{words}", group)), ids(f">{response.text}", group)

    whole = [_encode_prompt_of(tokenizer, g) for g in groups]
    prompts = [
        cut_prompt(ids, limits.max_prompt_length, limits.truncation or g.truncation)
        for ids, g in zip(whole, groups)
    ]
    audit["prompts_truncated"] += sum(len(a) > len(b) for a, b in zip(whole, prompts))
    trees, cut, full = [], set(), None
    for example in examples:
        group, prompt = groups[example.group], prompts[example.group]
        belief, answers, truncated = (), [], []
        for column in example.columns:
            if column is None:
                answers.append(())
                truncated.append(False)
                continue
            own_belief, answer = parts(group.responses[column], group)
            if example.conditioned:
                belief = belief or own_belief
            else:
                answer = own_belief + answer
            answer = (*answer, tokenizer.eos_token_id)
            room = limits.max_length - len(prompt) - len(belief)
            answers.append(answer[: max(room, 0)])
            truncated.append(len(answer) > room)
            if truncated[-1] and room > 0:
                cut.add((example.group, column))
        if limits.max_length - len(prompt) - len(belief) < 1:
            audit["examples_without_room"] += 1
            full = full or (
                f"{group.where}: field prompt: {len(prompt) + len(belief)} tokens leave no room for a response within "
                f"max_length={limits.max_length}; raise max_length or lower max_prompt_length"
            )
            continue
        trees.append(
            TokenTree(
                prompt,
                belief,
                tuple(answers),
                example.rewards,
                class_ids if group.belief_probs else (),
                group.belief_probs,
                _is_majority(group, example, classes),
                group=example.group,
                truncated=tuple(truncated),
            )
        )
    if full and not trees:
        raise UserError(full)
    audit["responses_truncated"] += len(cut)
    return trees


_NOTED: list[bool] = []  # whether the note about a missing chat template was given


def _encode_prompt_of(tokenizer, group: Group) -> tuple[int, ...]:
    try:
        return encode_prompt(tokenizer, group.prompt)
    except UserError as error:
        raise UserError(
            f"{group.where}: field {'' if 'messages' in str(error) else 'prompt '}{error}"
        ) from error


def cut_prompt(prompt: tuple[int, ...], limit: int | None, truncation: str) -> tuple[int, ...]:
    """The prompt's last (keep_end) or first (keep_start) `limit` tokens."""
    if limit is None or len(prompt) <= limit:
        return prompt
    return prompt[-limit:] if truncation == "keep_end" else prompt[:limit]


def _is_majority(group: Group, example: Example, classes: Sequence[str]) -> bool | None:
    belief = group.responses[next(c for c in example.columns if c is not None)].belief
    if belief is None or not group.belief_probs:
        return None
    return group.belief_probs[list(classes).index(belief.label)] == max(group.belief_probs)


def mismatch(
    trees: Sequence[TokenTree], donors: Sequence[TokenTree], seed: int, max_length: int
) -> list[TokenTree]:
    """For every tree its prompt (and belief) with an answer drawn from a donor of another prompt: KTO's pairs for z0.

    Fixed by the seed, so that their reference log-probs can be cached. Answers are cut to max_length.
    Raises UserError where all donors have one prompt.
    """
    if len({d.prompt for d in donors}) < 2:
        raise UserError(
            "loss=kto: needs responses to two or more different prompts, for its mismatched pairs; add data"
        )
    rng, made = np.random.default_rng([seed, 1]), []
    for tree in trees:
        while (donor := donors[rng.integers(len(donors))]).prompt == tree.prompt:
            pass
        present = [a for a in donor.answers if a]
        answer = present[rng.integers(len(present))][: max_length - len(tree.prompt) - len(tree.belief)]
        made.append(TokenTree(tree.prompt, tree.belief, (answer,), group=tree.group))
    return made


# --- audit --------------------------------------------------------------------------------------------------


def audit_groups(
    groups: Sequence[Group],
    examples: Sequence[Example],
    trees: Sequence[TokenTree] = (),
    counts: Counter | None = None,
) -> dict[str, Any]:
    """What a split of a data set holds, for data_audit.json: counts, what was dropped and why, duplicates, ties, lengths
    (tokens where there are trees, else characters), truncation, the share of tokens that sharing saves, and label balance."""
    counts = Counter(counts or {})
    rows, others = counts.pop("rows_read", len(groups)), counts.pop("in_other_splits", 0)
    truncated = {k: counts.pop(k, 0) for k in ("prompts_truncated", "responses_truncated")}
    texts = [{r: None for r in g.responses} for g in groups]
    pairs = [
        (groups[e.group].responses[w], groups[e.group].responses[other])
        for e in examples
        for w, *rest in [e.columns]
        for other in rest
        if w is not None and other is not None
    ]
    rewards = [[r.reward for r in g.responses if r.reward is not None] for g in groups]
    labels = Counter(
        groups[e.group].responses[e.columns[0]].belief.label
        for e in examples
        if e.columns[0] is not None and groups[e.group].responses[e.columns[0]].belief
    )
    result: dict[str, Any] = {
        "rows_read": rows,
        "in_other_splits": others,
        "prompts": len(groups),
        "responses": sum(len(g.responses) for g in groups),
        "examples": len(trees) or len(examples),
        "dropped": {k: v for k, v in sorted(counts.items()) if v},
        "duplicate_prompts": len(groups) - len({json.dumps(g.prompt) for g in groups}),
        "duplicate_responses": sum(len(g.responses) - len(t) for g, t in zip(groups, texts)),
        "preferred_equal_to_rejected": sum(a[0] == b[0] and a.belief == b.belief for a, b in pairs),
        "equal_rewards": sum(len(r) > 1 and min(r) == max(r) for r in rewards),
        "some_equal_rewards": sum(len(set(r)) < len(r) for r in rewards),
    }
    if trees:
        by_prompt: dict[tuple, list[TokenTree]] = {}
        for tree in trees:
            by_prompt.setdefault(tree.prompt, []).append(tree)
        separate = sum(len(t.prompt) + len(t.belief) + len(a) - 1 for t in trees for a in t.answers if a)
        shared = sum(tree_tokens(ts) for ts in by_prompt.values())
        result |= {
            "prompt_tokens": _spread([len(ts[0].prompt) for ts in by_prompt.values()]),
            "answer_tokens": _spread([len(a) for t in trees for a in t.answers if a]),
            **truncated,
            "tokens_one_by_one": separate,
            "tokens_shared": shared,
            "saved_by_sharing": round(1 - shared / separate, 4),
        }
        if trees[0].is_majority is not None:
            result["majority_share"] = round(sum(bool(t.is_majority) for t in trees) / len(trees), 4)
    else:
        result |= {
            "prompt_characters": _spread(
                [
                    len(g.prompt if isinstance(g.prompt, str) else "".join(m["content"] for m in g.prompt))
                    for g in groups
                ]
            ),
            "answer_characters": _spread([len(r.text) for g in groups for r in g.responses]),
        }
    if any(None in e.columns for e in examples):
        result["desirable_share"] = round(sum(e.columns[0] is not None for e in examples) / len(examples), 4)
    if labels:
        result["preferred_beliefs"] = dict(sorted(labels.items()))
    if any(rewards):
        result["reward"] = _spread([r for row in rewards for r in row])
    return result


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not len(values):
        return {}
    return {
        "min": min(values),
        "median": float(np.median(values)),
        "mean": round(float(np.mean(values)), 2),
        "max": max(values),
    }


def audit_splits(
    splits: dict[str, tuple[list[Group], list[Example], list[TokenTree]]],
    counts: dict[str, dict[str, Counter]],
) -> dict:
    """{data set: {split: audit}} of splits whose groups may come from several data sets; `counts` is {split: {data set: drops}}."""
    result: dict[str, dict] = {}
    for split, (groups, examples, trees) in splits.items():
        for name in dict.fromkeys(counts[split]):
            place = {i: n for n, i in enumerate(i for i, g in enumerate(groups) if g.dataset == name)}
            result.setdefault(name, {})[split] = audit_groups(
                [groups[i] for i in place],
                [e._replace(group=place[e.group]) for e in examples if e.group in place],
                [t for t in trees if t.group in place],
                counts[split][name],
            )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python preference_datasets.py", description="Print the audit of a data set as JSON."
    )
    parser.add_argument("name", help="a known name, a .jsonl, .json, .parquet or .csv file, or a hub id")
    parser.add_argument("splits", nargs="*", help="default: all splits of opinions, train and eval of others")
    parser.add_argument(
        "--responses", default="target", help=f"the view to count examples of: {', '.join(VIEWS)}"
    )
    parser.add_argument(
        "--belief-classes", default=",".join(CLASSES), help="class labels (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    splits, counts = {}, {}
    for split in args.splits or (OPINION_SPLITS if args.name.startswith("opinions") else ("train", "eval")):
        found: Counter = Counter()
        groups = load_groups(args.name, split, args.seed, args.belief_classes.split(","), dropped=found)
        splits[split], counts[split] = (
            (groups, view(groups, args.responses, args.seed, found), []),
            {args.name: found},
        )
    print(json.dumps(audit_splits(splits, counts), indent=1))


if __name__ == "__main__":
    run_entry(main)
