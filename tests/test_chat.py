"""The chat client against a server that misbehaves: nothing is lost, and nothing is counted twice."""

import json
import logging
import time
from contextlib import suppress
from email.utils import formatdate

import pytest
from chat_helpers import KEY, Asking, endpoint, question, questions, wait_for_workers
from hypothesis import given
from hypothesis import strategies as st
from servers import (
    Answer,
    breaks_off,
    closes,
    cut,
    drips,
    each,
    echo,
    empty,
    fails,
    free_port,
    hangs,
    html,
    in_turn,
    refuses,
    replies,
    says,
    server,
)

import chat
from chat import connection, workers
from chat.protocol import NoReply, read_reply
from utils import UserError


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.01)


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, "grove")
    logging.getLogger("grove").propagate = True
    return caplog


# --- replies ------------------------------------------------------------------------------------------------


def test_every_reply_is_delivered_once_in_the_callers_thread():
    with server() as s:
        asking = Asking(endpoint(s.url), questions(20))
    assert asking.texts == {i: f"you said: q{i}" for i in range(20)}
    assert len(asking.delivered) == 20 and asking.thread_names == {"MainThread"}
    assert asking.counts == chat.Counts(asked=20, prompt_tokens=140, completion_tokens=60)
    assert s.by_content == {f"q{i}": 1 for i in range(20)}


def test_as_many_requests_are_under_way_at_once_as_the_config_says():
    with server(lambda asked: says("yes", delay=0.05)) as s:
        Asking(endpoint(s.url, concurrency=5), questions(20))
    assert s.most_busy == 5


FIELDS = ["choices", "message", "content", "refusal", "finish_reason", "logprobs", "top_logprobs", "token"]
FIELDS += ["logprob", "usage", "prompt_tokens", "model", "error", "detail", "loc", "msg", "param", "code"]

MISBEHAVIOURS = {
    "429": fails(429),
    "429 with seconds": fails(429, retry_after="0.1"),
    "429 with a date": fails(429, retry_after=formatdate(time.time() + 0.5, usegmt=True)),
    "429 with garbage": fails(429, retry_after="soon"),
    "408": fails(408),
    "409": fails(409),
    "500": fails(500),
    "502 in HTML": html()._replace(status=502),
    "503 with seconds": fails(503, retry_after="0"),
    "529": fails(529),
    "cut JSON": cut(),
    "no JSON": Answer(body=b"not json"),
    "nothing": Answer(),
    "a JSON list": Answer(body=b"[]"),
    "a page of a proxy": html(),
    "a right body of a wrong type": says("wrong")._replace(content_type="text/html"),
    "a body that breaks off": breaks_off(),
    "a closed connection": closes(),
    "no choices": empty(),
    "null choices": replies({"choices": None}),
    "an error with status 200": replies({"error": {"message": "overloaded"}}),
    "no message": replies({"choices": [{"finish_reason": "stop"}]}),
    "no content": says(None),
    "an end in the middle": says("half a", finish="error"),
}


@pytest.mark.parametrize("answer", MISBEHAVIOURS.values(), ids=MISBEHAVIOURS)
def test_what_is_no_reply_is_asked_again_and_counted_once(answer):
    with server(each(answer)) as s:
        asking = Asking(endpoint(s.url), questions(4))
    assert asking.texts == {i: f"you said: q{i}" for i in range(4)}
    assert len(asking.delivered) == 4
    assert s.by_content == {f"q{i}": 2 for i in range(4)}
    expected = chat.Counts(asked=4, retried=4, prompt_tokens=28, completion_tokens=12)
    assert asking.counts == expected


@pytest.mark.parametrize("answer", [hangs(2.0), drips(0.05)], ids=["hangs", "a byte at a time"])
def test_a_reply_that_does_not_come_in_time_is_asked_again(answer):
    with server(each(answer)) as s:
        asking = Asking(endpoint(s.url, timeout=0.4), questions(2))
    assert asking.texts == {0: "you said: q0", 1: "you said: q1"}
    assert asking.counts.retried == 2


