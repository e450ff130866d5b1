"""Text in: one short reader a data set, the views that turn groups into examples, and tokenization.

Contract: readers give `Group`s (a prompt with its responses), `view` says which responses an example compares and under
which belief, `tokenize` gives a `TokenTree`. Truncation lives here only. Nothing is silently repaired: a bad row raises
`UserError` with file, row, field and remedy; what is dropped on purpose is counted in the audit.

    python preference_datasets.py opinions/republican        # the audit of a data set, without a model
"""
from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from forest import TokenTree, tree_tokens
from utils import UserError, run_entry

DATA = Path(__file__).parent / "data"
CLASSES = ("0", "1", "2", "3", "4", "5")  # GDPO: 5 strongly positive ... 1 strongly negative, 0 don't know / refused
OPINION_GROUPS = ("democrat", "independent", "republican", "strong_democrat", "strong_republican")
OPINION_SPLITS = ("train", "eval", "test", "test_questions")


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


class Example(NamedTuple):
    """One row of a loss's table: which group, which responses (column 0 preferred), and whether they share its belief."""

    group: int
    columns: tuple[int, ...]
    conditioned: bool


class Limits(NamedTuple):
    """Token limits of one example's path: prompt and response together, and the prompt alone (None: no limit of its own)."""

    max_length: int
    max_prompt_length: int | None
    truncation: str = "keep_end"


# --- readers ---------------------------------------------------------------------------------------------------------


def load_groups(name: str, split: str, seed: int = 0, classes: Sequence[str] = CLASSES, pairs_per_prompt: int = 16,
                eval_fraction: float = 0.05, dropped: Counter | None = None) -> list[Group]:
    """Read a data set's split: a known name, a path to .jsonl or .parquet, or a hub id.

    A file has no splits of its own: its `eval` (or `test`) split is the ceil(eval_fraction * prompts) rows whose prompt has
    the smallest hash, `train` the others, `all` every row. `dropped` counts rows left out on purpose, by reason.
    Raises UserError for an unknown name or split, or an invalid row.
    """
    path = Path(name)
    if name == "opinions" or name.startswith("opinions/"):
        return read_opinions(name, split, seed, pairs_per_prompt)
    is_file = path.suffix in (".jsonl", ".parquet") or path.exists()
    if is_file and split not in ("train", "eval", "test", "all"):
        raise UserError(f"data set {name}: no split {split}; a file has train, eval and all")
    place = str(path) if is_file else f"{name}/{split}"
    rows = [(f"{place}, row {n}", row) for n, row in enumerate(read_rows(path) if is_file else _read_hub(name, split), 1)]
    if bad := next((where for where, row in rows if not isinstance(row, dict)), None):
        raise UserError(f"{bad}: not a JSON object; write one object a line")
    if rows and MMOQA_COLUMNS <= set(rows[0][1]):
        groups = read_mmoqa(rows, classes, Counter() if dropped is None else dropped)
    elif rows and {"prompt", "responses"} & set(rows[0][1]):
        groups = [parse_group(row, where, classes) for where, row in rows]
    else:
        raise UserError(f"{place}, row 1: columns {', '.join(sorted(rows[0][1])) if rows else 'none'} are no known data set; write prompt "
                        "and responses, or columns of a supported data set (README)")
    groups = [g if g.pairs or not g.belief_probs else g._replace(pairs=draw_pairs(g, classes, pairs_per_prompt, seed)) for g in groups]
    return _hold_out(groups, split, eval_fraction) if is_file else groups


def read_rows(path: Path) -> list[dict]:
    """Rows of a .jsonl or .parquet file as dicts."""
    if not path.is_file():
        raise UserError(f"data set {path}: no such file; "
                        f"give a .jsonl or .parquet file, a hub id, or one of opinions/{{{','.join(OPINION_GROUPS)}}}")
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(path).to_pylist()
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise UserError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]}); write it again") from error
    if path.suffix != ".jsonl":
        raise UserError(f"data set {path}: cannot read {path.suffix or 'this kind of'} files; give .jsonl or .parquet")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; save the file as UTF-8") from error
    rows = [_parse_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise UserError(f"{path}: holds no rows; write one JSON object a line")
    return rows


def _parse_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, row {number}: not valid JSON ({error.msg} at column {error.colno}); "
                        "write one JSON object a line") from error


