"""Formats as people's files have them: columns that repeat others, thoughts, calls, rows of no use here."""

import pytest
from test_format_rows import BLUE_TURN, GREEN_TURN, MORE, only
from test_formats import BLUE, CHAT, FIRST, GREEN, SYSTEM, Q, refusal

TALK = [{"from": "human", "value": Q}, {"from": "gpt", "value": "Blue."}]
BOTH = {"chosen": [*CHAT, BLUE_TURN], "rejected": [*CHAT, GREEN_TURN]}


def noted(dropped):
    """The columns that were ignored."""
    return {reason.rsplit(" ", 1)[1] for reason in dropped if "ignored column" in reason}


# --- columns that say again what others say -----------------------------------------------------------------


@pytest.mark.parametrize(
    "row,repeated,expected",
    [
        (  # Magpie-Align/Magpie-Pro-300K-Filtered
            {"instruction": Q, "response": "Blue.", "conversations": TALK},
            {"instruction", "response"},
            (CHAT, [BLUE], (), ()),
        ),
        (  # Magpie-Align/Magpie-Llama-3.1-Pro-DPO-100K-v0.1
            {"instruction": f" {Q}\n", "conversations": TALK, **BOTH},
            {"instruction", "conversations"},
            (CHAT, [BLUE, GREEN], FIRST, ()),
        ),
        (  # iamtarun/python_code_instructions_18k_alpaca
            {"instruction": Q, "input": "", "output": "Blue.", "prompt": f"Write.\n{Q}\nOutput:\nBlue."},
            {"prompt"},
            (CHAT, [BLUE], (), ()),
        ),
        (  # mlabonne/orpo-dpo-mix-40k
            {"prompt": Q, "question": Q, **BOTH},
            {"question"},
            (CHAT, [BLUE, GREEN], FIRST, ()),
        ),
    ],
)
def test_a_column_that_repeats_the_formats_own_is_ignored_and_counted(row, repeated, expected):
    group, dropped = only([row])
    assert group == expected
    assert noted(dropped) == repeated


def test_a_column_that_once_says_something_else_is_named_with_its_row():
    row = {"prompt": Q, "question": Q, **BOTH}
    text = refusal([row, {**row, "question": "Why?"}])
    assert "row 2: field question: is not used by format trl-preference" in text
    assert "could be of sharegpt or instruction-response" in refusal(
        [{"instruction": "Why?", "response": "Blue.", "conversations": TALK}]
    )


@pytest.mark.parametrize("prompt", [Q, "Sure?", f"User: {Q}\nAssistant: Blue.\nUser: Sure?", MORE, CHAT])
def test_a_prompt_beside_a_whole_labelled_conversation_stands_there_once(prompt):
    row = {"prompt": prompt, "completion": [*MORE, GREEN_TURN], "label": True}  # distilabel-capybara-kto
    assert only([row])[0] == (MORE, [GREEN], (), (True,))


def test_a_prompt_that_no_turn_of_a_conversation_says_is_named():
    row = {"prompt": "Why?", "completion": [*MORE, GREEN_TURN], "label": True}
    assert "row 1: field prompt: is none of the messages; correct it" in refusal([row])
    pair = {"prompt": "Why?", "chosen": [*MORE, BLUE_TURN], "rejected": [*MORE, GREEN_TURN]}
    assert "row 1: field prompt: is none of the messages with which both sides begin" in refusal([pair])


def test_a_prompt_that_says_more_than_the_messages_is_named():
    row = {"prompt": f"A long story. {Q}", "messages": [*CHAT, BLUE_TURN]}
    assert "field prompt: is none of the messages" in refusal([row])
    pair = {"prompt": f"A long story. {Q}", **BOTH}
    assert "field prompt: is none of the messages with which both sides begin" in refusal([pair])


def test_a_completion_that_only_goes_on_follows_its_prompt():
    row = {"prompt": Q, "completion": [BLUE_TURN, MORE[-1], GREEN_TURN], "label": True}
    assert only([row])[0] == (MORE, [GREEN], (), (True,))


