"""Reports recomputed from their own files by plain Python, and what judges and decodings make of them."""

import collections
import json
import math
import string
import sys

import numpy as np
import pytest
from data_helpers import write
from helpers import ROOT, evaluation, json_lines, save_tiny

from evaluation import beliefs, predictions, report
from evaluation.answers import Answers
from evaluation.judges import EmbeddingJudge, Judges
from generation import Written
from metrics import wasserstein_distance
from reporting import words
from utils import UserError

WORDS = {"4": "Good", "2": "Poor", "0": "No opinion"}
CLASSES = "012345"
P = [[0.1, 0, 0.3, 0, 0.6, 0], [0, 0, 0.5, 0, 0.5, 0], [0.2, 0, 0.7, 0, 0.1, 0], [0, 0, 0.25, 0, 0.75, 0]]
SAMPLES = [  # by prompt, of which each checkpoint gives some
    ["4<Good>aaa", "4<good.>aab", "2<“Poor”>zzz", "well", "2<Good>aaa"],
    ["2<Poor>aaa", "2<Bad>zzz", "4<Good>", "0<No opinion>yyy", "4<GOOD>aza"],
    ["2<Poor>zzz", "2<Poor>zzy", "4<Poor>zzz", "2<poor>aaa", "4 aaa"],
    ["4<Good>aaa", "4<Good>aaa", "4<Good>aaa", "4<Good>aaa", "5<Good>zzz"],
]


class Letters:
    """An encoder of texts as unit vectors: how often each letter stands there."""

    def encode(self, texts, **_options):
        return np.array([vector_of(text) for text in texts])


def vector_of(text):
    counts = np.array([text.count(letter) for letter in string.ascii_lowercase], float) + 1e-9
    return counts / np.linalg.norm(counts)


def embedding():
    made = EmbeddingJudge.__new__(EmbeddingJudge)
    made.encoder, made.known, made.name = Letters(), {}, "letters"
    return made


class Asked:
    """A chat model that says Yes to answers with an a, nothing to those with a y, and gives their length."""

    name = "openai clever"

    def __init__(self):
        self.calls = []

    def voices(self, answers):
        self.calls.append(answers)
        return [None if "y" in stated.answer else "a" in stated.answer for stated in answers]

    def scores(self, responses):
        self.calls.append(responses)
        return [None if text == "well" else float(len(text)) for _, text in responses]

    def counts(self):
        return {"asked": sum(map(len, self.calls))}


def rows():
    made = []
    for i, p in enumerate(P):
        responses = [
            {"text": "aaa", "belief": {"class": "4", "text": "Good"}},
            {"text": "zzz", "belief": {"class": "2", "text": "Poor"}},
            {"text": "aab", "belief": {"class": "4", "text": "Good"}},
            {"text": "", "belief": {"class": "0", "text": "No opinion"}},
        ]
        responses = [response for response in responses if response["text"]]
        question = "q0" if i < 2 else f"q{i}"
        made.append(
            {
                "id": str(i),
                "prompt": f"Ask {i}",
                "responses": responses,
                "belief_probs": p,
                "question": question,
            }
        )
    return made


def class_probs_of(seed):
    return np.random.default_rng(seed).dirichlet(np.ones(6), 4) * 0.7


@pytest.fixture
def evaluate_scripted(tmp_path, monkeypatch):
    """Evaluate two checkpoints that answer as written above: report.json, predictions.jsonl, the folder."""
    made = {}

    def ask(checkpoint, groups, settings, world, kept, made_before):
        shift = 0 if checkpoint.name == "one" else 1
        written = {}
        for k, decoding in enumerate(made_before.decodings):
            numbers = [(shift + k + j) % 5 for j in range(settings.n_samples)]
            written[decoding.name] = [
                [Written(SAMPLES[i][n], "stop", n + 1) for n in numbers] for i in range(4)
            ]
        made[checkpoint.name] = written
        probs = None if made_before.settings.seed == 1 else class_probs_of(shift)
        return Answers(probs, written)

    def line_of(self, name, group, decoding, number):
        response = made[name][decoding][int(group.id)][number]
        return {"checkpoint": name, "decoding": decoding, "sample": number, "id": group.id} | {
            "prompt": group.prompt,
            "response": response.text,
            "finish": response.finish,
            "tokens": response.tokens,
            "made_by": "script",
        }

    def go(*overrides, judges=None):
        folders = [save_tiny(tmp_path / name, max_position_embeddings=2048) for name in ("one", "two")]
        monkeypatch.setattr(beliefs, "ask", ask)
        monkeypatch.setattr(beliefs, "make_judges", lambda settings: judges or Judges(embedding()))
        monkeypatch.setattr(predictions.Predictions, "line_of", line_of)
        path = write(tmp_path / "rows.jsonl", *rows())
        output = tmp_path / "report"
        given = [f"ckpt=[{','.join(folders)}]", f"datasets=[{path}]", "split=all", "n_samples=3"]
        evaluation(*given, f"output={output}", *overrides)
        return (
            json.loads((output / "report.json").read_text()),
            json_lines(output / "predictions.jsonl"),
            output,
        )

    return go


