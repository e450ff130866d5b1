"""Text -> ids: class tokens, prompts, and examples as token trees.

Contract: prompt, belief and answer are encoded apart and then joined, so that no token crosses a border.
Truncation lives here only: a prompt is cut to its limit, then a response to the room that is left, and what
was cut is counted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from groups.endings import check_ending, ending_of
from groups.prompts import AddBos, check_specials, encode_prompts, encode_texts
from groups.record import CLASSES, Example, Group, Prompt, Response, rows_by_example
from trees import Ids, TokenTree
from utils import UserError

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from transformers import PreTrainedTokenizerBase


class Limits(NamedTuple):
    """Token limits of one example's path."""

    max_length: int  # prompt and response together
    max_prompt_length: int | None  # the prompt alone; None: no limit of its own
    truncation: str | None = None  # keep_end, keep_start or dpo; None: as the data set's reader says
    add_bos: AddBos = "auto"

    @property
    def is_dpo(self) -> bool:
        """Are examples cut as the DPO repository does?"""
        return self.truncation == "dpo"

    def side(self, group: Group) -> str:
        """Which end of this group's prompt to keep."""
        given = None if self.is_dpo else self.truncation
        return given or group.truncation

    def with_shots(self, shots: int) -> Limits:
        """Where every shot before the prompt may take as much as an example."""
        prompt = self.max_prompt_length
        if prompt:  # None: no limit, with shots neither
            prompt += self.max_length * shots
        return self._replace(max_length=self.max_length * (1 + shots), max_prompt_length=prompt)


# --- classes and prompts ------------------------------------------------------------------------------------


def class_token_ids(tokenizer: PreTrainedTokenizerBase, classes: Sequence[str]) -> Ids:
    """The single token of every belief class.

    Raises UserError where a label is not one token, or two labels share one.
    """
    ids = tuple(_class_token_id(tokenizer, label) for label in classes)
    if len(set(ids)) < len(ids):
        raise UserError("belief_classes: two labels share a token; use distinct labels")
    return ids


def _class_token_id(tokenizer: PreTrainedTokenizerBase, label: str) -> int:
    ids = tokenizer(label, add_special_tokens=False)["input_ids"]
    if len(ids) == 1:
        return ids[0]
    token = tokenizer.convert_tokens_to_ids(label)  # sentencepiece puts a space piece before a word
    if token in (None, tokenizer.unk_token_id):
        raise UserError(
            f"belief_classes: the label {label!r} is no single token of this tokenizer; "
            "use labels such as 0 to 9"
        )
    return token


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what a tokenizer does."""
    words = (
        tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    )
    facts = [type(tokenizer).__name__, words, tokenizer.chat_template, tokenizer.special_tokens_map]
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def prompt_ids(tokenizer: PreTrainedTokenizerBase, group: Group, limits: Limits) -> Ids:
    """A group's prompt as ids, cut to its limit. Raises UserError like `encode_prompt`, with its place."""
    (ids,) = encode_prompts([group], tokenizer, limits.add_bos)
    return cut_prompt(ids, limits.max_prompt_length, limits.side(group), tokenizer.bos_token_id)


def cut_prompt(prompt: Ids, limit: int | None, truncation: str, bos_id: int | None = None) -> Ids:
    """The prompt's last (keep_end) or first (keep_start) `limit` tokens; its BOS stays, and counts as one."""
    if limit is None or len(prompt) <= limit:
        return prompt
    if truncation != "keep_end":
        return prompt[:limit]
    kept = prompt[:1] if limit > 1 and bos_id is not None and prompt[0] == bos_id else ()
    return kept + prompt[len(prompt) - limit + len(kept) :]


# --- examples as token trees --------------------------------------------------------------------------------


def tokenize(
    groups: Sequence[Group],
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits,
    classes: Sequence[str] = CLASSES,
    audit: Counter | None = None,
) -> list[TokenTree]:
    """Encode examples as token trees.

    Prompt, belief and answer are encoded apart and then joined, so that no token crosses a border. A response
    is `4<Somewhat good job>The ...` + EOS, or what the chat template ends a turn with after messages; under a
    shared belief the belief's span ends before the closing `>`. Prompts are cut to max_prompt_length, then
    responses to what max_length leaves; a cut response has no EOS, is marked in `truncated` and counted.
    With truncation=dpo, an example is cut only where its prompt with its longest response is longer than
    max_length, and then a response may take what max_prompt_length leaves, as in the DPO repository.
    Examples whose prompt leaves no token for a response are left out and counted; `TokenTree.group` says
    which remain. Raises UserError where none does, and where a text holds the EOS token.
    """
    audit = Counter() if audit is None else audit
    encoder = Encoder(tokenizer, classes)
    trees, no_room = encode_examples(groups, examples, encoder, limits, audit)
    if no_room and not trees:
        raise UserError(no_room)
    return trees


