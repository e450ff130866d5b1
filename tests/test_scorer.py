"""Asking the policy: samples follow the model and the seed."""

import torch
from helpers import byte_tokenizer, tiny_policy

import models


def test_sampling_depends_on_its_seed_and_follows_the_model():
    policy, tokenizer = tiny_policy(), byte_tokenizer()
    prompts = [tuple(tokenizer(t)["input_ids"]) for t in ("ab", "a longer prompt")]
    draw = lambda seed: models.generate(policy, prompts, models.Sampling(6, 258, 257), seed)  # noqa: E731
    assert draw(1) == draw(1) != draw(2)
    greedy = models.generate(policy, prompts, models.Sampling(1, 258, 257, temperature=0.0), 0)
    for prompt, ids in zip(prompts, greedy):
        assert ids == [policy.model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax().item()]
    many = models.generate(policy, [prompts[0]] * 4000, models.Sampling(1, 258, 257), 0)
    p = policy.model(input_ids=torch.tensor([prompts[0]])).logits[0, -1].double().softmax(-1)
    counts = torch.bincount(torch.tensor([row[0] if row else 257 for row in many]), minlength=259) / 4000
    assert (counts - p).abs().sum() < 0.25 + 0.2  # total variation of 4000 draws over 259 tokens
