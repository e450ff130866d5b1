"""What would a run take? Memory and work from an empty policy and the data's real lengths; no weights are
read.

Contract: the numbers are of one rank at its peak; a step's are means over the steps looked at. Planning and
packing are the run's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

import models
import schedule
from forest import ForestBatch, TokenTree
from schedule import Data, Order, Packing
from settings import TrainSettings
from utils import UserError

UTILISATION = 0.4  # of a GPU's peak rate, for estimates of time
USABLE_MEMORY = 0.92  # the rest goes to the driver, the communication library and fragmentation
STEPS_LOOKED_AT = 16


class Setup(NamedTuple):
    """Where and how a run would work."""

    world_size: int
    replicate: int  # copies of the model, each sharded over world_size / replicate ranks
    attention: str  # flex_attention counts as causal
    moments: float  # numbers that the optimizer keeps for each trained one
    recompute: bool  # activation checkpointing
    offload: bool  # weights, gradients and optimizer rest in the CPU's memory
    block_name: str | None = None


class Forecast(NamedTuple):
    """What a run would take. Bytes are of one rank at its peak."""

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
        return sum(self.bytes().values())

    def bytes(self) -> dict[str, int]:
        """The parts of the memory by the names that users read."""
        return {
            "parameters": self.parameters,
            "optimizer": self.optimizer,
            "gradients": self.gradients,
            "gathered blocks": self.gathered,
            "activations": self.activations,
            "log-probs": self.log_probs,
        }


class Work(NamedTuple):
    """What steps take, and their largest packs."""

    tokens: float  # of a step, over all ranks
    packs: float  # of a step, a rank
    flops: float  # of a step, of the ranks that take longest
    first: ForestBatch | None  # the largest pack that finds no gradients of its step
    later: ForestBatch | None  # the largest that finds some


def forecast(
    policy: models.Scorer, data: Data, order: Order, num_examples: int, packing: Packing, setup: Setup
) -> Forecast:
    """Memory and work of a run. policy: an empty one, which this call uses up."""
    steps = order.num_steps(num_examples)
    work = _work(policy, data, order, steps, packing, setup)
    sizes = [(p.numel(), p.numel() * p.element_size(), p.requires_grad) for p in policy.parameters()]
    shards = setup.world_size // setup.replicate
    weights = sum(size for _, size, _ in sizes) // shards
    trained = sum(size for _, size, learns in sizes if learns) // shards
    gathered = _gathered_bytes(policy, setup.block_name) if setup.world_size > 1 else 0
    passes, log_probs = _pass_bytes(policy, work, setup, trained)
    resting = (0, 0, 0) if setup.offload else (weights, int(setup.moments * trained), trained)
    return Forecast(
        *resting,
        gathered=gathered,
        activations=passes - log_probs,
        log_probs=log_probs,
        tokens=work.tokens,
        packs=work.packs,
        step_flops=work.flops,
        steps=steps,
        examples=num_examples,
    )


def _work(
    policy: models.Scorer, data: Data, order: Order, steps: int, packing: Packing, setup: Setup
) -> Work:
    """The work of some steps, spread over the whole run."""
    looked_at = min(STEPS_LOOKED_AT, steps)
    chosen = sorted({i * steps // looked_at for i in range(looked_at)})
    passes = 4 if setup.recompute else 3  # forward and backward, in units of a forward pass
    tokens = packs = flops = 0.0
    first, later = None, None
    for step in chosen:
        examples = order.examples(step)
        batches = list(_batches(data.trees, examples, packing, setup.world_size))
        flops += _slowest_flops(policy, batches, passes, setup.world_size)
        tokens += sum(batch.num_tokens for batch in batches)
        packs += len(batches) / setup.world_size
        first = _larger(first, *batches[: setup.world_size])
        later = _larger(later, *batches[setup.world_size :])
        if data.mismatched:
            batches = list(_batches(data.mismatched, examples, packing, setup.world_size))
            flops += _slowest_flops(policy, batches, 1, setup.world_size)
            tokens += sum(batch.num_tokens for batch in batches)
    return Work(tokens / len(chosen), packs / len(chosen), flops / len(chosen), first, later)


def _batches(
    trees: Sequence[TokenTree], examples: Sequence[int], packing: Packing, world_size: int
) -> Iterator[ForestBatch]:
    """The packs of all ranks."""
    needed = {i: trees[i] for i in examples}
    for rows in schedule.plan_step(needed, examples, packing, world_size):
        yield schedule.batch_of(needed, rows, packing)


def _slowest_flops(
    policy: models.Scorer, batches: Sequence[ForestBatch], passes: int, world_size: int
) -> float:
    """FLOPs of the ranks that take longest: ranks take packs in turn and wait for one another."""
    flops = [passes * models.forward_flops(policy, batch) for batch in batches]
    return sum(max(flops[i : i + world_size]) for i in range(0, len(flops), world_size))


def _larger(*batches: ForestBatch | None) -> ForestBatch | None:
    present = [batch for batch in batches if batch is not None]
    return max(present, key=lambda batch: (batch.input_ids.numel(), len(batch.positions)), default=None)


def _gathered_bytes(policy: models.Scorer, block_name: str | None) -> int:
    """What FSDP2 holds whole: two blocks, one in use and one on its way, and the root; and blocks once more
    as gradients, one of them in fp32. The root's gradient is the head's, among the pass's tensors, and is
    reduced when no activations are left. Afterwards the policy is in its compute dtype, as FSDP2 would hand
    it out.
    """
    width = torch.empty((), dtype=policy.compute_dtype).element_size()
    blocks = models.blocks(policy.model, block_name)
    block, trained = _numbers(blocks[0])
    root = _numbers(policy)[0] - len(blocks) * block
    policy.casts = False
    policy.to(policy.compute_dtype)
    return width * (2 * block + root + 2 * trained) + 4 * trained


def _numbers(module: torch.nn.Module) -> tuple[int, int]:
    """(parameters, trained parameters) of a module, as numbers."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _pass_bytes(policy: models.Scorer, work: Work, setup: Setup, trained: int) -> tuple[int, int]:
    """(bytes of a pass beyond weights and gradients, those of them that the head takes).

    A step's first pack finds no gradients; with several ranks they leave a pass block by block, as where
    gradients are there already.
    """
    several = setup.world_size > 1
    beyond = heads = 0
    for batch, accumulates, spared in (
        (work.first, several, trained if several else 0),
        (work.later, True, 0),
    ):
        if batch is not None:
            held = models.pass_bytes(policy, batch, setup.attention, accumulates)
            beyond = max(beyond, held.peak - held.gradients - spared)
            heads = max(heads, held.head)
    return beyond, min(beyond, heads)


