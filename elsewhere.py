"""Keys of other repositories that are spelled otherwise here: those of DPO and GDPO, and of NCA, whose keys
are TRL's.

Contract: the one place where they stand. A key of these that somebody types is answered with what is here,
and the tables of docs/from_dpo.md are made of them (docs/make.py).
"""

from __future__ import annotations

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
    "bf16": "`model.compute_dtype=bfloat16`",
    "dataset_mixer": "`datasets=[{name: a, weight: 0.7},{name: b, weight: 0.3}]`, in quotes",
    "dataset_name": "`datasets`",
    "dataset_splits": "`datasets=[{name: a, split: train_prefs}]`, in quotes, and `eval_datasets`",
    "preprocessing_num_workers": "none: data is read once and kept",
    "loss_type": "`loss=nca`, `loss=infonca`, `loss=dpo`",
    "beta": "`loss.beta`",
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
    "eval_steps": "`eval_every`, in examples",
    "evaluation_strategy": "`eval_every`, in examples",
    "eval_strategy": "`eval_every`, in examples",
    "save_steps": "`save_every`, in examples",
    "save_strategy": "`save_every`, in examples",
    "save_total_limit": "`keep_last`",
    "logging_steps": "`log_every_seconds`",
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
CHOICES = {  # files of config/ that there are elsewhere
    "loss=mpo": "`loss=gdpo`",
    "loss=mft": "`loss=gdpo_calibration`; the belief's gradient is whole here",
    "model=blank_model": "`model.name_or_path=FOLDER`",
    "model=blank_model_fp32": "`model.name_or_path=FOLDER`",
}


def hint(key: str) -> str:
    """What stands here for a key, or a choice `loss=mpo`, of another repository; "" for any other."""
    here = {**NCA, **DPO, **CHOICES}.get(key)
    return f"a key of other repositories, here {here.replace('`', '')}" if here else ""
