"""Text -> ids: class tokens, prompts, and examples as token trees.

Contract: prompt, belief and answer are encoded apart and then joined, so that no token crosses a border.
Truncation lives here only: a prompt is cut to its limit, then a response to the room that is left, and what
was cut is counted.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from forest import Ids, TokenTree
from groups.endings import check_ending, ending_ids
from groups.record import CLASSES, Example, Group, Prompt, Response
from groups.rows import usual_role
from utils import UserError, log

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from transformers import PreTrainedTokenizerBase


class Limits(NamedTuple):
    """Token limits of one example's path."""

    max_length: int  # prompt and response together
    max_prompt_length: int | None  # the prompt alone; None: no limit of its own
    truncation: str | None = None  # keep_end or keep_start; None: as the data set's reader says


def limits_with_shots(
    max_length: int, max_prompt_length: int | None, truncation: str | None, shots: int
) -> Limits:
    """Limits where every shot before the prompt may take as much as an example."""
    if max_prompt_length:  # None: no limit, with shots neither
        max_prompt_length += max_length * shots
    return Limits(max_length * (1 + shots), max_prompt_length, truncation)


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


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> Ids:
    """A prompt's ids: messages through the chat template, text with the tokenizer's own BOS.

    There is never an EOS at its end. A tokenizer without a chat template gets the DPO repository's plain
    turns, "Human: ..." and "Assistant:".
    Raises UserError where the text holds the EOS or BOS token, or a role is unknown, or the template refuses
    the messages.
    """
    if isinstance(prompt, str):
        return _encode_text(tokenizer, prompt)
    messages = _with_usual_roles(prompt)
    if not tokenizer.chat_template:
        _note_plain_turns()
        return _encode_text(tokenizer, _plain_turns(messages))
    return _encode_messages(tokenizer, messages)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, group: Group, limits: Limits) -> Ids:
    """A group's prompt as ids, cut to its limit. Raises UserError like `encode_prompt`, with its place."""
    return _cut_prompt_of(group, _encode_prompt_of(group, tokenizer), limits, tokenizer.bos_token_id)


