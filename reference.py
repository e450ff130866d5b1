"""Reference log-probs: computed once with the policy before its first update, cached on disk by content.

Contract: one number (nats) for each (prompt, belief, answer) path, keyed by a hash of its token ids, in a file named by the
hash of the weights, their dtype and the attention backend. Another loss, order, subset or k reuses what is there; a file
that is damaged is recomputed, never used. No second model ever exists. The order of the work depends on the examples alone,
so a run that was killed here and goes on gets the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

import forest
import models
from ranks import World
from utils import atomic_path, cache_dir, locked, log

PLAN_CHUNK = 1024  # examples planned, computed and written at once: planning is quadratic in the worst case


def reference_logps(
    policy: models.Scorer,
    trees: Sequence[forest.TokenTree],
    fingerprint: str,
    pad_id: int,
    max_tokens: int,
    row_tokens: int,
    world: World,
    share: bool = True,
    wanted: Sequence[int] | None = None,
) -> list[forest.TokenTree]:
    """Fill `reference` of every tree, or of the `wanted` ones: summed log-probs (nats) of its answers under `policy`, which
    must be the reference.

    What the cache holds is read; the rest is computed on all ranks and added to the cache.
    """
    dtype = "-".join(
        str(d).removeprefix("torch.") for d in (next(policy.parameters()).dtype, policy.compute_dtype)
    )
    path = cache_dir() / "reference" / f"{fingerprint}-{dtype}-{policy.attention}.safetensors"
    known = shared_from_main(read_cache(path) if world.is_main else {}, world)
    keys = [[path_key(t.prompt, t.belief, a) if a else None for a in t.answers] for t in trees]
    wanted = sorted(wanted) if wanted is not None else range(len(trees))
    computed = 0
    with tqdm(total=len(wanted), desc="reference", unit="ex", disable=not world.is_main) as bar:
        for first in range(0, len(wanted), PLAN_CHUNK):
            chunk = wanted[first : first + PLAN_CHUNK]
            missing = [i for i in chunk if any(k is not None and k not in known for k in keys[i])]
            if missing:
                found = _compute(policy, trees, keys, missing, pad_id, max_tokens, row_tokens, world, share)
                known |= shared_from_main(add_to_cache(path, found) if world.is_main else {}, world)
            computed += len(missing)
            bar.update(len(chunk))
    log.info("reference log-probs: %d of %d examples from the cache", len(wanted) - computed, len(wanted))
    filled = list(trees)
    for i in wanted:
        filled[i] = trees[i]._replace(reference=tuple(0.0 if k is None else known[k] for k in keys[i]))
    return filled


def shared_from_main(value: dict[bytes, float], world: World) -> dict[bytes, float]:
    """The main rank's value on every rank: ranks that knew different entries would plan different work."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=world.device)
    return box[0]


def path_key(prompt: forest.Ids, belief: forest.Ids, answer: forest.Ids) -> bytes:
    """16 bytes that name one scored path; the parts are length-prefixed, so no two splits of the same ids collide."""
    numbers = np.asarray([len(prompt), len(belief), *prompt, *belief, *answer], np.int64)
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()


@torch.no_grad()
def _compute(
    policy, trees, keys, missing, pad_id, max_tokens, row_tokens, world, share
) -> dict[bytes, float]:
    """The log-probs of the missing examples' paths, over all ranks."""
    device, found = models.device_of(policy), {}
    rows_of = forest.plan_step(trees, missing, max_tokens, row_tokens, world.size, share)[
        world.rank :: world.size
    ]
    for rows in tqdm(rows_of, desc="packs", leave=False, disable=not world.is_main):
        values = models.score(policy, forest.pack(trees, rows, pad_id, share).to(device)).policy.tolist()
        members = [i for row in rows for i in row]
        for i, row in zip(members, values):
            found.update((k, v) for k, v in zip(keys[i], row) if k is not None)
    if world.size > 1:
        parts: list[dict] = [{}] * world.size
        dist.all_gather_object(parts, found)
        found = {k: v for part in parts for k, v in part.items()}
    return found


def read_cache(path: Path) -> dict[bytes, float]:
    """The cached log-probs by path key; empty where there is no file, and, with a warning, where it is damaged."""
    if not path.exists():
        return {}
    try:
        with safe_open(path, "np") as file:
            keys, logps, digest = (
                file.get_tensor("keys"),
                file.get_tensor("logps"),
                (file.metadata() or {}).get("digest"),
            )
    except (SafetensorError, OSError) as error:
        log.warning(
            "reference cache %s is damaged (%s): computing it again", path, str(error).splitlines()[0]
        )
        return {}
    if digest != _digest(keys, logps):
        log.warning("reference cache %s does not match its checksum: computing it again", path)
        return {}
    return {key.tobytes(): float(value) for key, value in zip(keys, logps)}


def add_to_cache(path: Path, found: dict[bytes, float]) -> dict[bytes, float]:
    """Add log-probs to the file and give those that it then holds for these paths: where two runs computed one, the first stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent, wait=True):
            known = {**found, **read_cache(path)}
            write_cache(path, known)
    except (OSError, SafetensorError) as error:
        log.warning(
            "reference cache %s cannot be written (%s): going on without it", path, str(error).splitlines()[0]
        )
        return found
    return {key: known[key] for key in found}


def write_cache(path: Path, known: dict[bytes, float]) -> None:
    """Write the cache whole, by rename, with a checksum."""
    keys = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 16)
    logps = np.asarray(list(known.values()), np.float64)
    with atomic_path(path) as temporary:
        save_file({"keys": keys, "logps": logps}, temporary, metadata={"digest": _digest(keys, logps)})


def _digest(keys: np.ndarray, logps: np.ndarray) -> str:
    return hashlib.blake2b(keys.tobytes() + logps.tobytes(), digest_size=16).hexdigest()
