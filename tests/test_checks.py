"""May this model be packed? The parity probe and the limits of length."""

import pytest
import torch
from helpers import tiny_policy
from tree_strategies import random_trees

import models
from utils import UserError


def test_a_short_sliding_window_or_too_few_positions_are_refused():
    policy = tiny_policy()
    models.check_lengths(policy, 512)
    with pytest.raises(UserError, match="takes 513 tokens, but the model has positions for 512"):
        models.check_lengths(policy, 513)
    policy.model.config.sliding_window = 16
    with pytest.raises(UserError, match="sees a sliding window of 16"):
        models.check_lengths(policy, 17)


def test_parity_probe_passes_these_models_and_names_one_that_mixes_branches():
    policy, ts = tiny_policy(), random_trees(3, 3)
    assert models.parity_probe(policy, ts, 0, share=True) < 1e-3
    leaky = tiny_policy()
    leaky.model.base_model.rotary_emb.register_forward_pre_hook(
        lambda m, args, kwargs: ((args[0],), {"position_ids": torch.arange(args[0].shape[1])[None]}),
        with_kwargs=True,
    )
    with pytest.raises(UserError, match="LlamaForCausalLM scores a packed forest differently"):
        models.parity_probe(leaky, ts, 0, share=True)
