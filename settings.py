"""Every config key once: its kind, its range, and whether a run may change it when it resumes.

Contract: a door turns its composed config into one frozen record here, and everything below the doors takes
plain typed values. What a key means stands beside it in config/*.yaml; a test holds the records' keys equal
to those of the files.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from utils import UserError, environment_secrets, is_name, named_as_secret, texts_in, without_secrets

Record = TypeVar("Record")


class AtLeast(NamedTuple):
    """The range of a number, both ends included."""

    least: float
    most: float = 2**63 - 1


class Rule(NamedTuple):
    """What a value must be beside its kind: a pattern of its whole text, or different entries; and how that
    is said."""

    wanted: str
    pattern: str = ".*"
    distinct: bool = False


FREE = "free to change when a run resumes"
FOLDER_NAME = Rule(
    "must be a plain folder name; the folder above it is output_dir", r"[^/\n\0]*[^/\n\0.][^/\n\0]*"
)
LABELS = Rule("must be a list of different labels, belief_classes=['0','1',...]", distinct=True)
POSITIVE = AtLeast(1e-12)

DType = Literal["float32", "bfloat16"]
Truncation = Literal["keep_start", "keep_end"]


# --- the records --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WandbSettings:
    """Section `wandb` of config/config.yaml."""

    enabled: bool
    entity: str | None
    project: str | None


@dataclass(frozen=True)
class LoraSettings:
    """Section `lora` of config/config.yaml."""

    rank: Annotated[int | None, AtLeast(1)]
    alpha: Annotated[float, POSITIVE]
    targets: str | list[str]


@dataclass(frozen=True)
class ModelSettings:
    """A file of config/model/."""

    name_or_path: str
    tokenizer_name_or_path: str | None
    archive: str | None
    policy_dtype: DType
    compute_dtype: DType
    trust_remote_code: bool
    block_name: str | None


@dataclass(frozen=True)
class LossSettings:
    """A file of config/loss/: a loss's name, and its keys, which `losses.bind` checks."""

    name: str
    keys: Mapping[str, Any]


@dataclass(frozen=True)
class TrainSettings:
    """config/config.yaml."""

    seed: Annotated[int, AtLeast(0)]
    exp_name: Annotated[str, FOLDER_NAME]
    output_dir: Annotated[str, FREE]
    resume: Annotated[Literal["auto", "never", "must"], FREE]
    debug: Annotated[bool, FREE]
    wandb: Annotated[WandbSettings, FREE]

    datasets: list[str]
    eval_datasets: list[str] | None
    eval_fraction: Annotated[float, AtLeast(0, 1)]
    responses: str
    icf_shots: Annotated[int, AtLeast(0)]
    pairs_per_prompt: Annotated[int, AtLeast(1, 10_000)]
    belief_classes: Annotated[list[str], LABELS]
    max_length: Annotated[int, AtLeast(2)]
    max_prompt_length: Annotated[int | None, AtLeast(1)]
    truncation: Truncation | None
    shuffle: Literal["examples", "prompts"]
    n_eval_examples: Annotated[int | None, AtLeast(1)]

    batch_size: Annotated[int, AtLeast(1)]
    eval_batch_size: Annotated[int, AtLeast(1), FREE]
    n_epochs: Annotated[int | None, AtLeast(1), FREE]
    n_examples: Annotated[int | None, AtLeast(1), FREE]
    optimizer: str
    lr: Annotated[float, POSITIVE]
    warmup_steps: Annotated[int, AtLeast(0)]
    max_grad_norm: Annotated[float, POSITIVE]
    eval_every: Annotated[int, AtLeast(1), FREE]
    do_first_eval: bool
    eval_metric: str
    sample_during_eval: Annotated[bool, FREE]
    n_eval_model_samples: Annotated[int, AtLeast(1), FREE]
    patience: Annotated[int | None, AtLeast(1), FREE]
    log_every_seconds: Annotated[float, AtLeast(0), FREE]
    save_every: Annotated[int | None, AtLeast(1), FREE]
    async_save: Annotated[bool | None, FREE]
    keep_last: Annotated[int, AtLeast(1), FREE]

    max_tokens: Annotated[int | None, AtLeast(2)]
    row_tokens: Annotated[int | None, AtLeast(1)]
    share_prefixes: bool
    attention: str
    compile: bool
    activation_checkpointing: bool

    nproc: Annotated[int | None, AtLeast(1), FREE]
    replicate: Annotated[int, AtLeast(1), FREE]
    cpu_offload: Annotated[bool, FREE]
    lora: LoraSettings

    plan: bool
    world_size: Annotated[int | None, AtLeast(1)]
    gpu_memory_gb: Annotated[float, AtLeast(1e-3)]
    gpu_tflops: Annotated[float, AtLeast(1e-3)]

    model: ModelSettings
    loss: LossSettings

    def total_examples(self, num_available: int) -> int:
        """Examples to train on where the data has `num_available`; more than that are several epochs."""
        return self.n_examples if self.n_examples is not None else self.n_epochs * num_available


