"""Work of one rank while the others wait, and steps that are prepared ahead of their time."""

import json
import os
import threading
import time

import pytest
from bench import exit_code, fork, free_port, rank_variables
from helpers import CPU
from hypothesis import given, settings
from hypothesis import strategies as st

import forest
import ranks
import schedule
from schedule import Data, Order, Packing
from utils import UserError

# --- by turns -----------------------------------------------------------------------------------------------


def of_two(tmp_path, work_of):
    """What `by_turns` came to on each of two ranks: None, or the error's text, and how long it took."""
    port = free_port()

    def job(rank):
        os.environ |= {**rank_variables(rank, 2, port), "GLOO_SOCKET_IFNAME": "lo"}
        world = ranks.init_distributed()
        ranks.TURN = 0.05
        said, start = None, time.monotonic()
        try:
            ranks.by_turns(work_of(rank), world)
        except UserError as error:
            said = str(error)
        waited = time.monotonic() - start
        ranks.wait(world)  # nobody left early, and all speak in the same order
        ranks.leave_distributed()
        (tmp_path / f"said{rank}").write_text(json.dumps([said, waited]))

    with (tmp_path / "output").open("w") as output:
        children = [fork(lambda rank=rank: job(rank), output) for rank in range(2)]
        codes = [exit_code(child) for child in children]
    assert codes == [0, 0], (tmp_path / "output").read_text()
    return [json.loads((tmp_path / f"said{rank}").read_text()) for rank in range(2)]


def steps(number, seconds=0.0, fails_at=None, said=""):
    """So many steps of some work, one of which may fail."""
    for step in range(number):
        if step == fails_at:
            raise UserError(said)
        time.sleep(seconds)
        yield


def test_the_others_wait_for_the_rank_that_works(tmp_path):
    told = of_two(tmp_path, lambda rank: steps(20, 0.02) if rank == 0 else ())
    assert [said for said, _ in told] == [None, None]
    assert all(waited >= 0.4 for _, waited in told)


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_rank_reaches_all(tmp_path, failing):
    def work_of(rank):
        return steps(30, 0.01, 9, f"of rank {rank}") if rank == failing else ()

    assert [said for said, _ in of_two(tmp_path, work_of)] == [f"of rank {failing}"] * 2


def test_of_two_errors_all_ranks_say_the_same(tmp_path):
    told = of_two(tmp_path, lambda rank: steps(9, 0.01, 3 + 4 * rank, f"of rank {rank}"))
    assert [said for said, _ in told] == ["of rank 0"] * 2


def test_a_process_alone_does_all_of_its_work():
    done = []
    ranks.by_turns((done.append(i) for i in range(7)), CPU)
    assert done == list(range(7))
    ranks.by_turns((), CPU)
    with pytest.raises(UserError, match="wrong"):
        ranks.by_turns(steps(3, fails_at=1, said="wrong"), CPU)


# --- the order of an epoch ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=20),
    st.integers(1, 7),
    st.sampled_from(["examples", "prompts"]),
    st.lists(st.integers(0, 40), max_size=12),
)
def test_a_remembered_order_is_that_of_a_fresh_one(prompt_of, batch_size, shuffle, steps):
    """At any step, in any order of the steps."""
    order = Order(prompt_of, batch_size, 3, shuffle)
    for step in steps:
        assert order.examples(step) == Order(prompt_of, batch_size, 3, shuffle).examples(step)


def test_an_epoch_is_put_in_order_once(monkeypatch):
    calls = []
    permutation = Order._permutation
    monkeypatch.setattr(
        Order, "_permutation", lambda self, epoch: calls.append(epoch) or permutation(self, epoch)
    )
    order = Order(range(20), 4, 0)
    for step in range(10):
        order.examples(step)
    assert calls == [0, 1]


# --- steps ahead --------------------------------------------------------------------------------------------

PACKING = Packing(64, 16)


def trees_of(count):
    return [
        forest.TokenTree((i, 1), (), ((2, i), (3,) * (i % 4 + 1)), group=i, weight=1 + i % 2)
        for i in range(count)
    ]


def assert_same_step(one, other):
    """The same numbers, examples and tensors."""
    assert one[:3] == other[:3]
    for ours, theirs in ((one.packs, other.packs), (one.mismatched, other.mismatched)):
        assert (ours is None) == (theirs is None)
        for batch, of_other in zip(ours or (), theirs or (), strict=True):
            assert str(batch) == str(of_other)
            assert batch.input_ids.equal(of_other.input_ids) and batch.weight.equal(of_other.weight)


@pytest.mark.parametrize("has_mismatched", [False, True])
def test_steps_prepared_ahead_are_those_made_when_asked_for(has_mismatched):
    trees = trees_of(13)
    mismatched = [tree._replace(answers=((9, 9),)) for tree in trees] if has_mismatched else None
    data = Data(trees, mismatched)
    order = schedule.order_of(trees, 4, 5, "examples")
    ahead = schedule.ahead(data, order, PACKING, CPU, range(2, 9))
    for number in range(2, 9):
        step = ahead.take(number)
        assert step.number == number
        fresh = schedule.order_of(trees, 4, 5, "examples")
        assert_same_step(step, schedule.step_of(data, fresh, PACKING, CPU, number))
        assert step.weight == sum(trees[i].weight for i in step.examples)
    ahead.close()


def no_threads():
    """Whether no thread packs any more."""
    return not [thread for thread in threading.enumerate() if thread.name.startswith("packing")]


def test_a_step_is_prepared_while_the_one_before_is_at_work():
    made = []
    ahead = schedule.Ahead(lambda number: made.append(number) or number, range(5))
    assert ahead.take(0) == 0
    deadline = time.monotonic() + 5
    while made != [0, 1] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1]  # the next one, and no more
    ahead.close()
    assert no_threads()


def test_an_error_of_the_thread_is_raised_where_its_step_is_taken():
    def make(number):
        if number == 2:
            raise ValueError("step 2 is wrong")
        return number

    ahead = schedule.Ahead(make, range(9))
    assert [ahead.take(0), ahead.take(1)] == [0, 1]
    with pytest.raises(ValueError, match="step 2 is wrong"):
        ahead.take(2)
    ahead.close()
    assert no_threads()


def test_a_step_that_is_pending_does_not_hold_up_the_end():
    begun, go_on = threading.Event(), threading.Event()

    def make(number):
        if number:
            begun.set()
            go_on.wait(5)
        return number

    ahead = schedule.Ahead(make, range(9))
    ahead.take(0)
    assert begun.wait(5)
    threading.Timer(0.05, go_on.set).start()
    ahead.close()
    ahead.close()  # again: nothing
    assert no_threads()


def test_no_steps_are_prepared_where_none_are_left():
    ahead = schedule.Ahead(lambda number: 1 / 0, range(4, 4))
    ahead.close()
    one = schedule.Ahead(lambda number: number, range(3, 4))
    assert one.take(3) == 3
    one.close()


def test_what_is_waited_for_is_measured_and_starts_anew():
    ahead = schedule.Ahead(lambda number: time.sleep(0.02) or number, range(9))
    ahead.take(0)
    ahead.take(1)
    assert 0.01 < ahead.read() < 1
    assert ahead.read() == 0
    ahead.close()
