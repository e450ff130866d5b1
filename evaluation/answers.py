"""What a checkpoint answers: its probabilities of the belief classes, and sampled responses.

Contract: ranks share the work and all of them get everything. An answer depends on the weights, the prompts
and the settings, never on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

import groups
import models
import ranks
from evaluation.checkpoints import Checkpoint
from evaluation.kept import Kept, identity
from evaluation.policies import limits_of, load
from ranks import World
from settings import EvaluationSettings

PROMPTS_OF_A_JOB = 16  # whose class probabilities a rank computes in one turn
SEEDS_APART = 1_000_003  # batches of one evaluation draw with seeds from seed * this on

Prompt = tuple[int, ...]  # token ids


class Answers(NamedTuple):
    """One checkpoint's answers to P prompts."""

    class_probs: np.ndarray  # (P, C) of the belief classes, over the whole vocabulary at the prompt's end
    texts: list[list[str]]  # `n_samples` sampled responses a prompt


def ask(
    checkpoint: Checkpoint,
    prompt_groups: Sequence[groups.Group],
    settings: EvaluationSettings,
    world: World,
    kept: Kept,
) -> Answers:
    """Load a checkpoint and ask it, unless its answers are kept. Raises UserError for what cannot be loaded
    or encoded.
    """
    policy, tokenizer = load(checkpoint, world, settings.shard)
    class_ids = groups.class_token_ids(tokenizer, settings.belief_classes)
    prompts = [encode(group, tokenizer, settings) for group in prompt_groups]
    sampling = sampling_of(tokenizer, settings)
    new_tokens = settings.max_new_tokens if settings.n_samples else 0
    models.check_prompts(policy, prompts, class_ids, new_tokens)

    def measure() -> dict[str, list]:
        class_probs = class_probabilities(policy, prompts, class_ids, tokenizer.pad_token_id, world)
        ids = sample(policy, prompts, sampling, settings, checkpoint.name, world)
        return {"class_probs": class_probs.tolist(), "ids": ids}

    determined_by = {
        **identity(policy),
        "prompts": prompts,
        "class_ids": class_ids,
        "sampling": sampling._asdict(),
        "draws": [settings.n_samples, settings.batch_size, settings.seed],
    }
    answers = kept.get(checkpoint.name, determined_by, measure)
    texts = [decoded(of_prompt, tokenizer, settings) for of_prompt in answers["ids"]]
    return Answers(np.asarray(answers["class_probs"]), texts)


def encode(group: groups.Group, tokenizer: PreTrainedTokenizerBase, settings: EvaluationSettings) -> Prompt:
    """A group's prompt as token ids, cut as in training."""
    return groups.prompt_ids(tokenizer, group, limits_of(settings))


def class_probabilities(
    policy: models.Scorer, prompts: Sequence[Prompt], class_ids: Prompt, pad_id: int, world: World
) -> np.ndarray:
    """(P, C) probabilities of the class tokens at each prompt's end."""

    def of_some(some: Sequence[Prompt]) -> np.ndarray:
        return models.class_distributions(policy, some, class_ids, pad_id).double().numpy()

    starts = range(0, len(prompts), PROMPTS_OF_A_JOB)
    jobs = [prompts[first : first + PROMPTS_OF_A_JOB] for first in starts]
    return np.concatenate(ranks.spread(jobs, of_some, world))


# --- sampling -----------------------------------------------------------------------------------------------


class Draw(NamedTuple):
    """One response to sample. Draws sort by length, so that prompts of similar length share a batch."""

    length: int  # of the prompt, in tokens
    prompt: int
    number: int  # among the prompt's samples


def sample(
    policy: models.Scorer,
    prompts: Sequence[Prompt],
    sampling: models.Sampling,
    settings: EvaluationSettings,
    name: str,
    world: World,
) -> list[list[list[int]]]:
    """The token ids of `n_samples` responses a prompt; each batch has its own seed. name: of the checkpoint,
    for the progress bar.
    """
    draws = draws_of(prompts, settings.n_samples)
    responses = sample_ids(policy, prompts, draws, sampling, settings, name, world)
    ids: list[list[list[int]]] = [[[]] * settings.n_samples for _ in prompts]
    for draw, of_draw in zip(draws, responses):
        ids[draw.prompt][draw.number] = of_draw
    return ids


def decoded(
    responses: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, settings: EvaluationSettings
) -> list[str]:
    """Responses as text."""
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in responses]
    if settings.few_shot:
        return [text.split("\n\n")[0] for text in texts]  # a prompted model writes on
    return texts


def draws_of(prompts: Sequence[Prompt], n_samples: int) -> list[Draw]:
    """All responses to sample, shortest prompts first."""
    draws = []
    for i, prompt in enumerate(prompts):
        draws += [Draw(len(prompt), i, number) for number in range(n_samples)]
    return sorted(draws)


def sampling_of(tokenizer: PreTrainedTokenizerBase, settings: EvaluationSettings) -> models.Sampling:
    """How to continue prompts."""
    return models.Sampling(
        settings.max_new_tokens,
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        settings.temperature,
        groups.stop_ids(tokenizer),
    )


def sample_ids(
    policy: models.Scorer,
    prompts: Sequence[Prompt],
    draws: Sequence[Draw],
    sampling: models.Sampling,
    settings: EvaluationSettings,
    name: str,
    world: World,
) -> list[list[int]]:
    """The sampled token ids of every draw."""
    with tqdm(total=len(draws), desc=f"sampling {name}", unit="response", disable=not world.is_main) as bar:

        def sample_batch(first: int) -> list[list[int]]:
            batch = [prompts[draw.prompt] for draw in draws[first : first + settings.batch_size]]
            ids = models.generate(policy, batch, sampling, seed=settings.seed * SEEDS_APART + first)
            bar.update(len(batch) * world.size)
            return ids

        starts = range(0, len(draws), settings.batch_size)
        batches = ranks.spread(starts, sample_batch, world)
    return [ids for batch in batches for ids in batch]
