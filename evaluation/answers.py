"""What a checkpoint answers: its probabilities of the belief classes, and sampled responses.

Contract: ranks share the work and all of them get everything. An answer depends on the model, the prompt and
the settings, never on the number of ranks or on what was there before. Responses are kept in `predictions` as
they come, and only what is not there is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import chat
import devices
import groups
import models
import ranks
from evaluation.checkpoints import Checkpoint
from evaluation.engines import open_generator, served_generator
from evaluation.kept import Kept, identity
from evaluation.lines import Prediction
from evaluation.policies import Loaded, limits_of, load
from evaluation.predictions import Key, Predictions
from generation import Decoding, Draw, Generator, Written, decodings_of
from groups import Group
from ranks import World
from settings import EvaluationSettings
from utils import UserError, log

__all__ = ["Answers", "ask", "open_generator", "respond"]

PROMPTS_OF_A_JOB = 16  # whose class probabilities a rank computes in one turn
END_OF_AN_ANSWER = "\n\n"  # where a prompted model goes on with a question of its own

Prompt = tuple[int, ...]  # token ids
Responses = Mapping[str, list[list[Written]]]  # by decoding, then prompt, then sample


class Answers(NamedTuple):
    """One checkpoint's answers to P prompts."""

    class_probs: (
        np.ndarray | None
    )  # (P, C) of the belief classes, at the prompt's end; None: a server's secret
    written: Responses  # `n_samples` sampled responses a decoding and prompt


def ask(
    checkpoint: Checkpoint,
    prompt_groups: Sequence[Group],
    settings: EvaluationSettings,
    world: World,
    kept: Kept,
    predictions: Predictions,
) -> Answers:
    """Load a checkpoint, or turn to its server, and ask it. A call for all ranks.

    Raises UserError for what cannot be loaded, encoded or reached.
    """
    if checkpoint.served is not None:
        return _ask_server(checkpoint, prompt_groups, settings, world, kept, predictions)
    loaded = load(checkpoint, world, settings.shard)
    class_probs = _class_probs(checkpoint.name, loaded, prompt_groups, settings, world, kept)
    if settings.generator == "vllm":
        loaded = None  # two models may not fit
        devices.free_memory()
    if not settings.n_samples:
        return Answers(class_probs, _none_of(prompt_groups, predictions))
    with open_generator(checkpoint, settings, world, loaded) as generator:
        written = respond(generator, checkpoint.name, prompt_groups, settings, world, predictions)
    return Answers(class_probs, written)


def _none_of(prompt_groups: Sequence[Group], predictions: Predictions) -> Responses:
    """No responses, in their form."""
    return {decoding.name: [[] for _ in prompt_groups] for decoding in predictions.decodings}


def _ask_server(
    checkpoint: Checkpoint,
    prompt_groups: Sequence[Group],
    settings: EvaluationSettings,
    world: World,
    kept: Kept,
    predictions: Predictions,
) -> Answers:
    """A server's answers; class probabilities where it offers log-probs. No reply is paid for twice until the
    report is written."""
    store = chat.Store(kept.path("replies.jsonl"))
    generator = served_generator(checkpoint, settings, world, store)
    try:
        determined_by = {
            **generator.identity(),
            "prompts": [group.prompt for group in prompt_groups],
            "classes": settings.belief_classes,
        }

        def offered() -> list[list[float]] | None:
            found = generator.class_logprobs(prompt_groups, settings.belief_classes)
            return found and [[of_prompt[label] for label in settings.belief_classes] for of_prompt in found]

        of_classes = kept.get(checkpoint.name, determined_by, lambda: ranks.on_main(world, offered))
        log.info(
            "%s: class probabilities %s",
            checkpoint.name,
            "are of the server's likeliest 20 tokens" if of_classes else "are not offered by the server",
        )
        if of_classes is None and not settings.n_samples:
            raise UserError(
                f"ckpt={checkpoint.source}: the server offers no log-probs, so n_samples=0 leaves nothing to "
                "measure; set n_samples=8"
            )
        written = _none_of(prompt_groups, predictions)
        if settings.n_samples:
            written = respond(generator, checkpoint.name, prompt_groups, settings, world, predictions)
    finally:
        generator.close()
    return Answers(None if of_classes is None else np.asarray(of_classes), written)


