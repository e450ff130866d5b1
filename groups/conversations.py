"""Chat formats' raw messages -> prompts and responses.

Contract: messages come out under the roles that templates know, with a text each. What a model would not be
shown (calls of tools, pictures) raises `UserError` with the place and the remedy; what a message holds beside
its text is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from groups.kinds import flag, is_blank, messages_in
from groups.record import Prompt
from groups.rows import Row, Source, text_field, usual_role
from groups.values import is_absent, parsed
from utils import UserError

Messages = list[dict[str, str]]
MESSAGE_FIELDS = ("role", "content", "from", "value", "weight")
CALLS = ("tool_calls", "function_call")


class PromptColumns(NamedTuple):
    """Which columns of a format hold the prompt."""

    main: str  # a text or messages
    below: str = ""  # a text that stands below it, on a line of its own
    history: str = ""  # earlier turns
    is_chat: bool = False  # a text is a user's turn, as the libraries of this format write it


def user_turn(text: str) -> Messages:
    """A text as what the user says."""
    return [{"role": "user", "content": text}]


def read_messages_of(value: Any, field: str, where: str, source: Source) -> Messages:
    """The messages of a raw value that holds them. Raises UserError for what is no text."""
    messages = messages_in(value)
    if messages is None:
        raise UserError(f"{where}: field {field}: needs messages; give a role and a content each")
    read = []
    for number, message in enumerate(messages):
        read.append(_read_message(message, f"{field}[{number}]", where, source))
    return read


def _read_message(message: Row, field: str, where: str, source: Source) -> dict[str, str]:
    for call in CALLS:
        if not is_blank(message.get(call)):
            raise UserError(
                f"{where}: field {field}.{call}: calls of tools are not read; leave the row out or write the "
                "call into the content"
            )
    for extra in message:
        if extra not in MESSAGE_FIELDS and not is_blank(message[extra]):
            source.note(f"ignored field of messages: {extra}", where)
    is_sharegpt = "role" not in message
    name = message["from"] if is_sharegpt else message["role"]
    role = usual_role(name)
    if role is None:
        raise UserError(
            f"{where}: field {field}: unknown role {name[:40]!r}; write user, assistant, system or tool"
        )
    content = message["value"] if is_sharegpt else _text_of(message["content"], field, where)
    return {"role": role, "content": content}


def _text_of(content: Any, field: str, where: str) -> str:
    """A content's text; it may stand in parts, as OpenAI's files have it."""
    if isinstance(content, str):
        return content
    parts = content or []
    texts = [part.get("text") for part in parts if part.get("type", "text") == "text"]
    if not parts or len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        problem = "has no text" if not parts else "holds parts that are no text"
        raise UserError(f"{where}: field {field}.content: {problem}; give a text or leave the row out")
    return "".join(texts)


# --- prompts ------------------------------------------------------------------------------------------------


def read_prompt(row: Row, columns: PromptColumns, where: str, source: Source) -> Prompt:
    """A row's prompt: messages stay messages and a text a text, but for what is a chat.

    A `system` column makes a chat of it, with a system's turn where it holds a text.
    """
    value = row[columns.main]
    if messages_in(value) is not None:
        prompt = read_messages_of(value, columns.main, where, source)
        return with_system(row, prompt, where)
    text = text_field(row, columns.main, where)
    if columns.below and not is_blank(row.get(columns.below)):
        text = f"{text}\n{row[columns.below]}"
    if not columns.is_chat and "system" not in row:
        return text
    earlier: Messages = []
    history = row.get(columns.history)
    for said, answered in [] if is_blank(history) else parsed(history):
        earlier += [*user_turn(said), {"role": "assistant", "content": answered}]
    return with_system(row, earlier + user_turn(text), where)


def with_system(row: Row, messages: Messages, where: str) -> Messages:
    """Messages behind the system's text of the row, where it has one."""
    text = row.get("system")
    if is_blank(text):
        return messages
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] == text:
            return messages
        raise UserError(
            f"{where}: field system: the messages begin with another system message; remove one of them"
        )
    return [{"role": "system", "content": text}, *messages]


# --- conversations that end with a response -----------------------------------------------------------------


class Exchange(NamedTuple):
    """A prompt and the response to it."""

    prompt: Prompt
    text: str


def last_answer(value: Any, messages: Messages, source: Source, where: str) -> Exchange | None:
    """The last assistant's turn of a conversation and what stands before it; None where there is none.

    value: the raw messages, in which a turn's `weight` of 0 says that it is not trained on, as in OpenAI's
    files. Turns that are passed over are counted.
    """
    answers = [number for number, m in enumerate(messages) if m["role"] == "assistant"]
    weighed = messages_in(value) or []
    offset = len(messages) - len(weighed)
    trained = [n for n in answers if n < offset or _is_trained(weighed[n - offset])]
    if not answers:
        source.drop("without_assistant_turn", where)
    elif not trained:
        source.drop("without_a_turn_of_weight_1", where)
    elif not trained[-1]:
        source.drop("without_a_prompt", where)
    else:
        last = trained[-1]
        if len(trained) > 1:
            source.note("earlier assistant turns stand in the prompt", where)
        if last + 1 < len(messages):
            source.note("messages behind the response are ignored", where)
        return Exchange(messages[:last], messages[last]["content"])
    return None


def _is_trained(message: Row) -> bool:
    weight = message.get("weight")
    return is_absent(weight) or flag(weight) is not False


def common_start(sides: Sequence[Messages]) -> Messages:
    """The messages with which all sides begin, but for the last one of each."""
    shared: Messages = []
    for turns in zip(*(side[:-1] for side in sides)):
        if any(turn != turns[0] for turn in turns):
            break
        shared.append(turns[0])
    return shared
