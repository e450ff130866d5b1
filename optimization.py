"""The optimizer, and the learning rate of every step.

Contract: the rate of a step is a pure function of (step, number of steps, settings), so a run that resumes
goes on as if nothing had ended it. What a config asks for in vain is refused before the model is read.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler

import devices
from checking import nearest
from settings import TrainSettings
from utils import UserError, log

Rates = Callable[[int], float]  # step from 0 -> learning rate

CONSTANT = "constant_with_warmup"
ALIASES = {"constant": CONSTANT, "wsd": "warmup_stable_decay"}  # for names of transformers
FOLLOW_METRICS = ("reduce_lr_on_plateau", "greedy")  # no functions of the step
NOT_KEYS = ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch")  # of a schedule
TRIED = 200  # rates of a schedule that are looked at before it is used

EIGHT_BIT = ("AdamW8bit", "PagedAdamW8bit")  # of bitsandbytes: moments of one byte a weight
OWN_KEYS = ("lr", "weight_decay")  # of the config
NOT_ARGUMENTS = ("self", "params", "differentiable", "maximize", "args", *OWN_KEYS)  # of an optimizer here
UNFIT = {  # of torch.optim's classes: why they train no model here
    "LBFGS": "it needs a closure that computes the loss again",
    "Muon": "it takes matrices alone, and a model has other weights too",
    "SparseAdam": "it takes sparse gradients alone",
}


# --- the learning rate --------------------------------------------------------------------------------------


def learning_rates(settings: TrainSettings, num_steps: int) -> Rates:
    """The learning rate of step i (from 0) of a run of `num_steps` optimizer steps.

    `lr` times the factor of transformers' schedule `lr_schedule` at step i. Warm-up alone differs: over w
    steps it goes (i + 1) / (w + 1) of its way, as in the DPO and GDPO repositories, so that the first step is
    not one at rate 0. Raises UserError for a schedule or a key that is none, and for impossible rates.
    """
    name = _schedule_name(settings.lr_schedule)
    warmup = warmup_steps(settings, num_steps)
    _check_schedule_keys(name, settings)
    rising = _factor(name, warmup + 1, num_steps + 1, settings)
    after = _factor(name, warmup, num_steps, settings)

    def rate(step: int) -> float:
        return settings.lr * (rising(step + 1) if step < warmup else after(step))

    _check_rates(rate, num_steps, settings)
    return rate


def check_schedule(settings: TrainSettings) -> None:
    """Raises UserError for a schedule or a key that there is not. What depends on the number of steps shows
    in `learning_rates`."""
    _check_schedule_keys(_schedule_name(settings.lr_schedule), settings)


def warmup_steps(settings: TrainSettings, num_steps: int) -> int:
    """Steps of warm-up: a share of all steps, rounded up as transformers does, or a number of them."""
    if settings.warmup_ratio is None:
        return settings.warmup_steps
    return math.ceil(settings.warmup_ratio * num_steps)


def _schedule_name(given: str) -> str:
    """The name by which transformers knows a schedule. Raises UserError where it does not."""
    names = [kind.value for kind in TYPE_TO_SCHEDULER_FUNCTION if kind.value not in FOLLOW_METRICS]
    name = ALIASES.get(given, given)
    if name not in names:
        known = ", ".join(sorted({*names, *ALIASES}))
        raise UserError(f"config key lr_schedule={given}: choose one of {known}")
    return name


def _check_schedule_keys(name: str, settings: TrainSettings) -> None:
    """Raises UserError for keys that the schedule does not take, and for ones that it lacks."""
    (function,) = [f for kind, f in TYPE_TO_SCHEDULER_FUNCTION.items() if kind.value == name]
    parameters = {k: p for k, p in inspect.signature(function).parameters.items() if k not in NOT_KEYS}
    known = ", ".join(parameters) or "none"
    given = settings.lr_schedule_keys or {}
    for key in given:
        if key not in parameters:
            raise UserError(
                f"config key lr_schedule_keys.{key}: lr_schedule={settings.lr_schedule} takes no such key; "
                f"it takes {known}"
            )
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in given:
            raise UserError(
                f"config key lr_schedule_keys.{key}: lr_schedule={settings.lr_schedule} needs it; set "
                f"lr_schedule_keys={{{key}: ...}}"
            )


def _factor(name: str, warmup: int, num_steps: int, settings: TrainSettings) -> Callable[[int], float]:
    """Step -> factor of the peak rate, by transformers: its scheduler is asked for the function it holds."""
    unused = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=settings.lr)
    try:
        return get_scheduler(name, unused, warmup, num_steps, settings.lr_schedule_keys).lr_lambdas[0]
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _refused_schedule(settings, str(error)) from error


def _check_rates(rate: Rates, num_steps: int, settings: TrainSettings) -> None:
    """Raises UserError where a schedule gives a rate that is none."""
    tried = range(0, num_steps, max(1, num_steps // TRIED))
    try:
        rates = [rate(step) for step in tried]
        wrong = next((r for r in rates if isinstance(r, complex) or not 0 <= r < math.inf), None)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _refused_schedule(settings, str(error)) from error
    if wrong is not None:
        raise _refused_schedule(settings, f"it gives the rate {wrong}")
    if rates and not any(rates):
        raise _refused_schedule(settings, "its rate is 0 at every step")


def warn_of_warmup(settings: TrainSettings, num_steps: int) -> None:
    """Say where the peak of the learning rate is never reached."""
    warmup = warmup_steps(settings, num_steps)
    if warmup >= num_steps > 0:
        log.warning(
            "warm-up takes %d steps and the run has %d: lr is not reached; set warmup_steps to fewer",
            warmup,
            num_steps,
        )


def _refused_schedule(settings: TrainSettings, problem: str) -> UserError:
    keys = f", lr_schedule_keys={settings.lr_schedule_keys}" if settings.lr_schedule_keys else ""
    problem = (problem.splitlines() or ["no reason given"])[0]
    return UserError(
        f"config key lr_schedule={settings.lr_schedule}{keys}: {problem}; change the keys, or set "
        "lr_schedule=constant"
    )


# --- the optimizer ------------------------------------------------------------------------------------------


def make_optimizer(module: torch.nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer that the config names, of the module's trained parameters.

    A class of torch.optim (RMSprop in the papers, AdamW by default here), or an 8-bit AdamW of bitsandbytes;
    `optimizer_keys` are arguments of the class. Weight decay leaves out biases and the scales of norms, as
    transformers' Trainer does. Raises UserError for a class, a key or a value that there is not.
    """
    kind = _optimizer_class(settings.optimizer)
    arguments = _arguments(kind, settings)
    try:
        return kind(_groups(module, settings.weight_decay), lr=settings.lr, **arguments)
    except Exception as error:  # torch and bitsandbytes raise many kinds for values that they do not take
        raise _refused_optimizer(settings, error) from error


