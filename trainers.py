"""The training loop, one step of it, and validation.

Contract: the batch of step i is a function of (seed, i); rank decides only who computes which pack; a step's
loss is divided once, by its number of examples over all packs and ranks. The loop never asks which loss it
runs.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

import forest
import metrics
import models
import optimization
import schedule
from forest import ForestBatch
from losses import Scores
from ranks import World, agree
from runs.meters import FreedMemory, Measured, Meter, Watch
from runs.run import Run
from runs.state import State
from schedule import Data, Order, Packing, Step
from settings import TrainSettings
from utils import StopFlag, Stopped, UserError, log, write_json

LOOKED_AT = 64  # examples at once, for the names of their metrics


class Learner(NamedTuple):
    """What learns: a policy by a loss, with an optimizer, on this rank's packs."""

    policy: models.Scorer
    optimizer: torch.optim.Optimizer
    loss_fn: Callable[[Scores], torch.Tensor]  # (N,) losses
    beta: float  # of the implied rewards that are logged
    packing: Packing
    world: World
    max_grad_norm: float = math.inf
    terms: metrics.Terms = {}  # of a composite loss, for the log
    dropout_seed: int | None = None  # of the adapters' dropout; None: there is none

    def draw(self, step: int, pack: int) -> int | None:
        """The seed of dropout in a pack of this rank; None: there is no dropout."""
        if self.dropout_seed is None:
            return None
        of_all_ranks = pack * self.world.size + self.world.rank
        return int(np.random.SeedSequence([self.dropout_seed, step, of_all_ranks]).generate_state(1)[0])

    def measured(self, batch: ForestBatch, scores: Scores, losses: torch.Tensor) -> Measured:
        """What is logged of a pack's examples, in training and validation."""
        of_all = metrics.example_metrics(scores, losses, batch.is_majority, self.beta)
        return {**of_all, **metrics.term_columns(self.terms, scores)}


def train(learner: Learner, train_data: Data, eval_data: Data, run: Run, settings: TrainSettings) -> State:
    """Train until all examples are seen, patience ends, or a signal comes; return the final state.

    A line of metrics stands before every checkpoint, so that a run that dies has each of its steps in one
    line. Raises Stopped after saving a checkpoint, and UserError where a step's loss or gradient is not
    finite, with no checkpoint of such weights.
    """
    order = schedule.order_of(train_data.trees, settings.batch_size, settings.seed, settings.shuffle)
    num_examples = settings.total_examples(schedule.num_examples(train_data.trees))
    last_step = order.num_steps(num_examples)
    rate_of = optimization.learning_rates(settings, last_step)
    run.say_new_rate(rate_of)
    meter, watch, stop = Meter(learner.policy, learner.world), Watch(learner.world), StopFlag()
    validation = Validation(learner, eval_data, run, settings, stop)
    bar = progress_bar(num_examples, run.state.examples, learner.world)
    memory = FreedMemory(learner.world)
    check = functools.partial(check_finite, watch, train_data, order, run)
    steps = range(run.state.step, last_step)
    ahead = schedule.ahead(train_data, order, learner.packing, learner.world, steps)
    try:
        if validation.begin(is_last=run.state.step >= last_step):
            return run.state
        for step in steps:
            work = ahead.take(step)
            grad_norm = learn(learner, work, rate_of(step), meter, watch, check)
            before = run.state.examples
            run.update(step=step + 1, examples=before + work.num_examples)
            bar.update(work.num_examples)
            memory.give_back()

            due_eval = passed(settings.eval_every, before, run.state.examples)
            due_save = passed(settings.save_every, before, run.state.examples)
            ends = step + 1 == last_step
            # ranks must take the same branch below, and each has its own clock and signals
            signum, seconds = agree(stop.signum or 0, meter.seconds, learner.world)
            if due_eval or due_save or ends or signum or seconds >= settings.log_every_seconds:
                check()
                values = {"counters/epoch": (step + 1) / order.steps_per_epoch, **meter.read("train")}
                values["host_seconds"] = ahead.read()
                run.log({**values, "grad_norm": float(grad_norm), "lr": rate_of(step)})
                show(bar, values)
            if due_eval or ends:
                if validation.measure_and_save(ends, due_save) and not ends:
                    say_patience_ended(settings)
                    break
                meter.restart()
            elif due_save or signum:
                run.save(learner.policy, learner.optimizer)
            if signum:
                run.wait()
                raise Stopped(signum, agreed=True)
        run.wait()
    finally:
        ahead.close()
        run.close()
        bar.close()
        stop.restore()
    return run.state


# --- one step -----------------------------------------------------------------------------------------------


