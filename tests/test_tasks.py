"""Tasks: turns, wins and scores, and the command for each of them."""

import itertools
import json
import math

import pytest
from data_helpers import write
from helpers import evaluation, json_lines, save_tiny
from servers import server
from task_helpers import ALPACA, ARENA_V01, ARENA_V2, MT_BENCH, answers_of, questions_of, settings_of, written

import metrics
from evaluation.tasks import judging, measures, results
from evaluation.tasks.answering import first_turn, next_turn, with_turn
from evaluation.tasks.record import Baseline, TaskAnswers
from generation import Written
from utils import UserError

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
    assert set(row) == {"characters", "tokens", "cut_share", "empty_share"}
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


def test_a_file_of_answers_may_be_of_a_model_of_the_same_name(tmp_path, tiny, judge):
    path = write(tmp_path / "q.jsonl", *ALPACA)
    base = write(tmp_path / "base.jsonl", *({**row, "output": "x", "generator": "tiny"} for row in ALPACA))
    command = ["task=alpaca_eval", f"ckpt={tiny}", f"prompts={path}", f"baseline={base}", f"judge={judge}"]
    evaluation(*command, "max_new_tokens=6", f"output={tmp_path}/out")
    found = report_of(tmp_path / "out")
    assert found["settings"]["baseline"] == "tiny-baseline"
    assert found["checkpoints"]["tiny"]["win_rate"]["n"] == 3


def test_samples_of_one_checkpoint_are_not_written_over_another_s(tmp_path, tiny):
    (tmp_path / "b").mkdir()
    other = save_tiny(tmp_path / "b" / "tiny", seed=5, max_position_embeddings=4096)
    path = write(tmp_path / "q.jsonl", *ALPACA)
    command = ["task=alpaca_eval", f"prompts={path}", "max_new_tokens=6", "n_samples=2", "temperature=1"]
    evaluation(*command, f"ckpt=[{tiny},{other}]", f"output={tmp_path}/out")
    names = ["tiny", "tiny-sample2", "tiny-2", "tiny-2-sample2"]
    files = {
        name: json.loads((tmp_path / "out" / f"model_outputs_{name}.json").read_text()) for name in names
    }
    texts = [sorted(row["output"] for row in files[name]) for name in names]
    assert all(a != b for a, b in itertools.combinations(texts, 2))
    like_a_sample = save_tiny(tmp_path / "tiny-sample2", max_position_embeddings=4096)
    with pytest.raises(UserError, match="into one file, tiny-sample2; evaluate them one by one"):
        evaluation(*command, f"ckpt=[{tiny},{like_a_sample}]", f"output={tmp_path}/new")
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_is_not_compared_with_itself_alone(tmp_path, tiny, judge):
    path = write(tmp_path / "q.jsonl", *ALPACA)
    command = ["task=alpaca_eval", f"ckpt={tiny}", f"prompts={path}", f"baseline={tiny}", f"judge={judge}"]
    with pytest.raises(UserError, match="is the checkpoint itself; give another one"):
        evaluation(*command, f"output={tmp_path}/out")


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


def test_prompts_that_a_model_has_no_room_for_are_counted(tmp_path):
    small = save_tiny(tmp_path / "small", max_position_embeddings=64)
    (tmp_path / "mine.txt").write_text(f"{'long ' * 20}\nShort?\n{'long ' * 10}\n")
    command = ["task=prompts", f"ckpt={small}", f"prompts={tmp_path}/mine.txt", f"output={tmp_path}/out"]
    with pytest.raises(
        UserError, match="max_new_tokens=8: 2 of 3 prompts .* set max_prompt_length=56 or less"
    ):
        evaluation(*command, "max_new_tokens=8")
    with pytest.raises(UserError, match="3 of 3 prompts"):  # 2048 of them by default
        evaluation(*command)


def test_a_check_of_a_task_reads_its_questions(tmp_path, tiny, capsys):
    path = write(tmp_path / "q.jsonl", *ALPACA)
    evaluation("task=alpaca_eval", f"ckpt={tiny}", f"prompts={path}", "check=true", f"output={tmp_path}/out")
    assert "3 questions of alpaca_eval" in capsys.readouterr().out and not (tmp_path / "out").exists()


# --- servers ------------------------------------------------------------------------------------------------


def test_a_server_is_asked_in_turns_and_judged_by_another_and_nothing_is_asked_twice(tmp_path):
    def mark(asked):
        return "no idea" if "later: Write" in asked.content else "Score: 7\nFine."

    path = write(tmp_path / "q.jsonl", *MT_BENCH)
    with server(lambda asked: f"later: {asked.content}") as model, server(mark) as judge:
        command = ["task=mt_bench", "ckpt=openai:org/m", f"prompts={path}", f"output={tmp_path}/out"]
        command += [f"api.base_url={model.url}", "judge=openai", "judge_model=j"]
        command += [f"judge_api.base_url={judge.url}"]
        evaluation(*command)
        assert (model.count, judge.count) == (4, 4)
        evaluation(*command)
        assert (model.count, judge.count) == (4, 4)
    found = report_of(tmp_path / "out")
    lines = json_lines(tmp_path / "out" / "model_answer" / "org__m.jsonl")
    assert lines[0]["choices"][0]["turns"] == ["later: Write a line.", "later: Make it shorter."]
    # the judge said nothing of the two conversations that begin with "Write"
    assert found["settings"]["unjudged"] == {"org/m": {"not_compared": 0, "not_scored": 2}}
    assert found["checkpoints"]["org/m"]["score"] == {"value": 7.0, "low": 7.0, "high": 7.0, "n": 1}
    assert found["settings"]["judges"]["score"] == "openai j"
    assert sum("<reference" in asked.content for asked in judge.asked) == 2  # of the question that has one


def test_a_judge_that_always_takes_the_first_gives_a_win_rate_of_one_half(tmp_path, tiny):
    path = write(tmp_path / "q.jsonl", *ALPACA)
    base = [{**row, "output": "x" * 4, "generator": "base"} for row in ALPACA]
    (tmp_path / "base.json").write_text(json.dumps(base))
    with server(lambda asked: "Verdict: A") as judge:
        evaluation(
            *("task=alpaca_eval", f"ckpt={tiny}", f"prompts={path}", f"baseline={tmp_path}/base.json"),
            *("judge=openai", "judge_model=j", f"judge_api.base_url={judge.url}"),
            *("max_new_tokens=6", f"output={tmp_path}/out"),
        )
        assert judge.count == 6  # both orders
    assert report_of(tmp_path / "out")["checkpoints"]["tiny"]["win_rate"]["value"] == 0.5
