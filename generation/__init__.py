"""Generation: one interface, and an engine for each place where a model may live.

Engines are imported from their own rooms (`generation.local`), since what they need takes seconds to import.
"""

from generation.record import Decoding, Draw, Generator, OnWritten, Written, decoding_of, decodings_of

__all__ = ["Decoding", "Draw", "Generator", "OnWritten", "Written", "decoding_of", "decodings_of"]
