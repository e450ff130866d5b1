"""Checks of a model: may it be packed, and does it see the longest example?"""

import pytest
import torch
from helpers import tiny_policy
from tree_helpers import random_trees

import models
from utils import UserError


def count_positions(module, args, kwargs):
    """A rotary embedding's hook that forgets the positions it is given and counts along the row."""
    return (args[0],), {"position_ids": torch.arange(args[0].shape[1])[None]}


def test_parity_probe_passes_these_models_and_names_one_that_mixes_branches():
    policy, trees = tiny_policy(), random_trees(3, 3)
    assert models.parity_probe(policy, trees, 0, share=True) < 1e-3
    leaky = tiny_policy()
    leaky.model.base_model.rotary_emb.register_forward_pre_hook(count_positions, with_kwargs=True)
    with pytest.raises(UserError, match="LlamaForCausalLM scores a packed forest differently"):
        models.parity_probe(leaky, trees, 0, share=True)


def test_a_short_sliding_window_or_too_few_positions_are_refused():
    policy = tiny_policy()
    models.check_lengths(policy, 512)
    with pytest.raises(UserError, match="takes 513 tokens, but the model has positions for 512"):
        models.check_lengths(policy, 513)
    policy.model.config.sliding_window = 16
    with pytest.raises(UserError, match="sees a sliding window of 16"):
        models.check_lengths(policy, 17)
