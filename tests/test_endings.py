"""How responses to messages end, by the chat templates of the field; roles; cut prompts and their BOS."""

from collections import Counter

import pytest
from data_helpers import decode, group_of, tree_of
from helpers import byte_tokenizer

import groups
import preference_datasets as data
from utils import UserError

MARKS = ["<|im_start|>", "<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end|>", "<|user|>", "<|assistant|>"]
CHAT = {"prompt": [{"role": "user", "content": "Hi"}], "responses": [{"text": "Yo"}]}


def tokenizer_with(template, **special):
    """A byte tokenizer with the marks of chat templates, each one token."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS, **special})
    tokenizer.chat_template = template
    return tokenizer


def for_messages(turn, generation=""):
    turns = "{% for m in messages %}" + turn + "{% endfor %}"
    return turns + "{% if add_generation_prompt %}" + generation + "{% endif %}"


CHATML = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
ASSISTANT = "{{ '<|assistant|>\n' }}"
BY_ROLE = "{{ '<|' + m.role + '|>\n' + m.content"
NO_END = BY_ROLE + " + '\n' }}"
TEMPLATES = {  # name: the template, what ends a response to messages
    "chatml": (for_messages(CHATML, "<|im_start|>assistant\n"), "<|im_end|>\n"),
    "gemma": (
        for_messages(
            "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
            "{{ m.content | trim }}<end_of_turn>\n",
            "<start_of_turn>model\n",
        ),
        "<end_of_turn>\n",
    ),
    "llama 3": (
        for_messages("[{{ m.role }}]\n\n{{ m.content | trim }}<|eot_id|>", "[assistant]\n\n"),
        "<|eot_id|>",
    ),
    "phi 3": (
        "{% for m in messages %}" + BY_ROLE + " + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}" + ASSISTANT + "{% else %}{{ eos_token }}{% endif %}",
        "<|end|>\n<eos>",
    ),
    "eos": (for_messages("{{ m.content }}{{ eos_token }}"), "<eos>"),
    "eos behind a space": (for_messages("{{ ' ' + m.content + ' ' + eos_token }}"), "<eos>"),
    "eos of the last turn": (
        for_messages("[{{ m.role }}]{{ m.content }}{{ eos_token if loop.last and m.role == 'assistant' }}\n"),
        "<eos>\n",
    ),
    "eos of the assistant": (
        for_messages("{{ '[I]' + m.content + '[/I]' if m.role == 'user' else m.content + eos_token }}"),
        "<eos>",
    ),
    "an end on its own line": (for_messages("{{ m.content }}\n<|im_end|>\n"), "\n<|im_end|>\n"),
    "capitals": (for_messages("{{ m.role }}: {{ m.content | upper | trim }}<|im_end|>"), "<|im_end|>"),
    "no end": (for_messages(NO_END, ASSISTANT), "<eos>"),
    "no end, and always the next turn": (for_messages(NO_END) + ASSISTANT, "<eos>"),
    "an end, and always the next turn": (for_messages(CHATML) + "<|im_start|>assistant\n", "<|im_end|>\n"),
    "an end in plain words": (for_messages("### {{ m.role }}\n{{ m.content }}\n### End\n"), "\n### End<eos>"),
    "an answer in other words": (for_messages("{{ m.content | replace('2956', 'x') }}<|im_end|>"), "<eos>"),
    "refuses answers": (
        for_messages("{{ raise_exception('no') if m.role == 'assistant' else m.content }}"),
        "<eos>",
    ),
    "none": (None, "<eos>"),
}


def text_of(tokenizer, ids):
    return tokenizer.decode(list(ids))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_response_to_messages_ends_as_the_template_ends_a_turn(name):
    template, ending = TEMPLATES[name]
    tokenizer = tokenizer_with(template)
    assert text_of(tokenizer, groups.ending_ids(tokenizer)) == ending
    tree = tree_of(group_of(CHAT), (0,), data.Limits(90, None), tokenizer=tokenizer)
    assert text_of(tokenizer, tree.answers[0]) == "Yo" + ending
    stops = {text_of(tokenizer, [token]) for token in groups.stop_ids(tokenizer)}
    marks = [mark for mark in (*MARKS, "<eos>") if mark in ending]
    assert stops == {"<eos>", marks[0]}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_response_to_a_text_ends_with_the_eos_token(name):
    tokenizer = tokenizer_with(TEMPLATES[name][0])
    group = group_of({"prompt": "Hi", "responses": [{"text": "Yo"}]})
    tree = tree_of(group, (0,), data.Limits(90, None), tokenizer=tokenizer)
    assert text_of(tokenizer, tree.answers[0]) == "Yo<eos>"


def test_where_the_template_ends_turns_with_the_eos_token_ids_are_as_ever():
    """As of the embedded model: its BOS begins a turn, and its EOS ends one."""
    tokenizer = tokenizer_with(TEMPLATES["chatml"][0], eos_token="<|im_end|>", bos_token="<|im_start|>")
    assert groups.stop_ids(tokenizer) == (tokenizer.eos_token_id,)
    assert text_of(tokenizer, groups.ending_ids(tokenizer)) == "<|im_end|>\n"


def test_a_cut_response_has_no_end_and_is_counted():
    tokenizer = tokenizer_with(TEMPLATES["an end on its own line"][0])
    group = group_of({**CHAT, "responses": [{"text": "abcdef"}]})
    whole = tree_of(group, (0,), data.Limits(90, None), tokenizer=tokenizer)
    length = len(whole.prompt) + len(whole.answers[0])
    for less, cut in ((0, False), (1, True), (4, True)):
        audit = Counter()
        tree = tree_of(group, (0,), data.Limits(length - less, None), tokenizer=tokenizer, audit=audit)
        assert tree.truncated == (cut,) and audit["responses_truncated"] == cut
        assert tree.answers[0] == whole.answers[0][: len(whole.answers[0]) - less]


@pytest.mark.parametrize("where", ["response", "message"])
def test_a_text_with_the_end_of_a_turn_inside_is_refused(where):
    tokenizer = tokenizer_with(TEMPLATES["gemma"][0])
    bad = "a<end_of_turn>b"
    content, text = ("Hi", bad) if where == "response" else (bad, "Yo")
    group = group_of({"prompt": [{"role": "user", "content": content}], "responses": [{"text": text}]})
    with pytest.raises(UserError, match="here: .*text: holds the token that ends a turn inside"):
        tree_of(group, (0,), data.Limits(90, None), tokenizer=tokenizer)
    # a text prompt may be a template's own writing
    tree_of(
        group_of({"prompt": bad, "responses": [{"text": "a"}]}),
        (0,),
        data.Limits(90, None),
        tokenizer=tokenizer,
    )


# --- roles --------------------------------------------------------------------------------------------------

USUAL = {
    "user": ["user", "human", "User", " HUMAN "],
    "assistant": ["assistant", "gpt", "bot", "GPT", "model"],
    "system": ["system", "developer"],
    "tool": ["tool", "function"],
}


def talk(role):
    """A conversation with a turn of this role."""
    return [
        {"role": "user", "content": "one"},
        {"role": role, "content": "two"},
        {"role": "user", "content": "three"},
    ]


@pytest.mark.parametrize("template", [None, TEMPLATES["chatml"][0]], ids=["plain turns", "chatml"])
@pytest.mark.parametrize("usual,role", [(usual, role) for usual, roles in USUAL.items() for role in roles])
def test_roles_go_by_their_usual_names(template, usual, role):
    tokenizer = tokenizer_with(template)
    assert data.encode_prompt(tokenizer, talk(role)) == data.encode_prompt(tokenizer, talk(usual))


def test_every_turn_of_a_conversation_has_its_mark():
    tokenizer = byte_tokenizer()
    assert decode(data.encode_prompt(tokenizer, talk("gpt"))) == (
        "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:"
    )
    assert "\n\nTool: two" in decode(data.encode_prompt(tokenizer, talk("function")))
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert decode(data.encode_prompt(tokenizer, system)) == "Be brief.\n\nHuman: Hi\n\nAssistant:"


@pytest.mark.parametrize("template", [None, TEMPLATES["chatml"][0]], ids=["plain turns", "chatml"])
@pytest.mark.parametrize("role", ["alien", "", "users", "narrator"])
def test_unknown_roles_are_refused(template, role):
    group = group_of({**CHAT, "prompt": talk(role)}, "f.jsonl, row 3")
    with pytest.raises(
        UserError, match=f"f.jsonl, row 3: field prompt messages: unknown role '{role}'; write user"
    ):
        tree_of(group, (0,), data.Limits(90, None), tokenizer=tokenizer_with(template))


@pytest.mark.parametrize("role", ["system", "developer", "tool", "function"])
def test_a_template_that_passes_over_a_role_is_refused(role):
    only_two = for_messages("{% if m.role in ('user', 'assistant') %}{{ m.content }}<|im_end|>{% endif %}")
    with pytest.raises(UserError, match="the chat template leaves out the turn of role (system|tool)"):
        data.encode_prompt(tokenizer_with(only_two), talk(role))
    as_json = for_messages("{{ m.content | tojson }}<|im_end|>")
    messages = [{"role": role, "content": 'say "x"\n'}, {"role": "user", "content": "one"}]
    data.encode_prompt(tokenizer_with(as_json), messages)


# --- cut prompts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncation,kept", [("keep_end", "<bos>gEND"), ("keep_start", "<bos>STAR")])
def test_a_cut_prompt_keeps_its_bos(truncation, kept):
    tokenizer = tokenizer_with("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    text = "START " + "g" * 20 + "END"
    whole = data.encode_prompt(tokenizer, [{"role": "user", "content": text}])
    assert whole[0] == tokenizer.bos_token_id
    cut = data.cut_prompt(whole, 5, truncation, tokenizer.bos_token_id)
    assert decode(cut) == kept and len(cut) == 5
    group = group_of({**CHAT, "prompt": [{"role": "user", "content": text}]})
    limits = data.Limits(90, 5, truncation)
    assert tree_of(group, (0,), limits, tokenizer=tokenizer).prompt == cut
    assert groups.prompt_ids(tokenizer, group, limits) == cut


def test_a_prompt_without_bos_is_cut_as_ever():
    prompt = tuple(range(10, 20))
    for bos_id in (None, 1, 15):
        assert data.cut_prompt(prompt, 4, "keep_end", bos_id) == (16, 17, 18, 19)
        assert data.cut_prompt(prompt, 4, "keep_start", bos_id) == (10, 11, 12, 13)
    assert (
        data.cut_prompt(prompt, 10, "keep_end", 10) == data.cut_prompt(prompt, None, "keep_end", 10) == prompt
    )
    assert data.cut_prompt(prompt, 1, "keep_end", 10) == (19,)
    assert data.cut_prompt(prompt, 2, "keep_end", 10) == (10, 19)
