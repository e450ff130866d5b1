"""A checkpoint's policy and tokenizer, and the token limits of what they are asked.

Contract: policies are loaded for scoring and sampling alone; nothing here trains.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

import groups
import models
from evaluation.checkpoints import Checkpoint
from ranks import World
from settings import EvaluationSettings


def load(checkpoint: Checkpoint, world: World, shard: bool) -> tuple[models.Scorer, PreTrainedTokenizerBase]:
    """(policy, tokenizer) of a checkpoint, whole on every rank, or sharded over the ranks where there are
    several. Raises UserError for what cannot be loaded.
    """
    model = checkpoint.model
    is_file = Path(checkpoint.source).is_file()
    name = model.name_or_path if is_file else checkpoint.source
    tokenizer = models.load_tokenizer(model.tokenizer_name_or_path or name, model.trust_remote_code)
    spec = models.PolicySpec(
        name_or_path=name,
        archive=checkpoint.source if is_file else None,
        dtype=model.policy_dtype,
        compute_dtype=model.compute_dtype,
        # flex_attention is for training: generation has no forest
        attention="sdpa" if world.device.type == "cuda" else "auto",
        trust_remote_code=model.trust_remote_code,
    )
    return models.make_policy(spec, world, sharded=shard and world.mesh is not None), tokenizer


def limits_of(settings: EvaluationSettings) -> groups.Limits:
    """The token limits of prompts and responses, with room for the shots before a prompt."""
    return groups.limits_with_shots(
        settings.max_length, settings.max_prompt_length, settings.truncation, settings.few_shot
    )