def spec_for_plan(spec: models.PolicySpec, attention: str) -> models.PolicySpec:
    """The policy to measure: the model's config alone counts, and flex_attention has no backward on a CPU."""
    return spec._replace(
        name_or_path=spec.model_name,
        archive=None,
        attention="sdpa" if attention == "flex_attention" else attention,
    )


# --- in words -----------------------------------------------------------------------------------------------


def setup_of(settings: TrainSettings, attention: str, moments: float) -> Setup:
    """Raises UserError where `replicate` does not divide the number of ranks."""
    world_size = settings.world_size or settings.nproc or 1
    if world_size % settings.replicate:
        problem = f"does not divide world_size={world_size}"
        raise UserError(f"config key replicate={settings.replicate}: {problem}; set replicate=1")
    return Setup(
        world_size,
        settings.replicate,
        attention,
        moments,
        settings.activation_checkpointing,
        settings.cpu_offload,
        settings.model.block_name,
    )


def model_line(policy: models.Scorer) -> str:
    """The model's class and size."""
    total, _ = _numbers(policy)
    return f"{type(policy.model).__name__}, {total / 1e9:.3g}e9 parameters\n"


def plan_text(plan: Forecast, world_size: int, settings: TrainSettings, max_tokens: int) -> str:
    """What a run would take, in words: memory a rank against a GPU's (10^9 bytes), time a step, GPU hours;
    and the remedy of what takes most where it does not fit.
    """
    seconds = plan.step_flops / (settings.gpu_tflops * 1e12 * UTILISATION)
    hours = plan.steps * seconds / 3600
    parts = plan.bytes()
    lines = [f"memory of one of {world_size} ranks at its peak, GB:"]
    lines += [f"  {name:16s} {value / 1e9:9.2f}" for name, value in parts.items()]
    lines += [
        f"  {'together':16s} {plan.memory / 1e9:9.2f} of {settings.gpu_memory_gb:g}",
        f"a step: {plan.tokens:.0f} tokens in {plan.packs:.1f} packs a rank, about {seconds:.3g} s "
        f"at {UTILISATION:.0%} of {settings.gpu_tflops:g} TFLOP/s, communication not counted",
        f"the run: {plan.steps} steps, {plan.examples} examples, about {hours:.3g} h or "
        f"{hours * world_size:.3g} GPU hours",
        f"a day: {24 * world_size} GPU hours, {86400 / seconds:.0f} steps",
    ]
    if plan.memory > USABLE_MEMORY * settings.gpu_memory_gb * 1e9:
        worst = max(parts, key=parts.get)
        lines.append(f"does not fit: {worst} take most; {_remedies(settings, max_tokens)[worst]}")
    else:
        lines.append("fits")
    return "\n".join(lines)


def _remedies(settings: TrainSettings, max_tokens: int) -> dict[str, str]:
    """What to do where a part of the memory is too large."""
    if settings.replicate > 1:
        state = "set replicate=1"
    else:
        state = "raise world_size, train adapters (lora.rank=16)"
        state += "" if settings.cpu_offload else " or set cpu_offload=true"
    smaller_packs = f"lower max_tokens={max_tokens}"
    return {
        "parameters": state,
        "optimizer": state,
        "gradients": state,
        "activations": smaller_packs
        if settings.activation_checkpointing
        else "set activation_checkpointing=true",
        "log-probs": smaller_packs,
        "gathered blocks": "train adapters (lora.rank=16)",
    }
