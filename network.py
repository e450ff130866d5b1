"""Can the model and data hub be reached? Its client asks six times for every file, half a minute in all,
before it looks into its own cache: too long on a node or a laptop without a network.

Contract: one short try a process, and none before a name of the hub is to be loaded, none where
HF_HUB_OFFLINE or a proxy is set. Only `huggingface_hub` is imported, in the function that uses it.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import sys
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

log = logging.getLogger("grove")
SECONDS = 3.0  # that a hub may take to answer the try
PORTS = {"http": 80, "https": 443}


def prepare_for_hub(name: str) -> None:
    """Call before what may be a hub's name is loaded: where the hub cannot be reached, its client is switched
    to its cache. Nothing is done for a file or folder that is here."""
    if not Path(name).exists():
        _choose_cache_or_hub()


@functools.cache
def _choose_cache_or_hub() -> None:
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or getproxies() or answers(address.hostname or "", _port(address)):
        return
    log.info("the hub cannot be reached: models and data sets are looked for in its cache alone")
    os.environ["HF_HUB_OFFLINE"] = "1"  # for what is imported or started from here on
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:  # has its copy
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True


def _port(address: SplitResult) -> int:
    return address.port or PORTS.get(address.scheme, 443)


def answers(host: str, port: int) -> bool:
    """Does somebody listen there?"""
    try:
        socket.create_connection((host, port), SECONDS).close()
    except OSError:
        return False
    return True
