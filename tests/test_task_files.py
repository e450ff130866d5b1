"""Questions of tasks, from the projects' own files and a user's, and answer files that their tools read."""

import importlib.util
import json

import pyarrow.parquet
import pytest
from data_helpers import write
from helpers import json_lines
from task_helpers import (
    ALPACA,
    ARENA_V01,
    ARENA_V2,
    MT_BENCH,
    MT_BENCH_HUB,
    answers_of,
    questions_of,
    settings_of,
    written,
)

from evaluation.tasks import baselines, forms, judging
from evaluation.tasks.prompts import read_questions
from evaluation.tasks.record import Baseline, TaskAnswers, sheets_of
from utils import UserError

# --- questions ----------------------------------------------------------------------------------------------


def test_an_instruction_is_one_message_of_the_user(tmp_path):
    questions = questions_of(tmp_path, "alpaca_eval", ALPACA)
    assert [q.prompt for q in questions.asked][0] == [{"role": "user", "content": "Name a river."}]
    assert questions.categories() == ["helpful_base", "koala"] and questions.asked[2].id == "2"


def test_mt_bench_is_read_in_the_form_of_fastchat_and_in_that_of_the_hub(tmp_path):
    for rows in (MT_BENCH, MT_BENCH_HUB):
        first, second = questions_of(tmp_path, "mt_bench", rows).asked
        assert (first.id, first.prompt[0]["content"], first.num_turns) == ("81", "Write a line.", 2)
        assert first.later_turns == ("Make it shorter.",) and first.references == ()
        assert second.references[0] == "4" and second.category == "math"


def test_reference_answers_beside_the_questions_are_read(tmp_path):
    (tmp_path / "reference_answer").mkdir()
    reference = {"question_id": 81, "choices": [{"index": 0, "turns": ["A line.", "Line."]}]}
    write(tmp_path / "reference_answer" / "gpt-4.jsonl", reference)
    first, second = questions_of(tmp_path, "mt_bench", MT_BENCH).asked
    assert first.references == ("A line.", "Line.") and second.references == ("4", "8")


def test_both_forms_of_arena_hard_are_read(tmp_path):
    old = questions_of(tmp_path, "arena_hard", ARENA_V01)
    new = questions_of(tmp_path, "arena_hard", ARENA_V2)
    assert (old.form, new.form) == ("arena-hard-v0.1", "arena-hard-v2.0")
    assert old.asked[1].prompt == [{"role": "user", "content": "Prove it."}] and old.categories() == []
    assert new.asked[0].id == "2edbb5f36f5b42be" and new.categories() == ["hard_prompt", "creative_writing"]


def test_a_prompt_of_a_text_file_is_what_stands_between_two_line_ends(tmp_path):
    file = tmp_path / "mine.TXT"
    file.write_bytes("\ufeffOne\u2028 and more\r\n\r\n\x0cTwo\x85!\rThree".encode())
    prompts = [question.prompt for question in read_questions(settings_of("prompts", file)).asked]
    assert [prompt[0]["content"] for prompt in prompts] == ["One\u2028 and more", "Two\x85!", "Three"]


@pytest.mark.parametrize(
    "task,row,wanted",
    [
        ("alpaca_eval", {"instruction": "", "dataset": "koala"}, r"columns dataset\); it needs instruction"),
        ("prompts", {"id": 1, "prompt": None}, r"columns id\); it needs prompt or"),
        ("prompts", {"prompt": ""}, "all of it is empty"),
    ],
)
def test_an_empty_column_is_not_said_to_be_there(tmp_path, task, row, wanted):
    with pytest.raises(UserError, match=wanted):
        questions_of(tmp_path, task, [row])


def test_the_first_n_prompts_are_asked(tmp_path):
    assert len(questions_of(tmp_path, "alpaca_eval", ALPACA, n_prompts=2).asked) == 2


