"""Responses outlive what kills an evaluation: predictions.jsonl grows, is taken up again and never mixed."""

import json
import logging
import signal

import numpy as np
import pytest
from bench import die, forked
from helpers import CPU, evaluation, json_lines, save_tiny, tiny_policy

from evaluation import predictions
from evaluation.checkpoints import Checkpoint
from evaluation.judges import EmbeddingJudge
from evaluation.lines import read_lines
from generation import Draw
from generation.local import LocalGenerator
from utils import UserError, locked

QUICK = ["n_prompts=3", "n_samples=2", "max_new_tokens=4"]
JUDGED = {"class", "belief", "answer", "similarity"}


@pytest.fixture(autouse=True)
def cheap_judge(monkeypatch):
    """Embeddings of no model: what is judged is the same, and quick."""

    def made(self, model=None):
        self.name, self.known = "cheap", {}

    def embed(self, texts):
        return np.stack([np.frombuffer(text.encode().ljust(8, b".")[:8], np.uint8) / 1e3 for text in texts])

    monkeypatch.setattr(EmbeddingJudge, "__init__", made)
    monkeypatch.setattr(EmbeddingJudge, "embed", embed)


@pytest.fixture
def tiny(tmp_path):
    return save_tiny(tmp_path / "tiny", max_position_embeddings=2048)


@pytest.fixture
def asked(monkeypatch):
    """What generators are asked to write from now on: (model, prompt, number)."""
    original, calls = LocalGenerator.write, []

    def counted(self, prompts, draws, *args):
        calls.extend((self.name, draw.prompt, draw.number) for draw in draws)
        return original(self, prompts, draws, *args)

    monkeypatch.setattr(LocalGenerator, "write", counted)
    return calls


@pytest.fixture
def said(monkeypatch):
    """What is logged."""
    lines = []
    monkeypatch.setattr(logging.Logger, "info", lambda _, text, *args: lines.append(text % args))
    monkeypatch.setattr(logging.Logger, "warning", lambda _, text, *args: lines.append(text % args))
    return lines


def lines_in(folder):
    return json_lines(folder / "predictions.jsonl")


def unjudged(folder):
    """The lines of a finished report as they were written first, in any order."""
    fields = predictions.Prediction._fields
    rows = [tuple(json.dumps(line[field]) for field in fields) for line in lines_in(folder)]
    return sorted(rows)


# --- killed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call,torn", [(1, False), (4, False), (4, True), (6, True)])
def test_a_killed_evaluation_goes_on_at_the_response_where_it_was(tmp_path, tiny, asked, said, call, torn):
    evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/whole")
    everything = list(asked)

    def killed():
        die(predictions.Predictions, "append", call=call)
        evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/report")

    code, _ = forked(killed)
    assert code == -signal.SIGKILL
    path = tmp_path / "report" / "predictions.jsonl"
    if torn:
        path.write_bytes(path.read_bytes()[:-9])
    before = call - 1 - torn
    asked.clear()
    said.clear()
    evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/report")
    assert len(asked) == len(everything) - before and set(asked) <= set(everything)
    assert (f"going on: {before} of 6 responses of tiny are there" in said) == (before > 0)
    assert path.read_bytes() == (tmp_path / "whole" / "predictions.jsonl").read_bytes()
    numbers = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "report")]
    assert numbers[0] == numbers[1]


def test_a_response_is_in_the_file_before_the_next_one_is_written(tmp_path, tiny, monkeypatch):
    sizes, original = [], predictions.Predictions.append

    def watched(self, made):
        original(self, made)
        sizes.append(len(read_lines(self.path)))

    monkeypatch.setattr(predictions.Predictions, "append", watched)
    evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/report")
    assert sizes == [1, 2, 3, 4, 5, 6]


def test_the_same_command_again_writes_no_response(tmp_path, tiny, asked):
    evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/report")
    before = (tmp_path / "report" / "predictions.jsonl").read_bytes()
    asked.clear()
    evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/report")
    assert asked == [] and (tmp_path / "report" / "predictions.jsonl").read_bytes() == before


