"""A run's prepared data in the user's cache: named by all it depends on, made once, complete or absent."""

import logging
import os
import signal
import tempfile
import time

import pytest
from bench import die, exit_code, fork, forked
from data_helpers import prepared, rows_with_beliefs, write
from helpers import byte_tokenizer

from groups import cache
from groups import prepared as preparing
from groups.stored import TreeWriter
from utils import UserError

EXAMPLES = 128  # to train on: 16 pairs are drawn for each of 8 prompts
QUICK = ["eval_fraction=0.3", "max_length=60", "max_prompt_length=40"]


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "rows.jsonl", *rows_with_beliefs(12))


def folders(tmp_path):
    """The folders of data in the cache."""
    return sorted((tmp_path / "cache" / "data").glob("*"))


def refuse(*_args):
    """What must not be called."""
    raise AssertionError("the data is read again")


def test_a_second_start_reads_nothing_of_the_data(file, tmp_path, monkeypatch):
    first = prepared(f"datasets=[{file}]", *QUICK)
    monkeypatch.setattr(preparing, "read_splits", refuse)
    second = prepared(f"datasets=[{file}]", *QUICK)
    assert list(second.trees["train"]) == list(first.trees["train"])
    assert second._replace(trees=None) == first._replace(trees=None)
    assert len(folders(tmp_path)) == 1


