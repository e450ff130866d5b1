"""What a data set was taken for, in words: format, what is left out, lengths, examples as a model sees them.

Contract: `read` and `look` give the numbers that a run of the same settings has, `report` the lines that say
them. Nothing is printed here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from groups import loading
from groups.audit import NOTE, Audit, Auditor
from groups.files import open_table
from groups.kinds import ANYTHING
from groups.loading import Reading
from groups.pieces import pieces, printable
from groups.prompts import encode_prompts
from groups.record import Example, Group
from groups.rows import Drops, add_drops, left_out
from groups.shots import response_text
from groups.tokens import Encoder, Limits, encode_examples
from groups.views import view
from trees import TokenTree
from utils import UserError

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 256  # groups
EXAMPLES = 3
WIDTH, LABEL = 110, 14  # characters of a line, and of what stands before its text
MOST_TOKENS, MOST_CHARACTERS = 120, 800  # of a text that is shown whole


class Asked(NamedTuple):
    """What a user wants to see."""

    name: str
    splits: Sequence[str]
    reading: Reading
    responses: str | None  # the view; None: the one that fits
    limits: Limits


class Part(NamedTuple):
    """One split of a data set, as it was read."""

    split: str
    groups: Sequence[Group]
    dropped: Drops  # while it was read
    is_of_whole: bool  # whether the rows were read as one with those of other splits


class Look(NamedTuple):
    """One split of a data set, once every example was looked at."""

    part: Part
    dropped: Drops  # by the view and the limits
    audit: Audit
    samples: list[tuple[Group, Example]]  # the first example of the first prompts


def read(asked: Asked) -> list[Part]:
    """The splits. Raises UserError for an unknown name or split, or an invalid row."""
    if loading.embedded_splits(asked.name) is None:
        for split in asked.splits:
            open_table(asked.name, split)  # an unknown split is said before anything is read
    parts: list[Part] = []
    everything: loading.Everything | None = None
    for split in asked.splits:
        if everything is None or not everything.whole:
            everything = loading.read_everything(asked.name, split, asked.reading)
        dropped = Drops()
        groups = loading.split_of(everything, split, asked.reading, dropped).groups
        parts.append(Part(split, groups, dropped, everything.whole))
    return parts


def fitting_view(groups: Iterable[Group]) -> str:
    """The view that says most of what all groups hold."""
    kinds = {_kind_of(group) for group in groups}
    if len(kinds) == 1:
        return kinds.pop()
    return "pairs" if kinds and kinds <= {"pairs", "ranked", "conditioned"} else "target"


def _kind_of(group: Group) -> str:
    if group.labels:
        return "binary"
    if group.belief_probs and group.pairs and all(response.belief for response in group.responses):
        return "conditioned"
    if group.pairs:
        return "pairs"
    has_rewards = all(response.reward is not None for response in group.responses)
    return "ranked" if len(group.responses) > 1 and has_rewards else "target"


def look(part: Part, asked: Asked, responses: str, tokenizer: PreTrainedTokenizerBase | None) -> Look:
    """Look at every example. tokenizer: None leaves tokens out.

    Raises UserError where a group lacks what the view needs, or no example has room for a response.
    """
    auditor, dropped = Auditor(), Drops()
    encoder = Encoder(tokenizer, asked.reading.classes) if tokenizer else None
    samples: list[tuple[Group, Example]] = []
    problem = ""
    starts = range(0, len(part.groups), AT_ONCE)
    # a terminal alone sees how far it is
    for first in tqdm(starts, f"looking at {part.split}", leave=False, disable=None):
        groups = part.groups[first : first + AT_ONCE]
        examples = view(groups, responses, asked.reading.seed, dropped, asked.reading.classes)
        auditor.add_groups(groups)
        auditor.add_examples(groups, examples)
        if encoder:
            trees, no_room = encode_examples(groups, examples, encoder, asked.limits, dropped)
            auditor.add_trees(trees)
            problem = problem or no_room
        samples += _first_of_groups(groups, examples)[: EXAMPLES - len(samples)]
    if problem and not auditor.counts["trees"]:
        raise UserError(problem)
    counts = Drops()
    add_drops(counts, part.dropped)
    add_drops(counts, dropped)
    return Look(part, dropped, auditor.audit(counts), samples)


def _first_of_groups(groups: Sequence[Group], examples: Sequence[Example]) -> list[tuple[Group, Example]]:
    """The first example of every group, numbered as of that group alone; of a whole group the row of most
    weight.
    """
    first: dict[int, Example] = {}
    for example in examples:
        shown = first.setdefault(example.group, example)
        if example.row and example.weight > shown.weight:
            first[example.group] = example
    return [(groups[number], example._replace(group=0)) for number, example in first.items()]


# --- what it was taken for ----------------------------------------------------------------------------------


def report(
    asked: Asked, looks: Sequence[Look], responses: str, tokenizer: PreTrainedTokenizerBase | None, note: str
) -> Iterator[str]:
    """The lines. note: of the tokenizer, its name or why there is none."""
    yield printable(asked.name)
    yield from _line("taken for", _taken_for(asked))
    if looks[0].part.is_of_whole:
        yield from _reading(looks[0].part.dropped, "")
    else:
        for of_split in looks:
            yield from _reading(of_split.part.dropped, f" of {of_split.part.split}")
    chosen = "asked for" if asked.responses else "by what the rows hold"
    yield from _line("view", f"{responses}, {chosen}; --responses=NAME takes another")
    for of_split in looks:
        audit, split = of_split.audit, of_split.part.split
        of_prompts = f"{_count(audit['examples'], 'example')} of {_count(audit['prompts'], 'prompt')}"
        if "weighted_rows" in audit:
            of_prompts += f" ({_count(audit['weighted_rows'], 'weighted row')})"
        yield from _line(split, f"{of_prompts}, {_count(audit['responses'], 'response')}")
        yield from _left_out(of_split.dropped)
    yield from _line("tokens", note)
    yield ""
    yield from _lengths(looks)
    for of_split in looks[:1]:
        for number, (group, example) in enumerate(of_split.samples, 1):
            yield ""
            yield f"example {number} of {of_split.part.split}: {_place(group)}"
            yield from _example(group, example, asked, tokenizer)


def _taken_for(asked: Asked) -> str:
    known = loading.format_of(asked.name, asked.splits[0], asked.reading)
    if known is None:
        return "the embedded data set"
    if known.is_named:
        return f"{known.name}, as --format says"
    columns = []
    for column, kind in known.fields.items():
        columns.append(column if kind is ANYTHING else f"{column} ({kind.words})")
    told = ", ".join(columns) or "responses"
    return f"{known.name}, told by its columns {told}; --format=NAME takes it for another, see docs/data.md"


def _reading(dropped: Drops, of_split: str) -> Iterator[str]:
    yield from _line("read", f"{_count(dropped['rows_read'], 'row')}{of_split}")
    yield from _left_out(dropped)
    for name in sorted(dropped):
        if name.startswith(NOTE):
            yield from _line("note", f"{_count(dropped[name], 'row')}: {printable(name.removeprefix(NOTE))}")


def _left_out(dropped: Drops) -> Iterator[str]:
    for reason, count in sorted(left_out(dropped).items()):
        place = dropped.first.get(reason)
        first = f" (first: {printable(place)})" if place else ""
        yield from _line("left out", f"{count} for {reason.replace('_', ' ')}{first}")


def _lengths(looks: Sequence[Look]) -> Iterator[str]:
    """A table of lengths, a line a split and part of the text."""
    has_tokens = any("prompt_tokens" in of_split.audit for of_split in looks)
    unit = "tokens" if has_tokens else "characters"
    yield f"{'length in ' + unit:<26}" + "".join(f"{name:>9}" for name in ("min", "median", "mean", "max"))
    for of_split in looks:
        for what, cut in (("prompt", "prompts_truncated"), ("answer", "responses_truncated")):
            numbers = of_split.audit.get(f"{what}_{unit}")
            if not numbers:
                continue
            line = f"{f'{of_split.part.split}, {what}s':<26}"
            line += "".join(f"{numbers[name]:>9g}" for name in ("min", "median", "mean", "max"))
            yield line + (f"   {of_split.audit.get(cut, 0)} cut" if has_tokens else "")


# --- one example --------------------------------------------------------------------------------------------


def _place(group: Group) -> str:
    weight = "" if group.weight == 1 else f", weight {group.weight:g}"
    return printable(group.where or group.id) + weight


def _example(
    group: Group, example: Example, asked: Asked, tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[str]:
    if group.belief_probs:
        shares = zip(asked.reading.classes, group.belief_probs)
        yield from _line("p*", ", ".join(f"{label}: {share:.3g}" for label, share in shares if share))
    if example.weight < 1:
        yield from _line("row", f"the one of most weight of its prompt's: {example.weight:.3g}")
    if tokenizer is None:
        yield from _as_text(group, example)
        return
    encoder = Encoder(tokenizer, asked.reading.classes)
    trees, no_room = encode_examples([group], [example], encoder, asked.limits, Drops())
    if not trees:
        yield from _line("left out", no_room)
        return
    (whole,) = encode_prompts([group], tokenizer, asked.limits.add_bos)
    yield from _as_tokens(group, example, trees[0], len(whole), tokenizer)


def _as_tokens(
    group: Group, example: Example, tree: TokenTree, length: int, tokenizer: PreTrainedTokenizerBase
) -> Iterator[str]:
    """The prompt (of `length` tokens before it was cut), the belief that all answers share, the answers."""
    was_cut = f", cut from {length}" if len(tree.prompt) < length else ""
    yield from _tokens("prompt", _count(len(tree.prompt), "token") + was_cut, tree.prompt, tokenizer)
    if tree.belief:
        yield from _tokens("belief", _count(len(tree.belief), "token"), tree.belief, tokenizer)
    for label, column, answer, is_cut in zip(_labels(example), example.columns, tree.answers, tree.truncated):
        if column is not None:
            facts = _count(len(answer), "token") + (", cut" if is_cut else "") + _reward(group, column)
            yield from _tokens(label, facts, answer, tokenizer)


def _as_text(group: Group, example: Example) -> Iterator[str]:
    if isinstance(group.prompt, str):
        yield from _line("prompt", _shortened(group.prompt))
    else:
        for message in group.prompt:
            yield from _line(f"  {message['role']}", _shortened(message["content"]))
    for label, column in zip(_labels(example), example.columns):
        if column is not None:
            text = _shortened(response_text(group.responses[column]))
            yield from _line(label, text + _reward(group, column))


def _labels(example: Example) -> list[str]:
    """What each column is called: the preferred response stands first."""
    if None in example.columns:
        return ["desirable", "undesirable"]
    if len(example.columns) == 1:
        return ["response"]
    others = ["other"] * (len(example.columns) - 1)
    if len(others) > 1:
        others = [f"other {number}" for number in range(1, len(others) + 1)]
    return ["preferred", *others]


def _reward(group: Group, column: int) -> str:
    reward = group.responses[column].reward
    return "" if reward is None else f"   [reward {reward:g}]"


def _tokens(label: str, facts: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Tokens with a dot between them, as many a line as there is room for."""
    yield f"  {label:<{LABEL - 2}}{facts}"
    texts = pieces(tokenizer, ids)
    if len(texts) > MOST_TOKENS:
        left_out = len(texts) - MOST_TOKENS
        texts = [*texts[: MOST_TOKENS * 3 // 4], f"[... {left_out} more ...]", *texts[-MOST_TOKENS // 4 :]]
    line = ""
    for text in texts:
        if line and LABEL + len(line) + len(text) > WIDTH:
            yield " " * LABEL + line
            line = ""
        line += text + "·"
    yield " " * LABEL + line.removesuffix("·")


def _shortened(text: str) -> str:
    text = printable(text)
    if len(text) <= MOST_CHARACTERS:
        return text
    kept = MOST_CHARACTERS // 2
    return f"{text[:kept]} [... {len(text) - 2 * kept} more characters ...] {text[-kept:]}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _line(label: str, text: str) -> Iterator[str]:
    """A text behind its label, on as many lines as it needs."""
    first, others = f"  {label:<{LABEL - 2}}", " " * LABEL
    how = {"break_long_words": False, "break_on_hyphens": False}  # paths and names stay whole
    yield from textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, **how) or [first]