@pytest.mark.parametrize("more", ["n_samples=5", "n_prompts=5", "decoding=[t1,greedy]", "ckpt"])
def test_what_is_there_is_used_when_more_is_asked_for(tmp_path, tiny, asked, more):
    other = save_tiny(tmp_path / "other", seed=1, max_position_embeddings=2048)
    evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/report")
    before = unjudged(tmp_path / "report")
    asked.clear()
    wider = [f"ckpt=[{tiny},{other}]"] if more == "ckpt" else [f"ckpt={tiny}", *QUICK, more]
    wider = wider + QUICK if more == "ckpt" else wider
    evaluation(*wider, f"output={tmp_path}/report")
    num_new = {"n_samples=5": 9, "n_prompts=5": 4, "decoding=[t1,greedy]": 3, "ckpt": 6}[more]
    assert len(asked) == num_new
    assert set(before) < set(unjudged(tmp_path / "report"))
    evaluation(*wider, f"output={tmp_path}/anew")
    assert unjudged(tmp_path / "anew") == unjudged(tmp_path / "report")


# --- of another evaluation ----------------------------------------------------------------------------------

CHANGES = {
    "seed=1": "seed=0, and it is 1 now",
    "n_samples=1": "2 samples of a prompt, and n_samples is 1",
    "temperature=0.5": "decoding t1, and this evaluation draws with t0.5",
    "max_new_tokens=5": "max_new_tokens=4, and it is 5 now",
    "n_prompts=2": "prompt .* in other words or not at all",
    "few_shot=1": "prompt .* in other words or not at all",
    "datasets=[opinions/democrat]": "prompts of opinions/republican, and they are of opinions/democrat now",
    "max_prompt_length=20": "max_length, truncation, add_bos or few_shot cut otherwise",
}


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refused(folder, message, *overrides):
    """The command is refused in one line, and what the folder holds stays."""
    before = files_in(folder)
    with pytest.raises(UserError, match=message) as caught:
        evaluation(*overrides, f"output={folder}")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert "overwrite=true" in str(caught.value) and "output=" in str(caught.value)
    assert files_in(folder) == before


@pytest.mark.parametrize("change", CHANGES)
def test_lines_of_other_settings_are_refused_or_set_aside(tmp_path, tiny, change):
    folder = tmp_path / "report"
    evaluation(f"ckpt={tiny}", *QUICK, f"output={folder}")
    before = (folder / "predictions.jsonl").read_bytes()
    refused(folder, CHANGES[change], f"ckpt={tiny}", *QUICK, change)
    evaluation(f"ckpt={tiny}", *QUICK, change, "overwrite=true", f"output={folder}")
    assert (folder / "predictions.replaced-1.jsonl").read_bytes() == before
    evaluation(f"ckpt={tiny}", *QUICK, change, f"output={tmp_path}/anew")
    assert unjudged(folder) == unjudged(tmp_path / "anew")


def test_lines_of_other_weights_under_the_same_name_are_refused(tmp_path, tiny, asked):
    folder = tmp_path / "report"
    evaluation(f"ckpt={tiny}", *QUICK, f"output={folder}")
    tiny_policy(seed=1, max_position_embeddings=2048).model.save_pretrained(tiny)
    refused(folder, "responses of tiny by other weights", f"ckpt={tiny}", *QUICK)
    asked.clear()
    evaluation(f"ckpt={tiny}", *QUICK, "overwrite=true", f"output={folder}")
    assert len(asked) == 6 and len(lines_in(folder)) == 6


def test_lines_of_a_model_that_moved_are_used(tmp_path, tiny, asked):
    evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/report")
    moved = (tmp_path / "tiny").rename(tmp_path / "report" / "tiny")
    asked.clear()
    evaluation(f"ckpt={moved}", *QUICK, f"output={tmp_path}/report")
    assert asked == []


def test_lines_of_a_checkpoint_that_is_not_evaluated_now_are_refused(tmp_path, tiny, asked):
    other = save_tiny(tmp_path / "other", seed=1, max_position_embeddings=2048)
    folder = tmp_path / "report"
    evaluation(f"ckpt=[{tiny},{other}]", *QUICK, f"output={folder}")
    refused(folder, "checkpoint other, which is not evaluated now", f"ckpt={tiny}", *QUICK)
    asked.clear()
    evaluation(f"ckpt={tiny}", *QUICK, "overwrite=true", f"output={folder}")
    assert asked == []  # those of the other one are set aside, and these are used
    assert {line["checkpoint"] for line in lines_in(folder)} == {"tiny"}


