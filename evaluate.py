"""Evaluate checkpoints on group preferences: `python evaluate.py ckpt=outputs/gdpo`, or `ckpt=[base,sft,gdpo]` side by side.

Entry point. Data with belief_probs: probabilities of the beliefs at the prompt's end, sampled responses, the papers' metrics
(JSD, CBC, BPC, RS, majority share). Data with rewards instead: how the implied rewards of the given responses order them
(pair and set accuracy, Kendall's tau, mass on Y-, KL to the reference). Then report.json, predictions.jsonl, a plot and an
HTML page. Data set and settings come from the run's saved config unless they are given.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from omegaconf import DictConfig, OmegaConf

from ranks import World, init_distributed, run_on_ranks, spread
from utils import UserError, atomic_path, guarded, keep_freed_memory, log, run_entry, setup_logging

FROM_RUN = {
    "datasets": ["opinions/republican"],
    "belief_classes": ["0", "1", "2", "3", "4", "5"],
    "max_length": 512,
    "max_prompt_length": 256,
    "truncation": None,
    "seed": 0,
    "eval_fraction": 0.05,
}


class Checkpoint(NamedTuple):
    """A checkpoint to evaluate: its name in the report, where its weights are, the model and tokenizer they belong to."""

    name: str
    source: str
    model: dict[str, Any]
    run: Path | None
    beta: float  # of the implied rewards


def main(config: DictConfig) -> None:
    settings = OmegaConf.to_container(config, resolve=True)
    setup_logging()
    checkpoints = find_checkpoints(settings)
    settings = fill_settings(settings, checkpoints)
    groups = read_prompts(settings)
    output = Path(settings["output"]) if settings["output"] else default_output(checkpoints)
    run_on_ranks(settings["nproc"])
    world = init_distributed()
    setup_logging(is_main=world.is_main)
    keep_freed_memory()
    if groups[0].belief_probs:
        evaluate_beliefs(checkpoints, groups, settings, output, world)
    else:
        evaluate_order(checkpoints, groups, settings, output, world)


def evaluate_beliefs(
    checkpoints: list[Checkpoint], groups: list, settings: dict[str, Any], output: Path, world: World
) -> None:
    """The GDPO paper's metrics of every checkpoint, side by side. Ranks share the model's work; the main one judges and writes."""
    import judges

    judge = judges.EmbeddingJudge(settings["embedder"]) if world.is_main else None
    results, predictions, shown, faults = {}, [], {}, {}
    for checkpoint in checkpoints:
        log.info(
            "evaluating %s on %d prompts, %d samples each",
            checkpoint.name,
            len(groups),
            settings["n_samples"],
        )
        q, texts = answers(checkpoint, groups, settings, world)
        if judge is None:
            continue
        metrics, rows, probabilities, faults[checkpoint.name] = judged(
            checkpoint, groups, settings, judge, q, texts
        )
        results[checkpoint.name] = metrics
        shown[checkpoint.name] = probabilities
        predictions += rows
    if judge is not None:
        finish(
            output,
            results,
            predictions,
            shown,
            groups,
            {**settings, "unjudged": faults},
            checkpoints,
            judge.name,
        )


ORDER_METRICS = {  # the training log's names, and the report's
    "rewards_{}/accuracies": "pair_accuracy",
    "rewards_{}/set_accuracies": "set_accuracy",
    "rewards_{}/kendall_tau": "kendall_tau",
    "rewards_{}/negative_mass": "negative_mass",
    "rewards_{}/margins": "margin",
    "kl_reference_{}": "kl_reference",
    "logps_{}/chosen": "logp_best",
    "logps_{}/rejected": "logp_others",
}


def evaluate_order(
    checkpoints: list[Checkpoint], groups: list, settings: dict[str, Any], output: Path, world: World
) -> None:
    """How every checkpoint's implied rewards order the given responses of each prompt, against the rewards they carry.

    The reference of a run is what it started from; a checkpoint that belongs to no run has none, and gets log-probs alone.
    """
    import torch

    import metrics
    import models
    import preference_datasets as data
    import report

    results, rows, references = {}, [], {}
    for checkpoint in checkpoints:
        log.info("evaluating %s on %d prompts", checkpoint.name, len(groups))
        policy, tokenizer = load(checkpoint, world, settings["shard"])
        trees = data.tokenize(
            groups, data.view(groups, "ranked"), tokenizer, limits_of(settings), settings["belief_classes"]
        )
        starting = checkpoint.run and starting_weights(checkpoint)
        if starting:
            if starting.source not in references:  # runs that are compared often started from one model
                references[starting.source] = answer_logps(
                    load(starting, world, settings["shard"])[0], trees, tokenizer.pad_token_id, world
                )
            trees = [t._replace(reference=tuple(v)) for t, v in zip(trees, references[starting.source])]
        columns: dict[str, list[float]] = {name: [] for name in ORDER_METRICS.values()}
        for members, scores in scored(policy, trees, tokenizer.pad_token_id, checkpoint.name, world):
            no_beliefs = torch.full((len(members),), -1)
            found = metrics.example_metrics(scores, torch.zeros(len(members)), no_beliefs, checkpoint.beta)
            for log_name, name in ORDER_METRICS.items():
                values, mask = found[log_name]
                columns[name] += values[mask].tolist()
            rows += [
                {
                    "checkpoint": checkpoint.name,
                    "id": groups[trees[i].group].id,
                    "rewards": trees[i].rewards,
                    "logps": logps[: len(trees[i].answers)],
                    "reference_logps": trees[i].reference,
                }
                for i, logps in zip(members, scores.policy.tolist())
            ]
        results[checkpoint.name] = {
            name: metrics.summarize(values) for name, values in columns.items() if values
        }
    if not world.is_main:
        return
    write_predictions(output, rows)
    facts = {k: settings[k] for k in ("datasets", "split", "seed", "few_shot")} | {
        "n_samples": 0,
        "prompts": len(groups),
        "beta": {c.name: c.beta for c in checkpoints},
        "sources": {c.name: c.source for c in checkpoints},
        **models.versions(),
    }
    page = report.write_report(output, results, facts, [])
    print("\n" + report.markdown_table(results, 0) + "\n")
    print(
        f"{len(groups)} prompts of {', '.join(settings['datasets'])} ({settings['split']}); means with 95% intervals."
    )
    print(f"report: {os.path.relpath(page)}")


def limits_of(settings: dict[str, Any]):
    import preference_datasets as data

    return data.limits_with_shots(
        settings["max_length"], settings["max_prompt_length"], settings["truncation"], settings["few_shot"]
    )


def scored(policy, trees: list, pad_id: int, name: str, world: World) -> list[tuple[list[int], Any]]:
    """(example numbers, Scores) of every pack of trees, with a progress bar."""
    import torch
    from tqdm import tqdm

    import forest
    import models

    def work(rows):
        members = [i for row in rows for i in row]
        scores = models.score(policy, forest.pack(trees, rows, pad_id).to(models.device_of(policy)))
        bar.update(len(members) * world.size)
        return members, type(scores)(*(v.cpu() if torch.is_tensor(v) else v for v in scores))

    with (
        torch.no_grad(),
        tqdm(total=len(trees), desc=f"scoring {name}", unit="prompt", disable=not world.is_main) as bar,
    ):
        largest = max(2048, *(forest.tree_tokens([tree]) for tree in trees))
        return spread(forest.plan_step(trees, range(len(trees)), largest, largest, 1), work, world)


def answer_logps(policy, trees: list, pad_id: int, world: World) -> list[list[float]]:
    """Summed log-probs (nats) of every tree's answers."""
    found: list[list[float]] = [[] for _ in trees]
    for members, scores in scored(policy, trees, pad_id, "reference", world):
        for i, row in zip(members, scores.policy.tolist()):
            found[i] = row[: len(trees[i].answers)]
    return found