# --- names that are nearly right ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row,column,meant,name",
    [
        ({"promt": Q, "chosen": " blue.", "rejected": " green."}, "promt", "prompt", "trl-preference"),
        ({"prompt": Q, "choosen": "Blue.", "rejected": "Green."}, "choosen", "chosen", "trl-preference"),
        ({"prompt": Q, "completion": "Blue.", "labels": False}, "labels", "label", "trl-unpaired"),
        ({"prompt": Q, "completions": "Blue."}, "completions", "completion", "prompt-completion"),
        (
            {"message": CHAT, "chosen": BLUE_TURN, "rejected": GREEN_TURN},
            "message",
            "messages",
            "messages-pairs",
        ),
        ({"instructions": Q, "input": "", "output": "Blue."}, "instructions", "instruction", "alpaca"),
        ({**BOTH, "score_chosen": 9, "score_reject": 1}, "score_reject", "score_rejected", "binarized"),
    ],
)
def test_a_misspelt_column_is_never_ignored(row, column, meant, name):
    text = refusal([row])
    assert f"row 1: field {column}: rename it to {meant}, if it is that of format {name}" in text


def test_several_misspelt_columns_are_named_together():
    text = refusal([{"Prompt": Q, " Completion": "Blue."}])
    assert "row 1: fields Prompt,  Completion: rename them to prompt, completion" in text
    assert "if they are those of format prompt-completion" in text


def test_a_format_that_is_named_ignores_what_looks_misspelt():
    row = {"promt": "x", "chosen": "The sky is blue.", "rejected": "The sky is green."}
    assert "or name the format with format=trl-preference-implicit" in refusal([row])
    group, dropped = only([row], "trl-preference-implicit")
    assert group[0] == "The sky is" and noted(dropped) == {"promt"}


# --- systems, scores, turns that are not trained on ---------------------------------------------------------


def test_a_system_prompt_column_is_the_systems_turn():
    row = {"system_prompt": "Answer briefly.", "prompt": Q, "chosen": "Blue.", "rejected": "Green."}
    assert only([row])[0] == ([SYSTEM, *CHAT], [BLUE, GREEN], FIRST, ())
    assert only([{**row, "system": "Answer briefly."}])[0][0] == [SYSTEM, *CHAT]
    assert "fields system and system_prompt: differ" in refusal([{**row, "system": "Be kind."}])


@pytest.mark.parametrize(
    "prompt",
    [
        {},
        {"prompt": Q},
        {"messages": CHAT},
        {"conversations": TALK[:1]},
    ],
)
def test_scores_of_both_sides_are_rewards_in_every_format_of_pairs(prompt):
    sides = BOTH if set(prompt) <= {"prompt"} else {"chosen": BLUE_TURN, "rejected": GREEN_TURN}
    row = {**prompt, **sides}
    expected = (CHAT, [("Blue.", 4.0), ("Green.", 2.0)], FIRST, ())
    assert only([{**row, "chosen_score": 4.0, "rejected_score": 2}])[0] == expected  # RLHFlow's pairs
    assert only([{**row, "rating_chosen": 4, "rating_rejected": 2}])[0] == expected  # Capybara's pairs


def test_a_question_stands_before_messages_as_before_texts():
    row = {"system": "Answer briefly.", "question": Q, **BOTH}  # HuggingFaceH4/orca_dpo_pairs
    assert only([row])[0] == ([SYSTEM, *CHAT], [BLUE, GREEN], FIRST, ())


def test_a_score_of_one_side_alone_is_ignored_and_counted():
    row = {"input": Q, "chosen": "Blue.", "rejected": "Green.", "chosen_score": 9.0}
    group, dropped = only([row])
    assert group == (CHAT, [BLUE, GREEN], FIRST, ()) and noted(dropped) == {"chosen_score"}


@pytest.mark.parametrize("field", ["weight", "train", "training"])
def test_a_turn_that_its_file_does_not_train_on_is_no_response(field):
    untrained = {**GREEN_TURN, field: False}
    assert only([{"messages": [*CHAT, BLUE_TURN, *CHAT, untrained]}])[0] == (CHAT, [BLUE], (), ())


# --- what is asked and what belongs to it -------------------------------------------------------------------


