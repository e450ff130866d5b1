"""A language small enough to know all about: its prompts, all its responses, and a model of two layers.

Contract: groups of text go the way of real data (view, tokens, forest, score, loss); what the model believes
is summed over every response there is, never sampled. A prompt is a row of one pack, so a step is one pass
over all prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import forest
from forest import ForestBatch, TokenTree
from losses import LOSSES, Scores
from models import Scorer, score
from preference_datasets import Example, Group, Limits, tokenize, view

PAD, EOS = "<pad>", "<eos>"
LIMITS = Limits(max_length=64, max_prompt_length=None)
Loss = Callable[[Scores], torch.Tensor]  # (N,) losses


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token a word; words stand between spaces."""
    vocab = {word: number for number, word in enumerate((PAD, EOS, *words))}
    raw = Tokenizer(models.WordLevel(vocab, unk_token=PAD))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=PAD, eos_token=EOS)


def new_policy(words: PreTrainedTokenizerFast, width: int, seed: int) -> Scorer:
    """A transformer of two layers with random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LIMITS.max_length,
    )
    return Scorer(LlamaForCausalLM._from_config(config, attn_implementation="sdpa"), "sdpa")


# --- data ---------------------------------------------------------------------------------------------------


def seen_by(groups: Sequence[Group], responses: str, words: PreTrainedTokenizerFast) -> ForestBatch:
    """All groups, as a view of config key `responses` has them, in one pack."""
    return one_pack(tokenize(groups, view(groups, responses), words, LIMITS))


def weighted(groups: Sequence[Group], weights: np.ndarray, words: PreTrainedTokenizerFast) -> ForestBatch:
    """Every response as an example of its own with a weight (P, R); those of weight 0 are left out."""
    examples = []
    for number, of_group in enumerate(weights.tolist()):
        examples += [Example(number, (r,), False, weight=w) for r, w in enumerate(of_group) if w > 0]
    return one_pack(tokenize(groups, examples, words, LIMITS))


def whole_space(groups: Sequence[Group], words: PreTrainedTokenizerFast) -> ForestBatch:
    """Every prompt with all of its responses as answers, in the group's order."""
    examples = [Example(number, tuple(range(len(g.responses))), False) for number, g in enumerate(groups)]
    return one_pack(tokenize(groups, examples, words, LIMITS))


def one_pack(trees: Sequence[TokenTree]) -> ForestBatch:
    """All trees in one pack; those of one prompt share a row, and there its tokens."""
    rows: dict[int, list[int]] = {}
    for number, tree in enumerate(trees):
        rows.setdefault(tree.group, []).append(number)
    return forest.pack(trees, list(rows.values()), pad_id=0)


# --- training -----------------------------------------------------------------------------------------------


def loss_named(name: str, **keys: float | str) -> Loss:
    """A loss of `losses.LOSSES` with its keys."""
    return lambda scores: LOSSES[name](scores, **keys)


def likelihood(scores: Scores) -> torch.Tensor:
    """-log pi(y | x), the sum over the response's tokens: maximum likelihood. Returns (N,)."""
    return -scores.policy[:, 0]


def fit(
    policy: Scorer,
    batch: ForestBatch,
    loss: Loss,
    lr: float,
    steps: int,
    look_at: Collection[int] = (),
    look: Callable[[], None] = lambda: None,
) -> None:
    """Adam on all examples in every step, its rate falling from `lr` to 0 on a line.

    The reference is the policy as it comes. `look` is called after the steps of `look_at`; 0: before the
    first.
    """
    with torch.no_grad():
        batch = batch._replace(reference=score(policy, batch).policy)
    optimizer = torch.optim.Adam(policy.parameters(), lr)
    weight = batch.weight / batch.weight.sum()
    for step in range(steps + 1):
        if step in look_at:
            look()
        if step < steps:
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            (loss(score(policy, batch)) * weight).sum().backward()
            optimizer.step()
            optimizer.zero_grad()


# --- looking ------------------------------------------------------------------------------------------------


@torch.no_grad()
def log_shares(policy: Scorer, space: ForestBatch) -> tuple[np.ndarray, float]:
    """(P, R): the log of each prompt's distribution over its responses; and their mean mass together.

    Exact: a sum over all responses of the space, normalised over it.
    """
    logps = score(policy, space).policy.double()
    return logps.log_softmax(-1).numpy(), float(logps.logsumexp(-1).exp().mean())
