"""What TRL's numbers are of: rows in TRL's formats, tokenizers with chat templates, and one tiny model.

Contract: all of it is the same wherever it is made, so that values which TRL computed elsewhere can be
compared.
"""

import hashlib

from helpers import tiny_policy
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

MARKS = ("<bos>", "<eos>", "<pad>", "<|turn|>", "<|end|>")
VOCABULARY = 300  # of the model; more than any of the tokenizers has
WORDS = ("the", "sky", "is", "blue", "green", "what", "color", "answer", "assistant", "user", "system")
# every turn and its end; the parts of a template that TRL's assistant_only_loss asks for mark what is said
TURN = (
    "{% for m in messages %}{{ '<|turn|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}{% else %}"
    "{{ m['content'] + '<|end|>' }}{% endif %}"
)
ASK = "{% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
LINES = TURN + "{{ '\n' }}" + ASK  # ChatML: a line break stands behind the end of a turn
TEMPLATES = {
    "bytes": "{{ bos_token }}" + TURN + ASK,  # with a BOS, as the tokenizer puts it before texts
    "words": TURN + ASK,
    "lines": LINES,
}


def tokenizer_of(name):
    """bytes: every byte is a token, and texts begin with a BOS; words: common words are tokens, with or
    without the space before them; lines: as words, with ChatML's line breaks.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [] if name == "bytes" else _merges()
    joined = dict.fromkeys(left + right for left, right in merges)
    vocabulary = {piece: number for number, piece in enumerate([*alphabet, *joined])}
    raw = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    if name == "bytes":
        bos = ("<bos>", raw.token_to_id("<bos>"))
        raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    assert raw.get_vocab_size() <= VOCABULARY
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=TEMPLATES[name], **special)


def _merges():
    """The merges that make tokens of the words, letter by letter; a space may stand before each."""
    merges = {}
    for word in WORDS[:6]:
        piece = word[0]
        for letter in word[1:]:
            merges[piece, letter] = None
            piece += letter
        merges["Ġ", piece] = None
    return list(merges)


def save_model(folder):
    """Write the model; return the hash of its weights."""
    model = tiny_policy(seed=7, vocab_size=VOCABULARY).model
    model.save_pretrained(folder)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


# --- rows ---------------------------------------------------------------------------------------------------


def turns(*texts, system=""):
    """Messages of a user and an assistant in turn, behind a system's text."""
    roles = ("user", "assistant")
    spoken = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return ([{"role": "system", "content": system}] if system else []) + spoken


def said(text):
    """One message of the assistant."""
    return [{"role": "assistant", "content": text}]


SKY = turns("What color is the sky?", system="Answer briefly.")
MORE = turns("What color is the sky?", "It is blue.", "And at night?", system="Answer in one word.")
GERMAN = turns("Wie heißt der Himmel?")
# {what: (TRL's trainer, rows)}
ROWS = {
    "preference, texts": (
        "dpo",
        [
            {"prompt": "The sky is", "chosen": " blue.", "rejected": " green, and what is more,\n\nwet."},
            {"prompt": "What color is the sky?\n", "chosen": "the sky is blue", "rejected": "No."},
            {"prompt": "Übung macht", "chosen": " den Meister.", "rejected": " müde…"},
        ],
    ),
    "preference without prompts, texts": (
        "dpo",
        [
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            {"chosen": "Q: what color?\nA: blue the sky is", "rejected": "Q: what color?\nA: green is"},
        ],
    ),
    "preference, messages": (
        "dpo",
        [
            {"prompt": SKY, "chosen": said("Blue."), "rejected": said("The sky is green, what else.")},
            {"prompt": MORE, "chosen": said("Black."), "rejected": said("Blue as well.\n\nOr so.")},
            {"prompt": GERMAN, "chosen": said("Süß."), "rejected": said("the sky")},
        ],
    ),
    "preference without prompts, messages": (
        "dpo",
        [
            {"chosen": SKY + said("Blue."), "rejected": SKY + said("Green.")},
            {"chosen": MORE + said("Black."), "rejected": MORE + said("Blue is the sky.")},
        ],
    ),
    "unpaired, texts": (
        "kto",
        [
            {"prompt": "The sky is", "completion": " blue.", "label": True},
            {"prompt": "The sky is", "completion": " green.", "label": False},
        ],
    ),
    "unpaired, messages": (
        "kto",
        [
            {"prompt": SKY, "completion": said("Blue."), "label": True},
            {"prompt": MORE, "completion": said("It is green."), "label": False},
        ],
    ),
    "prompt and completion, texts": (
        "sft",
        [
            {"prompt": "The sky is", "completion": " blue."},
            {"prompt": "What color is", "completion": " the sky, what\nis it?"},
        ],
    ),
    "prompt and completion, messages": (
        "sft",
        [{"prompt": SKY, "completion": said("Blue.")}, {"prompt": MORE, "completion": said("Black.")}],
    ),
    "messages": (
        "sft",
        [{"messages": SKY + said("Blue.")}, {"messages": GERMAN + said("Der Himmel.")}],
    ),
    "messages of several turns": ("sft", [{"messages": MORE + said("Black is the sky.")}]),
    "a border inside a word": (
        "dpo",
        [{"prompt": "The sky is bl", "chosen": "ue.", "rejected": "ack."}],
    ),
}
