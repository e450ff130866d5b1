"""The group's expectation: `expected.*` equals the mean of the drawn view over all that can be drawn."""

import functools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from data_helpers import GOOD, group_of, prepared, rows_with_beliefs, settings_of, write
from helpers import CPU, PAD, byte_tokenizer, tiny_policy

import losses
import models
import preference_datasets as data
import reference
import schedule
import trainers
from groups.drawing import chances
from runs.meters import Meter
from schedule import Data, Packing
from utils import UserError

ONE_PACK, SEVERAL = Packing(8192, 512, pad_id=PAD), Packing(60, 60, pad_id=PAD)
LIMITS = data.Limits(512, 256)
# an expected view, the drawn one, and the losses that are computed of both
OF_PAIRS = ("dpo", "cdpo", "ipo", "kto", "sft", "infonca")
OF_GROUPS = ("gdpo", "gdpo_calibration", "gdpo_preference", "gdpo_kto")
CASES = [
    *[("expected.pairs", "pairs", loss) for loss in OF_PAIRS],
    ("expected.own_belief", "own_belief", "dpo"),
    ("expected.target", "target", "sft"),
    *[("expected.conditioned", "conditioned", loss) for loss in OF_GROUPS],
]


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch):
    monkeypatch.setattr(models, "matmul_rate", lambda *a: 1e9)


def response(text, label, words):
    return {"text": text, "belief": {"class": label, "text": words}}


# two answers of class 4, one of a class that nobody holds, one weighted prompt, one class without an answer
ROWS = [
    {
        "prompt": "How is it?",
        "responses": [
            response("Fine.", "4", "Good"),
            response("Splendid.", "4", "Very good"),
            response("Bad!", "2", "Poor"),
            response("So so", "3", "Fair"),
            response("No idea.", "0", "None"),
        ],
        "belief_probs": [0, 0.2, 0.3, 0.1, 0.4, 0],
    },
    {
        "prompt": "And how is that, then?",
        "responses": [response("Well, good.", "5", "Good"), response("Bad.", "1", "Bad")],
        "belief_probs": [0, 0.25, 0, 0, 0, 0.75],
        "weight": 2.5,
    },
]
GROUPS = [group_of(row, f"row {i}")._replace(pairs=()) for i, row in enumerate(ROWS)]


def by_hand(group):
    """{(preferred, other): probability} of GDPO's drawing, written out."""
    p = dict(zip(data.CLASSES, group.belief_probs))
    label = [r.belief.label for r in group.responses]
    held = set(label)
    total = sum(p[name] for name in held)
    probabilities = {}
    for i, of_i in enumerate(label):
        for j, of_j in enumerate(label):
            if of_i != of_j:
                first = p[of_i] / total / label.count(of_i)
                probabilities[i, j] = first / (len(held) - 1) / label.count(of_j)
    return {pair: share for pair, share in probabilities.items() if share}


# --- the rows and their weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS, ids=["five", "two"])
def test_every_pair_has_the_probability_of_its_drawing(group):
    for view in ("expected.pairs", "expected.own_belief", "expected.conditioned"):
        examples = data.view([group], view)
        assert {e.columns: e.weight for e in examples} == pytest.approx(by_hand(group))
        assert [e.row for e in examples] == list(range(len(examples)))
        assert all(e.conditioned == (view == "expected.conditioned") for e in examples)
        assert math.fsum(e.weight for e in examples) == pytest.approx(1, abs=1e-12)


def test_pairs_are_drawn_as_often_as_their_probability_says():
    group, number = GROUPS[0], 20_000
    drawn = Counter(data.draw_pairs(group, data.CLASSES, number, seed=3))
    pairs = list(by_hand(group))
    assert set(drawn) == set(pairs)
    for pair, chance in zip(pairs, chances(group, pairs, data.CLASSES)):
        assert drawn[pair] / number == pytest.approx(chance, abs=4 * math.sqrt(chance / number))


def test_every_response_has_the_share_of_its_belief_as_a_target():
    examples = data.view(GROUPS, "expected.target")
    shares = {0: 0.25, 1: 0.25, 2: 0.375, 3: 0.125}  # class 1 has no answer, class 0 no share
    assert {e.columns[0]: e.weight for e in examples if e.group == 0} == pytest.approx(shares)
    of_second = [(e.columns, e.weight, e.row) for e in examples if e.group == 1]
    assert of_second == [((0,), 0.75, 0), ((1,), 0.25, 1)]


