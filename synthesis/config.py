"""The keys of a synthesis, checked: config/synthesize.yaml as a record.

Contract: as in `settings`, the door turns its composed config into one frozen record. Nothing slow is
imported, so a wrong key is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from checking import AtLeast, Rule, as_list, as_text, check_for_secrets, record
from settings import API_SECTIONS, LABELS, ApiSettings, DataSet, Device, data_set_of
from utils import UserError

SCORER = Rule(
    "choose one of constraints, reward_model, openai, or name a function, reward=module:function",
    r"constraints|reward_model|openai|[\w.]+:[\w.]+",
)
STYLES = Rule("must be a list of different styles, styles=casual,formal", distinct=True)
COLUMNS = Rule("must be a list of different columns, questions=trust,vote", distinct=True)


@dataclass(frozen=True)
class SynthesisSettings:
    """config/synthesize.yaml."""

    task: Literal[
        "survey", "dialogues", "reviews", "check", "instructions", "ranked", "mix", "split", "stats"
    ]
    sources: list[DataSet] | None
    output: str | None
    overwrite: bool
    licence: str | None
    format: str | None
    belief_classes: Annotated[list[str], LABELS]
    seed: Annotated[int, AtLeast(0)]

    country: list[str] | None
    question: str | None
    answer: str | None
    group: str | None
    weight: str | None
    questions: Annotated[list[str] | None, COLUMNS]
    wordings: str | None
    options: str | None
    options_model: str | None
    missing: list[str] | None
    min_n: Annotated[int, AtLeast(1)]

    generator: Literal["hf", "vllm", "openai"]
    styles: Annotated[list[str], STYLES]
    tries: Annotated[int, AtLeast(1, 100)]
    judge: Literal["embedding", "openai", "none"]
    judge_model: str | None
    embedder: str | None
    columns: Literal["own", "mmoqa"]
    pairs_per_prompt: Annotated[int, AtLeast(1, 10_000)]
    eval_phrasings: Annotated[int, AtLeast(0)]
    test_phrasings: Annotated[int, AtLeast(0)]
    check: bool

    item: str
    rating: str
    text: str
    lowest_rating: Annotated[float | None, AtLeast(-1e6, 1e6)]
    highest_rating: Annotated[float | None, AtLeast(-1e6, 1e6)]
    review_prompt: str
    n_texts: Annotated[int | None, AtLeast(2)]

    reward: Annotated[str, SCORER]

    n: Annotated[int | None, AtLeast(1)]
    duplicates: Literal["keep", "exact", "near"]
    near: Annotated[float, AtLeast(0.05, 1)]
    by: Literal["question", "prompt"]
    eval_fraction: Annotated[float, AtLeast(0, 1)]
    test_fraction: Annotated[float, AtLeast(0, 1)]

    ckpt: str
    split: Literal["train", "eval", "test"] | None
    n_samples: Annotated[int, AtLeast(1)]
    max_new_tokens: Annotated[int, AtLeast(1)]
    temperature: Annotated[float, AtLeast(0)]
    batch_size: Annotated[int, AtLeast(1)]
    device: Device

    api: ApiSettings
    judge_api: ApiSettings

    @property
    def held_out(self) -> dict[str, float]:
        """The fractions of eval and test. Raises UserError where they leave nothing to train on."""
        fractions = {"eval": self.eval_fraction, "test": self.test_fraction}
        if sum(fractions.values()) >= 1:
            raise UserError(
                "config keys eval_fraction and test_fraction: nothing is left to train on; give less"
            )
        return fractions


def synthesis_settings(config: Mapping[str, Any]) -> SynthesisSettings:
    """The record of a composed synthesis config. Raises UserError as above."""
    check_for_secrets(config)
    for key in API_SECTIONS:
        if not isinstance(config.get(key), Mapping):
            raise UserError(
                f"config key {key}: must be a section, {key}.base_url=...; see config/synthesize.yaml"
            )
    parts = {key: record(ApiSettings, config[key], "synthesize.yaml", f"{key}.") for key in API_SECTIONS}
    values = {**config, **parts}
    given = as_text(as_list(config.get("sources")))
    if isinstance(given, list):
        values["sources"] = [data_set_of(entry, "sources", config.get("format")) for entry in given]
        if any(isinstance(source, DataSet) and source.group for source in values["sources"]):
            raise UserError(
                "config key sources.group: is of training; rows say whose they are in a field group"
            )
    return record(SynthesisSettings, values, "synthesize.yaml")
