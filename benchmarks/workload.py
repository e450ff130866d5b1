"""What the benchmarks work on: examples and their tokens, the loss, the model on its device.

Contract: every system is told the same options and gets the same prompts, pairs and cut texts from here. What
the peer calls needs torch, numpy and transformers alone.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from options import BY_ROWS, DTYPES, RANDOM, ROOT, SHAPE_KEYS, SHAPES
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerBase

import forest
import losses
import models
import preference_datasets as data
from ranks import seed_everything
from utils import UserError, keep_freed_memory

# --- examples and tokens ------------------------------------------------------------------------------------


def make_groups(args: argparse.Namespace) -> list[data.Group]:
    """The groups that the options ask for, of text or without."""
    if args.data == RANDOM:
        return random_groups(args.prompts, args.responses)
    return read_groups(args.data, args.prompts, args.responses)


def read_groups(name: str, num_prompts: int, num_responses: int) -> list[data.Group]:
    """The first prompts that have so many responses, each with its first `num_responses`, best first.

    Equal rewards are told apart by position, so that every system makes the same pairs. Groups with pairs or
    beliefs of their own are taken whole. Raises UserError where no prompt is left.
    """
    is_file = Path(name).suffix in (".json", ".jsonl", ".parquet") or Path(name).exists()
    chosen = []
    for group in data.load_groups(name, "all" if is_file else "train"):
        if group.pairs:
            chosen.append(group)
        elif len(group.responses) >= num_responses:
            chosen.append(group._replace(responses=_ranked(group.responses[:num_responses])))
    if not chosen:
        raise UserError(f"--data {name}: no prompt has {num_responses} responses; lower --responses")
    return chosen[:num_prompts]


def _ranked(responses: Sequence[data.Response]) -> tuple[data.Response, ...]:
    """Best first, no two rewards equal; as they are where one has no reward."""
    if any(response.reward is None for response in responses):
        return tuple(responses)
    ordered = sorted(responses, key=lambda response: -response.reward)
    return tuple(r._replace(reward=r.reward - 1e-5 * place) for place, r in enumerate(ordered))


def cut_groups(
    groups: Sequence[data.Group], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[data.Group]:
    """Cut texts before any system sees them: prompts to a third of `max_length` tokens, responses to the rest
    less an EOS.
    """
    room = max_length // 3

    def cut(text: str, count: int) -> str:
        return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:count])

    shorter = []
    for group in groups:
        prompt = cut(group.prompt, room) if isinstance(group.prompt, str) else group.prompt
        responses = tuple(r._replace(text=cut(r.text, max_length - room - 1)) for r in group.responses)
        shorter.append(group._replace(prompt=prompt, responses=responses))
    return shorter


def make_trees(
    groups: Sequence[data.Group],
    examples: Sequence[data.Example],
    tokenizer: PreTrainedTokenizerBase | None,
    policy: models.Scorer,
    args: argparse.Namespace,
) -> list[forest.TokenTree]:
    """Token trees of the texts, or of random ids where there is no tokenizer."""
    if tokenizer is not None:
        return text_trees(groups, examples, tokenizer, args.max_length)
    vocab_size = policy.model.config.get_text_config().vocab_size
    return random_trees(groups, examples, args.max_length, vocab_size, args.seed)


def text_trees(
    groups: Sequence[data.Group],
    examples: Sequence[data.Example],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> list[forest.TokenTree]:
    """Token trees of the cut texts: the one place where this benchmark meets the project's tokenization."""
    are_texts = all(isinstance(group.prompt, str) for group in groups)
    prompt_limit = None if are_texts else max_length // 3  # chats are cut as tokens
    limits = data.Limits(max_length, prompt_limit, "keep_start")
    return data.tokenize(cut_groups(groups, tokenizer, max_length), examples, tokenizer, limits)


def random_groups(num_prompts: int, num_responses: int) -> list[data.Group]:
    """Groups without text, of descending rewards: what a view needs where the tokens are random."""
    rewards = [float(num_responses - k) for k in range(num_responses)]
    responses = tuple(data.Response("", reward) for reward in rewards)
    return [data.Group(str(i), "", responses, where=f"--data {RANDOM}") for i in range(num_prompts)]


