"""A checkpoint's policy and tokenizer, and the token limits of what they are asked.

Contract: policies are loaded for scoring and sampling alone; nothing here trains. A folder that is damaged is
a UserError that names it.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

import groups
import models
from evaluation.checkpoints import Checkpoint
from ranks import World
from settings import EvaluationSettings
from utils import UserError

Loaded = tuple[models.Scorer, PreTrainedTokenizerBase]
# what transformers and safetensors raise where a file of a model's folder is cut, empty or of another kind
DAMAGE = (SafetensorError, OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError)


def load(checkpoint: Checkpoint, world: World, shard: bool) -> Loaded:
    """(policy, tokenizer) of a checkpoint, whole on every rank, or sharded over the ranks where there are
    several. Raises UserError for what cannot be loaded.
    """
    try:
        return _load(checkpoint, world, shard)
    except Exception as error:
        # tokenizers raises plain Exceptions; whatever else is not named here is a fault of ours
        if isinstance(error, UserError) or not (isinstance(error, DAMAGE) or type(error) is Exception):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"ckpt {checkpoint.source}: is damaged, or holds no model ({reason}); fetch or save it again"
        ) from error


def _load(checkpoint: Checkpoint, world: World, shard: bool) -> Loaded:
    model = checkpoint.model
    is_file = Path(checkpoint.source).is_file()
    name = model.name_or_path if is_file else checkpoint.source
    tokenizer = models.load_tokenizer(model.tokenizer_name_or_path or name, model.trust_remote_code)
    spec = models.PolicySpec(
        name_or_path=name,
        archive=checkpoint.source if is_file else None,
        dtype=model.policy_dtype,
        compute_dtype=model.compute_dtype,
        attention=models.SEGMENTS,  # flex_attention is for training: generation has no forest
        trust_remote_code=model.trust_remote_code,
    )
    world = models.world_that_agrees(spec, world)
    return models.make_policy(spec, world, sharded=shard and world.mesh is not None), tokenizer


def limits_of(settings: EvaluationSettings) -> groups.Limits:
    """The token limits of prompts and responses, with room for the shots before a prompt."""
    limits = groups.Limits(
        settings.max_length, settings.max_prompt_length, settings.truncation, settings.add_bos
    )
    return limits.with_shots(settings.few_shot)
