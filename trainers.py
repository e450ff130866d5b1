"""The training loop, one step of it, validation, and the learning-rate schedule.

Contract: the batch of step i is a function of (seed, i); rank decides only who computes which pack; a step's loss is divided
once, by its number of examples over all packs and ranks. The loop never asks which loss it runs.
"""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import re
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from tqdm import tqdm

import checkpoint
import forest
import metrics
import models
from losses import Scores
from ranks import World
from utils import StopFlag, Stopped, UserError, log, write_json


class Settings(NamedTuple):
    """How to train, as plain values. Counts are in examples (an example is one row of the loss's table)."""

    seed: int
    batch_size: int  # examples of one optimizer step, over all packs and ranks
    eval_batch_size: int
    num_examples: int  # examples to train on; more than there are means several epochs
    max_tokens: int  # rows of tokens in one pack
    row_tokens: int  # rows of trees are filled up to this many tokens
    width_multiple: int  # rows are padded to a multiple of this: few widths, few compilations
    shuffle: str
    share: bool
    beta: float
    warmup_steps: int
    lr: float
    max_grad_norm: float
    eval_every: int
    do_first_eval: bool
    eval_metric: str
    patience: int | None
    log_every_seconds: float
    save_every: int | None  # examples between saves; None: at every validation
    keep_last: int
    save: bool
    save_in_background: bool | None  # write while training goes on; None: on GPUs


class Data(NamedTuple):
    """Trees of one split, and, for losses that ask for it, every tree's prompt with an answer to another one."""

    trees: list[forest.TokenTree]
    mismatched: list[forest.TokenTree] | None = None


LossFn = Callable[[Scores], torch.Tensor]


