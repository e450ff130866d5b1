"""The forest: the mask against brute force, packed against one by one, and plans as pure functions."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import CONFIGS, tiny_policy
from hypothesis import given, settings
from hypothesis import strategies as st

import forest
import models
import schedule
from utils import UserError

ids = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)
trees = st.tuples(ids, st.one_of(st.just(()), ids), st.lists(ids, min_size=1, max_size=4).map(tuple)).map(
    lambda parts: forest.TokenTree(*parts)
)
few_prompts = st.lists(trees, min_size=1, max_size=6).flatmap(
    lambda ts: st.lists(st.integers(0, 1), min_size=len(ts), max_size=len(ts)).map(
        lambda picks: [t._replace(prompt=(1, 2, 3)) if p else t for t, p in zip(ts, picks)]
    )
)


def paths(tree):
    return [(*tree.prompt, *tree.belief, *answer) for answer in tree.answers]


def branches(batch):
    """Every visible set of rows, spelled out token by token: what each token can see, in order."""
    seen = {}
    for b in range(batch.input_ids.shape[0]):
        mask = forest.dense_mask(batch.end)[b, 0]
        for q in range(batch.input_ids.shape[1]):
            seen[b, q] = tuple(batch.input_ids[b, mask[q]].tolist())
    return seen


@settings(max_examples=150, deadline=None)
@given(few_prompts, st.booleans())
def test_every_scored_token_sees_exactly_its_own_path(ts, share):
    batch = forest.pack(ts, [list(range(len(ts)))], pad_id=0, share=share)
    seen, width = branches(batch), batch.input_ids.shape[1]
    places = batch.positions[batch.source]
    for n, tree in enumerate(ts):
        for k, path in enumerate(paths(tree)):
            reads = [m for m in range(len(batch.owner)) if batch.owner[m] == batch.span[n, k]]
            found = {
                seen[int(places[m]) // width, int(places[m]) % width]: int(batch.target[m]) for m in reads
            }
            first = len(path) - len(tree.answers[k])
            assert found == {path[:i]: path[i] for i in range(first, len(path))}


@settings(max_examples=150, deadline=None)
@given(few_prompts, st.booleans())
def test_mask_is_the_brute_force_table_and_positions_are_depths(ts, share):
    batch = forest.pack(ts, [list(range(len(ts)))], pad_id=0, share=share)
    end, depth = batch.end[0].tolist(), batch.position_ids[0].tolist()
    mask = forest.dense_mask(batch.end)[0, 0]
    for q, kv in itertools.product(range(len(end)), repeat=2):
        assert bool(mask[q, kv]) == (kv <= q < end[kv])
    assert [int(mask[q].sum()) - 1 for q in range(len(end))] == depth  # ancestors, no more and no fewer


@settings(max_examples=100, deadline=None)
@given(few_prompts)
def test_shared_rows_cost_one_copy_of_what_is_shared(ts):
    batch = forest.pack(ts, [list(range(len(ts)))], pad_id=0)
    distinct = {p[:i] for t in ts for p in paths(t) for i in range(1, len(p))}
    # spans are kept apart by (prompt, belief, answer), so equal beginnings of two answers stand twice: never fewer rows
    assert len(distinct) <= batch.num_tokens <= batch.num_tokens_unshared
    assert batch.num_tokens == forest.tree_tokens(ts)
    assert batch.num_tokens_unshared == forest.pack(ts, [list(range(len(ts)))], 0, share=False).num_tokens


def test_k_responses_cost_one_prompt():
    tree = forest.TokenTree(tuple(range(100)), (), tuple((k, *range(20)) for k in range(8)))
    assert forest.tree_tokens([tree]) == 100 + 8 * 20
    assert forest.tree_tokens([tree] * 5) == 100 + 8 * 20  # pairs of one prompt share its tree


def test_padding_rows_see_only_themselves():
    ts = [forest.TokenTree((1, 2, 3), (), ((4, 5),)), forest.TokenTree((1,), (), ((4,),))]
    batch = forest.pack(ts, [[0], [1]], pad_id=7)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4], [1, 7, 7, 7]]
    assert forest.dense_mask(batch.end)[1, 0].tolist() == torch.eye(4, dtype=torch.bool).tolist()


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
    assert scores.policy.shape == (0, 2) and scores.class_logps.shape == (0, 3)


def random_trees(seed, count=7):
    rng = np.random.default_rng(seed)
    draw = lambda low, high: tuple(rng.integers(0, 256, rng.integers(low, high)).tolist())  # noqa: E731
    prompts = [draw(3, 12) for _ in range(3)]
    beliefs = [draw(1, 5) for _ in range(3)]
    made = []
    for _ in range(count):
        b = rng.integers(4)
        made.append(
            forest.TokenTree(
                prompts[rng.integers(3)],
                beliefs[b] if b < 3 else (),
                tuple(draw(1, 9) for _ in range(rng.integers(1, 5))),
                class_ids=(48, 49, 50),
                class_probs=(0.2, 0.3, 0.5),
            )
        )
    return made


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("attention", ["segments", "sdpa"])
def test_packed_equals_one_by_one_in_values_and_gradients(family, share, attention):
    policy, ts = tiny_policy(family, attention=attention), random_trees(1)
    packed = forest.pack(ts, [[0, 1, 2], [3, 4], [5, 6]], pad_id=0, share=share)
    weights = torch.randn(packed.span.shape, generator=torch.Generator().manual_seed(0)) * packed.valid

    scores = models.score(policy, packed)
    (scores.policy * weights).sum().backward()
    got = {n: p.grad.clone() for n, p in policy.named_parameters()}
    policy.zero_grad()
    total = 0.0
    for n, tree in enumerate(ts):
        for k, answer in enumerate(tree.answers):
            ids = torch.tensor([[*tree.prompt, *tree.belief, *answer]])
            logps = policy.model(input_ids=ids).logits[0].float().log_softmax(-1)
            plain = logps[-len(answer) - 1 : -1].gather(1, ids[0, -len(answer) :, None]).sum()
            assert scores.policy[n, k].item() == pytest.approx(plain.item(), abs=2e-4)
            total = total + weights[n, k] * plain
        at = len(tree.prompt) - 1
        assert torch.allclose(scores.class_logps[n], logps[at, [48, 49, 50]], atol=2e-5)
        belief = sum(logps[at + i, t].item() for i, t in enumerate(tree.belief))
        assert scores.belief_logp[n].item() == pytest.approx(belief, abs=1e-4)
    total.backward()
    for name, parameter in policy.named_parameters():
        assert torch.allclose(
            got[name], parameter.grad, atol=3e-4 * max(1.0, parameter.grad.abs().max().item())
        ), name


@settings(max_examples=60, deadline=None)
@given(st.lists(trees, min_size=1, max_size=12), st.booleans())
def test_segments_allow_what_the_predicate_allows(ts, share):
    batch = forest.pack(ts, [list(range(len(ts) // 2)), list(range(len(ts) // 2, len(ts)))], 0, share)
    for row, allowed in zip(batch.segments, forest.dense_mask(batch.end)[:, 0]):
        starts = np.cumsum([0, *(s.length for s in row)])
        mine = torch.eye(allowed.shape[0], dtype=torch.bool)  # padding sees itself alone
        for (length, past), start in zip(row, starts):
            mine[start : start + length, start : start + length] = torch.ones(length, length).tril().bool()
            for j, n in past:
                mine[start : start + length, starts[j] : starts[j] + n] = True
        assert torch.equal(mine, allowed)
        assert all(n <= row[j].length for _, past in row for j, n in past)


@pytest.mark.parametrize("attention", ["segments", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_an_empty_pack_gives_every_parameter_a_gradient(family, attention):
    """FSDP2 reduces the parameters that have one, so ranks that differ there would mix up their collectives."""
    policy, tree = (
        tiny_policy(family, attention=attention),
        forest.TokenTree((1, 2), (), ((3,),), reference=(0.0,)),
    )
    scores = models.score(policy, forest.pack([tree], [], 0))
    scores.policy.sum().backward()
    assert not [n for n, p in policy.named_parameters() if p.grad is None or p.grad.any()]


def test_generation_and_plain_passes_do_not_see_the_segments():
    ids = torch.tensor([[5, 6, 7, 8]])
    a, b = (tiny_policy("llama", attention=name) for name in ("segments", "sdpa"))
    assert torch.allclose(a.model(ids).logits, b.model(ids).logits, atol=1e-6)
    mask = torch.tensor([[0, 0, 1, 1]])
    assert torch.allclose(
        a.model(ids, attention_mask=mask).logits[:, 2:],
        b.model(ids, attention_mask=mask).logits[:, 2:],
        atol=1e-6,
    )
    assert models.generate(a, [(5, 6), (7,)], models.Sampling(4, 258, 257), 0) == models.generate(
        b, [(5, 6), (7,)], models.Sampling(4, 258, 257), 0
    )


def test_small_logit_chunks_change_nothing(monkeypatch):
    policy, ts = tiny_policy(), random_trees(2)
    batch = forest.pack(ts, [[0, 1, 2, 3], [4, 5, 6]], pad_id=0)
    whole = models.score(policy, batch)
    whole.policy.sum().backward()
    gradients = [p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()
    monkeypatch.setattr(models.head, "CHUNK_BYTES", 4 * 259 * 3)  # three rows at a time
    monkeypatch.setattr(
        models.head, "KEPT_BYTES", 4 * 259 * 7
    )  # two chunks are kept, the others computed again
    chunked = models.score(policy, batch)
    chunked.policy.sum().backward()
    assert torch.allclose(whole.policy, chunked.policy, atol=1e-5)
    assert all(torch.allclose(g, p.grad, atol=1e-4) for g, p in zip(gradients, policy.parameters()))


@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_log_probs_through_the_head_equal_the_plain_formula(softcap, has_bias, compute):
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape).requires_grad_() for shape in ((17, 8), (50, 8), (50,)))
    source = torch.tensor([0, 0, 0, 1, 2, 3, 3, *range(4, 17), 16])
    target, upstream = torch.randint(0, 50, source.shape), torch.randn(len(source))
    starts = [int((source < r).sum()) for r in range(18)]
    with torch.autocast("cpu", compute, enabled=compute != torch.float32):
        found = models.LogProbs.apply(
            hidden, weight, bias if has_bias else None, models.Reads(source, target, starts), softcap, 5
        )
        logits = torch.nn.functional.linear(hidden, weight, bias if has_bias else None)
    found.backward(upstream)
    inputs = [hidden, weight, bias][: 2 + has_bias]
    got = [v.grad for v in inputs]
    for v in inputs:
        v.grad = None

    def plain(logits):
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        return logits.log_softmax(-1)[source, target]

    exact = plain(torch.nn.functional.linear(hidden, weight, bias if has_bias else None))
    exact.backward(upstream)
    if compute == torch.float32:
        assert torch.allclose(found, exact, atol=2e-6) and all(
            torch.allclose(g, v.grad, atol=3e-6) for g, v in zip(got, inputs)
        )
    else:  # no worse than twice what bfloat16 itself loses
        lost = (plain(logits.float()) - exact).abs().max()
        assert (found - exact).abs().max() <= 2 * lost + 1e-6
        assert all((g - v.grad).abs().max() <= 0.03 * v.grad.abs().max() for g, v in zip(got, inputs))


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


@settings(max_examples=60, deadline=None)
@given(
    st.lists(trees, min_size=1, max_size=20), st.integers(1, 4), st.sampled_from([0, 16, 40]), st.booleans()
)
def test_a_plan_covers_every_example_once_within_its_budget(ts, world, row_tokens, share):
    packing = schedule.Packing(64, row_tokens, share)
    packs = schedule.plan_step(ts, range(len(ts)), packing, world)
    assert sorted(i for pack in packs for row in pack for i in row) == list(range(len(ts)))
    assert len(packs) % world == 0
    for rows in packs:
        assert not rows or forest.pack(ts, rows, 0, share).input_ids.numel() <= 64
    assert packs == schedule.plan_step(ts, range(len(ts)), packing, world)


def test_an_example_larger_than_a_pack_is_an_error():
    with pytest.raises(ValueError, match="max_tokens=8: raise max_tokens"):
        schedule.plan_step([forest.TokenTree((1,) * 20, (), ((1, 2),))], [0], schedule.Packing(8, 8), 1)


@pytest.mark.parametrize("shuffle", ["examples", "prompts"])
def test_batches_are_a_function_of_seed_and_step_and_cover_every_epoch(shuffle):
    prompt_of = [i // 3 for i in range(32)]
    order = schedule.Order(prompt_of, 5, 3, shuffle)
    assert order.steps_per_epoch == 7
    steps = [order.examples(step) for step in range(14)]
    epochs = [steps[:7], steps[7:]]
    for batches in epochs:
        assert sorted(sum(batches, [])) == list(range(32))  # the last, partial batch too
    assert epochs[0] != epochs[1]
    assert order.examples(9) == epochs[1][2]
    assert order._replace(seed=4).examples(9) != epochs[1][2]
    if shuffle == "prompts":
        prompts = [prompt_of[i] for i in sum(epochs[0], [])]
        assert len(list(itertools.groupby(prompts))) == math.ceil(32 / 3)


def test_rows_padded_to_a_multiple_score_the_same():
    policy, ts = tiny_policy(), random_trees(5)
    exact, wide = (forest.pack(ts, [[0, 1, 2], [3, 4]], 0, multiple=m) for m in (1, 64))
    assert wide.input_ids.shape[1] % 64 == 0 and wide.num_tokens == exact.num_tokens
    assert torch.allclose(models.score(policy, exact).policy, models.score(policy, wide).policy, atol=1e-4)


def test_compiled_blocks_score_the_same():
    policy, compiled, ts = tiny_policy(), tiny_policy(), random_trees(6)
    models.compile_blocks(compiled, backend="aot_eager")
    for rows in (
        [[0, 1]],
        [[2, 3], [4, 5]],
    ):  # another width: no second compilation is needed, and none may change a number
        batch = forest.pack(ts, rows, 0)
        pairs = []
        for model in (policy, compiled):
            scores = models.score(model, batch)
            scores.policy.sum().backward()
            pairs.append((scores.policy, [p.grad for p in model.parameters()]))
        assert torch.allclose(pairs[0][0], pairs[1][0], atol=1e-5)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(pairs[0][1], pairs[1][1]))
