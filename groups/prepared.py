"""A run's data as token trees on the disk: read, compared, encoded and written a part at a time.

Contract: `make` fills a folder, and `opened` reads it; the numbers are those of encoding all at once. What is
made depends on `determined_by` alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from groups import cache, compared, loading
from groups.audit import Audit, Auditor
from groups.compared import Member, Some
from groups.people import Naming
from groups.run_splits import Split, naming_for, read_splits, sources_of
from groups.shots import Pool
from groups.splits import Marks
from groups.stored import StoredTrees, TreeWriter
from groups.tokens import Encoder, Limits, encode_examples, mismatched, tokenizer_identity
from settings import TrainSettings
from trees import TokenTree
from utils import UserError

if TYPE_CHECKING:  # slow to import, and needed for their names alone
    from transformers import PreTrainedTokenizerBase

    from losses import Needs

WRITTEN_AT_ONCE = 2048  # trees
KINDS = ("trees", "mismatched")


class Prepared(NamedTuple):
    """A run's data: what every process reads."""

    trees: dict[str, Sequence]  # split -> its TokenTrees
    mismatched: dict[str, Sequence] | None  # split -> KTO's pairs, where the loss asks for them
    digests: dict[str, str]  # split -> a hash of all that the loss will see
    audit: dict[str, dict[str, Audit]]  # data set -> split -> audit


def limits_of(settings: TrainSettings) -> Limits:
    """The token limits of a run's examples."""
    limits = Limits(settings.max_length, settings.max_prompt_length, settings.truncation, settings.add_bos)
    return limits.with_shots(settings.icf_shots)


def opened(folder: Path) -> Prepared:
    """What `make` wrote."""
    facts = cache.read_facts(folder)
    stored = {}
    for kind in facts["kinds"]:
        stored[kind] = {split: StoredTrees(folder / f"{split}.{kind}.arrow") for split in facts["digests"]}
    return Prepared(stored["trees"], stored.get("mismatched"), facts["digests"], facts["audit"])


def determined_by(
    settings: TrainSettings, needs: Needs, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """All that the token trees of a run depend on."""
    keys = (
        "seed belief_classes pairs_per_prompt eval_fraction responses max_responses icf_shots max_length "
        "max_prompt_length truncation add_bos n_eval_examples group_in_prompt group_template"
    )
    contents = {}
    for split, data_sets in sources_of(settings).items():
        contents[split] = [(of, loading.identity(of.name, of.split or split)) for of in data_sets]
    return {
        "contents": contents,
        "has_eval_datasets": bool(settings.eval_datasets),
        "settings": {key: getattr(settings, key) for key in keys.split()},
        "needs": needs,
        "tokenizer": tokenizer_identity(tokenizer),
        "code": _code_version(),
        "libraries": {name: version(name) for name in ("tokenizers", "transformers")},
    }


def _code_version() -> str:
    """A hash of the code that turns rows into trees."""
    here = Path(__file__).parent
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted([*here.glob("*.py"), here.parent / "trees.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make(
    folder: Path, settings: TrainSettings, needs: Needs, tokenizer: PreTrainedTokenizerBase
) -> Generator[None, None, dict[str, Any]]:
    """Read, compare, encode and write all splits into a folder; a step at a time."""
    splits = read_splits(settings, needs)
    yield
    pool, naming = _pool(splits["train"], settings), naming_for(settings)
    digests: dict[str, str] = {}
    audit: dict[str, dict[str, Audit]] = {}
    for name, split in splits.items():
        writer = TreeWriter(folder / f"{name}.trees.arrow")
        before = 0
        for member in split.members:
            auditor = Auditor()
            taken = _shown(compared.parts(member, settings, needs), naming, pool)
            yield from _encode(member, before, taken, settings, tokenizer, writer, auditor)
            for first in range(0, len(member.groups), WRITTEN_AT_ONCE):
                some = member.groups[first : first + WRITTEN_AT_ONCE]
                auditor.add_groups([naming.named(group) for group in some])
            audit.setdefault(member.name, {})[name] = auditor.audit(member.dropped)
            before += len(member.groups)
        digests[name] = writer.close().digest
    if needs.mismatched:
        trees = {name: StoredTrees(folder / f"{name}.trees.arrow") for name in splits}
        for name in splits:
            digest = yield from _write_mismatched(folder, name, trees, settings)
            digests[name] = f"{digests[name]} {digest}"
    return {"digests": digests, "audit": audit, "kinds": KINDS[: 1 + bool(needs.mismatched)]}


def _pool(train: Split, settings: TrainSettings) -> Pool | None:
    """Where solved examples come from; None where none stand before prompts."""
    if not settings.icf_shots:
        return None
    columns = zip(*(member.marks for member in train.members))
    marks = Marks(*map(np.concatenate, columns))
    return Pool(train.groups, marks, settings.icf_shots, settings.seed)


def _encode(
    member: Member,
    before: int,
    taken: Iterable[Some],
    settings: TrainSettings,
    tokenizer: PreTrainedTokenizerBase,
    writer: TreeWriter,
    auditor: Auditor,
) -> Iterator[None]:
    """Write the trees of what is taken of one data set, whose groups are numbered from `before` on. Raises
    UserError where no example has room for a response.
    """
    written, no_room = writer.examples, ""
    with tqdm(total=member.taken, desc=f"preparing {member.name}", unit="ex", leave=False) as bar:
        for some, trees, problem in _encoded(taken, member, settings, tokenizer):
            no_room = no_room or problem
            writer.append([tree._replace(group=some.numbers[tree.group] + before) for tree in trees])
            auditor.add_examples(some.groups, some.examples)
            auditor.add_trees(trees)
            bar.update(some.count)
            yield
    if no_room and writer.examples == written:
        raise UserError(no_room)


def _shown(parts: Iterable[Some], naming: Naming, pool: Pool | None) -> Iterator[Some]:
    """With the prompts that a model reads: behind shots, or behind the people's name."""
    for some in parts:
        groups = [naming.named(group) for group in some.groups]
        yield some._replace(groups=[pool.before(group) for group in groups] if pool else groups)


def _encoded(
    parts: Iterable[Some], member: Member, settings: TrainSettings, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Some, list[TokenTree], str]]:
    """Every part with its trees, in order, and what to say where an example has no room.

    A thread encodes the next part while this one is written: tokenizers do not hold Python's lock.
    """
    encoder, limits = Encoder(tokenizer, settings.belief_classes), limits_of(settings)
    waiting: tuple[Some, Future] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="encoding") as thread:
        for some in parts:
            job = thread.submit(encode_examples, some.groups, some.examples, encoder, limits, member.dropped)
            if waiting:
                yield waiting[0], *waiting[1].result()
            waiting = (some, job)
        if waiting:
            yield waiting[0], *waiting[1].result()


def _write_mismatched(
    folder: Path, name: str, trees: Mapping[str, StoredTrees], settings: TrainSettings
) -> Generator[None, None, str]:
    """Write KTO's pairs of a split; return their digest."""
    writer = TreeWriter(folder / f"{name}.mismatched.arrow")
    pairs = mismatched(trees[name], trees["train"], settings.seed, limits_of(settings).max_length)
    some = []
    for pair in pairs:
        some.append(pair)
        if len(some) == WRITTEN_AT_ONCE:
            writer.append(some)
            some = []
            yield
    writer.append(some)
    return writer.close().digest
