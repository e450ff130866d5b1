"""Make the pages that are not written by hand: `python -m docs.make`, in the project's folder.

Contract: docs/configuration.md is made of the comments in the YAML files, and the tables of docs/from_dpo.md
between their marks of `elsewhere`; a test holds both current.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import elsewhere
from commented import Key, Part, read_parts
from environment import CONFIGS
from utils import atomic_path

DOCS = Path(__file__).resolve().parent
FILES = {
    "config": ("Training", "`python train.py key=value ...`"),
    "evaluate": ("Evaluation", "`python evaluate.py key=value ...`"),
    "synthesize": ("Making data", "`python synthesize.py key=value ...`"),
    "export": ("Handing a checkpoint on", "`python export.py outputs/NAME key=value ...`"),
}
HEAD = """# Configuration

Every key of the commands, made of the comments in `config/*.yaml` by `python -m docs.make`. Keys are given on
the command line as `key=value`. A list is `key=a,b`; with brackets, `'key=[a,b]'`, it needs quotes in zsh. An
unknown key is refused with the nearest one that there is. `python train.py --cfg job loss=gdpo` prints a
config as it is composed, `python train.py --help` the keys that matter most. The keys of losses stand in
[objectives](objectives.md).
"""
TABLES = {"DPO": elsewhere.DPO, "NCA": elsewhere.NCA, "CHOICES": elsewhere.CHOICES}


def configuration() -> str:
    """The text of docs/configuration.md."""
    lines = [HEAD]
    for name, (title, command) in FILES.items():
        lines += [f"## {title}", "", f"{command}, `config/{name}.yaml`", ""]
        for part in read_parts(Path(CONFIGS) / f"{name}.yaml"):
            lines += _of_part(part)
    return "\n".join(lines)


def _of_part(part: Part) -> Iterator[str]:
    if part.title:
        yield from (f"### {_linked(part.title[0].upper() + part.title[1:])}", "")
    if part.title or not any(key.name in ("model", "task") for key in part.keys):
        for note in part.notes:
            yield from (_linked(note[0].upper() + note[1:]), "")
    yield from ("| key | default | |", "|---|---|---|")
    yield from (_row(key) for key in part.keys if key.default or key.comment)
    yield ""


def _row(key: Key) -> str:
    default = f"`{key.default}`" if key.default else ""
    return f"| `{key.name}` | {default} | {_linked(_cell(key.comment))} |"


def _linked(text: str) -> str:
    """The pages that a comment names, docs/data.md, as links."""
    return re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", text)


def _cell(text: str) -> str:
    """A text for a cell: what Markdown would read otherwise is escaped."""
    for mark in "\\|*<":
        text = text.replace(mark, f"\\{mark}")
    return text


def with_tables(text: str) -> str:
    """A page with its marked tables made anew."""
    for name, keys in TABLES.items():
        begin, end = f"<!-- {name}: made by docs/make.py -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + begin + _table(keys) + end + after
    return text


def _table(keys: Mapping[str, str]) -> str:
    rows = [f"| `{there}` | {here} |\n" for there, here in keys.items()]
    return "".join(["\n| there | here |\n|---|---|\n", *rows, "\n"])


def pages() -> dict[Path, str]:
    """The text of every page that is made, by its path."""
    other = DOCS / "from_dpo.md"
    return {DOCS / "configuration.md": configuration(), other: with_tables(other.read_text(encoding="utf-8"))}


def main() -> None:
    """Write them."""
    argparse.ArgumentParser(
        prog="python -m docs.make",
        description="Write docs/configuration.md, and the tables of docs/from_dpo.md.",
    ).parse_args()
    for path, text in pages().items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(path.name)


if __name__ == "__main__":
    main()
