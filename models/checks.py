"""May this model be packed? Checks of its layers, of its lengths, and of its numbers.

Contract: a model that needs more than a mask and positions is refused with its name, never scored wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

import forest
from models.scorer import Scorer, device_of, score
from utils import UserError


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


def check_lengths(policy: Scorer, longest: int) -> None:
    """Raises UserError where the longest path (tokens) exceeds the model's positions or its sliding window.

    A forest hands every layer one mask, so a window must never be shorter than a path.
    """
    config = policy.model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    limits = {
        "sees a sliding window of": window,
        "has positions for": getattr(config, "max_position_embeddings", None),
    }
    for what, limit in limits.items():
        if limit and longest > limit:
            raise UserError(
                f"config key max_length: a prompt with its response takes {longest} tokens, "
                f"but the model {what} {limit}; set max_length={limit} or less"
            )


@torch.no_grad()
def parity_probe(policy: Scorer, trees: Sequence[forest.TokenTree], pad_id: int, share: bool) -> float:
    """Score the trees packed and one by one; return the largest difference of an answer's log-prob, in nats.

    Two answers of each are enough, the longest among them: their branches stand side by side under one
    prompt. Raises UserError naming the model where they differ by more than rounding explains: such a model
    must not be packed.
    """
    trees = [_two_longest(tree) for tree in trees]
    batch = forest.pack(trees, [list(range(len(trees)))], pad_id, share).to(device_of(policy))
    rows = score(policy, batch).policy.tolist()
    low_precision = policy.compute_dtype != torch.float32 or next(policy.parameters()).dtype != torch.float32
    worst = 0.0
    for row, tree in zip(rows, trees):
        for value, plain in zip(row, score_one_by_one(policy, tree)):
            tolerance = 0.02 * abs(plain) + 0.5 if low_precision else 1e-4 * abs(plain) + 2e-3
            if not abs(value - plain) <= tolerance:  # not a number fails too
                remedy = "set share_prefixes=false" if share else "use another model or attention=sdpa"
                raise UserError(
                    f"model {type(policy.model).__name__} scores a packed forest differently from single "
                    f"responses ({value:.4f} against {plain:.4f} nats), so its layers need more than a mask "
                    f"and positions: {remedy}"
                )
            worst = max(worst, abs(value - plain))
    return worst


def _two_longest(tree: forest.TokenTree) -> forest.TokenTree:
    answers = sorted(filter(None, tree.answers), key=len)
    return tree._replace(answers=tuple(answers[-2:]), rewards=(), reference=())


@torch.no_grad()
def score_one_by_one(policy: Scorer, tree: forest.TokenTree) -> list[float]:
    """Answer log-probs (nats) of an example by plain causal passes, one response each: the yardstick."""
    device = device_of(policy)
    sums = []
    for answer in tree.answers:
        if not answer:
            sums.append(0.0)
            continue
        ids = torch.tensor([[*tree.prompt, *tree.belief, *answer]], device=device)
        logits = policy(ids)[0, -len(answer) - 1 : -1].float()
        logps = logits.log_softmax(-1).gather(1, ids[0, -len(answer) :, None])
        sums.append(logps.sum().item())
    return sums
