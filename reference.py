"""Reference log-probs: computed once with the policy before its first update, cached on disk by content.

Contract: one number (nats) for each (prompt, belief, answer) path, keyed by a hash of its token ids, in a
folder named by hashes of the weights and of all else that changes a pass (config, dtypes, attention,
versions). Another loss, order, subset or k reuses what is there; what is damaged is recomputed, never
used. No second model ever exists. The order of the work depends on the examples alone, so a run that was
killed here and goes on gets the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

import losses
import models
import schedule
from forest import TokenTree, column
from groups.stored import NO_KEY, StoredTrees
from ranks import World, gathered, on_main
from reference_cache import ReferenceCache
from schedule import Packing
from trees import path_keys
from utils import UserError, cache_dir, log

PLAN_CHUNK = 1024  # examples planned, computed and written at once: planning is quadratic in the worst case
VERSION = 1  # of what scores here; a change of its numbers takes the next one
# entries of a model's config that say where it came from, not what it computes
NOT_IN_A_PASS = {
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
# nats by which rounding may move a response's log-prob, for each root of its tokens
STEP0_TOLERANCE, STEP0_TOLERANCE_OF_BF16 = 5e-3, 0.15

Logps = dict[bytes, float]  # by path key, in nats


def reference_logps(
    policy: models.Scorer,
    trees: Sequence[TokenTree],
    fingerprint: str,
    packing: Packing,
    world: World,
    wanted: Sequence[int] | np.ndarray | None = None,
) -> Sequence[TokenTree]:
    """The trees with the `reference` of all, or of the `wanted` ones: summed log-probs (nats) of their
    answers under `policy`, which must be the reference.

    What the cache holds is read; the rest is computed on all ranks and added to the cache.
    """
    folder = cache_folder(policy, fingerprint)
    starts = _answer_starts(trees)
    cache = ReferenceCache(folder) if world.is_main else None
    # ranks that knew different entries would plan different work
    values = _same_on_all(_look_up(cache, trees, starts[-1]), world)
    numbers = np.arange(len(trees)) if wanted is None else np.sort(np.asarray(wanted))
    is_unknown = np.isnan(values)
    first_alike = _first_alike(trees) if is_unknown.any() else None
    computed = 0
    with tqdm(total=len(numbers), desc="reference", unit="ex", disable=not world.is_main) as bar:
        for first in range(0, len(numbers), PLAN_CHUNK):
            chunk = numbers[first : first + PLAN_CHUNK]
            missing = _missing(chunk, starts, values, first_alike)
            if missing:
                _compute_and_add(policy, trees, missing, starts, values, packing, world, cache)
            computed += len(missing)
            bar.update(len(chunk))
    log.info("reference log-probs: %d of %d examples from the cache", len(numbers) - computed, len(numbers))
    return WithReference(trees, starts, values, numbers)


class WithReference(Sequence):
    """Trees with their reference log-probs, put together when a tree is asked for."""

    def __init__(
        self, trees: Sequence[TokenTree], starts: np.ndarray, values: np.ndarray, filled: np.ndarray
    ):
        self.trees, self.starts, self.values = trees, starts, values
        self.is_filled = np.zeros(len(trees), bool)
        self.is_filled[filled] = True

    def __len__(self) -> int:
        return len(self.trees)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        tree = self.trees[number]
        if not self.is_filled[number]:
            return tree
        number = int(number) % len(self)
        logps = self.values[self.starts[number] : self.starts[number + 1]]
        return tree._replace(reference=tuple(logps.tolist()))

    def column(self, name: str) -> np.ndarray:
        """One number of every tree, see `trees.column`."""
        return column(self.trees, name)


# --- what is known, and what is missing ---------------------------------------------------------------------


def _answer_starts(trees: Sequence[TokenTree]) -> np.ndarray:
    """(N + 1,) where each tree's answers begin among those of all trees."""
    if isinstance(trees, StoredTrees):
        return trees.answer_starts()
    return np.cumsum([0, *(len(tree.answers) for tree in trees)])


def _answer_keys(trees: Sequence[TokenTree]) -> Iterator[np.ndarray]:
    """(A, 2) keys of all answers, some at a time; NO_KEY where an example has no such answer."""
    if isinstance(trees, StoredTrees):
        yield from trees.answer_keys()
        return
    for first in range(0, len(trees), PLAN_CHUNK):
        keys = [key or NO_KEY for tree in trees[first : first + PLAN_CHUNK] for key in path_keys(tree)]
        yield keys_as_numbers(keys)


def _look_up(cache: ReferenceCache | None, trees: Sequence[TokenTree], num_answers: int) -> np.ndarray:
    """(A,) log-probs of all answers: NaN where the cache has none, 0 where an example has no such answer."""
    values = np.full(num_answers, np.nan)
    if cache is None:
        return values
    first = 0
    for keys in _answer_keys(trees):
        last = first + len(keys)
        values[first:last] = np.where(keys.any(1), cache.look_up(keys), 0.0)
        first = last
    return values


def _same_on_all(values: np.ndarray, world: World) -> np.ndarray:
    """The main rank's numbers."""
    if world.size == 1:
        return values
    shared = torch.from_numpy(values).to(world.device)
    dist.broadcast(shared, src=0)
    return shared.cpu().numpy()