def test_a_report_without_responses_of_another_checkpoint_is_refused(tmp_path, tiny):
    other = save_tiny(tmp_path / "other", seed=1, max_position_embeddings=2048)
    folder = tmp_path / "report"
    evaluation(f"ckpt={other}", "n_samples=0", "n_prompts=2", f"output={folder}")
    refused(folder, "is of checkpoint other", f"ckpt={tiny}", "n_samples=0", "n_prompts=2")


def test_a_refusal_leaves_the_lines_of_prompts_that_are_asked_twice(tmp_path, tiny):
    (tmp_path / "mine.txt").write_text("One?\nTwo?\nOne?\n")
    folder = tmp_path / "report"
    command = [f"ckpt={tiny}", "task=prompts", f"prompts={tmp_path}/mine.txt", "max_new_tokens=4"]
    evaluation(*command, f"output={folder}")
    before = (folder / "predictions.jsonl").read_bytes()
    assert [line["id"] for line in lines_in(folder)] == ["1", "2", "3"]
    tiny_policy(seed=1, max_position_embeddings=2048).model.save_pretrained(tiny)
    refused(folder, "responses of tiny by other weights", *command)
    evaluation(*command, "overwrite=true", f"output={folder}")
    aside = (folder / "predictions.replaced-1.jsonl").read_bytes()
    assert sorted(aside.splitlines()) == sorted(before.splitlines())
    assert [line["id"] for line in lines_in(folder)] == ["1", "2", "3"]


@pytest.mark.parametrize("content", ["{", "[]", '{"accuracy": 0.5}', ""])
def test_a_report_json_that_is_none_of_ours_is_refused(tmp_path, tiny, content):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.json").write_text(content)
    with pytest.raises(UserError, match="report.json: is no report as this version writes them"):
        evaluation(f"ckpt={tiny}", "n_samples=0", "n_prompts=2", f"output={folder}")
    assert (folder / "report.json").read_text() == content
    evaluation(f"ckpt={tiny}", "n_samples=0", "n_prompts=2", f"output={folder}", "overwrite=true")


def test_scores_of_given_responses_are_replaced_by_their_like_alone(tmp_path, tiny, ranked_file):
    command = [f"ckpt={tiny}", f"datasets=[{ranked_file}]", "split=all"]
    folder = tmp_path / "report"
    evaluation(*command, f"output={folder}")
    before = lines_in(folder)
    assert all(line["made_by"].count("-") == 1 for line in before)
    evaluation(*command, f"output={folder}")
    assert lines_in(folder) == before
    tiny_policy(seed=1, max_position_embeddings=2048).model.save_pretrained(tiny)
    refused_but_for_what_was_measured(folder, "did not make", *command)
    evaluation(*command, "overwrite=true", f"output={folder}")
    assert [line["id"] for line in lines_in(folder)] == [line["id"] for line in before]


def refused_but_for_what_was_measured(folder, message, *overrides):
    before = (folder / "predictions.jsonl").read_bytes()
    with pytest.raises(UserError, match=message):
        evaluation(*overrides, f"output={folder}")
    assert (folder / "predictions.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        "hello",
        "hello\n",
        "{}\n",
        "[1]\n",
        '{"checkpoint": "tiny", "id": "a", "prompt": "p", "response": "r"}\n',  # of an older version
        '{"checkpoint": "tiny", "id": "a", "made_by": "a-b", "response": 3}\n',
        '{"id": "a"',
        "\n",
        "\xff",
    ],
)
def test_a_file_that_is_none_of_ours_is_refused_or_set_aside(tmp_path, tiny, content):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "predictions.jsonl").write_text(content, encoding="latin-1")
    before = (folder / "predictions.jsonl").read_bytes()
    refused(folder, "line.* is no prediction", f"ckpt={tiny}", *QUICK)
    evaluation(f"ckpt={tiny}", *QUICK, "overwrite=true", f"output={folder}")
    assert (folder / "predictions.replaced-1.jsonl").read_bytes() == before
    assert len(lines_in(folder)) == 6


