"""The file predictions.jsonl of a report's folder: it grows as responses come, and outlives what kills an
evaluation.

Contract: one line a response, in the file before the next one is waited for. `made_by` says what determines a
response beside its sample number, so what is there is used again. Lines that this evaluation would not make
are a UserError, or set aside with overwrite=true: none is dropped in silence. Other ranks than the main one
write files of their own beside it, which the main one adopts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import ranks
from evaluation.checkpoints import Checkpoint
from evaluation.folder import writing
from evaluation.lines import REMEDY, Entry, Prediction, as_line, read_lines
from generation import Decoding, Written, decodings_of
from groups import Group, Prompt
from ranks import World
from settings import EvaluationSettings
from utils import UserError, atomic_path, locked, log

FILE, RANK_FILES = "predictions.jsonl", "predictions.rank*.jsonl"

Key = tuple[str, int]  # `made_by`, and the sample's number
Why = Callable[[Entry], str]  # what a line has that this evaluation would not make; "": nothing


def digest(value: object) -> str:
    """A hash of plain JSON values."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@contextlib.contextmanager
def open_predictions(
    folder: Path, checkpoints: Sequence[Checkpoint], settings: EvaluationSettings, world: World
) -> Iterator[Predictions]:
    """The predictions of an evaluation, with those that are there. A call for all ranks.

    Raises UserError where the folder holds lines that are none of ours, or of another evaluation, and where
    another process writes there.
    """
    with contextlib.ExitStack() as stack:

        def take() -> None:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                is_free = stack.enter_context(locked(folder))
            if not is_free:
                raise UserError(
                    f"report folder {folder}: another evaluation writes there; wait for its end, or set "
                    "output=<another folder>"
                )

        ranks.on_main(world, take)
        predictions = Predictions(folder, checkpoints, settings, world)
        ranks.on_main(world, predictions.take_up)
        yield predictions


