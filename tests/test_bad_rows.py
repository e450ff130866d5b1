"""A bad row far down in a file: one line on any number of ranks, and nothing left behind."""

import os
from typing import Any, NamedTuple

import pytest
from bench import exit_code, fork, free_port, rank_variables
from data_helpers import prepared, settings_of, write
from helpers import byte_tokenizer

import preference_datasets as data
import ranks
from utils import UserError, guarded

QUICK = ["eval_fraction=0.0005", "n_eval_examples=1"]
NUMBER = 2000


class Bad(NamedTuple):
    """A row that is wrong among rows that are not, and what is said of it."""

    good: dict[str, Any]
    bad: Any
    said: str


RESPONSES = [{"text": "a", "reward": 1}, {"text": "b", "reward": 0}]
OWN = {"prompt": "Say {}", "responses": RESPONSES}
PAIR = {"prompt": "Say {}", "chosen": "a", "rejected": "b"}
BAD = {
    "reward": Bad(OWN, {**OWN, "responses": [{"text": "a", "reward": "x"}]}, r"field responses\[0\].reward"),
    "weight": Bad(OWN, {**OWN, "weight": -1}, "field weight: -1 is no number above 0"),
    "field": Bad(OWN, {**OWN, "chosen": "a"}, "field chosen: unknown"),
    "one_response": Bad(OWN, {**OWN, "responses": RESPONSES[:1]}, "field responses: .* two or more"),
    "object": Bad(PAIR, [1], "not a JSON object"),
    "kind": Bad(PAIR, {**PAIR, "chosen": 3}, "field chosen"),
    "eos": Bad(PAIR, {**PAIR, "chosen": "a<eos>b"}, "field responses: text: holds the tokenizer's eos_token"),
}


def file_of(tmp_path, kind):
    """A file whose row NUMBER is bad."""
    good, bad, _ = BAD[kind]
    rows = [{**good, "prompt": f"Say {i}"} for i in range(NUMBER + 50)]
    rows[NUMBER - 1] = bad
    return write(tmp_path / "bad.jsonl", *rows)


def left_in_cache(tmp_path):
    """What is in the cache's folders of data."""
    return [name for folder in (tmp_path / "cache" / "data").glob("*") for name in os.listdir(folder)]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_far_down_is_one_line_that_names_it(tmp_path, kind):
    file = file_of(tmp_path, kind)
    with pytest.raises(UserError, match=f"bad.jsonl, row {NUMBER}: .*{BAD[kind].said}") as caught:
        prepared(f"datasets=[{file}]", *QUICK)
    assert "\n" not in str(caught.value)
    assert left_in_cache(tmp_path) == []


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("kind", ["reward", "eos"])
def test_every_rank_ends_with_the_same_line(tmp_path, kind, size):
    """Rank 0 alone reads the rows."""
    file, port = file_of(tmp_path, kind), free_port()

    def work(rank):
        if size > 1:
            os.environ |= {**rank_variables(rank, size, port), "GLOO_SOCKET_IFNAME": "lo"}
        world = ranks.init_distributed()
        settings, needs = settings_of(f"datasets=[{file}]", *QUICK)
        guarded(data.prepare)(settings, needs, byte_tokenizer(), world)

    outputs = [(tmp_path / f"rank{rank}").open("w+") for rank in range(size)]
    children = [fork(lambda rank=rank: work(rank), outputs[rank]) for rank in range(size)]
    codes = [exit_code(child) for child in children]
    for rank in range(size):
        said = (tmp_path / f"rank{rank}").read_text()
        assert codes[rank] == 2, said
        (line,) = [line for line in said.splitlines() if line.strip() and "preparing" not in line]
        assert line.startswith(f"error: {file}, row {NUMBER}: ")
        assert "Traceback" not in said
    assert left_in_cache(tmp_path) == []
