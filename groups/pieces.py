"""Tokens as texts that a person can read.

Contract: special tokens stand by their names; tokens that make one character together stand together; what a
terminal would not show is written as Python writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # slow to import, and needed for its name alone
    from transformers import PreTrainedTokenizerBase

NO_CHARACTER = "\ufffd"  # what an unfinished character is decoded to
MOST_BYTES = 4  # of a character


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of every token; "é{2 tokens}" where several make one character."""
    names = {token: added.content for token, added in tokenizer.added_tokens_decoder.items()}
    texts: list[str] = []
    before: list[int] = []  # the tokens of the last piece: some tokenizers drop a space that begins a text
    begun: list[int] = []
    for number, token in enumerate(ids):
        if token in names:
            if begun:
                texts.append(_piece(tokenizer, before, begun))
            texts.append(printable(names[token]))
            before, begun = [token], []
            continue
        begun.append(token)
        is_last = number == len(ids) - 1
        text = _decoded(tokenizer, before, begun)
        if NO_CHARACTER not in text or len(begun) == MOST_BYTES or is_last:
            texts.append(_piece(tokenizer, before, begun))
            before, begun = begun, []
    return texts


def _piece(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]) -> str:
    text = printable(_decoded(tokenizer, before, ids))
    return text if len(ids) == 1 else f"{text}{{{len(ids)} tokens}}"


def _decoded(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]) -> str:
    """What some tokens add to the text of those before them."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    text = tokenizer.decode([*before, *ids], **options)
    return text[len(tokenizer.decode(list(before), **options)) :] if before else text


def printable(text: str) -> str:
    """A text on one line: what cannot be printed is escaped, a line break as \\n."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