def random_trees(
    groups: Sequence[data.Group],
    examples: Sequence[data.Example],
    max_length: int,
    vocab_size: int,
    seed: int,
) -> list[forest.TokenTree]:
    """Trees of random ids: prompts of a third of `max_length` tokens, responses of half to all the rest."""
    rng = np.random.default_rng(seed)
    room = max_length - max_length // 3

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, vocab_size, count).tolist())

    texts = []
    for group in groups:
        prompt = draw(max_length // 3)
        texts.append((prompt, [draw(int(rng.integers(room // 2, room + 1))) for _ in group.responses]))
    trees = []
    for example in examples:
        prompt, responses = texts[example.group]
        answers = tuple(() if column is None else responses[column] for column in example.columns)
        trees.append(forest.TokenTree(prompt, (), answers, example.rewards, group=example.group))
    return trees


# --- the loss -----------------------------------------------------------------------------------------------


def bound_loss(name: str, overrides: Sequence[str]) -> tuple[Callable, losses.Needs, str]:
    """A loss with the keys of its file in config/loss and `overrides` (KEY=VALUE) over them.

    Also gives what the loss needs of the data, and its file's view. Raises UserError for a name, a key or a
    value that is none.
    """
    import hydra  # the peer's environment has none
    from omegaconf import OmegaConf

    folder = ROOT / "config"
    if not (folder / "loss" / f"{name}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in (folder / "loss").glob("*.yaml")))
        raise UserError(f"--loss {name}: no such loss; choose one of {known}")
    for text in overrides:
        if "=" not in text:
            raise UserError(f"--loss-key {text}: no value; write --loss-key {text}=VALUE")
    with hydra.initialize_config_dir(str(folder), version_base=None):
        of_loss = [f"++loss.{text}" for text in overrides]
        config = hydra.compose("config", overrides=[f"loss={name}", *of_loss])
    keys = OmegaConf.to_container(config.loss, resolve=True)
    kind = keys.pop("name")
    try:
        losses.bind(kind, keys)
    except ValueError as error:
        raise UserError(str(error)) from error
    return functools.partial(losses.loss_of(kind), **keys), losses.needs(kind, keys), config.responses


COMPARED = {  # by what a loss declares
    "pair": "two responses",
    "side": "single responses or pairs",
    "several": "several responses",
}


def check_trees(
    trees: Sequence[forest.TokenTree], needs: losses.Needs, args: argparse.Namespace, view: str
) -> None:
    """Raises UserError where the view's examples lack what the loss reads, or one is larger than a pack."""
    if not trees:
        problem = f"no example is left under --view {view}"
        raise UserError(f"--data {args.data}: {problem}; give data whose rewards differ")
    if needs.beliefs and not all(tree.belief and tree.class_probs for tree in trees):
        raise UserError(
            f"--view {view}: {args.loss} needs a shared belief and belief_probs; give --view conditioned and "
            "--data opinions/republican"
        )
    if not all(_has_columns(tree, needs.columns) for tree in trees):
        what = COMPARED[needs.columns]
        raise UserError(f"--view {view}: {args.loss} compares {what}; give --view {needs.responses}")
    if needs.rewards and not all(tree.rewards for tree in trees):
        problem = f"{args.loss} needs rewards, and this view carries none"
        raise UserError(f"--view {view}: {problem}; give --view ranked and data with rewards")
    largest = max(forest.tree_tokens([tree], args.mode == "shared") for tree in trees)
    if args.mode not in BY_ROWS and largest > args.max_tokens:
        problem = f"the largest example has {largest} tokens"
        raise UserError(f"--max-tokens {args.max_tokens}: {problem}; raise it or lower --max-length")


def _has_columns(tree: forest.TokenTree, wanted: str) -> bool:
    """Does an example have the columns that a loss reads?"""
    count = len(tree.answers)
    whole = all(tree.answers)
    if wanted == "side":
        return count == 2
    if wanted == "pair":
        return count == 2 and whole
    if wanted == "several":
        return count > 1 and whole
    return True


# --- the model ----------------------------------------------------------------------------------------------


def open_device(args: argparse.Namespace) -> torch.device:
    """The device to compute on, with threads, seed and allocator set as train.py has them."""
    torch.set_num_threads(args.threads)
    seed_everything(args.seed)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; give --device cpu")
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    return device


def open_policy(args: argparse.Namespace, device: torch.device) -> models.Scorer:
    """The policy: `--model`, or random weights of a Llama shape made on the device."""
    weights, passes = DTYPES[args.dtype]
    spec = models.PolicySpec(args.model, dtype=weights, compute_dtype=passes, attention=args.attention)
    if args.random_shape:
        policy = random_policy(args.random_shape, spec, device)
    else:
        policy = models.load_policy(spec, device)
    if args.activation_checkpointing:
        models.gradient_checkpointing(policy)
    if args.compile:
        for block in models.blocks(policy.model):
            block.compile()
    return policy


def random_policy(shape: str, spec: models.PolicySpec, device: torch.device) -> models.Scorer:
    """A Llama of `shape` with freshly initialised weights, as `models.load_policy` would wrap it."""
    models.register_attention()
    attention = models.choose_attention(spec.attention, device)
    config = LlamaConfig(**dict(zip(SHAPE_KEYS, SHAPES[shape])), max_position_embeddings=131072)
    weights = getattr(torch, spec.dtype)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=weights, attn_implementation=attention)
    return models.Scorer(model.eval(), attention, getattr(torch, spec.compute_dtype))


def choose_row_tokens(args: argparse.Namespace, attention: str) -> int:
    """As train.py: long rows cost flex_attention nothing; a dense mask makes them dear."""
    return args.row_tokens or (256 if attention == "sdpa" else args.max_tokens)
