"""Train a language model on groups: `python train.py loss=gdpo datasets=[opinions/republican] exp_name=mine`.

Entry point: here all parts meet, in the order in which they run; no loop and no maths. Config ends in this file.
Every key stands with a comment in config/config.yaml; `python train.py --help` lists them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
from collections import Counter
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from ranks import init_distributed, leave_distributed, on_main, run_on_ranks, wait
from utils import (
    Stopped,
    UserError,
    atomic_path,
    guarded,
    keep_freed_memory,
    locked,
    log,
    run_entry,
    seed_everything,
    setup_logging,
    write_json,
)

CONFIG = Path(__file__).parent / "config"
RANGES = {  # key: kind, least value, may be null
    "seed": (int, 0, False),
    "batch_size": (int, 1, False),
    "eval_batch_size": (int, 1, False),
    "max_tokens": (int, 2, True),
    "row_tokens": (int, 1, True),
    "max_length": (int, 2, False),
    "max_prompt_length": (int, 1, True),
    "pairs_per_prompt": (int, 1, False),
    "eval_every": (int, 1, False),
    "n_eval_examples": (int, 1, True),
    "n_epochs": (int, 1, True),
    "n_examples": (int, 1, True),
    "warmup_steps": (int, 0, False),
    "patience": (int, 1, True),
    "lr": (float, 1e-12, False),
    "max_grad_norm": (float, 1e-12, False),
    "log_every_seconds": (float, 0, False),
    "save_every": (int, 1, True),
    "keep_last": (int, 1, False),
    "replicate": (int, 1, False),
    "nproc": (int, 1, True),
    "world_size": (int, 1, True),
    "gpu_memory_gb": (float, 1e-3, False),
    "gpu_tflops": (float, 1e-3, False),
    "n_eval_model_samples": (int, 1, False),
    "lora.rank": (int, 1, True),
    "lora.alpha": (float, 1e-12, False),
    "eval_fraction": (float, 0, False),
    "icf_shots": (int, 0, False),
}
UTILISATION = 0.4  # of a GPU's peak rate, for estimates of time
SAMPLE_TOKENS = 64  # of a response that is sampled at validation
SHOWN = (
    "loss/eval",
    "js_distance_eval",
    "class_mass_eval",
    "rewards_eval/accuracies",
    "rewards_eval/margins_majority",
    "rewards_eval/margins_minority",
)
MOST = {"eval_fraction": 1, "pairs_per_prompt": 10_000}
KINDS = {  # the other values: kind, may be null
    bool: (
        False,
        (
            "debug",
            "do_first_eval",
            "share_prefixes",
            "compile",
            "activation_checkpointing",
            "wandb.enabled",
            "plan",
            "cpu_offload",
            "sample_during_eval",
            "model.trust_remote_code",
        ),
    ),
    bool | None: (True, ("async_save",)),
    str: (False, ("output_dir", "responses", "attention", "eval_metric", "model.name_or_path")),
    str | None: (
        True,
        (
            "wandb.entity",
            "wandb.project",
            "model.archive",
            "model.tokenizer_name_or_path",
            "model.block_name",
        ),
    ),
}
FREE_TO_CHANGE = {
    "resume",
    "wandb",
    "n_epochs",
    "n_examples",
    "debug",
    "output_dir",
    "log_every_seconds",
    "patience",
    "eval_every",
    "eval_batch_size",
    "save_every",
    "keep_last",
    "sample_during_eval",
    "n_eval_model_samples",
    "replicate",
    "cpu_offload",
    "nproc",
    "async_save",
}


def main(config: DictConfig) -> None:
    try:
        with contextlib.ExitStack() as stack:  # the run folder's lock, and open files
            train(config, stack)
    except Stopped:
        leave_distributed()
        raise
    leave_distributed()


def train(config: DictConfig, stack: contextlib.ExitStack) -> None:
    settings = check_config(config)
    import losses  # after the config is known to be right: torch and transformers take seconds to import
    import preference_datasets as data

    loss_name, loss_keys = (
        settings["loss"]["name"],
        {k: v for k, v in settings["loss"].items() if k != "name"},
    )
    try:
        losses.bind(loss_name, loss_keys)
    except ValueError as error:
        raise UserError(str(error)) from error
    needs = losses.needs(loss_name, loss_keys)
    if settings["plan"]:
        settings["debug"] = True  # write nothing
    else:
        run_on_ranks(settings["nproc"])
    counts: dict[str, dict[str, Counter]] = {"train": {}, "eval": {}}
    splits = read_data(settings, needs, counts)

    import checkpoint
    import models
    import reference
    import trainers

    world = init_distributed(settings["replicate"], settings["cpu_offload"])
    seed_everything(settings["seed"])
    if world.device.type == "cpu":
        keep_freed_memory()
    setup_logging(is_main=world.is_main)
    run = on_main(world, lambda: open_run(settings, stack))
    model = settings["model"]
    if settings["plan"] and settings["attention"] == "auto":
        settings["attention"] = "flex_attention"  # what a GPU takes
    archive = checkpoint.find_model(model["archive"]) if model["archive"] else None
    named = (
        archive if archive and Path(archive).is_dir() else model["name_or_path"]
    )  # an archive folder is a whole model
    if world.size > 1 and world.is_main:
        models.resolve_name(named)  # unpacks an embedded model before the other ranks look for it
    wait(world)
    tokenizer = models.load_tokenizer(model["tokenizer_name_or_path"] or named, model["trust_remote_code"])
    trees = tokenize(settings, splits, tokenizer, counts)
    mismatched = {
        s: data.mismatch(trees[s], trees["train"], settings["seed"], limits_of(settings).max_length)
        for s in trees
        if needs.mismatched
    }
    settings["max_tokens"] = pack_tokens(
        [*trees.values(), *mismatched.values()], settings, "cuda" if settings["plan"] else world.device.type
    )
    audit = data.audit_splits({s: (*splits[s], trees[s]) for s in splits}, counts)
    for name, found in audit.items():
        for split, values in found.items():
            log.info("%s, %s: %s", name, split, json.dumps(values))

    if settings["plan"]:
        print(plan_run(settings, trees["train"], mismatched.get("train"), named, loss_keys))
        return
    sharded, block_name = world.mesh is not None, model["block_name"]
    policy = models.load_policy(
        model["name_or_path"],
        model["policy_dtype"],
        settings["attention"],
        world.device,
        archive,
        model["trust_remote_code"],
        model["compute_dtype"],
        empty=sharded,
    )
    if settings["lora"]["rank"]:
        models.add_adapters(policy, **settings["lora"])
    if settings["activation_checkpointing"]:
        models.gradient_checkpointing(policy, block_name)
    policy = models.shard(policy, world, settings["cpu_offload"], block_name)
    if sharded:
        models.load_weights(policy, model["name_or_path"], world, archive, model["trust_remote_code"])
    if settings["lora"]["rank"]:
        models.reset_adapters(policy, settings["seed"])
    optimizer = build_optimizer(
        settings, policy
    )  # before any forward: FSDP2 leaves the root's parameters gathered after one
    plan = loop_settings(settings, policy.attention, len(trees["train"]), loss_keys)
    longest = max((t for split in (*trees.values(), *mismatched.values()) for t in split), key=path_tokens)
    models.check_lengths(policy, path_tokens(longest))
    mark = models.fingerprint(policy) if needs.reference else ""
    probe = models.parity_probe(
        policy, [*trees["train"][:2], longest], tokenizer.pad_token_id, settings["share_prefixes"]
    )
    log.info("parity probe: packed and one-by-one log-probs agree to %.1e nats", probe)
    marks = {s: data_mark([*trees[s], *mismatched.get(s, ())]) for s in trees}
    if settings["compile"]:
        models.compile_blocks(policy)
    if needs.reference:
        for held in (trees, mismatched):
            for split in held:
                held[split] = reference.reference_logps(
                    policy,
                    held[split],
                    mark,
                    tokenizer.pad_token_id,
                    settings["max_tokens"],
                    plan.row_tokens,
                    world,
                    settings["share_prefixes"],
                    used_examples(trees[split], settings) if split == "train" else None,
                )

    state = (
        None
        if settings["resume"] == "never" or settings["debug"]
        else checkpoint.load_latest(run, policy, optimizer, world)
    )
    if world.is_main and state is None and not settings["debug"]:
        write_json(run / "data_audit.json", audit)
        with atomic_path(run / "config.yaml") as temporary:
            OmegaConf.save(config, temporary, resolve=True)
            temporary.chmod(0o644)
    if state and state["reference"] != mark:
        raise UserError(
            f"{run}: the starting weights ({model['archive'] or model['name_or_path']}) changed since this run began, and "
            "they are its reference; restore them or choose another exp_name"
        )
    if changed := [split for split in marks if state and state["data"][split] != marks[split]]:
        raise UserError(
            f"{run}: the examples of split {changed[0]} changed since this run began (datasets={settings['datasets']}, or its "
            "tokenizer); restore the data or choose another exp_name"
        )
    if (
        state
        and not state["pending"]
        and (state["examples"] >= plan.num_examples or trainers.out_of_patience(state, plan))
    ):
        log.info(
            "run %s is finished (%d examples); set n_epochs higher to go on or exp_name to start another",
            run,
            state["examples"],
        )
        return
    loss_fn = functools.partial(losses.LOSSES[loss_name], **loss_keys)
    if needs.reference and state is None:
        loss_fn = with_step0_check(loss_fn)
    publish = open_logs(settings, run, state["lines"] if state else 0, world.is_main, stack)
    packs = {s: trainers.Data(trees[s], mismatched.get(s)) for s in trees}
    final = trainers.train(
        policy,
        optimizer,
        tokenizer,
        packs["train"],
        packs["eval"],
        loss_fn,
        plan,
        world,
        run,
        state or trainers.new_state(mark, marks),
        publish,
        open_samples(settings, run, state, policy, tokenizer, trees["eval"], world, stack),
    )
    log.info(
        "finished %d examples; best %s %.4f; checkpoint: %s",
        final["examples"],
        settings["eval_metric"],
        final["best"] or float("nan"),
        run / "best",
    )


def loop_settings(settings: dict[str, Any], attention: str, num_available: int, loss_keys: dict[str, Any]):
    """The loop's settings as plain values."""
    import trainers

    row_tokens = settings["row_tokens"] or (256 if attention == "sdpa" else settings["max_tokens"])
    return trainers.Settings(
        **{
            k: settings[k]
            for k in (
                "seed",
                "batch_size",
                "eval_batch_size",
                "max_tokens",
                "shuffle",
                "warmup_steps",
                "lr",
                "max_grad_norm",
                "eval_every",
                "do_first_eval",
                "eval_metric",
                "patience",
                "log_every_seconds",
                "save_every",
                "keep_last",
            )
        },
        num_examples=total_examples(settings, num_available),
        row_tokens=row_tokens,
        share=settings["share_prefixes"],
        width_multiple=128 * max(1, row_tokens // 1024) if attention == "flex_attention" else 1,
        beta=loss_keys.get("beta", 1.0),
        save=not settings["debug"],
        save_in_background=settings["async_save"],
    )


def plan_run(
    settings: dict[str, Any], trees: list, mismatched: list | None, named: str, loss_keys: dict[str, Any]
) -> str:
    """plan=true: what the run would take, from the model's config and the data's lengths."""
    import torch

    import models
    import report
    import trainers

    model, world_size = settings["model"], settings["world_size"] or settings["nproc"] or 1
    if world_size % settings["replicate"]:
        raise UserError(
            f"config key replicate={settings['replicate']}: does not divide world_size={world_size}; set replicate=1"
        )
    attention = (
        "sdpa" if settings["attention"] == "flex_attention" else settings["attention"]
    )  # no flex_attention on a CPU
    policy = models.load_policy(
        named,
        model["policy_dtype"],
        attention,
        torch.device("cpu"),
        None,
        model["trust_remote_code"],
        model["compute_dtype"],
        empty=True,
    )
    if settings["lora"]["rank"]:
        models.add_adapters(policy, **settings["lora"])
    if settings["activation_checkpointing"]:
        models.gradient_checkpointing(policy, model["block_name"])
    layer = torch.nn.Linear(32, 32, bias=False)
    optimizer = build_optimizer(settings, layer)
    layer(torch.ones(1, 32)).sum().backward()
    optimizer.step()
    moments = (
        sum(t.numel() for t in optimizer.state[layer.weight].values() if torch.is_tensor(t) and t.dim())
        / layer.weight.numel()
    )
    total = sum(p.numel() for p in policy.parameters())
    plan = loop_settings(settings, settings["attention"], len(trees), loss_keys)
    found = trainers.forecast(
        policy,
        trainers.Data(trees, mismatched),
        plan,
        settings["attention"],
        world_size,
        settings["replicate"],
        moments,
        settings["activation_checkpointing"],
        settings["cpu_offload"],
        model["block_name"],
    )
    state = (
        "set replicate=1"
        if settings["replicate"] > 1
        else "raise world_size, train adapters (lora.rank=16)"
        + ("" if settings["cpu_offload"] else " or set cpu_offload=true")
    )
    work = (
        f"lower max_tokens={settings['max_tokens']}"
        if settings["activation_checkpointing"]
        else "set activation_checkpointing=true"
    )
    remedies = {
        "parameters": state,
        "optimizer": state,
        "gradients": state,
        "activations": work,
        "log-probs": f"lower max_tokens={settings['max_tokens']}",
        "gathered blocks": "train adapters (lora.rank=16)",
    }
    return f"{type(policy.model).__name__}, {total / 1e9:.3g}e9 parameters\n" + report.plan_text(
        found, world_size, settings["gpu_memory_gb"], settings["gpu_tflops"], UTILISATION, remedies
    )


def check_config(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain values. Raises UserError for unknown keys (`+key=` included) and impossible values."""
    settings = OmegaConf.to_container(config, resolve=True)
    known = OmegaConf.to_container(OmegaConf.load(CONFIG / "config.yaml"))
    model_keys = set(OmegaConf.load(CONFIG / "model" / "smollm2.yaml"))
    sections = all(isinstance(settings[k], dict) for k in ("wandb", "loss", "model", "lora"))
    if not sections or not isinstance(settings["loss"].get("name"), str):
        raise UserError(
            "config: wandb must be a section (wandb.enabled=false), and so must loss, model and lora, and loss.name a name; "
            "the keys stand in config/config.yaml"
        )
    for prefix, found, allowed in (
        ("", settings, {*known, "loss", "model"}),
        ("wandb.", settings["wandb"], known["wandb"]),
        ("lora.", settings["lora"], known["lora"]),
        ("model.", settings["model"], model_keys),
    ):
        if unknown := sorted(set(found) - set(allowed), key=str):
            raise UserError(f"config key {prefix}{unknown[0]}: unknown; the keys stand in config/config.yaml")
    for key, (kind, least, nullable) in RANGES.items():
        value = flatten(settings).get(key)
        right = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        if not (value is None and nullable) and not (
            right and value >= least and value < 2**63 and value <= MOST.get(key, value)
        ):
            limit = f"{least} to {MOST[key]}" if key in MOST else f"{least} or more"
            raise UserError(
                f"config key {key}={value}: must be a {'whole ' if kind is int else ''}number, {limit}"
                + (", or null" if nullable else "")
            )
    flat = flatten(settings)
    for kind, (nullable, keys) in KINDS.items():
        for key in keys:
            value = flat.get(key)
            if not isinstance(value, kind) or value == "" or "\0" in str(value):
                wanted = "true or false" if kind in (bool, bool | None) else "a name or a path"
                raise UserError(
                    f"config key {key}={value}: must be {wanted}" + (", or null" if nullable else "")
                )
    for key in ("datasets", "eval_datasets"):
        names = (
            [n for n in settings[key] if isinstance(n, str) and n and "\0" not in n]
            if isinstance(settings[key], list)
            else []
        )
        if not (names and names == settings[key] or key == "eval_datasets" and settings[key] is None):
            raise UserError(f"config key {key}={settings[key]}: must be a list, {key}=[name,...]")
    labels = settings["belief_classes"]
    if (
        not isinstance(labels, list)
        or not labels
        or not all(isinstance(c, str) and c for c in labels)
        or len(set(labels)) < len(labels)
    ):
        raise UserError(
            f"config key belief_classes={labels}: must be a list of different labels, belief_classes=['0','1',...]"
        )
    for key, allowed in (
        ("shuffle", ("examples", "prompts")),
        ("truncation", (None, "keep_start", "keep_end")),
        ("resume", ("auto", "never", "must")),
    ):
        if settings[key] not in allowed:
            raise UserError(
                f"config key {key}={settings[key]}: choose one of {', '.join(str(a or 'null') for a in allowed)}"
            )
    for key in ("policy_dtype", "compute_dtype"):
        if settings["model"][key] not in ("float32", "bfloat16"):
            raise UserError(f"config key model.{key}={settings['model'][key]}: choose float32 or bfloat16")
    if settings["n_epochs"] is None and settings["n_examples"] is None:
        raise UserError("config keys n_epochs and n_examples: both are null; set one of them")
    for key, value in flat.items():  # it would stand in config.yaml and in the tracker
        if name := next(
            (n for n, secret in os.environ.items() if is_secret(n, secret) and secret in str(value)), None
        ):
            raise UserError(
                f"config key {key}: holds the value of ${name}; leave secrets in the environment, where they are found"
            )
    if not isinstance(settings["exp_name"], str) or not re.fullmatch(
        r"[^/\n\0]*[^/\n\0.][^/\n\0]*", settings["exp_name"]
    ):
        raise UserError(
            f"config key exp_name={settings['exp_name']}: must be a plain folder name; the folder above it is output_dir"
        )
    return settings


def is_secret(name: str, value: str) -> bool:
    """Is this environment variable a secret? Short values and paths are none."""
    return (
        bool(re.search("KEY|TOKEN|SECRET|PASSWORD", name.upper()))
        and len(value) > 7
        and not value.startswith("/")
    )


def path_tokens(tree) -> int:
    """Tokens of an example's longest path from the prompt's first to a response's last token."""
    return len(tree.prompt) + len(tree.belief) + max(map(len, tree.answers))


def pick(examples: list, count: int | None, seed: int) -> list:
    """`count` examples (None: all) drawn by the seed, in their old order: the first ones would be of a few topics."""
    import numpy as np

    if count is None or count >= len(examples):
        return examples
    return [examples[i] for i in sorted(np.random.default_rng(seed).permutation(len(examples))[:count])]


def read_data(settings: dict[str, Any], needs, counts: dict[str, dict[str, Counter]]) -> dict[str, tuple]:
    """Groups and examples of the train and eval splits, checked against what the loss needs; `counts` gets {split: {data set: drops}}."""
    import preference_datasets as data

    splits, donors = {}, []
    for split, names in (
        ("train", settings["datasets"]),
        ("eval", settings["eval_datasets"] or settings["datasets"]),
    ):
        groups, examples = [], []
        for name in dict.fromkeys(names):
            dropped = counts[split].setdefault(name, Counter())
            part = "all" if settings["eval_datasets"] and Path(name).is_file() else split
            found = data.load_groups(
                name,
                part,
                settings["seed"],
                settings["belief_classes"],
                settings["pairs_per_prompt"],
                settings["eval_fraction"],
                dropped,
            )
            if needs.beliefs and (bad := next((g for g in found if not g.belief_probs), None)):
                raise UserError(
                    f"{bad.where}: field belief_probs: missing, "
                    f"and loss.name={settings['loss']['name']} needs it; add the group's distribution or choose loss=dpo"
                )
            viewed = data.view(found, settings["responses"], settings["seed"], dropped)
            examples += [e._replace(group=e.group + len(groups)) for e in viewed]
            groups += found
        if not groups:
            raise UserError(f"datasets={list(names)}: split {split} is empty; add data or set eval_datasets")
        check_examples(groups, examples, settings, needs, split)
        donors = donors or groups
        groups = data.with_shots(groups, donors, settings["icf_shots"], settings["seed"])
        splits[split] = (
            groups,
            pick(examples, settings["n_eval_examples"], settings["seed"]) if split == "eval" else examples,
        )
    return splits


def check_examples(groups: list, examples: list, settings: dict[str, Any], needs, split: str) -> None:
    """Raises UserError where a view's examples do not have the columns or the rewards that the loss reads."""
    name, view = settings["loss"]["name"], settings["responses"]
    if not examples:
        raise UserError(
            f"datasets={settings['datasets']}: split {split} has no example left (all rewards are equal); add data"
        )
    if needs.beliefs and not view.startswith("conditioned"):
        raise UserError(f"responses={view}: gdpo's answers stand under one belief; set responses=conditioned")
    columns = {e.columns for e in examples}
    fits = {
        "any": lambda c: True,
        "side": lambda c: len(c) == 2,
        "pair": lambda c: len(c) == 2 and None not in c,
        "several": lambda c: len(c) > 1 and None not in c,
    }[needs.columns]
    if not all(map(fits, columns)):
        what, remedy = {
            "pair": ("two responses", "pairs"),
            "side": ("responses to like with others to avoid", "binary"),
            "several": ("several responses", "ranked"),
        }[needs.columns]
        if needs.beliefs:
            remedy = "conditioned" if needs.columns == "pair" else "conditioned.all"
        raise UserError(f"responses={view}: loss.name={name} compares {what}; set responses={remedy}")
    if bad := next((groups[e.group] for e in examples if needs.rewards and not e.rewards), None):
        remedy = (
            "set responses=conditioned.all"
            if needs.beliefs
            else "set responses=ranked, with a reward on each, or choose loss=dpo"
        )
        raise UserError(
            f"{bad.where}: field responses: loss.name={name} needs rewards, and responses={view} carries none; {remedy}"
        )


def limits_of(settings: dict[str, Any]):
    import preference_datasets as data

    return data.limits_with_shots(
        settings["max_length"], settings["max_prompt_length"], settings["truncation"], settings["icf_shots"]
    )


def tokenize(
    settings: dict[str, Any], splits: dict[str, tuple], tokenizer, counts: dict[str, dict[str, Counter]]
) -> dict[str, list]:
    """Token trees of every split; what was cut or left out is added to the counts of its data set."""
    import preference_datasets as data

    limits, trees = limits_of(settings), {}
    for split, (groups, examples) in splits.items():
        trees[split] = []
        for name in counts[split]:
            members = [e for e in examples if groups[e.group].dataset == name]
            trees[split] += data.tokenize(
                groups, members, tokenizer, limits, settings["belief_classes"], counts[split][name]
            )
    return trees


def pack_tokens(splits: list[list], settings: dict[str, Any], device: str) -> int:
    """Tokens of one forward pass. Small passes keep a CPU's caches and memory; a GPU wants large ones.

    Raises UserError where max_tokens is given and one example alone is larger.
    """
    import forest

    largest = max(
        forest.tree_tokens([tree], settings["share_prefixes"]) for trees in splits for tree in trees
    )
    if settings["max_tokens"] is None:
        return max(largest, 8192 if device == "cuda" else 1024)
    if largest > settings["max_tokens"]:
        raise UserError(
            f"config key max_tokens={settings['max_tokens']}: the largest example has {largest} tokens; raise max_tokens or "
            "lower max_length"
        )
    return settings["max_tokens"]


def open_run(settings: dict[str, Any], stack: contextlib.ExitStack) -> Path:
    """Make or reopen the run folder, and lock it. Raises UserError where it belongs to another config or to a run at work."""
    import checkpoint

    run = Path(settings["output_dir"]) / settings["exp_name"]
    if settings["debug"]:
        return run
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not stack.enter_context(locked(run)):
            raise UserError(
                f"run folder {run}: another run is writing it; wait for its end or choose another exp_name"
            )
        checkpoint.tidy(run)
        setup_logging(run)
        stack.callback(setup_logging)
    except (OSError, UnicodeEncodeError) as error:
        raise UserError(
            f"run folder {run}: cannot be written ({getattr(error, 'strerror', error)}); set output_dir"
        ) from error
    if not checkpoint.steps(run):
        if settings["resume"] == "must":
            raise UserError(f"resume=must: {run} holds no checkpoint; set resume=auto to start the run")
        return run
    if settings["resume"] == "never":
        raise UserError(
            f"resume=never: {run} already holds a run; choose another exp_name or remove the folder"
        )
    try:
        saved = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
        old, new = (flatten(c) for c in (saved, settings))
    except Exception as error:  # no file, or one that yaml or omegaconf refuse in their own ways
        raise UserError(
            f"{run / 'config.yaml'}: cannot be read ({(str(error).splitlines() or ['damaged'])[0]}), so these checkpoints may "
            "be of another config; restore the file or choose another exp_name"
        ) from error
    differing = sorted(
        k
        for k in old.keys() | new.keys()
        if old.get(k) != new.get(k) and k.split(".")[0] not in FREE_TO_CHANGE
    )
    if differing:
        changes = ", ".join(f"{k} ({old.get(k)} -> {new.get(k)})" for k in differing)
        raise UserError(
            f"{run} holds a run with another config: {changes}; choose another exp_name or restore the keys"
        )
    return run


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"loss": {"beta": 1}} as {"loss.beta": 1}."""
    parts = [
        flatten(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v} for k, v in config.items()
    ]
    return {k: v for part in parts for k, v in part.items()}


def total_examples(settings: dict[str, Any], num_available: int) -> int:
    return (
        settings["n_examples"] if settings["n_examples"] is not None else settings["n_epochs"] * num_available
    )


def data_mark(trees: list) -> str:
    """A hash of the examples as the loss will see them, without what is computed from them (their reference)."""
    digest = hashlib.blake2b(digest_size=16)
    for tree in trees:
        digest.update(repr(tuple(tree._replace(reference=()))).encode())
    return digest.hexdigest()


def used_examples(trees: list, settings: dict[str, Any]) -> list[int] | None:
    """The examples that the run will see; None: all. A short run on large data needs no reference of the rest."""
    import forest

    steps = -(-total_examples(settings, len(trees)) // settings["batch_size"])
    if steps * settings["batch_size"] >= len(trees):
        return None
    return forest.step_examples(
        [t.group for t in trees], steps * settings["batch_size"], settings["seed"], 0, settings["shuffle"]
    )


def build_optimizer(settings: dict[str, Any], policy):
    """`optimizer` names a class of torch.optim (RMSprop in the papers, AdamW by default here)."""
    import torch

    kind = getattr(torch.optim, str(settings["optimizer"]), None)
    if settings["optimizer"] in ("LBFGS", "Optimizer", "Muon", "SparseAdam") or not isinstance(kind, type):
        raise UserError(
            f"config key optimizer={settings['optimizer']}: no such class in torch.optim; use AdamW or RMSprop"
        )
    extra = {"weight_decay": 0.0, "fused": True} if settings["optimizer"] == "AdamW" else {}
    return kind([p for p in policy.parameters() if p.requires_grad], lr=settings["lr"], **extra)


def with_step0_check(loss_fn):
    """Check the first pack of a new run: policy and reference are then one model, so every log-ratio is 0 up to rounding and
    the loss has its closed form (log 2 for DPO, log K for InfoNCA, ...). Raises UserError on a mismatch.
    """
    import losses

    pending = [True]

    def checked(scores):
        values = loss_fn(scores)
        if pending[0] and len(values):
            pending[0] = False
            error = (
                ((scores.policy.detach() - scores.reference).abs() - 0.02 * scores.reference.abs())
                .max()
                .item()
            )
            log.info(
                "step-0 check: loss is %.4f, in closed form %.4f",
                values.detach().mean().item(),
                losses.at_reference(loss_fn, scores).mean().item(),
            )
            if error > 0.5:
                raise UserError(
                    f"step 0: a log-ratio of policy and reference is off by {error:.2f} nats or more, so the cached "
                    "reference is not this model's; remove the folder reference/ of the cache and start again"
                )
        return values

    return checked


def open_logs(settings: dict[str, Any], run: Path, lines: int, is_main: bool, stack: contextlib.ExitStack):
    """A function that takes one line of metrics: to metrics.jsonl, and to wandb where a login (or offline mode) exists."""
    import trainers

    if not is_main or settings["debug"]:
        return lambda values: None
    file = stack.enter_context(contextlib.closing(trainers.MetricsFile(run / "metrics.jsonl", lines)))
    trackers = (
        [tracker]
        if settings["wandb"]["enabled"] and (tracker := quietly("start", lambda: start_wandb(settings, run)))
        else []
    )

    def publish(values: dict[str, Any]) -> None:
        file.write(values)
        for tracker in trackers:
            if quietly("log", lambda: tracker.log(values, step=values["counters/updates"]) or True) is None:  # noqa: B023
                trackers.clear()
        if "loss/eval" in values:
            log.info(
                "eval at %d examples: %s",
                values["counters/examples"],
                ", ".join(f"{k} {values[k]:.4f}" for k in SHOWN if k in values),
            )

    return publish


def start_wandb(settings: dict[str, Any], run: Path):
    """A wandb run, or None without a login. A run that resumes goes on in its own one, where steps made again are not repeated."""
    import wandb

    if os.environ.get("WANDB_MODE") == "offline" or wandb.login(prompt=False):
        place = run / "wandb_id.txt"
        if not place.exists():
            with atomic_path(place) as temporary:
                temporary.write_text(secrets.token_hex(8))
        return wandb.init(
            project=settings["wandb"]["project"],
            entity=settings["wandb"]["entity"],
            id=place.read_text(),
            resume="allow",
            name=settings["exp_name"],
            config=settings,
            dir=run,
        )
    log.info("wandb is off: no login found (run `wandb login`, or set WANDB_MODE=offline)")
    return None


def quietly(what: str, action):
    """What `action` returns; None, with a warning, where wandb fails at it: training does not depend on a tracker."""
    try:
        return action()
    except Exception as error:  # wandb raises many kinds, of the network and of its own
        log.warning(
            "wandb is off from here on: it failed to %s (%s)",
            what,
            (str(error).splitlines() or [type(error).__name__])[0],
        )
        return None


def open_samples(
    settings: dict[str, Any],
    run: Path,
    state: dict[str, Any] | None,
    policy,
    tokenizer,
    trees: list,
    world,
    stack: contextlib.ExitStack,
):
    """A function that samples responses to `n_eval_model_samples` eval prompts, for train.log and samples.jsonl; all ranks call it.

    Every rank samples the same batch, so that the responses are the same on any number of them.
    """
    import models
    import trainers

    if not settings["sample_during_eval"]:
        return lambda step: None
    prompts = pick(
        list(dict.fromkeys(t.prompt for t in trees)), settings["n_eval_model_samples"], settings["seed"]
    )
    written = world.is_main and not settings["debug"]
    file, path = None, run / "samples.jsonl"
    if written:
        told = path.read_text(encoding="utf-8").splitlines() if state and path.exists() else []
        kept = sum(
            json.loads(line)["counters/updates"] <= state["step"] for line in told if line.endswith("}")
        )
        file = stack.enter_context(contextlib.closing(trainers.MetricsFile(path, kept)))

    def show(step: int) -> None:
        found = models.generate(
            policy,
            prompts,
            SAMPLE_TOKENS,
            tokenizer.pad_token_id,
            tokenizer.eos_token_id,
            settings["seed"] + step,
        )
        for prompt, ids in zip(prompts, found):
            texts = {
                "prompt": tokenizer.decode(prompt),
                "response": tokenizer.decode(ids, skip_special_tokens=True),
            }
            log.info("sample at step %d: %s", step, json.dumps(texts, ensure_ascii=False))
            if file:
                file.write({"counters/updates": step, **texts})

    return show


if __name__ == "__main__":
    run_entry(hydra.main(version_base=None, config_path="config", config_name="config")(guarded(main)))
