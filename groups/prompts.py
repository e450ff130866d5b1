"""Prompts -> ids: text with the tokenizer's own BOS, messages through the chat template.

Contract: a prompt's ids never end a sequence, and begin one at most once. Many prompts are encoded at once,
with the same ids as one by one: fast tokenizers use all cores then.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from groups.endings import Ending, check_ending, ending_of
from groups.record import Group, Prompt
from groups.rows import usual_role
from trees import Ids
from utils import UserError, log

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from transformers import PreTrainedTokenizerBase

AddBos = Literal["true", "false", "auto"]

# a system's text stands before the turns, without a mark
TURNS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "tool": "\n\nTool: ", "system": ""}


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, add_bos: AddBos = "auto") -> Ids:
    """A prompt's ids: messages through the chat template, text with the tokenizer's own BOS.

    There is never an EOS at its end. A tokenizer without a chat template gets the DPO repository's plain
    turns, "Human: ..." and "Assistant:". add_bos: "true" and "false" put a BOS there, or none, whatever
    tokenizer and template do.
    Raises UserError where the text holds the EOS or BOS token, or a role is unknown, or the template refuses
    the messages.
    """
    _check_bos(tokenizer, add_bos)
    written = _write(tokenizer, prompt)
    (ids,) = encode_texts(tokenizer, [written.text], special=not written.is_templated)
    return _finish(tokenizer, written, ids, add_bos)


def encode_prompts(
    groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase, add_bos: AddBos = "auto"
) -> list[Ids]:
    """The whole prompts of all groups. Raises UserError like `encode_prompt`, with the group's place."""
    _check_bos(tokenizer, add_bos)
    written: list[Written] = []
    for group in groups:
        try:
            written.append(_write(tokenizer, group.prompt))
        except UserError as error:
            raise _in_place(error, group) from error
    ids: list[Ids] = [()] * len(groups)
    for is_templated in (False, True):
        members = [i for i, of_prompt in enumerate(written) if of_prompt.is_templated == is_templated]
        texts = [written[i].text for i in members]
        for i, of_text in zip(members, encode_texts(tokenizer, texts, special=not is_templated)):
            ids[i] = of_text
    for i, group in enumerate(groups):
        try:
            ids[i] = _finish(tokenizer, written[i], ids[i], add_bos)
            if not ids[i] and group.prompt == "":  # a text alone begins as documents do, behind an end
                ids[i] = (tokenizer.eos_token_id,)
            if not ids[i]:  # a tokenizer without BOS may drop all of a text
                problem = "gives no token with this tokenizer"
                raise UserError(f"text: {problem}; write a longer one or leave the row out")
        except UserError as error:
            raise _in_place(error, group) from error
    return ids


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool) -> list[Ids]:
    """The ids of several texts. special: with what the tokenizer puts around a text (BOS, EOS)."""
    if not texts:
        return []
    spared = {"return_attention_mask": False, "return_token_type_ids": False} if tokenizer.is_fast else {}
    return list(map(tuple, tokenizer(list(texts), add_special_tokens=special, **spared)["input_ids"]))


def _in_place(error: UserError, group: Group) -> UserError:
    field = "" if "messages" in str(error) else "prompt "
    return UserError(f"{group.where}: field {field}{error}")


# --- a prompt as one text -----------------------------------------------------------------------------------


class Written(NamedTuple):
    """A prompt as the text that is encoded."""

    text: str
    is_templated: bool  # by the chat template, which writes its special tokens itself


def _write(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> Written:
    if isinstance(prompt, str):
        return Written(prompt, False)
    messages = _with_usual_roles(prompt)
    if not tokenizer.chat_template:
        _note_plain_turns()
        return Written(_plain_turns(messages), False)
    return Written(_templated(tokenizer, messages), True)


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


def _templated(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    for message in messages:
        check_message(tokenizer, message["content"])
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
    return text


def _is_in(content: str, text: str) -> bool:
    """Whether a text holds a content, be it as JSON, as templates write what a tool said."""
    forms = (content, json.dumps(content)[1:-1], json.dumps(content, ensure_ascii=False)[1:-1])
    return any(form in text for form in forms)


def _plain_turns(messages: Sequence[dict[str, str]]) -> str:
    return "".join(TURNS[m["role"]] + m["content"] for m in messages) + "\n\nAssistant:"


@functools.cache  # once a process
def _note_plain_turns() -> None:
    log.info("this tokenizer has no chat template: messages are written as plain Human and Assistant turns")


# --- what must not stand in a text, and what stands before it -----------------------------------------------


def _finish(tokenizer: PreTrainedTokenizerBase, written: Written, ids: Ids, add_bos: AddBos) -> Ids:
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if not written.is_templated:
        if ids and ids[-1] == eos and eos != bos:
            ids = ids[:-1]  # T5-like tokenizers close every text
        check_specials(tokenizer, ids[1:] if ids[:1] == (bos,) else ids)
    if add_bos == "auto":
        return ids
    without = ids[1:] if ids[:1] == (bos,) else ids
    return (bos, *without) if add_bos == "true" else without


def _check_bos(tokenizer: PreTrainedTokenizerBase, add_bos: AddBos) -> None:
    if add_bos == "true" and tokenizer.bos_token_id is None:
        raise UserError("config key add_bos=true: this tokenizer has no BOS token; set add_bos=auto")


def check_specials(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> None:
    """Raises UserError where a text holds the token that ends or begins a sequence.

    The sequence would end early, or begin twice.
    """
    for name in ("eos_token", "bos_token"):
        if getattr(tokenizer, f"{name}_id") in ids:
            token = getattr(tokenizer, name)
            raise UserError(f"text: holds the tokenizer's {name} {token} inside; remove it from the text")


def check_message(tokenizer: PreTrainedTokenizerBase, content: str) -> None:
    """Raises UserError where a message holds a token that ends or begins a sequence, or ends a turn."""
    ending = ending_of(tokenizer)
    marks = _marks_as_text(tokenizer, ending)
    if marks is not None and not any(mark in content for mark in marks):
        return  # encoding would say the same, and take its time
    ids = tokenizer(content, add_special_tokens=False)["input_ids"]
    check_specials(tokenizer, ids)
    check_ending(ending, ids, "prompt messages: ")


def _marks_as_text(tokenizer: PreTrainedTokenizerBase, ending: Ending) -> tuple[str, ...] | None:
    """The only texts that these tokens come from; None where the tokenizer may make them of others, too."""
    if not tokenizer.is_fast or tokenizer.backend_tokenizer.normalizer is not None:
        return None
    numbers = [tokenizer.eos_token_id, tokenizer.bos_token_id, ending.stop]
    added = tokenizer.added_tokens_decoder
    if any(number is not None and number not in added for number in numbers):
        return None
    return tuple(added[number].content for number in numbers if number is not None)
