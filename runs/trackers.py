"""Trackers of experiments: wandb where there is a login, and those of accelerate that a config names.

Contract: training does not depend on a tracker: it is off from the first of its faults on, with one warning.
They are called on the main process alone. Their servers and keys come from the environment, as their own
pages say.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from settings import TrainSettings, WandbSettings, as_config, flatten
from utils import UserError, atomic_path, log, without_secrets

Result = TypeVar("Result")
ALIASES = {"comet": "comet_ml"}  # for names of accelerate
STEP_KEYS = {"updates": "counters/updates", "examples": "counters/examples"}
WITH_TABLES = ("clearml",)  # of accelerate's; wandb has its own way here


class Service(Protocol):
    """A tracker at work. Any of its calls may raise anything."""

    def log(self, values: Mapping[str, Any], step: int) -> None: ...

    def table(self, name: str, columns: list[str], rows: list[list[str]], step: int) -> None: ...

    def finish(self, failed: bool) -> None: ...


class Tracker:
    """One tracker, off from the first of its faults on."""

    def __init__(self, name: str, start: Callable[[], Service | None]):
        self.name = name
        self.service = self._if_it_works("start", start)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """A line of metrics."""
        if self.service is not None:
            service = self.service
            self._or_off("log", lambda: service.log(values, step))

    def table(self, name: str, columns: list[str], rows: list[list[str]], step: int) -> None:
        """Rows of texts."""
        if self.service is not None:
            service = self.service
            self._or_off("log", lambda: service.table(name, columns, rows, step))

    def close(self) -> None:
        """End the tracker's run: a run that follows in this process must not write into it."""
        service, self.service = self.service, None
        if service is not None:
            failed = sys.exc_info()[0] is not None  # as wandb itself would say where the process ends
            self._if_it_works("finish", lambda: service.finish(failed))

    def _or_off(self, what: str, action: Callable[[], None]) -> None:
        if self._if_it_works(what, lambda: action() or True) is None:
            self.service = None

    def _if_it_works(self, what: str, action: Callable[[], Result]) -> Result | None:
        """What `action` returns; None, with a warning, where the tracker fails at it."""
        try:
            return action()
        except Exception as error:  # trackers raise many kinds, of the network and of their own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning(
                "%s is off from here on: it failed to %s (%s)", self.name, what, without_secrets(reason)
            )
            return None


class Trackers:
    """All trackers of a run that goes on after `step` (0: it begins)."""

    def __init__(self, settings: TrainSettings, folder: Path, step: int):
        self.step_key = STEP_KEYS[settings.tracker.step]
        names = tracker_names(settings)
        self.all: list[Tracker] = []
        if settings.wandb.enabled or "wandb" in names:
            config = as_config(settings)
            self.all.append(
                Tracker("wandb", lambda: _start_wandb(settings.wandb, settings.exp_name, config, folder))
            )
        for name in names:
            if name != "wandb":
                self.all.append(Tracker(name, lambda name=name: _OfAccelerate(name, settings, folder, step)))

    def log(self, values: Mapping[str, Any]) -> None:
        """A line of metrics, counters among them."""
        for tracker in self.all:
            tracker.log(values, values[self.step_key])

    def table(
        self, name: str, columns: list[str], rows: list[list[str]], counters: Mapping[str, int]
    ) -> None:
        """Rows of texts, where the tracker has tables."""
        for tracker in self.all:
            tracker.table(name, columns, rows, counters[self.step_key])

    def close(self) -> None:
        for tracker in self.all:
            tracker.close()


def tracker_names(settings: TrainSettings) -> list[str]:
    """The trackers that the config lists, by accelerate's names, each once."""
    return list(dict.fromkeys(ALIASES.get(name, name) for name in settings.trackers or ()))


def check_trackers(settings: TrainSettings) -> None:
    """Raises UserError for a tracker that there is not, and for one whose package is not installed."""
    if not settings.trackers:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    for name in tracker_names(settings):
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise UserError(f"config key trackers: there is no {name}; choose among {known}")
        if importlib.util.find_spec(name) is None:
            package = name.replace("_", "-")
            raise UserError(f"config key trackers: {name} is not installed; pip install {package}")


# --- the services -------------------------------------------------------------------------------------------


class _Wandb:
    """A run of wandb."""

    def __init__(self, run: Any, table: Callable[..., Any]):
        self.run, self.make_table = run, table

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self.run.log(values, step=step)

    def table(self, name: str, columns: list[str], rows: list[list[str]], step: int) -> None:
        self.run.log({name: self.make_table(columns=columns, data=rows)}, step=step)

    def finish(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


def _start_wandb(
    settings: WandbSettings, name: str, config: Mapping[str, Any], folder: Path
) -> _Wandb | None:
    """A wandb run, or None without a login.

    A run that resumes goes on in its own one, where steps made again are not repeated.
    """
    import wandb

    if os.environ.get("WANDB_MODE") != "offline" and not wandb.login(prompt=False):
        log.info("wandb is off: no login found (run `wandb login`, or set WANDB_MODE=offline)")
        return None
    place = folder / "wandb_id.txt"
    if not place.exists():
        with atomic_path(place) as temporary:
            temporary.write_text(secrets.token_hex(8))
    run = wandb.init(
        project=settings.project,
        entity=settings.entity,
        id=place.read_text(),
        resume="allow",
        name=name,
        config=dict(config),
        dir=folder,
    )
    return _Wandb(run, lambda **given: wandb.Table(**given))


class _OfAccelerate:
    """A tracker of accelerate, started."""

    def __init__(self, name: str, settings: TrainSettings, folder: Path, step: int):
        from accelerate import tracking

        # accelerate's own logger and its choice of a process would start its state of processes
        tracking.logger = logging.getLogger(tracking.__name__)
        kind = tracking.LOGGER_TYPE_TO_CLASS[name]
        self.tracker = kind(*_place(name, settings, folder), **_options(name, settings, folder, step))
        self.tracker.main_process_only = False
        self.name = name
        self.tracker.start()
        if not step:
            self.tracker.store_init_configuration(_plain(flatten(as_config(settings))))

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self.tracker.log(dict(values), step=step)

    def table(self, name: str, columns: list[str], rows: list[list[str]], step: int) -> None:
        if self.name in WITH_TABLES:
            self.tracker.log_table(name, columns=columns, data=rows, step=step)
        elif self.name == "tensorboard":  # its texts are Markdown
            self.tracker.log({name: _markdown(columns, rows)}, step=step)

    def finish(self, failed: bool) -> None:
        self.tracker.finish()


def _place(name: str, settings: TrainSettings, folder: Path) -> list[str]:
    """Where a tracker's run belongs: a folder of the run's own, or a project of the tracker's server."""
    if name == "tensorboard":
        return ["tensorboard", str(folder)]
    return [settings.wandb.project or "grove"]


def _options(name: str, settings: TrainSettings, folder: Path, step: int) -> dict[str, Any]:
    """What else a tracker takes: the run's name, and how a run that resumes goes on."""
    if name == "tensorboard":
        return {"purge_step": step + 1} if step and settings.tracker.step == "updates" else {}
    if name == "mlflow":
        return {"run_name": settings.exp_name}
    if name == "trackio":
        return {"name": settings.exp_name, "resume": "allow"}
    return {}


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as hyperparameters: numbers and texts; whatever else as the text of it."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in config.items()
    }


def _markdown(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; what a text holds of its signs is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
