"""Every config key once: its kind, its range, and whether a run may change it when it resumes.

Contract: a door turns its composed config into one frozen record here, and everything below the doors takes
plain typed values. What a key means stands beside it in config/*.yaml; a test holds the records' keys equal
to those of the files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_type_hints

from checking import AtLeast, Rule, as_list, as_text, check_for_secrets, constraints_of, record
from checking import flatten as flatten
from checking import text_keys as text_keys
from utils import UserError, is_name

FREE = "free to change when a run resumes"
FOLDER_NAME = Rule(
    "must be a plain folder name; the folder above it is output_dir", r"[^/\n\0]*[^/\n\0.][^/\n\0]*"
)
LABELS = Rule("must be a list of different labels, belief_classes=['0','1',...]", distinct=True)
POSITIVE = AtLeast(1e-12)
TEMPLATE = Rule("must hold {group}, where the name of the people goes", r"(?s).*\{group\}.*")
DECODINGS = Rule("must be a list of different ways to decode, decoding=greedy,t0.2,t0.8", distinct=True)
JUDGE = Rule(
    "choose one of embedding, openai, reward_model, or name a function, judge=module:function",
    r"embedding|openai|reward_model|[\w.]+:[\w.]+",
)
REWARD = Rule("must name a function, reward=module:function", r"[\w.]+:[\w.]+")
ADDED = {  # keys that a run's saved config lacks where it is of an older version, and what that did
    "weight_decay": 0.0,
    "lr_schedule": "constant",
    "eval_mode": "min",
    "lora.dropout": 0.0,
    "group_in_prompt": False,
    "group_template": "People asked: {group}\n",
}
SECTIONS = ("wandb", "tracker", "loss", "model", "lora")  # of a training config
API_SECTIONS = ("api", "judge_api")  # of an evaluation's config, and of a synthesis's
DType = Literal["float32", "bfloat16"]
Passes = Literal["float32", "bfloat16", "auto"]  # auto: `devices.passes_dtype`, before the run is made
Device = Literal["auto", "cpu", "cuda", "mps"]
Truncation = Literal["keep_start", "keep_end", "dpo"]
AddBos = Literal["true", "false", "auto"]


# --- the records --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WandbSettings:
    """Section `wandb` of config/config.yaml."""

    enabled: bool
    entity: str | None
    project: str | None


@dataclass(frozen=True)
class TrackerSettings:
    """Section `tracker` of config/config.yaml."""

    step: Literal["updates", "examples"]


@dataclass(frozen=True)
class LoraSettings:
    """Section `lora` of config/config.yaml."""

    rank: Annotated[int | None, AtLeast(1)]
    alpha: Annotated[float, POSITIVE]
    targets: str | list[str]
    dropout: Annotated[float, AtLeast(0, 0.99)]
    quantize: Literal["nf4", "fp4"] | None


@dataclass(frozen=True)
class ModelSettings:
    """A file of config/model/."""

    name_or_path: str
    tokenizer_name_or_path: str | None
    archive: str | None
    policy_dtype: DType
    compute_dtype: Passes
    trust_remote_code: bool
    block_name: str | None


@dataclass(frozen=True)
class LossSettings:
    """A file of config/loss/: a loss's name, and its keys, which `losses.bind` checks."""

    name: str
    keys: Mapping[str, Any]


@dataclass(frozen=True)
class DataSet:
    """One of a run's data sets: its name alone, or {name: ...} with some of the other keys."""

    name: str
    weight: Annotated[float | None, POSITIVE] = None  # its share of the examples of all that have one
    n: Annotated[int | None, AtLeast(1)] = None  # so many of its examples, drawn by the seed
    format: str | None = None  # of its rows; None: recognised
    split: str | None = None  # the one to take, by its own name; None: the usual names of train and eval
    group: str | None = None  # whose answers they are, in words; None: as its rows say


