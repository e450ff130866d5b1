"""The YAML files of keys as a reader sees them: every key with its default and its comment, in order.

Contract: what stands in these files is the only text on a key; `--help` and docs/configuration.md show it.
A key is one line, `name: default  # comment`; indented comment lines go on; `# --- title` begins a part.

    python commented.py experiments/opinions.yaml    # what `bash experiments/opinions.sh --help` prints
"""

from __future__ import annotations

import argparse
import re
import signal
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

KEY = re.compile(r"(?P<indent> *)(?P<name>\w+):(?P<value>.*?)(?:(?:^|\s+)# ?(?P<comment>.*))?$")
CHOICE = re.compile(r" +- (?P<name>\w+): (?P<value>\S+)\s+# (?P<comment>.*)$")  # of the defaults list
WIDTH = 100


class Key(NamedTuple):
    """A key that may be set. name: with its section, `wandb.enabled`; default: as the file has it."""

    name: str
    default: str
    comment: str


class Part(NamedTuple):
    """Keys below one heading. title: "" above the first one; notes: comments that are of no single key."""

    title: str
    notes: list[str]
    keys: list[Key]


def read_parts(path: Path) -> list[Part]:
    """The parts of a file of keys, without hydra's own."""
    parts, section = [Part("", [], [])], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("hydra:"):
            break
        if not line.strip() or line.startswith("defaults:"):
            continue
        if line.startswith("#"):
            _add_remark(parts, line.lstrip("#").strip())
        elif line.lstrip().startswith("#"):
            last = parts[-1].keys[-1]
            parts[-1].keys[-1] = last._replace(comment=f"{last.comment} {line.strip().lstrip('# ')}".strip())
        elif found := CHOICE.match(line):
            parts[-1].keys.append(Key(found["name"], found["value"], found["comment"]))
        elif found := KEY.match(line):
            section = section if found["indent"] else ""
            value, comment = found["value"].strip(), (found["comment"] or "").strip()
            parts[-1].keys.append(Key(section + found["name"], value, comment))
            if not value and not found["indent"]:
                section = f"{found['name']}."
    return [part for part in parts if part.keys or part.notes]


def _add_remark(parts: list[Part], text: str) -> None:
    """A comment at the line's beginning: a heading, or a note of the part that begins."""
    if text.startswith("--- "):
        parts.append(Part(text.removeprefix("--- "), [], []))
    elif parts[-1].keys:
        parts.append(Part("", [text], []))
    else:
        parts[-1].notes.append(text)


def keys_of(path: Path) -> dict[str, Key]:
    """The keys of a file by name; a choice of the defaults list goes before a section of its name."""
    found: dict[str, Key] = {}
    for part in read_parts(path):
        for key in part.keys:
            found.setdefault(key.name, key)
    return found


def help_text(purpose: str, examples: Sequence[str], names: Sequence[str], path: Path, shown: str) -> str:
    """What `--help` prints: the purpose, commands, the keys that matter most, and where the rest stand.

    shown: the file's path as a reader of the project knows it.
    """
    keys = keys_of(path)
    lines = [purpose, "", *(f"    {example}" for example in examples), ""]
    lines.append(
        "Keys are given as key=value, lists as key=a,b. Those that matter most, with their defaults:"
    )
    lines.append("")
    for name in names:
        lines += _shown_key(keys[name])
    rest = len(keys) - len(names)
    lines += ["", f"The other {rest} stand, each with its default and a comment, in {shown}."]
    return "\n".join(lines)


def help_of_file(path: Path) -> str:
    """What `--help` of an experiment prints: its file's first lines, and its first ten keys."""
    first, *others = read_parts(path)[0].notes
    examples = [line for line in others if "bash " in line]
    words = [first.removeprefix("Every key of "), *(line for line in others if line not in examples)]
    return help_text(" ".join(words), examples, list(keys_of(path))[:10], path, f"experiments/{path.name}")


def _shown_key(key: Key) -> Iterator[str]:
    head = f"{key.name}={key.default}"
    if len(head) > 26:
        yield f"  {head}"
        head = ""
    indent = " " * 30
    yield from textwrap.wrap(key.comment, WIDTH, initial_indent=f"  {head:<26}  ", subsequent_indent=indent)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it
    parser = argparse.ArgumentParser(description="Print what an experiment does, and its first ten keys.")
    parser.add_argument("file", type=Path, help="its file of keys, experiments/opinions.yaml")
    file = parser.parse_args().file
    if not file.is_file():
        parser.error(f"{file}: no such file")
    print(help_of_file(file))
