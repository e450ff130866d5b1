"""A reward model as the judge: scores are the same one by one and in batches, and are kept by weights."""

import copy
import json

import pytest
import torch
from helpers import CONFIGS, EOS, PAD, VOCAB, byte_tokenizer, save_tiny
from transformers import AutoModelForSequenceClassification, BertConfig, RobertaConfig

from evaluation.judges import Answered, Compared, RewardModelJudge, reward_model
from utils import UserError

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<eos>{% endfor %}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
)
CHAT = [{"role": "user", "content": "Name a colour."}]
TWO_TURNS = [*CHAT, {"role": "assistant", "content": "Blue."}, {"role": "user", "content": "And another?"}]
BERT = BertConfig(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=512,
    pad_token_id=PAD,
)


def save(folder, family="llama", seed=0, template=None, **changes):
    """A tiny reward model with its tokenizer; returns the folder as a string."""
    torch.manual_seed(seed)
    config = copy.deepcopy(BERT if family == "bert" else CONFIGS[family])
    config.update({"num_labels": 1, "pad_token_id": config.pad_token_id, **changes})
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return str(folder)


def one_by_one(folder, texts):
    """The scores of texts by the model as transformers loads it, without any padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = byte_tokenizer()
    with torch.inference_mode():
        return [float(model(torch.tensor([tokenizer(text)["input_ids"]])).logits) for text in texts]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bert"])
@pytest.mark.parametrize("pad", [None, -1, PAD, EOS])
@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "chat"])
def test_a_batch_is_scored_as_one_by_one(tmp_path, family, pad, template):
    if family == "bert" and pad != PAD:
        pytest.skip("encoders have a padding token")
    folder = save(tmp_path / "rm", family, template=template, pad_token_id=pad)
    responses = ["", "Red.", "Green, I would say.", "Blue! " * 9, "Red.", "Grün 🌲"]
    judge = RewardModelJudge(folder)
    given = [("Name a colour.", text) for text in responses] + [(TWO_TURNS, "Red.")]
    if template:
        texts = [f"[user]Name a colour.<eos>[assistant]{text}<eos>" for text in responses]
        turns = "[user]Name a colour.<eos>[assistant]Blue.<eos>[user]And another?<eos>"
        texts.append(f"{turns}[assistant]Red.<eos>")
    else:
        texts = [f"Name a colour.\n{text}" for text in responses]
        texts.append("Name a colour.\nBlue.\nAnd another?\nRed.")
    scores = judge.scores(given)
    assert scores == pytest.approx(one_by_one(folder, texts), abs=1e-5)
    assert len(set(scores)) == 6  # of seven, two are equal
    assert judge.counts() == {
        "asked": 6,
        "cached": 0,
        "truncated": 0,
        "prompt_tokens": judge.counted["prompt_tokens"],
    }
    assert judge.counts()["prompt_tokens"] == sum(len(byte_tokenizer()(t)["input_ids"]) for t in set(texts))


@pytest.mark.parametrize("pad", [None, PAD])
def test_small_batches_give_the_same_scores(tmp_path, monkeypatch, pad):
    folder = save(tmp_path / "rm", pad_token_id=pad)
    given = [("q", "x" * n) for n in range(40)]
    together = RewardModelJudge(folder).scores(given)
    for tokens in (1, 50):
        monkeypatch.setattr(reward_model, "BATCH_TOKENS", tokens)
        monkeypatch.setenv("GROVE_CACHE", str(tmp_path / f"cache-{tokens}"))
        assert RewardModelJudge(folder).scores(given) == pytest.approx(together, abs=1e-5)


def test_a_text_that_holds_every_token_needs_no_padding(tmp_path):
    folder = save(tmp_path / "rm", pad_token_id=None)
    judge = RewardModelJudge(folder)
    every = tuple(range(VOCAB))
    batches = list(judge._batches([every, (1,), (2, 3)]))
    assert batches[0] == [every]
    assert judge._pass(batches[0]) == pytest.approx(
        [judge.model(torch.tensor([every])).logits.item()], abs=1e-5
    )


def test_scores_are_kept_by_weights_and_text(tmp_path):
    folder = save(tmp_path / "one")
    given = [("q", "a"), ("q", "b")]
    scores = RewardModelJudge(folder).scores(given)
    again = RewardModelJudge(str(save_again(folder, tmp_path / "moved")))
    assert again.scores([*given, ("q", "c")])[:2] == scores  # to the bit: it is the same number
    assert (again.counts()["cached"], again.counts()["asked"]) == (2, 1)
    other = RewardModelJudge(save(tmp_path / "two", seed=1))
    assert other.scores(given) != scores
    assert (other.counts()["cached"], other.counts()["asked"]) == (0, 2)


def save_again(folder, place):
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(place)
    byte_tokenizer().save_pretrained(place)
    return place


def test_what_was_scored_before_a_run_ended_is_kept(tmp_path, monkeypatch):
    folder = save(tmp_path / "rm")
    given = [("q", "x" * n) for n in range(6)]
    monkeypatch.setattr(reward_model, "BATCH_TOKENS", 1)
    ended = RewardModelJudge(folder)
    real, calls = ended._pass, []

    def killed(batch):
        calls.append(batch)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return real(batch)

    monkeypatch.setattr(ended, "_pass", killed)
    with pytest.raises(KeyboardInterrupt):
        ended.scores(given)
    judge = RewardModelJudge(folder)
    judge.scores(given)
    assert (judge.counts()["cached"], judge.counts()["asked"]) == (4, 2)


def test_pairs_go_by_the_scalars(tmp_path):
    judge = RewardModelJudge(save(tmp_path / "rm"))
    assert judge.name == "reward model rm"
    good, poor = sorted(["Red.", "Blue."], key=lambda text: -judge.scores([(CHAT, text)])[0])
    pairs = [Compared(CHAT, good, poor), Compared(CHAT, poor, good), Compared(CHAT, good, good)]
    assert judge.preferences(pairs) == [1, 0, 0.5]
    assert judge.counts()["cached"] > 0  # the scalars were known


def test_what_is_longer_than_the_model_is_cut_and_counted(tmp_path):
    folder = save(tmp_path / "rm", "gpt2", n_positions=64)
    judge = RewardModelJudge(folder)
    scores = judge.scores([("q", "x" * 100), ("q", "x" * 62), ("q", "x" * 200)])
    assert scores == pytest.approx(one_by_one(folder, ["q\n" + "x" * 62]) * 3, abs=1e-5)
    assert judge.counts()["truncated"] == 2


def test_a_reference_is_not_read(tmp_path):
    judge = RewardModelJudge(save(tmp_path / "rm"))
    assert judge.scores([Answered("q", "a", "b")]) == judge.scores([("q", "a")])


def refused(make):
    with pytest.raises(UserError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_model_with_other_than_one_label_is_refused(tmp_path):
    folder = save(tmp_path / "rm", num_labels=3)
    assert "has 3 labels, not the one" in refused(lambda: RewardModelJudge(folder))
    assert "has 2 labels, not the one" in refused(lambda: RewardModelJudge(save_tiny(tmp_path / "lm")))


def test_a_language_model_is_no_reward_model_whatever_its_config_says(tmp_path):
    folder = tmp_path / "lm"
    save_tiny(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    (folder / "config.json").write_text(json.dumps(config))
    judge = RewardModelJudge(str(folder))
    assert "lacks tensor score.weight" in refused(lambda: judge.scores([("q", "a")]))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"\x00\xff garbage"])
def test_a_damaged_folder_is_named(tmp_path, file, content):
    folder = save(tmp_path / "rm")
    path = tmp_path / "rm" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert folder in refused(lambda: RewardModelJudge(folder).scores([("q", "a")]))


class Evil:
    """A pickle of it runs code when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def test_a_file_of_weights_runs_no_code(tmp_path):
    folder = save(tmp_path / "rm")
    scores = RewardModelJudge(folder).scores([("q", "a")])
    weights = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    (tmp_path / "rm" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "rm" / "pytorch_model.bin")
    assert RewardModelJudge(folder).scores([("q", "a")]) == scores
    torch.save({**weights, "evil": Evil(tmp_path / "mark")}, tmp_path / "rm" / "pytorch_model.bin")
    assert "cannot be loaded" in refused(lambda: RewardModelJudge(folder).scores([("q", "a")]))
    assert not (tmp_path / "mark").exists()