def encode_examples(
    groups: Sequence[Group], examples: Sequence[Example], encoder: Encoder, limits: Limits, audit: Counter
) -> tuple[list[TokenTree], str]:
    """As `tokenize`, for a part of the data: the trees, and what to say where an example has no room."""
    encoder.learn(groups, examples)
    whole = encode_prompts(groups, encoder.tokenizer, limits.add_bos)
    trees: list[TokenTree] = []
    no_room = ""
    cut_prompts: set[int] = set()
    cut_responses: set[tuple[int, int]] = set()
    for rows in rows_by_example(examples):
        fitted: list[TokenTree] = []
        for example in rows:
            group = groups[example.group]
            branches = _branch(example, group, encoder)
            prompt, room = _rooms(
                group, whole[example.group], branches, limits, encoder.tokenizer.bos_token_id
            )
            if len(prompt) < len(whole[example.group]):
                cut_prompts.add(example.group)
            if room < 1:
                audit["examples_without_room"] += 1
                length = len(prompt) + len(branches.belief)
                no_room = no_room or _no_room(group, length, limits.max_length)
                break
            fitted.append(_fit(example, group, prompt, branches, room, encoder))
        else:  # all rows have room: without one of them, the others would be another expectation
            trees += fitted
            cut_responses |= _cut_responses(rows, fitted)
    audit["prompts_truncated"] += len(cut_prompts)
    audit["responses_truncated"] += len(cut_responses)
    return trees, no_room


def _cut_responses(rows: Sequence[Example], trees: Sequence[TokenTree]) -> set[tuple[int, int]]:
    """The (group, response) of every answer that lost its end."""
    cut = set()
    for row, tree in zip(rows, trees, strict=True):
        cut |= {(row.group, c) for c, is_cut in zip(row.columns, tree.truncated) if is_cut}
    return cut


def _rooms(
    group: Group, whole: Ids, branches: Branches, limits: Limits, bos_id: int | None
) -> tuple[Ids, int]:
    """An example's prompt within its limit, and the tokens that a response may take."""
    longest = len(branches.belief) + max(map(len, branches.answers))
    if limits.is_dpo and len(whole) + longest <= limits.max_length:
        return whole, longest
    prompt = cut_prompt(whole, limits.max_prompt_length, limits.side(group), bos_id)
    taken = len(prompt)
    if limits.is_dpo:
        if taken + longest <= limits.max_length:
            return prompt, longest
        taken = limits.max_prompt_length or taken
    return prompt, limits.max_length - taken - len(branches.belief)


def _has_beliefs(group: Group) -> bool:
    return bool(group.belief_probs) or any(r.belief for r in group.responses)


class Encoder:
    """Encodes responses, every different text once: texts recur in many examples."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, classes: Sequence[str]):
        self.tokenizer = tokenizer
        self.classes = classes
        self.encoded: dict[str, Ids] = {}
        self._class_ids: Ids = ()

    @property
    def class_ids(self) -> Ids:
        """One token a class. Raises UserError where there are none."""
        if not self._class_ids:
            self._class_ids = class_token_ids(self.tokenizer, self.classes)
        return self._class_ids

    def learn(self, groups: Sequence[Group], examples: Sequence[Example]) -> None:
        """Encode all texts of some examples at once, and forget the others."""
        if any(map(_has_beliefs, groups)):
            assert self.class_ids  # an error of theirs is said before any other
        texts: dict[str, None] = {}
        for example in examples:
            responses = groups[example.group].responses
            for column in example.columns:
                if column is not None:
                    texts.update(dict.fromkeys(_texts_of(responses[column])))
        self.encoded = dict(zip(texts, encode_texts(self.tokenizer, list(texts), special=False)))

    def parts(self, response: Response, where: str) -> tuple[Ids, Ids]:
        """A response's belief and answer, without the EOS; `where` is its group's place, for errors."""
        if response.belief is None:
            return (), self.text(response.text, where)
        label, words = response.belief
        label_ids = (self.class_ids[self.classes.index(label)],)
        *of_words, answer = (self.text(text, where) for text in _texts_of(response))
        return sum(of_words, label_ids), answer

    def text(self, text: str, where: str) -> Ids:
        """A text's ids. Raises UserError where they hold the EOS or BOS token."""
        if text not in self.encoded:
            (self.encoded[text],) = encode_texts(self.tokenizer, [text], special=False)
        ids = self.encoded[text]
        try:
            check_specials(self.tokenizer, ids)
        except UserError as error:
            raise UserError(f"{where}: field responses: {error}") from error
        return ids

    def ending(self, prompt: Prompt, answer: Ids, where: str) -> Ids:
        """What ends an answer to this prompt. Raises UserError where the answer holds the end of a turn."""
        ending = ending_of(self.tokenizer, prompt)
        check_ending(ending, answer, f"{where}: field responses: ")
        return ending.ids


