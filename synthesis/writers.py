"""Who writes texts: a model in this process, in vLLM, or behind a server of OpenAI's chat protocol.

Contract: a text is a function of (writer, what is asked, seed, number). What was written is on the disk
before anybody hears of it, and is not written again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from tqdm import tqdm

import chat
from chat import Counts, Endpoint, Reply, Request, Store
from evaluation.checkpoints import DEFAULT_BETA, OF_SERVER, Checkpoint
from evaluation.engines import folder_of
from generation import Decoding, Draw, Generator, Written
from generation.served import request_seed
from generation.served_by_vllm import VllmGenerator, check_vllm
from groups import Group, Limits
from models.embedded import EMBEDDED
from runs.folder import find_model
from settings import ModelSettings
from synthesis.config import SynthesisSettings
from synthesis.instructions import local_generator
from synthesis.record import Json, Maker, Tokens, digest
from synthesis.work import REPLIES
from utils import UserError

LIMITS = Limits(max_length=1 << 20, max_prompt_length=None)  # what is asked is never cut


class Text(NamedTuple):
    """What was written."""

    words: str
    finish: str  # "stop"; "length": at the limit; "filtered": the server withheld it
    tokens: Tokens


class Writer(Protocol):
    """Writes texts on request. `close` frees what it holds."""

    identity: Json  # all of it that determines its texts
    maker: Maker

    def write(self, asked: Sequence[str], number: int, desc: str) -> list[Text | None]:
        """One text for each request, sample `number` of it; None where a server did not answer.

        desc: of the progress bar. Raises UserError where the writer cannot be asked at all.
        """
        ...

    def close(self) -> None: ...


def open_writer(settings: SynthesisSettings, folder: Path) -> Writer:
    """The writer of a config. folder: of the work, where all that is written is kept.

    Raises UserError where the model cannot be loaded, or there is no server's address or key.
    """
    decoding = Decoding(f"t{settings.temperature:g}", settings.temperature)
    path = folder / REPLIES / "texts.jsonl"
    if settings.temperature == 0 and settings.tries > 1:
        raise UserError("temperature=0: every try writes the same; set tries=1, or a temperature")
    if settings.generator == "openai" or settings.ckpt.startswith(OF_SERVER):
        return ServedWriter(settings, path)
    generator = _vllm(settings) if settings.generator == "vllm" else local_generator(settings, LIMITS)
    return GeneratorWriter(generator, decoding, settings.seed, Maker("writes", settings.ckpt, ""), path)


def _vllm(settings: SynthesisSettings) -> VllmGenerator:
    check_vllm()
    source = find_model(settings.ckpt)
    model = ModelSettings(source, None, None, "bfloat16", "bfloat16", False, None)
    folder = folder_of(Checkpoint(settings.ckpt, source, model, None, DEFAULT_BETA))
    model = dataclasses.replace(model, name_or_path=str(folder))
    return VllmGenerator(settings.ckpt, folder, model, LIMITS, settings.max_new_tokens)


class GeneratorWriter:
    """A `Writer` around a generator; every request is a user's turn. What a prompt took is not counted.

    path: of the texts that are kept as they come.
    """

    def __init__(self, generator: Generator, decoding: Decoding, seed: int, maker: Maker, path: Path):
        self.generator, self.decoding, self.seed, self.maker = generator, decoding, seed, maker
        self.path = path
        self.identity: Json = digest({key: str(value) for key, value in generator.identity().items()})

    @functools.cached_property
    def store(self) -> Store:
        """Opened when something is asked: by then the folder is this work's."""
        return Store(self.path)

    def write(self, asked: Sequence[str], number: int, desc: str) -> list[Text | None]:
        """See `Writer`."""
        keys = [self._key(words, number) for words in asked]
        draws = [Draw(place, number) for place, key in enumerate(keys) if self.store.get(key) is None]
        prompts = [
            Group(str(place), [{"role": "user", "content": words}], (), where=f"text {place + 1} to write")
            for place, words in enumerate(asked)
        ]
        known = len(asked) - len(draws)
        with tqdm(total=len(asked), initial=known, desc=desc, unit="text", dynamic_ncols=True) as bar:

            def done(draw: Draw, written: Written) -> None:
                self.store.put(keys[draw.prompt], Reply(written.text, written.finish, 0, written.tokens))
                bar.update()

            self.generator.write(prompts, draws, self.decoding, self.seed, done)
        return [_text_of(self.store.get(key)) for key in keys]

    def _key(self, words: str, number: int) -> str:
        """A name for all that determines a text."""
        return digest([self.identity, list(self.decoding), self.seed, words, number])

    def close(self) -> None:
        self.generator.close()


class ServedWriter:
    """A `Writer` at a server. path: of the replies that are kept."""

    def __init__(self, settings: SynthesisSettings, path: Path):
        if settings.ckpt.startswith(EMBEDDED):
            raise UserError(
                f"ckpt={settings.ckpt}: is of no server; set ckpt=<a model there>, or generator=hf"
            )
        self.endpoint: Endpoint = chat.endpoint_of(settings.api)
        self.model = settings.ckpt.removeprefix(OF_SERVER)
        self.max_new_tokens, self.temperature = settings.max_new_tokens, settings.temperature
        self.seed, self.path = settings.seed, path
        self.maker = Maker("writes", self.model, self.endpoint.server)
        self.identity: Json = [self.endpoint.server, self.model]

    @functools.cached_property
    def store(self) -> Store:
        """Opened when something is asked: by then the folder is this work's."""
        return Store(self.path)

    def write(self, asked: Sequence[str], number: int, desc: str) -> list[Text | None]:
        """See `Writer`."""
        requests = [self._request(words, number) for words in asked]
        texts: list[Text | None] = [None] * len(asked)

        def done(place: int, reply: Reply | None) -> None:
            texts[place] = _text_of(reply)

        unknown = [request for request in requests if self.store.get(self._digest(request)) is None]
        before = len(self.store) - (len(requests) - len(unknown))
        chat.ask_all(self.endpoint, requests, Counts(), done, self.store, desc, before)
        return texts

    def _digest(self, request: Request) -> str:
        return request.digest(self.endpoint.base_url)

    def _request(self, words: str, number: int) -> Request:
        messages = [{"role": "user", "content": words}]
        seed = request_seed(self.seed, messages, number)
        return Request(self.model, messages, self.max_new_tokens, self.temperature, seed, number=number)

    def close(self) -> None:
        """Nothing is held between calls."""


def _text_of(reply: Reply | None) -> Text | None:
    """What is kept of a text; None where there is none."""
    if reply is None:
        return None
    return Text(reply.text, reply.finish, Tokens(reply.prompt_tokens, reply.completion_tokens))
