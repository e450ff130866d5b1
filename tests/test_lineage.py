"""Prompts and cuts as other repositories have them: with a BOS or without, and the DPO repository's rule."""

import pytest
from data_helpers import decode, group_of, tree_of, write
from data_helpers import prepared as prepare
from helpers import EOS, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

import preference_datasets as data
from groups.prompts import encode_prompts
from utils import UserError

BOS = 256
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
MESSAGES = [{"role": "user", "content": "Say"}]


def adding_bos():
    """A tokenizer that puts a BOS before every text, as Llama's does."""
    tokenizer = byte_tokenizer()
    single = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    tokenizer.backend_tokenizer.post_processor = single
    return tokenizer


def with_template(start=""):
    """A tokenizer with a chat template that begins like this."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = start + TEMPLATE
    return tokenizer


def without_bos():
    """A tokenizer without a BOS token, as Qwen's is."""
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = None
    return tokenizer


@pytest.mark.parametrize("prompt", ["Say", MESSAGES], ids=["text", "messages"])
@pytest.mark.parametrize(
    "tokenizer,of_auto",
    [
        (byte_tokenizer(), 0),
        (adding_bos(), 1),
        (with_template(), 0),
        (with_template("{{ bos_token }}"), 1),
    ],
    ids=["none", "adds", "template", "template_adds"],
)
def test_a_prompt_begins_with_a_bos_as_asked_for(prompt, tokenizer, of_auto):
    """auto: as tokenizer and template do, where true has exactly one, and false none."""
    if tokenizer.chat_template and prompt == "Say":
        of_auto = 0  # this tokenizer adds none to a text
    for add_bos, expected in (("auto", of_auto), ("true", 1), ("false", 0)):
        ids = data.encode_prompt(tokenizer, prompt, add_bos)
        assert ids.count(BOS) == expected
        assert ids.index(BOS) == 0 if expected else True
        assert "Say" in decode(ids)
        group = group_of({"prompt": prompt, "responses": [{"text": "a"}]})
        assert encode_prompts([group], tokenizer, add_bos) == [ids]


def test_a_tokenizer_without_a_bos_is_refused_where_one_is_asked_for():
    tokenizer = without_bos()
    for prompt in ("Say", MESSAGES):
        for add_bos in ("auto", "false"):
            assert "Say" in decode(data.encode_prompt(tokenizer, prompt, add_bos))
        with pytest.raises(UserError, match="config key add_bos=true: this tokenizer has no BOS token; set"):
            data.encode_prompt(tokenizer, prompt, "true")


@pytest.mark.parametrize("value,expected", [("true", 1), ("True", 1), ("false", 0), ("auto", 0)])
def test_a_run_takes_add_bos_as_it_is_typed(tmp_path, value, expected):
    rows = [{"prompt": f"Say {i}", "chosen": "a", "rejected": "b"} for i in range(4)]
    names = f"datasets=[{write(tmp_path / 'x.jsonl', *rows)}]"
    ours = prepare(names, f"add_bos={value}", "eval_fraction=0.5")
    for trees in ours.trees.values():
        assert {tree.prompt.count(BOS) for tree in trees} == {expected}
    with pytest.raises(UserError, match="^config key add_bos=true: this tokenizer has no BOS"):
        prepare(names, "add_bos=true", "eval_fraction=0.5", tokenizer=without_bos())


@pytest.mark.parametrize("value", ["yes", "1", "null", "[true]"])
def test_another_value_of_add_bos_is_one_line(tmp_path, value):
    file = write(tmp_path / "x.jsonl", {"prompt": "Say", "chosen": "a", "rejected": "b"})
    with pytest.raises(UserError, match="add_bos") as caught:
        prepare(f"datasets=[{file}]", f"add_bos={value}")
    assert "\n" not in str(caught.value)


def test_a_bos_stays_where_a_prompt_is_cut():
    group = group_of({"prompt": "abcdefgh", "responses": [{"text": "x"}, {"text": "y"}]})
    limits = data.Limits(12, 4, add_bos="true")
    assert decode(tree_of(group, (0, 1), limits).prompt) == "<bos>fgh"
    assert decode(tree_of(group, (0, 1), limits._replace(truncation="keep_start")).prompt) == "<bos>abc"
    assert decode(tree_of(group, (0, 1), limits._replace(add_bos="false")).prompt) == "efgh"


# --- the DPO repository's rule ------------------------------------------------------------------------------


def cut_as_dpo(prompt, answers, max_length, max_prompt_length, side):
    """Its rule in plain words: cut only what is too long with its longest response, and the prompt first."""
    longest = max(map(len, answers))
    if len(prompt) + longest > max_length:
        prompt = prompt[-max_prompt_length:] if side == "keep_end" else prompt[:max_prompt_length]
    if len(prompt) + longest > max_length:
        answers = [answer[: max_length - max_prompt_length] for answer in answers]
    return prompt, answers


LENGTHS = st.integers(1, 30)


@settings(max_examples=200, deadline=None)
@given(
    LENGTHS,
    LENGTHS,
    LENGTHS,
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from(["keep_end", "keep_start"]),
)
def test_the_dpo_repositorys_rule_is_kept(of_prompt, first, second, max_prompt_length, room, side):
    max_length = max_prompt_length + room
    prompt, texts = ("ab" * of_prompt)[:of_prompt], ("cd" * first, "ef" * second)
    group = group_of({"prompt": prompt, "responses": [{"text": text} for text in texts]})
    limits = data.Limits(max_length, max_prompt_length, "dpo")
    tree = tree_of(group._replace(truncation=side), (0, 1), limits)
    ids = byte_tokenizer()([prompt, *texts])["input_ids"]
    whole = [[*ids[1], EOS], [*ids[2], EOS]]
    expected_prompt, expected = cut_as_dpo(ids[0], whole, max_length, max_prompt_length, side)
    assert list(tree.prompt) == expected_prompt
    assert list(map(list, tree.answers)) == expected
    assert tree.truncated == tuple(len(a) < len(b) for a, b in zip(expected, whole))


def test_a_prompt_that_fits_stays_whole_however_long_it_is():
    """Where the other ways cut every prompt to max_prompt_length."""
    group = group_of({"prompt": "p" * 15, "responses": [{"text": "abc"}, {"text": "d"}]})
    assert len(tree_of(group, (0, 1), data.Limits(20, 10, "dpo")).prompt) == 15
    assert len(tree_of(group, (0, 1), data.Limits(20, 10)).prompt) == 10
    assert len(tree_of(group, (0, 1), data.Limits(18, 10, "dpo")).prompt) == 10


def test_without_a_limit_of_their_own_prompts_stay_and_responses_take_what_is_left():
    group = group_of({"prompt": "p" * 15, "responses": [{"text": "abcdefgh"}, {"text": "d"}]})
    tree = tree_of(group, (0, 1), data.Limits(20, None, "dpo"))
    assert len(tree.prompt) == 15
    assert [len(answer) for answer in tree.answers] == [5, 2]