class Predictions:
    """The lines of one evaluation: the main rank has them all, another rank those that it made."""

    def __init__(
        self, folder: Path, checkpoints: Sequence[Checkpoint], settings: EvaluationSettings, world: World
    ):
        self.folder, self.settings, self.world = folder, settings, world
        self.path = folder / FILE
        self.own = self.path if world.is_main else folder / RANK_FILES.replace("*", str(world.rank))
        self.served = {checkpoint.name: checkpoint.served is not None for checkpoint in checkpoints}
        self.decodings = decodings_of(settings.decoding, settings.temperature)
        self.entries: dict[tuple[str, Key | str], Entry] = {}  # by checkpoint and the line's key
        self.copies: list[Entry] = []  # of entries: a report has a line for every prompt that is asked alike
        self.makers: dict[str, str] = {}  # by checkpoint: a hash of what answers
        self.used: set[tuple[str, Key | str]] = set()

    # --- what is there --------------------------------------------------------------------------------------

    def take_up(self) -> None:
        """Read what an earlier command left. Raises UserError for what this one would not make."""
        self._check_report()
        paths = [self.path, *sorted(self.folder.glob(RANK_FILES))]
        for path in paths:
            for entry in self._read(path):
                is_known = self.entries.setdefault((entry.checkpoint, entry.key), entry) is not entry
                if is_known and path == self.path:
                    self.copies.append(entry)
        self._keep(self._why_of_settings)
        if len(paths) > 1 or len(self._content()) != _size(self.path):  # of other ranks, or a torn line
            self._write(self.path)
        for path in paths[1:]:
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> list[Entry]:
        """The lines of a file; one that is none of ours goes aside where it may."""
        try:
            return read_lines(path)
        except UserError as error:
            if not self.settings.overwrite:
                raise
            aside = self._name_aside()
            with writing(self.folder):
                path.rename(aside)
            log.warning("%s; it is now %s", str(error).split(";")[0], aside.name)
            return []

    def _check_report(self) -> None:
        """Raises UserError where a report of other checkpoints is there, with predictions or without, or a
        file of that name that is no report."""
        path = self.folder / "report.json"
        if self.settings.overwrite or not path.exists():
            return
        try:
            named = list(json.loads(path.read_bytes())["settings"]["sources"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}: is no report as this version writes them; set output=<another folder>, or "
                "overwrite=true to replace it"
            ) from error
        others = [name for name in named if name not in self.served]
        if others:
            raise UserError(f"{path}: is of checkpoint {others[0]}, which is not evaluated now; {REMEDY}")

    def expect(self, prompts: Sequence[Group], goes_on: bool = False) -> None:
        """Say what the prompts of this evaluation are, before any model is loaded. A call for all ranks.

        goes_on: conversations that begin with one of them are its own, too. Raises UserError for lines of
        others.
        """
        hashes = {}
        for is_served in set(self.served.values()):
            asked = {self._how_asked(group, d, is_served) for group in prompts for d in self.decodings}
            hashes[is_served] = asked
        known = {(group.id, json.dumps(group.prompt)) for group in prompts}
        ids, data_sets = {group.id for group in prompts}, {group.dataset for group in prompts}

        def why(entry: Entry) -> str:
            made = entry.prediction
            if made is None:
                return "" if entry.id in ids else f"prompt {entry.id!r}, which is not evaluated on now"
            if made.dataset not in data_sets:
                return f"responses to prompts of {made.dataset}, and they are of {', '.join(data_sets)} now"
            if made.made_by.split("-")[0] in hashes[self.served[made.checkpoint]]:
                return ""
            if goes_on and any(_begins_with(made.prompt, group.prompt) for group in prompts):
                return ""
            if (made.id, json.dumps(made.prompt)) in known:
                return "responses to prompts that max_length, truncation, add_bos or few_shot cut otherwise"
            return f"prompt {made.id!r}, which is asked in other words or not at all now"

        ranks.on_main(self.world, lambda: self._keep(why))

    def _why_of_settings(self, entry: Entry) -> str:
        """As far as the checkpoints and the settings tell."""
        made, settings = entry.prediction, self.settings
        if entry.checkpoint not in self.served:
            return f"checkpoint {entry.checkpoint}, which is not evaluated now"
        if made is None:
            return ""
        names = [decoding.name for decoding in self.decodings]
        if made.decoding not in names:
            return f"decoding {made.decoding}, and this evaluation draws with {', '.join(names)}"
        if made.sample >= settings.n_samples:
            return f"{made.sample + 1} samples of a prompt, and n_samples is {settings.n_samples}"
        if made.seed != settings.seed:
            return f"responses of seed={made.seed}, and it is {settings.seed} now"
        if made.max_new_tokens != settings.max_new_tokens:
            return (
                f"responses of max_new_tokens={made.max_new_tokens}, and it is {settings.max_new_tokens} now"
            )
        return ""

    def _keep(self, why: Why) -> None:
        """Go on with the lines that fit. Raises UserError where there are others that may not go aside."""
        reasons = {key: why(entry) for key, entry in self.entries.items()}
        reason = next(filter(None, reasons.values()), "")
        if not reason:
            return
        if not self.settings.overwrite:
            raise UserError(f"{self.path}: holds {reason}; {REMEDY}")
        aside = self._name_aside()
        self._write(aside)
        log.warning("%s held %s: a copy is now %s", self.path, reason, aside.name)
        self.entries = {key: entry for key, entry in self.entries.items() if not reasons[key]}
        self.copies = [copy for copy in self.copies if (copy.checkpoint, copy.key) in self.entries]
        self._write(self.path)

    def _name_aside(self) -> Path:
        """A file's name that is still free."""
        number = 1
        while (aside := self.folder / f"predictions.replaced-{number}.jsonl").exists():
            number += 1
        return aside

    def _write(self, path: Path) -> None:
        """Write all lines, whole or not at all."""
        with writing(self.folder), atomic_path(path) as temporary:
            temporary.write_bytes(self._content())

    def _content(self) -> bytes:
        return b"".join(entry.raw for entry in [*self.entries.values(), *self.copies])

    # --- one checkpoint's responses -------------------------------------------------------------------------

    def begin(self, checkpoint: str, identity: Mapping[str, object]) -> dict[Key, Written]:
        """The responses of a checkpoint that are there, on all ranks. A call for all ranks.

        identity: of its generator. Raises UserError where its lines were made by another one.
        """
        maker = self.makers[checkpoint] = digest(identity)

        def why(entry: Entry) -> str:
            is_sampled = entry.checkpoint == checkpoint and entry.prediction is not None
            if not is_sampled or entry.made_by.endswith(f"-{maker}"):
                return ""
            return f"responses of {checkpoint} by other weights, another engine or other versions"

        def of_checkpoint() -> dict[Key, Written]:
            self._keep(why)
            made = [entry.prediction for entry in self.entries.values() if entry.checkpoint == checkpoint]
            return {prediction.key: prediction.written for prediction in made if prediction is not None}

        return ranks.on_main(self.world, of_checkpoint)

    def made_by(self, checkpoint: str, group: Group, decoding: Decoding) -> str:
        """What determines a response of a checkpoint that was begun, beside the sample's number."""
        return f"{self._how_asked(group, decoding, self.served[checkpoint])}-{self.makers[checkpoint]}"

    def _how_asked(self, group: Group, decoding: Decoding, is_served: bool) -> str:
        """The part of it that no model says; token limits are of our own encoding."""
        settings = self.settings
        limits = [settings.max_length, settings.max_prompt_length, settings.truncation, settings.add_bos]
        cut = [] if is_served else [*limits, group.truncation]
        drawn = [decoding.temperature, settings.seed, settings.max_new_tokens]
        return digest([group.prompt, settings.few_shot, cut, drawn])

    def append(self, prediction: Prediction) -> None:
        """Write one response to this rank's file, at once. Raises UserError where the disk refuses it."""
        self._add([prediction], self.own)

    def adopt(self, made: Iterable[Prediction]) -> None:
        """Take over what other ranks wrote; their files go. A call for all ranks."""

        def add() -> None:
            self._add([p for p in made if (p.checkpoint, p.key) not in self.entries], self.path)

        ranks.on_main(self.world, add)
        if not self.world.is_main:
            self.own.unlink(missing_ok=True)

    def _add(self, made: Sequence[Prediction], path: Path) -> None:
        if not made:
            return
        entries = [Entry(as_line(p), p.checkpoint, p.id, p.made_by, p) for p in made]
        content = b"".join(entry.raw for entry in entries)
        with writing(self.folder), path.open("ab", buffering=0) as file:
            while content:  # one call of the system, unless the disk is nearly full
                content = content[file.write(content) :]
        self.entries.update({(entry.checkpoint, entry.key): entry for entry in entries})

    def use(self, checkpoint: str, keys: Collection[Key]) -> None:
        """Note that these responses are part of the evaluation."""
        self.used.update((checkpoint, key) for key in keys)

    # --- the report -----------------------------------------------------------------------------------------

    def line_of(self, checkpoint: str, group: Group, decoding: str, sample: int) -> dict[str, object]:
        """The line of a response, by its decoding's name and its number: what the report's line begins with.

        For the main rank, of what was asked.
        """
        (of_name,) = [known for known in self.decodings if known.name == decoding]
        number = 0 if of_name.temperature == 0 else sample
        entry = self.entries[checkpoint, (self.made_by(checkpoint, group, of_name), number)]
        return {**entry.prediction._asdict(), "sample": sample, "id": group.id, "dataset": group.dataset}

    def lines(self) -> list[dict[str, object]]:
        """The lines of all responses that are part of the evaluation, in the order of the file."""
        held = [entry.prediction for key, entry in self.entries.items() if key in self.used]
        return [prediction._asdict() for prediction in held if prediction is not None]

    def check_replaced(self, lines: Iterable[Mapping[str, object]]) -> None:
        """Before a report's lines take the place of the file, on the main rank: raises UserError where one
        that is there would be lost. Scores of given responses replace their like.
        """
        scored = {
            (line["checkpoint"], f"{line['id']} {line['made_by']}") for line in lines if "logps" in line
        }

        def why(entry: Entry) -> str:
            is_made = (entry.checkpoint, entry.key) in self.used | scored
            return "" if is_made else f"lines of {entry.checkpoint} that this evaluation did not make"

        self._keep(why)


def _begins_with(conversation: Prompt, prompt: Prompt) -> bool:
    """Does a conversation go on behind these messages?"""
    return len(conversation) > len(prompt) and conversation[: len(prompt)] == prompt


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
