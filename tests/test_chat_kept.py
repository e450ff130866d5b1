"""What the chat client keeps, through whatever ends it; servers, and keys that nothing shows."""

import base64
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from chat_helpers import KEY, Asking, endpoint, question, questions, wait_for_workers
from helpers import ROOT
from servers import each, echo, fails, hangs, says, server

import chat
from settings import ApiSettings
from utils import Stopped, UserError

NOTHING = ApiSettings(None, None, None, None)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "JUDGE_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, "grove")
    logging.getLogger("grove").propagate = True
    return caplog


# --- the store ----------------------------------------------------------------------------------------------


def test_what_was_answered_is_not_asked_again_by_another_process(tmp_path):
    path = tmp_path / "deep" / "replies.jsonl"
    with server() as s:
        first = Asking(endpoint(s.url), questions(5), chat.Store(path))
        second = Asking(endpoint(s.url), questions(8), chat.Store(path))
    assert s.by_content == {f"q{i}": 1 for i in range(8)}
    assert (second.counts.cached, second.counts.asked) == (5, 3)
    assert dict(second.delivered).items() >= dict(first.delivered).items()


def test_failures_are_not_kept(tmp_path):
    store = chat.Store(tmp_path / "replies.jsonl")
    with server(each(fails(400), then=echo)) as s:
        Asking(endpoint(s.url), [question("q0")], store)
        assert len(store) == 0
        assert Asking(endpoint(s.url), [question("q0")], store).texts == {0: "you said: q0"}


def test_a_torn_line_is_cut_and_damaged_ones_are_left_out(tmp_path, told):
    path = tmp_path / "replies.jsonl"
    reply = chat.Reply("ü\n\u2028", "stop", 1, 2, (("4", -0.5),), "m")
    store = chat.Store(path)
    for digest in ("a", "b", "c"):
        store.put(digest, reply)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"not": "ours"}\n' + b"\xff\n" + lines[1] + lines[2][:-9])
    again = chat.Store(path)
    assert [again.get(digest) for digest in "abc"] == [reply, reply, None]
    assert "2 lines are damaged" in told.text
    again.put("c", reply)
    assert len(chat.Store(path)) == 3


def test_a_line_torn_by_another_process_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "replies.jsonl"
    store, reply = chat.Store(path), chat.Reply("yes", "stop", 1, 2)
    with path.open("ab") as file:
        file.write(b'["torn", "by a process that')
    store.put("a", reply)
    assert chat.Store(path).get("a") == reply


WRITER = """
import sys, pathlib, chat
store = chat.Store(pathlib.Path(sys.argv[1]))
for i in range(200):
    store.put(f"{sys.argv[2]}-{i}", chat.Reply("x" * 2000, "stop", 1, 2))
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    path = tmp_path / "replies.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]
    processes = [subprocess.Popen([*command, name], cwd=ROOT) for name in "ab"]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(chat.Store(path)) == 400 and len(path.read_text().splitlines()) == 400


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="GROVE_CACHE"):
        chat.Store(tmp_path / "file" / "replies.jsonl")


def test_the_store_has_a_folder_a_server_and_model_and_no_secret(tmp_path):
    paths = [
        chat.store_path("judge", endpoint(url), model)
        for url, model in [("http://a/v1", "m"), ("http://b/v1", "m"), ("http://a/v1", "n")]
    ]
    assert len({path.parent for path in paths}) == 3
    assert chat.store_path("judge", endpoint("http://user:word@a/v1/?key=1"), "m") == paths[0]


# --- processes that end -------------------------------------------------------------------------------------

CLIENT = """
import sys, pathlib, chat, utils
def main():
    url, path, count = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
    requests = [chat.Request("model", [{"role": "user", "content": f"q{i}"}], 16) for i in range(count)]
    counts = chat.Counts()
    endpoint = chat.Endpoint(url, "none", concurrency=int(sys.argv[4]), timeout=60)
    def done(index, reply):
        print(index, flush=True)
    chat.ask_all(endpoint, requests, counts, done, chat.Store(path))
    print(counts, file=sys.stderr)
utils.run_entry(main)
"""


def client(url, path, count, concurrency):
    arguments = [sys.executable, "-c", CLIENT, url, str(path), str(count), str(concurrency)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(arguments, cwd=ROOT, preexec_fn=hear_interrupts, **pipes)


def hear_interrupts():
    """What a shell runs in the background ignores SIGINT, and so does what that starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_killed_run_goes_on_without_asking_again(tmp_path, concurrency):
    with server(lambda asked: says("yes", delay=0.01)) as s:
        process = client(s.url, tmp_path / "replies.jsonl", 60, concurrency)
        wait_until(lambda: len(s.answered) >= 20)
        process.kill()
        process.communicate()
        process = client(s.url, tmp_path / "replies.jsonl", 60, concurrency)
        delivered, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert sorted(map(int, delivered.split())) == list(range(60))
    twice = [content for content, count in s.by_content.items() if count > 1]
    assert len(twice) <= concurrency and max(s.by_content.values()) <= 2  # those in flight
    assert len(s.by_content) == 60


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_at_once_and_what_came_is_kept(tmp_path, signum):
    def script(asked):
        return echo(asked) if asked.content in ("q0", "q1") else hangs(30)

    with server(script) as s:
        process = client(s.url, tmp_path / "replies.jsonl", 50, 4)
        wait_until(lambda: s.count == 6)
        time.sleep(0.2)
        process.send_signal(signum)
        started = time.monotonic()
        delivered, said = process.communicate(timeout=20)
        assert time.monotonic() - started < 3
    assert process.returncode == 128 + signum
    assert said.strip().splitlines()[-1] == f"stopped by {signum.name}"
    assert sorted(delivered.split()) == ["0", "1"]
    assert len(chat.Store(tmp_path / "replies.jsonl")) == 2


