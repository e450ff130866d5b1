"""What the benchmarks' command lines share. Nothing here takes time to import."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import UserError  # noqa: E402

PAIRS = ("best_vs_worst", "best_vs_random", "best_vs_rest", "all")
DTYPES = {  # of weights, of passes
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "mixed": ("float32", "bfloat16"),
}
# width, width of the MLP, layers, heads, key-value heads, vocabulary, one matrix for embedding and head
SHAPES = {
    "llama-tiny": (64, 128, 2, 4, 2, 512, True),
    "llama-1b": (2048, 8192, 16, 32, 8, 128256, True),
    "llama-3b": (3072, 8192, 28, 24, 8, 128256, True),
    "llama-8b": (4096, 14336, 32, 32, 8, 128256, False),
}
SHAPE_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
)
MODES = ("shared", "packed", "padded", "plain")
BY_ROWS = ("padded", "plain")  # modes in which every response is a row of its own
RANDOM = "random"
EMBEDDED_MODEL = "embedded:smollm2-135m-instruct"


# --- options ------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Options whose mistakes are one line, as everywhere in this project."""

    def __init__(self, doc: str):
        super().__init__(
            description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> None:
        raise UserError(f"{self.prog}: {message}; --help lists the options")


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def not_negative(text: str) -> int:
    """A whole number of 0 or more."""
    return 0 if text == "0" else positive(text)


def positives(text: str) -> list[int]:
    """Whole numbers of 1 or more, separated by commas."""
    return [positive(part) for part in text.split(",")]


def add_data_options(parser: Parser) -> None:
    """What every system is told, so that all see the same tokens and do the same work a step."""
    parser.add_argument(
        "--data",
        required=True,
        help="a .jsonl or .parquet file of ranked responses, or another data set's name",
    )
    parser.add_argument("--prompts", type=positive, default=16)
    parser.add_argument(
        "--responses", type=positive, default=4, help="of each prompt; prompts with fewer are left out"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=8, help="examples (pairs) of one optimizer step"
    )
    parser.add_argument(
        "--max-length",
        type=positive,
        default=256,
        help="tokens of a prompt (a third) with a response (the rest)",
    )
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument(
        "--warmup-steps", type=not_negative, default=0, help="untimed optimizer steps before the timed ones"
    )


def add_model_options(parser: Parser) -> None:
    """What the policy is, where it computes and how large its passes are."""
    parser.add_argument(
        "--model", default=EMBEDDED_MODEL, help="an HF folder, a hub name or an embedded model"
    )
    parser.add_argument(
        "--random-shape",
        choices=sorted(SHAPES),
        help="random weights of this Llama shape, made on the device; --model then gives the tokenizer alone",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="float32", help="mixed: float32 weights, bfloat16 passes"
    )
    parser.add_argument("--attention", choices=("auto", "segments", "sdpa", "flex_attention"), default="auto")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile every transformer block; give warm-up steps"
    )
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument(
        "--max-tokens",
        type=positive,
        default=1024,
        help="tokens of one forward pass (not in modes padded and plain)",
    )
    parser.add_argument(
        "--row-tokens", type=positive, help="fill rows up to this length; as train.py chooses where absent"
    )
    parser.add_argument("--seed", type=not_negative, default=0)
