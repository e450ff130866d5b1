"""The scorer: packed equals one by one, however it is packed, and sampling follows the model."""

import pytest
import torch
from helpers import CONFIGS, EOS, PAD, VOCAB, byte_tokenizer, tiny_policy
from tree_helpers import random_trees

import forest
import models


def test_an_empty_pack_still_runs_forward_and_backward():
    policy = tiny_policy()
    scores = models.score(policy, forest.pack([], [], pad_id=0))
    assert scores.policy.shape[0] == 0
    scores.policy.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.parameters())
    assert next(policy.parameters()).grad is not None  # collectives of a sharded model would match


def test_an_empty_pack_has_the_tables_of_a_full_one():
    full = forest.TokenTree((1, 2), (), ((3,), (4,)), class_ids=(5, 6, 7), class_probs=(0.5, 0.5, 0.0))
    scores = models.score(tiny_policy(), forest.pack([full], [], pad_id=0))
    assert scores.policy.shape == (0, 2)
    assert scores.class_logps.shape == (0, 3)


def plain_logps(policy, tree, answer):
    """Log-probs (L, V) of every next token of one path, in a pass of its own; and the answer's own sum."""
    ids = torch.tensor([[*tree.prompt, *tree.belief, *answer]])
    logps = policy.model(input_ids=ids).logits[0].float().log_softmax(-1)
    targets = ids[0, -len(answer) :, None]
    return logps, logps[-len(answer) - 1 : -1].gather(1, targets).sum()


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("attention", ["segments", "sdpa"])
def test_packed_equals_one_by_one_in_values_and_gradients(family, share, attention):
    policy, trees = tiny_policy(family, attention=attention), random_trees(1)
    batch = forest.pack(trees, [[0, 1, 2], [3, 4], [5, 6]], pad_id=0, share=share)
    factors = torch.randn(batch.span.shape, generator=torch.Generator().manual_seed(0)) * batch.valid

    scores = models.score(policy, batch)
    (scores.policy * factors).sum().backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters()}
    policy.zero_grad()
    total = 0.0
    for n, tree in enumerate(trees):
        for k, answer in enumerate(tree.answers):
            logps, of_answer = plain_logps(policy, tree, answer)
            assert scores.policy[n, k].item() == pytest.approx(of_answer.item(), abs=2e-4)
            total = total + factors[n, k] * of_answer
        last = len(tree.prompt) - 1
        assert torch.allclose(scores.class_logps[n], logps[last, [48, 49, 50]], atol=2e-5)
        belief = sum(logps[last + i, token].item() for i, token in enumerate(tree.belief))
        assert scores.belief_logp[n].item() == pytest.approx(belief, abs=1e-4)
    total.backward()
    for name, p in policy.named_parameters():
        atol = 3e-4 * max(1.0, p.grad.abs().max().item())
        assert torch.allclose(gradients[name], p.grad, atol=atol), name


def test_rows_padded_to_a_multiple_score_the_same():
    policy, trees = tiny_policy(), random_trees(5)
    exact, wide = (forest.pack(trees, [[0, 1, 2], [3, 4]], 0, multiple=m) for m in (1, 64))
    assert wide.input_ids.shape[1] % 64 == 0
    assert wide.num_tokens == exact.num_tokens
    assert torch.allclose(models.score(policy, exact).policy, models.score(policy, wide).policy, atol=1e-4)


def values_and_gradients(policy, batch):
    """Log-probs of a batch's answers and the gradients of their sum, added to those that are there."""
    scores = models.score(policy, batch)
    scores.policy.sum().backward()
    return [scores.policy, *(p.grad for p in policy.parameters())]


def test_compiled_blocks_score_the_same():
    policy, compiled, trees = tiny_policy(), tiny_policy(), random_trees(6)
    models.compile_blocks(compiled, backend="aot_eager")
    # another width: no second compilation is needed, and none may change a number
    for rows in ([[0, 1]], [[2, 3], [4, 5]]):
        batch = forest.pack(trees, rows, 0)
        plain, of_compiled = values_and_gradients(policy, batch), values_and_gradients(compiled, batch)
        for a, b in zip(plain, of_compiled):
            assert torch.allclose(a, b, atol=1e-5)


def next_logits(policy, prompt):
    """The logits (V,) of the token after a prompt."""
    return policy.model(input_ids=torch.tensor([prompt])).logits[0, -1]


def test_sampling_depends_on_its_seed_and_follows_the_model():
    policy, tokenizer = tiny_policy(), byte_tokenizer()
    prompts = [tuple(tokenizer(text)["input_ids"]) for text in ("ab", "a longer prompt")]

    def draw(seed):
        return models.generate(policy, prompts, models.Sampling(6, PAD, EOS), seed)

    assert draw(1) == draw(1) != draw(2)
    greedy = models.generate(policy, prompts, models.Sampling(1, PAD, EOS, temperature=0.0), 0)
    for prompt, ids in zip(prompts, greedy):
        assert ids == [next_logits(policy, prompt).argmax().item()]
    many = models.generate(policy, [prompts[0]] * 4000, models.Sampling(1, PAD, EOS), 0)
    drawn = torch.tensor([ids[0] if ids else EOS for ids in many])
    shares = torch.bincount(drawn, minlength=VOCAB) / 4000
    probabilities = next_logits(policy, prompts[0]).double().softmax(-1)
    assert (shares - probabilities).abs().sum() < 0.25 + 0.2  # total variation of 4000 draws over 259 tokens


# --- a model's own settings for generation ------------------------------------------------------------------

OWN_SETTINGS = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 6,
    "suppress_tokens": list(range(0, 250)),
    "bad_words_ids": [[i] for i in range(0, 250)],
    "top_k": 1,
    "top_p": 0.1,
    "min_p": 0.9,
    "typical_p": 0.1,
    "temperature": 0.01,
    "forced_eos_token_id": 65,
    "num_beams": 3,
    "max_length": 12,
    "stop_strings": ["a"],
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("setting", OWN_SETTINGS)
def test_sampling_leaves_the_models_own_settings_out(setting, temperature):
    neutral, own = tiny_policy(), tiny_policy()
    setattr(own.model.generation_config, setting, OWN_SETTINGS[setting])
    prompts, sampling = [(65, 66, 65, 66), (67,)], models.Sampling(5, PAD, EOS, temperature)
    assert models.generate(own, prompts, sampling, 3) == models.generate(neutral, prompts, sampling, 3)
    assert getattr(own.model.generation_config, setting) == OWN_SETTINGS[setting]  # saved with the model


@pytest.mark.parametrize("place", ["generation_config", "config"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_response_ends_with_every_token_that_the_model_names(place, count):
    prompts, sampling = [(70 + i,) for i in range(20)], models.Sampling(12, PAD, EOS)
    free = models.generate(tiny_policy(), prompts, sampling, 0)
    ends = [ids[3] for ids in free[:count]]  # tokens that are drawn
    policy = tiny_policy()
    getattr(policy.model, place).eos_token_id = ends if count > 1 else ends[0]
    found = models.generate(policy, prompts, sampling, 0)
    assert found[0] == free[0][: free[0].index(ends[0])]
    assert not any(set(ends) & set(ids) for ids in found)
