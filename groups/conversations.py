"""Chat formats' raw messages -> prompts and responses.

Contract: messages come out under the roles that templates know, with a text each. What a model would not be
shown (calls of tools, pictures) raises `UserError` with the place and the remedy; what a message holds beside
its text is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from groups.kinds import CALLS, flag, is_blank, messages_in
from groups.record import Prompt
from groups.rows import Row, Source, text_field, usual_role
from groups.values import is_absent, parsed
from utils import UserError

Messages = list[dict[str, str]]
TRAINED = ("weight", "train", "training")  # OpenAI's files and axolotl's say so whether a turn is trained on
MESSAGE_FIELDS = ("role", "content", "from", "value", *TRAINED)
THOUGHTS = ("thinking", "reasoning_content", "reasoning")  # what templates show beside a content
SYSTEM_COLUMNS = ("system", "system_prompt")


class PromptColumns(NamedTuple):
    """Which columns of a format hold the prompt."""

    main: str  # a text or messages
    below: tuple[str, ...] = ()  # texts that stand below it, on a line of their own each
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
    is_sharegpt = "role" not in message
    name = message["from"] if is_sharegpt else message["role"]
    _check_shown(message, name, field, where)
    for extra in message:
        if extra not in MESSAGE_FIELDS and not is_blank(message[extra]):
            source.note(f"ignored field of messages: {extra}", where)
    role = usual_role(name)
    if role is None:
        raise UserError(
            f"{where}: field {field}: unknown role {name[:40]!r}; write user, assistant, system or tool"
        )
    content = message["value"] if is_sharegpt else _text_of(message.get("content"), field, where)
    return {"role": role, "content": content}


def _check_shown(message: Row, name: str, field: str, where: str) -> None:
    """Raises UserError for what a template may show and nothing here does."""
    for call in CALLS:
        if name == call or not is_blank(message.get(call)):
            raise UserError(
                f"{where}: field {field}{'' if name == call else f'.{call}'}: calls of tools are not read; "
                "leave the row out or write the call into the content"
            )
    for thoughts in THOUGHTS:
        if not is_blank(message.get(thoughts)):
            raise UserError(
                f"{where}: field {field}.{thoughts}: is not shown to the model here; remove it or write it "
                "into the content"
            )


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
    text = "\n".join([text, *(row[column] for column in columns.below if not is_blank(row.get(column)))])
    if not columns.is_chat and not any(column in row for column in SYSTEM_COLUMNS):
        return text
    earlier: Messages = []
    history = row.get(columns.history)
    for said, answered in [] if is_blank(history) else parsed(history):
        earlier += [*user_turn(said), {"role": "assistant", "content": answered}]
    return with_system(row, earlier + user_turn(text), where)


def with_system(row: Row, messages: Messages, where: str) -> Messages:
    """Messages behind the system's text of the row, where it has one."""
    given = [column for column in SYSTEM_COLUMNS if not is_blank(row.get(column))]
    if not given:
        return messages
    text = row[given[0]]
    if any(row[column] != text for column in given):
        raise UserError(f"{where}: fields {' and '.join(given)}: differ; remove one of them")
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] == text:
            return messages
        raise UserError(
            f"{where}: field {given[0]}: the messages begin with another system message; remove one of them"
        )
    return [{"role": "system", "content": text}, *messages]


def is_repeated(prompt: str, messages: Messages) -> bool:
    """Whether messages say a text prompt again: one of them, or all before the response together."""
    words = prompt.split()
    if any(message["content"].split() == words for message in messages):
        return True
    has_response = bool(messages) and messages[-1]["role"] == "assistant"
    said = messages[:-1] if has_response else messages
    return len(said) > 2 and all(message["content"].strip() in prompt for message in said)


# --- conversations that end with a response -----------------------------------------------------------------


class Exchange(NamedTuple):
    """A prompt and the response to it."""

    prompt: Prompt
    text: str


def last_answer(value: Any, messages: Messages, source: Source, where: str) -> Exchange | None:
    """The last assistant's turn of a conversation and what stands before it; None where there is none.

    value: the raw messages, in which a turn's `weight` of 0 says that it is not trained on, as in OpenAI's
    files, and so does a `train` of false, as in axolotl's. Turns that are passed over are counted.
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
    marks = (message.get(field) for field in TRAINED)
    return all(is_absent(mark) or flag(mark) is not False for mark in marks)


def common_start(sides: Sequence[Messages]) -> Messages:
    """The messages with which all sides begin, but for the last one of each."""
    shared: Messages = []
    for turns in zip(*(side[:-1] for side in sides)):
        if any(turn != turns[0] for turn in turns):
            break
        shared.append(turns[0])
    return shared
