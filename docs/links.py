"""Links of a notebook's page on the site: mkdocs rewrites `data.md` in pages of Markdown alone.

Contract: a hook of mkdocs.yml. In the file the links stay as they are, for whoever opens it beside the pages.
"""

from __future__ import annotations

import re
from typing import Protocol


class File(Protocol):
    """What mkdocs says of a page's source."""

    src_uri: str


class Page(Protocol):
    """What mkdocs says of a page."""

    file: File


def on_post_page(output: str, page: Page, config: object) -> str:
    """The page as it is written. A notebook's page is tutorial/index.html, its neighbours are ../data/."""
    if not page.file.src_uri.endswith(".ipynb"):
        return output
    return re.sub(r'href="([\w/]+)\.md(#[\w-]+)?"', r'href="../\1/\2"', output)
