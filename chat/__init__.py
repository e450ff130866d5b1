"""Talk to a server of OpenAI's chat protocol: many requests at once, retried, kept on the disk."""

from chat.record import Counts, Endpoint, Message, Reply, Request

__all__ = ["Counts", "Endpoint", "Message", "Reply", "Request"]
