"""Formats at their edges: what kinds decide, what is left out and counted, what is refused and why."""

import pytest
from test_formats import BLUE, CHAT, EXAMPLES, FIRST, GREEN, SYSTEM, Q, read, refusal, shape

from groups import Drops
from groups.pairs import prompt_border

BLUE_TURN = {"role": "assistant", "content": "Blue."}
GREEN_TURN = {"role": "assistant", "content": "Green."}
MORE = [*CHAT, BLUE_TURN, {"role": "user", "content": "Sure?"}]


def only(rows, name=None):
    """The one group of rows, and what was dropped and noted."""
    dropped = Drops()
    (group,) = read(rows, name, dropped)
    return shape(group), dropped


def nothing(*rows, name=None):
    """Why nothing is left of rows."""
    dropped = Drops()
    assert read(rows, name, dropped) == []
    return {reason: count for reason, count in dropped.items() if not reason.startswith("note: ")}


# --- pairs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row,prompt",
    [
        ({"prompt": CHAT, "chosen": [BLUE_TURN], "rejected": [GREEN_TURN]}, CHAT),
        ({"prompt": CHAT, "chosen": BLUE_TURN, "rejected": GREEN_TURN}, CHAT),
        ({"prompt": CHAT, "chosen": "Blue.", "rejected": "Green."}, CHAT),
        ({"prompt": Q, "chosen": "Blue.", "rejected": "Green."}, Q),
        ({"prompt": Q, "chosen": [BLUE_TURN], "rejected": [GREEN_TURN]}, CHAT),
        ({"prompt": Q, "chosen": [*CHAT, BLUE_TURN], "rejected": [*CHAT, GREEN_TURN]}, CHAT),
        ({"prompt": CHAT, "chosen": [*CHAT, BLUE_TURN], "rejected": [*CHAT, GREEN_TURN]}, CHAT),
        ({"prompt": CHAT, "chosen": [*MORE, BLUE_TURN], "rejected": [*MORE, GREEN_TURN]}, MORE),
        ({"prompt": None, "chosen": [*MORE, BLUE_TURN], "rejected": [*MORE, GREEN_TURN]}, MORE),
        (
            {"system": "Answer briefly.", "prompt": Q, "chosen": "Blue.", "rejected": "Green."},
            [SYSTEM, *CHAT],
        ),
        ({"system": None, "prompt": Q, "chosen": "Blue.", "rejected": "Green."}, CHAT),
        (
            {"system": "Answer briefly.", "prompt": CHAT, "chosen": [BLUE_TURN], "rejected": [GREEN_TURN]},
            [SYSTEM, *CHAT],
        ),
        ({"chosen": [SYSTEM, *CHAT, BLUE_TURN], "rejected": [SYSTEM, *CHAT, GREEN_TURN]}, [SYSTEM, *CHAT]),
        ({"messages": Q, "chosen": "Blue.", "rejected": "Green."}, CHAT),
        ({"input": CHAT, "chosen": [BLUE_TURN], "rejected": [GREEN_TURN]}, CHAT),
    ],
)
def test_kinds_decide_what_is_the_prompt_of_a_pair(row, prompt):
    assert only([row])[0] == (prompt, [BLUE, GREEN], FIRST, ())


def test_texts_without_a_prompt_are_cut_where_trl_cuts_them():
    row = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    assert only([row])[0] == ("The sky is", [(" blue.", None), (" green.", None)], FIRST, ())
    assert prompt_border("The sky is black", "The sky is blue") == len("The sky is bl")
    assert prompt_border("a", "b") == 0
    assert prompt_border("abc", "abcd") == 2
    assert prompt_border("", "abc") == 0