def test_code_beside_a_model_is_not_run(tmp_path):
    folder = save(tmp_path / "rm")
    config = json.loads((tmp_path / "rm" / "config.json").read_text())
    config |= {"model_type": "my_own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "rm" / "config.json").write_text(json.dumps(config))
    (tmp_path / "rm" / "own.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    assert "cannot be loaded" in refused(lambda: RewardModelJudge(folder))
    assert not (tmp_path / "mark").exists()


def test_weights_that_overflow_are_named(tmp_path):
    folder = save(tmp_path / "rm")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.score.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    message = refused(lambda: RewardModelJudge(folder).scores([("q", "the response")]))
    assert "reward model rm" in message and "gives nan" in message and "the response" in message


def test_a_conversation_that_the_template_refuses_is_named(tmp_path):
    judge = RewardModelJudge(save(tmp_path / "rm", template=TEMPLATE))
    prompt = [{"role": "system", "content": "Be brief."}, *CHAT]
    assert "no system here" in refused(lambda: judge.scores([(prompt, "Red.")]))


def test_positions_that_count_on_from_the_padding_are_room_for_fewer_tokens(tmp_path):
    config = RobertaConfig(**{**BERT.to_dict(), "pad_token_id": 1, "max_position_embeddings": 34})
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    judge = RewardModelJudge(str(tmp_path))
    whole, cut = judge.scores([("a" * 10, "b" * 21), ("a" * 10, "b" * 40)])
    assert judge.length == 32 and whole == cut and judge.counts()["truncated"] == 1


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    judge = RewardModelJudge(save(tmp_path, vocab_size=100, bos_token_id=1, eos_token_id=2, pad_token_id=3))
    with pytest.raises(UserError, match="gives token id 198, and the model knows 100 tokens"):
        judge.scores([("é", "ü")])


def test_a_reward_model_is_on_the_cpu_where_apples_gpu_is_asked_for(tmp_path):
    assert RewardModelJudge(save(tmp_path / "rm"), "mps").model.device.type == "cpu"