def _with_usual_roles(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The messages under the roles that templates know. Raises UserError for an unknown role."""
    renamed = []
    for message in messages:
        role = usual_role(message["role"])
        if role is None:
            raise UserError(
                f"prompt messages: unknown role {message['role']!r}; write user, assistant, system or tool"
            )
        renamed.append({**message, "role": role})
    return renamed


def _encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> Ids:
    ids = tokenizer(text)["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if ids and ids[-1] == eos and eos != bos:
        ids = ids[:-1]  # T5-like tokenizers close every text
    starts_with_bos = ids[:1] == [bos]
    check_specials(tokenizer, ids[1:] if starts_with_bos else ids)
    return tuple(ids)


def _encode_messages(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> Ids:
    ending = ending_ids(tokenizer)
    for message in messages:
        ids = tokenizer(message["content"], add_special_tokens=False)["input_ids"]
        check_specials(tokenizer, ids)
        check_ending(ending, ids, "prompt messages: ")
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # templates raise what they like, on roles or orders that they do not know
        reason = str(error).splitlines()[0][:120]
        raise UserError(
            f"prompt messages: the chat template refuses them ({reason}); correct their roles and order"
        ) from error
    for message in messages:
        # some templates pass over roles that they do not know
        if message["role"] in ("system", "tool") and not _is_in(message["content"].strip(), text):
            raise UserError(
                f"prompt messages: the chat template leaves out the turn of role {message['role']}; "
                "put its text into a user's turn"
            )
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _is_in(content: str, text: str) -> bool:
    """Whether a text holds a content, be it as JSON, as templates write what a tool said."""
    forms = (content, json.dumps(content)[1:-1], json.dumps(content, ensure_ascii=False)[1:-1])
    return any(form in text for form in forms)


# a system's text stands before the turns, without a mark
TURNS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "tool": "\n\nTool: ", "system": ""}


def _plain_turns(messages: Sequence[dict[str, str]]) -> str:
    return "".join(TURNS[m["role"]] + m["content"] for m in messages) + "\n\nAssistant:"


@functools.cache  # once a process
def _note_plain_turns() -> None:
    log.info("this tokenizer has no chat template: messages are written as plain Human and Assistant turns")


def check_specials(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> None:
    """Raises UserError where a text holds the token that ends or begins a sequence.

    The sequence would end early, or begin twice.
    """
    for name in ("eos_token", "bos_token"):
        if getattr(tokenizer, f"{name}_id") in ids:
            token = getattr(tokenizer, name)
            raise UserError(f"text: holds the tokenizer's {name} {token} inside; remove it from the text")


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
    Examples whose prompt leaves no token for a response are left out and counted; `TokenTree.group` says
    which remain. Raises UserError where none does, and where a text holds the EOS token.
    """
    audit = Counter() if audit is None else audit
    class_ids = class_token_ids(tokenizer, classes) if any(_has_beliefs(g) for g in groups) else ()
    prompts = _encode_prompts(groups, tokenizer, limits, audit)
    encoder = Encoder(tokenizer, classes, class_ids)
    trees: list[TokenTree] = []
    without_room: list[str] = []
    cut_responses: set[tuple[int, int]] = set()
    for example in examples:
        group, prompt = groups[example.group], prompts[example.group]
        branches = _branch(example, group, encoder)
        length = len(prompt) + len(branches.belief)
        if length >= limits.max_length:
            audit["examples_without_room"] += 1
            without_room.append(_no_room(group, length, limits.max_length))
            continue
        tree = _fit(example, group, prompt, branches, limits.max_length - length, encoder)
        trees.append(tree)
        cut_responses |= {(example.group, c) for c, is_cut in zip(example.columns, tree.truncated) if is_cut}
    if without_room and not trees:
        raise UserError(without_room[0])
    audit["responses_truncated"] += len(cut_responses)
    return trees


def _has_beliefs(group: Group) -> bool:
    return bool(group.belief_probs) or any(r.belief for r in group.responses)


def _encode_prompts(
    groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase, limits: Limits, audit: Counter
) -> list[Ids]:
    """Every group's prompt within its limit; those that were cut are counted."""
    whole = [_encode_prompt_of(group, tokenizer) for group in groups]
    bos_id = tokenizer.bos_token_id
    prompts = [_cut_prompt_of(group, ids, limits, bos_id) for ids, group in zip(whole, groups)]
    audit["prompts_truncated"] += sum(len(a) > len(b) for a, b in zip(whole, prompts))
    return prompts


def _cut_prompt_of(group: Group, ids: Ids, limits: Limits, bos_id: int | None) -> Ids:
    return cut_prompt(ids, limits.max_prompt_length, limits.truncation or group.truncation, bos_id)


def _encode_prompt_of(group: Group, tokenizer: PreTrainedTokenizerBase) -> Ids:
    try:
        ids = encode_prompt(tokenizer, group.prompt)
        if not ids:  # a tokenizer without BOS may drop all of a text
            raise UserError(
                "text: gives no token with this tokenizer; write a longer one or leave the row out"
            )
        return ids
    except UserError as error:
        field = "" if "messages" in str(error) else "prompt "
        raise UserError(f"{group.where}: field {field}{error}") from error


class Encoder:
    """Encodes responses, every different text once: texts recur in many examples."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, classes: Sequence[str], class_ids: Ids):
        self.tokenizer = tokenizer
        self.classes = classes
        self.class_ids = class_ids  # one a class; (): no group has beliefs
        self.class_tokens = dict(zip(classes, class_ids))
        self.encoded: dict[str, Ids] = {}

    def parts(self, response: Response, where: str) -> tuple[Ids, Ids]:
        """A response's belief and answer, without the EOS; `where` is its group's place, for errors."""
        if response.belief is None:
            return (), self.text(response.text, where)
        label, words = response.belief
        label_ids = (self.class_tokens[label],)
        if not words:
            return label_ids, self.text(response.text, where)
        return label_ids + self.text(f"<{words}", where), self.text(f">{response.text}", where)

    def text(self, text: str, where: str) -> Ids:
        """A text's ids. Raises UserError where they hold the EOS or BOS token."""
        if text not in self.encoded:
            ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            try:
                check_specials(self.tokenizer, ids)
            except UserError as error:
                raise UserError(f"{where}: field responses: {error}") from error
            self.encoded[text] = ids
        return self.encoded[text]

    def ending(self, prompt: Prompt, answer: Ids, where: str) -> Ids:
        """What ends an answer to this prompt. Raises UserError where the answer holds the end of a turn."""
        ending = ending_ids(self.tokenizer, prompt)
        check_ending(ending, answer, f"{where}: field responses: ")
        return ending


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
    """KTO's pairs for z0: every tree's prompt (and belief) with an answer to another prompt.

    The answer is drawn from a donor, by the seed alone, so that reference log-probs can be cached.
    Answers are cut to max_length. Raises UserError where all donors have one prompt.
    """
    if len({donor.prompt for donor in donors}) < 2:
        raise UserError(
            "loss=kto: needs responses to two or more different prompts, for its mismatched pairs; add data"
        )
    rng = np.random.default_rng([seed, 1])
    mismatched = []
    for tree in trees:
        donor = _draw_donor(tree.prompt, donors, rng)
        present = [answer for answer in donor.answers if answer]
        answer = present[rng.integers(len(present))]
        room = max_length - len(tree.prompt) - len(tree.belief)
        mismatched.append(TokenTree(tree.prompt, tree.belief, (answer[:room],), group=tree.group))
    return mismatched


def _draw_donor(prompt: Ids, donors: Sequence[TokenTree], rng: np.random.Generator) -> TokenTree:
    """A donor of another prompt than this one."""
    while True:
        donor = donors[rng.integers(len(donors))]
        if donor.prompt != prompt:
            return donor
