"""Rows in TRL's formats get the log-probs that TRL's own trainers give them, on the same model.

Where TRL is installed its numbers are computed here; elsewhere they are those that
`python tests/recorded/with_trl.py` wrote.
"""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from data_helpers import write
from helpers import ROOT, tiny_policy
from trl_helpers import ROWS, TEMPLATES, VOCABULARY, save_model, tokenizer_of

import forest
import models
import preference_datasets as data

RECORDED = ROOT / "tests" / "recorded"
VIEWS = {"dpo": "pairs", "kto": "binary", "sft": "target"}
INSIDE = "a border inside a word"
CLOSE = {"rel": 1e-4, "abs": 1e-4}
CASES = [(name, what) for name in TEMPLATES for what in ROWS if what != INSIDE]


@pytest.fixture(scope="module")
def trl(tmp_path_factory):
    """What TRL says: {tokenizer: {what: one list of responses a row}}."""
    path = RECORDED / "trl.json"
    if importlib.util.find_spec("trl"):
        path = tmp_path_factory.mktemp("trl") / "trl.json"
        command = [sys.executable, str(RECORDED / "with_trl.py"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    recorded = json.loads(path.read_text())
    if save_model(tmp_path_factory.mktemp("model")) != recorded["weights"]:
        pytest.skip(f"torch {torch.__version__} makes other weights of this seed than those that TRL scored")
    return recorded["values"]


def scored(tmp_path, name, what):
    """(prompt, answer, log-prob) of every response, as this project reads the same rows from a file."""
    trainer, rows = ROWS[what]
    groups = data.load_groups(write(tmp_path / "rows.jsonl", *rows), "all")
    tokenizer = tokenizer_of(name)
    trees = data.tokenize(groups, data.view(groups, VIEWS[trainer]), tokenizer, data.Limits(512, None))
    policy = tiny_policy(seed=7, vocab_size=VOCABULARY)
    batch = forest.pack(trees, [[i] for i in range(len(trees))], tokenizer.pad_token_id)
    with torch.no_grad():
        logps = models.score(policy, batch).policy.tolist()
    result = []
    for tree, of_tree in zip(trees, logps):
        for answer, logp in zip(tree.answers, of_tree):
            if answer:
                result.append((list(tree.prompt), list(answer), logp))
    return result


# where TRL learns what the template marks as generated, which is not the line break behind it
UNMARKED = {("lines", "messages"), ("lines", "messages of several turns")}


def responses_of(trl, name, what):
    return [response for of_row in trl[name][what] for response in of_row]


@pytest.mark.parametrize("name,what", CASES)
def test_trl_formats_get_trls_log_probs(tmp_path, trl, name, what):
    theirs = responses_of(trl, name, what)
    ours = scored(tmp_path, name, what)
    assert len(ours) == len(theirs)
    for (prompt, answer, logp), response in zip(ours, theirs):
        assert prompt == response["prompt"]
        if (name, what) in UNMARKED:
            assert answer == [*response["answer"], *tokenizer_of(name).encode("\n")]
            continue
        assert answer == response["answer"]
        assert logp == pytest.approx(sum(response["tokens"]), **CLOSE)
        if "several" not in what:
            assert logp == pytest.approx(response["logp"], **CLOSE)


def test_what_a_template_writes_behind_the_end_of_a_turn_is_scored(tmp_path):
    """ChatML's line break is the response's last token, as for TRL."""
    tokenizer = tokenizer_of("lines")
    for _, answer, _ in scored(tmp_path, "lines", "preference, messages"):
        assert tokenizer.decode(answer).endswith("<|end|>\n")


def test_of_several_turns_the_last_one_is_scored(tmp_path, trl):
    """TRL scores every turn of the assistant there, or all tokens, and docs/data.md says so."""
    for name in TEMPLATES:
        (of_row,) = trl[name]["messages of several turns"]
        ((_, answer, _),) = scored(tmp_path, name, "messages of several turns")
        assert answer[: len(of_row[0]["answer"])] == of_row[0]["answer"]
        assert len(answer) < of_row[0]["learned"]


def test_no_token_crosses_the_border_of_prompt_and_response(tmp_path, trl):
    """TRL encodes both together and begins the response where their ids part; docs/data.md says so."""
    tokenizer = tokenizer_of("words")
    (prompt, answer, _), *_ = scored(tmp_path, "words", INSIDE)
    assert tokenizer.decode(prompt) == "The sky is bl"
    assert tokenizer.decode(answer) == "ue.<eos>"
    ((chosen, _),) = trl["words"][INSIDE]
    assert tokenizer.decode(chosen["prompt"]) == "The sky is"
    assert tokenizer.decode(chosen["answer"]) == " blue.<eos>"