def load(checkpoint: Checkpoint, world: World, shard: bool):
    """(policy, tokenizer) of a checkpoint, whole on every rank, or sharded over the ranks."""
    import models

    model, is_file = checkpoint.model, Path(checkpoint.source).is_file()
    named = model["name_or_path"] if is_file else checkpoint.source
    tokenizer = models.load_tokenizer(model["tokenizer_name_or_path"] or named, model["trust_remote_code"])
    empty, archive = shard and world.mesh is not None, checkpoint.source if is_file else None
    attention = (
        "sdpa" if world.device.type == "cuda" else "auto"
    )  # flex_attention is for training: generation has no forest
    policy = models.load_policy(
        named,
        model["policy_dtype"],
        attention,
        world.device,
        archive,
        model["trust_remote_code"],
        model["compute_dtype"],
        empty=empty,
    )
    if empty:
        models.load_weights(models.shard(policy, world), named, world, archive, model["trust_remote_code"])
    return policy, tokenizer


def starting_weights(checkpoint: Checkpoint) -> Checkpoint:
    """What a run started from: its reference."""
    from checkpoint import find_model

    model = checkpoint.model
    return checkpoint._replace(name="reference", source=find_model(model["archive"] or model["name_or_path"]))


def find_checkpoints(settings: dict[str, Any]) -> list[Checkpoint]:
    """Resolve `ckpt` (one or a list). Raises UserError for one that cannot be found, before any model is loaded."""
    given = settings["ckpt"] if isinstance(settings["ckpt"], list) else [settings["ckpt"]]
    if not given or not all(isinstance(ckpt, str) and ckpt for ckpt in given):
        raise UserError(
            "ckpt: missing; give ckpt=<run folder, step folder, HF folder, policy.pt, hub name> or a list of them"
        )
    known, found = OmegaConf.load(Path(__file__).parent / "config" / "model" / "smollm2.yaml"), []
    from checkpoint import (
        find_model,
        find_run,
    )  # takes torch's import time, which the checks above need not wait for

    for ckpt in given:
        source, run = find_model(ckpt), find_run(ckpt)
        config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml")) if run else {}
        saved = config["model"] if run else {**OmegaConf.to_container(known), "name_or_path": source}
        if Path(source).is_file():
            if not settings["base_model"]:
                raise UserError(
                    f"ckpt={ckpt}: a file of weights needs the model that it belongs to; "
                    "set base_model=<HF folder or hub name>"
                )
            saved["name_or_path"] = settings["base_model"]
        name = run.name if run else Path(ckpt.removeprefix("embedded:")).name
        names = [c.name for c in found]
        found.append(
            Checkpoint(
                name if name not in names else f"{name}-{len(names) + 1}",
                source,
                saved,
                run,
                config.get("loss", {}).get("beta", 0.1),
            )
        )
    return found


