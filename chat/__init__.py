"""Talk to a server of OpenAI's chat protocol: many requests at once, retried, kept on the disk."""

from chat.asking import ask_all
from chat.endpoint import endpoint_of
from chat.record import Counts, Endpoint, Message, Reply, Request, server_of
from chat.store import Store, store_path

__all__ = [
    "Counts",
    "Endpoint",
    "Message",
    "Reply",
    "Request",
    "Store",
    "ask_all",
    "endpoint_of",
    "server_of",
    "store_path",
]
