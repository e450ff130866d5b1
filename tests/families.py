"""One tiny model of every family that the docs name, and of those that do something of their own."""

from __future__ import annotations

import torch
import transformers
from helpers import byte_tokenizer
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    Glm4MoeConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OlmoeConfig,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

import models

TRANSFORMERS = tuple(int(part) for part in transformers.__version__.split(".")[:2])
VOCAB = 259  # of the byte tokenizer
TINY = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "tie_word_embeddings": False,
}
GROUPED = {**TINY, "num_key_value_heads": 2, "head_dim": 8}
MIXTURE = {**GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def family_config(name: str) -> PretrainedConfig:
    """A config of the family, small enough to train in a test."""
    return {
        "llama": lambda: LlamaConfig(**GROUPED),
        "mistral": lambda: MistralConfig(**GROUPED, sliding_window=None),
        "qwen2": lambda: Qwen2Config(**GROUPED),
        "qwen3": lambda: Qwen3Config(**GROUPED),
        "phi3": lambda: Phi3Config(**{**GROUPED, "sliding_window": None}),
        "gpt_neox": lambda: GPTNeoXConfig(**TINY, hidden_dropout=0.0, attention_dropout=0.0),
        "gpt2": lambda: GPT2Config(
            vocab_size=VOCAB,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=512,
            bos_token_id=257,
            eos_token_id=257,
        ),
        "gptj": lambda: GPTJConfig(
            vocab_size=VOCAB,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=512,
            rotary_dim=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=257,
            eos_token_id=257,
        ),
        "opt": lambda: OPTConfig(**{**TINY, "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}),
        # heads and scores that are scaled or capped
        "gemma2": lambda: Gemma2Config(
            **GROUPED, query_pre_attn_scalar=8, sliding_window=512, final_logit_softcapping=1.5
        ),
        "gemma3": lambda: Gemma3TextConfig(**{**GROUPED, "tie_word_embeddings": True}, sliding_window=512),
        "granite": lambda: GraniteConfig(**GROUPED, logits_scaling=6.0, attention_multiplier=0.2),
        "cohere": lambda: CohereConfig(**GROUPED, logit_scale=0.3),
        # mixtures of experts, attention sinks, buffers that are weights
        "mixtral": lambda: MixtralConfig(
            **{**GROUPED, "num_experts_per_tok": 2}, num_local_experts=4, sliding_window=None
        ),
        "olmoe": lambda: OlmoeConfig(**{**MIXTURE, "num_experts": 4}),
        "qwen3_moe": lambda: Qwen3MoeConfig(**MIXTURE, num_experts=4, decoder_sparse_step=1),
        "glm4_moe": lambda: Glm4MoeConfig(
            **MIXTURE, n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1
        ),
        "gpt_oss": lambda: GptOssConfig(
            **{**GROUPED, "num_experts_per_tok": 2}, num_local_experts=4, sliding_window=512
        ),
    }[name]()


FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "gpt_neox",
    "gpt2",
    *(["gptj"] if TRANSFORMERS >= (5, 24) else []),  # its attention could not be replaced before
    "opt",
    "gemma2",
    "gemma3",
    "granite",
    "cohere",
    "mixtral",
    "olmoe",
    "qwen3_moe",
    "glm4_moe",
    "gpt_oss",
)


def family_model(name, seed=0):
    """A random model of a family in which every weight and buffer counts."""
    torch.manual_seed(seed)
    models.register_attention()
    model = AutoModelForCausalLM.from_config(family_config(name), attn_implementation=models.SEGMENTS)
    with torch.no_grad():
        for weight in models.Scorer(model, models.SEGMENTS).named_weights().values():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


def save_family(folder, name):
    """An HF folder of a family's tiny model; its path as a string."""
    family_model(name).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)