def test_scores_beside_a_pair_become_rewards():
    row = {"chosen": [*CHAT, BLUE_TURN], "rejected": [*CHAT, GREEN_TURN]}
    group, _ = only([{**row, "chosen_rating": 5.0, "rejected_rating": 3}])
    assert group == (CHAT, [("Blue.", 5.0), ("Green.", 3.0)], FIRST, ())
    assert "chosen-rating: is a text, and format" in refusal([row, {**row, "chosen-rating": "good"}])
    assert "need two finite numbers" in refusal(
        [{**row, "chosen_rating": float("nan"), "rejected_rating": float("inf")}] * 2
        + [{**row, "chosen_rating": 1e300, "rejected_rating": 1}]
    )


PAIR = {"prompt": CHAT, "chosen": [BLUE_TURN], "rejected": [GREEN_TURN]}


@pytest.mark.parametrize(
    "row,reason",
    [
        ({**PAIR, "rejected": [BLUE_TURN]}, "preferred_equal_to_rejected"),
        ({**PAIR, "rejected": [{"role": "assistant", "content": " "}]}, "empty_responses"),
        ({**PAIR, "rejected": CHAT}, "without_assistant_turn"),
        ({**PAIR, "rejected": [GREEN_TURN, *CHAT, GREEN_TURN]}, "sides_without_a_common_prompt"),
        ({"chosen": [BLUE_TURN], "rejected": [GREEN_TURN]}, "without_a_prompt"),
        ({"chosen": "Blue.", "rejected": "Green."}, "sides_without_a_common_prompt"),
        ({"chosen": "Blue.", "rejected": "Blue."}, "preferred_equal_to_rejected"),
        ({"prompt": Q, "chosen": "Blue.", "rejected": ""}, "empty_responses"),
        ({**EXAMPLES["helpsteer3"][0], "overall_preference": 0}, "ties"),
        ({**EXAMPLES["helpsteer2-preference"][0], "preference_strength": 0}, "ties"),
        ({**EXAMPLES["arena"][0], "winner": "tie (bothbad)"}, "ties"),
        ({**EXAMPLES["arena"][0], "conversation_a": MORE}, "without_assistant_turn"),
        ({**EXAMPLES["arena"][0], "conversation_a": [*MORE, BLUE_TURN]}, "sides_without_a_common_prompt"),
        ({**EXAMPLES["arena-turns"][0], "winner_model_a": 0, "winner_tie": 1}, "ties"),
        ({**EXAMPLES["input-pairs"][0], "status": "tie"}, "ties"),
        ({**EXAMPLES["rewardbench2"][0], "rejected": ["Blue."]}, "prompts_with_fewer_than_two_responses"),
        (EXAMPLES["helpsteer2"][0], "prompts_with_fewer_than_two_responses"),
    ],
)
def test_a_row_without_a_preference_is_left_out_and_counted(row, reason):
    assert nothing(row)[reason] == 1


# --- responses ----------------------------------------------------------------------------------------------


def test_the_last_assistant_turn_is_the_response():
    group, dropped = only([{"messages": [*MORE, GREEN_TURN, *CHAT]}])
    assert group == (MORE, [GREEN], (), ())
    assert dropped["note: earlier assistant turns stand in the prompt"] == 1
    assert dropped["note: messages behind the response are ignored"] == 1


def test_a_turn_of_weight_0_is_no_response():
    untrained = {**GREEN_TURN, "weight": 0}
    assert only([{"messages": [*CHAT, BLUE_TURN, *CHAT, untrained]}])[0] == (CHAT, [BLUE], (), ())
    assert nothing({"messages": [*CHAT, untrained]}) == {"without_a_turn_of_weight_1": 1}


def test_roles_come_under_their_usual_names_and_contents_in_parts_become_texts():
    parts = [{"type": "text", "text": "Blue"}, {"type": "text", "text": "."}]
    asked = {"role": "human", "content": Q}
    row = {"messages": [{"role": "developer", "content": "Answer briefly."}, asked]}
    row["messages"].append({"role": "model", "content": parts, "name": "x"})
    group, dropped = only([row])
    assert group == ([SYSTEM, *CHAT], [BLUE], (), ())
    assert dropped["note: ignored field of messages: name"] == 1