def test_a_request_without_a_reply_after_all_attempts_is_none_and_the_others_have_theirs(told):
    def script(asked):
        return fails(500, "broken") if asked.content == "q1" else echo(asked)

    with server(script) as s:
        asking = Asking(endpoint(s.url), questions(8))
    assert asking.error is None
    assert asking.texts == {i: None if i == 1 else f"you said: q{i}" for i in range(8)}
    assert s.by_content["q1"] == 4  # the first, and three retries
    assert (asking.counts.asked, asking.counts.failed, asking.counts.retried) == (7, 1, 3)
    assert "no reply after 4 attempts (status 500: broken)" in told.text


def test_a_request_that_the_server_does_not_take_is_not_asked_again(told):
    def script(asked):
        return fails(400, f"context too long, {KEY}") if asked.content == "q1" else echo(asked)

    with server(script) as s:
        asking = Asking(endpoint(s.url), questions(8))
    assert asking.texts[1] is None and len(asking.delivered) == 8
    assert s.by_content == {f"q{i}": 1 for i in range(8)}
    assert (asking.counts.asked, asking.counts.failed, asking.counts.retried) == (7, 1, 0)
    assert "context too long, (hidden)" in told.text and KEY not in told.text


def test_a_server_that_asks_for_a_pause_gets_it_from_all():
    with server(in_turn(fails(429, retry_after="0.6"))) as s:
        started = time.monotonic()
        Asking(endpoint(s.url, concurrency=1), questions(3))
        assert time.monotonic() - started >= 0.6
    assert s.count == 4


