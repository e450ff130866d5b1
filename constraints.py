"""The kinds of constraint that a program can check, and how far a text meets one.

Contract: pure functions of text, in time linear in it. A share is in [0, 1], and 1 exactly where the
constraint is met; what has degrees (a length, a share of words) has them between. The text is in Unicode's
form NFC, without spaces around it, and holds a word: see `rewards.satisfaction`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

SCRIPTS = ("latin", "greek", "cyrillic")
ENDS = (".", "!", "?", "…", "。", "！", "？")  # of sentences
WIDE_ENDS = str.maketrans({end: f"{end} " for end in "。！？"})  # no space need follow them
CLOSING = "\"'”’»)]*_"  # may stand behind the end of a sentence
ABBREVIATIONS = {"mr.", "mrs.", "ms.", "dr.", "st.", "vs.", "e.g.", "i.e."}
DASHES = str.maketrans("—–", "  ")  # they part words
BULLETS = ("- ", "* ", "• ", "+ ")
LIST_MARK = re.compile(r"(?:[-*•+]|\d{1,9}[.)])\s+")
BOLD = re.compile(r"\*\*[^*\n]+\*\*")
TOKEN = re.compile(r"\S{1,1000}")
FENCE = "```"


# --- parts of a text ----------------------------------------------------------------------------------------


def composed(text: str) -> str:
    """The text in form NFC; what holds no space for a thousand characters is taken in pieces, since the
    sorting of marks on a letter takes time that is quadratic in their number.
    """
    return TOKEN.sub(lambda token: unicodedata.normalize("NFC", token[0]), text)


def words_of(text: str) -> list[str]:
    """Its words in lower case: what stands between spaces and dashes, without the marks around it."""
    bare = (_bare(token) for token in text.translate(DASHES).split())
    return [composed(word.casefold()) for word in bare if any(map(str.isalnum, word))]


def _bare(token: str) -> str:
    """A token without punctuation, symbols and control characters at its two ends."""
    first, end = 0, len(token)
    while first < end and unicodedata.category(token[first])[0] in "PSC":
        first += 1
    while end > first and unicodedata.category(token[end - 1])[0] in "PSC":
        end -= 1
    return token[first:end]


def sentences_of(text: str) -> list[str]:
    """Its sentences: each ends with a stop before a space, or with its line."""
    sentences = []
    for line in lines_of(text):
        tokens: list[str] = []
        for token in _without_list_mark(line).translate(WIDE_ENDS).split():
            tokens.append(token)
            if token.rstrip(CLOSING).endswith(ENDS) and token.casefold() not in ABBREVIATIONS:
                sentences.append(" ".join(tokens))
                tokens = []
        sentences.append(" ".join(tokens))
    return [sentence for sentence in sentences if words_of(sentence)]


def lines_of(text: str) -> list[str]:
    """Its lines that are not blank, without spaces around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _without_list_mark(line: str) -> str:
    mark = LIST_MARK.match(line)
    return line[mark.end() :] if mark else line


def _times(text: str, phrase: str) -> int:
    """How often the words of a phrase stand in a text, one after the other."""
    wanted, words = words_of(phrase), words_of(text)
    padded = " " + "  ".join(words) + " "
    return padded.count(" " + "  ".join(wanted) + " ")


# --- degrees ------------------------------------------------------------------------------------------------


def in_range(count: int, at_least: int = 0, at_most: int | None = None) -> float:
    """1 within the range; below it the share that is there, above it the share that would do."""
    if count < at_least:
        return count / at_least
    if at_most is not None and count > at_most:
        return (at_most + 1) / (count + 1)
    return 1.0


def _share(flags: Sequence[bool]) -> float:
    """The share that is true; 0 of none."""
    return sum(flags) / len(flags) if flags else 0.0


# --- the kinds ----------------------------------------------------------------------------------------------


def _words(text: str, at_least: int = 0, at_most: int | None = None) -> float:
    return in_range(len(words_of(text)), at_least, at_most)


def _sentences(text: str, at_least: int = 0, at_most: int | None = None) -> float:
    return in_range(len(sentences_of(text)), at_least, at_most)