def learn(
    learner: Learner, work: Step, rate: float, meter: Meter, watch: Watch, check: Callable[[], None]
) -> torch.Tensor:
    """One step of the optimizer; returns the norm () of its gradient before clipping.

    `check` raises where the step was not finite: on a CPU, where looking costs nothing, before the update, so
    that weights and moments stay as they were.
    """
    loss = backward(learner, work, meter)
    grad_norm = torch.nn.utils.clip_grad_norm_(learner.policy.parameters(), learner.max_grad_norm)
    watch.note(work.number + 1, loss, grad_norm)
    if learner.world.device.type == "cpu":
        check()
    update(learner.optimizer, rate)
    return grad_norm


def backward(learner: Learner, work: Step, meter: Meter) -> torch.Tensor:
    """Add up the gradients of a step's examples; return this rank's share () of their weighted mean loss."""
    kl = mismatched_log_ratio(learner, work)
    of_packs = []
    with learner.policy.casting_once():
        for number, batch in enumerate(work.packs):
            batch = batch.to(learner.world.device)
            with models.adapter_dropout(learner.policy, learner.draw(work.number, number)):
                scores = models.score(learner.policy, batch)._replace(kl=kl)
                losses = learner.loss_fn(scores)
                # FSDP2 averages gradients over ranks: undo that, and divide by the weight of the whole step
                weighted = losses * batch.weight
                (weighted.sum() * learner.world.size / work.weight).backward()
            meter.add(batch, learner.measured(batch, scores, losses.detach()))
            of_packs.append(weighted.detach())
    return torch.cat(of_packs).sum() / work.weight


@torch.no_grad()
def mismatched_log_ratio(learner: Learner, work: Step) -> torch.Tensor | None:
    """Mean log-ratio (), in nats, of the examples' mismatched pairs over all packs and ranks.

    None where the loss takes none.
    """
    if work.mismatched is None:
        return None
    total = torch.zeros((), device=learner.world.device)
    for batch in work.mismatched:
        batch = batch.to(learner.world.device)
        scores = models.score(learner.policy, batch)
        log_ratio = scores.policy - scores.reference  # (N, 1)
        total += (log_ratio * batch.weight[:, None]).sum()
    if learner.world.size > 1:
        dist.all_reduce(total)
    return total / work.weight