def test_classes_say_which_share_is_whose():
    classes = ["4", "2", "a", "b", "c", "d"]
    group = group_of(GOOD)._replace(belief_probs=(0.2, 0.8, 0, 0, 0, 0))
    examples = data.view([group], "expected.pairs", classes=classes)
    assert {e.columns: e.weight for e in examples} == pytest.approx({(0, 1): 0.2, (1, 0): 0.8})


def test_prompts_with_nothing_to_draw_are_left_out_and_counted():
    alone = group_of({**GOOD, "responses": GOOD["responses"][:1], "belief_probs": [0, 0, 0, 0, 1, 0]})
    unlikely = group_of({**GOOD, "pairs": [[0, 1]], "belief_probs": [1, 0, 0, 0, 0, 0]})
    for view, kept in (("expected.conditioned", []), ("expected.target", [0])):
        dropped = Counter()
        examples = data.view([alone, unlikely], view, dropped=dropped)
        assert [e.group for e in examples] == kept
        assert dropped == Counter(nothing_to_draw=2 - len(kept))


def test_what_a_view_lacks_is_said_with_its_place():
    bare = group_of({**GOOD, "belief_probs": None}, "x.jsonl, row 2")
    with pytest.raises(UserError, match=r"x.jsonl, row 2: field belief_probs: .*set responses=conditioned$"):
        data.view([bare], "expected.conditioned")
    whole = group_of(GOOD)
    half = whole._replace(responses=(*whole.responses, data.Response("Hm.")))
    with pytest.raises(UserError, match="needs a belief on every response"):
        data.view([half], "expected.own_belief")
    assert {e.columns for e in data.view([half], "expected.pairs")} == {(0, 1), (1, 0)}


@pytest.mark.parametrize(
    ("loss", "view", "remedy"),
    [
        ("dpo", "expected.target", "responses=expected.pairs"),
        ("gdpo", "expected.pairs", "responses=expected.conditioned"),
        ("gdpo", "expected.target", "responses=expected.conditioned"),
        ("gdpo_swepo", "expected.conditioned", "responses=conditioned.all"),
    ],
)
def test_a_view_that_a_loss_cannot_take_is_refused_with_the_one_it_takes(loss, view, remedy):
    settings, needs = settings_of(f"responses={view}", "datasets=[opinions/democrat]", loss=loss)
    with pytest.raises(UserError, match=remedy) as caught:
        data.check_first_rows(settings, needs)
    assert "\n" not in str(caught.value)


# --- the objective ------------------------------------------------------------------------------------------


def data_of(groups, view, loss, drawn=()):
    """The trees of a view with their reference and, for KTO, their mismatched pairs."""
    settings, needs = settings_of(f"responses={view}", loss=loss)
    groups = [group._replace(pairs=tuple(pairs)) for group, pairs in zip(groups, drawn)] or groups
    examples = data.view(groups, view)
    if needs.pair_reward and not needs.beliefs:
        examples = [e._replace(rewards=(needs.pair_reward, 0.0)) for e in examples]
    trees = data.tokenize(groups, examples, byte_tokenizer(), LIMITS)
    kinds = [trees]
    if needs.mismatched:  # one answer for all, so that z0 does not depend on who was drawn
        kinds.append([tree._replace(answers=((70, 71, 72),), rewards=()) for tree in trees])
    other = tiny_policy(seed=7)
    fill = functools.partial(reference.reference_logps, other, fingerprint=models.fingerprint(other))
    return Data(*(list(fill(kind, packing=ONE_PACK, world=CPU)) for kind in kinds))


def step_of(data_of_step, loss, packing=ONE_PACK):
    """The loss of a step of all, its gradient as one vector, and the logged metrics."""
    settings, _ = settings_of(loss=loss)
    policy, keys = tiny_policy(), settings.loss.keys
    loss_fn = functools.partial(losses.LOSSES[settings.loss.name], **keys)
    learner = trainers.Learner(policy, None, loss_fn, keys.get("beta", 1.0), packing, CPU)
    work = schedule.packs_of(data_of_step, range(len(data_of_step.trees)), packing, CPU)
    meter = Meter(policy, CPU)
    value = trainers.backward(learner, work, meter).item()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    logged = {name: v for name, v in meter.read("train").items() if "train" in name}
    return value, gradient, logged, work


def enumerated(loss, drawn_view):
    """The drawn view's trees, a copy of every pair that can be drawn, of its probability as its weight."""
    drawn = [list(by_hand(group)) for group in GROUPS]
    of_pairs = data_of(GROUPS, drawn_view, loss, drawn)
    weights = [group.weight * share for group in GROUPS for share in by_hand(group).values()]
    weighted = []
    for kind in of_pairs:
        if kind is not None:
            weighted.append([tree._replace(weight=w) for tree, w in zip(kind, weights, strict=True)])
    return Data(*weighted)


