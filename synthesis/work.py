"""The work at hand: a folder with the items so far, from which a killed command goes on.

    facts = {"seed": 0, "temperature": 0.8}
    with open_work(folder, "dialogues", facts, settings.overwrite) as work:
        work.expect(items)
        for item in work.bar(work.missing(items), "answers"):
            work.keep(item, make(item), tokens)  # or work.reject(item, "why"), or work.fail(item, "why")
        work.finish({"train.jsonl": rows}, Provenance(...))

Contract: a result is on the disk before the next item is begun, one line an item of `items.jsonl`, and is
never made again. A line that a killed command left unfinished is cut. What other settings made is refused, or
set aside with overwrite=true. The data is written whole and at the end, `synthesis.json` last of all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from chat import Store
from synthesis.record import NO_TOKENS, Item, Json, Provenance, Result, Tokens, digest
from utils import UserError, atomic_path, locked, log, without_secrets, write_json

ITEMS, RECORD, REPLIES = "items.jsonl", "synthesis.json", "replies"
REMEDY = "set output=<another folder>, or overwrite=true to set aside what is there"
MOST_LISTED = 1000  # rejects in synthesis.json; all are counted

Row = Mapping[str, Json]


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises UserError where the block cannot write to `folder`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"config key output={folder}: cannot be written ({error.strerror}); "
            "make room, or give another folder"
        ) from error


@contextlib.contextmanager
def open_work(folder: Path, task: str, facts: Mapping[str, Json], overwrite: bool) -> Iterator[Work]:
    """The work of a task in a folder, which no other process has meanwhile.

    facts: all settings that determine results, by the names of their config keys; texts and file contents may
    stand as hashes. Raises UserError where the folder holds anything that this task with these facts did not
    make, unless overwrite, and where another process works there.
    """
    with contextlib.ExitStack() as stack:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            is_free = stack.enter_context(locked(folder))
        if not is_free:
            raise UserError(
                f"config key output={folder}: another process works there; wait for its end, or give another "
                "folder"
            )
        yield Work(folder, {"task": task, **facts}, overwrite)


class Work:
    """The items of one folder; made by `open_work`."""

    def __init__(self, folder: Path, facts: Mapping[str, Json], overwrite: bool):
        self.folder, self.overwrite = folder, overwrite
        self.path = folder / ITEMS
        self.facts: dict[str, Json] = json.loads(json.dumps(facts))
        self.results: dict[str, Result] = {}  # by the item's key
        self.made_by: dict[str, str] = {}  # by the item's key: a hash of facts and inputs
        self.failures: dict[str, str] = {}  # by the item's key: why there is no result yet
        self.expected: dict[str, None] = {}  # keys of the items of this command, in their order
        self._take_up()

    # --- items ----------------------------------------------------------------------------------------------

    def expect(self, items: Sequence[Item]) -> None:
        """Say which items there are; may be called again with more. Raises UserError where one was made from
        other inputs, and for two of one key."""
        for item in items:
            if item.key in self.expected:
                raise ValueError(f"two items are named {item.key}")
            self.expected[item.key] = None
        others = [i.key for i in items if i.key in self.results and self.made_by[i.key] != self._made_by(i)]
        if not others:
            return
        if not self.overwrite:
            raise UserError(f"{self.path}: item {others[0]} was made from other inputs; {REMEDY}")
        self._set_aside(f"item {others[0]} was made from other inputs")
        for key in others:
            del self.results[key], self.made_by[key]
        self._rewrite()

    def result(self, item: Item) -> Result | None:
        """What became of an item; None where nothing did yet."""
        return self.results.get(item.key)

    def missing(self, items: Sequence[Item]) -> list[Item]:
        """Those that have no result yet."""
        return [item for item in items if item.key not in self.results]

    def keep(self, item: Item, value: Json, tokens: Tokens = NO_TOKENS) -> None:
        """Note what was made, at once. Raises UserError where the disk refuses it."""
        self._add(item, Result(value, "", tokens))

    def reject(self, item: Item, reason: str, tokens: Tokens = NO_TOKENS) -> None:
        """Note that an item has no result and never will under these settings: another try gives the same."""
        self._add(item, Result(None, without_secrets(reason), tokens))

    def fail(self, item: Item, reason: str) -> None:
        """Note that an item has no result now (a server did not answer): the same command tries it again."""
        self.failures[item.key] = without_secrets(reason)

    def bar(self, missing: Sequence[Item], desc: str, unit: str = "item") -> tqdm:
        """The items with a progress bar, which begins with those that are done."""
        total = len(self.expected)
        return tqdm(
            missing, total=total, initial=total - len(missing), desc=desc, unit=unit, dynamic_ncols=True
        )

    def store(self, kind: str) -> Store:
        """Where replies of chat servers are kept. kind: what they are for, a plain name."""
        return Store(self.folder / REPLIES / f"{kind}.jsonl")

    # --- the end --------------------------------------------------------------------------------------------

    def finish(self, files: Mapping[str, Iterable[Row]], provenance: Provenance) -> None:
        """Write the data, one JSON object a line, and `synthesis.json` behind it.

        files: rows by the file's name. What an earlier command wrote and this one does not goes: its rows
        stand elsewhere now. Raises UserError, and leaves all as it is, where a file of either kind was
        changed since it was written, unless overwrite.
        """
        contents = {name: _lines(rows) for name, rows in files.items()}
        self._check_replaced(contents)
        left = self._left_over(contents)
        with writing(self.folder):
            for path in left:  # before the new ones are there: what is held out never stands beside its copy
                path.unlink()
            for name, content in contents.items():
                with atomic_path(self.folder / name) as temporary:
                    temporary.write_bytes(content)
            described = {name: _described(content) for name, content in contents.items()}
            write_json(self.folder / RECORD, self._record(described, provenance))

    def rejects(self) -> dict[str, str]:
        """Why items have no result, by their keys: those that were rejected, and those that failed now."""
        rejected = {}
        for key in self.expected:
            result = self.results.get(key)
            reason = result.rejected if result is not None else self.failures.get(key, "")
            if reason:
                rejected[key] = reason
        return rejected

    def reasons(self) -> Counter[str]:
        """How many of `rejects` have each reason: what stands before its colon."""
        return Counter(reason.partition(":")[0] for reason in self.rejects().values())

    def tokens(self) -> Tokens:
        """What models read and wrote for all items."""
        used = [self.results[key].tokens for key in self.expected if key in self.results]
        return sum(used, NO_TOKENS)

    def _record(self, files: Mapping[str, Json], provenance: Provenance) -> dict[str, Json]:
        rejects, tokens = self.rejects(), self.tokens()
        return {
            "settings": self.facts,
            "files": dict(files),
            "licence": provenance.licence,
            "sources": [origin._asdict() for origin in provenance.origins],
            "models": [maker._asdict() for maker in provenance.makers],
            "prompts": dict(provenance.prompts),
            "counts": {
                "items": len(self.expected),
                "made": sum(not self.results[key].rejected for key in self.expected if key in self.results),
                "rejected": len(rejects) - len(self.failures),
                "failed": len(self.failures),
                **provenance.counts,
            },
            "tokens": tokens._asdict(),
            "reasons": dict(self.reasons().most_common()),
            "rejects": dict(list(rejects.items())[:MOST_LISTED]),
            "rejects_not_listed": max(0, len(rejects) - MOST_LISTED),
        }

    def _check_replaced(self, contents: Mapping[str, bytes]) -> None:
        """Raises UserError where a file would be lost that no earlier command of ours wrote."""
        written = _files_of(self.folder / RECORD)
        for name, content in contents.items():
            path = self.folder / name
            if self.overwrite or not path.exists():
                continue
            with writing(self.folder):
                there = path.read_bytes()
            if there != content and _described(there) != written.get(name):
                raise UserError(f"{path}: was changed since it was written; {REMEDY}")

    def _left_over(self, contents: Mapping[str, bytes]) -> list[Path]:
        """Files that an earlier command wrote and this one does not. Raises UserError for a changed one."""
        left = []
        for name, described in _files_of(self.folder / RECORD).items():
            path = self.folder / name
            if name in contents or not _is_inside(path, self.folder) or not path.is_file():
                continue
            with writing(self.folder):
                is_changed = _described(path.read_bytes()) != described
            if is_changed and not self.overwrite:
                raise UserError(f"{path}: was changed since it was written; {REMEDY}")
            left.append(path)
        return left

    # --- the file of items ----------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Go on with what is there. Raises UserError for what this command would not make."""
        with writing(self.folder):
            there = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        if ITEMS in there:
            try:
                facts, lines = _read(self.path)
                is_claimed = (
                    bool(lines) or RECORD in there
                )  # not by a command that failed before its first item
                reason = _difference(facts, self.facts) if is_claimed else ""
            except UserError as error:
                if not self.overwrite:
                    raise
                lines, reason = [], str(error)
        else:
            lines, reason = [], f"{there[0]} is there, and no {ITEMS}" if there else ""
        if reason and not self.overwrite:
            raise UserError(f"config key output={self.folder}: {reason}; {REMEDY}")
        if reason and ITEMS in there:
            self._set_aside(reason)
        for key, made_by, result in [] if reason else lines:
            self.results[key], self.made_by[key] = result, made_by
        self._rewrite()

    def _set_aside(self, reason: str) -> None:
        number = 1
        while (aside := self.folder / f"items.replaced-{number}.jsonl").exists():
            number += 1
        with writing(self.folder):
            os.link(self.path, aside)
        log.warning("%s: %s: what was there is now %s", self.folder, reason, aside.name)

    def _rewrite(self) -> None:
        lines = [_line({"settings": self.facts})]
        lines += [_item_line(key, self.made_by[key], result) for key, result in self.results.items()]
        with writing(self.folder), atomic_path(self.path) as temporary:
            temporary.write_bytes(b"".join(lines))

    def _add(self, item: Item, result: Result) -> None:
        if item.key not in self.expected:
            raise ValueError(f"item {item.key} was not expected")
        made_by = self._made_by(item)
        content = _item_line(item.key, made_by, result)
        with writing(self.folder), self.path.open("ab", buffering=0) as file:
            while content:  # one call of the system, unless the disk is nearly full
                content = content[file.write(content) :]
        self.results[item.key], self.made_by[item.key] = result, made_by
        self.failures.pop(item.key, None)

    def _made_by(self, item: Item) -> str:
        return digest([self.facts, item.inputs])


