"""Does an answer voice the option that it was written for? As sentence embeddings, or a chat model, say.

Contract: a verdict is a function of one claim and the judge, not of the other claims. It is what is wrong
with the answer, "" where it voices its option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import chat
from evaluation.judges import ChatJudge, EmbeddingJudge, Stated
from evaluation.judges.making import KEYS
from evaluation.judges.prompts import template
from settings import ApiSettings
from synthesis.config import SynthesisSettings
from synthesis.record import Json, Maker
from utils import UserError, log

OTHER_VOICE = "voices another option"
UNCLEAR = "no clear verdict"
NO_VERDICT = "no verdict: the judge did not answer"  # now; another time it may
UNSET = ApiSettings(None, None, None, None)


class Claim(NamedTuple):
    """An answer that should voice one of the options of a question."""

    question: str  # in the survey's words
    asked: str  # the phrasing that it answers
    options: tuple[str, ...]  # all of them, in words
    option: str  # its own
    answer: str


class VoiceJudge(Protocol):
    """Says whether answers voice their options."""

    maker: Maker
    prompts: Mapping[str, str]  # by their role, the templates that are sent

    def faults(self, claims: Sequence[Claim]) -> list[str]:
        """For each claim "", OTHER_VOICE, UNCLEAR or NO_VERDICT."""
        ...


class EmbeddingVoice:
    """An answer voices the option whose words, behind the survey's question, are nearest to it.

    Sentence embeddings tell topics better than sides, so that this judge is weak: docs/synthesis.md.
    """

    def __init__(self, judge: EmbeddingJudge):
        self.judge = judge
        self.maker = Maker("judges", judge.name, "")
        self.prompts: Mapping[str, str] = {}

    def faults(self, claims: Sequence[Claim]) -> list[str]:
        """Nothing is wrong where no other option is nearer."""
        verdicts = self.judge.verdicts(
            [claim.answer for claim in claims],
            [claim.option for claim in claims],
            [{option: [f"{claim.question} {option}"] for option in claim.options} for claim in claims],
        )
        return ["" if verdict.consistent else OTHER_VOICE for verdict in verdicts]


class ChatVoice:
    """A chat model is asked for Yes or No, by the question of an evaluation's BPC."""

    def __init__(self, judge: ChatJudge):
        self.judge = judge
        self.maker = Maker("judges", judge.model, judge.endpoint.server)
        self.prompts: Mapping[str, str] = {"judge": template("belief").template}

    def faults(self, claims: Sequence[Claim]) -> list[str]:
        """What the model says; the rest of the scale is not shown to it.

        Where a request got no reply, all claims without a verdict wait for another time: which of them the
        model answered, and said neither, shows when the others are answered.
        """
        failed_before = self.judge.asking.failed
        said = self.judge.voices([Stated(claim.asked, claim.option, claim.answer) for claim in claims])
        unsaid = NO_VERDICT if self.judge.asking.failed > failed_before else UNCLEAR
        faults = {True: "", False: OTHER_VOICE, None: unsaid}
        return [faults[verdict] for verdict in said]


def open_judge(settings: SynthesisSettings) -> VoiceJudge | None:
    """The judge of a config; None: judge=none. Raises UserError where it cannot be made, or a key is given
    that it has no use for."""
    check_judge(settings)
    if settings.judge == "none":
        log.warning("judge=none: nobody says whether answers voice their options; set judge=openai")
        return None
    if settings.judge == "embedding":
        return EmbeddingVoice(EmbeddingJudge(settings.embedder))
    endpoint = chat.endpoint_of(settings.judge_api, settings.api, KEYS)
    return ChatVoice(ChatJudge(endpoint, str(settings.judge_model)))


def judged_by(settings: SynthesisSettings) -> list[Json]:
    """What verdicts depend on."""
    return [settings.judge, settings.judge_model, settings.embedder]


def check_judge(settings: SynthesisSettings) -> None:
    """Raises UserError where a key of the judge is missing, or would be ignored."""
    judge = settings.judge
    if judge == "openai" and settings.judge_model is None:
        raise UserError("judge=openai: needs judge_model=..., the name of a model at the server")
    if judge != "openai" and settings.judge_model is not None:
        raise UserError(f"judge_model={settings.judge_model}: is for judge=openai; leave it out or set judge")
    if judge != "openai" and settings.judge_api != UNSET:
        raise UserError(f"judge_api: is the server of judge=openai, and here judge={judge}; leave it out")
    if judge != "embedding" and settings.embedder is not None:
        raise UserError(f"embedder={settings.embedder}: is for judge=embedding; leave it out or set judge")
