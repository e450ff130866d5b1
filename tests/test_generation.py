"""Sampling: a sample belongs to its seed, prompt and number; kept keys and values change no logit."""

import json
import logging

import numpy as np
import pytest
import torch
from families import FAMILIES, GROUPED, family_config, family_model
from helpers import EOS, PAD, VOCAB, byte_tokenizer, tiny_policy
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, BloomConfig, Gemma3TextConfig, MistralConfig, Phi3Config

import generation
import groups
import models
from generation.local import LocalGenerator
from models import cache_probe, draws
from utils import UserError

PROMPTS = [(65, 66, 67, 68, 69), (70,), (71, 72, 73), (65, 66), tuple(range(80, 100)), (90, 65)]
SAMPLES = 3


def sampling(count, temperature=1.0, stop_ids=()):
    return models.Sampling(count, PAD, EOS, temperature, stop_ids)


def samples_of(policy, prompts, how, seed=0, batch_size=64, draws=None):
    """{(prompt, number): (ids, finish)} of all draws."""
    found = {}

    def done(draw, ids, finish):
        assert draw not in found
        found[draw] = (ids, finish)

    draws = draws or [(i, number) for i in range(len(prompts)) for number in range(SAMPLES)]
    models.generate_draws(policy, prompts, draws, how, seed, done, batch_size)
    assert len(found) == len(draws)
    return found


def policy_of(config, seed=0):
    """A random policy of a config."""
    torch.manual_seed(seed)
    models.register_attention()
    model = AutoModelForCausalLM.from_config(config, attn_implementation=models.SEGMENTS)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return models.Scorer(model.eval(), models.SEGMENTS)


def next_by_plain_passes(policy, prompt, count, ends, pick):
    """`count` tokens at most by full forwards of a row alone; pick: a token of logits (V,) and its number."""
    ids = []
    for i in range(count):
        with torch.no_grad(), cache_probe.own_attention(policy):
            logits = policy.model(torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0, -1].float()
        token = pick(logits, i)
        if token in ends:
            return ids, "stop"
        ids.append(token)
    return ids, "length"


def by_inverse_cdf(numbers, temperature):
    """What `next_by_plain_passes` picks a token with."""

    def pick(logits, i):
        if temperature == 0:
            return int(logits.argmax())
        cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
        return int((cumulative <= numbers[i]).sum())

    return pick


def assert_as_by_plain_passes(policy, prompts, count):
    """Greedy samples, in few rows so that they leave and join, equal those of full forwards."""
    assert cache_probe.obstacle(policy, prompts[0], PAD, max(map(len, prompts)) + count) == ""
    ends = models.end_ids(policy, (EOS,))
    found = samples_of(policy, prompts, sampling(count, 0.0), batch_size=4)
    for (i, _), of_draw in found.items():
        assert of_draw == next_by_plain_passes(policy, prompts[i], count, ends, by_inverse_cdf((), 0))


