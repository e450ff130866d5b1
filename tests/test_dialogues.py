"""task=dialogues: distributions to phrasings and answers, checked, judged, and never asked twice."""

import json
import zlib

import numpy as np
import pytest
from data_helpers import write
from helpers import json_lines, lines, save_tiny
from servers import cut, each, fails, says, server
from synthesis_helpers import OF_ANSWER, OF_JUDGE, OF_PHRASING, OPTIONS, SURVEY, data_of, dialogues, writes

import preference_datasets as data
from evaluation.judges import EmbeddingJudge
from synthesis.dialogues import folder_names
from synthesis.voicing import Claim, EmbeddingVoice
from synthesis.work import Work
from utils import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of dialogues that nothing disturbed, and what the server was asked."""
    folder = tmp_path_factory.mktemp("dialogues") / "out"
    with server(writes) as s:
        record = dialogues(folder, url=s.url)
        return folder, record, [asked.body for asked in s.asked]


def test_every_phrasing_has_an_answer_for_every_option_under_its_class(made):
    folder, record, _ = made
    rows = [row for path in folder.glob("chile/*.jsonl") for row in json_lines(path)]
    assert len(rows) == 9 and {row["question"] for row in rows} == {row["question"] for row in SURVEY}
    for row in rows:
        beliefs = [(r["belief"]["class"], r["belief"]["text"]) for r in row["responses"]]
        assert beliefs == list(zip("520", OPTIONS))
        assert row["belief_probs"] == [0.1, 0, 0.4, 0, 0, 0.5]
        assert [r["reward"] for r in row["responses"]] == [5, 4, 1]
    assert record["counts"]["phrasings"] == {"asked": 9, "passed": 9, "passed_at_try": {"1": 9}}
    assert record["counts"]["answers"] == {"asked": 27, "passed": 27, "passed_at_try": {"1": 27}}
    assert record["counts"]["questions_of_group"] == {"Chile": 3, "Peru (all)": 3}


def test_groups_of_people_read_the_same_texts_and_differ_in_their_shares_alone(made):
    folder, _, bodies = made
    for split in ("train", "eval", "test"):
        chile, peru = (json_lines(folder / group / f"{split}.jsonl") for group in ("chile", "peru_all"))
        assert [row["prompt"] for row in chile] == [row["prompt"] for row in peru]
        assert [r["text"] for r in chile[0]["responses"]] == [r["text"] for r in peru[0]["responses"]]
        assert peru[0]["belief_probs"] == [0.2, 0, 0.7, 0, 0, 0.1]
    assert len(bodies) == 9 + 27


def test_the_folder_of_a_group_is_a_data_set_with_splits(made):
    folder, _, _ = made
    sizes = {
        split: len(data.load_groups(str(folder / "chile"), split)) for split in ("train", "eval", "test")
    }
    assert sizes == {"train": 3, "eval": 3, "test": 3}
    (group, *_) = data.load_groups(str(folder / "chile"), "train")
    assert group.belief_probs == (0.1, 0, 0.4, 0, 0, 0.5) and len(group.pairs) == 16


def test_dialogues_train(made, run):
    folder, _, _ = made
    trained = run("loss=gdpo", f"datasets=[{folder}/chile]", "n_examples=16")
    steps = [line["counters/examples"] for line in lines(trained) if "loss/train" in line]
    assert steps == [6, 12, 18]  # of two pairs of each of the three phrasings


def test_whole_questions_are_held_out(tmp_path):
    with server(writes) as s:
        dialogues(tmp_path / "out", "test_fraction=0.34", "eval_phrasings=2", "test_phrasings=0", url=s.url)
    folder = tmp_path / "out" / "chile"
    held_out = {row["question"] for row in json_lines(folder / "test_questions.jsonl")}
    trained = {row["question"] for row in json_lines(folder / "train.jsonl")}
    assert len(held_out) == 1 and len(trained) == 2 and not held_out & trained
    assert len(json_lines(folder / "eval.jsonl")) == 4
    assert len(data.load_groups(str(folder), "test_questions")) == 3


def test_the_authors_columns_hold_the_pairs_that_a_run_draws_and_nothing_is_written_anew(tmp_path):
    with server(writes) as s:
        dialogues(tmp_path / "out", url=s.url)
        own = {group.prompt: group for group in data.load_groups(str(tmp_path / "out" / "chile"), "train")}
        count = s.count
        dialogues(tmp_path / "out", "columns=mmoqa", url=s.url)
        assert s.count == count
    theirs = data.load_groups(str(tmp_path / "out" / "chile"), "train")
    row = json_lines(tmp_path / "out" / "chile" / "train.jsonl")[0]
    assert (row["options_map"], row["probabilities"]) == ([5, 2, 0], [0.1, 0, 0.4, 0, 0, 0.5])
    assert {group.prompt for group in theirs} == set(own)
    for group in theirs:
        twin = own[group.prompt]
        assert group.belief_probs == pytest.approx(twin.belief_probs)
        assert [belief.text for belief in group.options] == OPTIONS
        assert set(group.responses) == set(twin.responses)
        texts = [[(g.responses[w].text, g.responses[o].text) for w, o in g.pairs] for g in (group, twin)]
        assert texts[0] == texts[1]


# --- what does not pass -------------------------------------------------------------------------------------


def once(is_meant, answer):
    """A writer whose first text of the kind is not the usual one."""
    seen = []

    def script(asked):
        if is_meant(asked) and (not seen or seen[0] == asked.body):
            seen.append(asked.body)
            return answer
        return writes(asked)

    return script


def of_poor(asked):
    return asked.content.startswith(OF_ANSWER) and "whose opinion is: Poor" in asked.content


def of_unknown(asked):
    return asked.content.startswith(OF_ANSWER) and "whose opinion is: DK" in asked.content


FAULTS = [
    (says(""), "empty"),
    (says("..."), "empty"),
    (says("It is rather poor."), "copies its option: poor"),
    (says("It is just too", finish="length"), "cut at max_new_tokens"),
    (says(None, finish="content_filter"), "withheld by the server"),
    (says("I'm sorry, but I can't assist with that."), "refuses"),
    (says("As an AI, I hold no views."), "speaks as a machine"),
    (says("Nothing works.<|im_end|>"), "holds a mark of a template: <|im_end|>"),
]


@pytest.mark.parametrize("answer,reason", FAULTS)
def test_a_text_that_does_not_pass_is_drawn_again_and_then_listed(tmp_path, answer, reason):
    with server(once(of_poor, answer)) as s:
        record = dialogues(tmp_path / "again", "n=1", "styles=[casual]", "eval_phrasings=0", url=s.url)
    assert record["counts"]["answers"] == {"asked": 3, "passed": 3, "passed_at_try": {"1": 2, "2": 1}}
    always = lambda asked: answer if of_poor(asked) else writes(asked)  # noqa: E731
    with server(always) as s, pytest.raises(UserError, match="no phrasing has an answer for every option"):
        dialogues(tmp_path / "never", "n=1", "styles=[casual]", url=s.url)
    (listed,) = json.loads((tmp_path / "never" / "synthesis.json").read_text())["rejects"].values()
    head = reason if ":" in reason else reason + ":"
    assert listed == f"{head} (before: {reason}; {reason})"


@pytest.mark.parametrize(
    "phrasing,reason",
    [
        ("The main thing is honesty.", "asks nothing"),
        ("how GOOD is the bus", "the survey's own words"),
        ("As a customer support AI, may I ask?", "speaks as a machine"),
    ],
)
def test_a_phrasing_asks_in_other_words(tmp_path, phrasing, reason):
    survey = write(tmp_path / "survey.jsonl", SURVEY[2])
    script = lambda asked: phrasing if asked.content.startswith(OF_PHRASING) else writes(asked)  # noqa: E731
    with server(script) as s, pytest.raises(UserError, match=f"not passed: 1 .{reason}"):
        dialogues(tmp_path / "out", "styles=[casual]", "tries=1", url=s.url, source=survey)


def test_the_surveys_own_words_are_a_style_that_nobody_writes(tmp_path):
    survey = write(tmp_path / "survey.jsonl", SURVEY[2])
    asked = []

    def script(request):
        asked.append(request.content)
        return writes(request)

    with server(script) as s:
        record = dialogues(tmp_path / "out", "styles=[survey]", "eval_phrasings=0", url=s.url, source=survey)
        before = len(asked)
        dialogues(tmp_path / "out", "styles=[survey]", "eval_phrasings=0", url=s.url, source=survey)
    assert len(asked) == before, "a second run asks for nothing"
    assert not [content for content in asked if content.startswith(OF_PHRASING)]
    assert record["counts"]["phrasings"] == {"asked": 1, "passed": 1, "passed_at_try": {"0": 1}}
    (row,) = json_lines(next((tmp_path / "out").glob("*/train.jsonl")))
    assert SURVEY[2]["question"] in str(row["prompt"])


def test_who_has_no_opinion_may_refuse_to_say(tmp_path):
    with server(once(of_unknown, "I can't answer that, it is between me and my priest.")) as s:
        record = dialogues(tmp_path / "out", "n=1", "styles=[casual]", url=s.url)
    assert record["counts"]["answers"]["passed_at_try"] == {"1": 3}


def test_of_two_texts_that_say_the_same_the_first_stays(tmp_path):
    drawn = set()

    def script(asked):
        if asked.content.startswith(OF_PHRASING) or asked.content in drawn:
            return writes(asked)
        drawn.add(asked.content)
        return "The same every day, nobody is surprised."

    with server(script) as s:
        record = dialogues(tmp_path / "out", "n=1", "styles=[casual]", url=s.url)
    assert record["counts"]["answers"]["passed_at_try"] == {"1": 1, "2": 2}
    (row,) = json_lines(tmp_path / "out" / "chile" / "train.jsonl")
    assert row["responses"][0]["text"].startswith("The same every day")


JUDGED = ("judge=openai", "judge_model=judge", "n=1", "styles=[casual]")


def test_an_answer_that_voices_another_option_is_drawn_again(tmp_path):
    is_poor = lambda asked: asked.content.startswith(OF_JUDGE) and "\nPoor\n" in asked.content  # noqa: E731
    with server(once(is_poor, "No, it praises the mayor.")) as s:
        record = dialogues(tmp_path / "out", *JUDGED, url=s.url)
    assert record["counts"]["answers"]["passed_at_try"] == {"1": 2, "2": 1}
    assert [model["role"] for model in record["models"]] == ["writes", "judges"]
    assert record["prompts"]["judge"].startswith(OF_JUDGE)


def test_where_the_judge_does_not_answer_an_answer_waits_for_another_time(tmp_path):
    is_up = []

    def script(asked):
        if asked.content.startswith(OF_JUDGE) and "\nPoor\n" in asked.content and not is_up:
            return fails(500)
        return writes(asked)

    with server(script) as s:
        with pytest.raises(UserError, match="no phrasing has an answer"):
            dialogues(tmp_path / "out", *JUDGED, "api.retries=0", url=s.url)
        record = json.loads((tmp_path / "out" / "synthesis.json").read_text())
        assert record["counts"]["failed"] == 1 and record["counts"]["rejected"] == 0
        written = [asked.body for asked in s.answered if asked.body["model"] == "writer"]
        is_up.append(True)
        record = dialogues(tmp_path / "out", *JUDGED, "api.retries=0", url=s.url)
        assert record["counts"]["answers"]["passed"] == 3
        assert [asked.body for asked in s.answered if asked.body["model"] == "writer"] == written


class Words:
    """An encoder for which texts are alike that share words."""

    def encode(self, texts, **_):
        vectors = np.zeros((len(texts), 512))
        for row, text in zip(vectors, texts):
            for word in text.lower().split():
                row[zlib.crc32(word.encode()) % 512] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_embedding_judge_takes_the_option_whose_words_are_nearest():
    judge = EmbeddingJudge.__new__(EmbeddingJudge)
    judge.name, judge.encoder, judge.known = "words", Words(), {}
    answers = ("the trains run late", "the buses run late")
    options = ("late trains", "late buses")
    claims = [Claim("What is wrong?", "Say it.", options, options[0], text) for text in answers]
    assert EmbeddingVoice(judge).faults(claims) == ["", "voices another option"]


def test_a_verdict_that_says_neither_is_another_draw(tmp_path):
    is_poor = lambda asked: asked.content.startswith(OF_JUDGE) and "\nPoor\n" in asked.content  # noqa: E731
    with server(once(is_poor, "Hard to tell.")) as s:
        record = dialogues(tmp_path / "out", *JUDGED, url=s.url)
    assert record["counts"]["answers"]["passed_at_try"] == {"1": 2, "2": 1}


def test_a_request_that_the_server_refuses_leaves_the_others_alone(tmp_path):
    refused = lambda asked: fails(400, "content policy") if of_poor(asked) else writes(asked)  # noqa: E731
    with server(refused) as s:
        for _ in range(2):
            with pytest.raises(UserError, match="no phrasing has .* not passed: 1 .no reply"):
                dialogues(tmp_path / "out", "n=1", "styles=[casual]", url=s.url)
            counts = json.loads((tmp_path / "out" / "synthesis.json").read_text())["counts"]
            assert (counts["made"], counts["failed"]) == (3, 1)
        assert len(s.answered) == 3


# --- kills and servers that misbehave -----------------------------------------------------------------------


def test_a_server_that_stumbles_gives_the_same_data(tmp_path, made):
    folder, _, _ = made
    stumbling = each(fails(429, retry_after="0"), fails(500), then=writes)
    with server(stumbling) as s:
        dialogues(tmp_path / "out", url=s.url)
    with server(each(cut(), says("never read", finish="error"), then=writes)) as s:
        dialogues(tmp_path / "half", url=s.url)
    assert data_of(tmp_path / "out") == data_of(tmp_path / "half") == data_of(folder)


@pytest.mark.parametrize("kept", [0, 5, 9, 20])
def test_killed_anywhere_it_goes_on_without_asking_again(tmp_path, made, monkeypatch, kept):
    folder, _, bodies = made
    keep, count = Work.keep, []

    def dying(*arguments):
        count.append(1)
        if len(count) > kept:
            raise KeyboardInterrupt
        keep(*arguments)

    with server(writes) as s:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Work, "keep", dying)
            dialogues(tmp_path / "out", url=s.url)
        assert not data_of(tmp_path / "out")
        dialogues(tmp_path / "out", url=s.url)
        assert len(s.asked) == len(bodies)
    assert data_of(tmp_path / "out") == data_of(folder)


def test_a_server_that_goes_down_ends_the_command_and_what_it_said_is_kept(tmp_path, made):
    folder, _, bodies = made
    is_up = []

    def script(asked):
        return writes(asked) if is_up or len(s.answered) < 14 else fails(503)

    with server(script) as s:
        with pytest.raises(UserError, match="replies are kept, and the same command goes on from there"):
            dialogues(tmp_path / "out", "api.concurrency=1", "api.retries=0", url=s.url)
        is_up.append(True)
        dialogues(tmp_path / "out", "api.concurrency=1", "api.retries=0", url=s.url)
        assert len(s.answered) == len(bodies)
    assert data_of(tmp_path / "out") == data_of(folder)


# --- a local model, and the check of what is there ----------------------------------------------------------


def test_a_model_in_this_process_writes_and_nothing_is_written_twice(tmp_path):
    model = save_tiny(tmp_path / "tiny", max_position_embeddings=2048)
    survey = write(
        tmp_path / "s.jsonl",
        {**SURVEY[0], "options": ["Fair", "Poor"], "option_class": [4, 2], "selections": [1, 0]},
    )
    how = (f"ckpt={model}", "styles=[casual]", "tries=20", "max_new_tokens=60", "temperature=1.0")
    record = dialogues(tmp_path / "out", *how, source=survey)
    assert record["counts"]["answers"]["passed"] == 2
    assert record["tokens"]["completion"] > 0 and record["models"][0]["server"] == ""
    before = data_of(tmp_path / "out")
    assert dialogues(tmp_path / "out", *how, source=survey) == record and data_of(tmp_path / "out") == before


def test_the_embedded_opinions_pass_all_checks_of_texts(tmp_path, capsys):
    dialogues(tmp_path / "out", "check=true", source="opinions")
    assert "245 of 245 phrasings pass" in capsys.readouterr().out
    assert json_lines(tmp_path / "out" / "faults.jsonl") == []


def test_written_data_is_checked_by_the_checks_that_wrote_it(tmp_path, made, capsys):
    folder, _, _ = made
    rows = json_lines(folder / "chile" / "train.jsonl")
    rows[0]["responses"][1]["text"] = "A poor show."
    rows[1]["responses"][0]["text"] = rows[0]["responses"][0]["text"]
    dialogues(tmp_path / "out", "check=true", source=write(tmp_path / "t.jsonl", *rows))
    faults = [
        (row["option"], row["fault"].partition(":")[0])
        for row in json_lines(tmp_path / "out" / "faults.jsonl")
    ]
    assert faults == [("Poor", "copies its option"), ("Very good", "a duplicate")]
    assert "7 of 9 answers pass" in capsys.readouterr().out


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["judge=openai"], "judge=openai: needs judge_model="),
        (["judge_model=x"], "judge_model=x: is for judge=openai"),
        (["embedder=x"], "embedder=x: is for judge=embedding"),
        (["temperature=0"], "temperature=0: every try writes the same"),
        (["generator=openai", "api.base_url=http://127.0.0.1:9/v1"], "is of no server"),
        (["n=9"], "n=9: the sources have 3 questions"),
        (["country=[Mali]"], "no group Mali"),
    ],
)
def test_bad_input_is_one_line_and_makes_nothing(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        dialogues(tmp_path / "out", *overrides)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_options_without_classes_are_refused(tmp_path):
    row = {key: value for key, value in SURVEY[0].items() if key != "option_class"}
    with pytest.raises(
        UserError, match="options without classes .1.*; make distributions of them by task=survey"
    ):
        dialogues(tmp_path / "out", source=write(tmp_path / "s.jsonl", row))


def test_groups_of_one_plain_name_get_folders_of_their_own():
    assert folder_names(["Peru", "peru!", "Ω", "**"]) == {
        "Peru": "peru",
        "peru!": "peru_2",
        "Ω": "ω",
        "**": "group",
    }
