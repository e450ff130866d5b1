"""The embedded instructions: complete, stated, possible, scored as the program scores, read and sampled."""

import json
import re
import sys
from collections import Counter

import pytest
from helpers import audit_of, command, compose, save_tiny, training_lines

import groups
import preference_datasets as data
import rewards
import synthesize
from constraints import KINDS, words_of
from groups import instructions
from synthesis import instructions as sampling
from utils import UserError

ROWS = [json.loads(line) for line in instructions.PROMPTS.read_text(encoding="utf-8").splitlines()]
SCORED = groups.read_rows(instructions.RESPONSES)
SAMPLES = 8

# what a prompt says where it asks for a kind; {} stands for the argument
CUES = {
    "words": "word",
    "sentences": "sentence",
    "paragraphs": "paragraph",
    "lines": r"\bline|acrostic|haiku",
    "bullets": "bullet",
    "steps": "number",
    "items": "comma",
    "marks": "question|exclamation",
    "repeats": "once|twice|times|one time",
    "bold": "bold|asterisk",
    "hashtags": "hashtag",
    "includes": "",
    "excludes": "without|not use|don't use|avoid|skip|never|leave out|used? .*no more",
    "starts_with": "start|begin|open",
    "ends_with": "end|finish|last|final|close",
    "lower_case": "lowercase|capital letters",
    "upper_case": "capital|caps",
    "title_case": "capital",
    "json_object": "json",
    "no_digits": "digit",
    "no_commas": r"no commas?|without (any )?commas?|(not contain any|none with a|such as) commas?",
    "lipogram": "letter",
    "script": "letters|alphabet",
    "title": r"bracket",
    "quoted": "double quotes",
    "postscript": r"P\.S\.",
    "alphabetical": "alphabetical",
    "initials": r"begin|start",
    "acrostic": "letter|spell|initials|acrostic",
    "word_length": "letters",
    "sentence_words": "sentence",
}


def test_there_are_enough_of_every_kind_in_every_split():
    assert Counter(row["split"] for row in ROWS) == {"train": 271, "eval": 30, "test": 80}
    for split, least in (("train", 4), ("test", 2)):
        kinds = Counter(c["kind"] for row in ROWS if row["split"] == split for c in row["constraints"])
        assert set(kinds) == set(KINDS)
        assert min(kinds.values()) >= least
    assert {len(row["constraints"]) for row in ROWS} == {1, 2, 3}


def test_no_prompt_stands_there_twice_and_each_asks_a_thing_once():
    assert len({" ".join(words_of(row["prompt"])) for row in ROWS}) == len(ROWS)
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        asked = [json.dumps(constraint, sort_keys=True) for constraint in row["constraints"]]
        assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("kind", KINDS)
def test_every_constraint_is_stated_in_its_prompt(kind):
    assert set(CUES) == set(KINDS)
    for row in ROWS:
        for constraint in row["constraints"]:
            if constraint["kind"] == kind:
                assert re.search(CUES[kind], row["prompt"], re.I), row
                for text in texts_of(constraint):
                    assert text.lower() in row["prompt"].lower(), row


def texts_of(constraint):
    """Every text and every number of words that a constraint holds."""
    texts = [*constraint.get("texts", []), *constraint.get("keys", [])]
    texts += [constraint[name] for name in ("phrase", "script") if name in constraint]
    return texts


NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
)


@pytest.mark.parametrize("kind", ["words", "word_length", "sentence_words"])
def test_every_number_of_words_or_letters_is_stated_in_its_prompt(kind):
    for row in ROWS:
        said = {int(number) for number in re.findall(r"\b\d+\b", row["prompt"])}
        said |= {i for i, number in enumerate(NUMBERS) if re.search(rf"\b{number}\b", row["prompt"].lower())}
        for constraint in row["constraints"]:
            if constraint["kind"] == kind:
                least, most = constraint.get("at_least"), constraint.get("at_most")
                assert least is None or said & {least, least - 1}, row  # "20 or more", "more than 19"
                assert most is None or said & {most, most + 1}, row