def _texts_of(response: Response) -> list[str]:
    """What is encoded apart of a response: its belief's words, where it has some, and its answer."""
    if response.belief is None or not response.belief.text:
        return [response.text]
    return [f"<{response.belief.text}", f">{response.text}"]


class Branches(NamedTuple):
    """What stands below one example's prompt, at full length."""

    belief: Ids  # what all answers stand under, or ()
    answers: tuple[Ids, ...]  # one a column, with its ending; () where there is no response


def _branch(example: Example, group: Group, encoder: Encoder) -> Branches:
    """The example's answers; their own beliefs stand in them, or the first one's above all of them."""
    shared_belief: Ids = ()
    answers: list[Ids] = []
    for column in example.columns:
        if column is None:
            answers.append(())
            continue
        belief, answer = encoder.parts(group.responses[column], group.where)
        if example.conditioned:
            shared_belief = shared_belief or belief
        else:
            answer = belief + answer
        answers.append((*answer, *encoder.ending(group.prompt, answer, group.where)))
    return Branches(shared_belief, tuple(answers))


def _fit(
    example: Example, group: Group, prompt: Ids, branches: Branches, room: int, encoder: Encoder
) -> TokenTree:
    """The example's tree, its answers cut to `room` tokens (1 or more) each."""
    return TokenTree(
        prompt,
        branches.belief,
        answers=tuple(answer[:room] for answer in branches.answers),
        rewards=example.rewards,
        class_ids=encoder.class_ids if group.belief_probs else (),
        class_probs=group.belief_probs,
        is_majority=_is_majority(group, example, encoder.classes),
        group=example.group,
        truncated=tuple(len(answer) > room for answer in branches.answers),
        weight=group.weight * example.weight,
        row=example.row,
    )


def _no_room(group: Group, length: int, max_length: int) -> str:
    return (
        f"{group.where}: field prompt: {length} tokens leave no room for a response within "
        f"max_length={max_length}; raise max_length or lower max_prompt_length"
    )


def _is_majority(group: Group, example: Example, classes: Sequence[str]) -> bool | None:
    """Whether the example's first response holds the most common belief of p* (None: no beliefs)."""
    first = next(c for c in example.columns if c is not None)
    belief = group.responses[first].belief
    if belief is None or not group.belief_probs:
        return None
    return group.belief_probs[list(classes).index(belief.label)] == max(group.belief_probs)


def mismatch(
    trees: Sequence[TokenTree], donors: Sequence[TokenTree], seed: int, max_length: int
) -> list[TokenTree]:
    """The mismatched pairs of a loss: every tree's prompt (and belief) with an answer to another prompt.

    The answer is drawn from a donor, by the seed alone, so that reference log-probs can be cached.
    Answers are cut to max_length. Raises UserError where all donors have one prompt.
    """
    return list(mismatched(trees, donors, seed, max_length))


def mismatched(
    trees: Sequence[TokenTree], donors: Sequence[TokenTree], seed: int, max_length: int
) -> Iterator[TokenTree]:
    """As `mismatch`, one after the other."""
    if all(donor.prompt == donors[0].prompt for donor in donors):
        raise UserError(
            "mismatched pairs: the loss needs responses to two or more different prompts; add data"
        )
    rng = np.random.default_rng([seed, 1])
    for tree in trees:
        donor = _draw_donor(tree.prompt, donors, rng)
        present = [answer for answer in donor.answers if answer]
        answer = present[rng.integers(len(present))]
        room = max_length - len(tree.prompt) - len(tree.belief)
        yield TokenTree(
            tree.prompt, tree.belief, (answer[:room],), group=tree.group, weight=tree.weight, row=tree.row
        )


def _draw_donor(prompt: Ids, donors: Sequence[TokenTree], rng: np.random.Generator) -> TokenTree:
    """A donor of another prompt than this one."""
    while True:
        donor = donors[rng.integers(len(donors))]
        if donor.prompt != prompt:
            return donor
