"""The papers' objectives as functions of small tables: log-probs of N examples with K responses in, N losses
out.

Contract: every loss is `name(scores, **keys) -> (N,)`, a pure function of `Scores` in fp32. `LOSSES` maps
config names to them; what one needs of the data is declared beside it (`declare`), and a config's `loss`
section is bound to the signature, so a key that a loss does not take is an error. `module:function` names a
loss of the user's own. Log-probs are sums in nats. r = policy - reference is the log-ratio, beta * r the
implied reward. Column 0 is the preferred response; an example that has but one of the two sides of a
preference leaves the other column invalid. This file is the face of `objectives/`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import torch

from functions import function_of
from objectives.declared import (
    DECLARED,
    Keys,
    Loss,
    Needs,
    NotNegative,
    Positive,
    Smoothing,
    declaration_of,
    declare,
)
from objectives.keys import check_keys, parameters_of, with_defaults
from objectives.pairs import dpo, ipo, kto, orpo, sft, simpo, slic
from objectives.ranked import ONE_HOT, infonca, lipo, nca, plackett_luce, soft_targets, swepo
from objectives.scores import (
    REWARD_ROUNDING,
    Scores,
    better,
    deviations,
    implied_rewards,
    log_ratio_margin,
    reward_deviations,
    token_means,
)
from utils import UserError

__all__ = [
    "LOSSES",
    "ONE_HOT",
    "REWARD_ROUNDING",
    "Keys",
    "Needs",
    "NotNegative",
    "Positive",
    "Scores",
    "Smoothing",
    "at_reference",
    "better",
    "bind",
    "calibration",
    "declare",
    "deviations",
    "dpo",
    "gdpo",
    "implied_rewards",
    "infonca",
    "ipo",
    "kto",
    "lipo",
    "log_ratio_margin",
    "loss_of",
    "nca",
    "needs",
    "orpo",
    "plackett_luce",
    "reward_deviations",
    "sft",
    "simpo",
    "slic",
    "soft_targets",
    "swepo",
    "terms",
    "token_means",
]

Direction = Literal["forward", "reverse", "js"]
Support = Literal["vocab", "classes"]

# --- GDPO: a group's distribution, its beliefs, and a preference under one of them --------------------------


def calibration(
    scores: Scores, kl_direction: Direction = "forward", kl_support: Support = "vocab"
) -> torch.Tensor:
    """Distance (N,), in nats, of the model's belief distribution q from the group's p*; GDPO's first term.

    kl_direction: forward KL(p* || q) (the authors' code), reverse KL(q || p*), or js, the Jensen-Shannon
    divergence. kl_support: vocab reads q_k from the softmax over the whole vocabulary, so that mass off the
    classes costs; classes renormalises q over the C classes. 0 log 0 = 0; the reverse direction is infinite
    where q > 0 = p*, as it should be.
    """
    log_q, p = scores.class_logps, scores.class_probs
    if kl_support == "classes":
        log_q = log_q.log_softmax(-1)
    log_p = p.log()  # -inf where p = 0: xlogy below never multiplies it
    if kl_direction == "forward":
        return (torch.xlogy(p, p) - p * log_q).sum(-1)
    q = log_q.exp()
    if kl_direction == "reverse":
        return torch.where(q > 0, q * (log_q - log_p), 0.0).sum(-1)
    mixture = (0.5 * (p + q)).clamp_min(torch.finfo(q.dtype).tiny)
    of_group = torch.xlogy(p, p) - torch.xlogy(p, mixture)
    of_model = q * (log_q - mixture.log())
    on_classes = 0.5 * (of_group + of_model).sum(-1)
    off_classes = (1 - q.sum(-1)).clamp_min(0)  # mass where p* is 0
    return on_classes + 0.5 * math.log(2) * off_classes


def _gdpo_needs(keys: Keys) -> Needs:
    """What its preference term reads, beside the beliefs; an answer pair may not lack a side."""
    if not keys["preference_weight"]:
        return Needs(columns="any", reference=False, beliefs=True)
    term = needs(keys["preference"], {"beta": keys["beta"], **(keys["preference_keys"] or {})})
    columns = "pair" if term.columns == "side" else term.columns
    return term._replace(beliefs=True, columns=columns)


def _check_preference(keys: Keys) -> None:
    """Check the keys of GDPO's preference term, which are those of the loss that it names."""
    if not keys["preference_weight"]:
        return
    name, inner = keys["preference"], dict(keys["preference_keys"] or {})
    if "beta" in inner:
        raise ValueError("loss.preference_keys.beta: the preference term takes loss.beta; remove the key")
    term = loss_of(name) if ":" in name else LOSSES.get(name)
    if not _is_preference(term):
        known = ", ".join(sorted(name for name, loss in LOSSES.items() if _is_preference(loss)))
        raise ValueError(
            f"loss.preference={name}: choose one of {known}, or module:function of a loss whose first key is "
            "beta"
        )
    try:
        bind(name, {"beta": keys["beta"], **inner})
    except ValueError as error:
        raise ValueError(str(error).replace("loss.", "loss.preference_keys.", 1)) from error


def _is_preference(loss: Loss | None) -> bool:
    """May a loss be GDPO's preference term: does it take that term's beta, and is it another one?"""
    return loss not in (None, gdpo) and next(iter(parameters_of(loss)), None) == "beta"


@declare(_gdpo_needs, check=_check_preference, terms=("calibration", "belief", "answer", "preference"))
def gdpo(
    scores: Scores,
    beta: Positive,
    calibration_weight: float = 1.0,
    belief_weight: float = 1.0,
    preference_weight: float = 1.0,
    answer_weight: float = 0.0,
    kl_direction: Direction = "forward",
    kl_support: Support = "vocab",
    belief_reduction: Literal["mean", "sum"] = "mean",
    preference: str = "dpo",
    preference_keys: Keys | None = None,
) -> torch.Tensor:
    """Group Distributional Preference Optimization, arXiv 2412.20299, as its released `loss=mpo` computes it.
    Returns (N,).

    w_cal KL(p* || q) + w_belief NLL(b_w | x) + w_pref l_pref(y_w > y_l | b_w, x), all from one forward pass:
    q over the belief classes at the last prompt token, the accepted belief's tokens, and both answers under
    that same belief. `preference` names the loss of l_pref, whose first key is beta, `preference_keys` its
    other keys: dpo (cDPO with label_smoothing), ipo, kto, ..., or, where K answers stand under the belief,
    infonca, nca, swepo, ... A term of weight 0 is left out altogether.

    `answer_weight` a > 0 adds a term that the paper does not have, a NLL(y_w | b_w, x) / T_w: without it the
    accepted answers, too, become unlikely while the margin grows.
    """
    total = torch.zeros_like(scores.policy[:, 0])
    if calibration_weight:
        total = total + calibration_weight * calibration(scores, kl_direction, kl_support)
    if belief_weight:
        tokens = scores.belief_length if belief_reduction == "mean" else 1.0
        total = total - belief_weight * scores.belief_logp / tokens
    if answer_weight:
        total = total - answer_weight * token_means(scores)[:, 0]
    if preference_weight:
        total = total + preference_weight * loss_of(preference)(scores, beta, **(preference_keys or {}))
    return total


# --- losses by their names ----------------------------------------------------------------------------------

# by config name: this project's, and those of the user's own that a config has named
LOSSES: dict[str, Loss] = {loss.__name__: loss for loss in DECLARED}


def loss_of(name: str) -> Loss:
    """The loss of a config name, which may be a function of the user's own, module:function.

    Raises ValueError for a name that is none, and UserError where the user's module cannot be imported.
    """
    if name not in LOSSES and ":" in name:
        LOSSES[name] = _own(name)
    if name not in LOSSES:
        known = ", ".join(sorted(LOSSES))
        raise ValueError(
            f"loss.name={name}: no such loss; choose one of {known}, or name a function, module:function"
        )
    return LOSSES[name]


def _own(name: str) -> Loss:
    """A function of the user's own as a loss that says so where it does not give one value an example."""
    function = function_of(name, "loss.name")
    if declaration_of(function) is None:
        raise ValueError(
            f'loss.name={name}: does not say what it needs; write @declare(Needs(columns="pair")) above it, '
            "both from losses (docs/objectives.md)"
        )

    @functools.wraps(function)
    def checked(scores: Scores, *arguments: object, **keys: object) -> torch.Tensor:
        values = function(scores, *arguments, **keys)
        if not isinstance(values, torch.Tensor) or values.shape != scores.policy.shape[:1]:
            is_tensor = isinstance(values, torch.Tensor)
            given = f"shape {tuple(values.shape)}" if is_tensor else type(values).__name__
            count = len(scores.policy)
            raise UserError(f"loss.name={name}: gave {given} for {count} examples; return one value each")
        return values

    return checked


def bind(name: str, keys: Keys) -> None:
    """Check a loss's config keys against its signature, and against what it declares of them.

    Raises ValueError with one line that names the key and the remedy: unknown loss or key, a missing one, a
    wrong value.
    """
    loss = loss_of(name)
    check_keys(name, loss, keys)
    check = declaration_of(loss).check
    if check is not None:
        check(with_defaults(loss, keys))


def needs(name: str, keys: Keys) -> Needs:
    """What `LOSSES[name](scores, **keys)` will read; the keys are those that `bind` passed."""
    loss = loss_of(name)
    declared, whole = declaration_of(loss).needs, with_defaults(loss, keys)
    asked = declared if isinstance(declared, Needs) else declared(whole)
    return asked._replace(reference=False) if whole.get("reference_free") else asked


def terms(name: str) -> tuple[str, ...]:
    """The terms of a composite loss, each weighted by a key NAME_weight; none where it is of one piece."""
    return declaration_of(loss_of(name)).terms


def at_reference(loss: Callable[[Scores], torch.Tensor], scores: Scores) -> torch.Tensor:
    """The loss's closed form at step 0, where policy and reference are one model: its value at log-ratios of
    0. Returns (N,).
    """
    still = scores._replace(
        policy=scores.reference, kl=None if scores.kl is None else torch.zeros_like(scores.kl)
    )
    return loss(still)
