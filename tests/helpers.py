"""What most tests need: tiny fakes of models and of a tokenizer, composed configs, and what a run wrote."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

import evaluate
import models
from ranks import World

ROOT = Path(__file__).parent.parent
DEVICE = torch.device("cpu")
CPU = World(0, 1, DEVICE, None)
Tensors = Mapping[str, torch.Tensor]
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}  # for commands
EOS, PAD = 257, 258  # of the byte tokenizer

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

# --- tiny models --------------------------------------------------------------------------------------------


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
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)} | {"<bos>": 256, "<eos>": 257, "<pad>": 258}
    raw = Tokenizer(BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def save_tiny(folder: Path | str, family: str = "llama", seed: int = 0, **changes) -> str:
    """Write a tiny HF folder with its tokenizer; return the folder as a string."""
    tiny_policy(family, seed, **changes).model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


# --- configs and commands -----------------------------------------------------------------------------------


def compose(*overrides: str, name: str = "config") -> DictConfig:
    """The config that a door gets with these overrides. name: a file of config/, without its suffix."""
    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
        return hydra.compose(name, overrides=list(overrides))


def evaluation(*overrides: str) -> None:
    """Evaluate in this process."""
    evaluate.main(compose(*overrides, name="evaluate"))


def run_of(folder: Path, model: str, **changes: Any) -> Path:
    """A run folder with one checkpoint, as training leaves it. changes: of its config."""
    config = OmegaConf.to_container(compose("loss=dpo", f"model.name_or_path={model}"), resolve=True)
    step = folder / "step-000001"
    tiny_policy(seed=1).model.save_pretrained(step)
    byte_tokenizer().save_pretrained(step)
    (folder / "best").symlink_to("step-000001")
    OmegaConf.save(OmegaConf.create({**config, **changes}), folder / "config.yaml")
    return folder


def command(*arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess:
    """Run a command in the project's folder, on the CPU; it must end with this exit code."""
    done = subprocess.run(
        arguments,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **ON_CPU, **env},
        timeout=300,
    )
    assert done.returncode == code, done.stdout[-1500:] + done.stderr[-3000:]
    return done


# --- what a run wrote ---------------------------------------------------------------------------------------


def json_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines(run: Path) -> list[dict[str, Any]]:
    """The metrics that a run logged, a dict a line."""
    return json_lines(run / "metrics.jsonl")


def training_lines(run: Path) -> list[dict[str, Any]]:
    """The metrics of training steps, without those of validations."""
    return [line for line in lines(run) if "loss/train" in line]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a run's latest checkpoint, from all of their files."""
    return tensors_of((run / "latest").glob("model*.safetensors"))


def tensors_of(paths) -> dict[str, torch.Tensor]:
    """The tensors of several safetensors files."""
    tensors = {}
    for path in paths:
        tensors |= load_file(path)
    return tensors


def audit_of(run: Path) -> dict[str, Any]:
    """A run's data audit: by data set, then by split."""
    return json.loads((run / "data_audit.json").read_text())


def state_of(run: Path) -> dict[str, Any]:
    """What the latest checkpoint remembers of its run."""
    return json.loads((run / "latest" / "trainer_state" / "state.json").read_text())


def assert_equal(ours: Tensors, theirs: Tensors) -> None:
    """The same names, and the same bits."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def assert_close(ours: Tensors, theirs: Tensors, atol: float) -> None:
    """The same names, and values within `atol` (and a relative 1e-5)."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=atol), name
