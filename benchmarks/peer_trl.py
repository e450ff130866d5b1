"""Training speed and peak memory of TRL's DPOTrainer, the peer, on the workload of throughput.py.

    python benchmarks/peer_trl.py --model HF_FOLDER --data ranked.jsonl --pairs all --precompute-ref

Runs in any environment that has TRL (a development extra: pip install trl==1.16.0), in which case this
project's other requirements need not be there. Prompts, pairs and cuts are those of throughput.py. The last
line of stdout is one JSON object; its `seconds` are those of the optimizer steps: loading, tokenization,
precomputed reference log-probs and warm-up steps are not in them.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from options import PAIRS, Parser, add_data_options  # noqa: E402

from machine import peak_resident  # noqa: E402
from utils import UserError, run_entry  # noqa: E402

if TYPE_CHECKING:  # slow to import, and needed for their names alone
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import DPOConfig, DPOTrainer

    from preference_datasets import Group

TRL = "trl==1.16.0"
SEQUENCES = ("chosen_ids", "rejected_ids")


def parse() -> Namespace:
    """The options. Raises UserError for a mistake."""
    parser = Parser(__doc__)
    add_data_options(parser)
    parser.add_argument("--model", required=True, help="an HF folder or a hub name")
    parser.add_argument("--pairs", choices=PAIRS, default="best_vs_worst")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and passes"
    )
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument(
        "--precompute-ref",
        action="store_true",
        help="reference log-probs before training, as this project has them",
    )
    return parser.parse_args()


def import_the_rest() -> None:
    """What takes seconds to import, or may not be there, once the options are known to be right.

    Raises UserError where there is no TRL.
    """
    global data, torch, transformers, trl, workload
    try:
        import trl
    except ImportError as error:
        raise UserError(f"trl: not installed for {sys.executable}; run: pip install {TRL}") from error
    import torch
    import transformers
    import workload

    import preference_datasets as data


# --- the workload -------------------------------------------------------------------------------------------


class Work(NamedTuple):
    """What is trained: TRL's rows of text, and the number of prompts that they come from."""

    rows: list[dict[str, str]]
    num_prompts: int


def make_work(args: Namespace, tokenizer: PreTrainedTokenizerBase) -> Work:
    """The pairs of throughput.py, cut as there."""
    groups = workload.read_groups(args.data, args.prompts, args.responses)
    groups = workload.cut_groups(groups, tokenizer, args.max_length)
    return Work(pair_rows(groups, args.pairs), len(groups))


def pair_rows(groups: Sequence[Group], pairs: str) -> list[dict[str, str]]:
    """TRL's rows of text, a pair each. Raises UserError for prompts that are messages."""
    if any(not isinstance(group.prompt, str) for group in groups):
        problem = "prompts that are messages go through a chat template of each system's own"
        raise UserError(f"--data: {problem}; give text prompts")
    rows = []
    for example in data.view(groups, f"pairs.{pairs}"):
        group = groups[example.group]
        chosen, rejected = (group.responses[column].text for column in example.columns)
        rows.append({"prompt": group.prompt, "chosen": chosen, "rejected": rejected})
    return rows


# --- the peer -----------------------------------------------------------------------------------------------


def load(args: Namespace) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and model. Raises UserError where the folder or name gives none."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
        dtype = getattr(torch, args.dtype)
        model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(f"--model {args.model}: cannot be loaded ({reason}); give an HF folder") from error
    return tokenizer, model


def make_config(args: Namespace, num_rows: int, folder: str) -> DPOConfig:
    """TRL's options: an epoch, and as many steps more as are not timed."""
    return trl.DPOConfig(
        output_dir=folder,
        per_device_train_batch_size=args.batch_size,
        max_steps=args.warmup_steps + math.ceil(num_rows / args.batch_size),
        learning_rate=1e-6,
        beta=0.1,
        max_length=args.max_length,
        precompute_ref_log_probs=args.precompute_ref,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=args.device == "cpu" or not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to=[],
        logging_steps=10**6,
        disable_tqdm=True,
    )


def make_trainer(args: Namespace, folder: str) -> tuple[DPOTrainer, int]:
    """A DPOTrainer ready to train, and its number of prompts."""
    from datasets import Dataset

    torch.set_num_threads(args.threads)
    tokenizer, model = load(args)
    work = make_work(args, tokenizer)
    config = make_config(args, len(work.rows), folder)
    dataset = Dataset.from_list(work.rows)
    trainer = trl.DPOTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer)
    return trainer, work.num_prompts


def timed_training(trainer: DPOTrainer, warmup_steps: int) -> float:
    """Train; return the seconds from the end of the warm-up steps to the end of the last step.

    Without warm-up steps they begin with the first step.
    """

    class Clock(transformers.TrainerCallback):
        begin = end = 0.0

        def on_train_begin(self, *_, **__):
            self.begin = time.perf_counter()

        def on_step_end(self, args, state, control, **_):
            if state.global_step == warmup_steps:
                self.begin = time.perf_counter()

        def on_train_end(self, *_, **__):
            self.end = time.perf_counter()

    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return clock.end - clock.begin


def num_tokens(rows: Sequence[dict[str, Any]], max_length: int) -> int:
    """Tokens of all prompts with their responses, as TRL cuts them."""
    total = 0
    for row in rows:
        for name in SEQUENCES:
            total += min(len(row["prompt_ids"]) + len(row[name]), max_length)
    return total


def main() -> None:
    """Measure the peer and print what came out as one line of JSON."""
    args = parse()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import_the_rest()
    with tempfile.TemporaryDirectory() as folder:
        trainer, num_prompts = make_trainer(args, folder)
        rows = trainer.train_dataset
        seconds = timed_training(trainer, args.warmup_steps)
    has_cuda = args.device != "cpu" and torch.cuda.is_available()
    peak_rss = peak_resident() / 1.024e9
    peak_cuda = round(torch.cuda.max_memory_allocated() / 1e9, 4) if has_cuda else None
    result = {
        "system": "trl",
        "trl": trl.__version__,
        "model": args.model,
        "precompute_ref": args.precompute_ref,
        "dtype": args.dtype,
        "pairs": len(rows),
        "prompts": num_prompts,
        "seconds": round(seconds, 4),
        "sequence_tokens": num_tokens(rows, args.max_length),
        "pairs_per_second": round(len(rows) / seconds, 4),
        "prompts_per_second": round(num_prompts / seconds, 4),
        "peak_rss_gb": round(peak_rss, 4),
        "peak_cuda_gb": peak_cuda,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    run_entry(main)
