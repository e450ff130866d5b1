"""Checks of a model: may it be packed, and does it see the longest example?"""

import pytest
import torch
from families import family_model
from helpers import tiny_policy
from tree_helpers import random_trees

import forest
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


# --- what the probe must see --------------------------------------------------------------------------------


def family_policy(family, **settings):
    """A policy of a family, its own dtype or one that is given."""
    model = family_model(family)
    if settings.pop("low", False):
        model = model.to(torch.bfloat16)
    return models.Scorer(model, models.SEGMENTS, **settings)


PRECISIONS = [{}, {"compute_dtype": torch.bfloat16}, {"low": True, "compute_dtype": torch.bfloat16}]


@pytest.mark.parametrize("settings", PRECISIONS)
@pytest.mark.parametrize("family", ["granite", "cohere", "gemma2"])
def test_a_head_that_is_not_known_is_noticed(family, settings):
    policy = family_policy(family, **settings)
    models.parity_probe(policy, random_trees(3, 4), 0, share=True)
    policy.logit_shape = models.LogitShape()
    with pytest.raises(UserError, match="scores a packed forest differently"):
        models.parity_probe(policy, random_trees(3, 4), 0, share=True)


def test_a_head_of_another_name_is_named(monkeypatch):
    monkeypatch.setattr(models.checks, "DIVISORS", ())  # as if it were none that is known
    policy = family_policy("granite")
    policy.logit_shape = models.LogitShape()
    with pytest.raises(UserError, match="a head that it scales: logits_scaling"):
        models.parity_probe(policy, random_trees(3, 4), 0, share=True)


@pytest.mark.parametrize("settings", PRECISIONS)
def test_a_wrong_mask_is_noticed_in_every_precision(settings):
    policy = family_policy("llama", **settings)
    models.parity_probe(policy, random_trees(3, 3), 0, share=True)
    policy.model.base_model.rotary_emb.register_forward_pre_hook(count_positions, with_kwargs=True)
    with pytest.raises(UserError, match="scores a packed forest differently"):
        models.parity_probe(policy, random_trees(3, 3), 0, share=True)


@pytest.mark.parametrize("settings", PRECISIONS)
@pytest.mark.parametrize("family,left_out", [("gpt_oss", "sinks"), ("gemma2", "softcap")])
def test_scores_that_are_left_out_are_noticed(family, left_out, settings, monkeypatch):
    extra = models.attention.Extra
    monkeypatch.setattr(
        models.attention, "Extra", lambda *values: extra(*values)._replace(**{left_out: None})
    )
    policy = family_policy(family, **settings)
    for module in policy.model.modules():  # scores that matter
        if hasattr(module, "sinks"):
            module.sinks.data.add_(2.0)
        if hasattr(module, "q_proj"):
            module.q_proj.weight.data.mul_(20)
    policy.model.config.attn_logit_softcapping = 5.0
    with pytest.raises(UserError, match="scores a packed forest differently"):
        models.parity_probe(policy, random_trees(3, 4), 0, share=True)


@pytest.mark.parametrize("name", ["position_bias", "sparse_indices", "another_bias"])
@pytest.mark.parametrize("packed", [True, False])
def test_attention_refuses_what_it_does_not_know(name, packed):
    states = [torch.randn(1, 2, 3, 4) for _ in range(3)]
    segments = [[models.attention.MaskedSegment(3, (), None)]] if packed else None
    known = {"s_aux": None, "softcap": None, "sliding_window": 8, "position_ids": None, name: None}
    models.attention.segment_attention(torch.nn.Identity(), *states, None, forest_segments=segments, **known)
    with pytest.raises(UserError, match=f"its attention asks for {name}"):
        known[name] = torch.zeros(1)
        models.attention.segment_attention(
            torch.nn.Identity(), *states, None, forest_segments=segments, **known
        )


def test_a_model_that_fails_on_a_forest_is_one_line():
    policy = tiny_policy()
    policy.model.base_model.layers[0].register_forward_pre_hook(lambda *a: 1 / 0)
    with pytest.raises(UserError, match="LlamaForCausalLM: cannot score a packed forest .division by zero"):
        models.parity_probe(policy, random_trees(3, 3), 0, share=True)


def test_token_ids_and_positions_are_checked_before_any_pass():
    policy = tiny_policy(max_position_embeddings=32)
    policy.forward = None
    tree = forest.TokenTree((1, 2), (), ((3, 258),))
    models.check_trees(policy, [tree], 259)
    models.check_trees(policy, [tree], 400)  # a tokenizer may know more tokens than the data has
    with pytest.raises(UserError, match="gives token id 259, but the model knows 259 tokens"):
        models.check_trees(policy, [tree._replace(answers=((3, 259),))], 400)
    with pytest.raises(UserError, match="takes 33 tokens, but the model has positions for 32"):
        models.check_trees(policy, [tree._replace(answers=((3,) * 31,))], 259)
    models.check_prompts(policy, [(1,) * 20, (2,)], (5,), 12)
    with pytest.raises(
        UserError, match="max_new_tokens=13: 1 of 2 prompts leave no room; the longest takes 20 tokens"
    ):
        models.check_prompts(policy, [(1,) * 20, (2,)], (5,), 13)
    for prompts, classes in (([(1, 300)], ()), ([(1,)], (300,))):
        with pytest.raises(UserError, match="gives token id 300"):
            models.check_prompts(policy, prompts, classes, 1)