def distance(one, other):
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize(("view", "drawn", "loss"), CASES)
def test_loss_gradient_and_metrics_are_the_mean_over_all_drawings(view, drawn, loss):
    value, gradient, logged, work = step_of(data_of(GROUPS, view, loss), loss)
    of_drawn = step_of(enumerated(loss, drawn), loss)
    assert work.num_examples == 2 and work.weight == pytest.approx(3.5)
    assert value == pytest.approx(of_drawn[0], rel=1e-5)
    assert distance(gradient, of_drawn[1]) < 1e-5
    assert logged == pytest.approx(of_drawn[2], rel=1e-4, abs=1e-5)


def test_it_is_what_many_drawings_tend_to():
    """The mean over draws, within four standard errors of each of its pairs' shares."""
    (group, _), number = GROUPS, 3000
    value, gradient, _, _ = step_of(data_of([group], "expected.conditioned", "gdpo"), "gdpo")
    counts = Counter(data.draw_pairs(group, data.CLASSES, number, seed=0))
    pairs = list(counts)
    trees = data_of([group], "conditioned", "gdpo", [pairs]).trees
    trees = [tree._replace(weight=float(counts[pair])) for tree, pair in zip(trees, pairs, strict=True)]
    of_drawn = step_of(Data(trees), "gdpo")
    assert value == pytest.approx(of_drawn[0], rel=0.02)
    assert distance(gradient, of_drawn[1]) < 0.05
    few = [tree._replace(weight=1.0) for tree in trees[:4]]
    assert distance(gradient, step_of(Data(few), "gdpo")[1]) > 0.05  # four draws are another gradient


def test_calibration_counts_once_a_prompt_and_beliefs_by_their_share():
    group = GROUPS[0]
    batch_of = functools.partial(schedule.packs_of, packing=ONE_PACK, world=CPU)
    trees = data_of([group], "expected.conditioned", "gdpo").trees
    (batch,) = batch_of(Data(trees), range(len(trees))).packs
    with torch.no_grad():
        scores = models.score(tiny_policy(), batch)
    terms = losses.calibration(scores)
    assert torch.allclose(terms, terms[:1].expand_as(terms))
    assert (terms * batch.weight).sum().item() == pytest.approx(terms[0].item(), rel=1e-6)
    nll = -scores.belief_logp / scores.belief_length
    label_share = {"4": 0.5, "2": 0.375, "3": 0.125}
    of_belief = {}
    for example, value in zip(data.view([group], "expected.conditioned"), nll.tolist()):
        of_belief[group.responses[example.columns[0]].belief] = value
    by_share = 0.0
    for belief, value in of_belief.items():
        alike = sum(b.label == belief.label for b in of_belief)
        by_share += label_share[belief.label] / alike * value
    assert (nll * batch.weight).sum().item() == pytest.approx(by_share, rel=1e-5)


@pytest.mark.parametrize(("view", "loss"), [("expected.conditioned", "gdpo"), ("expected.pairs", "dpo")])
def test_packing_and_ranks_change_nothing(view, loss):
    whole = data_of(GROUPS, view, loss)
    value, gradient, logged, work = step_of(whole, loss)
    assert len(work.packs) == 1 and sum(batch.num_examples for batch in work.packs) == 2
    of_several = step_of(whole, loss, SEVERAL)
    assert len(of_several[3].packs) > 2  # a prompt's rows stand in several packs
    assert sum(batch.num_examples for batch in of_several[3].packs) == 2
    assert of_several[0] == pytest.approx(value, rel=1e-5)
    assert distance(of_several[1], gradient) < 1e-5
    assert of_several[2] == pytest.approx(logged, rel=1e-4, abs=1e-5)
    ranks = [schedule.World(rank, 2, CPU.device, None) for rank in range(2)]
    shares = [schedule.packs_of(whole, range(len(whole.trees)), SEVERAL, rank) for rank in ranks]
    assert {share.weight for share in shares} == {work.weight}
    weights = torch.cat([batch.weight for share in shares for batch in share.packs])
    assert weights.sum().item() == pytest.approx(work.weight)


