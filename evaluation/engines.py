"""Which engine answers for a checkpoint: our own sampler, vLLM, or a server.

Contract: an engine is opened for one checkpoint and closed again, so that one model's memory is held at a
time. What cannot be opened is a UserError.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import chat
import models
from evaluation.checkpoints import Checkpoint
from evaluation.policies import Loaded, limits_of, load
from generation import Generator
from generation.local import LocalGenerator
from generation.served import ServedGenerator
from generation.served_by_vllm import VllmGenerator, check_vllm
from ranks import World
from settings import EvaluationSettings
from utils import UserError, log


def check_engines(checkpoints: Sequence[Checkpoint], settings: EvaluationSettings) -> None:
    """Raises UserError where an engine that is needed is not there, as far as no model tells: the server's
    key, the package, settings that do not go together.
    """
    served = [checkpoint for checkpoint in checkpoints if checkpoint.served is not None]
    if served:
        chat.endpoint_of(settings.api)
    if settings.shard and len(served) == len(checkpoints):
        raise UserError("shard=true: no model is loaded here, a server answers; set shard=false")
    if settings.generator == "vllm" and len(served) < len(checkpoints):
        check_vllm()
        if settings.shard:
            raise UserError("shard=true: vLLM shards by itself, over nproc GPUs; set shard=false")
        for checkpoint in checkpoints:
            if Path(checkpoint.source).is_file():
                raise UserError(
                    f"ckpt {checkpoint.source}: vLLM takes a folder of a model, and this is a file; "
                    "set generator=hf"
                )


def with_weights(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those that can score given responses: a server tells no log-probs of them."""
    for checkpoint in checkpoints:
        if checkpoint.served is not None:
            log.info(
                "%s: a server gives no log-probs of given responses, so none are scored", checkpoint.name
            )
    return [checkpoint for checkpoint in checkpoints if checkpoint.served is None]


def processes_of(checkpoints: Sequence[Checkpoint], settings: EvaluationSettings) -> int | None:
    """How many processes to start, as `nproc` says it: one where none would load a model, or vLLM starts its
    own.
    """
    is_all_served = all(checkpoint.served is not None for checkpoint in checkpoints)
    return 1 if is_all_served or settings.generator == "vllm" else settings.nproc


@contextlib.contextmanager
def open_generator(
    checkpoint: Checkpoint, settings: EvaluationSettings, world: World, loaded: Loaded | None = None
) -> Iterator[Generator]:
    """The generator of a checkpoint, closed afterwards. A call for all ranks.

    loaded: its policy and tokenizer, where they are loaded already; of no use to a server or vLLM. Raises
    UserError for what cannot be loaded.
    """
    generator = _generator(checkpoint, settings, world, loaded)
    try:
        yield generator
    finally:
        generator.close()


def _generator(
    checkpoint: Checkpoint, settings: EvaluationSettings, world: World, loaded: Loaded | None
) -> Generator:
    if checkpoint.served is not None:
        return served_generator(checkpoint, settings, world)
    if settings.generator == "vllm":
        return VllmGenerator(
            checkpoint.name,
            folder_of(checkpoint),
            checkpoint.model,
            limits_of(settings),
            settings.max_new_tokens,
            num_gpus=settings.nproc or 1,
        )
    policy, tokenizer = loaded or load(checkpoint, world, settings.shard)
    return LocalGenerator(
        policy,
        tokenizer,
        limits_of(settings),
        settings.max_new_tokens,
        batch_size=settings.batch_size,
        name=checkpoint.name,
    )


def served_generator(
    checkpoint: Checkpoint, settings: EvaluationSettings, world: World, store: chat.Store | None = None
) -> ServedGenerator:
    """The generator of a model that a server has; ranks share the requests that may be under way at once.

    store: of replies, see `ServedGenerator`.
    """
    endpoint = chat.endpoint_of(settings.api)
    own_share = max(1, endpoint.concurrency // world.size)
    endpoint = dataclasses.replace(endpoint, concurrency=own_share)
    return ServedGenerator(endpoint, checkpoint.served, settings.max_new_tokens, store)


def folder_of(checkpoint: Checkpoint) -> Path:
    """The local folder of a checkpoint's model; that of a hub name is fetched."""
    source = Path(models.resolve_name(checkpoint.source))
    if source.is_dir():
        return source
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(checkpoint.source, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"ckpt {checkpoint.source}: cannot be fetched ({reason}); give a local folder"
        ) from error