@pytest.mark.parametrize(
    "name,content,wanted",
    [
        ("a.txt", "\ufeffOne?\n\n  Two? \n", ["One?", "Two?"]),
        ("a.jsonl", '{"prompt": "One?"}\n{"prompt": "Two?"}\n', ["One?", "Two?"]),
        ("a.json", '[{"question": "One?"}, {"question": "Two?"}]', ["One?", "Two?"]),
        ("a.csv", 'id,instruction\n7,"One, or?"\n8,Two?\n', ["One, or?", "Two?"]),
    ],
)
def test_prompts_of_the_user_s_own_come_from_any_file(tmp_path, name, content, wanted):
    (tmp_path / name).write_text(content)
    asked = read_questions(settings_of("prompts", tmp_path / name)).asked
    assert [q.prompt for q in asked] == [[{"role": "user", "content": text}] for text in wanted]


def test_prompts_of_a_parquet_file(tmp_path):
    table = pyarrow.table({"prompt": ["One?"], "uid": ["u"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (question,) = read_questions(settings_of("prompts", tmp_path / "a.parquet")).asked
    assert question.id == "u" and question.prompt[0]["content"] == "One?"


def test_messages_stay_and_a_demonstration_is_asked_without_its_answer(tmp_path):
    said = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi?"}]
    rows = [{"messages": [*said, {"role": "assistant", "content": "Hello."}]}, {"prompt": said}]
    asked = questions_of(tmp_path, "prompts", rows).asked
    assert [q.prompt for q in asked] == [said, said]


def test_rows_of_our_own_format_with_responses_are_asked_as_in_training(tmp_path):
    rows = [
        {"id": "a", "prompt": "As it is:", "question": "q", "responses": [{"text": "yes"}]},
        {"id": "b", "prompt": "Hello?", "question": "q", "responses": []},
    ]
    first, second = questions_of(tmp_path, "prompts", rows).asked
    assert first.prompt == "As it is:" and second.prompt == [{"role": "user", "content": "Hello?"}]


@pytest.mark.parametrize(
    "task,rows,wanted",
    [
        ("alpaca_eval", [{"prompt": "x"}], "row 1: has no question of task=alpaca_eval .*instruction"),
        ("alpaca_eval", [ALPACA[0], {"instruction": 3}], "row 2: field instruction: is no text"),
        ("alpaca_eval", [{"instruction": "x", "input": "y"}], "row 1: field input: .*instruction"),
        ("mt_bench", [{**MT_BENCH[0], "turns": ["one"]}], "row 1: field turns: .* two turns"),
        ("mt_bench", [MT_BENCH[0], MT_BENCH[0]], "row 2: id 81 is that of .*row 1"),
        ("mt_bench", [{**MT_BENCH[0], "reference": 7}], "row 1: field reference"),
        ("arena_hard", [ARENA_V2[0], ARENA_V01[0]], "row 2: is of another form than the first row"),
        ("arena_hard", [{**ARENA_V01[0], "turns": ["x"]}], "row 1: field turns"),
        ("prompts", [{"text": "x"}], r"row 1: has no prompt \(columns text\)"),
        ("prompts", [{"prompt": "x", "instruction": "y"}], "prompt and instruction: which one"),
        ("prompts", [{"prompt": "x", "id": 1}, {"prompt": "y", "id": 1}], "row 2: id 1 is that of"),
        ("prompts", [{"messages": "hello"}], "row 1: field messages: needs messages"),
    ],
)
def test_a_bad_row_is_named_with_its_remedy(tmp_path, task, rows, wanted):
    with pytest.raises(UserError, match=wanted) as raised:
        questions_of(tmp_path, task, rows)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name,content", [("no.txt", None), ("empty.txt", b"\n \n"), ("bad.txt", b"\xff\xfe\xff")]
)
def test_a_bad_text_file_is_named(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"prompts .*{name}: "):
        read_questions(settings_of("prompts", tmp_path / name))


def test_a_task_without_prompts_of_its_own_asks_for_them():
    with pytest.raises(UserError, match="give prompts="):
        read_questions(settings_of("prompts", None))


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    import huggingface_hub

    def refuse(*args, **options):
        raise OSError("no network\nsecond line")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"alpaca_eval.json of tatsu-lab/alpaca_eval .*\(no network\)"):
        read_questions(settings_of("alpaca_eval", None))


def test_difficulties_beside_the_questions_are_read(tmp_path):
    (tmp_path / "instruction_difficulty.csv").write_text(",instruction_difficulty\n0,1.5\n1,-2\n2,0.25\n")
    questions = questions_of(tmp_path, "alpaca_eval", ALPACA)
    assert questions.difficulty == [1.5, -2, 0.25] and questions.gamed is None
    (tmp_path / "df_gamed.csv").write_text(
        "index,std_delta_len,preference,instruction_difficulty\n0,0.5,0.2,1.5\n1,-1,0.9,-2\n"
    )
    gamed = questions_of(tmp_path, "alpaca_eval", ALPACA).gamed
    assert list(gamed.preferences) == [0.2, 0.9] and list(gamed.std_length_differences) == [0.5, -1]
    (tmp_path / "instruction_difficulty.csv").write_text(",instruction_difficulty\n0,1.5\n")
    with pytest.raises(UserError, match="no difficulty of instruction 1"):
        questions_of(tmp_path, "alpaca_eval", ALPACA)


# --- answer files -------------------------------------------------------------------------------------------


def test_alpaca_outputs_have_the_keys_of_the_project(tmp_path):
    questions = questions_of(tmp_path, "alpaca_eval", ALPACA)
    answers = answers_of(questions, ("Rhine",), ("Zugspitze",), ("Como",))
    (path,) = forms.write_answers(tmp_path / "report", questions, [answers])
    assert path.name == "model_outputs_tiny.json"
    rows = json.loads(path.read_text())
    assert rows[1] == {
        "dataset": "koala",
        "instruction": "Name a hill.",
        "output": "Zugspitze",
        "generator": "tiny",
    }


def test_fastchat_answers_have_the_keys_of_the_project(tmp_path):
    questions = questions_of(tmp_path, "mt_bench", MT_BENCH)
    answers = answers_of(questions, ("a", "b"), ("c", "d"), name="org/tiny")
    (path,) = forms.write_answers(tmp_path, questions, [answers])
    assert path == tmp_path / "model_answer" / "org__tiny.jsonl"
    first, _ = json_lines(path)
    assert set(first) == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    assert first["question_id"] == 81 and first["model_id"] == "org/tiny" and len(first["answer_id"]) == 22
    assert first["choices"] == [{"index": 0, "turns": ["a", "b"]}]


def test_arena_answers_have_the_keys_of_either_version(tmp_path):
    text = "# Title\n- one\n- two\n1. three\n**bold**\n```\n# code\n```"
    old = questions_of(tmp_path, "arena_hard", ARENA_V01)
    (path,) = forms.write_answers(tmp_path / "old", old, [answers_of(old, (text,), ("b",))])
    first, _ = json_lines(path)
    assert set(first) == {"question_id", "answer_id", "model_id", "choices", "tstamp", "conv_metadata"}
    assert first["choices"] == [{"index": 0, "turns": [{"content": text}]}]
    new = questions_of(tmp_path, "arena_hard", ARENA_V2)
    (path,) = forms.write_answers(tmp_path / "new", new, [answers_of(new, (text,), ("b",))])
    first, _ = json_lines(path)
    assert set(first) == {"uid", "ans_id", "model", "messages", "tstamp", "metadata"}
    assert first["messages"][0] == {"role": "user", "content": "Write me code."}
    assert first["messages"][-1] == {"role": "assistant", "content": {"answer": text}}
    style = first["metadata"]
    assert style["header_count"] == {"h1": 1, "h2": 0, "h3": 0, "h4": 0, "h5": 0, "h6": 0}
    assert style["list_count"] == {"ordered": 1, "unordered": 2}
    assert style["bold_count"] == {"**": 1, "__": 0} and isinstance(style["token_len"], int)


SHEETS = ["greedy", "greedy-sample2", "t0.5", "t0.5-sample2"]


def test_samples_and_decodings_have_files_or_choices_of_their_own(tmp_path):
    two = [(written("a"),), (written("b"),)]
    alpaca = questions_of(tmp_path, "alpaca_eval", ALPACA)
    answers = TaskAnswers("m", {"greedy": [two] * 3, "t0.5": [two] * 3}, {})
    names = [path.name for path in forms.write_answers(tmp_path / "a", alpaca, [answers])]
    assert names == [f"model_outputs_m-{n}.json" for n in SHEETS]
    assert [sheet.name for sheet in sheets_of(answers)] == [f"m-{n}" for n in SHEETS]
    arena = questions_of(tmp_path, "arena_hard", ARENA_V01)
    (path,) = forms.write_answers(tmp_path / "b", arena, [TaskAnswers("m", {"t1": [two] * 2}, {})])
    choices = json_lines(path)[0]["choices"]
    assert [choice["turns"][0]["content"] for choice in choices] == ["a", "b"]


@pytest.mark.skipif(not importlib.util.find_spec("fastchat"), reason="needs fschat")
def test_fastchat_loads_our_answers(tmp_path):
    common = pytest.importorskip("fastchat.llm_judge.common")
    questions = questions_of(tmp_path, "mt_bench", MT_BENCH)
    answers = answers_of(questions, ("a", "b"), ("c", "d"))
    forms.write_answers(tmp_path, questions, [answers])
    loaded = common.load_model_answers(str(tmp_path / "model_answer"))
    asked = common.load_questions(str(tmp_path / "question.jsonl"), None, None)
    common.check_data(asked, loaded, {}, ["tiny"], {})
    assert loaded["tiny"][111]["choices"][0]["turns"][1] == "d"


@pytest.mark.skipif(not importlib.util.find_spec("alpaca_eval"), reason="needs alpaca-eval")
def test_alpaca_eval_loads_our_outputs_and_our_annotations(tmp_path):
    pytest.importorskip("alpaca_eval.metrics")
    from alpaca_eval import utils as alpaca_utils
    from alpaca_eval.metrics import get_winrate

    questions = questions_of(tmp_path, "alpaca_eval", ALPACA)
    answers = answers_of(questions, ("Rhine",), ("Zugspitze",), ("Como",))
    (path,) = forms.write_answers(tmp_path, questions, [answers])
    table = alpaca_utils.load_or_convert_to_dataframe(path)
    assert alpaca_utils.get_generator_name(None, table) == "tiny" and list(table["output"])[2] == "Como"
    baseline = Baseline("base", {"greedy": [["x"], ["y"], ["z"]]})
    verdicts = {"greedy": [[1.0], [0.0], [0.5]]}
    (path,) = judging.write_annotations(tmp_path, questions, answers, baseline, verdicts, "fake")
    assert get_winrate(json.loads(path.read_text()))["win_rate"] == 50


# --- baselines ----------------------------------------------------------------------------------------------


def test_a_baseline_s_answers_are_found_in_every_form(tmp_path):
    cases = [
        ("alpaca_eval", ALPACA, ["r", "h", "l"]),
        ("arena_hard", ARENA_V01, ["a", "b"]),
        ("arena_hard", ARENA_V2, ["a", "b"]),
        ("prompts", [{"prompt": "One?"}, {"prompt": "Two?"}], ["a", "b"]),
    ]
    for task, rows, texts in cases:
        questions = questions_of(tmp_path, task, rows)
        answers = answers_of(questions, *[(text,) for text in texts], name="base")
        (path,) = forms.write_answers(tmp_path / questions.form, questions, [answers])
        assert baselines.is_answer_file(str(path))
        assert baselines.read_file(str(path), questions.asked) == ("base", texts)


def test_a_baseline_that_lacks_an_answer_is_named(tmp_path):
    questions = questions_of(tmp_path, "alpaca_eval", ALPACA)
    rows = [{"instruction": row["instruction"], "output": "x", "generator": "g"} for row in ALPACA[:2]]
    path = tmp_path / "base.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError, match="base.json: has no answer to question 2 .*row 3"):
        baselines.read_file(str(path), questions.asked)
    path.write_text(json.dumps([*rows, {**rows[0], "generator": "h"}]))
    with pytest.raises(UserError, match=r"several models \(g, h\)"):
        baselines.read_file(str(path), questions.asked)
    path.write_text(json.dumps([{"text": "x"}]))
    with pytest.raises(UserError, match="base.json, row 1: is no answer"):
        baselines.read_file(str(path), questions.asked)


def test_only_files_of_data_are_files_of_answers():
    assert baselines.is_answer_file("out/answers.jsonl") and baselines.is_answer_file("a.json.gz")
    assert not any(map(baselines.is_answer_file, ("outputs/sft", "policy.pt", "openai:gpt-4o", "org/m-1.5b")))