# --- recomputed ---------------------------------------------------------------------------------------------


def js(p, q):
    """The distance in plain floats."""
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    total = 0.0
    for a, b in zip(p, q):
        m = (a + b) / 2
        total += sum(0.5 * x * math.log(x / m) for x in (a, b) if x > 0)
    return math.sqrt(max(total, 0))


def consistent(line):
    """BPC of a line by its reference answers, in plain words."""
    said = (line["belief"] or "").strip("“”.").casefold()
    references = {"good": ["aaa", "aab"], "poor": ["zzz"]}
    if line["class"] is None or said not in references or not line["answer"]:
        return False, 0.0
    cosines = {
        option: max(float(vector_of(text) @ vector_of(line["answer"])) for text in texts)
        for option, texts in references.items()
    }
    return cosines[said] >= max(cosines.values()), cosines[said]


def means_of(lines):
    """JSD by sampling, CBC, BPC, RS of one checkpoint: the mean over prompts of the mean over decodings."""
    of_prompts = collections.defaultdict(lambda: collections.defaultdict(list))
    for line in lines:
        of_prompts[line["id"]][line["decoding"]].append(line)
    columns = collections.defaultdict(list)
    for name, by_decoding in of_prompts.items():
        values = collections.defaultdict(list)
        for members in by_decoding.values():
            counts = collections.Counter(line["class"] or "0" for line in members)
            values["js_distance_sampling"].append(js(P[int(name)], [counts[label] for label in CLASSES]))
            class_of = {words.casefold(): label for label, words in WORDS.items() if label != "0"}
            agree = [
                class_of.get((line["belief"] or "").strip("“”.").casefold()) == line["class"] is not None
                for line in members
            ]
            judged = [consistent(line) for line in members]
            values["cbc"].append(sum(agree) / len(agree))
            values["bpc"].append(sum(yes for yes, _ in judged) / len(judged))
            values["rs"].append(sum(cosine for _, cosine in judged) / len(judged))
        for metric, of_decodings in values.items():
            columns[metric].append(sum(of_decodings) / len(of_decodings))
    return {metric: sum(column) / len(column) for metric, column in columns.items()}


@pytest.mark.parametrize("overrides", [[], ["decoding=[greedy,t0.5,t0.8]"]])
def test_the_numbers_of_a_report_are_those_of_its_predictions(evaluate_scripted, overrides):
    found, lines, _ = evaluate_scripted(*overrides)
    decodings = {line["decoding"] for line in lines}
    assert len(lines) == 2 * 4 * 3 * len(decodings)
    for name, seed in (("one", 0), ("two", 1)):
        mine = [line for line in lines if line["checkpoint"] == name]
        row = found["checkpoints"][name]
        for metric, value in means_of(mine).items():
            assert row[metric]["value"] == pytest.approx(value, abs=1e-6), metric
            assert row[metric]["n"] == 4
        probs = class_probs_of(seed)
        by_probability = [js(p, q) for p, q in zip(P, probs)]
        assert row["js_distance_probability"]["value"] == pytest.approx(sum(by_probability) / 4)
        assert row["class_mass"]["value"] == pytest.approx(0.7)
        ways = [wasserstein_distance(p[1:], q[1:], (1, 2, 3, 4, 5)) for p, q in zip(P, probs)]
        assert row["wasserstein_probability"]["value"] == pytest.approx(np.mean(ways))
        if len(decodings) > 1:
            for decoding in decodings:
                alone = means_of([line for line in mine if line["decoding"] == decoding])
                of_decoding = found["checkpoints"][f"{name} ({decoding})"]
                assert {m: of_decoding[m]["value"] for m in alone} == pytest.approx(alone, abs=1e-6)
                assert "js_distance_probability" not in of_decoding
            counts = found["settings"]["unjudged"]
            assert counts[name]["samples"] == sum(counts[f"{name} ({d})"]["samples"] for d in decodings) == 36