def fill_settings(settings: dict[str, Any], checkpoints: list[Checkpoint]) -> dict[str, Any]:
    """Settings that are null come from the last checkpoint that belongs to a run, else from the defaults."""
    run = next((c.run for c in reversed(checkpoints) if c.run), None)
    saved = OmegaConf.to_container(OmegaConf.load(run / "config.yaml")) if run else {}
    filled = {
        k: settings[k] if settings.get(k) is not None else saved.get(k, default)
        for k, default in FROM_RUN.items()
    }
    filled["few_shot"] = (
        settings["few_shot"] if settings["few_shot"] is not None else saved.get("icf_shots", 0)
    )
    unknown = sorted(set(settings) - set(OmegaConf.load(Path(__file__).parent / "config" / "evaluate.yaml")))
    if unknown:
        raise UserError(f"config key {unknown[0]}: unknown; the keys stand in config/evaluate.yaml")
    for key, least in (
        ("n_samples", 0),
        ("max_new_tokens", 1),
        ("batch_size", 1),
        ("n_prompts", 1),
        ("few_shot", 0),
    ):
        value = filled.get(key, settings[key])
        if not (type(value) is int and value >= least or key == "n_prompts" and value is None):
            raise UserError(f"config key {key}={settings[key]}: must be a whole number, {least} or more")
    if not isinstance(settings["temperature"], (int, float)) or settings["temperature"] < 0:
        raise UserError(
            f"config key temperature={settings['temperature']}: must be a number, 0 (greedy) or more"
        )
    return {**settings, **filled}


def read_prompts(settings: dict[str, Any]) -> list:
    """The groups to evaluate on, all with belief_probs or all with rewards, after `few_shot` solved train examples."""
    import preference_datasets as data

    def read(split: str) -> list:
        return [
            g
            for name in settings["datasets"]
            for g in data.load_groups(
                name,
                split,
                settings["seed"],
                settings["belief_classes"],
                eval_fraction=settings["eval_fraction"],
            )
        ]

    groups = read(settings["split"])
    if not groups:
        raise UserError(f"datasets={settings['datasets']}: split {settings['split']} is empty; set split=...")
    first = next((g for g in groups if g.belief_probs), None)
    if first is None:
        groups = [
            groups[i] for i in dict.fromkeys(e.group for e in data.view(groups, "ranked"))
        ]  # rewards differ
    elif missing := next((g for g in groups if not g.belief_probs), None):
        raise UserError(
            f"{missing.where}: field belief_probs: missing, and {first.where} has it; evaluate data sets of one kind"
        )
    groups = groups[: settings["n_prompts"]]
    return data.with_shots(
        groups, read("train") if settings["few_shot"] else (), settings["few_shot"], settings["seed"]
    )


