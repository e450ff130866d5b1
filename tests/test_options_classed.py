"""Options of surveys to belief classes: scales, rules, and what is refused."""

import json

import pytest

from synthesis.scales import FILE, class_of, classes_of, is_no_opinion

# read by hand: a question's options with the class of each
HAND = [
    ("Strongly agree|Agree|Neither agree nor disagree|Disagree|Strongly disagree", "54321"),
    ("Agree strongly|Agree somewhat|Disagree somewhat|Disagree strongly", "5421"),
    ("Completely agree|Mostly agree|Mostly disagree|Completely disagree|DK/Refused", "54210"),
    ("Totally agree|Tend to agree|Tend to disagree|Totally disagree|Don't know", "54210"),
    ("Strongly favour|Favour|Oppose|Strongly oppose", "5421"),
    ("Favor|Neither favor nor oppose|Oppose", "432"),
    ("Strongly approve|Somewhat approve|Somewhat disapprove|Strongly disapprove|No answer", "54210"),
    ("Approve|Disapprove|Refused", "420"),
    ("Very satisfied|Fairly satisfied|Not very satisfied|Not at all satisfied", "5421"),
    ("Satisfied|Dissatisfied", "42"),
    ("Very favorable|Mostly favorable|Mostly unfavorable|Very unfavorable", "5421"),
    ("Too little|About right|Too much", "432"),
    ("Too little|About the right amount|Too much|Don't know / refused", "4320"),
    ("Very good|Good|Neither good nor bad|Bad|Very bad", "54321"),
    ("Good thing|Bad thing|DK", "420"),
    ("Excellent|Good|Only fair|Poor", "5421"),
    ("Excellent|Good|Fair|Poor", "5421"),
    ("Excellent|Very good|Good|Fair|Poor", "54321"),
    ("Much better|Somewhat better|About the same|Somewhat worse|Much worse", "54321"),
    ("Better|Worse|The same", "423"),
    ("Yes|No", "42"),
    ("Yes|No|Refused (VOL)", "420"),
    ("Definitely yes|Probably yes|Probably not|Definitely not", "5421"),
    ("Definitely should|Probably should|Probably should not|Definitely should not", "5421"),
    ("Should be allowed|Should not be allowed", "42"),
    ("Always|Often|Sometimes|Rarely|Never", "54321"),
    ("Very often|Sometimes|Hardly ever|Never", "5321"),
    ("Just about always|Most of the time|Only some of the time|Never", "5421"),
    ("Just about always|Most of the time|Some of the time|None of the time", "5421"),
    ("More than once a week|Once a month|Once a year|Never", "5421"),
    ("Very important|Rather important|Not very important|Not at all important", "5421"),
    (
        "Extremely important|Very important|Moderately important|Slightly important|Not at all important",
        "54321",
    ),
    ("A great deal|Quite a lot|Not very much|None at all", "5421"),
    ("A great deal|A fair amount|Not too much|Not at all|Don't know", "54210"),
    ("A great deal|Only some|Hardly any", "432"),
    ("A great deal|A lot|A moderate amount|A little|None at all", "54321"),
    ("A lot|Some|Not much|Nothing at all", "5421"),
    ("To a great extent|To some extent|To a small extent|Not at all", "5421"),
    ("Tend to trust|Tend not to trust|Don't know", "420"),
    ("Most people can be trusted|Need to be very careful", "42"),
    ("Very likely|Somewhat likely|Not too likely|Not at all likely", "5421"),
    ("Likely|Unlikely", "42"),
    ("Very worried|Somewhat worried|Not too worried|Not worried at all", "5421"),
    ("Very interested|Somewhat interested|Not very interested|Not at all interested", "5421"),
    ("Very closely|Somewhat closely|Not too closely|Not at all closely", "5421"),
    ("Very well|Somewhat well|Not too well|Not at all well", "5421"),
    ("Very happy|Pretty happy|Not too happy", "542"),
    ("A very big problem|A moderately big problem|A small problem|Not a problem at all", "5421"),
    ("Major threat|Minor threat|Not a threat", "542"),
    ("Major problem|Minor problem|Not a problem", "521"),
    ("Definitely|Probably|Probably not|Definitely not", "5421"),
    ("Very fair|Fair|Unfair|Very unfair", "5421"),
    ("Legal in all cases|Legal in most cases|Illegal in most cases|Illegal in all cases", "5421"),
    ("Always wrong|Almost always wrong|Wrong only sometimes|Not wrong at all", "1245"),
    ("Morally acceptable|Morally unacceptable", "42"),
    ("Increased a lot|Increased a little|Stay the same|Decreased a little|Decreased a lot", "54321"),
    (
        "Very positive|Somewhat positive|Neither positive nor negative|Somewhat negative|Very negative",
        "54321",
    ),
    ("Very optimistic|Somewhat optimistic|Somewhat pessimistic|Very pessimistic", "5421"),
    ("Very easy|Somewhat easy|Somewhat difficult|Very difficult", "5421"),
    ("Very safe|Somewhat safe|Not too safe|Not at all safe|Refused", "54210"),
    ("Right direction|Wrong track|Not sure", "420"),
    ("Very proud|Somewhat proud|Not very proud|Not at all proud", "5421"),
    ("Very much like me|Like me|Somewhat like me|Not like me|Not at all like me", "54321"),
    ("1. Strongly disagree|2. Disagree|3. Neutral|4. Agree|5. Strongly agree", "12345"),
    ("True|False|Can’t choose", "420"),
    # rules
    ("Very audible|Somewhat audible|Not too audible|Not at all audible", "5421"),
    ("Extremely shaken|Very shaken|Moderately shaken|Slightly shaken|Not at all shaken", "54321"),
    ("Yes, have heard of it|No, have not heard of it", "42"),
    ("Has apologized|Has not apologized", "42"),
    ("1|2|3|4|5|6|7|8|9|10", "1122334455"),
    ("10|9|8|7|6|5|4|3|2|1|No answer", "55443322110"),
    ("0|1|2|3|4|5|6|7|8|9|10", "11223334455"),
    ("1 - Completely dissatisfied|2|3|4|5|6|7|8|9|10 - Completely satisfied", "1122334455"),
    ("Never justifiable|2|3|4|5|6|7|8|9|Always justifiable", "1122334455"),
    ("Completely satisfied|2|3|4|Completely dissatisfied", "54321"),
    ("Mentioned|Not mentioned|Missing; Not available", "420"),
    ("1 (not important at all)|2|3|4|5|6|7 (very important)", "1223445"),
    ("1 - Extremely|2|3|4|5 - Not at all", "54321"),
    ("1 - Very satisfied|2 - Somewhat satisfied|3 - Somewhat dissatisfied", "542"),
    ("1 (very important)|2|3|4 (not at all important)", "5421"),
]

