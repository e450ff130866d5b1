"""May this model be packed? Checks of its layers, of its lengths, and of its numbers.

Contract: a model that needs more than a mask and positions is refused with its name, never scored wrongly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

import forest
from models.errors import first_line
from models.head import CAPS, DIVISORS, FACTORS
from models.scorer import Scorer, device_of, token_logps
from utils import UserError

# a token's log-prob may differ by so much of its logits' spread: root mean square over a response
ROUNDING = 1e-3
ROUNDING_OF_BF16 = 0.05
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


def check_layers(model: nn.Module, source: str) -> None:
    """Refuse models whose layers carry state from row to row: they would mix the branches of a tree."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or [])
    stateful = {k for k in kinds if "attention" not in k or "linear" in k}
    if stateful or getattr(model, "_is_stateful", False):
        names = ", ".join(sorted(stateful)) or "recurrent"
        raise UserError(
            f"model {source}: layers that carry state ({names}) cannot be trained on a forest; "
            "use an attention model"
        )


def check_trees(policy: Scorer, trees: Sequence[forest.TokenTree], num_tokens: int) -> None:
    """Raises UserError where an example is none that this model can take: before any pass, which would fail
    in the middle of a kernel.

    num_tokens: of the tokenizer; its ids are looked at only where it has more than the model.
    """
    check_lengths(policy, int(forest.column(trees, "path_tokens").max()))
    rows = vocabulary_of(policy)
    if num_tokens > rows:
        _check_id(int(forest.column(trees, "largest_id").max()), rows)


def check_prompts(
    policy: Scorer, prompts: Sequence[forest.Ids], class_ids: forest.Ids, max_new_tokens: int
) -> None:
    """As `check_trees`, of prompts that are continued by up to `max_new_tokens` (0: they are only read)."""
    _check_limits(max(map(len, prompts)), windows_of(policy), "max_prompt_length", "a prompt")
    check_room(policy, prompts, max_new_tokens)
    _check_id(max(class_ids, default=0), vocabulary_of(policy))


def check_room(policy: Scorer, prompts: Sequence[forest.Ids], max_new_tokens: int) -> None:
    """Raises UserError where a prompt holds a token that the model does not know, or has no room for
    `max_new_tokens` before the model's last position.
    """
    longest = max(map(len, prompts))
    for limit in _positions(policy).values():
        if limit and longest + max_new_tokens > limit:
            count = sum(len(prompt) + max_new_tokens > limit for prompt in prompts)
            some = f"{count} of {len(prompts)} prompts"
            raise UserError(
                f"config key max_new_tokens={max_new_tokens}: {some} leave no room; "
                f"the longest takes {longest} tokens, but the model has positions for {limit}; "
                f"set {_to_make_room(limit, longest, max_new_tokens)}"
            )
    _check_id(max(map(max, prompts)), vocabulary_of(policy))


def _to_make_room(limit: int, longest: int, max_new_tokens: int) -> str:
    """What to set so that every prompt and response fit into the positions."""
    fitting = []
    if longest < limit:
        fitting.append(f"max_new_tokens={limit - longest} or less")
    if max_new_tokens < limit:
        fitting.append(f"max_prompt_length={limit - max_new_tokens} or less")
    return ", or ".join(fitting) or "both max_new_tokens and max_prompt_length to less"


def vocabulary_of(policy: Scorer) -> int:
    """How many token ids the model knows: the rows of its embedding, or of its head where they are fewer.

    Raises UserError for a model without either.
    """
    layers = (policy.model.get_input_embeddings(), policy.model.get_output_embeddings())
    weights = [getattr(layer, "weight", None) for layer in layers]
    if any(weight is None for weight in weights):
        raise UserError(
            f"model {type(policy.model).__name__}: has no embedding or no head of its own; use another model"
        )
    return min(len(weight) for weight in weights)


def _check_id(token: int, rows: int) -> None:
    if token >= rows:
        raise UserError(
            f"tokenizer: gives token id {token}, but the model knows {rows} tokens; set "
            "model.tokenizer_name_or_path to the tokenizer that belongs to it"
        )


