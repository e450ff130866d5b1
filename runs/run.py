"""The run at work: its folder, its lock, what it remembers, writes and saves.

Contract: `log`, `save` and `show_samples` are called on every rank, alike; only the main one writes. A folder
belongs to one config and to one process at a time.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from transformers import PreTrainedTokenizerBase

import models
from forest import TokenTree
from ranks import World
from runs import checkpoint, folder
from runs.logs import MetricsFile, Samples, last_logged, samples_file, say_validation
from runs.state import State
from runs.trackers import Trackers
from settings import ADDED, TrainSettings, as_config, flatten, free_to_change, names_of
from utils import UserError, atomic_path, locked, log, setup_logging, without_secrets, write_json


class Run:
    """A run at work."""

    def __init__(
        self,
        claim: folder.Claim,
        state: State,
        settings: TrainSettings,
        tokenizer: PreTrainedTokenizerBase,
        world: World,
    ):
        self.claim, self.folder = claim, claim.path
        self.state, self.tokenizer = state, tokenizer
        self.saves = not settings.debug
        self.writes = world.is_main and not settings.debug
        self.writer = checkpoint.Writer(world, settings.async_save, settings.keep_last, claim)
        self.metrics: MetricsFile | None = None
        self.trackers: Trackers | None = None
        self.samples: Samples | None = None
        if self.writes:
            with _writing(claim):
                self.metrics = MetricsFile(self.folder / "metrics.jsonl", state.lines)
            self.trackers = Trackers(settings, self.folder, state.step)

    def sample_from(self, policy: models.Scorer, prompts: Sequence[tuple[int, ...]], seed: int) -> None:
        """Sample responses to these prompts whenever `show_samples` is called."""
        file = samples_file(self.folder, self.state.step) if self.writes else None
        self.samples = Samples(policy, self.tokenizer, prompts, seed, file, self.trackers)

    def say_new_rate(self, rate_of: Callable[[int], float]) -> None:
        """Warn where the learning rate of the last step would be another by now: a run that was extended
        follows the schedule of its new length from here on.

        rate_of: step from 0 -> learning rate.
        """
        logged = last_logged(self.folder / "metrics.jsonl", "lr") if self.writes and self.state.step else None
        if logged is None or rate_of(logged.step - 1) == logged.value:
            return
        log.warning(
            "the number of steps of this run changed, and with it the learning rate of each: "
            "step %d had %.3g, the next one has %.3g",
            logged.step,
            logged.value,
            rate_of(self.state.step),
        )

    def update(self, **changes: Any) -> None:
        """Remember something else: fields of `State`."""
        self.state = self.state._replace(**changes)

    def log(self, values: Mapping[str, Any]) -> None:
        """One line of metrics: to metrics.jsonl, to the trackers, and, of a validation, to the terminal."""
        line = {"counters/examples": self.state.examples, "counters/updates": self.state.step, **values}
        if self.metrics and self.trackers:
            self.metrics.write(line)
            self.trackers.log(line)
            if "loss/eval" in line:
                say_validation(line)
        self.update(lines=self.state.lines + 1)

    def show_samples(self) -> None:
        """Sample responses where that was asked for."""
        if self.samples:
            self.samples.show(self.state.step, self.state.examples)

    def save(self, policy: models.Scorer, optimizer: torch.optim.Optimizer, best: bool = False) -> None:
        """A checkpoint of this state, in the background where that was asked for."""
        if self.saves:
            checkpoint.save(self.folder, policy, optimizer, self.tokenizer, self.state, self.writer, best)

    def wait(self) -> None:
        """Wait for the checkpoint under way. Raises UserError on all ranks where it could not be written."""
        self.writer.wait()

    def close(self) -> None:
        """Finish what is under way, close the files and the trackers."""
        self.writer.close()
        if self.metrics:
            self.metrics.close()
        if self.samples and self.samples.file:
            self.samples.file.close()
        if self.trackers:
            self.trackers.close()

    def decoded(self, tree: TokenTree) -> dict[str, Any]:
        """An example's texts."""
        return {
            "prompt": self.tokenizer.decode(tree.prompt),
            "belief": self.tokenizer.decode(tree.belief),
            "answers": [self.tokenizer.decode(ids) for ids in tree.answers],
        }


# --- the folder ---------------------------------------------------------------------------------------------


def open_folder(settings: TrainSettings, stack: contextlib.ExitStack) -> folder.Claim:
    """Make or reopen the run folder, and lock it until the stack closes.

    Raises UserError where it belongs to another config or to a run at work, where it holds files of others,
    and where it cannot be written. A folder that is refused is left as it is.
    """
    path = Path(settings.output_dir) / settings.exp_name
    if settings.debug:
        return folder.Claim(path)
    with _writing(folder.Claim(path)):
        path.mkdir(parents=True, exist_ok=True)
        if not stack.enter_context(locked(path)):
            raise UserError(
                f"run folder {path}: another run is writing it; wait for its end or choose another exp_name"
            )
        if folder.is_foreign(path):
            raise UserError(f"run folder {path}: it holds files that are no run's; choose another exp_name")
        _check_resume(path, settings)
        claim = folder.claim(path)
        setup_logging(path)
        stack.callback(setup_logging)
        folder.tidy(path)
        folder.mend_links(path)
    return claim


