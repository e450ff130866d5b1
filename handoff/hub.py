"""To the hub, by its own client.

Contract: the token is that of the environment, and stands in no message and no file. What the hub or the
network refuses is a UserError of one line; a repository is written in one commit, so it is never half there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils import UserError, one_line

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
KEPT = ".gitattributes"


def check(repository: str, overwrite: bool) -> None:
    """Raises UserError, before any work, where nothing could be pushed: no token, no network, a token that
    the hub does not know, or a repository that holds something and may not be overwritten."""
    from huggingface_hub import HfApi

    with _asking(repository):
        api = HfApi(token=_token(repository))
        api.whoami()
        is_there = api.repo_exists(repository)
        files = [name for name in api.list_repo_files(repository) if name != KEPT] if is_there else []
    if files and not overwrite:
        raise UserError(
            f"config key push={repository}: holds files; give another name, or overwrite=true to replace them"
        )


def push(folder: Path, repository: str, private: bool) -> str:
    """Make the repository where it is not there, and make its files those of the folder. Gives its address.

    Raises UserError as above.
    """
    from huggingface_hub import HfApi

    with _asking(repository):
        api = HfApi(token=_token(repository))
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Export of a checkpoint",
            delete_patterns="*",  # what an earlier export left
        )
    return str(address)


def _token(repository: str) -> str:
    held = [os.environ[name].strip() for name in TOKENS if os.environ.get(name, "").strip()]
    if not held:
        raise UserError(
            f"config key push={repository}: needs a token that may write in the environment; export "
            f"{TOKENS[0]}=<token>"
        )
    return held[0]


@contextmanager
def _asking(repository: str) -> Iterator[None]:
    """Raises UserError for whatever goes wrong: the client has its own kinds, and those of its transport."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = one_line(error) or type(error).__name__
        raise UserError(
            f"config key push={repository}: the hub could not be asked ({said}); check network and token, or "
            "give to=FOLDER and upload it later"
        ) from error