def _line(value: Json) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _lines(rows: Iterable[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")


def _item_line(key: str, made_by: str, result: Result) -> bytes:
    return _line({"item": key, "made_by": made_by, **result._asdict()})


def _described(content: bytes) -> dict[str, Json]:
    """What `synthesis.json` says of a file."""
    hashed = hashlib.blake2b(content, digest_size=16).hexdigest()
    return {"rows": content.count(b"\n"), "blake2b": hashed}


def _files_of(path: Path) -> Mapping[str, Json]:
    """What a `synthesis.json` says of the files beside it; nothing where there is none."""
    try:
        files = json.loads(path.read_bytes())["files"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    return files if isinstance(files, dict) else {}


def _is_inside(path: Path, folder: Path) -> bool:
    """Not where a record names a file of another place."""
    return folder.resolve() in path.resolve().parents


def _difference(there: Mapping[str, Json], now: Mapping[str, Json]) -> str:
    """The first fact that is another one than in the folder, in words; "" where all are the same."""
    for key in {**now, **there}:
        if there.get(key) != now.get(key):
            said = [json.dumps(facts.get(key), ensure_ascii=False)[:80] for facts in (there, now)]
            return f"holds items of {key}={said[0]}, and it is {said[1]} now"
    return ""


def _read(path: Path) -> tuple[Mapping[str, Json], list[tuple[str, str, Result]]]:
    """The facts and the lines of a file, without a torn last one. Raises UserError for others."""
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
    except OSError as error:
        reason = error.strerror or errno.errorcode.get(error.errno or 0, "")
        raise UserError(f"{path}: cannot be read ({reason}); set output=<another folder>") from error
    values = [_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    if not values:
        return {}, []
    facts = values[0].get("settings")
    if not isinstance(facts, dict):
        raise _not_ours(f"{path}, line 1")
    return facts, [_entry(value, f"{path}, line {number}") for number, value in enumerate(values[1:], 2)]


def _parsed(line: bytes, where: str) -> dict[str, Json]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _not_ours(where) from error
    if not isinstance(value, dict):
        raise _not_ours(where)
    return value


def _entry(value: dict[str, Json], where: str) -> tuple[str, str, Result]:
    match value:
        case {"item": str(key), "made_by": str(made_by), "rejected": str(rejected)}:
            match value.get("tokens"):
                case [int(prompt), int(completion)]:
                    return key, made_by, Result(value.get("value"), rejected, Tokens(prompt, completion))
    raise _not_ours(where)


def _not_ours(where: str) -> UserError:
    return UserError(f"{where}: is no item as this version writes them; remove the line, or {REMEDY}")