def test_a_prompt_beside_messages_must_be_one_of_them():
    row = {"prompt": Q, "prompt_id": "1", "messages": [*CHAT, BLUE_TURN]}
    assert only([row])[0] == (CHAT, [BLUE], (), ())
    assert "field prompt: is none of the messages" in refusal([{**row, "prompt": "Why?"}])


@pytest.mark.parametrize(
    "row,reason",
    [
        ({"messages": CHAT}, "without_assistant_turn"),
        ({"messages": [BLUE_TURN]}, "without_a_prompt"),
        ({"messages": [SYSTEM, BLUE_TURN]}, "without_a_prompt"),
        ({"prompt": Q, "completion": "  "}, "empty_responses"),
        ({"prompt": CHAT, "completion": CHAT}, "without_assistant_turn"),
        ({"instruction": Q, "output": "", "input": ""}, "empty_responses"),
    ],
)
def test_a_row_without_a_response_is_left_out_and_counted(row, reason):
    assert nothing(row) == {reason: 1}


# --- ranks and turns ----------------------------------------------------------------------------------


def test_ranks_become_rewards_and_equal_ranks_equal_rewards():
    ranked = [("a", 2), ("b", 1), ("c", 2), ("d", 4)]
    row = {"prompt": Q, "responses": [{"text": text, "rank": rank} for text, rank in ranked]}
    group, dropped = only([row])
    assert group[1] == [("a", 1.0), ("b", 3.0), ("c", 1.0), ("d", 0.0)]
    assert dropped["note: rewards are made from ranks"] == 1
    assert "has 1 ranks for 2 responses" in refusal([{"prompt": Q, "responses": ["a", "b"], "rank": [1]}])


def test_a_helpsteer_prompt_of_several_turns_becomes_messages():
    prompt = f"{Q}\n<extra_id_1>Assistant\nBlue.\n<extra_id_1>User\nSure?"
    rows = [{**row, "prompt": prompt} for row in EXAMPLES["helpsteer2"]]
    assert only(rows)[0][0] == MORE


def test_turns_of_the_arenas_competition_become_messages():
    row = {**EXAMPLES["arena-turns"][0], "prompt": [Q, "Sure?"]}
    row |= {"response_a": ["Blue.", "Yes."], "response_b": ["Blue.", "No."]}
    assert only([row])[0] == (MORE, [("Yes.", None), ("No.", None)], FIRST, ())
    assert nothing({**row, "response_b": ["Green.", "No."]}) == {"sides_without_a_common_prompt": 1}
    assert "have lists of different lengths" in refusal([{**row, "response_b": ["Green."]}])
    assert "both won" in refusal([{**row, "winner_model_b": 1}])


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row,message",
    [
        (
            {"prompt": Q, "chosen": [1, 2], "rejected": "x"},
            "nearest format is trl-preference: field chosen: is a list of numbers, needs a text",
        ),
        ({"prompt": Q, "chosen": "x"}, "row 1: nearest format is trl-preference: field rejected: missing"),
        (
            {"prompt": Q, "completion": "x", "label": "good"},
            "it is a text where format trl-unpaired needs true or false; correct it or remove the column",
        ),
        (
            {"completion": "x", "label": True},
            "nearest format is trl-unpaired-implicit: field completion: is a text",
        ),
        (
            {
                "prompt": Q,
                "completion": "[{'role': 'assistant', 'content': 'a'}\n {'role': 'user', 'content': 'b'}]",
            },
            "field completion: is a text that begins like messages and cannot be read as JSON, needs a text",
        ),
        ({"messages": []}, "nearest format is messages: field messages: is an empty list, needs messages"),
        (
            {"messages": [{"role": "user"}]},
            "field messages: is a list of objects, of which [0] has no content, needs messages",
        ),
        ({"prompt": Q}, "row 1: is of format prompt-only: has a prompt and no response"),
        ({"prompt": CHAT, "id": 1}, "row 1: is of format prompt-only (beside id): has a prompt"),
        (
            {"prompt": Q, "completions": ["a", "b"], "labels": [True, False]},
            "row 1: is of format stepwise-supervision: labels the steps",
        ),
        ({"note": "x"}, "row 1: columns note are no known data set; write prompt and responses"),
        ({}, "row 1: columns none are no known data set"),
    ],
)
def test_a_row_of_no_format_is_told_what_the_nearest_one_needs(row, message):
    assert message in refusal([row])