CHANGES = {
    "seed": ["seed=1"],
    "max_length": ["max_length=61"],
    "responses": ["responses=pairs.all"],
    "n_eval_examples": ["n_eval_examples=2"],
    "max_responses": ["max_responses=2"],
    "add_bos": ["add_bos=true"],
    "truncation": ["truncation=keep_start"],
    "shots": ["icf_shots=1"],
    "eval_fraction": ["eval_fraction=0.2"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_config_makes_another_cache(file, tmp_path, change):
    given = f"datasets=[{file}]"
    before = prepared(given, *QUICK)
    prepared(given, *QUICK, *CHANGES[change])
    assert len(folders(tmp_path)) == 2
    assert prepared(given, *QUICK).digests == before.digests
    assert len(folders(tmp_path)) == 2


def other_tokenizer():
    """A tokenizer with one more token."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["Say"])
    return tokenizer


def with_template():
    """A tokenizer with a chat template."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    return tokenizer


@pytest.mark.parametrize("make", [other_tokenizer, with_template])
def test_another_tokenizer_or_template_makes_another_cache(file, tmp_path, make):
    prepared(f"datasets=[{file}]", *QUICK)
    prepared(f"datasets=[{file}]", *QUICK, tokenizer=make())
    assert len(folders(tmp_path)) == 2


def test_a_changed_byte_of_the_file_makes_another_cache(file, tmp_path):
    before = prepared(f"datasets=[{file}]", *QUICK)
    path = tmp_path / "rows.jsonl"
    stat = path.stat()
    path.write_text(path.read_text().replace("Say 3", "Say x"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # of the same size and time
    after = prepared(f"datasets=[{file}]", *QUICK)
    assert len(folders(tmp_path)) == 2
    assert (
        after.digests["train"] != before.digests["train"] or after.digests["eval"] != before.digests["eval"]
    )


def test_keys_that_data_does_not_depend_on_make_no_other_cache(file, tmp_path):
    for overrides in ([], ["lr=1e-3"], ["batch_size=3"], ["loss.beta=0.3"], ["shuffle=prompts"]):
        prepared(f"datasets=[{file}]", *QUICK, *overrides)
    assert len(folders(tmp_path)) == 1


# --- damage, death, and others at the same time -------------------------------------------------------------


def flip(path):
    """Change a byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "flipped": flip,
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
}


DAMAGED = [
    *(("train.trees.arrow", damage) for damage in DAMAGES),
    ("eval.trees.arrow", "gone"),
    ("facts.json", "cut"),
    ("hashes.json", "flipped"),
]


@pytest.mark.parametrize("name,damage", DAMAGED)
def test_a_damaged_file_is_made_again(file, tmp_path, caplog, name, damage):
    before = prepared(f"datasets=[{file}]", *QUICK)
    trees = list(before.trees["train"])
    del before  # its map of the file
    (folder,) = folders(tmp_path)
    DAMAGES[damage](folder / "ready" / name)
    after = prepared(f"datasets=[{file}]", *QUICK)
    assert list(after.trees["train"]) == trees
    assert "is damaged: making it again" in caplog.text
    caplog.clear()
    prepared(f"datasets=[{file}]", *QUICK)
    assert not caplog.records
    assert os.listdir(folder) == ["ready"]


MOMENTS = [
    (TreeWriter, "append", 1),
    (TreeWriter, "append", 2),
    (cache, "write_json", 2),
    (cache, "to_disk", 1),
]


@pytest.mark.parametrize("place,name,call", MOMENTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_maker_that_dies_half_way_leaves_nothing_that_counts(file, tmp_path, place, name, call):
    def work():
        die(place, name, call)
        prepared(f"datasets=[{file}]", *QUICK)

    code, said = forked(work)
    assert code == -signal.SIGKILL, said
    (folder,) = folders(tmp_path)
    assert not (folder / "ready").exists()
    assert len(os.listdir(folder)) == 1  # what was begun
    after = prepared(f"datasets=[{file}]", *QUICK)
    assert len(after.trees["train"]) == EXAMPLES
    assert os.listdir(folder) == ["ready"]


def test_an_error_half_way_leaves_nothing(file, tmp_path, monkeypatch):
    monkeypatch.setattr(TreeWriter, "append", refuse)
    with pytest.raises(AssertionError):
        prepared(f"datasets=[{file}]", *QUICK)
    (folder,) = folders(tmp_path)
    assert os.listdir(folder) == []


def test_two_processes_at_once_make_it_once(file, tmp_path):
    """The second one waits for the first; it meets its own ranks while it does."""
    notes = tmp_path / "notes"
    notes.mkdir()

    def work():
        make = preparing.make

        def noted(*args):
            (notes / str(os.getpid())).touch()
            time.sleep(0.3)
            return make(*args)

        preparing.make = noted
        assert len(prepared(f"datasets=[{file}]", *QUICK).trees["train"]) == EXAMPLES

    with (tmp_path / "said").open("w") as said:
        children = [fork(work, said) for _ in range(3)]
        codes = [exit_code(child) for child in children]
    assert codes == [0, 0, 0], (tmp_path / "said").read_text()
    assert len(list(notes.iterdir())) == 1


def test_who_waits_for_another_process_does_so_by_turns(tmp_path):
    """Its ranks meet meanwhile, and those of the other process may be among them."""
    folder = cache.folder_of("data", "k")
    calls = []

    def make(path):
        yield
        calls.append(1)
        (path / "x").write_text("x")
        return {}

    one, other = cache.made(folder, make), cache.made(folder, make)
    next(one)
    assert next(other, "end") is None  # it came back, and nothing is done
    assert list(one) == []
    assert list(other) == []
    assert len(calls) == 1
    assert cache.read_facts(folder) == {}


def test_a_cache_that_cannot_be_written_costs_a_warning(file, tmp_path, monkeypatch, caplog):
    (tmp_path / "taken").write_text("a file, and no folder")
    monkeypatch.setenv("GROVE_CACHE", str(tmp_path / "taken"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(logging.getLogger("grove"), "propagate", True)
    with caplog.at_level(logging.WARNING, "grove"):
        assert len(prepared(f"datasets=[{file}]", *QUICK).trees["train"])
    spare = tmp_path / f"grove-{os.getuid()}"
    assert f"cannot be written (Not a directory): {spare} holds the data" in caplog.text
    assert spare.stat().st_mode & 0o777 == 0o700


def test_a_temporary_folder_of_another_user_is_not_used(file, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file, and no folder")
    monkeypatch.setenv("GROVE_CACHE", str(tmp_path / "taken"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"grove-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is another user's; set GROVE_CACHE"):
        prepared(f"datasets=[{file}]", *QUICK)


def test_what_no_run_opens_for_a_month_goes_when_another_one_is_made(file, tmp_path):
    prepared(f"datasets=[{file}]", *QUICK)
    (old,) = folders(tmp_path)
    os.utime(old, (0, time.time() - cache.UNUSED - 60))
    prepared(f"datasets=[{file}]", *QUICK)  # it is used again
    prepared(f"datasets=[{file}]", *QUICK, "seed=1")
    assert len(folders(tmp_path)) == 2
    os.utime(old, (0, time.time() - cache.UNUSED - 60))
    prepared(f"datasets=[{file}]", *QUICK, "seed=2")
    assert len(folders(tmp_path)) == 2 and not old.exists()


def test_a_full_disk_while_the_cache_is_written_is_one_line(file, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TreeWriter, "append", full)
    with pytest.raises(
        UserError, match="cache folder .*: cannot be written .No space left on device.; make room"
    ):
        prepared(f"datasets=[{file}]", *QUICK)
    (folder,) = folders(tmp_path)
    assert os.listdir(folder) == []