def test_the_reference_answers_get_all_there_is():
    references = [row for row in ROWS if "reference" in row]
    assert len(references) >= 40
    for row in references:
        asked = rewards.constraints_of(row["constraints"], row["id"])
        assert rewards.reward(asked, row["reference"]) == rewards.MOST, row
    assert {c["kind"] for row in references for c in row["constraints"]} == set(KINDS)


def test_test_prompts_combine_kinds_as_no_other_prompt_does():
    def kinds(row):
        return frozenset(constraint["kind"] for constraint in row["constraints"])

    known = {kinds(row) for row in ROWS if row["split"] != "test"}
    assert sum(kinds(row) not in known for row in ROWS if row["split"] == "test") >= 15


# --- the responses ------------------------------------------------------------------------------------------


def test_every_reward_is_what_the_program_gives():
    asked = groups.constraints_by_id()
    assert [row["id"] for row in SCORED] == [row["id"] for row in ROWS]
    for row, prompt in zip(SCORED, ROWS):
        assert row["prompt"] == [{"role": "user", "content": prompt["prompt"]}]
        assert 2 <= len(row["responses"]) <= SAMPLES
        for response in row["responses"]:
            assert response["reward"] == rewards.reward(asked[row["id"]], response["text"])


def test_the_responses_are_few_bytes_with_much_to_learn_from():
    assert instructions.RESPONSES.stat().st_size < 2e6
    facts = sampling.spread(SCORED)
    assert facts["unequal"] > 0.8
    assert facts["mean"] + 1 < facts["best"] < rewards.MOST


# --- the reader ---------------------------------------------------------------------------------------------


def test_the_splits_hold_all_prompts_once():
    by_split = {split: data.load_groups("instructions", split) for split in groups.INSTRUCTION_SPLITS}
    ids = [group.id for of_split in by_split.values() for group in of_split]
    assert sorted(ids) == sorted(row["id"] for row in ROWS)
    for group in by_split["train"]:
        assert group.dataset == "instructions"
        assert [message["role"] for message in group.prompt] == ["user"]
        assert all(response.reward is not None for response in group.responses)


@pytest.mark.parametrize("split", ["dev", "test_questions"])
def test_an_unknown_split_is_one_line(split):
    with pytest.raises(UserError, match=f"instructions: no split {split}; choose one of train, eval, test"):
        data.load_groups("instructions", split)


def test_the_audit_shows_all_splits():
    done = command(sys.executable, "preference_datasets.py", "instructions", "--json")
    audits = json.loads(done.stdout)["instructions"]
    assert [audits[split]["rows_read"] for split in ("train", "eval", "test")] == [271, 30, 80]


def test_swepo_trains_on_them(run):
    folder = run("loss=swepo", "datasets=[instructions]", "n_examples=4", "batch_size=2", "n_eval_examples=2")
    assert len(training_lines(folder)) == 2
    audit = audit_of(folder)["instructions"]["train"]
    assert audit["rows_read"] == 271
    assert 0.5 * 271 < audit["prompts"] <= 271  # others have equal rewards


# --- the sampler --------------------------------------------------------------------------------------------


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """Samples responses of a tiny model to three prompts, as the command does; returns the file's text."""
    few = tmp_path / "prompts.jsonl"
    few.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS[4:7]))
    monkeypatch.setattr(instructions, "PROMPTS", few)
    model = save_tiny(tmp_path / "model")

    def run(name, *overrides):
        path = tmp_path / name
        given = (f"ckpt={model}", "n_samples=3", "max_new_tokens=6", f"output={path}", *overrides)
        synthesize.main(compose("task=instructions", *given, name="synthesize"))
        return path.read_text()

    return run


