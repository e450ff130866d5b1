"""What is wrong with a text that a model wrote: empty, cut, refusing, copying its option, or there already.

Contract: every check is a function of texts alone, and gives the reason in words that can be counted: what
stands before a colon is one of few. "" means that nothing is wrong.
"""

from __future__ import annotations

import re
from collections import defaultdict

from evaluation.judges.replies import without_thoughts
from synthesis.checks import repeated_words
from synthesis.duplicates import Shingles, shingles_of, similarity

VERSION = 1  # of these checks: another number where one of them changes, so that texts of both are not mixed
NO_OPINION = "0"  # the class of those who do not know, or will not say
MOST_WORDS = 120
SHORT_OPTION = 3  # words of five letters or more: up to here an answer repeats none of them
LABEL = re.compile(
    r"(?:the )?(?:survey )?(?:question|rephrased question|answer|reply|response|person)\s*:\s*", re.I
)
QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "'": "'"}
MARKS = re.compile(r"<\|[^|>\s]*\|>|</?s>|<[QA]>")  # of chat templates and of our prompts
OF_MACHINES = re.compile(
    r"\b(as|i am|i'm|i’m|being)( just| only)? an? ([\w-]+ ){0,3}(ai|a\.i\.|artificial intelligence|"
    r"(virtual|digital) assistant|chatbot)\b|\blanguage model\b",
    re.I,
)
ASKING = re.compile(  # a mark of a question in any script, or words that ask without one
    r"[?？؟]|\b(please|agree or disagree|yes or no|wonder(s|ing)?|curious|hear from you)\b|"
    r"(^|[.!:,”\"]\s+)(tell|say|state|indicate|share|describe|explain|rate|choose|pick|give|"
    r"let (me|us) know)\b",
    re.I,
)
REFUSING = re.compile(
    r"\b(i|we)('m| am|’m)? ?(can('|’)?t|cannot|can not|won('|’)?t|will not|unable to|not able to) "
    r"(assist|help (you|with)|provide|generate|write|fulfil|fulfill|comply|create|answer (that|this|your)|"
    r"respond|(express|share|give) (an?|any|my|personal)( personal)? (opinion|view))\b|"
    r"^(i('|’)?m|i am) (so |very |really )?sorry,? but\b",
    re.I,
)


def cleaned(text: str) -> str:
    """A reply's words on one line, without thoughts, a label before them and marks of quotation around."""
    words = " ".join(without_thoughts(text).split())
    words = words[len(label[0]) :] if (label := LABEL.match(words)) else words
    if len(words) > 1 and QUOTES.get(words[0]) == words[-1] and words[0] not in words[1:-1]:
        words = words[1:-1].strip()
    return words


def fault_of_text(text: str, finish: str) -> str:
    """What is wrong with any text. finish: as a writer says how it ended."""
    if finish == "filtered":
        return "withheld by the server"
    if not re.search(r"\w", text):
        return "empty"
    if finish == "length":
        return "cut at max_new_tokens"
    if mark := MARKS.search(text):
        return f"holds a mark of a template: {mark[0]}"
    if OF_MACHINES.search(text):
        return "speaks as a machine"
    if len(text.split()) > MOST_WORDS:
        return f"longer than {MOST_WORDS} words"
    return ""


def fault_of_phrasing(text: str, question: str) -> str:
    """What is wrong with a phrasing of a survey's question, beside what any text may have."""
    if normal(text) == normal(question):
        return "the survey's own words"
    if not ASKING.search(text):
        return "asks nothing"
    return "refuses" if REFUSING.search(text) else ""


def fault_of_answer(text: str, option: str, label: str) -> str:
    """What is wrong with an answer that should voice an option of a class, as far as words tell.

    One that will not answer is right for an option without an opinion.
    """
    if label != NO_OPINION and REFUSING.search(text):
        return "refuses"
    copied = copied_words(option, text) if option else set()
    return f"copies its option: {', '.join(sorted(copied))}" if copied else ""


def copied_words(option: str, answer: str) -> set[str]:
    """Words of an option that its answer repeats; of a long option, where they are more than half of it."""
    repeated = repeated_words(option, answer)
    words = set(re.findall(r"[^\W\d_]{5,}", option.lower()))
    if len(words) <= SHORT_OPTION or option.lower() in repeated:
        return repeated
    return repeated if len(repeated) > len(words) / 2 else set()


def normal(text: str) -> str:
    """A text without case and marks."""
    return re.sub(r"\W+", " ", text.casefold()).strip()


class Taken:
    """The texts that are there: no other says the same, and none of the same question nearly the same.

    near: the Jaccard similarity of word triples from which texts are nearly the same.
    """

    def __init__(self, near: float):
        self.near = near
        self.places: dict[str, str] = {}
        self.of_question: defaultdict[str, list[tuple[str, Shingles]]] = defaultdict(list)

    def fault(self, text: str, question: str) -> str:
        """Where a text, or nearly the same, stands already. question: its key."""
        place = self.places.get(normal(text))
        if place is not None:
            return f"a duplicate: of {place}"
        shingles = shingles_of(text)
        for place, others in self.of_question[question]:
            if similarity(shingles, others) >= self.near:
                return f"nearly a duplicate: of {place}"
        return ""

    def add(self, text: str, question: str, place: str) -> None:
        """Note a text. place: its name, for others that say the same."""
        self.places.setdefault(normal(text), place)
        self.of_question[question].append((place, shingles_of(text)))
