"""TRL's numbers of the rows in tests/trl_helpers.py: `python tests/recorded/with_trl.py` writes trl.json.

Contract: ids and log-probs come from TRL's own trainers (DPOTrainer, KTOTrainer, SFTTrainer), which only this
file imports. It needs an environment that has TRL beside the project's requirements.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from datasets import Dataset, disable_caching  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer  # noqa: E402
from trl_helpers import ROWS, TEMPLATES, save_model, tokenizer_of  # noqa: E402

IGNORED = -100  # the label of a token that is not learned


def trainer_of(classes: tuple, folder: str, rows: list, tokenizer, **options):
    """A trainer of TRL that has prepared the rows, one a batch."""
    config, trainer = classes
    arguments = config(
        output_dir=f"{folder}/out",
        per_device_train_batch_size=1,
        max_length=None,
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        **options,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return trainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )


def of_preferences(folder: str, rows: list, tokenizer) -> list[list[dict]]:
    """DPOTrainer's ids of every row's two responses, and its reference log-probs."""
    trainer = trainer_of((DPOConfig, DPOTrainer), folder, rows, tokenizer)
    result = []
    for example in trainer.train_dataset:
        logps = trainer.compute_ref_log_probs(trainer.model.eval(), trainer.data_collator([example]))
        of_row = []
        for side, logp in zip(("chosen_ids", "rejected_ids"), logps):
            of_row.append(response(trainer, example["prompt_ids"], example[side], logp.item()))
        result.append(of_row)
    return result


def of_labels(folder: str, rows: list, tokenizer) -> list[list[dict]]:
    """KTOTrainer's ids of every row's response, and its reference log-prob."""
    # without the pairs of its KL term, which need batches of two rows
    trainer = trainer_of((KTOConfig, KTOTrainer), folder, rows, tokenizer, loss_type="apo_zero_unpaired")
    result = []
    for example in trainer.train_dataset:
        logp, _ = trainer.compute_ref_log_probs(trainer.model.eval(), trainer.data_collator([example]))
        result.append([response(trainer, example["prompt_ids"], example["completion_ids"], logp.item())])
    return result


def of_demonstrations(folder: str, rows: list, tokenizer) -> list[list[dict]]:
    """SFTTrainer's ids of every row, and minus its loss over the tokens that it learns."""
    only_answers = {"assistant_only_loss": "messages" in rows[0]}
    trainer = trainer_of((SFTConfig, SFTTrainer), folder, rows, tokenizer, **only_answers)
    result = []
    for example in trainer.train_dataset:
        ids, labels = example["input_ids"], example["labels"]
        learned = [i for i, label in enumerate(labels) if label != IGNORED]
        loss = trainer.compute_loss(trainer.model.eval(), trainer.data_collator([example]))
        begin = max(i for i in learned if i - 1 not in learned)  # of the last of several answers
        end = learned[-1] + 1
        of_row = response(trainer, ids[:begin], ids[begin:end], -loss.item() * len(learned))
        result.append([{**of_row, "learned": len(learned)}])
    return result


@torch.no_grad()
def response(trainer, prompt: list[int], answer: list[int], logp: float) -> dict:
    """A response as TRL sees it, with the log-prob of each token as the plain model gives it."""
    logits = trainer.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    of_tokens = logits[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])[:, 0]
    return {"prompt": prompt, "answer": answer, "logp": logp, "tokens": of_tokens.tolist()}


READERS = {"dpo": of_preferences, "kto": of_labels, "sft": of_demonstrations}


def record() -> dict:
    """All that TRL says, with the versions and the weights that it said it of."""
    disable_caching()
    torch.set_num_threads(1)
    result: dict = {"versions": {name: version(name) for name in ("trl", "torch", "transformers")}}
    with tempfile.TemporaryDirectory() as folder:
        result["weights"] = save_model(folder)
        result["values"] = {}
        for name in TEMPLATES:
            of_tokenizer = {}
            for what, (trainer, rows) in ROWS.items():
                of_tokenizer[what] = READERS[trainer](folder, rows, tokenizer_of(name))
            result["values"][name] = of_tokenizer
    return result


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "trl.json"
    target.write_text(json.dumps(record(), separators=(",", ":")) + "\n")