@pytest.mark.parametrize(
    "row,names",
    [
        (
            {"prompt": Q, "completion": "a", "chosen": "b", "rejected": "c"},
            "trl-preference or prompt-completion",
        ),
        ({"messages": [*CHAT, BLUE_TURN], "text": "x"}, "messages or text"),
        ({"instruction": Q, "output": "a", "conversations": [*CHAT, BLUE_TURN]}, "alpaca or sharegpt"),
    ],
)
def test_rows_that_could_be_of_two_formats_are_asked_about(row, names):
    text = refusal([row])
    assert f"row 1: could be of {names}; name one with format=" in text
    dropped = Drops()
    (group,) = read([row], names.split(" or ")[0], dropped)
    assert group.responses and any(reason.startswith("note: ignored column") for reason in dropped)


@pytest.mark.parametrize(
    "extra,message",
    [
        (
            {"question": "Why?"},
            "field question: is not used by format prompt-completion, and formats orca-pairs",
        ),
        (
            {"messages": 3},
            "field messages: is not used by format prompt-completion, and it is a number",
        ),
        ({"chosen": 3}, "field chosen: is not used by format prompt-completion, and it is a number"),
        ({"tools": [{"name": "f"}]}, "field tools: is not shown to the model"),
        ({"images": ["a.png"]}, "field images: is not shown to the model"),
        ({"weight": 2}, "field weight: format prompt-completion has no weights"),
    ],
)
def test_a_column_that_matters_elsewhere_is_never_ignored(extra, message):
    row = {"prompt": Q, "completion": "Blue."}
    assert f"row 2: {message}" in refusal([row, {**row, **extra}])


@pytest.mark.parametrize(
    "message,problem",
    [
        ({"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}, "calls of tools are not read"),
        ({"role": "assistant", "content": None}, "field messages[1].content: has no text"),
        ({"role": "assistant", "content": [{"type": "image"}]}, "holds parts that are no text"),
        ({"role": "narrator", "content": "x"}, "field messages[1]: unknown role 'narrator'"),
    ],
)
def test_a_message_that_cannot_be_shown_is_named(message, problem):
    assert "row 1: field messages[1]" in refusal([{"messages": [*CHAT, message]}])
    assert problem in refusal([{"messages": [*CHAT, message]}])


def test_a_second_system_message_and_mixed_sides_are_named():
    row = {"system": "Be kind.", "messages": [SYSTEM, *CHAT, BLUE_TURN]}
    assert "field system: the messages begin with another system message" in refusal([row])
    mixed = {"prompt": Q, "chosen": "Blue.", "rejected": [GREEN_TURN]}
    assert "fields chosen and rejected: one is a text and one holds messages" in refusal([mixed])
    tools = {"messages": CHAT, "tools": [{"type": "function"}]}
    row = {**EXAMPLES["openai-preference"][0], "input": tools}
    assert "field input.tools" in refusal([row])


def test_the_format_of_most_rows_is_taken_and_the_odd_one_is_named():
    pair = EXAMPLES["trl-preference"][0]
    odd = EXAMPLES["messages"][0]
    assert "row 1: field chosen: missing, and format trl-preference needs it" in refusal([odd, pair, pair])
    null = {**pair, "chosen": None}
    assert "row 3: field chosen: is null, and format trl-preference needs" in refusal([pair, pair, null])


def test_a_named_format_must_exist_and_fit():
    pair = EXAMPLES["trl-preference"][0]
    assert "format=dpo: unknown; choose one of mmoqa" in refusal([pair], "dpo")
    assert "format=prompt-only: has a prompt and no response" in refusal([pair], "prompt-only")
    assert "row 1: field messages: missing, and format messages needs it" in refusal([pair], "messages")