def answers(
    checkpoint: Checkpoint, groups: list, settings: dict[str, Any], world: World
) -> tuple[Any, list[list[str]]]:
    """q (prompts, classes) of one checkpoint, and its sampled responses; on every rank."""
    import numpy as np

    import models
    import preference_datasets as data

    classes, limit = settings["belief_classes"], limits_of(settings).max_prompt_length
    policy, tokenizer = load(checkpoint, world, settings["shard"])
    class_ids = data.class_token_ids(tokenizer, classes)
    prompts = [
        data.cut_prompt(
            data.encode_prompt(tokenizer, g.prompt), limit, settings["truncation"] or g.truncation
        )
        for g in groups
    ]
    q = spread(
        [prompts[i : i + 16] for i in range(0, len(prompts), 16)],
        lambda some: (
            models.class_distributions(policy, some, class_ids, tokenizer.pad_token_id).double().numpy()
        ),
        world,
    )
    return np.concatenate(q), sample(policy, tokenizer, prompts, settings, checkpoint.name, world)


def judged(
    checkpoint: Checkpoint, groups: list, settings: dict[str, Any], judge, q, texts: list[list[str]]
) -> tuple[dict, list[dict], list, dict]:
    """Metrics of one checkpoint with intervals, its predictions, q over the classes for every prompt, and counts of what could
    not be judged."""
    import metrics

    classes = settings["belief_classes"]
    columns: dict[str, list[float]] = {
        name: []
        for name in (
            "js_distance_probability",
            "class_mass",
            "js_distance_sampling",
            "js_distance_floor",
            "majority_share",
            "cbc",
            "bpc",
            "rs",
        )
    }
    rows, unparsable, unknown_option = [], 0, 0
    for group, weights, sampled in zip(groups, q, texts):
        p, parsed = group.belief_probs, [metrics.parse_response(t, classes) for t in sampled]
        columns["js_distance_probability"].append(float(metrics.js_distance(p, weights)))
        columns["class_mass"].append(float(weights.sum()))
        class_of = {r.belief.text: r.belief.label for r in group.responses if r.belief.text}
        consistent = [metrics.class_belief_consistent(r, class_of) for r in parsed]
        references = {r.belief.label: r.text for r in group.responses}
        verdicts = judge.verdicts(
            [r.answer for r in parsed], [r.label for r in parsed], [references] * len(parsed)
        )
        unparsable += sum(r.label is None for r in parsed)
        unknown_option += sum(c is None for c in consistent)
        if parsed:
            shares = metrics.class_shares(parsed, classes, classes[0])
            columns["js_distance_sampling"].append(float(metrics.js_distance(p, shares)))
            columns["js_distance_floor"].append(metrics.js_distance_floor(p, len(parsed)))
            columns["majority_share"].append(metrics.majority_share(shares, p))
            if class_of:  # where a belief is a class token alone there is nothing to be consistent with
                columns["cbc"].append(sum(c is True for c in consistent) / len(parsed))
            columns["bpc"].append(sum(v.consistent is True for v in verdicts) / len(parsed))
            columns["rs"].append(sum(v.similarity for v in verdicts) / len(parsed))
        rows += [
            {
                "checkpoint": checkpoint.name,
                "id": group.id,
                "prompt": group.prompt,
                "response": text,
                "class": r.label,
                "belief": r.belief,
                "answer": r.answer,
                "class_belief_consistent": c,
                "belief_answer_consistent": v.consistent,
                "similarity": round(v.similarity, 4),
            }
            for text, r, c, v in zip(sampled, parsed, consistent, verdicts)
        ]
    faults = {"samples": len(rows), "without_class_label": unparsable, "without_known_option": unknown_option}
    log.info("%s: %s", checkpoint.name, json.dumps(faults))
    return (
        {k: metrics.summarize(v) for k, v in columns.items() if v},
        rows,
        list(q / q.sum(1, keepdims=True)),
        faults,
    )