@pytest.mark.parametrize(
    "row,prompt",
    [
        ({"instruction": Q, "response": "Blue.", "context": "", "input": None}, Q),
        ({"instruction": Q, "response": "Blue.", "context": "A book."}, f"{Q}\nA book."),
        (
            {"instruction": Q, "response": "Blue.", "input": "Now.", "context": "A book."},
            f"{Q}\nNow.\nA book.",
        ),
        ({"question": Q, "answer": "Blue.", "article": "A book."}, f"{Q}\nA book."),
    ],
)
def test_what_belongs_to_a_question_stands_below_it(row, prompt):
    assert only([row])[0] == ([{"role": "user", "content": prompt}], [BLUE], (), ())


# --- what is not shown, and what is of no use ---------------------------------------------------------------

CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}


@pytest.mark.parametrize(
    "message,problem",
    [
        ({"role": "assistant", "tool_calls": [CALL]}, "[1].tool_calls: calls of tools are not read"),
        ({"from": "function_call", "value": "{}"}, "[1]: calls of tools are not read"),
        ({**BLUE_TURN, "thinking": "It is day."}, "[1].thinking: is not shown to the model"),
        (
            {**BLUE_TURN, "reasoning_content": "It is day."},
            "[1].reasoning_content: is not shown to the model",
        ),
        ({"role": "assistant", "tool_calls": []}, "[1].content: has no text"),
    ],
)
def test_calls_and_thoughts_are_never_left_out_of_a_message(message, problem):
    assert f"row 1: field messages{problem}" in refusal([{"messages": [*CHAT, message, BLUE_TURN]}])


def test_a_call_without_a_content_is_a_message_where_tools_stand_beside_it():
    messages = [
        *CHAT,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "content": "x"},
        BLUE_TURN,
    ]
    assert "row 1: field tools: is not shown to the model" in refusal(
        [{"messages": messages, "tools": [CALL]}]
    )


@pytest.mark.parametrize(
    "message,lacks",
    [
        ({"content": "x"}, "role"),
        ({"role": 1, "content": "x"}, "role"),
        ({"role": "user", "contents": "x"}, "content"),
        ({"from": "human"}, "value"),
        ({"value": "x"}, "from"),
    ],
)
def test_a_message_that_lacks_a_part_is_named_with_its_number(message, lacks):
    good = {"messages": [*CHAT, BLUE_TURN]}
    text = refusal([good, {"messages": [*CHAT, message]}])
    assert f"row 2: field messages: is a list of objects, of which [1] has no {lacks}, and format" in text


def test_empty_thoughts_and_calls_change_nothing():
    empty = {"thinking": None, "reasoning_content": "", "tool_calls": None}
    assert only([{"messages": [*CHAT, {**BLUE_TURN, **empty}]}])[0] == (CHAT, [BLUE], (), ())


@pytest.mark.parametrize(
    "row,name",
    [
        (
            {"message_id": "1", "parent_id": None, "text": Q, "role": "prompter", "message_tree_id": "1"},
            "message-tree (beside message_id, parent_id): has one message a row",
        ),
        (
            {"dataset": "x", "context_messages": CHAT, "id": "1"},
            "context-messages (beside dataset, id): has a prompt and no response",
        ),
        ({"instruction": Q, "response": "Blue.", "score": 1}, "rated-responses: scores one response a row"),
        ({"input_ids": [1, 2], "labels": [1, 2]}, "token-ids (beside labels): has token ids"),
        ({"segments": [{"label": True, "text": "x"}]}, "template-free: has pieces of text"),
    ],
)
def test_rows_that_nothing_trains_on_are_refused_by_name(row, name):
    assert f"row 1: is of format {name}" in refusal([row])


def test_metadata_of_messages_is_counted():
    turn = {"language": "English", "toxic": False, "country": None}  # allenai/WildChat
    row = {"conversation": [{**CHAT[0], **turn}, {**BLUE_TURN, **turn}], "model": "x", "turn": 1}
    group, dropped = only([row])
    assert group == (CHAT, [BLUE], (), ())
    assert dropped["note: ignored field of messages: toxic"] == 2
    assert "note: ignored field of messages: country" not in dropped


def test_a_refused_format_is_refused_where_it_is_named():
    assert "format=token-ids: has token ids" in refusal([{"text": "x"}], "token-ids")
