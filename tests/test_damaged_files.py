"""Damaged files by the thousand: each gives rows or is refused on one line, and is never followed further."""

import random

import pytest
from file_helpers import COMPRESSIONS, SUFFIXES, write_rows

import utils
from groups import open_table
from utils import UserError

ROWS = [
    {"prompt": f"Wie heißt Nummer {i}?", "chosen": "yes, " * i, "rejected": f"{i / 7}"} for i in range(30)
]
DAMAGED = 1000  # files of a kind


def damage(content, chance):
    """Cut the bytes, or flip, overwrite, remove or repeat some of them."""
    start = chance.randrange(len(content))
    end = min(len(content), start + chance.choice((1, 1, 1, 4, 40)))
    match chance.choice(("cut", "cut", "flip", "flip", "flip", "overwrite", "remove", "repeat")):
        case "cut":
            return content[:start]
        case "flip":
            flipped = bytearray(content)
            for at in [start, *(chance.randrange(len(content)) for _ in range(chance.choice((0, 0, 3))))]:
                flipped[at] ^= 1 << chance.randrange(8)
            return bytes(flipped)
        case "overwrite":
            return content[:start] + chance.randbytes(end - start) + content[end:]
        case "remove":
            return content[:start] + content[end:]
        case "repeat":
            return content[:end] + content[start:]


def read_to_the_end(name):
    """All rows are objects with places, or the error is one line with the file's name."""
    try:
        for where, row in open_table(str(name), "all").rows():
            assert isinstance(row, dict) and ", row " in where
        return True
    except UserError as error:
        assert str(error) and "\n" not in utils.one_line(error) and name.name in str(error)
        return False


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_any_damaged_file_is_read_or_refused_on_one_line(tmp_path, suffix, compression):
    path = write_rows(tmp_path / f"f{suffix}{compression}", ROWS)
    content, chance, read = path.read_bytes(), random.Random(f"{suffix}{compression}"), 0
    for _ in range(DAMAGED):
        path.write_bytes(damage(content, chance))
        read += read_to_the_end(path)
    assert read < DAMAGED  # some of them were damaged where it shows


def test_any_damaged_folder_of_save_to_disk_is_read_or_refused_on_one_line(tmp_path):
    import datasets

    folder, chance = tmp_path / "saved", random.Random(0)
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(DAMAGED):
        path = chance.choice(files)
        content = path.read_bytes()
        path.write_bytes(damage(content, chance))
        try:
            for where, row in open_table(str(folder), "train").rows():
                assert isinstance(row, dict) and str(folder) in where
        except UserError as error:
            assert str(folder) in str(error) and "\n" not in utils.one_line(error)
        path.write_bytes(content)