def _read_hub(name: str, split: str) -> list[dict]:
    """Rows of a hub data set through `datasets` (its own cache and offline mode apply)."""
    unknown = f"data set {name}: unknown; give opinions/{{{','.join(OPINION_GROUPS)}}}, a .jsonl or .parquet file, or a hub id (owner/name)"
    if name.count("/") != 1:
        raise UserError(unknown)
    import datasets

    try:
        return list(datasets.load_dataset(name, split=split))
    except (OSError, ValueError) as error:  # datasets raises these for: no such data set or split, no network
        raise UserError(f"{unknown}; the hub said: {str(error).splitlines()[0][:160]}") from error


def _hold_out(groups: list[Group], split: str, fraction: float) -> list[Group]:
    if split == "all":
        return groups
    place = sorted(range(len(groups)), key=lambda i: hashlib.sha256(json.dumps(groups[i].prompt).encode()).hexdigest())
    held = set(place[: math.ceil(fraction * len(groups))])
    return [g for i, g in enumerate(groups) if (i in held) == (split != "train")]


def read_opinions(name: str, split: str, seed: int, pairs_per_prompt: int) -> list[Group]:
    """The embedded survey opinions of a US party group: 49 questions in five phrasings, p* from the surveys' counts."""
    group = name.removeprefix("opinions").removeprefix("/")
    if group not in OPINION_GROUPS:
        raise UserError(f"data set {name}: no such group; choose one of {', '.join('opinions/' + g for g in OPINION_GROUPS)}")
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
        responses = tuple(Response(row["answers"][option], 10 * probs[str(c)], Belief(str(c), option))
                          for option, c in zip(question["options"], question["option_class"]))
        made = Group(f"{row['id']}/{row['style']}", f"<Q>{row['prompt']}<A>", responses,
                     belief_probs=tuple(probs.get(c, 0.0) for c in CLASSES), where=f"opinions, {row['id']}/{row['style']}")
        groups.append(made._replace(pairs=draw_pairs(made, CLASSES, pairs_per_prompt, seed)))
    return groups


