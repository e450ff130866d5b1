"""Reference log-probs: computed once with the policy before its first update, cached on disk by content.

Contract: one number (nats) for each (prompt, belief, answer) path, keyed by a hash of its token ids, in a
file named by hashes of the weights and of all else that changes a pass (config, dtypes, attention,
versions). Another loss, order, subset or k reuses what is there; a file that is damaged is recomputed, never
used. No second model ever exists. The order of the work depends on the examples alone, so a run that was
killed here and goes on gets the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

import losses
import models
import schedule
from forest import Ids, TokenTree
from ranks import World, gathered, on_main
from schedule import Packing
from utils import UserError, atomic_path, cache_dir, locked, log

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
    wanted: Sequence[int] | None = None,
) -> list[TokenTree]:
    """Fill `reference` of every tree, or of the `wanted` ones: summed log-probs (nats) of its answers under
    `policy`, which must be the reference.

    What the cache holds is read; the rest is computed on all ranks and added to the cache.
    """
    path = cache_path(policy, fingerprint)
    # ranks that knew different entries would plan different work
    known = on_main(world, lambda: read_cache(path))
    keys = [path_keys(tree) for tree in trees]
    wanted = sorted(wanted) if wanted is not None else range(len(trees))
    computed = 0
    with tqdm(total=len(wanted), desc="reference", unit="ex", disable=not world.is_main) as bar:
        for first in range(0, len(wanted), PLAN_CHUNK):
            chunk = wanted[first : first + PLAN_CHUNK]
            missing = [i for i in chunk if not all(key is None or key in known for key in keys[i])]
            if missing:
                known |= _compute_and_add(policy, trees, missing, packing, world, path)
            computed += len(missing)
            bar.update(len(chunk))
    log.info("reference log-probs: %d of %d examples from the cache", len(wanted) - computed, len(wanted))
    filled = list(trees)
    for i in wanted:
        logps = tuple(0.0 if key is None else known[key] for key in keys[i])
        filled[i] = trees[i]._replace(reference=logps)
    return filled


def _compute_and_add(
    policy: models.Scorer,
    trees: Sequence[TokenTree],
    missing: Sequence[int],
    packing: Packing,
    world: World,
    path: Path,
) -> Logps:
    """What the cache then holds for the missing examples' paths."""
    logps = _compute(policy, trees, missing, packing, world)
    return on_main(world, lambda: add_to_cache(path, logps))


@torch.no_grad()
def _compute(
    policy: models.Scorer, trees: Sequence[TokenTree], missing: Sequence[int], packing: Packing, world: World
) -> Logps:
    """The log-probs of the missing examples' paths, over all ranks."""
    logps: Logps = {}
    packs = schedule.share_of(schedule.plan_step(trees, missing, packing, world.size), world)
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


# --- keys ---------------------------------------------------------------------------------------------------


def cache_path(policy: models.Scorer, fingerprint: str) -> Path:
    """The file of this model's log-probs: named by all that changes a pass beside the tokens."""
    config = {key: value for key, value in policy.model.config.to_dict().items() if key not in NOT_IN_A_PASS}
    facts = {
        "config": config,
        "weights": str(next(policy.parameters()).dtype),
        "passes": str(policy.compute_dtype),
        "attention": policy.attention,
        "version": VERSION,
        "libraries": models.versions(),
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return cache_dir() / "reference" / f"{fingerprint}-{digest}.safetensors"


def path_keys(tree: TokenTree) -> list[bytes | None]:
    """The key of every answer's path; None where an example has no such answer."""
    return [path_key(tree.prompt, tree.belief, answer) if answer else None for answer in tree.answers]


def path_key(prompt: Ids, belief: Ids, answer: Ids) -> bytes:
    """16 bytes that name one scored path; parts are length-prefixed, so no two splits of the same ids
    collide.
    """
    numbers = np.asarray([len(prompt), len(belief), *prompt, *belief, *answer], np.int64)
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()


# --- the file -----------------------------------------------------------------------------------------------


def read_cache(path: Path) -> Logps:
    """The cached log-probs by path key; empty where there is no file, and, with a warning, where it is
    damaged.
    """
    try:
        if not path.exists():
            return {}
        with safe_open(path, "np") as file:
            keys, logps = file.get_tensor("keys"), file.get_tensor("logps")
            digest = (file.metadata() or {}).get("digest")
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        log.warning("reference cache %s is damaged (%s): computing it again", path, reason)
        return {}
    if digest != _digest(keys, logps):
        log.warning("reference cache %s does not match its checksum: computing it again", path)
        return {}
    return {key.tobytes(): float(value) for key, value in zip(keys, logps)}


def add_to_cache(path: Path, logps: Logps) -> Logps:
    """Add log-probs to the file and give those that it then holds for these paths: where two runs computed
    one, the first stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent, wait=True):
            known = {**logps, **read_cache(path)}
            write_cache(path, known)
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        log.warning("reference cache %s cannot be written (%s): going on without it", path, reason)
        return logps
    return {key: known[key] for key in logps}


def write_cache(path: Path, known: Logps) -> None:
    """Write the cache whole, by rename, with a checksum."""
    keys = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 16)
    logps = np.asarray(list(known.values()), np.float64)
    with atomic_path(path) as temporary:
        save_file({"keys": keys, "logps": logps}, temporary, metadata={"digest": _digest(keys, logps)})


def _digest(keys: np.ndarray, logps: np.ndarray) -> str:
    return hashlib.blake2b(keys.tobytes() + logps.tobytes(), digest_size=16).hexdigest()


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
