"""A process's memory for data does not grow with the data."""

import json
import re
import threading
from pathlib import Path

import pytest
from bench import forked
from data_helpers import prepared
from helpers import CPU

import schedule
from runs import meters

QUICK = ["eval_fraction=0.01", "n_eval_examples=4", "responses=pairs.best_vs_worst"]
MOST = 20e6  # bytes
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")


def resident():
    """Bytes of this process that no file holds."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024


def big_file(path, count):
    """Prompts of two responses each, in the own format."""
    with path.open("w") as file:
        for i in range(count):
            responses = [
                {"text": f"It is {i}, as we said before.", "reward": i % 7 + 1},
                {"text": "No.", "reward": 0},
            ]
            file.write(json.dumps({"prompt": f"Say {i}", "responses": responses}) + "\n")
    return f"datasets=[{path}]"


@LINUX
def test_memory_of_a_second_start_is_that_of_small_data(tmp_path):
    """Opening, the numbers of all examples, and a step; what a first start imports is there before."""
    grown = {}
    for count in (2_000, 20_000):
        names = big_file(tmp_path / f"{count}.jsonl", count)
        code, said = forked(lambda names=names: prepared(names, *QUICK))
        assert code == 0, said

        def second_start(names=names, count=count):
            prepared(f"datasets=[{tmp_path}/2000.jsonl]", *QUICK)
            before = resident()
            trees = prepared(names, *QUICK).trees["train"]
            order = schedule.order_of(trees, 32, 0, "examples")
            assert len([trees[i] for step in range(20) for i in order.examples(step)]) == 640
            grown_by = resident() - before
            (tmp_path / f"grown{count}").write_text(str(grown_by))
            assert len(trees) == count - count // 100

        code, said = forked(second_start)
        assert code == 0, said
        grown[count] = int((tmp_path / f"grown{count}").read_text())
    assert grown[20_000] - grown[2_000] < MOST / 4, grown  # some numbers an example, and no trees


class Peak:
    """The most memory that this process holds while a block runs, looked at every few milliseconds."""

    def __enter__(self):
        self.most, self.ends = resident(), threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self):
        while not self.ends.wait(0.005):
            self.most = max(self.most, resident())

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()


@LINUX
def test_memory_while_data_is_prepared_is_that_of_small_data(tmp_path):
    grown = {}
    for count in (4_000, 16_000):

        def first_start(count=count):
            prepared(big_file(tmp_path / "first.jsonl", 300), *QUICK)  # imports, and what is allocated once
            before = resident()
            names = big_file(tmp_path / f"{count}.jsonl", count)
            with Peak() as peak:
                prepared(names, *QUICK)
            (tmp_path / f"grown{count}").write_text(str(peak.most - before))

        code, said = forked(first_start)
        assert code == 0, said
        grown[count] = int((tmp_path / f"grown{count}").read_text())
    # 12,000 prompts as Python objects are 100 MB; allocators that take huge pages hold up to 20 more or fewer
    assert grown[16_000] - grown[4_000] < 2 * MOST, grown


def test_freed_memory_is_given_back_once_a_minute(monkeypatch):
    now, given = [0.0], []
    monkeypatch.setattr(meters.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(meters, "give_back_freed_memory", lambda: given.append(now[0]))
    memory = meters.FreedMemory(CPU)
    for second in range(150):
        now[0] = float(second)
        memory.give_back()
    assert given == [61.0, 122.0]