def test_lines_keep_what_was_written_and_add_what_was_judged(evaluate_scripted):
    _, lines, _ = evaluate_scripted()
    written = ["checkpoint", "decoding", "sample", "id", "prompt", "response", "finish", "tokens", "made_by"]
    assert list(lines[0])[:9] == written
    first = {key: value for key, value in lines[0].items() if key not in written}
    assert first == {
        "class": "4",
        "belief": "Good",
        "answer": "aaa",
        "class_belief_consistent": True,
        "belief_answer_consistent": True,
        "similarity": 1.0,
    }


def test_the_distributions_of_every_prompt_are_kept_and_give_the_reports_jsd(evaluate_scripted):
    found, _, folder = evaluate_scripted()
    of_prompts = json_lines(folder / "distributions.jsonl")
    for name, seed in (("one", 0), ("two", 1)):
        q = np.array([line["checkpoints"][name] for line in of_prompts])
        assert q == pytest.approx(class_probs_of(seed) / 0.7, abs=1e-5)
        gaps = [js(line["belief_probs"], row) for line, row in zip(of_prompts, q)]
        assert found["checkpoints"][name]["js_distance_probability"]["value"] == pytest.approx(
            sum(gaps) / 4, abs=1e-5
        )
    assert [line["belief_probs"] for line in of_prompts] == [pytest.approx(p) for p in P]
    assert of_prompts[0]["options"] == ["0", "1", "Poor", "3", "Good", "5"]
    assert of_prompts[0]["offered"] == [True, False, True, False, True, False]
    assert of_prompts[1]["offered"] == [False, False, True, False, True, False]


# --- differences --------------------------------------------------------------------------------------------


def test_a_report_says_by_how_much_its_checkpoints_differ(evaluate_scripted, capsys):
    found, _, folder = evaluate_scripted()
    one, two = found["checkpoints"]["one"], found["checkpoints"]["two"]
    by_metric = {difference["metric"]: difference for difference in found["differences"]}
    assert set(by_metric) == set(one) - {"js_distance_floor", "wasserstein_floor"}
    for metric, difference in by_metric.items():
        assert (difference["a"], difference["b"], difference["kind"]) == ("two", "one", "beliefs")
        assert difference["value"] == pytest.approx(two[metric]["value"] - one[metric]["value"], abs=1e-9)
        assert difference["p_holm"] == difference["p"]  # one pair
        assert difference["n"] == 4
        assert difference["p"] * 8 == pytest.approx(round(difference["p"] * 8))  # of 3 questions' signs
    assert set(found) == {"checkpoints", "differences", "settings"}
    said = capsys.readouterr().out
    assert "Paired differences" in said and "two - one" in said
    page = (folder / "report.html").read_text()
    assert "<h2>Paired differences</h2>" in page
    assert '<th scope="row">class mass</th><td>two - one</td>' in page
    assert '<th scope="col">without known option</th>' in page


# --- judges -------------------------------------------------------------------------------------------------


def test_a_chat_model_is_asked_once_a_checkpoint_and_what_it_does_not_say_is_left_out(evaluate_scripted):
    asked = Asked()
    found, lines, folder = evaluate_scripted(judges=Judges(embedding(), asked, None, asked))
    assert len(asked.calls) == 2  # no scores: they cost a question each
    mine = [line for line in lines if line["checkpoint"] == "one"]
    stated = [line for line in mine if line["belief"] and line["answer"]]
    assert [(s.belief, s.answer) for s in asked.calls[0]] == [(x["belief"], x["answer"]) for x in stated]
    assert "“Poor”" in {s.belief for s in asked.calls[0]}  # as it was written
    of_prompts = collections.defaultdict(list)
    for line in mine:
        if line in stated and "y" in line["answer"]:
            assert line["belief_answer_consistent"] is None
        else:
            of_prompts[line["id"]].append(line in stated and "a" in line["answer"])
    expected = np.mean([np.mean(verdicts) for verdicts in of_prompts.values()])
    assert found["checkpoints"]["one"]["bpc"]["value"] == pytest.approx(expected)
    silent = sum("y" in line["answer"] for line in stated)
    assert silent > 0 and found["settings"]["unjudged"]["one"]["without_verdict"] == silent
    assert found["settings"]["judges"] == {"bpc": "openai clever", "rs": "letters"}
    assert found["settings"]["judge_counts"] == asked.counts()
    page = (folder / "report.html").read_text()
    assert '<th scope="col">BPC (openai clever)</th>' in page and '<th scope="col">RS (letters)</th>' in page