def check_lengths(policy: Scorer, longest: int) -> None:
    """Raises UserError where the longest path (tokens) exceeds the model's positions or its sliding window.

    A forest hands every layer one mask, so a window must never be shorter than a path.
    """
    limits = {**windows_of(policy), **_positions(policy)}
    _check_limits(longest, limits, "max_length", "a prompt with its response")


def _check_limits(
    longest: int, limits: dict[str, int | None], key: str, what: str, reserved: int = 0
) -> None:
    """reserved: of the tokens, those that the key has no say in."""
    for does, limit in limits.items():
        if limit and longest > limit:
            raise UserError(
                f"config key {key}: {what} takes {longest} tokens, but the model {does} {limit}; "
                f"set {key}={max(limit - reserved, 1)} or less"
            )


def windows_of(policy: Scorer) -> dict[str, int | None]:
    """How far the model's layers look back: in words, with the number of tokens."""
    config = policy.model.config.get_text_config()
    slides = getattr(config, "use_sliding_window", True)
    is_local = "local" in (getattr(config, "attention_layers", None) or ())
    return {
        "sees a sliding window of": getattr(config, "sliding_window", None) if slides else None,
        "attends within chunks of": getattr(config, "attention_chunk_size", None),
        "has layers that see a window of": getattr(config, "window_size", None) if is_local else None,
    }


def most_tokens(policy: Scorer) -> float:
    """The longest path, in tokens, that the model takes; infinite where nothing limits it."""
    limits = [*windows_of(policy).values(), *_positions(policy).values()]
    return min((limit for limit in limits if limit), default=math.inf)


def _positions(policy: Scorer) -> dict[str, int | None]:
    config = policy.model.config.get_text_config()
    numbers = [getattr(config, name, None) for name in POSITIONS]
    return {"has positions for": next((n for n in numbers if isinstance(n, int) and n > 0), None)}


# --- the parity probe ---------------------------------------------------------------------------------------


class TokenLogps(NamedTuple):
    """The log-probs of one answer's tokens in a plain pass, and how far the logits there spread."""

    logps: torch.Tensor  # (T,) in nats
    spread: float  # root mean square over the tokens of the logits' standard deviation


@torch.no_grad()
def parity_probe(policy: Scorer, trees: Sequence[forest.TokenTree], pad_id: int, share: bool) -> float:
    """Score the trees packed and one by one; return the largest difference of an answer's log-prob, in nats.

    Two answers of each are enough, the longest among them: their branches stand side by side under one
    prompt. One by one they go through the model's own forward with its own attention and head. Token by token
    the two may differ by rounding, which is a small part of what the logits spread; a wrong mask, position,
    scale or head is more. Raises UserError naming the model where they differ by more: such a model must not
    be packed.
    """
    trees = [two_longest(tree) for tree in trees]
    with _full_precision(policy):
        try:
            packed = packed_logps(policy, trees, [list(range(len(trees)))], pad_id, share)
            with own_attention(policy):
                plain = [one_by_one(policy, tree) for tree in trees]
        except UserError:
            raise
        except Exception as error:  # a model's code fails in its own ways on what it cannot take
            problem = f"cannot score a packed forest ({first_line(error)})"
            remedy = "use another model, or set attention=sdpa"
            raise UserError(f"model {type(policy.model).__name__}: {problem}; {remedy}") from error
        tolerance = tolerance_of(policy)
    worst = 0.0
    for of_packed, of_plain in zip(sum(packed, []), sum(plain, [])):
        difference = of_packed - of_plain.logps
        error = difference.square().mean().sqrt().item()
        if not error <= tolerance * of_plain.spread:  # not a number fails too
            raise UserError(_unlike(policy, of_packed, of_plain.logps, share))
        worst = max(worst, difference.sum().abs().item())
    return worst


