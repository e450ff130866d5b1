"""Engine `vllm`: a checkpoint's folder in vLLM, through its Python API.

Contract: prompts are token ids of our own encoding and responses are decoded here, so the engines differ in
who computes alone. Nothing is inherited from the model's generation_config.json but the tokens that end a
response. A response is a function of (seed, prompt, number), as far as vLLM's kernels are.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import groups
import models
from generation.record import Decoding, Draw, OnWritten, Written
from groups import Group, Limits
from settings import ModelSettings
from utils import UserError, log

if TYPE_CHECKING:  # optional
    from vllm import RequestOutput, SamplingParams

DRAWS_AT_ONCE = 512  # that one call hands to vLLM: so many may be lost by a kill
INHERITED = ("eos_token_id", "bos_token_id", "pad_token_id", "transformers_version", "_from_model_config")


def check_vllm() -> None:
    """Raises UserError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "generator=vllm: vLLM is not installed; run: pip install -r requirements-vllm.txt, or set "
            "generator=hf"
        )


class VllmGenerator:
    """A model in vLLM.

    folder: of the model, with its tokenizer unless `model` names another. num_gpus: to shard it over. Raises
    UserError where vLLM is not there, or does not take the model.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        model: ModelSettings,
        limits: Limits,
        max_new_tokens: int,
        num_gpus: int = 1,
    ):
        check_vllm()
        self.name, self.folder, self.model = name, folder, model
        self.limits, self.max_new_tokens = limits, max_new_tokens
        source = model.tokenizer_name_or_path or str(folder)
        self.tokenizer = models.load_tokenizer(source, model.trust_remote_code)
        self.ends = ends_of(folder, groups.stop_ids(self.tokenizer))
        from vllm import LLM

        try:
            self.llm = LLM(
                model=str(folder),
                skip_tokenizer_init=True,
                trust_remote_code=model.trust_remote_code,
                tensor_parallel_size=num_gpus,
                dtype=model.compute_dtype,
                generation_config="vllm",
            )
        except (ValueError, RuntimeError, OSError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UserError(f"generator=vllm: {folder} is not taken ({reason}); set generator=hf") from error

    def identity(self) -> Mapping[str, object]:
        """The files that vLLM reads, the tokens that end a response, limits, precision, versions."""
        return {
            "engine": "vllm",
            "files": _digests(self.folder),
            "tokenizer": groups.tokenizer_identity(self.tokenizer),
            "ends": self.ends,
            "limits": list(self.limits),
            "dtype": self.model.compute_dtype,
            **models.versions(),
            "vllm": importlib.metadata.version("vllm"),
        }

    def write(
        self, prompts: Sequence[Group], draws: Sequence[Draw], decoding: Decoding, seed: int, done: OnWritten
    ) -> None:
        """Write all draws. Raises UserError for a prompt that leaves no room, before any is written."""
        wanted = sorted({draw.prompt for draw in draws})
        ids = {i: groups.prompt_ids(self.tokenizer, prompts[i], self.limits) for i in wanted}
        self._check_lengths(max(map(len, ids.values()), default=0))
        for first in range(0, len(draws), DRAWS_AT_ONCE):
            some = draws[first : first + DRAWS_AT_ONCE]
            params = [self._params(ids[draw.prompt], draw.number, decoding, seed) for draw in some]
            tokens = [{"prompt_token_ids": list(ids[draw.prompt])} for draw in some]
            for draw, output in zip(some, self.llm.generate(tokens, params, use_tqdm=False), strict=True):
                done(draw, self._written(output))

    def _check_lengths(self, longest: int) -> None:
        limit = self.llm.llm_engine.model_config.max_model_len
        if longest + self.max_new_tokens > limit:
            raise UserError(
                f"config key max_prompt_length: a prompt with max_new_tokens={self.max_new_tokens} takes "
                f"{longest + self.max_new_tokens} tokens, but vLLM takes {limit}; set it to "
                f"{max(1, limit - self.max_new_tokens)} or less"
            )

    def _params(self, prompt: Sequence[int], number: int, decoding: Decoding, seed: int) -> SamplingParams:
        """From the whole distribution, at the temperature, with a seed of the draw's own."""
        from vllm import SamplingParams

        return SamplingParams(
            temperature=decoding.temperature,
            top_p=1.0,
            top_k=-1,
            min_p=0.0,
            repetition_penalty=1.0,
            seed=seed_of(seed, prompt, number),
            max_tokens=self.max_new_tokens,
            stop_token_ids=self.ends,
            detokenize=False,
        )

    def _written(self, output: RequestOutput) -> Written:
        (completion,) = output.outputs
        ids = list(completion.token_ids)
        kept = next((i for i, token in enumerate(ids) if token in self.ends), len(ids))
        text = self.tokenizer.decode(ids[:kept], skip_special_tokens=True)
        return Written(text, "length" if completion.finish_reason == "length" else "stop", len(ids))

    def close(self) -> None:
        """Free the model's memory."""
        del self.llm
        gc.collect()


def seed_of(seed: int, prompt: Sequence[int], number: int) -> int:
    """The seed of one draw: the same on every machine, another one for every prompt and number."""
    text = json.dumps([seed, list(prompt), number])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1


def ends_of(folder: Path, known: Sequence[int]) -> list[int]:
    """Every token that ends a response: those that are known, then those that the model's files name."""
    ends = list(known)
    for file in ("generation_config.json", "config.json"):
        values = _read(folder / file)
        named = values.get("eos_token_id")
        ends += named if isinstance(named, list) else [named]
        ignored = sorted(set(values) - set(INHERITED)) if file == "generation_config.json" else []
        if ignored:
            log.info("%s: %s of generation_config.json are ignored", folder, ", ".join(ignored))
    return [end for end in dict.fromkeys(ends) if isinstance(end, int)]


def _read(path: Path) -> Mapping[str, object]:
    """The values of a JSON file; none where there is no such file. Raises UserError where it is none."""
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read; fetch or save the model again") from error
    return values if isinstance(values, dict) else {}


def _digests(folder: Path) -> dict[str, str]:
    """A hash of every file of a model's folder that says what it computes."""
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".safetensors", ".bin", ".json"):
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    return digests
