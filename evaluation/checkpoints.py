"""Which checkpoints to evaluate, what they started from, and what their runs say of the settings.

Contract: nothing here loads a model or takes a model's import time. What cannot be found is a UserError.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from runs.folder import STATE, find_model, find_run
from runs.start import check_fingerprint, start_of
from settings import EvaluationSettings, ModelSettings, evaluation_settings, model_settings
from utils import UserError

DEFAULTS = Path(__file__).parent.parent / "config" / "config.yaml"
DEFAULT_BETA = 0.1
OF_SERVER = "openai:"  # before the name of a model that a server has
FROM_RUN = {  # settings that a run's config fills where they are null, and their values where no run does
    "datasets": ["opinions/republican"],
    "format": None,
    "belief_classes": ["0", "1", "2", "3", "4", "5"],
    "max_length": 512,
    "max_prompt_length": 256,
    "truncation": None,
    "add_bos": "auto",
    "seed": 0,
    "eval_fraction": 0.05,
    "group_in_prompt": False,
    "group_template": "People asked: {group}\n",
}
OF_PROMPTS = {"n_samples": 8, "max_new_tokens": 64, "temperature": 1.0}  # where they are null
OF_REWARDS = {"n_samples": 4, "max_new_tokens": 80, "temperature": 1.0}  # that a program computes
OF_TASKS = {"n_samples": 1, "max_new_tokens": 2048, "temperature": 0.0}
MOST_AT_ONCE, LEAST_AT_ONCE, TOKENS_AT_ONCE = 256, 16, 65_536  # responses at work, and their new tokens
NULLABLE = ("max_prompt_length",)  # there null says something: no limit


class Checkpoint(NamedTuple):
    """A checkpoint to evaluate."""

    name: str  # in the report
    source: str  # where its weights are: an HF folder, a hub name, a file of weights, or openai:MODEL
    model: ModelSettings | None  # the model and tokenizer they belong to; None: a server has them
    run: Path | None  # the folder of the run that made it
    beta: float  # of the implied rewards
    served: str | None = None  # its name at a server, which writes and gives no log-probs; None: it is here


def find_checkpoints(settings: EvaluationSettings) -> list[Checkpoint]:
    """Resolve `ckpt`. Raises UserError for one that cannot be found, before any model is loaded."""
    checkpoints: list[Checkpoint] = []
    for ckpt in settings.ckpt:
        checkpoint = _served(ckpt, settings) or find_checkpoint(ckpt, settings.base_model)
        names = {other.name for other in checkpoints}
        number, name = len(checkpoints) + 1, checkpoint.name
        while name in names:
            name = f"{checkpoint.name}-{number}"
            number += 1
        checkpoints.append(checkpoint._replace(name=name))
    return checkpoints


def _served(ckpt: str, settings: EvaluationSettings) -> Checkpoint | None:
    """The model of a server: of openai:MODEL, and of every `ckpt` where all are served."""
    if not ckpt.startswith(OF_SERVER) and settings.generator != "openai":
        return None
    model = ckpt.removeprefix(OF_SERVER)
    if not model.strip():
        raise UserError(f"ckpt={ckpt}: names no model; give {OF_SERVER}MODEL, as the server calls it")
    if ckpt.startswith(OF_SERVER):
        return Checkpoint(model, ckpt, None, None, DEFAULT_BETA, served=model)
    # a folder's run says the settings still, and its name stands in the report
    run = run_of(ckpt)
    name = run.absolute().name if run else model
    return Checkpoint(name, f"{OF_SERVER}{model}", None, run, DEFAULT_BETA, served=model)


def find_checkpoint(ckpt: str, base_model: str | None) -> Checkpoint:
    """Resolve one that is here, not at a server. Raises UserError as above.

    base_model: the model that a file of weights belongs to.
    """
    source, run = find_model(ckpt), run_of(ckpt)
    config = saved_config(run)
    model = _model_of_run(run, config) if run else _model_of_no_run(source)
    if Path(source).is_file():
        if not base_model:
            raise UserError(
                f"ckpt={ckpt}: a file of weights needs the model that it belongs to; "
                "set base_model=<HF folder or hub name>"
            )
        model = dataclasses.replace(model, name_or_path=base_model)
    place = run or Path(ckpt.removeprefix("embedded:"))
    return Checkpoint(place.absolute().name, source, model, run, _beta_of(run, config))


# --- what a run saved ---------------------------------------------------------------------------------------


def run_of(ckpt: str) -> Path | None:
    """The run that a checkpoint belongs to, or None.

    A config.yaml beside an HF folder may be of another program: it counts where it reads as a run's.
    """
    run = find_run(ckpt)
    is_above = run is not None and run != Path(ckpt) and not Path(ckpt).resolve().name.startswith("step-")
    if is_above and not _reads_as_run(run):
        return None
    return run


def _reads_as_run(run: Path) -> bool:
    try:
        return bool(saved_config(run))
    except UserError:
        return False


def saved_config(run: Path | None) -> dict[str, Any]:
    """What a run saved of its config; empty where there is no run. Raises UserError where it is none."""
    if run is None:
        return {}
    try:
        config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    except Exception as error:  # yaml and omegaconf refuse a text in their own ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _not_saved(run, reason) from error
    if not isinstance(config, dict):
        raise _not_saved(run, "it holds no keys")
    for section in ("model", "loss"):
        if not isinstance(config.get(section), dict):
            raise _not_saved(run, f"it has no section {section}")
    return config


def _not_saved(run: Path, reason: str) -> UserError:
    """What is wrong with a run's config, with the remedy."""
    return UserError(
        f"{run / 'config.yaml'}: is no config that train.py saved ({reason}); restore it, or, where it is "
        "another program's, give a copy of the model's folder without it"
    )