@dataclass(frozen=True)
class EvaluationSettings:
    """config/evaluate.yaml. The keys from `datasets` on, and few_shot, may come from a run's saved config."""

    ckpt: list[str]
    base_model: str | None
    output: str | None
    split: str
    few_shot: Annotated[int | None, AtLeast(0)]
    n_prompts: Annotated[int | None, AtLeast(1)]
    n_samples: Annotated[int, AtLeast(0)]
    max_new_tokens: Annotated[int, AtLeast(1)]
    temperature: Annotated[float, AtLeast(0)]
    batch_size: Annotated[int, AtLeast(1)]
    nproc: Annotated[int | None, AtLeast(1)]
    shard: bool
    embedder: str | None
    check: bool

    datasets: list[str] | None
    belief_classes: Annotated[list[str] | None, LABELS]
    max_length: Annotated[int | None, AtLeast(2)]
    max_prompt_length: Annotated[int | None, AtLeast(1)]
    truncation: Truncation | None
    seed: Annotated[int | None, AtLeast(0)]
    eval_fraction: Annotated[float | None, AtLeast(0, 1)]


@dataclass(frozen=True)
class SynthesisSettings:
    """config/synthesize.yaml."""

    task: Literal["survey", "check"]
    output: str


# --- from configs to records --------------------------------------------------------------------------------


def train_settings(config: Mapping[str, Any]) -> TrainSettings:
    """The record of a composed training config, given as plain values.

    Raises UserError for unknown keys (`+key=` included), impossible values, and a secret written into the
    config.
    """
    check_for_secrets(config)
    sections = all(isinstance(config.get(key), Mapping) for key in ("wandb", "loss", "model", "lora"))
    if not sections or not isinstance(config["loss"].get("name"), str):
        raise UserError(
            "config: wandb must be a section (wandb.enabled=false), and so must loss, model and lora, and "
            "loss.name a name; the keys stand in config/config.yaml"
        )
    loss_keys = {key: value for key, value in config["loss"].items() if key != "name"}
    parts = {
        "wandb": _record(WandbSettings, config["wandb"], "config.yaml", "wandb."),
        "lora": _record(LoraSettings, config["lora"], "config.yaml", "lora."),
        "model": _record(ModelSettings, config["model"], "config.yaml", "model."),
        "loss": LossSettings(config["loss"]["name"], loss_keys),
    }
    settings = _record(TrainSettings, {**config, **parts}, "config.yaml")
    if settings.n_epochs is None and settings.n_examples is None:
        raise UserError("config keys n_epochs and n_examples: both are null; set one of them")
    return settings


def evaluation_settings(config: Mapping[str, Any]) -> EvaluationSettings:
    """The record of a composed evaluation config; `ckpt` may be one name or a list. Raises UserError as
    above."""
    check_for_secrets(config)
    ckpt = _as_text(config.get("ckpt"))
    given = ckpt if isinstance(ckpt, list) else [ckpt]
    if not given or not all(map(is_name, given)):
        problem = "missing" if ckpt in (None, "", []) else "no name of a checkpoint"
        raise UserError(
            f"ckpt: {problem}; give ckpt=<run folder, step folder, HF folder, policy.pt, hub name> or a list "
            "of them"
        )
    return _record(EvaluationSettings, {**config, "ckpt": given}, "evaluate.yaml")


def model_settings(config: Mapping[str, Any]) -> ModelSettings:
    """The record of a section `model`. Raises UserError as above."""
    return _record(ModelSettings, config, "config.yaml", "model.")


def synthesis_settings(config: Mapping[str, Any]) -> SynthesisSettings:
    """The record of a composed synthesis config. Raises UserError as above."""
    check_for_secrets(config)
    return _record(SynthesisSettings, config, "synthesize.yaml")