# --- kept keys and values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_samples_of_a_family_are_those_of_full_forwards(family):
    assert_as_by_plain_passes(models.Scorer(family_model(family), models.SEGMENTS), PROMPTS, 12)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**GROUPED, sliding_window=6),
        Gemma3TextConfig(**GROUPED, sliding_window=5, layer_types=["sliding_attention", "full_attention"]),
        Phi3Config(**{**GROUPED, "sliding_window": 7}),
        family_config("gpt_oss").__class__(
            **{**GROUPED, "num_experts_per_tok": 2}, num_local_experts=4, sliding_window=6
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_samples_past_the_sliding_window_are_those_of_full_forwards(config):
    assert_as_by_plain_passes(policy_of(config), PROMPTS, 14)


@pytest.mark.parametrize("attention", ["segments", "sdpa"])
def test_every_attention_samples_the_same_and_is_left_as_it_was(attention):
    policy = tiny_policy(attention=attention)
    assert samples_of(policy, PROMPTS, sampling(8)) == samples_of(tiny_policy(), PROMPTS, sampling(8))
    assert policy.model.config._attn_implementation == attention


def test_compiled_blocks_sample_the_same():
    policy = tiny_policy()
    models.compile_blocks(policy, backend="aot_eager")
    assert samples_of(policy, PROMPTS, sampling(4)) == samples_of(tiny_policy(), PROMPTS, sampling(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_samples_in_bfloat16_come_from_kept_keys_and_values(dtype):
    policy = tiny_policy().to(dtype)
    policy.compute_dtype, policy.casts = torch.bfloat16, dtype == torch.float32
    found = samples_of(policy, PROMPTS, sampling(8))
    assert policy.cache_probe.problem == ""
    assert policy.casts == (dtype == torch.float32)
    assert all(finish == "stop" or len(ids) == 8 for ids, finish in found.values())


# --- what a sample depends on -------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_a_sample_does_not_depend_on_its_batch(temperature):
    policy = tiny_policy()
    (ids, _), *_ = samples_of(policy, PROMPTS, sampling(5, temperature)).values()
    how = sampling(10, temperature, stop_ids=(*ids[-1:], 70, 75, 80, 85, 90))
    whole = samples_of(policy, PROMPTS, how)
    pairs = list(whole)
    assert {finish for _, finish in whole.values()} == {"stop", "length"}
    for batch_size in (1, 3, 64):
        shuffled = [pairs[i] for i in np.random.default_rng(batch_size).permutation(len(pairs))]
        assert samples_of(policy, PROMPTS, how, batch_size=batch_size, draws=shuffled) == whole
    some = [(4, 2), (0, 1)]
    assert samples_of(policy, PROMPTS, how, draws=some) == {draw: whole[draw] for draw in some}
    backwards = samples_of(policy, PROMPTS[::-1], how)
    last = len(PROMPTS) - 1
    assert {(last - i, number): of_draw for (i, number), of_draw in backwards.items()} == whole


def test_a_sample_depends_on_its_seed_and_its_number():
    policy, how = tiny_policy(), sampling(10)
    first, second = samples_of(policy, PROMPTS, how, seed=1), samples_of(policy, PROMPTS, how, seed=2)
    assert all(first[draw] != second[draw] for draw in first)
    assert len({tuple(first[0, number][0]) for number in range(SAMPLES)}) == SAMPLES


def test_a_sample_is_drawn_with_the_numbers_of_its_hash():
    policy, prompt = tiny_policy(), PROMPTS[0]
    found = samples_of(policy, [prompt], sampling(10, 0.7))
    for number in range(SAMPLES):
        numbers = draws.uniforms(0, prompt, number, 10)

        pick = by_inverse_cdf(numbers, 0.7)
        assert found[0, number] == next_by_plain_passes(policy, prompt, 10, (EOS,), pick)


def test_a_samples_numbers_are_the_same_on_every_machine():
    numbers = [0.5649553533863575, 0.8070915950869713, 0.7997256286867721]
    assert draws.uniforms(3, (5, 6), 1, 3).tolist() == numbers
    assert draws.uniforms(3, (5, 6), 1, 2).tolist() == numbers[:2]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_tokens_are_drawn_as_often_as_the_softmax_says(temperature):
    logits = 2.0 * torch.randn(600, generator=torch.Generator().manual_seed(0))
    logits[:30] = -torch.inf
    numbers = np.concatenate([draws.uniforms(0, (1,), number, 1) for number in range(10_000)])
    tokens = draws.choose(logits.expand(len(numbers), -1), torch.from_numpy(numbers), temperature)
    expected = (logits.double() / temperature).softmax(-1).numpy() * len(numbers)
    counts = np.bincount(tokens.numpy(), minlength=600)
    often = expected >= 5
    assert counts[:30].sum() == 0
    observed = [*counts[often], counts[~often].sum()]
    assert chisquare(observed, [*expected[often], expected[~often].sum()]).pvalue > 0.001


@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
def test_the_least_and_the_largest_number_draw_a_token_that_can_be_drawn(number):
    logits = torch.full((3, VOCAB), -torch.inf)
    logits[0, 7] = 0.0
    logits[1, [40, 200]] = 3.0
    logits[2] = 0.0
    tokens = draws.choose(logits, torch.full((3,), number, dtype=torch.float64), 1.0).tolist()
    assert tokens == ([7, 40, 0] if number == 0 else [7, 200, VOCAB - 1])


def test_logits_that_are_not_finite_are_an_error():
    policy = tiny_policy()
    samples_of(policy, PROMPTS, sampling(1))
    policy.model.lm_head.weight.data[5] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        samples_of(policy, PROMPTS, sampling(4))


def test_one_token_and_no_prompts_are_taken_too():
    assert models.generate(tiny_policy(), [], sampling(4), 0) == []
    found = samples_of(tiny_policy(), PROMPTS, sampling(1))
    assert {len(ids) for ids, _ in found.values()} <= {0, 1}


# --- models that our tables cannot serve --------------------------------------------------------------------


def bloom():
    """Positions are in its scores, so its attention is its own."""
    small = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCAB}
    torch.manual_seed(0)
    config = BloomConfig(**small, bos_token_id=256, eos_token_id=EOS, pad_token_id=PAD)
    return models.Scorer(AutoModelForCausalLM.from_config(config).eval(), "eager")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_keeps_its_own_cache_is_sampled_by_transformers(temperature, caplog):
    policy, how = bloom(), sampling(8, temperature)
    with caplog.at_level(logging.WARNING, "grove"):
        found = samples_of(policy, PROMPTS, how, batch_size=4)
    assert "transformers' own generate" in caplog.text
    for (i, number), of_draw in found.items():
        pick = by_inverse_cdf(draws.uniforms(0, PROMPTS[i], number, 8), temperature)
        assert of_draw == next_by_plain_passes(policy, PROMPTS[i], 8, (EOS,), pick)


def test_transformers_and_our_batches_draw_the_same_samples():
    ours, theirs = tiny_policy(), tiny_policy()
    theirs.cache_probe = models.CacheProbe("for comparison", None)
    how = sampling(10, stop_ids=(70, 80))
    assert samples_of(theirs, PROMPTS, how, batch_size=5) == samples_of(ours, PROMPTS, how)


def test_a_probe_notices_a_head_that_the_config_does_not_tell_of():
    policy = tiny_policy()
    policy.model.lm_head.register_forward_hook(lambda *args: 2 * args[-1])
    assert cache_probe.obstacle(policy, PROMPTS[0], PAD, 20) == ""  # both passes go through it
    policy = tiny_policy()
    policy.logit_shape = policy.logit_shape._replace(scale=2.0)
    assert "logits differ" in cache_probe.obstacle(policy, PROMPTS[0], PAD, 20)


def test_rows_beyond_positions_that_change_are_sampled_by_transformers():
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    policy = tiny_policy(rope_parameters=scaling, max_position_embeddings=32)
    assert cache_probe.obstacle(policy, PROMPTS[0], PAD, 32) == ""
    assert "beyond 32 tokens" in cache_probe.obstacle(policy, PROMPTS[0], PAD, 33)


# --- a model's own settings ---------------------------------------------------------------------------------


def test_settings_that_a_model_ships_are_named_since_they_are_ignored():
    policy = tiny_policy()
    assert models.ignored_settings(policy) == {}
    policy.model.generation_config.repetition_penalty = 1.3
    policy.model.generation_config.top_k = 20
    policy.model.generation_config.eos_token_id = [EOS, 5]
    assert models.ignored_settings(policy) == {"repetition_penalty": 1.3, "top_k": 20}


# --- the local generator ------------------------------------------------------------------------------------


def generator(policy=None, count=6, **limits):
    limits = groups.Limits(**{"max_length": 64, "max_prompt_length": 32, **limits})
    return LocalGenerator(policy or tiny_policy(), byte_tokenizer(), limits, count, 3, "tiny")


def written_by(engine, prompts, draws, decoding="t1"):
    found = {}
    engine.write(prompts, draws, generation.decoding_of(decoding), 0, found.__setitem__)
    return found


def test_the_local_generator_writes_what_the_model_samples():
    prompts = [groups.Group("a", "Say one", ()), groups.Group("b", "Say more than that", ())]
    draws = [generation.Draw(i, number) for i in (1, 0) for number in range(3)]
    policy, tokenizer = tiny_policy(), byte_tokenizer()
    found = written_by(generator(policy), prompts, draws)
    encoded = [tuple(tokenizer(group.prompt)["input_ids"]) for group in prompts]
    expected = samples_of(policy, encoded, sampling(6), batch_size=2)
    assert set(found) == set(expected)
    for draw, (ids, finish) in expected.items():
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert found[draw] == generation.Written(text, finish, len(ids) + (finish == "stop"))


def test_a_prompt_without_room_is_an_error_before_anything_is_written():
    prompts = [groups.Group("a", "Say", ()), groups.Group("b", "x" * 600, ())]
    with pytest.raises(
        UserError, match="max_new_tokens=6: 1 of 2 prompts leave no room; the longest takes 600"
    ):
        written_by(generator(max_prompt_length=None), prompts, [generation.Draw(0, 0)])


def test_a_prompt_longer_than_the_sliding_window_is_continued():
    policy = policy_of(MistralConfig(**GROUPED, sliding_window=6))
    found = written_by(generator(policy), [groups.Group("a", "Say something", ())], [generation.Draw(0, 0)])
    assert len(found) == 1
    assert policy.cache_probe == models.CacheProbe("", None)


def test_an_identity_names_all_that_changes_responses():
    first = generator().identity()
    assert json.loads(json.dumps(first)) == first
    assert generator().identity() == first
    others = [generator(tiny_policy(seed=1)), generator(count=7), generator(max_prompt_length=31)]
    assert all(other.identity() != first for other in others)
    other_ends = tiny_policy()
    other_ends.model.generation_config.eos_token_id = [EOS, 5]
    assert generator(other_ends).identity()["ends"] != first["ends"]


def test_a_generator_says_once_which_settings_it_ignores(caplog):
    policy = tiny_policy()
    policy.model.generation_config.top_k = 20
    with caplog.at_level(logging.INFO, "grove"):
        engine = generator(policy)
        written_by(engine, [groups.Group("a", "Say", ())], [generation.Draw(0, 0)])
    assert caplog.text.count("top_k=20") == 1
    engine.close()
    assert engine.policy is None
