"""How a response ends: with what the chat template writes after an assistant's turn, or with the EOS token.

Contract: `ending_ids` is what stands behind an answer to messages: the token that ends the turn, and what
the template writes there before the conversation ends (ChatML's line break), as other trainers score it.
Generation stops at the token alone. Text prompts, tokenizers without a template and templates that write no
end keep the EOS token.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from groups.record import Prompt
from trees import Ids
from utils import UserError

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from transformers import PreTrainedTokenizerBase

QUESTIONS, ANSWERS = ("1730", "1847"), ("2956", "3968")  # digits: templates change case and cut spaces


class Ending(NamedTuple):
    """How a response ends."""

    ids: Ids
    stop: int  # the one of them that ends the turn


def ending_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt | None = None) -> Ids:
    """The ids that end a response to messages (or to this prompt): what the chat template writes there.

    Generation must stop at one of them, see `stop_ids`.
    """
    return ending_of(tokenizer, prompt).ids


def ending_of(tokenizer: PreTrainedTokenizerBase, prompt: Prompt | None = None) -> Ending:
    """As `ending_ids`, with the token that ends the turn."""
    if isinstance(prompt, str) or not tokenizer.chat_template:
        return Ending((tokenizer.eos_token_id,), tokenizer.eos_token_id)
    return _template_ending(tokenizer, str(tokenizer.chat_template))


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> Ids:
    """Every token at which a response may end: the EOS token, and the template's end of a turn."""
    return tuple(dict.fromkeys((tokenizer.eos_token_id, ending_of(tokenizer).stop)))


def check_ending(ending: Ending, ids: Sequence[int], place: str) -> None:
    """Raises UserError where a text holds the token that ends a turn: its turn would end early."""
    if ending.stop in ids:
        raise UserError(f"{place}text: holds the token that ends a turn inside; remove it from the text")


@functools.lru_cache(maxsize=8)
def _template_ending(tokenizer: PreTrainedTokenizerBase, template: str) -> Ending:
    """`template` is the tokenizer's own, so that another one is computed anew."""
    eos = tokenizer.eos_token_id
    tail = _after_first_answer(tokenizer, num_turns=1)
    ids = _ids_after(tokenizer, ANSWERS[0], tail)
    marks = _marks(tokenizer)
    at = next((i for i, token in enumerate(ids) if token in marks), None)
    if at is None:  # no end, or one in plain words
        words = _ids_after(tokenizer, ANSWERS[0], tail.rstrip())
        return Ending((*words, eos), eos)
    is_bare = not tokenizer.decode(ids[:at]).strip()
    if is_bare and ids[at] != eos and _begins_a_turn(tokenizer, ids[at], marks):
        return Ending((eos,), eos)
    first = at if is_bare and ids[at] == eos else 0
    return Ending(ids[first : at + 1] + _closing(tokenizer, ids[at + 1 :]), ids[at])


def _closing(tokenizer: PreTrainedTokenizerBase, ids: Ids) -> Ids:
    """The first ids that are space or the EOS token: what closes a conversation behind its last turn."""
    count = 0
    while count < len(ids) and _closes(tokenizer, ids[count]):
        count += 1
    return ids[:count]


def _closes(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    if token == tokenizer.eos_token_id:
        return True
    text = tokenizer.decode([token])
    return bool(text) and not text.strip()


def _after_first_answer(tokenizer: PreTrainedTokenizerBase, num_turns: int) -> str:
    """What the template writes behind the first answer, up to the next question or the end; "" where it
    refuses the conversation, or writes the answer in another way.
    """
    text = _render(tokenizer, num_turns)
    _, _, tail = text.partition(ANSWERS[0])
    return tail.partition(QUESTIONS[1])[0]


def _before_first_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes between the first question and its answer."""
    _, _, rest = _render(tokenizer, num_turns=1).partition(QUESTIONS[0])
    return rest.partition(ANSWERS[0])[0]


def _render(tokenizer: PreTrainedTokenizerBase, num_turns: int) -> str:
    messages = []
    for question, answer in zip(QUESTIONS[:num_turns], ANSWERS):
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=False)
    except Exception:  # templates raise what they like
        return ""


def _ids_after(tokenizer: PreTrainedTokenizerBase, before: str, text: str) -> Ids:
    """The ids of a text that stands behind another: some tokenizers put a space before what stands alone."""
    alone = tokenizer(before, add_special_tokens=False)["input_ids"]
    both = tokenizer(before + text, add_special_tokens=False)["input_ids"]
    if both[: len(alone)] == alone:
        return tuple(both[len(alone) :])
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _marks(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that are no text: special ones, and others that were added to the vocabulary."""
    added = tokenizer.added_tokens_decoder.items()
    return {
        *tokenizer.all_special_ids,
        *(token for token, added_token in added if added_token.content.strip()),
    }


def _begins_a_turn(tokenizer: PreTrainedTokenizerBase, token: int, marks: set[int]) -> bool:
    """Whether a token behind the last answer begins the next turn: it stands right before an answer, and not
    behind one that is followed by a question. Templates that end no turn may ask for the next one so.
    """
    header = _ids_after(tokenizer, QUESTIONS[0], _before_first_answer(tokenizer))
    next_turn = _ids_after(tokenizer, ANSWERS[0], _after_first_answer(tokenizer, num_turns=2))
    last_of_header = [i for i in header if i in marks][-1:]
    first_of_next = [i for i in next_turn if i in marks][:1]
    return last_of_header == [token] and first_of_next != [token]
