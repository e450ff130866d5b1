"""What the documents say is so."""

import re

from helpers import ROOT


def test_the_table_names_tests_that_exist():
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    named = []
    for row in rows:
        named += re.findall(r"`([a-z0-9_]{12,})`", row.split("|")[3])
    assert len(named) > 25
    assert not [name for name in named if f"def test_{name}(" not in tests]
