"""Which tasks each key of config/synthesize.yaml is for, so that none is given to a task that ignores it.

Contract: every key of the config is in KEYS, or one of COMMON. A key at its default counts as not given.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from synthesis.config import SynthesisSettings, synthesis_settings
from utils import UserError

FILE = Path(__file__).parent.parent / "config" / "synthesize.yaml"
OF_HYDRA = ("defaults", "hydra")
COMMON = ("task", "sources", "output", "overwrite", "licence", "format", "belief_classes", "seed")
PUBLISHED, PEOPLE = "published shares", "people's answers"  # what a survey may be
OF_PEOPLE = ("question", "answer", "group", "weight", "questions", "wordings", "missing")
WRITES = ("dialogues", "ranked", "instructions")
KEYS: dict[str, tuple[str, ...]] = {  # tasks by key
    "country": ("survey", "dialogues"),
    **dict.fromkeys(OF_PEOPLE, ("survey",)),
    "options": ("survey", "reviews"),
    "options_model": ("survey",),
    "min_n": ("survey", "reviews"),
    "generator": ("dialogues", "ranked"),
    "styles": ("dialogues",),
    "tries": ("dialogues",),
    "judge": ("dialogues",),
    "judge_model": ("dialogues", "ranked"),
    "embedder": ("dialogues",),
    "columns": ("dialogues", "reviews"),
    "pairs_per_prompt": ("dialogues", "reviews"),
    "eval_phrasings": ("dialogues",),
    "test_phrasings": ("dialogues",),
    "check": ("dialogues",),
    **dict.fromkeys(
        ("item", "rating", "text", "lowest_rating", "highest_rating", "review_prompt", "n_texts"),
        ("reviews",),
    ),
    "reward": ("ranked",),
    "n": ("mix", "dialogues", "reviews", "ranked"),
    "duplicates": ("mix",),
    "near": ("mix", "split", "stats", "dialogues", "ranked"),
    "by": ("split",),
    "eval_fraction": ("split", "reviews", "ranked"),
    "test_fraction": ("split", "reviews", "dialogues"),
    "ckpt": WRITES,
    "split": ("ranked", "instructions"),
    "n_samples": ("ranked", "instructions"),
    "max_new_tokens": WRITES,
    "temperature": WRITES,
    "batch_size": WRITES,
    "device": WRITES,
    "api": ("survey", "dialogues", "ranked"),
    "judge_api": ("dialogues", "ranked"),
}


def check_keys(settings: SynthesisSettings) -> None:
    """Raises UserError for a key that is given and has no effect, and for a source that is named twice."""
    given, task = _given(settings), settings.task
    for key in given:
        if task not in KEYS[key]:
            tasks = " and ".join(f"task={of}" for of in KEYS[key])
            raise UserError(
                f"config key {_said(key, settings)}: is for {tasks}, and here task={task}; leave it out"
            )
    if task == "survey":
        _check_survey(settings, given)
    names = [source.name for source in settings.sources or ()]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UserError(f"sources: {name} is named twice; name each source once")


def _check_survey(settings: SynthesisSettings, given: list[str]) -> None:
    """The same for the kinds of sources of a survey."""
    if settings.sources is None:
        if given:
            raise UserError(
                f"config key {_said(given[0], settings)}: is of a survey's sources, and none are named; "
                "give sources=FILE"
            )
        return
    is_of_people = not {"question", "questions", "answer"}.isdisjoint(given)
    if is_of_people and "country" in given:
        raise UserError(
            f"config key {_said('country', settings)}: is of {PUBLISHED}, and question=, answer= and "
            f"questions= name columns of {PEOPLE}; leave it out"
        )
    for key in given:
        if key in OF_PEOPLE and not is_of_people:
            raise UserError(
                f"config key {_said(key, settings)}: is of {PEOPLE}, whose columns question= and answer=, or "
                f"questions=, name; of {PUBLISHED} country= takes some groups; leave {key} out"
            )


def _given(settings: SynthesisSettings) -> list[str]:
    """The keys that are not at their defaults, in their order, without those of all tasks."""
    config = OmegaConf.to_container(OmegaConf.load(FILE))
    defaults = synthesis_settings({key: value for key, value in config.items() if key not in OF_HYDRA})
    values, others = vars(settings), vars(defaults)
    return [key for key in KEYS if values[key] != others[key]]


def _said(key: str, settings: SynthesisSettings) -> str:
    """A key with its value, as it is given; of a section, the key alone."""
    value = vars(settings)[key]
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return key if key in ("api", "judge_api") else f"{key}={value}"
