"""Models: make a policy, ask it, and know what it costs; the only rooms that know transformers and FSDP2.

Contract: `make_policy(spec, world, sharded)` gives a `Scorer`, and `score(policy, batch)` the tables that
losses see. Constants that a test may want to change stand in their rooms: `models.head.CHUNK_BYTES`,
`models.embedded.EMBEDDED_MODELS`.
"""

from models.adapters import adapter_dropout, add_adapters, reset_adapters
from models.agreement import Probe, world_that_agrees
from models.attention import SEGMENTS, attention_mask, choose_attention, register_attention, segment_masks
from models.checks import (
    check_lengths,
    check_prompts,
    check_room,
    check_trees,
    parity_probe,
    score_one_by_one,
)
from models.cost import PassBytes, forward_flops, matmul_rate, pass_bytes
from models.draws import Finish, Sampling
from models.embedded import EMBEDDED, check_name, embedded_model, resolve_name
from models.generation import Draw, OnSample, end_ids, generate, generate_draws, ignored_settings
from models.head import LogitShape, LogProbs, Reads
from models.identity import identity
from models.loading import load_archive, load_folder, load_policy, load_tokenizer, load_weights
from models.making import empty_policy, make_policy
from models.quantized import is_quantized, whole
from models.scorer import CacheProbe, Scorer, class_distributions, device_of, score, versions
from models.sharding import blocks, compile_blocks, gradient_checkpointing, shard
from models.spec import Lora, PolicySpec, spec_of
from models.weights import fingerprint, keeps_names, local_part, refuse_strangers

__all__ = [
    "CacheProbe",
    "Draw",
    "EMBEDDED",
    "Finish",
    "LogProbs",
    "LogitShape",
    "Lora",
    "OnSample",
    "PassBytes",
    "PolicySpec",
    "Probe",
    "Reads",
    "SEGMENTS",
    "Sampling",
    "Scorer",
    "adapter_dropout",
    "add_adapters",
    "attention_mask",
    "blocks",
    "check_lengths",
    "check_name",
    "check_prompts",
    "check_room",
    "check_trees",
    "choose_attention",
    "class_distributions",
    "compile_blocks",
    "device_of",
    "embedded_model",
    "empty_policy",
    "fingerprint",
    "forward_flops",
    "end_ids",
    "generate",
    "generate_draws",
    "identity",
    "ignored_settings",
    "gradient_checkpointing",
    "is_quantized",
    "keeps_names",
    "load_archive",
    "load_folder",
    "load_policy",
    "load_tokenizer",
    "load_weights",
    "local_part",
    "make_policy",
    "matmul_rate",
    "parity_probe",
    "pass_bytes",
    "refuse_strangers",
    "register_attention",
    "reset_adapters",
    "resolve_name",
    "score",
    "score_one_by_one",
    "segment_masks",
    "shard",
    "spec_of",
    "versions",
    "whole",
    "world_that_agrees",
]