def draw_pairs(group: Group, classes: Sequence[str], num_pairs: int, seed: int) -> tuple[tuple[int, int], ...]:
    """GDPO's pairing: b_w drawn from p*, b_l uniformly from the other beliefs with a response; fixed by (seed, group id)."""
    members = [[i for i, r in enumerate(group.responses) if r.belief is not None and r.belief.label == c] for c in classes]
    present = [k for k, indices in enumerate(members) if indices]
    weights = np.asarray([group.belief_probs[k] for k in present], float)
    if len(present) < 2 or weights.sum() <= 0:
        raise UserError(f"{group.where}: field responses: needs answers under at least two beliefs, one with belief_probs > 0, "
                        "to draw pairs; add some or give pairs")
    digest = hashlib.sha256(f"{seed} {group.id}".encode()).digest()
    rng = np.random.default_rng(list(digest[:8]))
    pairs = []
    for w in rng.choice(len(present), num_pairs, p=weights / weights.sum()):
        other = rng.integers(len(present) - 1)
        pairs.append(tuple(int(rng.choice(members[present[k]])) for k in (w, other + (other >= w))))
    return tuple(pairs)


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
        if not prompt or not all(isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
                                 for m in prompt):
            raise bad("prompt", "messages need a role and a content string each", 'write [{"role": "user", "content": "..."}]')
    elif not isinstance(prompt, str) or not prompt.strip():
        raise bad("prompt", "missing or empty", "every row needs a prompt: a string or a list of messages")
    responses = row.get("responses")
    if not isinstance(responses, list) or not responses:
        raise bad("responses", "missing or empty", 'write a list of {"text": ...}')
    parsed = tuple(_parse_response(r, f"responses[{i}]", bad, classes) for i, r in enumerate(responses))
    probs = row.get("belief_probs", [])
    if "belief_probs" in row:
        if not isinstance(probs, list) or len(probs) != len(classes):
            raise bad("belief_probs", f"has {len(probs) if isinstance(probs, list) else 'no'} entries for {len(classes)} classes",
                      "give one probability a class, in the order of belief_classes")
        if not all(_is_number(p) and p >= 0 for p in probs):
            raise bad("belief_probs", f"{probs} holds a value that is negative or no number", "give probabilities")
        if abs(sum(probs) - 1) > 0.01:
            raise bad("belief_probs", f"sums to {sum(probs):.4g}", "make it sum to 1")
        probs = [p / sum(probs) for p in probs]  # what rounding left
        if any(r.belief is None for r in parsed):
            raise bad("responses", "belief_probs is given but a response has no belief", 'add "belief": {"class": ..., "text": ...}')
    pairs = row.get("pairs", [])
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(i) is int and 0 <= i < len(parsed) for i in pair)
                and pair[0] != pair[1]):
            raise bad("pairs", f"{pair} is no [preferred, other] pair of two response indices", f"use indices 0 to {len(parsed) - 1}")
    return Group(str(row.get("id", where)), prompt, parsed, tuple(map(tuple, pairs)), tuple(probs), where)


def _parse_response(value: Any, field: str, bad: Callable[[str, str, str], UserError], classes: Sequence[str]) -> Response:
    if not isinstance(value, dict):
        raise bad(field, "is no object", 'write {"text": "..."}')
    value = {k: v for k, v in value.items() if v is not None}
    if unknown := sorted(set(value) - RESPONSE_KEYS):
        raise bad(f"{field}.{unknown[0]}", "unknown", f"known fields are {', '.join(sorted(RESPONSE_KEYS))}")
    if not isinstance(value.get("text"), str) or not value["text"].strip():
        raise bad(f"{field}.text", "missing or empty", "give the response's text or leave the response out")
    if "reward" in value and not (_is_number(value["reward"]) and math.isfinite(value["reward"])):
        raise bad(f"{field}.reward", f"{value['reward']} is no finite number", "give a number or leave the field out")
    belief = value.get("belief")
    if belief is not None:
        if not isinstance(belief, dict) or belief.get("class") not in classes or not isinstance(belief.get("text", ""), str):
            raise bad(f"{field}.belief", f"{belief!r} has no class among {', '.join(classes)}",
                      'write {"class": "4", "text": "..."} or set belief_classes')
        belief = Belief(belief["class"], belief.get("text") or "")
    return Response(value["text"], value.get("reward"), belief)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


MMOQA_COLUMNS = {"accept_response", "reject_response", "accept_choice_id", "reject_choice_id", "probabilities", "prompt"}


def read_mmoqa(rows: Sequence[tuple[str, dict]], classes: Sequence[str], dropped: Counter) -> list[Group]:
    """The GDPO authors' opinion data (columns of Binwei01/mmoqa_*): rows of one prompt and p* are its pairs, in one group.

    Rows with all-zero probabilities or equal sides carry no preference; they are left out and counted.
    """
    merged: dict[tuple, tuple[str, dict[Response, int], list]] = {}
    for where, row in rows:
        probs = row.get("probabilities")
        if not isinstance(probs, list) or len(probs) != len(classes) or not all(_is_number(p) and p >= 0 for p in probs):
            raise UserError(f"{where}: field probabilities: {probs} are not {len(classes)} non-negative numbers; correct the row")
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise UserError(f"{where}: field prompt: missing or empty; every row needs a prompt")
        total = sum(probs)
        if total == 0:
            dropped["all_zero_probabilities"] += 1
            continue
        sides = [_mmoqa_response(row, side, where, classes, [p / total for p in probs]) for side in ("accept", "reject")]
        if sides[0] == sides[1]:
            dropped["preferred_equal_to_rejected"] += 1
            continue
        _, responses, pairs = merged.setdefault((row["prompt"], tuple(probs)), (where, {}, []))
        pairs.append(tuple(responses.setdefault(r, len(responses)) for r in sides))
    return [Group(where, f"<Q>{prompt}<A>", tuple(responses), tuple(pairs), tuple(p / sum(probs) for p in probs), where)
            for (prompt, probs), (where, responses, pairs) in merged.items()]