@dataclass(frozen=True)
class TrainSettings:
    """config/config.yaml."""

    seed: Annotated[int, AtLeast(0)]
    exp_name: Annotated[str, FOLDER_NAME]
    output_dir: Annotated[str, FREE]
    resume: Annotated[Literal["auto", "never", "must"], FREE]
    debug: Annotated[bool, FREE]
    wandb: Annotated[WandbSettings, FREE]
    trackers: Annotated[list[str] | None, FREE]
    tracker: Annotated[TrackerSettings, FREE]

    datasets: list[DataSet]
    eval_datasets: list[DataSet] | None
    format: str | None
    eval_fraction: Annotated[float, AtLeast(0, 1)]
    responses: str
    max_responses: Annotated[int | None, AtLeast(2)]
    icf_shots: Annotated[int, AtLeast(0)]
    pairs_per_prompt: Annotated[int, AtLeast(1, 10_000)]
    belief_classes: Annotated[list[str], LABELS]
    max_length: Annotated[int, AtLeast(2)]
    max_prompt_length: Annotated[int | None, AtLeast(1)]
    truncation: Truncation | None
    add_bos: AddBos
    shuffle: Literal["examples", "prompts"]
    group_in_prompt: bool
    group_template: Annotated[str, TEMPLATE]
    n_eval_examples: Annotated[int | None, AtLeast(1)]

    batch_size: Annotated[int, AtLeast(1)]
    eval_batch_size: Annotated[int, AtLeast(1), FREE]
    n_epochs: Annotated[int | None, AtLeast(1), FREE]
    n_examples: Annotated[int | None, AtLeast(1), FREE]
    optimizer: str
    optimizer_keys: dict | None
    weight_decay: Annotated[float, AtLeast(0)]
    lr: Annotated[float, POSITIVE]
    lr_schedule: str
    lr_schedule_keys: dict | None
    warmup_steps: Annotated[int, AtLeast(0)]
    warmup_ratio: Annotated[float | None, AtLeast(0, 1)]
    max_grad_norm: Annotated[float, POSITIVE]
    eval_every: Annotated[int, AtLeast(1), FREE]
    do_first_eval: bool
    eval_metric: str
    eval_mode: Literal["min", "max"]
    sample_during_eval: Annotated[bool, FREE]
    n_eval_model_samples: Annotated[int, AtLeast(1), FREE]
    patience: Annotated[int | None, AtLeast(1), FREE]
    log_every_seconds: Annotated[float, AtLeast(0), FREE]
    save_every: Annotated[int | None, AtLeast(1), FREE]
    async_save: Annotated[bool | None, FREE]
    keep_last: Annotated[int, AtLeast(1), FREE]

    device: Annotated[Device, FREE]
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
class ApiSettings:
    """Sections `api` and `judge_api`: a server that speaks OpenAI's protocol."""

    base_url: str | None
    concurrency: Annotated[int | None, AtLeast(1, 1024)]
    retries: Annotated[int | None, AtLeast(0, 100)]
    timeout: Annotated[float | None, AtLeast(1e-3)]


@dataclass(frozen=True)
class EvaluationSettings:
    """config/evaluate.yaml. The keys from `datasets` on, and few_shot, may come from a run's saved config."""

    task: Literal["alpaca_eval", "mt_bench", "arena_hard", "prompts"] | None
    prompts: str | None
    baseline: str | None
    ckpt: list[str]
    base_model: str | None
    output: str | None
    split: str
    option_map: str | None
    few_shot: Annotated[int | None, AtLeast(0)]
    n_prompts: Annotated[int | None, AtLeast(1)]
    n_samples: Annotated[int | None, AtLeast(0)]
    max_new_tokens: Annotated[int | None, AtLeast(1)]
    temperature: Annotated[float | None, AtLeast(0)]
    decoding: Annotated[list[str] | None, DECODINGS]
    generator: Literal["hf", "vllm", "openai"]
    batch_size: Annotated[int | None, AtLeast(1)]
    device: Device
    nproc: Annotated[int | None, AtLeast(1)]
    shard: bool
    overwrite: bool
    judge: Annotated[str, JUDGE]
    judge_model: str | None
    reward: Annotated[str | None, REWARD]
    embedder: str | None
    check: bool
    api: ApiSettings
    judge_api: ApiSettings

    datasets: list[DataSet] | None
    format: str | None
    belief_classes: Annotated[list[str] | None, LABELS]
    max_length: Annotated[int | None, AtLeast(2)]
    max_prompt_length: Annotated[int | None, AtLeast(1)]
    truncation: Truncation | None
    add_bos: AddBos | None
    seed: Annotated[int | None, AtLeast(0)]
    eval_fraction: Annotated[float | None, AtLeast(0, 1)]
    eval_groups: list[DataSet] | None
    group_in_prompt: bool | None
    group_template: Annotated[str | None, TEMPLATE]


# --- from configs to records --------------------------------------------------------------------------------


def train_settings(config: Mapping[str, Any]) -> TrainSettings:
    """The record of a composed training config, given as plain values.

    Raises UserError for unknown keys (`+key=` included), impossible values, and a secret written into the
    config.
    """
    check_for_secrets(config)
    sections = all(isinstance(config.get(key), Mapping) for key in SECTIONS)
    if not sections or not isinstance(config["loss"].get("name"), str):
        raise UserError(
            "config: wandb must be a section (wandb.enabled=false), and so must tracker, loss, model and "
            "lora, and loss.name a name; the keys stand in config/config.yaml"
        )
    loss_keys = {key: value for key, value in config["loss"].items() if key != "name"}
    parts = {
        "wandb": record(WandbSettings, config["wandb"], "config.yaml", "wandb."),
        "tracker": record(TrackerSettings, config["tracker"], "config.yaml", "tracker."),
        "lora": record(LoraSettings, config["lora"], "config.yaml", "lora."),
        "model": record(ModelSettings, config["model"], "config.yaml", "model."),
        "loss": LossSettings(config["loss"]["name"], loss_keys),
    }
    settings = record(TrainSettings, with_data_sets({**config, **parts}), "config.yaml")
    if settings.group_in_prompt and settings.icf_shots:
        raise UserError(
            "config keys group_in_prompt and icf_shots: shots would be of other groups; leave one of them out"
        )
    if settings.lora.rank is None and (settings.lora.dropout or settings.lora.quantize):
        raise UserError("config keys lora.dropout and lora.quantize: they need adapters; set lora.rank=16")
    if settings.n_epochs is None and settings.n_examples is None:
        raise UserError("config keys n_epochs and n_examples: both are null; set one of them")
    if settings.device == "mps":
        _check_mps(settings)
    return settings