# --- class probabilities ------------------------------------------------------------------------------------


def _class_probs(
    name: str,
    loaded: Loaded,
    prompt_groups: Sequence[Group],
    settings: EvaluationSettings,
    world: World,
    kept: Kept,
) -> np.ndarray:
    """(P, C) of a policy, unless they are kept. Raises UserError for prompts that it cannot take."""
    policy, tokenizer = loaded
    class_ids = groups.class_token_ids(tokenizer, settings.belief_classes)
    prompts = [groups.prompt_ids(tokenizer, group, limits_of(settings)) for group in prompt_groups]
    check_prompts(policy, prompts, class_ids, settings)
    determined_by = {**identity(policy), "prompts": prompts, "class_ids": class_ids}
    class_probs = kept.get(
        name,
        determined_by,
        lambda: class_probabilities(policy, prompts, class_ids, tokenizer.pad_token_id, world).tolist(),
    )
    return np.asarray(class_probs)


def check_prompts(
    policy: models.Scorer, prompts: Sequence[Prompt], class_ids: Prompt, settings: EvaluationSettings
) -> None:
    """Raises UserError for prompts that the model cannot take with what it is to write."""
    try:
        models.check_prompts(policy, prompts, class_ids, settings.max_new_tokens if settings.n_samples else 0)
    except UserError as error:
        if not settings.few_shot:
            raise
        problem = str(error).rsplit(";", 1)[0]
        raise UserError(
            f"config key few_shot={settings.few_shot}: with its shots, {problem.split(': ', 1)[-1]}; set "
            f"few_shot={settings.few_shot - 1} or less"
        ) from error


def class_probabilities(
    policy: models.Scorer, prompts: Sequence[Prompt], class_ids: Prompt, pad_id: int, world: World
) -> np.ndarray:
    """(P, C) probabilities of the class tokens at each prompt's end."""

    def of_some(some: Sequence[Prompt]) -> np.ndarray:
        return models.class_distributions(policy, some, class_ids, pad_id).double().numpy()

    starts = range(0, len(prompts), PROMPTS_OF_A_JOB)
    jobs = [prompts[first : first + PROMPTS_OF_A_JOB] for first in starts]
    return np.concatenate(ranks.spread(jobs, of_some, world))


# --- responses ----------------------------------------------------------------------------------------------


class Missing(NamedTuple):
    """What one decoding still lacks."""

    decoding: Decoding
    draws: list[Draw]


def respond(
    generator: Generator,
    name: str,
    prompt_groups: Sequence[Group],
    settings: EvaluationSettings,
    world: World,
    predictions: Predictions,
) -> Responses:
    """`n_samples` responses to every prompt by every decoding of `settings`, which may be fewer than those of
    the predictions; those that are there are not written again.

    Greedy responses to a prompt are one and the same: it is written once, and counts `n_samples` times. name:
    of the checkpoint. A call for all ranks, which share the prompts. Raises UserError for what the generator
    cannot take or get, and for responses of another model that are there.
    """
    known = predictions.begin(name, generator.identity())
    keys = {
        decoding: [predictions.made_by(name, group, decoding) for group in prompt_groups]
        for decoding in decodings_of(settings.decoding, settings.temperature)
    }
    missing = [_missing(decoding, keys[decoding], known, settings.n_samples) for decoding in keys]
    total = sum(len(set(made_by)) * _different(decoding, settings) for decoding, made_by in keys.items())
    num_missing = sum(len(part.draws) for part in missing)
    if num_missing < total:
        going_on = "going on: " if num_missing else ""
        log.info("%s%d of %d responses of %s are there", going_on, total - num_missing, total, name)
    if num_missing:
        with tqdm(
            total=total,
            initial=total - num_missing,
            desc=f"sampling {name}",
            unit="response",
            disable=not world.is_main,
        ) as bar:
            known |= _write(generator, name, prompt_groups, missing, predictions, world, bar)
    return _used(name, keys, known, settings, predictions)