def sample(
    policy, tokenizer, prompts: list, settings: dict[str, Any], name: str, world: World
) -> list[list[str]]:
    """n_samples responses a prompt at temperature 1, as text; prompts of similar length share a batch, each with its own seed."""
    from tqdm import tqdm

    import models

    jobs = sorted(((len(p), i, s) for i, p in enumerate(prompts) for s in range(settings["n_samples"])))
    texts: list[list[str]] = [[""] * settings["n_samples"] for _ in prompts]
    starts = range(0, len(jobs), settings["batch_size"])

    def work(first: int) -> list[list[int]]:
        batch = jobs[first : first + settings["batch_size"]]
        ids = models.generate(
            policy,
            [prompts[i] for _, i, _ in batch],
            settings["max_new_tokens"],
            tokenizer.pad_token_id,
            tokenizer.eos_token_id,
            seed=settings["seed"] * 1_000_003 + first,
            temperature=settings["temperature"],
        )
        bar.update(len(batch) * world.size)
        return ids

    with tqdm(total=len(jobs), desc=f"sampling {name}", unit="response", disable=not world.is_main) as bar:
        found = [ids for batch in spread(starts, work, world) for ids in batch]
    for (_, i, s), ids in zip(jobs, found):
        text = tokenizer.decode(ids, skip_special_tokens=True)
        texts[i][s] = text.split("\n\n")[0] if settings["few_shot"] else text  # a prompted model writes on
    return texts


def reference_rows(groups: list, classes: list[str]) -> dict[str, dict]:
    """What guessing gets: the uniform distribution over a prompt's own options, and all mass on the majority."""
    import numpy as np

    import metrics

    p = np.asarray([g.belief_probs for g in groups])
    offered = np.asarray(
        [[any(r.belief.label == c for r in g.responses) for c in classes] for g in groups], float
    )
    guesses = {"(uniform over options)": offered, "(majority only)": np.eye(p.shape[1])[p.argmax(1)]}
    return {
        name: {"js_distance_probability": metrics.summarize(metrics.js_distance(p, q))}
        for name, q in guesses.items()
    }


def default_output(checkpoints: list[Checkpoint]) -> Path:
    """report/ of the last checkpoint that belongs to a run, else outputs/report."""
    run = next((c.run for c in reversed(checkpoints) if c.run), None)
    return run / "report" if run else Path("outputs") / "report"


def finish(
    output: Path,
    results: dict,
    predictions: list[dict],
    probabilities: dict,
    groups: list,
    settings: dict[str, Any],
    checkpoints: list[Checkpoint],
    embedder: str,
) -> None:
    """Write everything and print the table and the report's path."""
    import models
    import report

    write_predictions(output, predictions)
    kept = ("datasets", "split", "n_samples", "temperature", "max_new_tokens", "seed", "few_shot", "unjudged")
    facts = {k: settings[k] for k in kept} | {
        "prompts": len(groups),
        "judge": f"nearest reference answer ({embedder})",
        "embedder": embedder,
        "js_distance": "Jensen-Shannon distance, natural log, at most 0.8326",
        "sources": {c.name: c.source for c in checkpoints},
        **models.versions(),
    }
    order = sorted(range(len(groups)), key=lambda i: max(groups[i].belief_probs))
    picks = [order[int(f * (len(order) - 1))] for f in (0.1, 0.4, 0.7, 0.95)] if len(order) > 4 else order
    shown = [
        report.Shown(
            groups[i].prompt if isinstance(groups[i].prompt, str) else groups[i].prompt[-1]["content"],
            [r.belief.text or r.belief.label for r in groups[i].responses],
            {
                "group": [
                    groups[i].belief_probs[settings["belief_classes"].index(r.belief.label)]
                    for r in groups[i].responses
                ],
                **{
                    n: [q[i][settings["belief_classes"].index(r.belief.label)] for r in groups[i].responses]
                    for n, q in probabilities.items()
                },
            },
        )
        for i in dict.fromkeys(picks)
    ]
    table = {**results, **reference_rows(groups, settings["belief_classes"])}
    page = report.write_report(output, table, facts, shown)
    print("\n" + report.markdown_table(table, settings["n_samples"]) + "\n")
    print(
        f"{len(groups)} prompts of {', '.join(settings['datasets'])} ({settings['split']}), {settings['n_samples']} samples each; "
        "means with 95% intervals."
    )
    print(f"report: {os.path.relpath(page)}")


def write_predictions(output: Path, rows: list[dict]) -> None:
    with atomic_path(output / "predictions.jsonl") as temporary:
        temporary.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
        temporary.chmod(0o644)


if __name__ == "__main__":
    run_entry(hydra.main(version_base=None, config_path="config", config_name="evaluate")(guarded(main)))
