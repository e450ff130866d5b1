"""Which checkpoints to evaluate, what they started from, and what their runs say of the settings.

Contract: nothing here loads a model or takes a model's import time. What cannot be found is a UserError.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from runs.folder import find_model, find_run
from settings import EvaluationSettings, ModelSettings
from utils import UserError

DEFAULT_MODEL = Path(__file__).parent.parent / "config" / "model" / "smollm2.yaml"
DEFAULT_BETA = 0.1
FROM_RUN = {  # settings that a run's config fills where they are null, and their values where no run does
    "datasets": ["opinions/republican"],
    "belief_classes": ["0", "1", "2", "3", "4", "5"],
    "max_length": 512,
    "max_prompt_length": 256,
    "truncation": None,
    "seed": 0,
    "eval_fraction": 0.05,
}


class Checkpoint(NamedTuple):
    """A checkpoint to evaluate."""

    name: str  # in the report
    source: str  # where its weights are: an HF folder, a hub name, or a file of weights
    model: ModelSettings  # the model and tokenizer they belong to
    run: Path | None  # the folder of the run that made it
    beta: float  # of the implied rewards


def find_checkpoints(settings: EvaluationSettings) -> list[Checkpoint]:
    """Resolve `ckpt`. Raises UserError for one that cannot be found, before any model is loaded."""
    checkpoints: list[Checkpoint] = []
    for ckpt in settings.ckpt:
        checkpoint = _find_checkpoint(ckpt, settings.base_model)
        if any(checkpoint.name == other.name for other in checkpoints):
            checkpoint = checkpoint._replace(name=f"{checkpoint.name}-{len(checkpoints) + 1}")
        checkpoints.append(checkpoint)
    return checkpoints


def _find_checkpoint(ckpt: str, base_model: str | None) -> Checkpoint:
    source, run = find_model(ckpt), find_run(ckpt)
    config = _saved_config(run)
    model = _model_settings(config["model"]) if run else _model_of_no_run(source)
    if Path(source).is_file():
        if not base_model:
            raise UserError(
                f"ckpt={ckpt}: a file of weights needs the model that it belongs to; "
                "set base_model=<HF folder or hub name>"
            )
        model = dataclasses.replace(model, name_or_path=base_model)
    name = run.name if run else Path(ckpt.removeprefix("embedded:")).name
    beta = config.get("loss", {}).get("beta", DEFAULT_BETA)
    return Checkpoint(name, source, model, run, beta)


def _saved_config(run: Path | None) -> dict[str, Any]:
    """What a run saved of its config; empty where there is no run."""
    return OmegaConf.to_container(OmegaConf.load(run / "config.yaml")) if run else {}


def _model_of_no_run(source: str) -> ModelSettings:
    """How to load a model that no run says anything of."""
    model = _model_settings(OmegaConf.to_container(OmegaConf.load(DEFAULT_MODEL)))
    return dataclasses.replace(model, name_or_path=source)


def _model_settings(saved: dict[str, Any]) -> ModelSettings:
    """The record of a saved section `model`, which may have more keys or fewer where it is older."""
    return ModelSettings(**{field.name: saved.get(field.name) for field in dataclasses.fields(ModelSettings)})


def starting_weights(checkpoint: Checkpoint) -> Checkpoint:
    """What a run started from: its reference."""
    model = checkpoint.model
    return checkpoint._replace(name="reference", source=find_model(model.archive or model.name_or_path))


def _last_run(checkpoints: Sequence[Checkpoint]) -> Path | None:
    """The run of the last checkpoint that belongs to one."""
    return next((c.run for c in reversed(checkpoints) if c.run), None)


def default_output(checkpoints: Sequence[Checkpoint]) -> Path:
    """report/ of the last checkpoint that belongs to a run, else outputs/report."""
    run = _last_run(checkpoints)
    return run / "report" if run else Path("outputs") / "report"


def fill_settings(settings: EvaluationSettings, checkpoints: Sequence[Checkpoint]) -> EvaluationSettings:
    """Settings that are null come from the last checkpoint that belongs to a run, else from the defaults."""
    given = dataclasses.asdict(settings)
    saved = _saved_config(_last_run(checkpoints))
    filled = {key: saved.get(key, default) for key, default in FROM_RUN.items() if given[key] is None}
    if settings.few_shot is None:
        filled["few_shot"] = saved.get("icf_shots", 0)
    return dataclasses.replace(settings, **filled)