def _different(decoding: Decoding, settings: EvaluationSettings) -> int:
    """How many responses to a prompt may differ."""
    return min(settings.n_samples, 1) if decoding.temperature == 0 else settings.n_samples


def _missing(
    decoding: Decoding, made_by: Sequence[str], known: Mapping[Key, Written], n_samples: int
) -> Missing:
    """The draws that are not there; groups that ask the same are asked once."""
    firsts = {key: prompt for prompt, key in reversed(list(enumerate(made_by)))}
    numbers = range(1 if decoding.temperature == 0 else n_samples)
    draws = [Draw(prompt, n) for key, prompt in firsts.items() for n in numbers if (key, n) not in known]
    return Missing(decoding, sorted(draws))


def _write(
    generator: Generator,
    name: str,
    prompt_groups: Sequence[Group],
    missing: Sequence[Missing],
    predictions: Predictions,
    world: World,
    bar: tqdm,
) -> dict[Key, Written]:
    """Write what is missing, this rank its share; what all ranks wrote."""
    settings = predictions.settings
    made: list[Prediction] = []
    problem = ""
    for decoding, draws in missing:
        if not draws:
            continue

        def done(draw: Draw, written: Written, decoding: Decoding = decoding) -> None:
            group = prompt_groups[draw.prompt]
            text = written.text
            if settings.few_shot:
                text = text.split(END_OF_AN_ANSWER)[0]
            of_group = (name, decoding.name, draw.number, group.id, group.dataset, group.prompt)
            response = (text, written.finish, written.tokens, settings.seed, settings.max_new_tokens)
            made.append(Prediction(*of_group, *response, predictions.made_by(name, group, decoding)))
            predictions.append(made[-1])
            bar.update(min(world.size, bar.total - bar.n))

        try:
            generator.write(prompt_groups, _share(draws, world), decoding, settings.seed, done)
        except UserError as error:
            problem = str(error)
            break
    parts = ranks.gathered((problem, made), world)
    everything = [prediction for _, of_rank in parts for prediction in of_rank]
    predictions.adopt(everything)
    problem = next((said for said, _ in parts if said), "")
    if problem:
        raise UserError(problem)
    return {prediction.key: prediction.written for prediction in everything}


def _share(draws: Sequence[Draw], world: World) -> list[Draw]:
    """This rank's draws: all of a prompt go to one rank, which encodes it once."""
    prompts = sorted({draw.prompt for draw in draws})
    own = set(prompts[world.rank :: world.size])
    return [draw for draw in draws if draw.prompt in own]


def _used(
    name: str,
    keys: Mapping[Decoding, Sequence[str]],
    known: Mapping[Key, Written],
    settings: EvaluationSettings,
    predictions: Predictions,
) -> Responses:
    """The responses that were asked for, of all that are known. Raises UserError where all are empty."""
    written: dict[str, list[list[Written]]] = {}
    numbers = range(settings.n_samples)
    for decoding, made_by in keys.items():
        first = 0 if decoding.temperature == 0 else 1  # of greedy ones, all numbers are number 0
        written[decoding.name] = [[known[key, number * first] for number in numbers] for key in made_by]
        predictions.use(name, [(key, number) for key in made_by for number in numbers])
    texts = [response.text for of_decoding in written.values() for some in of_decoding for response in some]
    if texts and not any(text.strip() for text in texts):
        raise UserError(
            f"ckpt {name}: all {len(texts)} responses are empty, the model ends at once; see that its chat "
            "template and end tokens fit the prompts, or set n_samples=0 for its probabilities alone"
        )
    return written
