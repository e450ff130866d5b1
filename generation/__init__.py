"""Generation: one interface, and an engine for each place where a model may live."""

from generation.record import Decoding, Draw, Generator, OnWritten, Written, decoding_of, decodings_of

__all__ = ["Decoding", "Draw", "Generator", "OnWritten", "Written", "decoding_of", "decodings_of"]
