"""What this machine has for a process: cores, free memory, and the memory that was held; on Linux and macOS.

Contract: a number that a system does not say is no error. Nothing is imported but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
from pathlib import Path


def num_cores() -> int:
    """The processor's cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> float:
    """Bytes of memory that can be had; infinite where the system does not say."""
    found = float("inf")
    with contextlib.suppress(OSError):
        (kilobytes,) = re.findall(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
        found = int(kilobytes) * 1024
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found


def peak_resident() -> int:
    """The most bytes that this process held in memory."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