def _mmoqa_response(row: dict, side: str, where: str, classes: Sequence[str], probs: Sequence[float]) -> Response:
    label, text = str(row.get(f"{side}_choice_id")), row.get(f"{side}_response")
    if label not in classes:
        raise UserError(f"{where}: field {side}_choice_id: {label} is none of {', '.join(classes)}; correct the row or set belief_classes")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: field {side}_response: missing or empty; leave the row out")
    return Response(text, 10 * probs[list(classes).index(label)], Belief(label, str(row.get(f"{side}_choice") or "")))


# --- views -----------------------------------------------------------------------------------------------------------


def view(groups: Sequence[Group], responses: str, seed: int = 0, dropped: Counter | None = None) -> list[Example]:
    """Turn groups into examples, as config key `responses` says.

    target: the preferred response alone. pairs: the group's own pairs, else best against worst by reward, each response
    after its own belief. own_belief: the same, beliefs required (the GDPO paper's DPO baseline). conditioned: both answers
    under the preferred one's belief (GDPO). ranked: all responses, best first. By reward, whatever pairs are given:
    pairs.best_vs_worst, pairs.best_vs_random (drawn by the seed), pairs.best_vs_rest, pairs.all (ties left out).
    Prompts whose rewards are all equal hold no preference: views by reward leave them out and count them in `dropped`.
    """
    if responses not in VIEWS:
        raise UserError(f"responses={responses}: choose one of {', '.join(VIEWS)}")
    examples, dropped = [], Counter() if dropped is None else dropped
    for number, group in enumerate(groups):
        if responses in ("conditioned", "own_belief") and not all(r.belief for r in group.responses):
            raise UserError(f"{group.where}: responses={responses} needs a belief on every response; add belief or set responses=pairs")
        rewards = [r.reward for r in group.responses]
        if responses in BY_REWARD or not group.pairs and responses != "target":
            if len(rewards) < 2 or None in rewards:
                raise UserError(f"{group.where}: field responses: responses={responses} needs "
                                f"{'two or more responses' if len(rewards) < 2 else 'a reward on each'}; add them or set responses=target")
            if max(rewards) == min(rewards):
                dropped["equal_rewards"] += 1
                continue
        if responses == "ranked":
            examples.append(Example(number, _by_reward(group), False))
            continue
        pairs = _reward_pairs(group, responses, seed) if responses in BY_REWARD else group.pairs
        if responses == "target":
            best = max(range(len(rewards)), key=rewards.__getitem__) if None not in rewards else 0
            examples += [Example(number, (w,), False) for w, _ in pairs] or [Example(number, (best,), False)]
        else:
            examples += [Example(number, pair, responses == "conditioned") for pair in pairs or _reward_pairs(group, responses, seed)]
    return examples


BY_REWARD = ("ranked", "pairs.best_vs_worst", "pairs.best_vs_random", "pairs.best_vs_rest", "pairs.all")
VIEWS = ("target", "pairs", "own_belief", "conditioned", *BY_REWARD)


def _by_reward(group: Group) -> tuple[int, ...]:
    """Response indices, highest reward first; equal ones keep their order."""
    return tuple(sorted(range(len(group.responses)), key=lambda i: -group.responses[i].reward))