def _model_of_run(run: Path, config: dict[str, Any]) -> ModelSettings:
    """How to load a run's model. An older version's config may have more keys, or fewer."""
    saved = {**_default_model(), "name_or_path": None, **config["model"]}
    known = {field.name: saved[field.name] for field in dataclasses.fields(ModelSettings)}
    try:
        return model_settings(known)
    except UserError as error:
        raise _not_saved(run, str(error)) from error


def _model_of_no_run(source: str) -> ModelSettings:
    """How to load a model that no run says anything of."""
    return model_settings({**_default_model(), "name_or_path": source})


def _default_model() -> dict[str, Any]:
    """The keys of a model that no run says."""
    return OmegaConf.to_container(OmegaConf.load(DEFAULTS)["model"])


def _beta_of(run: Path | None, config: dict[str, Any]) -> float:
    """Of the implied rewards: the loss's, where it has one."""
    beta = config.get("loss", {}).get("beta", DEFAULT_BETA)
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 < beta < float("inf"):
        raise _not_saved(run, f"loss.beta={beta} must be a number above 0")
    return beta


def starting_weights(checkpoint: Checkpoint) -> Checkpoint:
    """What a run started from, its reference: the step that the run recorded, whatever its name means by now.

    Raises UserError where it is gone.
    """
    return checkpoint._replace(name="reference", source=start_of(checkpoint.run, checkpoint.model).source)


def check_starting_weights(checkpoint: Checkpoint, fingerprint: str) -> None:
    """Raises UserError where the weights of this fingerprint are not those that the run started from."""
    recorded = start_of(checkpoint.run, checkpoint.model)
    if not recorded.fingerprint:  # an older run: its checkpoints may know
        recorded = recorded._replace(fingerprint=_fingerprint_in(checkpoint.run))
    check_fingerprint(checkpoint.run, recorded, fingerprint)


def _fingerprint_in(run: Path) -> str:
    """The fingerprint of the starting weights in a run's newest checkpoint; "" where there is none."""
    try:
        return json.loads((run / "latest" / STATE / "state.json").read_text())["reference"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def check_held_out(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> None:
    """Raises UserError where a run was trained on a data set that is said to be held out."""
    for checkpoint in checkpoints:
        for given in saved_config(checkpoint.run).get("datasets") or []:
            name = given.get("name") if isinstance(given, dict) else given
            if name in names:
                raise UserError(
                    f"eval_groups: {checkpoint.name} was trained on {name}; put it into datasets= instead"
                )


def _last_run(checkpoints: Sequence[Checkpoint]) -> Path | None:
    """The run of the last checkpoint that belongs to one."""
    return next((c.run for c in reversed(checkpoints) if c.run), None)


def default_output(checkpoints: Sequence[Checkpoint], task: str | None) -> Path:
    """report/, or of a task the folder of its name, of the last checkpoint that belongs to a run, else of
    outputs/."""
    return (_last_run(checkpoints) or Path("outputs")) / (task or "report")


def at_once(max_new_tokens: int) -> int:
    """How many responses to have at work: many read the weights once together, long ones take memory."""
    return min(MOST_AT_ONCE, max(LEAST_AT_ONCE, TOKENS_AT_ONCE // max_new_tokens))


def fill_settings(
    settings: EvaluationSettings, checkpoints: Sequence[Checkpoint], has_rewards: bool = False
) -> EvaluationSettings:
    """Settings that are null come from the last checkpoint that belongs to a run, else from the defaults.

    A run that named its eval data is evaluated on that, and on all of it where it has no splits of its own,
    as the run was validated. has_rewards: what is sampled gets a computed reward, and nothing else is
    sampled. Raises UserError where the run's saved values are none.
    """
    run = _last_run(checkpoints)
    saved, given = saved_config(run), dataclasses.asdict(settings)
    filled = {key: saved.get(key, default) for key, default in FROM_RUN.items() if given[key] is None}
    if settings.datasets is None and saved.get("eval_datasets"):
        filled["datasets"] = saved["eval_datasets"]
        if settings.eval_fraction is None:
            filled["eval_fraction"] = 1.0
    null = [
        key for key in filled if filled[key] is None and FROM_RUN[key] is not None and key not in NULLABLE
    ]
    if null:
        raise _not_saved(run, f"{null[0]} is null")
    if settings.few_shot is None:
        filled["few_shot"] = 0 if settings.task else saved.get("icf_shots", 0)
    if settings.task:  # its prompts are asked whole, whatever a run was trained on
        filled.pop("max_prompt_length", None)
    usual = OF_TASKS if settings.task else OF_REWARDS if has_rewards else OF_PROMPTS
    filled |= {key: value for key, value in usual.items() if given[key] is None}
    if settings.batch_size is None:
        filled["batch_size"] = at_once(filled.get("max_new_tokens", given["max_new_tokens"]))
    if settings.decoding is not None:
        filled["temperature"] = None  # each decoding has its own
    try:
        return evaluation_settings({**given, **filled})
    except UserError as error:
        raise _not_saved(run, str(error)) from error