@contextlib.contextmanager
def _writing(claim: folder.Claim) -> Iterator[None]:
    """Raises UserError where the run's folder is another's by now, or cannot be written."""
    try:
        claim.check()
        yield
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"run folder {claim.path}: cannot be written ({reason}); set output_dir") from error


def check_claim(claim: folder.Claim) -> None:
    """Raises UserError where the run's folder is another's by now, or gone."""
    with _writing(claim):
        pass


def check_room(claim: folder.Claim, policy: models.Scorer, moments_per_weight: float) -> None:
    """Raises UserError where the disk has certainly no room for one checkpoint of this policy."""
    if not claim.owner:
        return
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in policy.parameters()]
    needed = sum(size * (1 + moments_per_weight * is_trained) for size, is_trained in sizes)
    with _writing(claim):
        disk = shutil.disk_usage(claim.path)
    if disk.total and disk.free < needed:  # some network file systems say nothing
        raise UserError(
            f"run folder {claim.path}: a checkpoint takes at least {needed / 1e9:.3g} GB, and the disk has "
            f"{disk.free / 1e9:.3g} GB of room; make room or set output_dir"
        )


def _check_resume(path: Path, settings: TrainSettings) -> None:
    """Raises UserError where `resume` forbids what the folder holds, or its run has another config."""
    if not folder.holds_steps(path):
        if settings.resume == "must":
            raise UserError(f"resume=must: {path} holds no checkpoint; set resume=auto to start the run")
        return
    if settings.resume == "never":
        raise UserError(
            f"resume=never: {path} already holds a run; choose another exp_name or remove the folder"
        )
    changes = _changes({**ADDED, **_saved_config(path)}, flatten(as_config(settings)))
    if changes:
        raise UserError(
            f"{path} holds a run with another config: {changes}; choose another exp_name or restore the keys"
        )


def _saved_config(path: Path) -> dict[str, Any]:
    """The flat config of the run in a folder."""
    try:
        return flatten(OmegaConf.to_container(OmegaConf.load(path / "config.yaml")))
    except Exception as error:  # no file, or one that yaml or omegaconf refuse in their own ways
        reason = (str(error).splitlines() or ["damaged"])[0]
        raise UserError(
            f"{path / 'config.yaml'}: cannot be read ({reason}), so these checkpoints may be of another "
            "config; restore the file or choose another exp_name"
        ) from error


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The keys that differ and may not, with both values; "" where there is none."""
    keys = sorted(old.keys() | new.keys())
    differing = [key for key in keys if old.get(key) != new.get(key) and not free_to_change(key)]
    return without_secrets(", ".join(f"{key} ({old.get(key)} -> {new.get(key)})" for key in differing))


# --- start or resume ----------------------------------------------------------------------------------------


def write_start(claim: folder.Claim, settings: TrainSettings, audit: Mapping[str, Any]) -> None:
    """What a folder holds from the first moment on: the audit of the data, and the config."""
    with _writing(claim):
        write_json(claim.path / "data_audit.json", audit)
        with atomic_path(claim.path / "config.yaml") as temporary:
            OmegaConf.save(OmegaConf.create(as_config(settings)), temporary)


def check_same_start(path: Path, resumed: State, fresh: State, settings: TrainSettings) -> None:
    """Raises UserError where a run that resumes has other starting weights or other examples than when it
    began.
    """
    if resumed.reference and resumed.reference != fresh.reference:  # "": an older run without a reference
        weights = settings.model.archive or settings.model.name_or_path
        raise UserError(
            f"{path}: the starting weights ({weights}) changed since this run began, and they are its "
            "reference; restore them or choose another exp_name"
        )
    changed = [split for split in fresh.data if resumed.data[split] != fresh.data[split]]
    if changed:
        names = names_of(settings.datasets)
        raise UserError(
            f"{path}: the examples of split {changed[0]} changed since this run began "
            f"(datasets={names}, or its tokenizer); restore the data or choose another exp_name"
        )


def is_finished(path: Path, state: State, settings: TrainSettings, num_examples: int) -> bool:
    """Is there nothing left to do? Says so."""
    if state.pending:
        return False
    if state.examples < num_examples and not state.out_of_patience(settings.patience):
        return False
    log.info(
        "run %s is finished (%d examples); set n_epochs higher to go on or exp_name to start another",
        path,
        state.examples,
    )
    return True
