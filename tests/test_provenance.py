"""Which code made something: the commit of a clone, and nothing where there is none."""

import subprocess

import pytest

from provenance import commit_of


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / "clone"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "code.py").write_text("1\n")
    git(folder, "add", "code.py")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_clone_says_its_commit_and_whether_its_files_are_those_of_it(clone):
    head = git(clone, "rev-parse", "HEAD")
    assert commit_of(clone) == head
    (clone / "results.txt").write_text("untracked files are no code\n")
    assert commit_of(clone) == head
    (clone / "code.py").write_text("2\n")
    assert commit_of(clone) == head + "+"


def test_a_folder_that_is_no_clone_says_nothing(clone, tmp_path):
    assert commit_of(tmp_path) is None
    assert commit_of(tmp_path / "missing") is None
    (clone / "below").mkdir()
    assert commit_of(clone / "below") is None, "the commit of another project is not ours"


def test_without_git_there_is_no_commit(clone, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit_of(clone) is None