def train(
    policy: models.Scorer,
    optimizer: torch.optim.Optimizer,
    tokenizer,
    train_data: Data,
    eval_data: Data,
    loss_fn: LossFn,
    settings: Settings,
    world: World,
    run: Path,
    state: dict[str, Any],
    publish: Callable[[dict], None],
    show_samples: Callable[[int], None] = lambda step: None,
) -> dict[str, Any]:
    """Train until `num_examples` are seen, patience ends, or a signal comes; return the final state.

    `state` is what `checkpoint.load_latest` gave, or `new_state`. `publish` receives every line of metrics.jsonl; a line stands
    before every checkpoint, so that a run that dies has each of its steps in one line. Raises Stopped after saving a checkpoint,
    and UserError where a step's loss or gradient is not finite, with no checkpoint of such weights. `show_samples` is called
    on every rank with the step of each validation.
    """
    per_epoch = forest.steps_per_epoch(len(train_data.trees), settings.batch_size)
    last_step = num_steps(len(train_data.trees), settings)
    prompt_of = [tree.group for tree in train_data.trees]
    meter, watch, writer = (
        Meter(policy, world),
        Watch(world),
        checkpoint.Writer(world, settings.save_in_background),
    )
    stop = StopFlag()
    bar = tqdm(
        total=settings.num_examples,
        initial=state["examples"],
        unit="ex",
        desc="train",
        disable=not world.is_main,
        dynamic_ncols=True,
    )

    def write_line(values: dict[str, Any]) -> None:
        publish({"counters/examples": state["examples"], "counters/updates": state["step"], **values})
        state["lines"] += 1

    def save(best: bool = False) -> None:
        if settings.save:
            checkpoint.save(
                run, state["step"], policy, optimizer, tokenizer, state, writer, best, settings.keep_last
            )

    def evaluate() -> float:
        """Validate and log; give eval_metric. Where a signal comes, leave at once: the next run makes up for it."""
        values = validate(policy, eval_data, loss_fn, settings, world, stop)
        if values is None:
            if state["step"]:
                state["pending"] = True
                save()
                writer.wait()
            raise Stopped(int(agree(stop.signum or 0, 0, world)[0]))
        write_line(values)
        show_samples(state["step"])
        if settings.eval_metric not in values:
            raise UserError(
                f"config key eval_metric={settings.eval_metric}: validation does not write it; "
                f"it writes {', '.join(sorted(values))}"
            )
        return values[settings.eval_metric]

    def evaluate_and_save(ends: bool, due_save: bool) -> bool:
        """Validate, keep the best, save; True when patience has ended."""
        metric = evaluate()
        if not math.isfinite(metric):
            log.warning(
                "%s is %s after step %d: not counted as better", settings.eval_metric, metric, state["step"]
            )
        improved = math.isfinite(metric) and (state["best"] is None or metric < state["best"])
        state.update(pending=False, bad_evals=0 if improved else state["bad_evals"] + 1)
        if improved:
            state.update(best=metric, best_step=state["step"])
        ends = ends or out_of_patience(state, settings)
        if improved or ends or due_save or settings.save_every is None:
            save(improved)
        return ends

    try:
        if state["step"] == 0 and settings.do_first_eval:
            evaluate()
        if state["pending"] and evaluate_and_save(state["step"] >= last_step, True):
            writer.wait()
            return state
        for step in range(state["step"], last_step):
            examples = forest.step_examples(
                prompt_of, settings.batch_size, settings.seed, step, settings.shuffle
            )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings)
            kl = mismatched_log_ratio(policy, train_data, examples, settings, world)
            found = []
            for rows in planned(train_data.trees, examples, settings, world):
                batch = packed(train_data.trees, rows, settings, world, tokenizer.pad_token_id)
                scores = models.score(policy, batch)._replace(kl=kl)
                losses = loss_fn(scores)
                # FSDP2 averages gradients over ranks: undo that, and divide by the examples of the whole step
                (losses.sum() * world.size / len(examples)).backward()
                meter.add(
                    batch, metrics.example_metrics(scores, losses.detach(), batch.is_majority, settings.beta)
                )
                found.append(losses.detach())
            grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), settings.max_grad_norm)
            watch.note(step + 1, torch.cat(found).sum() / len(examples), grad_norm)
            if (
                world.device.type == "cpu"
            ):  # looking costs nothing here: weights and moments stay as they were
                check_finite(watch, train_data, prompt_of, settings, tokenizer, world, run)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            before = state["examples"]
            state.update(step=step + 1, examples=before + len(examples))
            bar.update(len(examples))

            due_eval, due_save = (
                every is not None and state["examples"] // every > before // every
                for every in (settings.eval_every, settings.save_every)
            )
            ends = step + 1 == last_step
            # ranks must take the same branch below, and each has its own clock and signals
            signum, seconds = agree(stop.signum or 0, meter.seconds, world)
            if due_eval or due_save or ends or signum or seconds >= settings.log_every_seconds:
                check_finite(watch, train_data, prompt_of, settings, tokenizer, world, run)
                values = meter.read("train")
                bar.set_postfix_str(
                    f"loss {values['loss/train']:.4f}, {values['tokens_per_second']:.0f} tok/s, {values['mfu']:.0%} mfu, "
                    f"{values['peak_memory_gb']:.1f} GB",
                    refresh=False,
                )
                write_line(
                    {
                        "counters/epoch": (step + 1) / per_epoch,
                        **values,
                        "grad_norm": float(grad_norm),
                        "lr": learning_rate(step, settings),
                    }
                )
            if due_eval or ends:
                if evaluate_and_save(ends, due_save) and not ends:
                    log.info(
                        "no better %s in %d evaluations: stopping early",
                        settings.eval_metric,
                        settings.patience,
                    )
                    break
                meter.restart()
            elif due_save or signum:
                save()
            if signum:
                writer.wait()
                raise Stopped(int(signum))
        writer.wait()
    finally:
        writer.close()
        bar.close()
        stop.restore()
    return state


def new_state(reference: str, data: dict[str, str]) -> dict[str, Any]:
    """The state of a run before its first step; `reference` is the fingerprint of the starting weights ("": none needed) and
    `data` that of the trees of each split. `pending`: a signal cut the validation of this step; `lines`: of metrics.jsonl."""
    return {
        "step": 0,
        "examples": 0,
        "best": None,
        "best_step": None,
        "bad_evals": 0,
        "pending": False,
        "lines": 0,
        "reference": reference,
        "data": data,
    }


def out_of_patience(state: dict[str, Any], settings: Settings) -> bool:
    """Have `patience` validations passed without a better eval_metric?"""
    return settings.patience is not None and state["bad_evals"] >= settings.patience


def num_steps(num_available: int, settings: Settings) -> int:
    """Optimizer steps until `num_examples` are seen; an epoch's last step may be smaller than a batch."""
    per_epoch = forest.steps_per_epoch(num_available, settings.batch_size)
    epochs, rest = divmod(settings.num_examples, num_available)
    return epochs * per_epoch + math.ceil(rest / settings.batch_size)


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up over `warmup_steps`, then constant, as in the DPO and GDPO repositories."""
    return settings.lr * min(1.0, (step + 1) / (settings.warmup_steps + 1))


class Forecast(NamedTuple):
    """What a run would take. Bytes are of one rank at its peak; a step's numbers are means over the steps looked at."""

    parameters: int
    optimizer: int
    gradients: int
    gathered: int  # blocks and the root as FSDP2 hands them out whole, and their gradients before reduction
    activations: int
    log_probs: int
    tokens: float  # of a step, over all ranks
    packs: float  # of a step, a rank
    step_flops: float  # of the ranks that take longest
    steps: int
    examples: int

    @property
    def memory(self) -> int:
        return (
            self.parameters
            + self.optimizer
            + self.gradients
            + self.gathered
            + self.activations
            + self.log_probs
        )


