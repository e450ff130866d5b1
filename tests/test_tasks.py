"""Tasks: questions from the projects' own files, answer files that their tools read, wins and scores."""

import importlib.util
import json
import math

import pyarrow.parquet
import pytest
from data_helpers import write
from helpers import compose, evaluation, json_lines, save_tiny
from omegaconf import OmegaConf

import metrics
from evaluation.tasks import baselines, forms, judging, measures, results
from evaluation.tasks.answering import first_turn, next_turn, with_turn
from evaluation.tasks.prompts import read_questions
from evaluation.tasks.record import Baseline, TaskAnswers, sheets_of
from generation import Written
from settings import evaluation_settings
from utils import UserError

ALPACA = [
    {"instruction": "Name a river.", "dataset": "helpful_base", "output": "x", "generator": "y"},
    {"instruction": "Name a hill.", "dataset": "koala"},
    {"instruction": "Name a lake.", "dataset": "koala"},
]
MT_BENCH = [
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Make it shorter."]},
    {
        "question_id": 111,
        "category": "math",
        "turns": ["What is 2 + 2?", "And doubled?"],
        "reference": ["4", "8"],
    },
]
MT_BENCH_HUB = [
    {
        "prompt_id": 81,
        "category": "writing",
        "prompt": ["Write a line.", "Make it shorter."],
        "reference": [],
    },
    {"prompt_id": 111, "category": "math", "prompt": ["What is 2 + 2?", "And?"], "reference": ["4", None]},
]
ARENA_V01 = [
    {
        "question_id": "328c149ed45a41c0b9d6f14659e63599",
        "category": "arena-hard-v0.1",
        "cluster": "ABC Sequence Puzzles",
        "turns": [{"content": "Use ABC notation."}],
    },
    {
        "question_id": "2",
        "category": "arena-hard-v0.1",
        "cluster": "Maths",
        "turns": [{"content": "Prove it."}],
    },
]
ARENA_V2 = [
    {
        "uid": "2edbb5f36f5b42be",
        "category": "hard_prompt",
        "subcategory": "coding",
        "prompt": "Write me code.",
    },
    {"uid": "a1", "category": "creative_writing", "subcategory": "story", "prompt": "Tell a story."},
]


def settings_of(task, prompts="x", **changes):
    """The settings of a task, filled as a run of no training would fill them."""
    config = OmegaConf.to_container(compose(f"task={task}", "ckpt=x", name="evaluate"), resolve=True)
    filled = {"few_shot": 0, "n_samples": 1, "max_new_tokens": 8, "temperature": 0.0, "seed": 0}
    return evaluation_settings({**config, **filled, "prompts": prompts and str(prompts), **changes})


def questions_of(tmp_path, task, rows, name="question.jsonl", **changes):
    return read_questions(settings_of(task, write(tmp_path / name, *rows), **changes))


def written(text, finish="stop"):
    return Written(text, finish, len(text.split()) + 1)


def answers_of(questions, *texts, name="tiny", finish="stop"):
    """One sample of one decoding: a tuple of texts a question, one a turn."""
    samples = [[tuple(written(text, finish) for text in turns)] for turns in texts]
    return TaskAnswers(name, {"greedy": samples}, {})


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


def test_samples_and_decodings_have_files_or_choices_of_their_own(tmp_path):
    two = [(written("a"),), (written("b"),)]
    alpaca = questions_of(tmp_path, "alpaca_eval", ALPACA)
    answers = TaskAnswers("m", {"greedy": [two] * 3, "t0.5": [two] * 3}, {})
    names = [path.name for path in forms.write_answers(tmp_path / "a", alpaca, [answers])]
    assert names == [f"model_outputs_m-{n}.json" for n in ("greedy", "greedy-2", "t0.5", "t0.5-2")]
    assert [sheet.name for sheet in sheets_of(answers)] == ["m-greedy", "m-greedy-2", "m-t0.5", "m-t0.5-2"]
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


# --- turns --------------------------------------------------------------------------------------------------