def test_a_prompt_is_one_tree_with_every_answer_once():
    apart = data_of(GROUPS, "expected.own_belief", "dpo").trees
    (batch,) = schedule.packs_of(Data(apart), range(len(apart)), ONE_PACK, CPU).packs
    tokens = sum(len(tree.prompt) for tree in apart if tree.row == 0)
    for group in range(2):
        answers = {answer for tree in apart if tree.group == group for answer in tree.answers}
        tokens += sum(len(answer) - 1 for answer in answers)
    assert batch.num_tokens == tokens


# --- the schedule and a run's data --------------------------------------------------------------------------


def test_a_step_has_so_many_prompts_and_all_of_their_rows(tmp_path):
    file = write(tmp_path / "x.jsonl", *rows_with_beliefs(9))
    overrides = (f"datasets=[{file}]", "eval_fraction=0.3", "responses=expected.conditioned")
    ours = prepared(*overrides, loss="gdpo")
    trees = ours.trees["train"]
    number = schedule.num_examples(trees)
    assert number == len({tree.group for tree in trees}) < len(trees)
    for shuffle in ("examples", "prompts"):
        order = schedule.order_of(trees, 4, 1, shuffle)
        assert order.steps_per_epoch == math.ceil(number / 4) and order.num_steps(2 * number) == 4
        seen = []
        for step in range(order.steps_per_epoch):
            work = schedule.step_of(Data(trees), order, ONE_PACK, CPU, step)
            groups = [trees[i].group for i in work.examples]
            assert work.num_examples == len(set(groups)) == min(4, number - 4 * step)
            assert work.weight == pytest.approx(work.num_examples)
            seen += work.examples
        assert sorted(seen) == list(range(len(trees)))
        assert sorted(order.seen(4)) == sorted(order.examples(0))
    (audits,) = ours.audit.values()
    assert audits["train"]["examples"] == number
    assert audits["train"]["weighted_rows"] == len(trees)
    assert sum(audits["train"]["preferred_beliefs"].values()) == pytest.approx(number, abs=1e-3)
    majority = sum(tree.weight for tree in trees if tree.is_majority) / number
    assert audits["train"]["majority_share"] == pytest.approx(majority, abs=1e-4)
    drawn = prepared(*overrides[:2], "responses=conditioned", loss="gdpo")
    assert "weighted_rows" not in next(iter(drawn.audit.values()))["train"]


def test_data_sets_are_mixed_and_validated_on_by_the_prompt(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", *rows_with_beliefs(12)) for name in "ab"]
    changed = [{**row, "prompt": f"Else {i}"} for i, row in enumerate(rows_with_beliefs(12))]
    write(tmp_path / "b.jsonl", *changed)
    ours = prepared(
        f"datasets=[{{name: {files[0]}, n: 3}},{{name: {files[1]}, n: 5}}]",
        "eval_fraction=0.3",
        "responses=expected.pairs",
        "n_eval_examples=2",
    )
    assert schedule.num_examples(ours.trees["train"]) == 8
    assert schedule.num_examples(ours.trees["eval"]) == 2
    weights = Counter()
    for tree in ours.trees["train"]:
        weights[tree.group] += tree.weight
    assert len(weights) == 8 and list(weights.values()) == pytest.approx([1.0] * 8)


def test_a_prompt_without_room_for_one_of_its_rows_is_left_out_whole():
    long = response("Yes.", "4", "Good" + " indeed" * 40)
    roomless = group_of({**GOOD, "responses": [GOOD["responses"][1], long]}, "row 9")
    audit, groups = Counter(), [GROUPS[1], roomless, GROUPS[1]]
    examples = data.view(groups, "expected.conditioned")
    trees = data.tokenize(groups, examples, byte_tokenizer(), data.Limits(100, 50), audit=audit)
    assert {tree.group for tree in trees} == {0, 2} and audit["examples_without_room"] == 1
    assert schedule.num_examples(trees) == 2


def test_validation_is_the_same_in_batches_of_any_number_of_prompts():
    whole = data_of(GROUPS * 2, "expected.conditioned", "gdpo")
    settings, _ = settings_of(loss="gdpo")
    loss_fn = functools.partial(losses.gdpo, **settings.loss.keys)
    learner = trainers.Learner(tiny_policy(), None, loss_fn, 0.1, ONE_PACK, CPU)
    one, all_at_once = (trainers.validate(learner, whole, size) for size in (1, 4))
    names = [name for name in one if "eval" in name]
    assert "rewards_eval/margins_minority" in names
    for name in names:
        assert one[name] == pytest.approx(all_at_once[name], rel=1e-4, abs=1e-5), name
    assert np.isfinite([one[name] for name in names]).all()
