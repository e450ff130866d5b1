"""Training speed and peak memory of TRL's DPOTrainer on the workload of throughput.py: what this project is
compared with.

python benchmarks/peer_trl.py --model HF_FOLDER --data ranked.jsonl --pairs all --prompts 16 --batch-size 8
--precompute-ref

Runs in any environment that has TRL (a development extra: pip install trl==1.16.0), in which case this
project's other requirements need not be there. Prompts, pairs and cuts are those of throughput.py. The last
line of stdout is one JSON object; its `seconds` are those of the optimizer steps: loading, tokenization,
precomputed reference log-probs and warm-up steps are not in them.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from workload import PAIRS, Parser, add_data_options, cut_groups, read_groups  # noqa: E402

from utils import UserError, run_entry  # noqa: E402

TRL = "trl==1.16.0"
SEQUENCES = ("chosen_ids", "rejected_ids")


def parse():
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


def pair_rows(groups: list, pairs: str) -> list[dict[str, str]]:
    """TRL's rows of text, a pair each."""
    import preference_datasets as data

    if any(not isinstance(g.prompt, str) for g in groups):
        raise UserError(
            "--data: prompts that are messages go through a chat template of each system's own; give text prompts"
        )
    return [
        {
            "prompt": groups[e.group].prompt,
            "chosen": groups[e.group].responses[e.columns[0]].text,
            "rejected": groups[e.group].responses[e.columns[1]].text,
        }
        for e in data.view(groups, f"pairs.{pairs}")
    ]


def make_trainer(args, folder: str) -> tuple[Any, int]:
    """A DPOTrainer ready to train, and its number of prompts."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(args.threads)
    try:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--model {args.model}: cannot be loaded ({str(error).strip().splitlines()[0][:160]}); "
            "give an HF folder"
        ) from error
    groups = cut_groups(read_groups(args.data, args.prompts, args.responses), tokenizer, args.max_length)
    rows = pair_rows(groups, args.pairs)
    steps = args.warmup_steps + math.ceil(
        len(rows) / args.batch_size
    )  # an epoch, and as many steps more as are not timed
    config = DPOConfig(
        output_dir=folder,
        per_device_train_batch_size=args.batch_size,
        max_steps=steps,
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
    return DPOTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    ), len(groups)


def timed_training(trainer, warmup_steps: int) -> float:
    """Train; return the seconds from the end of the warm-up steps (0: the beginning of the first step) to the
    end of the last.
    """
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
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


def main() -> None:
    args = parse()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import trl
    except ImportError as error:
        raise UserError(f"trl: not installed for {sys.executable}; run: pip install {TRL}") from error
    import torch

    with tempfile.TemporaryDirectory() as folder:
        trainer, num_prompts = make_trainer(args, folder)
        rows = trainer.train_dataset
        seconds = timed_training(trainer, args.warmup_steps)
    tokens = sum(
        min(len(row["prompt_ids"]) + len(row[name]), args.max_length) for row in rows for name in SEQUENCES
    )
    cuda = args.device != "cpu" and torch.cuda.is_available()
    print(
        json.dumps(
            {
                "system": "trl",
                "trl": trl.__version__,
                "model": args.model,
                "precompute_ref": args.precompute_ref,
                "dtype": args.dtype,
                "pairs": len(rows),
                "prompts": num_prompts,
                "seconds": round(seconds, 4),
                "sequence_tokens": tokens,
                "pairs_per_second": round(len(rows) / seconds, 4),
                "prompts_per_second": round(num_prompts / seconds, 4),
                "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 4),
                "peak_cuda_gb": round(torch.cuda.max_memory_allocated() / 1e9, 4) if cuda else None,
            }
        )
    )


if __name__ == "__main__":
    run_entry(main)
