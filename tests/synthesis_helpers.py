"""What tests of synthesis with a writer share: a survey, a scripted writer and judge, and a command."""

import hashlib
import json

from data_helpers import write
from helpers import compose

import synthesize

OPTIONS = ["Very good", "Poor", "DK/Refused"]
SURVEY = [
    {
        "group": group,
        "question": question,
        "options": OPTIONS,
        "option_class": [5, 2, 0],
        "selections": shares,
    }
    for question in ("How good is the mayor?", "How good is the bus?", "How good is the water?")
    for group, shares in (("Chile", [0.5, 0.4, 0.1]), ("Peru (all)", [0.1, 0.7, 0.2]))
]
OF_PHRASING, OF_ANSWER, OF_JUDGE = "Here is a question of a survey", "Somebody is asked", "Check whether"


def words_of(text):
    """Some words that only this text gets."""
    return " ".join(f"w{part}" for part in hashlib.blake2b(text.encode()).hexdigest()[:32:4])


def writes(asked):
    """A writer of whom everything passes, and a judge that says Yes."""
    if asked.content.startswith(OF_JUDGE):
        return "Yes, it does."
    return f"So, {hashed(asked)}?" if asked.content.startswith(OF_PHRASING) else f"Well, {hashed(asked)}"


def hashed(asked):
    """Words that only this request gets, with its seed."""
    words = words_of(json.dumps([asked.content, asked.body.get("seed")]))
    return " ".join(f"x{number}{word}" for number, word in enumerate(words.split()))


def dialogues(folder, *overrides, url=None, source=None):
    """Make dialogues of SURVEY; returns the record."""
    source = source or write(folder.parent / "survey.jsonl", *SURVEY)
    given = ["task=dialogues", f"sources=[{source}]", f"output={folder}", "judge=none"]
    if url is not None:
        given += [
            "generator=openai",
            "ckpt=writer",
            f"api.base_url={url}",
            "api.retries=2",
            "styles=[casual,as a poem,formal]",
        ]
    synthesize.main(compose(*given, *overrides, name="synthesize"))
    return json.loads((folder / "synthesis.json").read_text())


def data_of(folder):
    """Every file of data below a folder, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("*/*.jsonl"))
        if path.parent.name != "replies"
    }