def _check_mps(settings: TrainSettings) -> None:
    """Raises UserError for what is not computed on Apple's GPU."""
    refused = {
        "model.policy_dtype": (settings.model.policy_dtype == "bfloat16", "float32"),
        "model.compute_dtype": (settings.model.compute_dtype == "bfloat16", "float32"),
        "optimizer": (settings.optimizer.endswith("8bit"), "AdamW"),
        "lora.quantize": (settings.lora.quantize is not None, "null"),
        "compile": (settings.compile, "false"),
        "cpu_offload": (settings.cpu_offload, "false"),
    }
    for key, (is_asked_for, instead) in refused.items():
        if is_asked_for:
            raise UserError(f"config key {key}: is not for device=mps; set {key}={instead}, or device=cpu")


def evaluation_settings(config: Mapping[str, Any]) -> EvaluationSettings:
    """The record of a composed evaluation config; `ckpt` may be one name or a list. Raises UserError as
    above."""
    check_for_secrets(config)
    ckpt = as_text(config.get("ckpt"))
    given = ckpt if isinstance(ckpt, list) else [ckpt]
    if not given or not all(map(is_name, given)):
        problem = "missing" if ckpt in (None, "", []) else "no name of a checkpoint"
        raise UserError(
            f"ckpt: {problem}; give ckpt=<run folder, step folder, HF folder, policy.pt, hub name>, or "
            "several with commas"
        )
    if not all(isinstance(config.get(key), Mapping) for key in API_SECTIONS):
        raise UserError("config: api and judge_api must be sections; the keys stand in config/evaluate.yaml")
    if config.get("decoding") is not None and config.get("temperature") is not None:
        raise UserError(
            "config keys decoding and temperature: both are given; a decoding says its temperature"
        )
    parts = {key: record(ApiSettings, config[key], "evaluate.yaml", f"{key}.") for key in API_SECTIONS}
    return record(EvaluationSettings, with_data_sets({**config, **parts, "ckpt": given}), "evaluate.yaml")


def names_of(data_sets: Sequence[DataSet]) -> list[str]:
    """The names of data sets, for messages and reports."""
    return [data_set.name for data_set in data_sets]


def with_data_sets(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its data sets as records. Raises UserError for an entry that is none."""
    values = dict(config)
    for key in ("datasets", "eval_datasets", "eval_groups"):
        given = as_text(as_list(values.get(key)))
        if isinstance(given, list):
            values[key] = [data_set_of(entry, key, values.get("format")) for entry in given]
    values["add_bos"] = str(values["add_bos"]).lower() if values.get("add_bos") is not None else None
    return values


def data_set_of(entry: Any, key: str, given_format: Any) -> Any:
    if isinstance(entry, DataSet):
        return entry
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, Mapping):
        return entry
    formats = {} if entry.get("format") else {"format": given_format}
    return record(DataSet, {**entry, **formats}, "config.yaml", f"{key}.")


def model_settings(config: Mapping[str, Any]) -> ModelSettings:
    """The record of a section `model`. Raises UserError as above."""
    return record(ModelSettings, config, "config.yaml", "model.")


def as_config(settings: TrainSettings) -> dict[str, Any]:
    """The record as the nested plain values of its config."""
    values = dataclasses.asdict(settings)
    values["loss"] = {"name": settings.loss.name, **settings.loss.keys}
    for key in ("datasets", "eval_datasets"):
        if values[key] is not None:
            values[key] = [_plain_data_set(entry, settings.format) for entry in values[key]]
    return values


def _plain_data_set(entry: Mapping[str, Any], given_format: str | None) -> Any:
    """A data set as a config names it."""
    said = {key: value for key, value in entry.items() if value is not None}
    if said.get("format") == given_format:
        said.pop("format", None)
    return said["name"] if len(said) == 1 else said


def free_to_change(key: str) -> bool:
    """May a run that resumes give this key of config/config.yaml (`wandb.project`, say) another value?"""
    hints = get_type_hints(TrainSettings, include_extras=True)
    return FREE in constraints_of(hints.get(key.split(".")[0], NoneType))
