"""Keys of other repositories that are spelled otherwise here: those of DPO and GDPO, and of NCA, whose keys
are TRL's.

Contract: the one place where they stand. A key of these that somebody types is answered with what is here,
and the tables of docs/from_dpo.md are made of them (docs/make.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection

DPO = {  # the DPO repository's config, which the GDPO repository's extends
    "gradient_accumulation_steps": "none: it follows from `max_tokens`, the tokens that one pass may hold",
    "trainer": "none: `nproc=8`, or `torchrun --nproc-per-node=8 train.py ...`, shards over 8 processes",
    "fsdp_port": "none: a free port is found",
    "model.fsdp_policy_mp": "`model.compute_dtype=bfloat16`",
    "model.reference_dtype": "none: the reference is the policy before its first update, in its precision",
    "local_dirs": "`output_dir`",
    "local_run_dir": "`output_dir`; the run's folder is `output_dir`/`exp_name`",
    "minimum_log_interval_secs": "`log_every_seconds`",
}
NCA = {  # the NCA repository's, and TRL's
    "model_name_or_path": "`model.name_or_path`",
    "torch_dtype": "`model.policy_dtype`",
    "attn_implementation": "`attention`",
    "use_flash_attention_2": "`attention`",
    "bf16": "`model.compute_dtype=bfloat16`",
    "dataset_mixer": "`datasets=[{name: a, weight: 0.7},{name: b, weight: 0.3}]`, in quotes",
    "dataset_name": "`datasets`",
    "dataset_splits": "`datasets=[{name: a, split: train_prefs}]`, in quotes, and `eval_datasets`",
    "preprocessing_num_workers": "none: data is read once and kept",
    "dataset_num_proc": "none: data is read once and kept",
    "loss_type": "`loss=nca`, `loss=infonca`, `loss=dpo`",
    "beta": "`loss.beta`",
    "temperature_alpha": "`loss.temperature`",
    "label_smoothing": "`loss.label_smoothing`",
    "rpo_alpha": "`loss.nll_weight`",
    "learning_rate": "`lr`",
    "lr_scheduler_type": "`lr_schedule`",
    "lr_scheduler_kwargs": "`lr_schedule_keys`",
    "optim": "`optimizer`",
    "num_train_epochs": "`n_epochs`",
    "max_steps": "`n_examples`, which counts examples",
    "per_device_train_batch_size": "`batch_size`, which counts a whole step's examples, and `max_tokens`",
    "per_device_eval_batch_size": "`eval_batch_size`",
    "gradient_checkpointing": "`activation_checkpointing`",
    "gradient_checkpointing_kwargs": "none: `activation_checkpointing` takes no arguments",
    "do_eval": "none: it validates every `eval_every` examples; `do_first_eval` before the first step",
    "eval_steps": "`eval_every`, in examples",
    "evaluation_strategy": "`eval_every`, in examples",
    "eval_strategy": "`eval_every`, in examples",
    "save_steps": "`save_every`, in examples",
    "save_strategy": "`save_every`, in examples",
    "save_total_limit": "`keep_last`",
    "logging_steps": "`log_every_seconds`",
    "logging_first_step": "none: `log_every_seconds=0` logs every step, the first among them",
    "report_to": "`trackers`, and `wandb.enabled`",
    "run_name": "`exp_name`",
    "use_peft": "`lora.rank`",
    "lora_r": "`lora.rank`",
    "lora_alpha": "`lora.alpha`",
    "lora_dropout": "`lora.dropout`",
    "lora_target_modules": "`lora.targets`",
    "load_in_4bit": "`lora.quantize=nf4`",
    "push_to_hub": "`python export.py outputs/NAME push=owner/name`, after training",
    "hub_model_id": "`python export.py outputs/NAME push=owner/name`, after training",
}
SYNONYMS = {  # what people call keys; the first that a command has is meant
    "model": ("ckpt",),
    "model_path": ("model.name_or_path", "ckpt"),
    "checkpoint": ("ckpt", "model.archive"),
    "init_from": ("model.archive",),
    "epochs": ("n_epochs",),
    "schedule": ("lr_schedule",),
    "clip_grad": ("max_grad_norm",),
    "betas": ("optimizer_keys={betas: [0.9, 0.95]}",),
    "eps": ("optimizer_keys={eps: 1e-6}",),
    "momentum": ("optimizer_keys={momentum: 0.9}",),
    "num_samples": ("n_samples",),
    "out_dir": ("output_dir", "output", "to"),
}
CHOICES = {  # files of config/ that there are elsewhere
    "loss=mpo": "`loss=gdpo`",
    "loss=mft": "`loss=gdpo_calibration`; the belief's gradient is whole here",
    "model=blank_model": "`model.name_or_path=FOLDER`",
    "model=blank_model_fp32": "`model.name_or_path=FOLDER`",
}


def plain(key: str) -> str:
    """A key without what people write in several ways: capitals and what joins its words."""
    return re.sub("[_.-]", "", key).lower()


BY_PLAIN = {plain(key): here for key, here in {**NCA, **DPO}.items()}
SYNONYMS_BY_PLAIN = {plain(word): keys for word, keys in SYNONYMS.items()}


def hint(key: str, known: Collection[str]) -> str:
    """What stands here for a key, or a choice `loss=mpo`, of another repository; "" for any other.

    known: the keys of the command. Where what stands here is none of them, it is said to be train.py's.
    """
    if here := CHOICES.get(key):
        return f"a key of other repositories, here {here.replace('`', '')}"
    here = BY_PLAIN.get(plain(key))
    if here is None:
        return ""
    sections = {name.partition(".")[0] for name in known}
    named = re.findall(r"`(?:[^`]*\s)?([\w.]+)(?:=[^`]*)?`", here)
    is_command = here.startswith("`python ")  # it names the command itself
    is_here = is_command or not named or any(name.partition(".")[0] in sections for name in named)
    text = here.replace("`", "")
    if not is_here and text.startswith("none"):
        return "a key of other repositories, of training alone"
    return f"a key of other repositories, {'here' if is_here else 'in train.py'} {text}"


def synonym(key: str, known: Collection[str]) -> str:
    """What the command calls a key that people call otherwise; "" where there is none."""
    found = SYNONYMS_BY_PLAIN.get(plain(key), ())
    return next((name for name in found if name.partition("=")[0] in known), "")