def check_optimizer(settings: TrainSettings) -> None:
    """Raises UserError where the config's optimizer cannot be made, or cannot make a step."""
    try:
        _after_a_step(settings)
    except UserError:
        raise
    except Exception as error:  # as above
        raise _refused_optimizer(settings, error) from error


def moments_per_weight(settings: TrainSettings) -> float:
    """What this optimizer keeps for each trained weight, in numbers of four bytes."""
    if settings.optimizer in EIGHT_BIT:
        return 0.5  # two of one byte; those of small tensors are kept whole
    layer, optimizer = _after_a_step(settings)
    kept = optimizer.state[layer.weight].values()
    moments = [value for value in kept if torch.is_tensor(value) and value.dim()]
    return sum(moment.numel() for moment in moments) / layer.weight.numel()


def _after_a_step(settings: TrainSettings) -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
    """A small layer, and its optimizer after one step."""
    device = "cuda" if settings.optimizer in EIGHT_BIT and devices.num_gpus(settings.device) else "cpu"
    layer = torch.nn.Linear(32, 32, bias=False, device=device)
    optimizer = make_optimizer(layer, settings)
    layer(torch.ones(1, 32, device=device)).sum().backward()
    optimizer.step()
    return layer, optimizer


def _optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """Raises UserError where there is no such class, or no package that has it."""
    if name in EIGHT_BIT:
        return _eight_bit_class(name)
    kind = getattr(torch.optim, name, None)
    known = f"use AdamW, RMSprop or {EIGHT_BIT[0]}"
    if name in UNFIT:
        raise UserError(f"config key optimizer={name}: cannot be used here, {UNFIT[name]}; {known}")
    if name == "Optimizer" or not isinstance(kind, type):
        classes = [key for key, value in vars(torch.optim).items() if isinstance(value, type)]
        near = nearest(name, [*EIGHT_BIT, *(key for key in classes if key not in (*UNFIT, "Optimizer"))])
        raise UserError(f"config key optimizer={name}: no such class in torch.optim; {near}{known}")
    return kind


def _eight_bit_class(name: str) -> type[torch.optim.Optimizer]:
    try:
        from bitsandbytes import optim
    except Exception as error:  # no package, or one that does not work on this machine
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"config key optimizer={name}: bitsandbytes cannot be used ({reason}); pip install bitsandbytes, "
            "or set optimizer=AdamW"
        ) from error
    return {"AdamW8bit": optim.AdamW8bit, "PagedAdamW8bit": optim.PagedAdamW8bit}[name]


def _arguments(kind: type[torch.optim.Optimizer], settings: TrainSettings) -> dict[str, Any]:
    """The arguments of an optimizer's class beside parameters and rate; lists as the pairs that torch takes.

    Raises UserError for one that the class does not take.
    """
    parameters = inspect.signature(kind).parameters
    known = [key for key in parameters if key not in NOT_ARGUMENTS]
    arguments: dict[str, Any] = {}
    for key, value in (settings.optimizer_keys or {}).items():
        if key not in known:
            problem = "a key of its own" if key in OWN_KEYS else f"{settings.optimizer} takes no such key"
            raise UserError(f"config key optimizer_keys.{key}: {problem}; it takes {', '.join(known)}")
        arguments[key] = tuple(value) if isinstance(value, list) else value
    if settings.optimizer == "AdamW" and not {"fused", "foreach"} & arguments.keys():
        arguments["fused"] = True
    if "weight_decay" in parameters:
        arguments["weight_decay"] = settings.weight_decay  # the defaults of the classes differ
    elif settings.weight_decay:
        problem = f"{settings.optimizer} takes none; set it to 0"
        raise UserError(f"config key weight_decay={settings.weight_decay}: {problem}")
    return arguments


def _groups(module: torch.nn.Module, weight_decay: float) -> list[Any]:
    """The trained parameters; where weights decay, vectors and numbers apart, which do not."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not weight_decay:
        return trained
    matrices = [parameter for parameter in trained if parameter.dim() >= 2]
    others = [parameter for parameter in trained if parameter.dim() < 2]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _refused_optimizer(settings: TrainSettings, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    keys = ", ".join(settings.optimizer_keys or {}) or "none"
    return UserError(
        f"config key optimizer={settings.optimizer}: it cannot be used with optimizer_keys of {keys} and "
        f"weight_decay={settings.weight_decay} ({reason}); change them"
    )