REFUSED = [
    "Purple|Green",
    "Yes|Maybe|No",
    "Liberal|Moderate|Conservative",
    "Democrat|Republican",
    "The economy|Immigration|Health care",
    "Very important|Not at all important",  # of a scale of five degrees, or of one of four
    "Agree|Depends|Disagree",
    "More of a partner|More of an enemy",
    "Under 30|30 to 49|50 and over",
    "Keep troops|Remove troops",
    "1|2|4|8",
    "Under 5|5|6|Many",
    "1900|1950|2000",
    "Favor|In favor",  # of one class
]


@pytest.mark.parametrize("options,labels", HAND, ids=lambda value: value[:40])
def test_options_read_by_hand_have_their_classes(options, labels):
    assert classes_of(options.split("|")).labels == tuple(labels)


@pytest.mark.parametrize("options", REFUSED)
def test_options_of_no_scale_have_no_class(options):
    given = options.split("|")
    found = classes_of(given)
    assert None in found.labels and found.how
    assert [label for label in found.labels if label is not None] == []


def test_an_option_alone_has_a_class_only_where_all_scales_agree():
    assert class_of("Strongly agree") == "5" and class_of("Don’t know") == "0"
    assert (
        class_of("Very important") is None and class_of("A little") is None and class_of("Sure thing") is None
    )


@pytest.mark.parametrize(
    "option",
    ["DK", "Don't know", "Refused", "DK/Refused", "Don't know/No answer", "No answer", "Not sure (VOL.)"],
)
def test_no_opinion_is_known_however_it_is_worded(option):
    assert is_no_opinion(option)


@pytest.mark.parametrize(
    "options",
    [
        "1|2|3|4",  # regions, say, or a scale to 5 that nobody chose the end of
        "3|4|5|6|7|8",
        "1 (not at all)|2|3|4",
        "1 - Best|2|3|4|5 - Worst",
        "1 - Trust fully|2|3|4|5 - No trust",
        "1 - Stark dafür|2|3|4|5 - Stark dagegen",
    ],
)
def test_numbers_without_known_words_at_both_ends_are_no_scale(options):
    found = classes_of(options.split("|"))
    assert set(found.labels) == {None}
    assert found.how.startswith("its options are numbers")


def test_the_order_of_the_options_does_not_matter():
    for options, labels in HAND:
        given = options.split("|")
        assert classes_of(given[::-1]).labels == tuple(labels[::-1])


def test_the_map_has_more_than_300_wordings_and_no_scale_says_two_things_of_one():
    given = json.loads(FILE.read_text())
    wordings = {
        words for levels in given["scales"].values() for several in levels.values() for words in several
    }
    assert len(wordings | set(given["no_opinion"])) >= 300
    for name, levels in given["scales"].items():
        several = [words for of_level in levels.values() for words in of_level]
        assert len(several) == len(set(several)), name
        assert set(levels) <= set("12345") and len(levels) > 1