def test_a_reward_model_adds_its_mean_score_and_bpc_stays_by_embedding(evaluate_scripted):
    scores = Asked()
    found, lines, _ = evaluate_scripted(judges=Judges(embedding(), None, None, scores))
    plain, _, _ = evaluate_scripted("overwrite=true")
    mine = [line for line in lines if line["checkpoint"] == "one"]
    of_prompts = collections.defaultdict(list)
    for line in mine:
        assert line.get("judge_score") == (None if line["response"] == "well" else len(line["response"]))
        if line["response"] != "well":
            of_prompts[line["id"]].append(len(line["response"]))
    row = found["checkpoints"]["one"]
    assert row["judge_score"]["value"] == pytest.approx(np.mean([np.mean(x) for x in of_prompts.values()]))
    assert row["bpc"] == plain["checkpoints"]["one"]["bpc"]
    assert found["settings"]["judges"]["judge_score"] == "openai clever"
    assert len(scores.calls) == 2


# --- rows that guess ----------------------------------------------------------------------------------------


def test_guesses_have_all_metrics_that_apply_and_the_floor_is_a_row(evaluate_scripted):
    found, _, _ = evaluate_scripted()
    rows_of = found["checkpoints"]
    itself = rows_of["(the group itself, 3 samples)"]
    floor = rows_of["one"]["js_distance_floor"]
    assert itself["js_distance_sampling"] == floor
    assert itself["wasserstein_sampling"] == rows_of["one"]["wasserstein_floor"]
    assert itself["js_distance_probability"]["value"] == pytest.approx(0, abs=1e-7)
    assert itself["majority_share"]["value"] == pytest.approx(1)
    uniform = rows_of["(uniform over options)"]
    offered = [[1, 0, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0]]
    expected = np.mean([js(p, q) for p, q in zip(P, offered)])
    assert uniform["js_distance_probability"]["value"] == pytest.approx(expected)
    assert uniform["js_distance_sampling"]["value"] > expected
    majority = rows_of["(majority only)"]
    assert majority["js_distance_sampling"]["value"] == pytest.approx(
        majority["js_distance_probability"]["value"]
    )
    for row in (itself, uniform, majority):
        assert set(row) == {
            "js_distance_probability",
            "js_distance_sampling",
            "wasserstein_probability",
            "wasserstein_sampling",
            "majority_share",
        }


def test_a_server_without_class_probabilities_is_measured_by_its_samples(evaluate_scripted):
    found, _, folder = evaluate_scripted("seed=1")
    row = found["checkpoints"]["one"]
    assert not {"js_distance_probability", "wasserstein_probability", "class_mass"} & set(row)
    assert {"js_distance_sampling", "bpc", "rs", "cbc"} <= set(row)
    assert (folder / "report.html").exists()
    of_prompts = json_lines(folder / "distributions.jsonl")
    assert [line["sampled"] for line in of_prompts] == [["one", "two"]] * 4


def test_an_option_map_that_is_none_is_refused_before_anything_is_asked(evaluate_scripted, monkeypatch):
    with pytest.raises(UserError, match="option_map=nowhere.json: cannot be read"):
        evaluate_scripted("option_map=nowhere.json")
    with pytest.raises(UserError, match="option_map=nowhere.json: cannot be read"):
        evaluate_scripted("option_map=nowhere.json", "check=true")
    monkeypatch.setattr(
        sys.modules[__name__], "rows", lambda: [{"prompt": "x", "responses": [{"text": "y"}]}]
    )
    with pytest.raises(UserError, match="option_map=map.json: is for prompts with belief_probs"):
        evaluate_scripted("option_map=map.json")


# --- documents ----------------------------------------------------------------------------------------------


def test_every_measure_stands_in_the_table_of_measures():
    text = (ROOT / "docs" / "evaluation.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    table = [cells for cells in rows if len(cells) > 4]  # the other tables have two columns
    named = {name.strip(" `") for cells in table for name in cells[1].split(",")}
    assert named == {metric for titles in report.TITLES.values() for metric in titles}
    assert all(len(cells) == 8 and all(cell.strip() for cell in cells[1:-1]) for cells in table)
    for metric in words.HEADLINE:
        assert metric in named
