"""What tests of the chat client share."""

import threading
import time

import chat
from utils import UserError

KEY = "sk-" + "x" * 24


def endpoint(url, **how):
    return chat.Endpoint(url, KEY, **{"concurrency": 3, "retries": 3, "timeout": 5.0, **how})


def question(text="hello", **how):
    return chat.Request("model", [{"role": "user", "content": text}], 16, **how)


def questions(count):
    return [question(f"q{i}") for i in range(count)]


class Asking:
    """What became of some requests."""

    def __init__(self, to, requests, store=None):
        self.counts, self.delivered = chat.Counts(), []
        self.thread_names = set()
        self.error = None
        try:
            chat.ask_all(to, requests, self.counts, self.note, store)
        except UserError as error:
            self.error = str(error)

    def note(self, index, reply):
        self.delivered.append((index, reply))
        self.thread_names.add(threading.current_thread().name)

    @property
    def texts(self):
        return {index: reply and reply.text for index, reply in self.delivered}


def wait_for_workers():
    """Until the threads that ask are gone, which takes no longer than a reply that is under way."""
    deadline = time.monotonic() + 2
    while [thread for thread in threading.enumerate() if thread.name == "chat"]:
        assert time.monotonic() < deadline, "a thread is left"
        time.sleep(0.01)
