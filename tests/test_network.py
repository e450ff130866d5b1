"""Where the hub cannot be reached its cache is asked at once, and nothing is tried for what is here."""

import os
import socket

import pytest
from huggingface_hub import constants

import network


@pytest.fixture
def tried(monkeypatch):
    """Addresses that were tried; nobody answers."""
    tried = []

    def answers(host, port):
        tried.append((host, port))
        return False

    for variable in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.test")
    monkeypatch.setattr(network, "answers", answers)
    network._choose_cache_or_hub.cache_clear()
    yield tried
    network._choose_cache_or_hub.cache_clear()


def test_one_try_and_the_cache_where_nobody_answers(tried, caplog):
    caplog.set_level("INFO", "grove")
    network.prepare_for_hub("owner/name")
    network.prepare_for_hub("owner/another")
    assert tried == [("hub.test", 443)]
    assert constants.is_offline_mode()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert "the hub cannot be reached" in caplog.text


def test_a_hub_that_answers_is_asked(tried, monkeypatch):
    monkeypatch.setattr(network, "answers", lambda host, port: True)
    network.prepare_for_hub("owner/name")
    assert not constants.is_offline_mode()


def test_nothing_is_tried_for_a_folder(tried, tmp_path):
    network.prepare_for_hub(str(tmp_path))
    assert tried == [] and not constants.is_offline_mode()


def test_a_proxy_may_reach_what_this_machine_cannot(tried, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    network.prepare_for_hub("owner/name")
    assert tried == [] and not constants.is_offline_mode()


def test_a_mirror_is_tried_at_its_own_port(tried, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://localhost:8090")
    network.prepare_for_hub("owner/name")
    assert tried == [("localhost", 8090)]


def test_who_listens_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert network.answers("127.0.0.1", port)
    assert not network.answers("127.0.0.1", port)