def _first_alike(trees: Sequence[TokenTree]) -> np.ndarray:
    """(A,) for every answer the number of the first one of the same path."""
    keys = np.concatenate([np.empty((0, 2), np.uint64), *_answer_keys(trees)])
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal keys stay in their order
    begins = np.ones(len(keys), bool)
    begins[1:] = (keys[order[1:]] != keys[order[:-1]]).any(1)
    firsts = np.empty(len(keys), np.int64)
    firsts[order] = order[begins][np.cumsum(begins) - 1]
    return firsts


def _missing(
    chunk: np.ndarray, starts: np.ndarray, values: np.ndarray, first_alike: np.ndarray | None
) -> list[int]:
    """The examples of a chunk that lack an answer's log-prob, once what others brought is filled in."""
    missing = []
    for i in chunk.tolist():
        of_example = slice(starts[i], starts[i + 1])
        unknown = np.isnan(values[of_example])
        if not unknown.any():
            continue
        values[of_example] = np.where(unknown, values[first_alike[of_example]], values[of_example])
        if np.isnan(values[of_example]).any():
            missing.append(i)
    return missing


# --- computing ----------------------------------------------------------------------------------------------


def _compute_and_add(
    policy: models.Scorer,
    trees: Sequence[TokenTree],
    missing: Sequence[int],
    starts: np.ndarray,
    values: np.ndarray,
    packing: Packing,
    world: World,
    cache: ReferenceCache | None,
) -> None:
    """Fill in the values of the missing examples: what the cache then holds of them."""
    needed = {i: trees[i] for i in missing}
    logps = _compute(policy, needed, packing, world)
    keys = sorted(logps)  # on all ranks alike

    def add() -> np.ndarray:
        return cache.add(keys_as_numbers(keys), np.asarray([logps[key] for key in keys]))

    held = dict(zip(keys, on_main(world, add).tolist()))
    for i, tree in needed.items():
        for at, key in enumerate(path_keys(tree), starts[i]):
            if key is not None and np.isnan(values[at]):
                values[at] = held[key]


@torch.no_grad()
def _compute(policy: models.Scorer, trees: Mapping[int, TokenTree], packing: Packing, world: World) -> Logps:
    """The log-probs of these examples' paths, over all ranks."""
    logps: Logps = {}
    packs = schedule.share_of(schedule.plan_step(trees, list(trees), packing, world.size), world)
    for rows in tqdm(packs, desc="packs", leave=False, disable=not world.is_main):
        batch = schedule.batch_of(trees, rows, packing).to(models.device_of(policy))
        values = models.score(policy, batch).policy.tolist()
        members = [i for row in rows for i in row]
        for i, of_answers in zip(members, values):
            for key, value in zip(path_keys(trees[i]), of_answers):
                if key is not None:
                    logps[key] = value
    for part in gathered(logps, world):
        logps |= part
    return logps


def keys_as_numbers(keys: Sequence[bytes]) -> np.ndarray:
    """(A, 2) numbers of A keys."""
    return np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2)


# --- the folder -------------------------------------------------------------------------------------------


def cache_folder(policy: models.Scorer, fingerprint: str) -> Path:
    """The folder of this model's log-probs: named by all that changes a pass beside the tokens."""
    config = {key: value for key, value in policy.model.config.to_dict().items() if key not in NOT_IN_A_PASS}
    facts = {
        "config": config,
        "weights": str(next(policy.parameters()).dtype),
        "passes": str(policy.compute_dtype),
        "attention": policy.attention,
        "version": VERSION,
        "libraries": models.versions(),
    }
    device = models.device_of(policy).type
    if device == "mps":  # passes on other devices have other attentions
        facts["device"] = device
    text = json.dumps(facts, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return cache_dir() / "reference" / f"{fingerprint}-{digest}"


# --- the first step -----------------------------------------------------------------------------------------

LossFn = Callable[[losses.Scores], torch.Tensor]


def step0_tolerance(policy: models.Scorer) -> float:
    """Nats for each root of a response's tokens."""
    dtypes = {policy.compute_dtype, next(policy.parameters()).dtype}
    return STEP0_TOLERANCE if dtypes == {torch.float32} else STEP0_TOLERANCE_OF_BF16


def with_step0_check(loss_fn: LossFn, tolerance: float) -> LossFn:
    """Check the first pack of a new run: policy and reference are then one model, so every log-ratio is 0 up
    to rounding and the loss has its closed form (log 2 for DPO, log K for InfoNCA, ...).

    The loss that is returned raises UserError on a mismatch.
    """
    pending = True

    def checked(scores: losses.Scores) -> torch.Tensor:
        nonlocal pending
        values = loss_fn(scores)
        if pending and len(values):
            pending = False
            _check_step0(loss_fn, scores, values.detach(), tolerance)
        return values

    return checked


def _check_step0(loss_fn: LossFn, scores: losses.Scores, values: torch.Tensor, tolerance: float) -> None:
    closed_form = losses.at_reference(loss_fn, scores)
    log.info(
        "step-0 check: loss is %.4f, in closed form %.4f", values.mean().item(), closed_form.mean().item()
    )
    log_ratio = (scores.policy.detach() - scores.reference)[scores.valid]
    a_token = log_ratio.square() / scores.length[scores.valid]
    if not a_token.mean().sqrt() <= tolerance:
        worst = log_ratio.abs().max().item()
        raise UserError(
            f"step 0: a log-ratio of policy and reference is off by {worst:.2f} nats, so the cached "
            "reference is not this model's; remove the folder reference/ of the cache and start again"
        )
