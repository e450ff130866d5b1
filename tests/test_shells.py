"""Scripts run under the bash of macOS, 3.2, and with the tools of BSD."""

import re

import pytest
from helpers import ROOT

# those of Slurm run on Linux alone
SCRIPTS = sorted([*ROOT.glob("train_scripts/*.sh"), *ROOT.glob("experiments/*.sh")])
NEWER = {
    "mapfile": r"\b(mapfile|readarray|coproc)\b",
    "${x,,}": r"\$\{\w+(\[[^]]*\])?(,|\^|@[A-Za-z])",
    "declare -A": r"\b(declare|local|typeset) +-\w*[Ang]",
    "wait -n": r"\bwait +-n",
    "[[ -v": r"\[\[? +-v ",
    "${x: -1} of an array": r"\[-\d+\]",
    "&>>": r"&>>|\|&",
    ";;&": r";;&|;&",
    "printf %(...)T": r"printf [^|;]*%\(",
    "EPOCHSECONDS": r"\bEPOCH(SECONDS|REALTIME)\b",
    "shopt": r"\bshopt\b.*\b(globstar|lastpipe|inherit_errexit)\b",
}
GNU = {
    "sed": r"\bsed +(-\w+ +)*(-\w*[irsz]|--)",
    "readlink": r"\breadlink\b|\brealpath\b",
    "date": r"\bdate +(-\w*[dI]|--)",
    "stat": r"\bstat +-",
    "grep": r"\bgrep +(-\w+ +)*(-\w*P|--)",
    "head and tail": r"\bhead +-(n *|c *)-|\btail +--",
    "sort": r"\bsort +(-\w*[VR]|--)",
    "xargs": r"\bxargs +(-\w*[rd]|--)",
    "ps": r"\bps +.*--",
    "tools that macOS lacks": r"(^|[;&|(] *)(nproc|timeout|tac|shuf|numfmt|flock|setsid|sha256sum|free)\b",
}
# indentation, name, "+" where it adds, first word; a use that is safe
ASSIGNED = re.compile(r"(?:(?:^|;)( *))(?:local +)?(\w+)(\+?)=\(\s*([^\s)]*)")
GUARDED = re.compile(r"\$\{(\w+)\[([@*])\]\+\"\$\{\1\[\2\]\}\"\}")


def code_of(path):
    """A script's lines without comments, by number; Python in here-documents stays."""
    lines = path.read_text().splitlines()
    return [(number, re.sub(r"(^|\s)#.*", "", line)) for number, line in enumerate(lines, 1)]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_needs_a_newer_bash_or_tools_of_gnu(path):
    for number, line in code_of(path):
        for name, pattern in {**NEWER, **GNU}.items():
            assert not re.search(pattern, line), f"{path.name}:{number}: {name}: {line.strip()}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_an_array_that_may_be_empty_is_guarded(path):
    """Under `set -u`, bash before 4.4 takes "${x[@]}" of an empty array for an unset variable.

    An array holds something from where a line of its own assigns or adds a word that is there.
    """
    may_be_empty = set()
    for number, line in code_of(path):
        for name in re.findall(r"\$\{(\w+)\[[@*]\]\}", GUARDED.sub("", line)):
            assert name not in may_be_empty, f'{path.name}:{number}: write ${{{name}[@]+"${{{name}[@]}}"}}'
        for indent, name, adds, first in ASSIGNED.findall(line):
            if re.match(r"[\"']?\w|\"\$\w", first) and not indent:
                may_be_empty.discard(name)
            elif not adds:
                may_be_empty.add(name)


def test_the_patterns_find_what_they_are_for():
    """Each on a line that only newer or GNU tools understand, and on none that older ones do."""
    for line in (
        'mapfile -t x <<< "$y"',
        'echo "${x,,}"',
        "declare -A x",
        "local -n x=y",
        "cmd &>> log",
        "echo ${x[-1]}",
    ):
        assert any(re.search(pattern, line) for pattern in NEWER.values()), line
    for line in (
        "sed -i s/a/b/ x",
        "sed -n -r s/a/b/",
        "readlink -f x",
        "date -d now",
        "head -n -1",
        "timeout 5 x",
    ):
        assert any(re.search(pattern, line) for pattern in GNU.values()), line
    for line in (
        "sed -n 's/a//p'",
        "sed -E 's/a//'",
        "grep '^a' x",
        "head -n 1",
        'x="${y//a/b}"',
        "local a=() b",
        "x=${y##*:}",
    ):
        assert not any(re.search(pattern, line) for pattern in {**NEWER, **GNU}.values()), line
