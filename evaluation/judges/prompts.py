"""What a chat judge is asked: templates in evaluation/prompts/, filled with texts in quotation marks.

Contract: a question is a function of template and texts. It is all of a request that varies, so the hash of a
request changes with the template, and a verdict is never that of another wording. What stands in a quoted
text cannot end its quotation: the marks carry a code that is a hash of all quoted texts.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template

from groups import Prompt
from utils import UserError

PROMPTS = Path(__file__).parent.parent / "prompts"
CODE = "code"  # the slot of the marks' code
SLOTS = {
    "belief": {"prompt", "belief", "answer"},
    "pair": {"prompt", "a", "b"},
    "score": {"prompt", "response"},
    "score_reference": {"prompt", "response", "reference"},
}


def question(name: str, texts: Mapping[str, Prompt]) -> str:
    """The template evaluation/prompts/NAME.txt with texts, one a slot, between marks.

    Messages are quoted one by one, each with its role. Raises UserError for a template that lacks a slot or
    has others.
    """
    code = hashlib.blake2b(json.dumps(texts, sort_keys=True).encode(), digest_size=6).hexdigest()
    quoted = {slot: _quoted(slot, text, code) for slot, text in texts.items()}
    return template(name).substitute(quoted, code=code)


def _quoted(slot: str, text: Prompt, code: str) -> str:
    """A text between marks, or a conversation's messages, each between its own."""
    if isinstance(text, str):
        return f"<{slot} {code}>\n{text}\n</{slot} {code}>"
    return "\n".join(_quoted(message["role"], message["content"], code) for message in text)


@functools.cache
def template(name: str) -> Template:
    """A template with its slots, `$slot`; a dollar sign is `$$`."""
    path = PROMPTS / f"{name}.txt"
    try:
        read = Template(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it") from error
    wanted = SLOTS[name] | {CODE}
    if not read.is_valid() or set(read.get_identifiers()) != wanted:
        listed = ", ".join(f"${slot}" for slot in sorted(wanted))
        raise UserError(f"{path}: must have exactly the slots {listed}; write a dollar sign as $$")
    return read