def forecast(
    policy: models.Scorer,
    data: Data,
    settings: Settings,
    attention: str,
    world_size: int,
    replicate: int,
    moments: float,
    recompute: bool,
    offload: bool,
    block_name: str | None = None,
    looked_at: int = 16,
) -> Forecast:
    """Memory and work of a run on `world_size` ranks from an empty policy and the data's real lengths; no weights are read.

    moments: numbers that the optimizer keeps for each trained one. recompute: activation checkpointing is on.
    """
    total, group = num_steps(len(data.trees), settings), [t.group for t in data.trees]
    steps = sorted({i * total // min(looked_at, total) for i in range(min(looked_at, total))})
    tokens = packs = flops = 0.0
    first, later = None, None  # the largest packs: before a step has gradients, and after
    for step in steps:
        examples = forest.step_examples(group, settings.batch_size, settings.seed, step, settings.shuffle)
        for trees, passes in ((data.trees, 4 if recompute else 3), (data.mismatched, 1)):
            plan = (
                forest.plan_step(
                    trees, examples, settings.max_tokens, settings.row_tokens, world_size, settings.share
                )
                if trees
                else []
            )
            batches = [forest.pack(trees, rows, 0, settings.share, settings.width_multiple) for rows in plan]
            work = [passes * models.forward_flops(policy, batch) for batch in batches]
            flops += sum(max(work[i : i + world_size]) for i in range(0, len(work), world_size))
            tokens += sum(batch.num_tokens for batch in batches)
            if passes > 1:
                packs += len(batches) / world_size
                first = _larger(first, *batches[:world_size])
                later = _larger(later, *batches[world_size:])
    weights = [(p.numel(), p.element_size(), p.requires_grad) for p in policy.parameters()]
    shards, gathered = world_size // replicate, 0
    block_list = models.blocks(policy.model, block_name)
    if world_size > 1:
        policy.casts, width = False, torch.empty((), dtype=policy.compute_dtype).element_size()
        block, trained = _sizes(block_list[0])
        root = _sizes(policy)[0] - len(block_list) * block
        # two blocks whole, one in use and one on its way, and the root; blocks once more as gradients, one of them in fp32. The root's
        # gradient is the head's, among the pass's tensors, and is reduced when no activations are left
        gathered = width * (2 * block + root + 2 * trained) + 4 * trained
        policy.to(policy.compute_dtype)
    own = sum(n * size for n, size, _ in weights) // shards
    trained_bytes = sum(n * size for n, size, learns in weights if learns) // shards
    # a step's first pack finds no gradients; with several ranks they leave a pass block by block, as where gradients are there
    found = [
        models.pass_bytes(policy, batch, attention, kept)
        for batch, kept in ((first, world_size > 1), (later, True))
        if batch
    ]
    spared = [trained_bytes if world_size > 1 else 0, 0]
    beyond = max(0, *(each.peak - each.gradients - less for each, less in zip(found, spared)))
    head = min(beyond, max(each.head for each in found))
    resting = (0, 0, 0) if offload else (own, int(moments * trained_bytes), trained_bytes)
    return Forecast(
        *resting,
        gathered,
        beyond - head,
        head,
        tokens / len(steps),
        packs / len(steps),
        flops / len(steps),
        total,
        settings.num_examples,
    )


def _larger(*batches: forest.ForestBatch | None) -> forest.ForestBatch | None:
    return max(
        (b for b in batches if b is not None),
        key=lambda b: (b.input_ids.numel(), len(b.positions)),
        default=None,
    )


def _sizes(module: torch.nn.Module) -> tuple[int, int]:
    """(parameters, trained parameters) of a module, as numbers."""
    return (
        sum(p.numel() for p in module.parameters()),
        sum(p.numel() for p in module.parameters() if p.requires_grad),
    )


def planned(
    trees: Sequence[forest.TokenTree], examples: Sequence[int], settings: Settings, world: World
) -> list[forest.Pack]:
    """This rank's packs of the given examples."""
    packs = forest.plan_step(
        trees, examples, settings.max_tokens, settings.row_tokens, world.size, settings.share
    )
    return packs[world.rank :: world.size]


def packed(
    trees: Sequence[forest.TokenTree], rows: forest.Pack, settings: Settings, world: World, pad_id: int = 0
) -> forest.ForestBatch:
    """One pack on the device."""
    return forest.pack(trees, rows, pad_id, settings.share, settings.width_multiple).to(world.device)


@torch.no_grad()
def mismatched_log_ratio(
    policy: models.Scorer, data: Data, examples: Sequence[int], settings: Settings, world: World
) -> torch.Tensor | None:
    """Mean log-ratio (), in nats, of the examples' mismatched pairs over all packs and ranks; None where the loss takes none."""
    if data.mismatched is None:
        return None
    total = torch.zeros((), device=world.device)
    for rows in planned(data.mismatched, examples, settings, world):
        scores = models.score(policy, packed(data.mismatched, rows, settings, world))
        total += (scores.policy - scores.reference).sum()
    if world.size > 1:
        dist.all_reduce(total)
    return total / len(examples)


def agree(signum: int, seconds: float, world: World) -> tuple[float, float]:
    """The largest signal number (0: none) and clock over all ranks, so that all leave, log and save at the same step."""
    if world.size == 1:
        return signum, seconds
    value = torch.tensor([signum, seconds], dtype=torch.float32, device=world.device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return tuple(value.tolist())


class Watch:
    """The first step whose loss or gradient norm is not finite, remembered on the device: to note a step needs no host sync."""

    def __init__(self, world: World):
        self.world = world
        self.first = torch.zeros(
            3, dtype=torch.float64, device=world.device
        )  # step (0: none yet), loss, gradient norm

    def note(self, step: int, loss: torch.Tensor, grad_norm: torch.Tensor) -> None:
        """`loss` is this rank's share of the step's mean loss, `grad_norm` the norm over all ranks."""
        grad_norm = getattr(grad_norm, "full_tensor", lambda: grad_norm)()
        loss = loss.double()
        if self.world.size > 1:
            dist.all_reduce(loss)
        now = torch.stack([torch.full_like(loss, step), loss, grad_norm.double()])
        self.first = torch.where((self.first[0] == 0) & ~now.isfinite().all(), now, self.first)


def check_finite(
    watch: Watch, data: Data, prompt_of: Sequence[int], settings: Settings, tokenizer, world: World, run: Path
) -> None:
    """Raises UserError where a step was not finite, and writes its examples to the run's folder. One host sync."""
    step, loss, grad_norm = watch.first.tolist()
    if not step:
        return
    examples = forest.step_examples(
        prompt_of, settings.batch_size, settings.seed, int(step) - 1, settings.shuffle
    )
    place = run / f"not-finite-step-{int(step):06d}.json"
    if world.is_main and settings.save:
        text = lambda tree: {
            "prompt": tokenizer.decode(tree.prompt),
            "belief": tokenizer.decode(tree.belief),  # noqa: E731
            "answers": [tokenizer.decode(ids) for ids in tree.answers],
        }
        rows = [{"example": i, "text": text(data.trees[i]), **data.trees[i]._asdict()} for i in examples]
        try:
            write_json(
                place, {"step": int(step), "loss": str(loss), "grad_norm": str(grad_norm), "examples": rows}
            )
        except OSError as error:
            log.warning("%s cannot be written (%s)", place, error.strerror)
    raise UserError(
        f"step {int(step)}: loss {loss}, gradient norm {grad_norm} is not finite; its examples {', '.join(map(str, examples[:8]))}"
        f"{', ...' if len(examples) > 8 else ''} are in {place}; nothing was saved since; lower lr, or look for a target with zero "
        "probability (kl_direction=reverse)"
    )


@torch.no_grad()
def validate(
    policy: models.Scorer,
    data: Data,
    loss_fn: LossFn,
    settings: Settings,
    world: World,
    stop: StopFlag | None = None,
) -> dict[str, float] | None:
    """Every metric of the training log on a whole split, under `_eval` names; None where a signal came."""
    meter = Meter(policy, world)
    chunks = [
        list(range(i, min(i + settings.eval_batch_size, len(data.trees))))
        for i in range(0, len(data.trees), settings.eval_batch_size)
    ]
    for examples in tqdm(chunks, desc="eval", leave=False, disable=not world.is_main):
        if stop and agree(stop.signum or 0, 0, world)[0]:
            return None
        kl = mismatched_log_ratio(policy, data, examples, settings, world)
        for rows in planned(data.trees, examples, settings, world):
            batch = packed(data.trees, rows, settings, world)
            scores = models.score(policy, batch)._replace(kl=kl)
            meter.add(
                batch, metrics.example_metrics(scores, loss_fn(scores), batch.is_majority, settings.beta)
            )
    return {
        k: v
        for k, v in meter.read("eval").items()
        if k.endswith("_eval") or "_eval/" in k or k == "loss/eval"
    }


class Meter:
    """Sums of metrics and counts since the last read, kept on the device until then, and the clock that goes with them."""

    def __init__(self, policy: models.Scorer, world: World):
        self.policy, self.world = policy, world
        self.rate: float | None = None
        self.restart()

    def restart(self) -> None:
        self.sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(2, device=self.world.device))
        self.work = [0.0] * 5  # tokens, padded tokens, unshared tokens, forward FLOPs, examples
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def add(self, batch: forest.ForestBatch, found: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        for name, (values, mask) in found.items():
            self.sums[name] += torch.stack([torch.where(mask, values.float(), 0.0).sum(), mask.sum().float()])
        flops = models.forward_flops(self.policy, batch)
        done = (
            batch.num_tokens,
            batch.input_ids.numel(),
            batch.num_tokens_unshared,
            flops,
            len(batch.length),
        )
        self.work = [a + b for a, b in zip(self.work, done)]

    def read(self, split: str) -> dict[str, float]:
        """Means over all ranks under the log's names, then start again. One host sync."""
        if self.rate is None:
            start = time.perf_counter()
            self.rate = matmul_rate(self.world.device, self.policy.compute_dtype)
            self.start += time.perf_counter() - start
        seconds, names = self.seconds, sorted(self.sums)
        work = torch.tensor(self.work, dtype=torch.float64, device=self.world.device)
        peak = torch.tensor(peak_memory(self.world.device), dtype=torch.float64, device=self.world.device)
        table = torch.stack([self.sums[n] for n in names])
        if self.world.size > 1:
            names, table = _sum_over_ranks(self.sums, self.world)
            dist.all_reduce(work)
            dist.all_reduce(peak, dist.ReduceOp.MAX)
        tokens, padded, unshared, flops, examples = work.tolist()
        values = {n.format(split): s / c for n, (s, c) in zip(names, table.tolist()) if c}
        values |= {
            "examples_per_second": examples / seconds,
            "tokens_per_second": tokens / seconds,
            "padding_fraction": 1 - tokens / max(padded, 1),
            "saved_by_sharing": 1 - tokens / max(unshared, 1),
            "mfu": 3 * flops / seconds / self.rate / self.world.size,
            "peak_memory_gb": peak.item(),
        }
        self.restart()
        return values


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """`models.matmul_rate`, measured once a process: every validation has a meter of its own."""
    return models.matmul_rate(device, dtype)


def peak_memory(device: torch.device) -> float:
    """The most memory (10^9 bytes) held so far: allocated on the GPU, or resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _sum_over_ranks(sums: dict[str, torch.Tensor], world: World) -> tuple[list[str], torch.Tensor]:
    """Add up metrics over ranks, which may know different names: one without examples knows none."""
    parts: list[Any] = [None] * world.size
    dist.all_gather_object(parts, {k: v.tolist() for k, v in sums.items()})
    names = sorted({name for part in parts for name in part})
    return names, torch.tensor(
        [[sum(part.get(n, (0, 0))[j] for part in parts) for j in (0, 1)] for n in names]
    )


class MetricsFile:
    """metrics.jsonl: one object a line, on the disk at once. A run that resumes keeps the `lines` that its checkpoint knows."""

    def __init__(self, path: Path, lines: int):
        self.path = path
        try:
            self.file = path.open("ab+", buffering=0)
            self.file.seek(0)
            ends = [match.end() for match in re.finditer(rb"\n", self.file.read())]
            if len(ends) < lines:
                log.warning(
                    "%s holds %d lines where the checkpoint knows %d: the others are lost",
                    path,
                    len(ends),
                    lines,
                )
            self.file.truncate(([0, *ends])[min(lines, len(ends))])
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); set output_dir") from error

    def write(self, values: dict[str, Any]) -> None:
        """Raises UserError where the disk refuses the line."""
        line = (json.dumps(values) + "\n").encode()
        try:
            if self.file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self.file.fileno())
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); make room, then run the same command again"
            ) from error

    def close(self) -> None:
        self.file.close()