def test_what_is_sampled_is_a_data_set_of_ours_with_true_rewards(sample, tmp_path):
    text = sample("a.jsonl")
    assert sample("b.jsonl", "batch_size=2") == text
    assert sample("c.jsonl", "seed=1") != text
    asked = groups.constraints_by_id()
    of_file = data.load_groups(str(tmp_path / "a.jsonl"), "all")
    assert [group.id for group in of_file] == list(asked)
    for group in of_file:
        assert len(group.responses) <= 3
        for response in group.responses:
            assert response.reward == rewards.reward(asked[group.id], response.text)


def test_one_split_alone_can_be_sampled(sample):
    names = [row["id"] for row in ROWS[4:7] if row["split"] == "train"]
    of_train = [json.loads(line) for line in sample("a.jsonl", "split=train").splitlines()]
    assert [row["id"] for row in of_train] == names
    assert 0 < len(names) < 3


def test_a_command_that_was_stopped_goes_on_and_gives_the_same(sample, tmp_path, monkeypatch):
    whole = sample("whole.jsonl")
    add = sampling._Kept.add
    drawn = []

    def add_some(kept, name, number, text):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(name)
        add(kept, name, number, text)

    monkeypatch.setattr(sampling._Kept, "add", add_some)
    with pytest.raises(KeyboardInterrupt):
        sample("part.jsonl")
    kept = tmp_path / "part.jsonl.unfinished"
    assert kept.read_text().count("\n") == 5
    with kept.open("a") as file:
        file.write('["instructions-0')  # cut by a kill
    counted = []
    monkeypatch.setattr(sampling._Kept, "add", lambda *given: (counted.append(1), add(*given)))
    assert sample("part.jsonl") == whole
    assert len(counted) == 9 - 4
    assert not kept.exists()


@pytest.mark.parametrize(
    "kept,message",
    [
        (
            '{"of": "another"}\n',
            "holds responses of another model, other prompts or other settings; remove it",
        ),
        ("", "holds responses of another model"),
        ("{KEY}\n[1\n", "line 2 is damaged; remove the line"),
        ("{KEY}\n[1, 2]\n", "line 2 is damaged; remove the line"),
        ('{KEY}\n["instructions-005", "0", "a"]\n', "line 2 is damaged; remove the line"),
    ],
)
def test_what_was_kept_of_others_or_is_damaged_is_one_line(sample, tmp_path, monkeypatch, kept, message):
    monkeypatch.setattr(sampling, "_key", lambda *_: "mine")
    text = kept.replace("{KEY}", json.dumps({"of": "mine"}))
    (tmp_path / "a.jsonl.unfinished").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        sample("a.jsonl")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.jsonl.unfinished").read_text() == text


def test_a_file_that_is_there_is_not_overwritten(sample, tmp_path):
    (tmp_path / "a.jsonl").write_text("mine")
    with pytest.raises(UserError, match="output=.*a.jsonl: is there already; move it away, or give another"):
        sample("a.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == "mine"


def test_weights_without_their_model_are_one_line(sample, tmp_path):
    (tmp_path / "policy.pt").touch()
    with pytest.raises(UserError, match="ckpt=.*policy.pt: a file of weights; give a folder with its model"):
        sample("a.jsonl", f"ckpt={tmp_path}/policy.pt")


def test_a_prompt_with_blank_responses_alone_is_left_out(sample, monkeypatch):
    blank = ROWS[5]["id"]
    add = sampling._Kept.add

    def add_blank(kept, name, number, text):
        add(kept, name, number, " \n" if name == blank else "words")

    monkeypatch.setattr(sampling._Kept, "add", add_blank)
    rows = [json.loads(line) for line in sample("a.jsonl").splitlines()]
    assert [row["id"] for row in rows] == [ROWS[4]["id"], ROWS[6]["id"]]
    monkeypatch.setattr(sampling._Kept, "add", lambda kept, *of, **_: add(kept, of[0], of[1], ""))
    with pytest.raises(UserError, match="every response is blank; give another model or temperature"):
        sample("b.jsonl")
