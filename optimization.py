"""The optimizer, and the learning rate of every step.

Contract: the rate of a step is a pure function of (step, number of steps, settings), so a run that resumes
goes on as if nothing had ended it. What a config asks for in vain is refused before the model is read.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler

from settings import TrainSettings
from utils import UserError, log

Rates = Callable[[int], float]  # step from 0 -> learning rate

CONSTANT = "constant_with_warmup"
ALIASES = {"constant": CONSTANT, "wsd": "warmup_stable_decay"}  # for names of transformers
FOLLOW_METRICS = ("reduce_lr_on_plateau", "greedy")  # no functions of the step
NOT_KEYS = ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch")  # of a schedule
TRIED = 200  # rates of a schedule that are looked at before it is used

NOT_OPTIMIZERS = (
    "LBFGS",
    "Optimizer",
    "Muon",
    "SparseAdam",
)  # of torch.optim's names: not usable on any model


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


def warmup_steps(settings: TrainSettings, num_steps: int) -> int:
    """Steps of warm-up: a share of all steps, rounded up as transformers does, or a number of them."""
    if settings.warmup_ratio is None:
        return settings.warmup_steps
    return math.ceil(settings.warmup_ratio * num_steps)


def is_constant(settings: TrainSettings) -> bool:
    """Is the rate the same after the warm-up, however long the run?"""
    return _schedule_name(settings.lr_schedule) == CONSTANT


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
    """Raises UserError where a schedule gives a rate that is none; says where its peak is never reached."""
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
    warmup = warmup_steps(settings, num_steps)
    if not is_constant(settings) and warmup >= num_steps:
        log.warning(
            "warm-up takes %d steps and the run has %d: the peak lr is not reached", warmup, num_steps
        )


def _refused_schedule(settings: TrainSettings, problem: str) -> UserError:
    keys = f", lr_schedule_keys={settings.lr_schedule_keys}" if settings.lr_schedule_keys else ""
    problem = (problem.splitlines() or ["no reason given"])[0]
    return UserError(
        f"config key lr_schedule={settings.lr_schedule}{keys}: {problem}; change the keys, or set "
        "lr_schedule=constant"
    )


# --- the optimizer ------------------------------------------------------------------------------------------


def make_optimizer(module: torch.nn.Module, name: str, lr: float) -> torch.optim.Optimizer:
    """`name` is a class of torch.optim (RMSprop in the papers, AdamW by default here). Raises UserError for
    others.
    """
    kind = getattr(torch.optim, name, None)
    if name in NOT_OPTIMIZERS or not isinstance(kind, type):
        raise UserError(f"config key optimizer={name}: no such class in torch.optim; use AdamW or RMSprop")
    extra = {"weight_decay": 0.0, "fused": True} if name == "AdamW" else {}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return kind(trained, lr=lr, **extra)


def moments_per_weight(name: str, lr: float) -> float:
    """How many numbers this optimizer keeps for each trained one."""
    layer = torch.nn.Linear(32, 32, bias=False)
    optimizer = make_optimizer(layer, name, lr)
    layer(torch.ones(1, 32)).sum().backward()
    optimizer.step()
    kept = optimizer.state[layer.weight].values()
    moments = [value for value in kept if torch.is_tensor(value) and value.dim()]
    return sum(moment.numel() for moment in moments) / layer.weight.numel()
