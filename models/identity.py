"""What determines the outcome of a policy's passes, as plain values: the name of a result that is kept.

Contract: two policies with one identity give the same numbers, up to what a device's kernels leave open.
"""

from __future__ import annotations

from models.scorer import Scorer, device_of, versions
from models.weights import fingerprint


def identity(policy: Scorer) -> dict[str, object]:
    """Weights (as a hash), config, dtypes, attention, device and versions. A call for all ranks."""
    return {
        "weights": fingerprint(policy),
        "config": policy.model.config.to_dict(),
        "generation": str(policy.model.generation_config),
        "dtypes": [str(next(policy.parameters()).dtype), str(policy.compute_dtype)],
        "attention": policy.attention,
        "device": device_of(policy).type,
        **versions(),
    }
