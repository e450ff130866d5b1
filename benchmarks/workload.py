"""What the benchmarks share: options, the workload of examples and tokens, the loss, the model on its device.

Contract: every system is told the same options and gets the same prompts, pairs and cut texts from here. Nothing is imported
at the top that takes time, and what the peer calls needs torch, numpy and transformers alone.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import UserError, keep_freed_memory, seed_everything  # noqa: E402

PAIRS = ("best_vs_worst", "best_vs_random", "best_vs_rest", "all")
DTYPES = {
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "mixed": ("float32", "bfloat16"),
}  # weights, passes
SHAPES = {  # width, width of the MLP, layers, heads, key-value heads, vocabulary, one matrix for embedding and head
    "llama-tiny": (64, 128, 2, 4, 2, 512, True),
    "llama-1b": (2048, 8192, 16, 32, 8, 128256, True),
    "llama-3b": (3072, 8192, 28, 24, 8, 128256, True),
    "llama-8b": (4096, 14336, 32, 32, 8, 128256, False),
}
SHAPE_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
)
RANDOM = "random"
EMBEDDED_MODEL = "embedded:smollm2-135m-instruct"


# --- options ---------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Options whose mistakes are one line, as everywhere in this project."""

    def __init__(self, doc: str):
        super().__init__(
            description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> None:
        raise UserError(f"{self.prog}: {message}; --help lists the options")


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def not_negative(text: str) -> int:
    """A whole number of 0 or more."""
    return 0 if text == "0" else positive(text)


def positives(text: str) -> list[int]:
    """Whole numbers of 1 or more, separated by commas."""
    return [positive(part) for part in text.split(",")]


def add_data_options(parser: Parser) -> None:
    """What every system is told, so that all see the same tokens and do the same work a step."""
    parser.add_argument(
        "--data",
        required=True,
        help="a .jsonl or .parquet file of ranked responses, or another data set's name",
    )
    parser.add_argument("--prompts", type=positive, default=16)
    parser.add_argument(
        "--responses", type=positive, default=4, help="of each prompt; prompts with fewer are left out"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=8, help="examples (pairs) of one optimizer step"
    )
    parser.add_argument(
        "--max-length",
        type=positive,
        default=256,
        help="tokens of a prompt (a third) with a response (the rest)",
    )
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument(
        "--warmup-steps", type=not_negative, default=0, help="untimed optimizer steps before the timed ones"
    )


def add_model_options(parser: Parser) -> None:
    parser.add_argument(
        "--model", default=EMBEDDED_MODEL, help="an HF folder, a hub name or an embedded model"
    )
    parser.add_argument(
        "--random-shape",
        choices=sorted(SHAPES),
        help="random weights of this Llama shape, made on the device; --model then gives the tokenizer alone",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="float32", help="mixed: float32 weights, bfloat16 passes"
    )
    parser.add_argument("--attention", choices=("auto", "segments", "sdpa", "flex_attention"), default="auto")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile every transformer block; give warm-up steps"
    )
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument(
        "--max-tokens",
        type=positive,
        default=1024,
        help="tokens of one forward pass (not in modes padded and plain)",
    )
    parser.add_argument(
        "--row-tokens", type=positive, help="fill rows up to this length; as train.py chooses where absent"
    )
    parser.add_argument("--seed", type=not_negative, default=0)


# --- the workload ----------------------------------------------------------------------------------------------------


def read_groups(name: str, num_prompts: int, num_responses: int) -> list:
    """The first prompts that have so many responses, each with its first `num_responses`, best first.

    Equal rewards are told apart by position, so that every system makes the same pairs. Groups with pairs or beliefs of
    their own are taken whole. Raises UserError where no prompt is left.
    """
    import preference_datasets as data

    groups = data.load_groups(
        name,
        "all" if Path(name).suffix in (".json", ".jsonl", ".parquet") or Path(name).exists() else "train",
    )
    groups = [
        g if g.pairs else g._replace(responses=_ranked(g.responses[:num_responses]))
        for g in groups
        if g.pairs or len(g.responses) >= num_responses
    ][:num_prompts]
    if not groups:
        raise UserError(f"--data {name}: no prompt has {num_responses} responses; lower --responses")
    return groups


def _ranked(responses: Sequence) -> tuple:
    if any(r.reward is None for r in responses):
        return tuple(responses)
    ordered = sorted(responses, key=lambda r: -r.reward)
    return tuple(r._replace(reward=r.reward - 1e-6 * place) for place, r in enumerate(ordered))


def cut_groups(groups: Sequence, tokenizer, max_length: int) -> list:
    """Cut texts before any system sees them: prompts to a third of `max_length` tokens, responses to the rest less an EOS."""

    def cut(text: str, count: int) -> str:
        return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:count])

    room = max_length // 3
    return [
        g._replace(
            prompt=cut(g.prompt, room) if isinstance(g.prompt, str) else g.prompt,
            responses=tuple(r._replace(text=cut(r.text, max_length - room - 1)) for r in g.responses),
        )
        for g in groups
    ]


def text_trees(groups: Sequence, examples: Sequence, tokenizer, max_length: int) -> list:
    """Token trees of the cut texts: the one place where this benchmark meets the project's tokenization."""
    import preference_datasets as data

    limit = (
        None if all(isinstance(g.prompt, str) for g in groups) else max_length // 3
    )  # chats are cut as tokens
    return data.tokenize(
        cut_groups(groups, tokenizer, max_length),
        examples,
        tokenizer,
        data.Limits(max_length, limit, "keep_start"),
    )