def test_a_server_that_refuses_the_key_ends_a_command_with_one_line_and_code_2(tmp_path):
    with server(lambda asked: fails(401)) as s:
        process = client(s.url, tmp_path / "replies.jsonl", 50, 4)
        delivered, said = process.communicate(timeout=60)
    assert (process.returncode, delivered) == (2, "")
    assert said.startswith(f"error: server {s.url}, model model: the key was refused")
    assert said.count("\n") == 1


def test_a_signal_in_a_pause_ends_at_once_too():
    def stop(signum, frame):
        raise Stopped(signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with server(lambda asked: fails(429, retry_after="30")) as s:
            killer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
            killer.start()
            started = time.monotonic()
            with pytest.raises(Stopped):
                Asking(endpoint(s.url), questions(5))
            assert time.monotonic() - started < 3
            wait_for_workers()
    finally:
        signal.signal(signal.SIGTERM, before)


# --- endpoints and keys -------------------------------------------------------------------------------------


def test_the_address_comes_from_the_config_then_the_fallback_then_the_environment(monkeypatch):
    api = ApiSettings("http://a/v1", 2, 3, 4.0)
    judge = ApiSettings(None, 9, None, None)
    assert chat.endpoint_of(judge, api) == chat.Endpoint("http://a/v1", "", 9, 3, 4.0)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://b/v1")
    assert chat.endpoint_of(NOTHING).base_url == "http://b/v1"
    assert chat.endpoint_of(NOTHING, api).base_url == "http://a/v1"
    assert chat.endpoint_of(NOTHING).concurrency == 8


def test_the_key_is_the_first_that_the_environment_has(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert chat.endpoint_of(NOTHING).key == KEY
    assert chat.endpoint_of(NOTHING).base_url is None
    monkeypatch.setenv("JUDGE_API_KEY", "judge's own key")
    assert chat.endpoint_of(NOTHING, None, ("JUDGE_API_KEY", "OPENAI_API_KEY")).key == "judge's own key"


def test_no_key_and_no_address_is_one_line_that_names_the_variable():
    with pytest.raises(UserError, match="JUDGE_API_KEY or OPENAI_API_KEY"):
        chat.endpoint_of(NOTHING, None, ("JUDGE_API_KEY", "OPENAI_API_KEY"))


def test_a_local_server_needs_no_key():
    with server() as s:
        to = chat.endpoint_of(ApiSettings(s.url, None, None, None))
        assert Asking(to, [question()]).texts == {0: "you said: hello"}


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://a", "http://", "http://a b", "http://a:99999/v1", "http://a/v1?key=1"]
)
def test_an_address_that_is_none_is_one_line(url):
    with pytest.raises(UserError, match="base_url"):
        chat.endpoint_of(ApiSettings(url, None, None, None))


def test_an_address_of_the_environment_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost")
    with pytest.raises(UserError, match="OPENAI_BASE_URL: no address"):
        chat.endpoint_of(NOTHING)


def test_a_key_is_sent_and_stands_in_no_repr_hash_or_file(tmp_path):
    path = tmp_path / "replies.jsonl"
    with server(lambda asked: says(f"your key is {len(asked.headers['authorization'])} long")) as s:
        to = endpoint(s.url.replace("//", "//user:pa55word@"))
        Asking(to, [question()], chat.Store(path))
        assert s.count == 1
    with server() as s:
        Asking(endpoint(s.url), [question()], chat.Store(path))
        assert s.asked[0].headers["authorization"] == f"Bearer {KEY}"
    for text in (repr(to), str(to), path.read_text(), str(chat.store_path("judge", to, "m"))):
        assert not any(secret in text for secret in (KEY, "pa55word"))
    other = chat.Endpoint(to.base_url, "another", 3, 3, 5.0)
    assert hash(to) == hash(other) and question().digest(to.base_url) == question().digest(to.server)


def test_no_error_repeats_what_an_address_holds():
    sent = base64.b64encode(b"user:pa@ss word").decode()
    with server([fails(401, f"not taken: Basic {sent}, pa@ss word, pa%40ss%20word")]) as s:
        asking = Asking(endpoint(s.url.replace("//", "//user:pa%40ss%20word@")), [question()])
        assert s.asked[0].headers["authorization"] == f"Basic {sent}"
    assert "not taken: Basic (hidden), (hidden), (hidden)" in asking.error