def update(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """One step of the optimizer at this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def check_finite(watch: Watch, data: Data, order: Order, run: Run) -> None:
    """Raises UserError where a step was not finite, and writes its examples to the run's folder. One host
    sync.
    """
    step, loss, grad_norm = watch.first.tolist()
    if not step:
        return
    step = int(step)
    examples = order.examples(step - 1)
    place = run.folder / f"not-finite-step-{step:06d}.json"
    if run.writes:
        rows = []
        for i in examples:
            rows.append({"example": i, "text": run.decoded(data.trees[i]), **data.trees[i]._asdict()})
        record = {"step": step, "loss": str(loss), "grad_norm": str(grad_norm), "examples": rows}
        try:
            run.claim.check()
            write_json(place, record)
        except (OSError, UserError) as error:
            log.warning("%s cannot be written (%s)", place, error)
    some = ", ".join(map(str, examples[:8])) + (", ..." if len(examples) > 8 else "")
    raise UserError(
        f"step {step}: loss {loss}, gradient norm {grad_norm} is not finite; its examples {some} are in "
        f"{place}; nothing was saved since; lower lr, or look for a target with zero probability "
        "(kl_direction=reverse)"
    )


def passed(every: int | None, before: int, now: int) -> bool:
    """Did a count pass a multiple of `every` (None: never due)?"""
    return every is not None and now // every > before // every


def progress_bar(total: int, done: int, world: World) -> tqdm:
    """Of examples, on the main rank."""
    hidden = not world.is_main
    return tqdm(total=total, initial=done, unit="ex", desc="train", disable=hidden, dynamic_ncols=True)


def say_patience_ended(settings: TrainSettings) -> None:
    log.info("no better %s in %d evaluations: stopping early", settings.eval_metric, settings.patience)


def show(bar: tqdm, values: dict[str, float]) -> None:
    """Loss, speed and memory beside the progress bar."""
    text = (
        f"loss {values['loss/train']:.4f}, {values['tokens_per_second']:.0f} tok/s, {values['mfu']:.0%} mfu, "
        f"{values['peak_memory_gb']:.1f} GB"
    )
    bar.set_postfix_str(text, refresh=False)


# --- validation ---------------------------------------------------------------------------------------------


class Validation:
    """Validates, keeps the best, and knows when patience has ended."""

    def __init__(self, learner: Learner, data: Data, run: Run, settings: TrainSettings, stop: StopFlag):
        self.learner, self.data, self.run, self.settings, self.stop = learner, data, run, settings, stop

    def begin(self, is_last: bool) -> bool:
        """Validate before the first step, or make up for a validation that a signal ended; True when the run
        or its patience has ended with it.
        """
        run = self.run
        if run.state.step == 0 and self.settings.do_first_eval:
            self.measure()
        if not run.state.pending or not self.measure_and_save(is_last, due_save=True):
            return False
        run.wait()
        return True

    def measure(self) -> float:
        """Validate and log; give eval_metric. Where a signal comes, leave at once: the next run makes up for
        it.
        """
        values = validate(self.learner, self.data, self.settings.eval_batch_size, self.stop)
        if values is None:
            self._leave()
        self.run.log(values)
        self.run.show_samples()
        name = self.settings.eval_metric
        if name not in values:
            raise unwritten(name, values)
        return values[name]

    def measure_and_save(self, ends: bool, due_save: bool) -> bool:
        """Validate, keep the best, save; True when the run or its patience has ended."""
        run = self.run
        metric = self.measure()
        name = self.settings.eval_metric
        if not math.isfinite(metric):
            log.warning("%s is %s after step %d: not counted as better", name, metric, run.state.step)
        improved = is_better(metric, run.state.best, self.settings.eval_mode)
        run.update(pending=False, bad_evals=0 if improved else run.state.bad_evals + 1)
        if improved:
            run.update(best=metric, best_step=run.state.step)
        ends = ends or run.state.out_of_patience(self.settings.patience)
        if improved or ends or due_save or self.settings.save_every is None:
            run.save(self.learner.policy, self.learner.optimizer, improved)
        return ends

    def _leave(self) -> None:
        """Save, with a note that this validation is to be made up for. Raises Stopped."""
        if self.run.state.step:
            self.run.update(pending=True)
            self.run.save(self.learner.policy, self.learner.optimizer)
            self.run.wait()
        signum, _ = agree(self.stop.signum or 0, 0, self.learner.world)
        raise Stopped(signum, agreed=True)


@torch.no_grad()
def validate(
    learner: Learner, data: Data, batch_size: int, stop: StopFlag | None = None
) -> dict[str, float] | None:
    """Every metric of the training log on a whole split, under `_eval` names; None where a signal came."""
    world = learner.world
    meter = Meter(learner.policy, world)
    starts = forest.example_starts(data.trees)
    edges = [*starts[:-1:batch_size], len(data.trees)]
    chunks = [list(range(first, end)) for first, end in itertools.pairwise(edges)]
    for examples in tqdm(chunks, desc="eval", leave=False, disable=not world.is_main):
        if stop and agree(stop.signum or 0, 0, world)[0]:
            return None
        work = schedule.packs_of(data, examples, learner.packing, world)
        kl = mismatched_log_ratio(learner, work)
        for batch in work.packs:
            batch = batch.to(world.device)
            scores = models.score(learner.policy, batch)._replace(kl=kl)
            losses = learner.loss_fn(scores)
            meter.add(batch, learner.measured(batch, scores, losses))
    values = meter.read("eval")
    return {name: value for name, value in values.items() if name.endswith("_eval") or is_of_eval(name)}


def check_eval_metric(
    name: str, data: Data, packing: Packing, has_reference: bool, terms: Collection[str] = ()
) -> None:
    """Raises UserError where validation on these examples will not write the metric `name`.

    What a metric holds for depends on the examples alone, so a model that knows nothing tells.
    """
    alone = World(0, 1, torch.device("cpu"), None)
    written = {f"{term}_eval" for term in terms}  # a composite loss's, of all examples
    for first in range(0, len(data.trees), LOOKED_AT):
        trees = data.trees[first : first + LOOKED_AT]
        if has_reference:
            trees = [tree._replace(reference=(0.0,) * len(tree.answers)) for tree in trees]
        for batch in schedule.batches(trees, range(len(trees)), packing, alone):
            written |= _names_written(batch, data.mismatched is not None)
        if name in written:
            return
    raise unwritten(name, written)


def _names_written(batch: ForestBatch, has_mismatched: bool) -> set[str]:
    """The names of the metrics that hold for any example of a pack."""

    def knows_nothing(*given: Any) -> torch.Tensor:
        reads = next(part for part in given if isinstance(part, models.Reads))
        return torch.zeros(len(reads.target))

    losses = torch.zeros(len(batch.length))
    scores = models.score(knows_nothing, batch)._replace(kl=losses.sum() if has_mismatched else None)
    measured = metrics.example_metrics(scores, losses, batch.is_majority, beta=1.0)
    return {name.format("eval") for name, (_, holds) in measured.items() if holds.any()}


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Is a value of eval_metric better than the best so far (None: there is none)? mode: min, less is; or
    max. One that is not finite never is.
    """
    if not math.isfinite(value):
        return False
    return best is None or (value < best if mode == "min" else value > best)


def unwritten(name: str, written: Collection[str]) -> UserError:
    """The error of an eval_metric that is not among those that validation writes."""
    known = ", ".join(sorted(written))
    return UserError(f"config key eval_metric={name}: validation does not write it; it writes {known}")


def is_of_eval(name: str) -> bool:
    """Is this a metric of validation, rather than a speed?"""
    return "_eval/" in name or name == "loss/eval"