def test_a_second_turn_is_asked_after_the_sample_s_own_first_answer(tmp_path):
    questions = questions_of(tmp_path, "mt_bench", MT_BENCH)
    settings = settings_of("mt_bench", "x", n_samples=3)
    asked = first_turn(questions.asked, settings)
    texts = [["a", "b", "a"], ["c", "c", "c"]]
    so_far = with_turn([[()] * 3] * 2, asked, [[written(t) for t in of_q] for of_q in texts])
    following = next_turn(questions.asked, so_far, 1, settings)
    assert len(following.groups) == 3  # conversations that are alike are asked once
    assert [m["content"] for m in following.groups[1].prompt] == ["Write a line.", "b", "Make it shorter."]
    replies = [[written(f"reply {i}")] for i in range(3)]
    ended = with_turn(so_far, following, replies)
    assert [[turns[1].text for turns in samples] for samples in ended] == [
        ["reply 0", "reply 1", "reply 0"],
        ["reply 2"] * 3,
    ]


# --- judging ------------------------------------------------------------------------------------------------


class Fake:
    """A judge that prefers the longer text, scores by length, and does not judge an empty one."""

    name = "fake"

    def __init__(self):
        self.seen = []

    def counts(self):
        return {"asked": len(self.seen)}

    def preferences(self, pairs):
        self.seen += pairs
        return [None if not p.response else float(len(p.response) > len(p.baseline)) for p in pairs]

    def scores(self, responses):
        self.seen += responses
        return [float(len(r.response)) or None for r in responses]


def test_every_sample_is_compared_with_the_baseline(tmp_path):
    questions = questions_of(tmp_path, "alpaca_eval", ALPACA)
    answers = answers_of(questions, ("long answer",), ("no",), ("",))
    baseline = Baseline("base", {"greedy": [["short"], ["longer"], ["x"]]})
    wins = judging.preferences_of(Fake(), questions.asked, answers, baseline)
    assert wins == {"greedy": [[1.0], [0.0], [None]]}
    (path,) = judging.write_annotations(tmp_path, questions, answers, baseline, wins, "fake")
    rows = json.loads(path.read_text())
    assert [row["preference"] for row in rows] == [2, 1, None]
    assert rows[0] == {
        "instruction": "Name a river.",
        "output_1": "short",
        "generator_1": "base",
        "dataset": "helpful_base",
        "output_2": "long answer",
        "generator_2": "tiny",
        "annotator": "fake",
        "preference": 2,
    }
    rows = results.rows_of(questions, answers, judging.Judged(wins, ()), baseline)
    assert rows["tiny"]["win_rate"]["value"] == 0.5 and rows["tiny"]["win_rate"]["n"] == 2
    assert rows["tiny: koala"]["win_rate"]["value"] == 0.0 and rows["tiny: koala"]["win_rate"]["n"] == 1


def test_turns_are_scored_after_what_was_said_beside_their_reference(tmp_path):
    questions = questions_of(tmp_path, "mt_bench", MT_BENCH)
    answers = answers_of(questions, ("one", "three"), ("sevenxx", "x"))
    judge = Fake()
    scores = judging.scores_of(judge, questions.asked, answers)
    assert scores == [{"greedy": [[3.0], [7.0]]}, {"greedy": [[5.0], [1.0]]}]
    (second,) = [a for a in judge.seen if a.response == "x"]
    assert second.reference == "8" and [m["role"] for m in second.prompt] == ["user", "assistant", "user"]
    rows = results.rows_of(questions, answers, judging.Judged({}, scores), None)
    assert rows["tiny"]["score_turn_1"]["value"] == 5 and rows["tiny"]["score_turn_2"]["value"] == 3
    assert rows["tiny"]["score"]["value"] == 4 and rows["tiny: math"]["score"]["value"] == 4


def test_lengths_are_characters_and_shares_count_answers(tmp_path):
    of_questions = [
        [(Written("abcd", "stop", 2),), (Written("", "stop", 1),)],
        [(Written("ab", "length", 8),), (Written("é" * 6, "filtered", 3),)],
    ]
    values = measures.written_values(of_questions)
    assert values["characters"] == [2, 4] and values["tokens"] == [1.5, 5.5]
    assert values["cut_share"] == [0, 0.5] and values["empty_share"] == [0.5, 0]
    assert values["withheld_share"] == [0, 0.5]


def test_decodings_are_averaged_and_each_is_a_row(tmp_path):
    questions = questions_of(tmp_path, "prompts", [{"prompt": "One?"}, {"prompt": "Two?"}])
    samples = {"greedy": [[(written("a"),)]] * 2, "t0.5": [[(written("abc"),)]] * 2}
    scores = [{"greedy": [[1.0], [None]], "t0.5": [[3.0], [6.0]]}]
    rows = results.rows_of(questions, TaskAnswers("m", samples, {}), judging.Judged({}, scores), None)
    assert list(rows) == ["m", "m (greedy)", "m (t0.5)"]
    assert rows["m"]["score"]["value"] == 4 and rows["m (greedy)"]["score"]["n"] == 1
    assert rows["m"]["characters"]["value"] == 2


