"""task=ranked: prompts to samples to ranked rows, whoever samples and whoever scores."""

import json

import pytest
from data_helpers import prepared, write
from helpers import compose, json_lines, save_tiny
from servers import Asked, fails, says, server
from test_reward_model import save as save_reward_model

import preference_datasets as data
import synthesize
from evaluation.judges import RewardModelJudge
from generation.local import LocalGenerator
from rewards import constraints_of, reward
from synthesis.duplicates import shingles_of, similarity
from utils import UserError

FUNCTIONS = """
def length(prompt, response):
    return len(response)
def same(prompt, response):
    return 1
def raises(prompt, response):
    raise ValueError("no\\nidea")
def nothing(prompt, response):
    pass
"""
ASKED = [{"kind": "words", "at_most": 3}, {"kind": "no_digits"}]
QUICK = ["n_samples=4", "max_new_tokens=12", "temperature=1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("ranked") / "tiny")


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "worth_of_tests.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "worth_of_tests"


@pytest.fixture
def prompts(tmp_path):
    rows = [{"id": f"p{i}", "prompt": f"Say {i}", "constraints": ASKED} for i in range(3)]
    return write(tmp_path / "prompts.jsonl", *rows)


def make(folder, source, *overrides):
    """Do the task; (rows by the file's name, synthesis.json)."""
    given = [f"sources=[{source}]", f"output={folder}", *QUICK, *overrides]
    synthesize.main(compose("task=ranked", *given, name="synthesize"))
    rows = {path.stem: json_lines(path) for path in folder.glob("*.jsonl") if path.stem != "items"}
    return rows, json.loads((folder / "synthesis.json").read_text())


def refused(folder, source, *overrides):
    with pytest.raises(UserError) as caught:
        make(folder, source, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def items(folder):
    return json_lines(folder / "items.jsonl")[1:]


def test_rows_hold_the_samples_that_differ_with_their_rewards_and_train_swepo(
    tmp_path, model, functions, prompts
):
    rows, record = make(tmp_path / "out", prompts, f"ckpt={model}", f"reward={functions}:length")
    assert [row["id"] for row in rows["train"]] == ["p0", "p1", "p2"]
    sampled = {line["item"]: line["value"] for line in items(tmp_path / "out")}
    assert len(sampled) == 12
    for row in rows["train"]:
        texts = [response["text"] for response in row["responses"]]
        assert [response["reward"] for response in row["responses"]] == list(map(len, texts))
        shingles = list(map(shingles_of, texts))
        assert all(similarity(a, b) < 0.8 for i, a in enumerate(shingles) for b in shingles[:i])
        assert set(texts) <= {s["text"] for key, s in sampled.items() if s and key.startswith(row["id"])}
        assert row["constraints"] == ASKED
    assert record["models"] == [{"role": "writes", "model": "tiny", "server": ""}]
    assert record["counts"]["responses"] == sum(len(row["responses"]) for row in rows["train"])
    assert record["tokens"]["completion"] > 0
    of_file = f"datasets=[{tmp_path}/out/train.jsonl]"
    read = prepared(of_file, "eval_fraction=0.4", loss="swepo")
    assert len(read.trees["train"]) + len(read.trees["eval"]) == 3


def test_of_samples_that_are_nearly_the_same_the_first_stays_and_ties_stand_apart(tmp_path, functions):
    prompts = write(tmp_path / "p.jsonl", *[{"id": f"p{i}", "prompt": text} for i, text in enumerate("ab")])
    texts = ["one two three four five six seven eight", "one two three four five six seven eight nine", "So."]

    def reply(asked: Asked):
        same = asked.content == "b"
        return "Always this." if same else texts[asked.number % 3]

    with server(reply) as s:
        given = ["ckpt=openai:m", f"api.base_url={s.url}", "api.concurrency=1", "near=0.8", "n_samples=3"]
        rows, record = make(tmp_path / "out", prompts, *given, f"reward={functions}:length")
    assert [len(row["responses"]) for row in rows["train"]] == [2]
    assert [row["id"] for row in rows["equal"]] == ["p1"] and len(rows["equal"][0]["responses"]) == 1
    assert record["counts"]["equal_rewards"] == ["p1"] and record["counts"]["near_duplicates"] == 3
    assert record["models"][0]["server"] == s.url


def test_a_command_that_was_killed_writes_what_is_missing_alone_and_the_same_data(
    tmp_path, model, functions, prompts, monkeypatch
):
    written = []
    write_all = LocalGenerator.write

    def noting(self, groups, draws, *others):
        written.extend(draws)
        write_all(self, groups, draws, *others)

    monkeypatch.setattr(LocalGenerator, "write", noting)
    given = [f"ckpt={model}", f"reward={functions}:length"]
    whole, _ = make(tmp_path / "whole", prompts, *given)
    path = tmp_path / "whole" / "items.jsonl"
    (tmp_path / "cut").mkdir()
    lines = path.read_bytes().splitlines(keepends=True)
    (tmp_path / "cut" / "items.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:9])
    written.clear()
    again, _ = make(tmp_path / "cut", prompts, *given)
    assert len(written) == 12 - 5 and again == whole
    written.clear()
    more, _ = make(tmp_path / "cut", prompts, *given, "n_samples=5", "overwrite=true")
    assert len(written) == 3 and len(items(tmp_path / "cut")) == 15


def test_constraints_score_what_prompts_ask_for(tmp_path, model, prompts):
    given = [f"ckpt={model}", "n_samples=6"]
    try:
        rows, record = make(tmp_path / "out", prompts, *given)
    except UserError as error:  # a random model may satisfy all alike
        pytest.fail(str(error))
    assert record["counts"]["made_by"]["reward"] == "constraints"
    for row in rows["train"]:
        asked = constraints_of(row["constraints"], "here")
        assert all(r["reward"] == pytest.approx(reward(asked, r["text"])) for r in row["responses"])
    (group, *_) = data.load_groups(str(tmp_path / "out" / "train.jsonl"), "all")
    assert group.constraints == constraints_of(ASKED, "here")


def test_prompts_come_from_text_files_data_sets_and_the_embedded_instructions(tmp_path, model, functions):
    texts = tmp_path / "p.txt"
    texts.write_text("Name a bird.\n\nName a fish.\nName a bird.\n")
    pairs = [{"prompt": f"What is {i}?", "chosen": "A number.", "rejected": "A fish."} for i in range(3)]
    file = write(tmp_path / "pairs.jsonl", *pairs)
    given = [f"ckpt={model}", f"reward={functions}:length", "n_samples=2", "near=1"]
    rows, record = make(tmp_path / "a", f"{texts},{file}", *given)
    asked = [row["prompt"] for name in rows for row in rows[name]]
    turns = [[{"role": "user", "content": text}] for text in ("Name a bird.", "Name a fish.")]
    assert len(asked) == 5 and all(turn in asked for turn in turns) and "What is 2?" in asked
    assert record["counts"]["repeated_prompts"] == 1
    assert [source["name"] for source in record["sources"]] == [str(texts), file]
    rows, _ = make(tmp_path / "b", "instructions", "split=eval", "n=2", *given)
    known = data.load_groups("instructions", "eval")
    ids = [row["id"] for name in rows for row in rows[name]]
    assert len(ids) == 2 and set(ids) <= {group.id for group in known}


def test_a_server_samples_and_judges_and_is_asked_nothing_twice(tmp_path, prompts):
    def reply(asked: Asked):
        if asked.body["model"] == "judge":
            return f"Score: {1 + len(asked.content) % 9}"
        if "Say 1" in asked.content and asked.attempt < 1 and len(s.asked) < 40:
            return fails(400, "not now")
        return says(f"{asked.content} {asked.body['seed']} and {asked.body['seed'] % 7 * 'on '}")

    with server(reply) as s:
        given = ["ckpt=openai:writer", f"api.base_url={s.url}", "api.retries=0", "reward=openai"]
        given += ["judge_model=judge"]
        message = refused(tmp_path / "out", prompts, *given)
        assert "requests got no reply" in message or "not now" in message
        first = len(s.asked)
        kept = len(items(tmp_path / "out"))
        rows, record = make(tmp_path / "out", prompts, *given)
        writers = [a for a in s.asked[first:] if a.body["model"] == "writer"]
        assert len(writers) == 12 - kept
        before = len(s.asked)
        assert make(tmp_path / "out", prompts, *given)[0] == rows
        assert len(s.asked) == before
    assert [m["role"] for m in record["models"]] == ["writes", "scores"]


def test_a_reward_models_scalars_are_the_rewards(tmp_path, model, prompts):
    folder = save_reward_model(tmp_path / "worth", seed=3)
    given = [f"ckpt={model}", "n_samples=2", "reward=reward_model", f"judge_model={folder}"]
    rows, record = make(tmp_path / "out", prompts, *given)
    (row, *_) = rows["train"]
    pairs = [(row["prompt"], response["text"]) for response in row["responses"]]
    assert [r["reward"] for r in row["responses"]] == pytest.approx(RewardModelJudge(folder).scores(pairs))
    assert record["models"][1] == {"role": "scores", "model": folder, "server": ""}


def test_another_reward_is_no_silent_change_and_takes_the_same_samples(tmp_path, model, functions, prompts):
    given = [f"ckpt={model}", f"reward={functions}:length"]
    make(tmp_path / "out", prompts, *given)
    before = (tmp_path / "out" / "items.jsonl").read_bytes()
    data_before = (tmp_path / "out" / "train.jsonl").read_bytes()
    message = refused(tmp_path / "out", prompts, f"ckpt={model}", "near=0.5", given[1])
    assert "is of near=0.8, and it is 0.5 now" in message
    assert "temperature=1" in refused(tmp_path / "out", prompts, *given, "temperature=0.5")
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == data_before
    rows, record = make(tmp_path / "out", prompts, f"ckpt={model}", "overwrite=true")
    assert record["counts"]["made_by"]["reward"] == "constraints"
    assert (tmp_path / "out" / "items.jsonl").read_bytes() == before


def test_bad_input_is_one_line_and_what_was_sampled_stays(tmp_path, model, functions, prompts):
    given = [f"ckpt={model}"]
    for name, words in (("raises", "raised ValueError: no idea"), ("nothing", "is no finite number")):
        message = refused(tmp_path / "out", prompts, *given, f"reward={functions}:{name}")
        assert message.startswith(f"reward={functions}:{name}: ") and words in message
    assert "all 3 prompts are equal" in refused(tmp_path / "out", prompts, *given, f"reward={functions}:same")
    assert len(items(tmp_path / "out")) == 12
    assert make(tmp_path / "out", prompts, *given, f"reward={functions}:length")[0]["train"]


def test_a_judge_without_a_number_leaves_responses_without_a_score(tmp_path):
    prompts = write(tmp_path / "p.jsonl", {"prompt": "Say a"})
    given = ["reward=openai", "judge_model=j", "ckpt=openai:m", "n_samples=2"]
    replies = iter(["one fish", "two birds", "Good.", "Fair."])
    with server(lambda asked: next(replies)) as s:
        message = refused(tmp_path / "out", prompts, *given, f"api.base_url={s.url}", "api.concurrency=1")
    assert message.startswith("task=ranked: all 2 responses have no score; give another reward")
    with server(lambda asked: next(replies)) as s:
        given += [f"api.base_url={s.url}", "api.concurrency=1", "overwrite=true"]
        replies = iter(["one fish", "two birds", "4", "9"])
        _, record = make(tmp_path / "out", prompts, *given)
    assert record["tokens"] == {"prompt": 14, "completion": 6}
    assert "$response" in record["prompts"]["judge"]


@pytest.mark.parametrize(
    "overrides,words",
    [
        (["temperature=0"], "config key temperature=0: all samples of a prompt would be one"),
        (["n_samples=1"], "config key n_samples=1: one response has no order"),
        (["n=9"], "all sources has 3 prompts, and n=9 are asked for"),
        (["split=train"], "holds prompts without splits; leave split=train out"),
        (["reward=reward_model"], "reward=reward_model: needs judge_model="),
        (["reward=openai"], "reward=openai: needs judge_model="),
        (["judge_model=m"], "judge_model=m: is for reward=openai or reward=reward_model"),
        (["reward=no_such_module:f"], "there is no module no_such_module"),
        (["ckpt=/no/such/folder"], "no/such/folder"),
        (["reward=best"], "choose one of constraints, reward_model, openai, or name a function"),
    ],
)
def test_wrong_settings_are_refused_before_a_model_loads(tmp_path, model, prompts, overrides, words):
    ckpt = [] if overrides[0].startswith("ckpt") else [f"ckpt={model}"]
    assert words in refused(tmp_path / "out", prompts, *ckpt, *overrides)
    assert not (tmp_path / "out").exists()


def test_prompts_that_state_no_constraints_need_another_reward(tmp_path, model):
    file = write(tmp_path / "p.jsonl", {"prompt": "Say 1", "constraints": ASKED}, {"prompt": "Say 2"})
    message = refused(tmp_path / "out", file, f"ckpt={model}")
    assert message.startswith(f"{file}, row 2: 1 of 2 prompts state no constraints")
