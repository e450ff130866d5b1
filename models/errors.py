"""What another library's error says, for one line of ours."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of the error's text, or its type where it has none; at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