def _reward_pairs(group: Group, responses: str, seed: int) -> list[tuple[int, int]]:
    """(preferred, other) pairs by reward; both of a pair never have the same reward."""
    order = _by_reward(group)
    reward = [group.responses[i].reward for i in order]
    pairs = [(order[i], order[j]) for i in range(len(order)) for j in range(i + 1, len(order)) if reward[i] > reward[j]]
    of_best = [pair for pair in pairs if pair[0] == order[0]]
    if responses == "pairs.all":
        return pairs
    if responses == "pairs.best_vs_rest":
        return of_best
    if responses == "pairs.best_vs_random":
        digest = hashlib.sha256(f"{seed} {group.id}".encode()).digest()
        return [of_best[np.random.default_rng(list(digest[:8])).integers(len(of_best))]]
    return [of_best[-1]]


# --- tokens ----------------------------------------------------------------------------------------------------------


def class_token_ids(tokenizer, classes: Sequence[str]) -> tuple[int, ...]:
    """The single token of every belief class. Raises UserError where a label is not one token or two labels share one."""
    found = []
    for label in classes:
        ids = tokenizer(label, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:  # sentencepiece puts a space piece before a word: look the bare label up
            ids = [tokenizer.convert_tokens_to_ids(label)]
            if ids[0] in (None, tokenizer.unk_token_id):
                raise UserError(f"belief_classes: the label {label!r} is no single token of this tokenizer; use labels such as 0 to 9")
        found.append(ids[0])
    if len(set(found)) < len(found):
        raise UserError("belief_classes: two labels share a token; use distinct labels")
    return tuple(found)


def encode_prompt(tokenizer, prompt: Any) -> tuple[int, ...]:
    """A prompt's ids: messages through the chat template, text with the tokenizer's own BOS; never an EOS at its end."""
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
        if ids and ids[-1] == tokenizer.eos_token_id and ids[-1] != tokenizer.bos_token_id:
            ids = ids[:-1]  # T5-like tokenizers close every text
        return tuple(ids)
    if not tokenizer.chat_template:
        raise UserError("prompt messages: this tokenizer has no chat template; use text prompts or another model.tokenizer_name_or_path")
    try:
        text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # templates raise what they like, on roles or orders that they do not know
        raise UserError(f"prompt messages: the chat template refuses them ({str(error).splitlines()[0][:120]}); correct their roles "
                        "and order") from error
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def tokenize(groups: Sequence[Group], examples: Sequence[Example], tokenizer, limits: Limits, classes: Sequence[str] = CLASSES,
             audit: Counter | None = None) -> list[TokenTree]:
    """Encode examples as token trees: prompt, belief and answer apart and then joined, so that no token crosses a border.

    A response is `4<Somewhat good job>The ...` + EOS; under a shared belief the belief's span ends before the closing `>`.
    Prompts are cut to max_prompt_length, then responses to what max_length leaves; a cut response has no EOS and is counted.
    Raises UserError where a prompt leaves no room for a response.
    """
    audit = Counter() if audit is None else audit
    has_beliefs = any(g.belief_probs for g in groups)
    class_ids = class_token_ids(tokenizer, classes) if has_beliefs or any(r.belief for g in groups for r in g.responses) else ()
    token_of = dict(zip(classes, class_ids))
    encoded: dict[str, tuple[int, ...]] = {}  # texts recur in many examples

    def ids(text: str) -> tuple[int, ...]:
        if text not in encoded:
            encoded[text] = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        return encoded[text]

    def parts(response: Response) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if response.belief is None:
            return (), ids(response.text)
        label, words = response.belief
        return ((token_of[label], *ids(f"<{words}")), ids(f">{response.text}")) if words else ((token_of[label],), ids(response.text))

    whole = [_encode_prompt_of(tokenizer, g) for g in groups]
    prompts = [cut_prompt(ids, limits.max_prompt_length, limits.truncation) for ids in whole]
    audit["prompts_truncated"] += sum(len(a) > len(b) for a, b in zip(whole, prompts))
    trees, cut = [], set()
    for example in examples:
        group, prompt = groups[example.group], prompts[example.group]
        belief, answers = (), []
        for column in example.columns:
            own_belief, answer = parts(group.responses[column])
            if example.conditioned:
                belief = belief or own_belief
            else:
                answer = own_belief + answer
            answer = (*answer, tokenizer.eos_token_id)
            room = limits.max_length - len(prompt) - len(belief)
            if room < 1:
                raise UserError(f"{group.where}: field prompt: {len(prompt) + len(belief)} tokens leave no room for a response "
                                f"within max_length={limits.max_length}; raise max_length or lower max_prompt_length")
            if len(answer) > room:
                cut.add((example.group, column))
            answers.append(answer[:room])
        trees.append(TokenTree(prompt, belief, tuple(answers), _rewards(group, example), class_ids if group.belief_probs else (),
                               group.belief_probs, _is_majority(group, example, classes)))
    audit["responses_truncated"] += len(cut)
    return trees


def _encode_prompt_of(tokenizer, group: Group) -> tuple[int, ...]:
    try:
        return encode_prompt(tokenizer, group.prompt)
    except UserError as error:
        raise UserError(f"{group.where}: field {error}") from error


def cut_prompt(prompt: tuple[int, ...], limit: int | None, truncation: str) -> tuple[int, ...]:
    """The prompt's last (keep_end) or first (keep_start) `limit` tokens."""
    if limit is None or len(prompt) <= limit:
        return prompt
    return prompt[-limit:] if truncation == "keep_end" else prompt[:limit]


def _rewards(group: Group, example: Example) -> tuple[float, ...]:
    rewards = [group.responses[c].reward for c in example.columns]
    return () if None in rewards else tuple(rewards)


def _is_majority(group: Group, example: Example, classes: Sequence[str]) -> bool | None:
    belief = group.responses[example.columns[0]].belief
    if belief is None or not group.belief_probs:
        return None
    return group.belief_probs[list(classes).index(belief.label)] == max(group.belief_probs)


def audit_groups(groups: Sequence[Group], examples: Sequence[Example], trees: Sequence[TokenTree] = (),
                 counts: Counter | None = None) -> dict:
    """What a split holds, for data_audit.json: prompts, responses, examples, duplicates, majority share, and token savings."""
    result: dict[str, Any] = {
        "prompts": len(groups), "responses": sum(len(g.responses) for g in groups), "examples": len(examples),
        "duplicate_prompts": len(groups) - len({json.dumps(g.prompt) for g in groups}),
        "duplicate_responses": sum(len(g.responses) - len({(r.text, r.belief) for r in g.responses}) for g in groups),
        **(counts or {})}
    if trees:
        by_prompt: dict[tuple, list[TokenTree]] = {}
        for tree in trees:
            by_prompt.setdefault(tree.prompt, []).append(tree)
        separate = sum(len(t.prompt) + len(t.belief) + len(a) - 1 for t in trees for a in t.answers)
        result |= {"prompt_tokens_max": max(len(t.prompt) for t in trees),
                   "answer_tokens_max": max(len(a) for t in trees for a in t.answers),
                   "tokens_one_by_one": separate, "tokens_shared": sum(tree_tokens(ts) for ts in by_prompt.values())}
        if trees[0].is_majority is not None:
            result["majority_share"] = round(sum(bool(t.is_majority) for t in trees) / len(trees), 4)
    return result


def main() -> None:
    if len(sys.argv) not in (2, 3) or sys.argv[1] in ("-h", "--help"):
        print("usage: python preference_datasets.py NAME_OR_PATH [SPLIT]   prints the audit of a data set as JSON")
        return
    splits = sys.argv[2:] or (OPINION_SPLITS if sys.argv[1].startswith("opinions") else ("train", "eval"))
    result = {}
    for split in splits:
        groups = load_groups(sys.argv[1], split)
        result[split] = audit_groups(groups, view(groups, "target"))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    run_entry(main)
