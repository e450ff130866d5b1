"""How to make a policy, as plain values: what the doors fill from a config and nothing below them changes.

Contract: two equal specs make equal policies on any number of ranks.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from settings import ModelSettings


class Lora(NamedTuple):
    """Low-rank adapters beside frozen layers (LoRA, arXiv 2106.09685)."""

    rank: int
    alpha: float  # adapters are scaled by alpha / rank
    targets: str | list[str]  # names of layers, or "all-linear": every linear layer
    seed: int  # of their first values
    dropout: float = 0.0  # share of an adapter's inputs that a training pass leaves out
    quantize: str | None = None  # nf4 or fp4: the frozen model in 4 bits; None: as it is


class PolicySpec(NamedTuple):
    """Which weights, in which precision, and what is applied to the model from outside.

    name_or_path: an HF folder, a hub name or `embedded:smollm2-135m-instruct`; archive: weights to load over
    it, an HF folder or a `policy.pt` of the DPO or GDPO repository ({"state": ...}).
    """

    name_or_path: str
    archive: str | None = None
    dtype: str = "float32"  # of the weights
    compute_dtype: str = "float32"  # of the passes; counts where the weights are float32
    attention: str = "auto"  # auto, sdpa, segments or flex_attention
    trust_remote_code: bool = False  # True runs code that comes with the model
    block_name: str | None = None  # class of the transformer blocks; None: they are looked for
    activation_checkpointing: bool = False  # recompute each block in the backward pass
    cpu_offload: bool = False  # a sharded policy's weights rest on the CPU
    lora: Lora | None = None  # None: all weights are trained

    @property
    def model_name(self) -> str:
        """The model to read: an archive that is a folder is a whole model, with its config and tokenizer."""
        return self.archive if self.archive and Path(self.archive).is_dir() else self.name_or_path

    @property
    def archive_file(self) -> Path | None:
        """The file of weights that is loaded over the model; None where the archive is none or a folder."""
        if not self.archive or Path(self.archive).is_dir():
            return None
        return Path(self.archive)


def spec_of(model: ModelSettings, archive: str | None) -> PolicySpec:
    """The spec of a file of config/model/, with the archive that was found for it."""
    return PolicySpec(
        name_or_path=model.name_or_path,
        archive=archive,
        dtype=model.policy_dtype,
        compute_dtype=model.compute_dtype,
        trust_remote_code=model.trust_remote_code,
        block_name=model.block_name,
    )