def as_config(settings: TrainSettings) -> dict[str, Any]:
    """The record as the nested plain values of its config."""
    values = dataclasses.asdict(settings)
    values["loss"] = {"name": settings.loss.name, **settings.loss.keys}
    return values


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"loss": {"beta": 1}} as {"loss.beta": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def free_to_change(key: str) -> bool:
    """May a run that resumes give this key of config/config.yaml (`wandb.project`, say) another value?"""
    hints = get_type_hints(TrainSettings, include_extras=True)
    return FREE in _constraints(hints.get(key.split(".")[0], NoneType))


def check_for_secrets(config: Mapping[str, Any]) -> None:
    """Raises UserError where a key or a value holds that of a secret environment variable: configs are saved
    and sent to trackers. The first of all checks, since the others print what they refuse."""
    secrets = environment_secrets()
    for key, value in flatten(config).items():
        texts = [key, *texts_in(value)]
        for name, secret in secrets.items():
            if any(secret in text for text in texts):
                raise UserError(
                    f"config key {without_secrets(key)}: holds the value of ${name}; leave secrets in the "
                    "environment, where they are found"
                )


def text_keys(record: type, prefix: str = "") -> list[str]:
    """The keys of a record, and of its sections, that hold a text or a list of texts."""
    keys: list[str] = []
    for key, hint in get_type_hints(record, include_extras=True).items():
        kinds = _kinds_of(hint)
        if dataclasses.is_dataclass(kinds[0]):
            keys += text_keys(kinds[0], f"{prefix}{key}.")
        elif _wants_text(kinds):
            keys.append(f"{prefix}{key}")
    return keys


def _wants_text(kinds: tuple) -> bool:
    """Is a key of these kinds a text, or a list of texts?"""
    return str in kinds or any(get_origin(kind) is list for kind in kinds)


def _as_text(value: Any) -> Any:
    """A number or a date as the text that was meant, also in a list; other values as they are."""
    if isinstance(value, list):
        return [_as_text(part) for part in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number or isinstance(value, datetime.date) else value


# --- checks -------------------------------------------------------------------------------------------------


def _record(kind: type[Record], values: Mapping[str, Any], file: str, prefix: str = "") -> Record:
    """A record of checked values. Raises UserError for one that is unknown or not of its kind."""
    hints = get_type_hints(kind, include_extras=True)
    unknown = sorted(set(values) - set(hints), key=str)
    if unknown:
        raise UserError(f"config key {prefix}{unknown[0]}: unknown; the keys stand in config/{file}")
    checked = {}
    for key, hint in hints.items():
        value = values.get(key)
        checked[key] = _as_text(value) if _wants_text(_kinds_of(hint)) else value
        _check(f"{prefix}{key}", checked[key], hint)
    return kind(**checked)


def _check(key: str, value: Any, hint: Any) -> None:
    """Raises UserError, which says what the key must be, where `value` is not of the annotated kind."""
    constraints, kinds = _constraints(hint), _kinds_of(hint)
    if not any(_fits(value, kind, constraints) for kind in kinds):
        raise UserError(f"config key {key}{_shown(key, value)}: {_wanted(key, kinds, constraints)}")


def _constraints(hint: Any) -> tuple:
    """What is annotated beside the kind."""
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def _shown(key: str, value: Any) -> str:
    """The value for a message; nothing of it where it may be a secret."""
    if named_as_secret(key):
        return ""
    return f"={without_secrets(str(value))}"


def _kinds_of(hint: Any) -> tuple:
    """The kinds of an annotated hint: the members of a union, or the one that is none."""
    kind = get_args(hint)[0] if _constraints(hint) else hint
    return get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)


def _fits(value: Any, kind: Any, constraints: tuple) -> bool:
    """Is `value` of this one kind, within its constraints?"""
    if kind is NoneType:
        return value is None
    if kind in (int, float):
        limits = next((c for c in constraints if isinstance(c, AtLeast)), AtLeast(-(2**63)))
        numbers = int if kind is int else (int, float)
        right = isinstance(value, numbers) and not isinstance(value, bool)
        return right and limits.least <= value <= limits.most
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is str:
        return is_name(value) and all(re.fullmatch(rule.pattern, value, re.S) for rule in _rules(constraints))
    if get_origin(kind) is list:
        if not isinstance(value, list) or not value or not all(map(is_name, value)):
            return False
        return len(set(value)) == len(value) or not any(rule.distinct for rule in _rules(constraints))
    return isinstance(value, kind)


def _rules(constraints: tuple) -> list[Rule]:
    return [c for c in constraints if isinstance(c, Rule)]


def _wanted(key: str, kinds: tuple, constraints: tuple) -> str:
    """What a key must be, in words."""
    if rules := _rules(constraints):
        return rules[0].wanted
    kind, nullable = kinds[0], NoneType in kinds
    if get_origin(kind) is Literal:
        return "choose one of " + ", ".join((["null"] if nullable else []) + list(get_args(kind)))
    if kind in (int, float):
        limits = next(c for c in constraints if isinstance(c, AtLeast))
        bounded = limits.most != AtLeast(0).most
        limit = f"{limits.least} to {limits.most}" if bounded else f"{limits.least} or more"
        what = f"must be a {'whole ' if kind is int else ''}number, {limit}"
    elif kind is bool:
        what = "must be true or false"
    elif get_origin(kind) is list:
        what = f"must be a list, {key}=[name,...]"
    else:
        what = "must be a name or a path"
    return what + (", or null" if nullable else "")