@pytest.mark.parametrize(
    "header,seconds",
    [("2", 2), ("1.5", 1.5), ("0", 0), ("-3", 0), ("86400", connection.LONGEST_PAUSE), ("soon", None)]
    + [("", None), ("nan", None), ("inf", connection.LONGEST_PAUSE), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
def test_a_pause_is_what_the_server_says_up_to_a_limit(header, seconds):
    assert connection.pause_of(header) == seconds


@pytest.mark.parametrize(
    "answer,text,finish",
    [
        (refuses("No."), "No.", "filtered"),
        (says("", finish="content_filter"), "", "filtered"),
        (says(None, finish="content_filter"), "", "filtered"),
        (says(None, finish="length"), "", "length"),  # it thought until the limit
        (says("half", finish="length"), "half", "length"),
        (says("", finish="stop"), "", "stop"),
        (says("free", finish=None), "free", "stop"),
        (says("free", finish="eos"), "free", "stop"),
    ],
)
def test_a_refusal_and_an_empty_reply_are_replies(answer, text, finish):
    with server(lambda asked: answer) as s:
        asking = Asking(endpoint(s.url), [question()])
    ((_, reply),) = asking.delivered
    assert (reply.text, reply.finish, s.count) == (text, finish, 1)


def test_a_reply_without_usage_has_no_tokens_and_one_with_log_probs_has_the_first_tokens():
    top = [{"token": "4", "logprob": -0.5}, {"token": "3", "logprob": -1.5}, {"token": None}]
    content = [{"token": "5", "logprob": -3.0, "top_logprobs": top}, {"token": "<", "logprob": 0.0}]
    choice = {"message": {"content": "5<"}, "finish_reason": "stop", "logprobs": {"content": content}}
    answer = replies({"choices": [choice], "usage": None})
    reply = read_reply(answer.body, "application/json; charset=utf-8")
    assert reply.first_logprobs == (("4", -0.5), ("3", -1.5), ("5", -3.0))
    assert (reply.prompt_tokens, reply.completion_tokens, reply.model) == (0, 0, "scripted-2026")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=20,
)


@given(JSON)
def test_any_body_is_a_reply_or_none_and_any_error_has_words(value):
    with suppress(NoReply):
        reply = read_reply(json.dumps(value).encode(), "application/json")
        reply.text.encode()
    words, param, code = connection.words_of(value)
    assert all(isinstance(part, str) for part in (words, param, code))


def test_half_a_character_at_the_end_of_a_reply_is_a_sign_in_its_place():
    with server(lambda asked: says("a\ud83d")) as s:
        assert Asking(endpoint(s.url), [question()]).texts == {0: "a\ufffd"}


def test_equal_requests_are_asked_once_and_numbers_tell_samples_apart():
    requests = [question(), question(), question(number=1), question(seed=3)]
    with server() as s:
        asking = Asking(endpoint(s.url, concurrency=1), requests)
    assert (s.count, asking.counts.asked, asking.counts.cached) == (3, 3, 1)
    assert sorted(asking.texts) == [0, 1, 2, 3]


def test_a_text_that_no_json_can_say_fails_alone():
    with server() as s:
        asking = Asking(endpoint(s.url), [question("a \ud800"), question("b")])
    assert asking.error is None and asking.texts == {0: None, 1: "you said: b"}


# --- what ends everything -----------------------------------------------------------------------------------

ENDINGS = {
    "401": (fails(401, f"bad key {KEY}"), "the key was refused (401: bad key (hidden))"),
    "403": (fails(403), "the key was refused"),
    "404": (fails(404), "no such model"),
    "402": (fails(402), "no credit left"),
    "quota": (fails(429, "You exceeded your quota", code="insufficient_quota"), "no credit left"),
    "all refused": (fails(400, "unknown model"), "refuses every request"),
    "all fail": (fails(500), "4 requests in a row got no reply (status 500: scripted)"),
}


@pytest.mark.parametrize("answer,words", ENDINGS.values(), ids=ENDINGS)
def test_what_no_request_survives_ends_with_one_line_soon(answer, words):
    with server(lambda asked: answer) as s:
        asking = Asking(endpoint(s.url), questions(200))
        seen = s.count
    assert words in asking.error and "\n" not in asking.error
    assert f"server {s.url}, model model" in asking.error
    assert KEY not in asking.error
    assert seen < 40


@pytest.mark.parametrize("count,words", [(1, "the only request got"), (3, "3 requests in a row got")])
def test_few_requests_that_all_fail_are_an_end_too(count, words):
    with server(lambda asked: fails(500)) as s:
        assert words in Asking(endpoint(s.url), questions(count)).error


@pytest.mark.parametrize("last", [fails(401), fails(502)])
def test_replies_that_came_together_with_an_end_are_delivered(last):
    def script(asked):
        return last if asked.number >= 8 else echo(asked)

    delivered = {}

    def slow(index, reply):
        time.sleep(0.05)
        delivered[index] = reply

    with server(script) as s:
        with pytest.raises(UserError):
            to = endpoint(s.url, concurrency=4, retries=0)
            chat.ask_all(to, questions(40), chat.Counts(), slow)
        wait_for_workers()
        assert len([reply for reply in delivered.values() if reply]) == len(s.answered) == 8


def test_a_server_that_dies_in_the_middle_ends_with_what_is_kept(tmp_path):
    store = chat.Store(tmp_path / "replies.jsonl")
    with server() as s:
        script = s.script
        s.script = lambda asked: script(asked) if asked.number < 30 else fails(502)
        asking = Asking(endpoint(s.url, retries=1), questions(100), store)
        assert "30 replies are kept" in asking.error and "same command" in asking.error
        wait_for_workers()
        s.script = script
        again = Asking(endpoint(s.url), questions(100), chat.Store(tmp_path / "replies.jsonl"))
    assert (again.counts.cached, again.counts.asked, again.error) == (30, 70, None)
    assert len(s.answered) == 100


def test_a_first_request_that_breaks_every_connection_does_not_stop_the_others():
    with server(lambda asked: closes() if asked.content == "q0" else echo(asked)) as s:
        asking = Asking(endpoint(s.url, concurrency=1), questions(4))
    assert asking.error is None
    assert asking.texts == {0: None, 1: "you said: q1", 2: "you said: q2", 3: "you said: q3"}


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_a_server_that_is_not_there_ends_after_one_requests_attempts(host):
    asking = Asking(endpoint(f"http://user:pa55word@{host}:{free_port()}/v1"), questions(100))
    assert "cannot be reached after 4 attempts" in asking.error and "correct base_url" in asking.error
    assert "pa55word" not in asking.error
    assert asking.counts.retried <= 9


def test_a_fault_in_done_keeps_its_traceback_and_stops_the_threads():
    def broken(index, reply):
        raise ZeroDivisionError

    with server(lambda asked: says("yes", delay=0.02)) as s:
        with pytest.raises(ZeroDivisionError):
            chat.ask_all(endpoint(s.url), questions(100), chat.Counts(), broken)
        wait_for_workers()
        assert s.count <= 6  # three at once, and those that began meanwhile


# --- what servers do not take -------------------------------------------------------------------------------


def picky(name, message, **error):
    """A server that refuses a parameter of this name."""
    return lambda asked: fails(400, message, **error) if name in asked.body else echo(asked)


PICKY = {
    "seed": ("seed", "Unsupported parameter: 'seed'", {"param": "seed"}),
    "seed in words": ("seed", "Unexpected fields in the request: {'seed'}", {}),
    "max_tokens": (
        "max_tokens",
        "Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead.",
        {"param": "max_tokens", "code": "unsupported_parameter"},
    ),
    "logprobs": ("logprobs", "This model does not support logprobs", {}),
    "temperature": (
        "temperature",
        "Unsupported value: 'temperature' does not support 1.0 with this model.",
        {"param": "temperature"},
    ),
}


@pytest.mark.parametrize("name,message,error", PICKY.values(), ids=PICKY)
def test_a_parameter_that_a_server_does_not_take_is_left_out_of_all_further_requests(
    told, name, message, error
):
    requests = [question(f"q{i}", temperature=1.0, seed=i, top_logprobs=5) for i in range(6)]
    with server(picky(name, message, **error)) as s:
        asking = Asking(endpoint(s.url, concurrency=1, retries=0), requests)
    assert asking.error is None and asking.texts == {i: f"you said: q{i}" for i in range(6)}
    assert s.count == 7 and asking.counts.retried == 1
    assert told.text.count(f"the server takes no {name}") == 1
    assert s.asked[-1].body.get("max_completion_tokens") == (16 if name == "max_tokens" else None)


def test_parameters_that_are_refused_one_by_one_by_many_threads_are_all_left_out():
    def script(asked):
        for name in ("seed", "max_tokens", "top_logprobs"):
            if name in asked.body:
                return Answer(422, b'{"detail":[{"loc":["body","%s"],"msg":"Extra inputs are not permitted",'
                              b'"input":"seed"}]}' % name.encode())  # fmt: skip
        return echo(asked)

    with server(script) as s:
        asking = Asking(endpoint(s.url), [question(f"q{i}", seed=i, top_logprobs=5) for i in range(9)])
    assert asking.error is None and len(asking.texts) == 9 and None not in asking.texts.values()
    assert s.count == 9 + asking.counts.retried


def test_a_temperature_is_never_changed_in_silence():
    with server(picky("temperature", "'temperature' does not support 0 with this model")) as s:
        asking = Asking(endpoint(s.url), questions(10))
    assert "takes no temperature=0" in asking.error and "set temperature=1" in asking.error
    assert asking.delivered == []


def test_a_limit_that_is_too_large_is_no_unknown_parameter():
    words = "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum context is 4096"
    with server(lambda asked: fails(400, words) if asked.content == "q0" else echo(asked)) as s:
        asking = Asking(endpoint(s.url), questions(3))
    assert asking.texts == {0: None, 1: "you said: q1", 2: "you said: q2"} and s.count == 3