def test_a_broken_line_in_the_middle_is_named(tmp_path, tiny):
    folder = tmp_path / "report"
    evaluation(f"ckpt={tiny}", *QUICK, f"output={folder}")
    path = folder / "predictions.jsonl"
    whole = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([whole[0], whole[1][:30], *whole[2:]]))
    refused(folder, "predictions.jsonl, line 2: is no prediction", f"ckpt={tiny}", *QUICK)


def test_two_evaluations_do_not_write_to_one_folder(tmp_path, tiny):
    folder = tmp_path / "report"
    folder.mkdir()
    with locked(folder):
        with pytest.raises(UserError, match="another evaluation writes there"):
            evaluation(f"ckpt={tiny}", *QUICK, f"output={folder}")
    evaluation(f"ckpt={tiny}", *QUICK, f"output={folder}")


# --- ranks --------------------------------------------------------------------------------------------------


def test_what_other_ranks_wrote_is_adopted_whatever_the_number_of_ranks(tmp_path, tiny, asked):
    folder = tmp_path / "report"
    evaluation(f"ckpt={tiny}", *QUICK, f"output={folder}")
    evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/whole")
    path = folder / "predictions.jsonl"
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(rows[:2]))
    (folder / "predictions.rank1.jsonl").write_bytes(b"".join(rows[1:4]))  # one of them was adopted
    (folder / "predictions.rank3.jsonl").write_bytes(rows[4] + rows[5][:20])
    asked.clear()
    evaluation(f"ckpt={tiny}", *QUICK, f"output={folder}")
    assert len(asked) == 1
    assert path.read_bytes() == (tmp_path / "whole" / "predictions.jsonl").read_bytes()
    assert not list(folder.glob("predictions.rank*"))


def test_ranks_share_whole_prompts():
    from evaluation.answers import _share

    draws = [Draw(prompt, number) for prompt in (0, 1, 2, 5, 7) for number in range(3)]
    shares = [_share(draws, CPU._replace(rank=rank, size=3)) for rank in range(3)]
    assert sorted(draw for share in shares for draw in share) == draws
    assert [{draw.prompt for draw in share} for share in shares] == [{0, 5}, {1, 7}, {2}]


# --- lines --------------------------------------------------------------------------------------------------


def test_a_line_says_how_its_response_was_made(tmp_path, tiny):
    evaluation(f"ckpt={tiny}", *QUICK, f"output={tmp_path}/report")
    rows = lines_in(tmp_path / "report")
    assert set(predictions.Prediction._fields) | JUDGED <= set(rows[0])
    assert [row["sample"] for row in rows] == [0, 1] * 3
    assert {(row["decoding"], row["seed"], row["max_new_tokens"]) for row in rows} == {("t1", 0, 4)}
    assert all(row["finish"] in ("stop", "length") and 1 <= row["tokens"] <= 4 for row in rows)


def test_texts_of_any_kind_come_back_as_they_were(tmp_path):
    checkpoint = Checkpoint("m", "m", None, None, 0.1, served="m")
    settings = settings_of(tmp_path)
    texts = ["", "\u2028\x85 \x00", "a\nb", '"', "\ud800", "日本"]
    with predictions.open_predictions(tmp_path / "r", [checkpoint], settings, CPU) as made:
        made.begin("m", {})
        for number, text in enumerate(texts):
            how = f"a-{made.makers['m']}"
            made.append(predictions.Prediction("m", "t1", number, "a", "d", "p", text, "stop", 1, 0, 4, how))
    with predictions.open_predictions(tmp_path / "r", [checkpoint], settings, CPU) as made:
        known = made.begin("m", {})
    assert [known[how, number].text for number in range(len(texts))] == texts


def settings_of(folder):
    from helpers import compose
    from omegaconf import OmegaConf

    from evaluation import fill_settings
    from settings import evaluation_settings

    overrides = ["ckpt=x", "n_samples=9", "max_new_tokens=4"]
    config = OmegaConf.to_container(compose(*overrides, name="evaluate"), resolve=True)
    return fill_settings(evaluation_settings(config), [])