def _paragraphs(text: str, at_least: int = 0, at_most: int | None = None) -> float:
    """Between blank lines."""
    is_blank = [not line.strip() for line in text.splitlines()]
    starts = [not blank and before for before, blank in zip([True, *is_blank], is_blank)]
    return in_range(sum(starts), at_least, at_most)


def _lines(text: str, at_least: int = 0, at_most: int | None = None) -> float:
    return in_range(len(lines_of(text)), at_least, at_most)


def _bullets(text: str, at_least: int = 0, at_most: int | None = None) -> float:
    """Lines that begin with a bullet and a space."""
    return in_range(sum(line.startswith(BULLETS) for line in lines_of(text)), at_least, at_most)


def _steps(text: str, at_least: int = 0, at_most: int | None = None) -> float:
    """Lines that begin with 1. or 1), 2., 3. and so on, in this order."""
    number = 1
    for line in lines_of(text):
        number += line.startswith((f"{number}.", f"{number})"))
    return in_range(number - 1, at_least, at_most)


def _items(text: str, at_least: int = 0, at_most: int | None = None) -> float:
    """Between commas."""
    return in_range(sum(bool(words_of(part)) for part in text.split(",")), at_least, at_most)


def _marks(text: str, mark: str, at_least: int = 0, at_most: int | None = None) -> float:
    """How often a mark stands there, a question mark, say."""
    return in_range(text.count(mark), at_least, at_most)


def _repeats(text: str, phrase: str, at_least: int = 0, at_most: int | None = None) -> float:
    return in_range(_times(text, phrase), at_least, at_most)


def _bold(text: str, at_least: int = 0, at_most: int | None = None) -> float:
    """Passages between two asterisks each."""
    return in_range(len(BOLD.findall(text)), at_least, at_most)


def _hashtags(text: str, at_least: int = 0, at_most: int | None = None) -> float:
    is_tag = [token[0] == "#" and token[1:2].isalnum() for token in text.split()]
    return in_range(sum(is_tag), at_least, at_most)


def _includes(text: str, texts: Sequence[str]) -> float:
    return _share([_times(text, phrase) > 0 for phrase in texts])


def _excludes(text: str, texts: Sequence[str]) -> float:
    return _share([_times(text, phrase) == 0 for phrase in texts])


def _starts_with(text: str, phrase: str) -> float:
    """The share of the phrase's words that stand in their places at the start."""
    wanted = words_of(phrase)
    return _leading(wanted, words_of(text)) / len(wanted)


def _ends_with(text: str, phrase: str) -> float:
    wanted = words_of(phrase)
    return _leading(wanted[::-1], words_of(text)[::-1]) / len(wanted)


def _leading(wanted: Sequence[str], words: Sequence[str]) -> int:
    """How many words are as wanted before the first that is not."""
    for count, (of_phrase, of_text) in enumerate(zip(wanted, words)):
        if of_phrase != of_text:
            return count
    return min(len(wanted), len(words))


def _lower_case(text: str) -> float:
    """The share of letters with case that are small."""
    return _share([c.islower() for c in text if c.lower() != c.upper()])


def _upper_case(text: str) -> float:
    return _share([c.isupper() for c in text if c.lower() != c.upper()])


def _title_case(text: str) -> float:
    """The share of words that begin with a capital, among those that could."""
    first = [_bare(token)[:1] for token in text.translate(DASHES).split()]
    return _share([c.isupper() or c.istitle() for c in first if c.lower() != c.upper()])


def _json_object(text: str, keys: Sequence[str]) -> float:
    """A JSON object, in a code fence or not: half for that, half for the keys that it shares with `keys`.

    Where it is none, a quarter for the keys that stand there in quotes.
    """
    try:
        value = json.loads(_unfenced(text))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return 0.25 * _share([f'"{key}"' in text for key in keys])
    return 0.5 + 0.5 * len(set(value) & set(keys)) / len(set(value) | set(keys))


def _unfenced(text: str) -> str:
    if not (text.startswith(FENCE) and text.endswith(FENCE) and "\n" in text):
        return text
    return text.split("\n", 1)[1].removesuffix(FENCE)


def _no_digits(text: str) -> float:
    return in_range(sum(map(str.isdigit, text)), at_most=0)


def _no_commas(text: str) -> float:
    return in_range(sum(c in ",，、،" for c in text), at_most=0)


