"""Tiny fakes: models of three families made on the spot, and a tokenizer whose tokens are bytes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

import models
from ranks import World

ROOT = Path(__file__).parent.parent
CPU = World(0, 1, torch.device("cpu"), None)
LOSSES = ("sft", "dpo", "kto", "swepo", "gdpo")
VOCAB = 259  # 256 bytes, bos, eos, pad
CONFIGS = {
    "llama": LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCAB,
        max_position_embeddings=512,
    ),
    "gpt_neox": GPTNeoXConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=VOCAB,
        max_position_embeddings=512,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    ),
    "gpt2": GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=VOCAB, n_positions=512, bos_token_id=257, eos_token_id=257
    ),
}


def tiny_policy(
    family: str = "llama", seed: int = 0, attention: str = "segments", **changes
) -> models.Scorer:
    """A random model of a family, wide enough in its weights that log-probs differ between tokens."""
    torch.manual_seed(seed)
    config = copy.deepcopy(CONFIGS[family])
    config.update(changes)
    models.register_attention()
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return models.Scorer(model.eval(), attention)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token; 256 is BOS (not added by itself), 257 EOS, 258 padding."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)} | {"<bos>": 256, "<eos>": 257, "<pad>": 258}
    raw = Tokenizer(BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def save_tiny(folder, family: str = "llama", seed: int = 0, **changes):
    """Write a tiny HF folder with its tokenizer; return the folder as a string."""
    tiny_policy(family, seed, **changes).model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def compose(*overrides: str, entry: str = "config") -> DictConfig:
    """The config of an entry point, as its command line would make it."""
    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
        return hydra.compose(entry, overrides=list(overrides))


def lines(run: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's newest checkpoint."""
    tensors = {}
    for path in (run / "latest").glob("model*.safetensors"):
        tensors |= load_file(path)
    return tensors


QUICK = [
    "datasets=[opinions/republican]",
    "n_eval_examples=16",
    "pairs_per_prompt=2",
    "batch_size=8",
    "n_examples=24",
    "eval_every=1000",
    "lr=1e-3",
    "warmup_steps=0",
    "max_length=256",
    "log_every_seconds=0.0001",
    "wandb.enabled=false",
]