def random_groups(num_prompts: int, num_responses: int) -> list:
    """Groups without text, of descending rewards: what a view needs where the tokens are random."""
    import preference_datasets as data

    rewards = [float(num_responses - k) for k in range(num_responses)]
    return [
        data.Group(str(i), "", tuple(data.Response("", r) for r in rewards), where=f"--data {RANDOM}")
        for i in range(num_prompts)
    ]


def random_trees(groups: Sequence, examples: Sequence, max_length: int, vocab_size: int, seed: int) -> list:
    """Trees of random ids: prompts of a third of `max_length` tokens, responses of half to all of the rest."""
    import numpy as np

    import forest

    rng, room = np.random.default_rng(seed), max_length - max_length // 3

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, vocab_size, count).tolist())

    texts = [
        (draw(max_length // 3), [draw(int(rng.integers(room // 2, room + 1))) for _ in g.responses])
        for g in groups
    ]
    return [
        forest.TokenTree(
            texts[e.group][0],
            (),
            tuple(() if c is None else texts[e.group][1][c] for c in e.columns),
            e.rewards,
            group=e.group,
        )
        for e in examples
    ]


def bound_loss(name: str, overrides: Sequence[str]) -> tuple[Callable, Any, str]:
    """The loss with its file's keys and `overrides` (key=value), what it needs of the data, and its file's view."""
    import hydra
    from omegaconf import OmegaConf

    import losses

    folder = ROOT / "config"
    if not (folder / "loss" / f"{name}.yaml").is_file():
        raise UserError(
            f"--loss {name}: no such loss; choose one of {', '.join(sorted(p.stem for p in (folder / 'loss').glob('*.yaml')))}"
        )
    if bad := next((text for text in overrides if "=" not in text), None):
        raise UserError(f"--loss-key {bad}: no value; write --loss-key {bad}=VALUE")
    with hydra.initialize_config_dir(str(folder), version_base=None):
        config = hydra.compose(
            "config", overrides=[f"loss={name}", *(f"++loss.{text}" for text in overrides)]
        )
    keys = OmegaConf.to_container(config.loss, resolve=True)
    kind = keys.pop("name")
    try:
        losses.bind(kind, keys)
    except ValueError as error:
        raise UserError(str(error)) from error
    return functools.partial(losses.LOSSES[kind], **keys), losses.needs(kind, keys), config.responses


def check_trees(trees: Sequence, needs, args: argparse.Namespace, view: str) -> None:
    """Raises UserError where the view's examples lack what the loss reads, or one is larger than a pack."""
    import forest

    if not trees:
        raise UserError(
            f"--data {args.data}: no example is left under --view {view}; give data whose rewards differ"
        )
    if needs.beliefs and not all(t.belief and t.class_probs for t in trees):
        raise UserError(
            f"--view {view}: {args.loss} needs a shared belief and belief_probs; give --view conditioned and "
            "--data opinions/republican"
        )
    fits = {
        "any": lambda t: True,
        "side": lambda t: len(t.answers) == 2,
        "pair": lambda t: len(t.answers) == 2 and all(t.answers),
        "several": lambda t: len(t.answers) > 1 and all(t.answers),
    }[needs.columns]
    if not all(map(fits, trees)):
        what, remedy = {
            "pair": ("two responses", "pairs"),
            "side": ("single responses or pairs", "binary"),
            "several": ("several responses", "ranked"),
        }[needs.columns]
        remedy = (
            {"pair": "conditioned", "several": "conditioned.all"}[needs.columns] if needs.beliefs else remedy
        )
        raise UserError(f"--view {view}: {args.loss} compares {what}; give --view {remedy}")
    if needs.rewards and not all(t.rewards for t in trees):
        raise UserError(
            f"--view {view}: {args.loss} needs rewards, and this view carries none; give --view ranked and data with rewards"
        )
    largest = max(forest.tree_tokens([t], args.mode == "shared") for t in trees)
    if args.mode not in ("padded", "plain") and largest > args.max_tokens:
        raise UserError(
            f"--max-tokens {args.max_tokens}: the largest example has {largest} tokens; raise it or lower --max-length"
        )


# --- the model -------------------------------------------------------------------------------------------------------


def open_device(args: argparse.Namespace):
    """The device to compute on, with threads, seed and allocator set as train.py has them."""
    import torch

    torch.set_num_threads(args.threads)
    seed_everything(args.seed)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; give --device cpu")
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    return device


def open_policy(args: argparse.Namespace, device):
    """The policy: `--model`, or random weights of a Llama shape made on the device."""
    import models

    weights, passes = DTYPES[args.dtype]
    policy = (
        random_policy(args.random_shape, weights, passes, args.attention, device)
        if args.random_shape
        else models.load_policy(args.model, weights, args.attention, device, compute_dtype=passes)
    )
    if args.activation_checkpointing:
        models.gradient_checkpointing(policy)
    if args.compile:
        for block in models.blocks(policy.model):
            block.compile()
    return policy


def random_policy(shape: str, weights: str, passes: str, attention: str, device):
    """A Llama of `shape` with freshly initialised weights, as `models.load_policy` would wrap it."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    import models

    attention = models.choose_attention(attention, device)
    config = LlamaConfig(**dict(zip(SHAPE_KEYS, SHAPES[shape])), max_position_embeddings=131072)
    with device:
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, weights), attn_implementation=attention
        )
    return models.Scorer(model.eval(), attention, getattr(torch, passes))


def choose_row_tokens(args: argparse.Namespace, attention: str) -> int:
    """As train.py: long rows cost flex_attention nothing; a dense mask makes them dear."""
    return args.row_tokens or (256 if attention == "sdpa" else args.max_tokens)