@contextmanager
def _full_precision(policy: Scorer) -> Iterator[None]:
    """Passes in fp32, where they need not be in a lower precision: rounding hides less.

    FSDP2 hands out weights as it was told, so a sharded policy stays as it is. Low weights are widened for
    the time, which loses nothing.
    """
    if isinstance(policy, FSDPModule):
        yield
        return
    tensors = [*policy.parameters(), *policy.buffers()]
    low = {tensor: tensor.dtype for tensor in tensors if tensor.dtype in (torch.bfloat16, torch.float16)}
    casts, compute_dtype = policy.casts, policy.compute_dtype
    policy.casts, policy.compute_dtype = False, torch.float32
    try:
        for tensor in low:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in low.items():
            tensor.data = tensor.data.to(dtype)
        policy.casts, policy.compute_dtype = casts, compute_dtype


def tolerance_of(policy: Scorer) -> float:
    """What rounding may change in a token's log-prob, as a share of what the logits spread."""
    dtypes = {policy.compute_dtype, next(policy.parameters()).dtype}
    return ROUNDING if dtypes == {torch.float32} else ROUNDING_OF_BF16


def _unlike(policy: Scorer, packed: torch.Tensor, plain: torch.Tensor, share: bool) -> str:
    """What is said of a model that must not be packed."""
    remedy = "set share_prefixes=false" if share else "use another model or attention=sdpa"
    config = policy.model.config.get_text_config().to_dict()
    known = {*FACTORS, *DIVISORS, *CAPS}
    of_heads = [
        key for key in config if re.search("logit|lm_head", key) and not re.search("router|attn", key)
    ]
    scales = [key for key in of_heads if key not in known]
    of_head = f" (or a head that it scales: {', '.join(scales)})" if scales else ""
    return (
        f"model {type(policy.model).__name__} scores a packed forest differently from single responses "
        f"({packed.sum():.4f} against {plain.sum():.4f} nats over {len(plain)} tokens), so its layers need "
        f"more than a mask and positions{of_head}: {remedy}"
    )


@torch.no_grad()
def packed_logps(
    policy: Scorer, trees: Sequence[forest.TokenTree], rows: forest.Pack, pad_id: int, share: bool
) -> list[list[torch.Tensor]]:
    """The log-probs (T,) of every answer's tokens, on the CPU, of trees that fill the rows in their order."""
    batch = forest.pack(trees, rows, pad_id, share).to(device_of(policy))
    logps = token_logps(policy, batch)
    spans = batch.span.tolist()
    of_trees = []
    for row, tree in zip(spans, trees):
        of_trees.append([logps[batch.owner == span].cpu() for span in row[: len(tree.answers)]])
    return of_trees


@contextmanager
def own_attention(policy: Scorer) -> Iterator[None]:
    """The attention that came with the model in the place of ours."""
    before = policy.model.config._attn_implementation
    if not policy.model._can_set_attn_implementation():
        yield  # its attention is its own always
        return
    policy.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        policy.model.set_attn_implementation(before)


def two_longest(tree: forest.TokenTree) -> forest.TokenTree:
    """The tree with its two longest answers alone."""
    answers = sorted(filter(None, tree.answers), key=len)
    return tree._replace(answers=tuple(answers[-2:]), rewards=(), reference=())


@torch.no_grad()
def one_by_one(policy: Scorer, tree: forest.TokenTree) -> list[TokenLogps]:
    """The tokens of an example's answers by plain causal passes, one response each: the yardstick."""
    device = device_of(policy)
    answers = []
    for answer in filter(None, tree.answers):
        ids = torch.tensor([[*tree.prompt, *tree.belief, *answer]], device=device)
        logits = policy(ids)[0, -len(answer) - 1 : -1].float()
        logps = logits.log_softmax(-1).gather(1, ids[0, -len(answer) :, None])[:, 0]
        spread = logits.var(-1).mean().sqrt().item()
        answers.append(TokenLogps(logps.cpu(), spread))
    return answers


def score_one_by_one(policy: Scorer, tree: forest.TokenTree) -> list[float]:
    """Answer log-probs (nats) of an example by plain causal passes; 0 where it has no such answer."""
    scored = iter(one_by_one(policy, tree))
    return [next(scored).logps.sum().item() if answer else 0.0 for answer in tree.answers]