def _lipogram(text: str, letter: str) -> float:
    """The share of words without a letter; an accented one is another letter."""
    return _share([letter.casefold() not in word for word in words_of(text)])


def _script(text: str, script: str) -> float:
    """The share of letters that are of an alphabet."""
    return _share([unicodedata.name(c, "").startswith(script.upper()) for c in text if c.isalpha()])


def _title(text: str) -> float:
    """The first line in square brackets; half where brackets stand elsewhere."""
    lines = lines_of(text)
    if lines[0].startswith("[") and lines[0].endswith("]") and words_of(lines[0]):
        return 1.0
    return 0.5 * any("[" in line and "]" in line.partition("[")[2] for line in lines)


def _quoted(text: str) -> float:
    """Double quotes around the whole; half for each side."""
    return 0.5 * text.startswith(('"', "“")) + 0.5 * (text.endswith(('"', "”")))


def _postscript(text: str) -> float:
    """The last line begins with P.S.; half where another one does."""
    is_postscript = [line.casefold().startswith(("p.s.", "ps:", "p.s:")) for line in lines_of(text)]
    return 1.0 if is_postscript[-1] else 0.5 * any(is_postscript)


def _alphabetical(text: str) -> float:
    """The share of neighbouring lines whose words are in order; 0 of a single line."""
    lines = [words_of(_without_list_mark(line)) for line in lines_of(text)]
    return _share([one <= other for one, other in zip(lines, lines[1:])])


def _initials(text: str, letter: str, percent: int) -> float:
    """Words that begin with a letter: the share of them, against the share that is wanted."""
    share = _share([word.startswith(letter.casefold()) for word in words_of(text)])
    return min(1.0, 100 * share / percent)


def _acrostic(text: str, phrase: str) -> float:
    """The share of lines that begin with the letter in their place, of as many lines as letters."""
    first = [(words_of(line) or [" "])[0][0] for line in lines_of(text)]
    fits = sum(one == other for one, other in zip(first, phrase.casefold()))
    return fits / max(len(first), len(phrase))


def _word_length(text: str, at_most: int) -> float:
    """The share of words of at most so many characters."""
    return _share([len(word) <= at_most for word in words_of(text)])


def _sentence_words(text: str, at_most: int) -> float:
    """The share of sentences of at most so many words."""
    return _share([len(words_of(sentence)) <= at_most for sentence in sentences_of(text)])


class Kind(NamedTuple):
    """A kind of constraint: how far a text meets it, and the arguments that say what is asked."""

    met: Callable[..., float]
    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


RANGE = ("at_least", "at_most")
KINDS = {
    "words": Kind(_words, (), RANGE),
    "sentences": Kind(_sentences, (), RANGE),
    "paragraphs": Kind(_paragraphs, (), RANGE),
    "lines": Kind(_lines, (), RANGE),
    "bullets": Kind(_bullets, (), RANGE),
    "steps": Kind(_steps, (), RANGE),
    "items": Kind(_items, (), RANGE),
    "marks": Kind(_marks, ("mark",), RANGE),
    "repeats": Kind(_repeats, ("phrase",), RANGE),
    "bold": Kind(_bold, (), RANGE),
    "hashtags": Kind(_hashtags, (), RANGE),
    "includes": Kind(_includes, ("texts",)),
    "excludes": Kind(_excludes, ("texts",)),
    "starts_with": Kind(_starts_with, ("phrase",)),
    "ends_with": Kind(_ends_with, ("phrase",)),
    "lower_case": Kind(_lower_case),
    "upper_case": Kind(_upper_case),
    "title_case": Kind(_title_case),
    "json_object": Kind(_json_object, ("keys",)),
    "no_digits": Kind(_no_digits),
    "no_commas": Kind(_no_commas),
    "lipogram": Kind(_lipogram, ("letter",)),
    "script": Kind(_script, ("script",)),
    "title": Kind(_title),
    "quoted": Kind(_quoted),
    "postscript": Kind(_postscript),
    "alphabetical": Kind(_alphabetical),
    "initials": Kind(_initials, ("letter", "percent")),
    "acrostic": Kind(_acrostic, ("phrase",)),
    "word_length": Kind(_word_length, ("at_most",)),
    "sentence_words": Kind(_sentence_words, ("at_most",)),
}
