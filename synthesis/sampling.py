"""Who responds: the policy that `ckpt` names, through the engines of an evaluation, and its samples as items.

Contract: a sample is a function of (weights, prompt, decoding, seed, number), and is kept as soon as it is
there; a command that was killed goes on without writing one again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import chat
from evaluation import Checkpoint, fill_settings, find_checkpoints
from evaluation.checkpoints import OF_SERVER
from evaluation.defaults import default_keys
from evaluation.engines import check_engines, open_generator
from generation import Decoding, Draw, Generator, Written
from groups import Group
from ranks import init_distributed
from settings import EvaluationSettings, evaluation_settings
from synthesis.config import SynthesisSettings
from synthesis.instructions import found_model
from synthesis.record import Item, Json, Maker, Tokens
from synthesis.work import Work
from utils import UserError

BLANK = "blank"  # why a sample is none

Wanted = Mapping[str, tuple[Draw, Item]]  # by the item's key


class Policy(NamedTuple):
    """A model that responds, not loaded yet."""

    checkpoint: Checkpoint
    settings: EvaluationSettings  # how an evaluation would ask it

    @property
    def maker(self) -> Maker:
        """As `synthesis.json` names it."""
        is_served = self.checkpoint.served is not None
        server = chat.endpoint_of(self.settings.api).server if is_served else ""
        return Maker("writes", self.checkpoint.name, server)


class Sample(NamedTuple):
    """One response of a policy."""

    text: str
    is_cut: bool  # it ended at max_new_tokens


def find_policy(settings: SynthesisSettings) -> Policy:
    """The policy of `ckpt`. Raises UserError for one that cannot be found, before any model is loaded, and
    for settings under which samples cannot differ.
    """
    if settings.n_samples < 2:
        raise UserError("config key n_samples=1: one response has no order; give two or more")
    if settings.temperature == 0:
        raise UserError("config key temperature=0: all samples of a prompt would be one; give one above 0")
    is_served = settings.ckpt.startswith(OF_SERVER) or settings.generator == "openai"
    if not is_served:
        found_model(settings.ckpt)
    asked = _as_evaluation(settings)
    (checkpoint,) = find_checkpoints(asked)
    check_engines([checkpoint], asked)
    return Policy(checkpoint, fill_settings(asked, [checkpoint]))


def _as_evaluation(settings: SynthesisSettings) -> EvaluationSettings:
    """How an evaluation would ask this policy: whole prompts, without a data set of its own."""
    defaults = default_keys()
    api = {key: value for key, value in dataclasses.asdict(settings.api).items() if value is not None}
    same = ("n_samples", "max_new_tokens", "temperature", "batch_size", "generator", "device", "seed")
    same = (*same, "belief_classes")
    given = {key: value for key, value in vars(settings).items() if key in same}
    of_policy = {"task": "prompts", "ckpt": [settings.ckpt], "api": {**defaults["api"], **api}}
    return evaluation_settings({**defaults, **given, **of_policy})


@contextlib.contextmanager
def loaded(policy: Policy) -> Iterator[Generator]:
    """The policy, loaded, or its server; closed afterwards. Raises UserError for what cannot be loaded."""
    world = init_distributed(asked=policy.settings.device)
    with open_generator(policy.checkpoint, policy.settings, world) as generator:
        yield generator


# --- samples as items ---------------------------------------------------------------------------------------


def wanted_of(groups: Sequence[Group], count: int) -> Wanted:
    """All samples: `count` of every prompt."""
    wanted = {}
    for place, group in enumerate(groups):
        inputs: Json = group.prompt if isinstance(group.prompt, str) else [dict(m) for m in group.prompt]
        for number in range(count):
            key = f"{group.id} #{number}"
            wanted[key] = (Draw(place, number), Item(key, inputs))
    return wanted


def write_missing(
    generator: Generator, groups: Sequence[Group], wanted: Wanted, work: Work, settings: SynthesisSettings
) -> None:
    """Sample what is not there. Raises UserError as the generator does; what was written is kept."""
    items = [item for _, item in wanted.values()]
    work.expect(items)
    missing = work.missing(items)
    if not missing:
        return
    of_draw = {wanted[item.key][0]: item for item in missing}
    with work.bar(missing, f"sampling {generator.name}", "response") as bar:

        def done(draw: Draw, written: Written) -> None:
            tokens = Tokens(written.prompt_tokens, written.tokens)
            if written.text.strip():
                value = {"text": written.text, "finish": written.finish}
                work.keep(of_draw[draw], value, tokens)
            else:
                work.reject(of_draw[draw], BLANK, tokens)
            bar.update()

        decoding = Decoding(f"t{settings.temperature:g}", settings.temperature)
        generator.write(groups, list(of_draw), decoding, settings.seed, done)


def samples_of(groups: Sequence[Group], wanted: Wanted, work: Work) -> list[list[Sample]]:
    """By prompt, the samples that are not blank, in the order of their numbers."""
    samples: list[list[Sample]] = [[] for _ in groups]
    for draw, item in wanted.values():
        match work.result(item):
            case None:
                raise ValueError(f"item {item.key} was not made")
            case (dict(value), "", _):
                samples[draw.prompt].append(Sample(str(value["text"]), value["finish"] == "length"))
    return samples