def test_lc_wr_is_that_of_the_metrics_and_its_name_says_what_it_lacks(tmp_path):
    rows = [{"instruction": f"Do {i}.", "dataset": "d"} for i in range(12)]
    questions = questions_of(tmp_path, "alpaca_eval", rows)
    lengths = [5 + (i * 7) % 11 for i in range(12)]
    answers = answers_of(questions, *[("x" * n,) for n in lengths])
    baseline = Baseline("base", {"greedy": [["x" * (8 + i % 3)] for i in range(12)]})
    preferences = [float(i % 3 != 0) for i in range(12)]
    judged = judging.Judged({"greedy": [[p] for p in preferences]}, ())
    found = results.rows_of(questions, answers, judged, baseline)["tiny"]
    wanted = metrics.length_controlled_win_rate(preferences, lengths, [8 + i % 3 for i in range(12)])
    assert found["length_controlled_win_rate_without_difficulty"] == wanted
    difficulty = [math.sin(i) for i in range(12)]
    found = results.rows_of(questions._replace(difficulty=difficulty), answers, judged, baseline)["tiny"]
    wanted = metrics.length_controlled_win_rate(
        preferences, lengths, [8 + i % 3 for i in range(12)], difficulty
    )
    assert found["length_controlled_win_rate"] == wanted
    assert "length_controlled_win_rate_without_difficulty" not in found


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny model; its answers are bytes."""
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=4096)


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """The name of a function that scores by length."""
    (tmp_path / "by_length.py").write_text("def score(prompt, response):\n    return float(len(response))\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "by_length:score"


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def test_a_task_without_a_judge_writes_answers_and_their_lengths(tmp_path, tiny, capsys):
    path = write(tmp_path / "q.jsonl", *ARENA_V2)
    evaluation(
        "task=arena_hard", f"ckpt={tiny}", f"prompts={path}", "max_new_tokens=6", f"output={tmp_path}/out"
    )
    found = report_of(tmp_path / "out")
    row = found["checkpoints"]["tiny"]
    assert set(row) == {"characters", "tokens", "cut_share", "empty_share", "withheld_share"}
    lines = json_lines(tmp_path / "out" / "model_answer" / "tiny.jsonl")
    texts = [line["messages"][-1]["content"]["answer"] for line in lines]
    assert row["characters"]["value"] == sum(map(len, texts)) / 2
    predicted = json_lines(tmp_path / "out" / "predictions.jsonl")
    assert [line["response"] for line in predicted] == texts and found["settings"]["judge"] is None
    assert "characters" in capsys.readouterr().out


def test_alpaca_eval_against_a_file_of_answers(tmp_path, tiny, judge):
    path = write(tmp_path / "q.jsonl", *ALPACA)
    base = [{**row, "output": "x" * 4, "generator": "base"} for row in ALPACA]
    (tmp_path / "base.json").write_text(json.dumps(base))
    command = ["task=alpaca_eval", f"ckpt={tiny}", f"prompts={path}", f"baseline={tmp_path}/base.json"]
    command += [f"judge={judge}", "max_new_tokens=6", f"output={tmp_path}/out"]
    evaluation(*command)
    outputs = json.loads((tmp_path / "out" / "model_outputs_tiny.json").read_text())
    preferences = [(len(row["output"]) > 4) + (len(row["output"]) == 4) / 2 for row in outputs]
    found = report_of(tmp_path / "out")
    assert found["checkpoints"]["tiny"]["win_rate"]["value"] == pytest.approx(sum(preferences) / 3)
    annotations = json.loads((tmp_path / "out" / "annotations_tiny.json").read_text())
    assert [row["preference"] - 1 for row in annotations] == preferences
    assert found["settings"]["baseline"] == "base" and "by_length" in found["settings"]["judge"]
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    evaluation(*command)  # nothing is written again
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before


def test_arena_hard_against_another_checkpoint(tmp_path, tiny, judge):
    other = save_tiny(tmp_path / "other", seed=5, max_position_embeddings=4096)
    path = write(tmp_path / "q.jsonl", *ARENA_V01)
    evaluation(
        "task=arena_hard",
        f"ckpt=[{tiny},{other}]",
        f"prompts={path}",
        f"baseline={other}",
        f"judge={judge}",
        "max_new_tokens=6",
        f"output={tmp_path}/out",
    )
    found = report_of(tmp_path / "out")["checkpoints"]
    assert "win_rate" in found["tiny"] and "win_rate" not in found["other"]
    answers = {name: json_lines(tmp_path / "out" / "model_answer" / f"{name}.jsonl") for name in found}
    lengths = {
        name: [len(line["choices"][0]["turns"][0]["content"]) for line in lines]
        for name, lines in answers.items()
    }
    wins = [(a > b) + (a == b) / 2 for a, b in zip(lengths["tiny"], lengths["other"])]
    assert found["tiny"]["win_rate"]["value"] == pytest.approx(sum(wins) / 2)


def test_mt_bench_asks_two_turns_and_scores_both(tmp_path, tiny, judge):
    path = write(tmp_path / "q.jsonl", *MT_BENCH)
    command = ["task=mt_bench", f"ckpt={tiny}", f"prompts={path}", f"judge={judge}"]
    command += ["max_new_tokens=6", "decoding=[greedy,t0.7]", "n_samples=2", f"output={tmp_path}/out"]
    evaluation(*command)
    found = report_of(tmp_path / "out")["checkpoints"]
    names = {"tiny", "tiny (greedy)", "tiny (t0.7)", "tiny: writing", "tiny: math"}
    assert set(found) == names and {"score", "score_turn_1", "score_turn_2"} <= set(found["tiny"])
    lines = json_lines(tmp_path / "out" / "model_answer" / "tiny-t0.7.jsonl")
    assert [len(choice["turns"]) for line in lines for choice in line["choices"]] == [2] * 4
    seconds = [len(choice["turns"][1]) for line in lines for choice in line["choices"]]
    assert found["tiny (t0.7)"]["score_turn_2"]["value"] == pytest.approx(sum(seconds) / 4)
    predicted = json_lines(tmp_path / "out" / "predictions.jsonl")
    for line in predicted:
        assert line["score"] == len(line["response"])
        assert len(line["prompt"]) == 2 * line["turn"] - 1
    evaluation(*command)
    assert json_lines(tmp_path / "out" / "predictions.jsonl") == predicted


def test_prompts_of_the_user_s_own_are_scored(tmp_path, tiny, judge):
    (tmp_path / "mine.txt").write_text("One?\nTwo?\n")
    evaluation(
        "task=prompts",
        f"ckpt={tiny}",
        f"prompts={tmp_path}/mine.txt",
        f"judge={judge}",
        "max_new_tokens=6",
        f"output={tmp_path}/out",
    )
    answers = json_lines(tmp_path / "out" / "answers_tiny.jsonl")
    scores = [len(line["response"]) for line in answers]
    found = report_of(tmp_path / "out")["checkpoints"]["tiny"]
    assert found["score"]["value"] == pytest.approx(sum(scores) / 2) and found["score"]["n"] == 2


@pytest.mark.parametrize(
    "changes,wanted",
    [
        (["few_shot=2"], "few_shot=2: "),
        (["n_samples=0"], "n_samples=0: "),
        (["task=mt_bench", "baseline=x.json"], "leave baseline out"),
        (["baseline=missing.json", "judge=json:dumps"], "missing.json: no such file"),
        (["baseline=outputs/none", "judge=json:dumps"], "outputs/none"),
        (["prompts=none.jsonl"], "none.jsonl: no such file"),
    ],
)
def test_what_a_task_has_no_use_for_is_refused_before_a_model_loads(tmp_path, tiny, changes, wanted):
    path = write(tmp_path / "q.jsonl", *ALPACA)
    with pytest.raises(UserError, match=wanted):
        evaluation("task=alpaca_eval", f"ckpt={tiny}", f"prompts={path}", f"output={tmp_path}/out", *changes)
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_check_of_a_task_reads_its_questions(tmp_path, tiny, capsys):
    path = write(tmp_path / "q.jsonl", *ALPACA)
    evaluation("task=alpaca_eval", f"ckpt={tiny}", f"prompts={path}", "check=true", f"output={tmp_path}/out")
    assert "3 questions of alpaca_eval" in capsys.readouterr().out and not (tmp_path / "out").exists()
