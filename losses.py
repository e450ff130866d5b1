"""The papers' objectives as functions of small tables: log-probs of N examples with K responses in, N losses
out.

Contract: every loss is `name(scores, **keys) -> (N,)`, a pure function of `Scores` in fp32; `LOSSES` maps
config names to them, and a config's `loss` section is bound to the signature, so a key that a loss does not
take is an error. Log-probs are sums in nats. r = policy - reference is the log-ratio, beta * r the implied
reward. Column 0 is the preferred response; an example that has but one of the two sides of a preference
leaves the other column invalid.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch
import torch.nn.functional as F


class Bounds(NamedTuple):
    """The range [least, below) of a key that is a number; `said` in words."""

    least: float
    below: float
    said: str


Positive = Annotated[float, Bounds(math.ulp(0.0), math.inf, "greater than 0")]
NotNegative = Annotated[float, Bounds(0.0, math.inf, "0 or more")]
Smoothing = Annotated[float, Bounds(0.0, 0.5, "in [0, 0.5)")]
Direction = Literal["forward", "reverse", "js"]
Support = Literal["vocab", "classes"]
Preference = Literal["dpo", "ipo", "kto", "infonca", "nca", "swepo"]  # a pair's loss, or that of K answers
Keys = Mapping[str, Any]  # of a loss, as its YAML has them
ONE_HOT = 1e3  # a difference of rewards, in temperatures, beside which a softmax is exactly 1 and 0
REWARD_ROUNDING = 2.0**-23  # of single precision; the data's tolerance in `trees` is the same


class Scores(NamedTuple):
    """What a loss may look at: N examples, K responses, C belief classes.

    Log-probs are sums over tokens, in nats, fp32.
    """

    policy: torch.Tensor  # (N, K) log pi(y | x), or log pi(y | x, b) where answers stand under a belief
    reference: torch.Tensor  # (N, K) the same under the reference, no gradient; NaN where it was not computed
    length: torch.Tensor  # (N, K) scored tokens of each response
    reward: torch.Tensor  # (N, K)
    valid: torch.Tensor  # (N, K) bool: False where an example has fewer than K responses
    class_logps: torch.Tensor | None = None  # (N, C) log q_k over the vocabulary at the last prompt token
    class_probs: torch.Tensor | None = None  # (N, C) the group's p*
    belief_logp: torch.Tensor | None = None  # (N,) log pi(b | x) of the accepted belief
    belief_length: torch.Tensor | None = None  # (N,) tokens that it sums over
    kl: torch.Tensor | None = None  # () mean log-ratio of mismatched pairs over the whole step, no gradient
    deviation: torch.Tensor | None = (
        None  # (N, K) of rewards from their mean, as the data decided; None: not yet
    )


def sft(scores: Scores) -> torch.Tensor:
    """Negative log-likelihood of the target, mean over its tokens: -(1/T) log pi(y | x). Returns (N,)."""
    return -scores.policy[:, 0] / scores.length[:, 0]


def log_ratio_margin(scores: Scores, reference_free: bool = False) -> torch.Tensor:
    """h = r_w - r_l (N,) of the two responses of each example; reference_free takes r = log pi."""
    ratio = scores.policy if reference_free else scores.policy - scores.reference
    return ratio[:, 0] - ratio[:, 1]


def dpo(
    scores: Scores, beta: Positive, label_smoothing: Smoothing = 0.0, reference_free: bool = False
) -> torch.Tensor:
    """DPO, arXiv 2305.18290 eq. 7: -log sigmoid(beta h). Returns (N,).

    `label_smoothing` e > 0 is conservative DPO (cDPO): -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h).
    """
    logits = beta * log_ratio_margin(scores, reference_free)
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


def ipo(scores: Scores, beta: Positive, length_normalize: bool = False) -> torch.Tensor:
    """IPO, arXiv 2310.12036 eq. 17: (h - 1 / (2 beta))^2, h from summed log-probs as in the DPO repository.
    Returns (N,).

    length_normalize takes each response's mean log-ratio a token instead, the reading of TRL and of the
    paper's authors.
    """
    ratio = scores.policy - scores.reference
    if length_normalize:
        ratio = ratio / scores.length
    return (ratio[:, 0] - ratio[:, 1] - 1 / (2 * beta)) ** 2


def kto(
    scores: Scores, beta: Positive, desirable_weight: NotNegative = 1.0, undesirable_weight: NotNegative = 1.0
) -> torch.Tensor:
    """KTO, arXiv 2402.01306: w_d (1 - sigmoid(beta (r - z0))) of a desirable response, w_u (1 - sigmoid(beta
    (z0 - r))) of an undesirable one, averaged over the responses of each example. Returns (N,).

    Column 0 is desirable, all others are not; examples with one response leave the other columns invalid. z0
    = max(0, kl), from the mismatched pairs of the whole step, so either kind may be absent from a pack.
    """
    z0 = scores.kl.detach().clamp_min(0.0)
    ratio = (scores.policy - scores.reference).masked_fill(~scores.valid, 0.0)
    # 1 - sigmoid(x) = sigmoid(-x), without cancellation
    desirable = desirable_weight * torch.sigmoid(beta * (z0 - ratio[:, :1]))
    undesirable = undesirable_weight * torch.sigmoid(beta * (ratio - z0))
    terms = torch.cat([desirable, undesirable[:, 1:]], dim=1)
    return terms.masked_fill(~scores.valid, 0.0).sum(-1) / scores.valid.sum(-1)


def implied_rewards(scores: Scores, beta: float) -> torch.Tensor:
    """beta * (policy - reference), (N, K); -inf where an example has no such response, so that a softmax
    leaves it out.
    """
    return (beta * (scores.policy - scores.reference)).masked_fill(~scores.valid, -math.inf)


def soft_targets(scores: Scores, temperature: float) -> torch.Tensor:
    """t = softmax(reward / temperature) over the responses of each example, (N, K); 0 where there is none.

    Temperature 0 is the limit: all mass on the best response, shared equally where several are best.
    """
    if temperature == 0:
        level = deviations(scores).masked_fill(~scores.valid, -math.inf)
        best = (level == level.max(-1, keepdim=True).values).to(scores.policy.dtype)
        return best / best.sum(-1, keepdim=True)
    return (scores.reward / temperature).masked_fill(~scores.valid, -math.inf).softmax(-1)


def infonca(scores: Scores, beta: Positive, temperature: NotNegative) -> torch.Tensor:
    """InfoNCA, arXiv 2402.05369: -sum_i t_i log softmax(beta r)_i with soft targets t from the rewards.
    Returns (N,).
    """
    log_p = implied_rewards(scores, beta).log_softmax(-1).masked_fill(~scores.valid, 0.0)
    return -(soft_targets(scores, temperature) * log_p).sum(-1)


def nca(scores: Scores, beta: Positive, temperature: NotNegative) -> torch.Tensor:
    """NCA, arXiv 2402.05369: -sum_i t_i log sigmoid(beta r_i) - (1/K) sum_i log sigmoid(-beta r_i). Returns
    (N,).
    """
    s = implied_rewards(scores, beta).masked_fill(~scores.valid, 0.0)
    count = scores.valid.sum(-1, keepdim=True)
    terms = soft_targets(scores, temperature) * F.logsigmoid(s) + F.logsigmoid(-s) / count
    return -terms.masked_fill(~scores.valid, 0.0).sum(-1)


def deviations(scores: Scores, standardize: bool = False) -> torch.Tensor:
    """dS_i = S_i - mean(S) over the responses of each example, (N, K), 0 where there is none; in standard
    deviations if asked.

    What the data decided, in float64 (`trees.deviations`); else computed here, in float64. Exactly 0 for a
    reward at the mean.
    """
    deviation = scores.deviation
    if deviation is None:
        deviation = reward_deviations(scores.reward, scores.valid)
    if standardize:
        count = scores.valid.sum(-1, keepdim=True)
        deviation = deviation / (deviation.square().sum(-1, keepdim=True) / count).sqrt().clamp_min(1e-12)
    return deviation


def reward_deviations(reward: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Deviations (N, K) of rewards (N, K) from their mean in each row, in the dtype of the rewards.

    A reward counts as at the mean, and gets exactly 0, where it is no further from it than a few roundings of
    its dtype (at least of single precision) of the largest reward, or of 1 where all are smaller.
    """
    rounding = max(torch.finfo(reward.dtype).eps, REWARD_ROUNDING)
    exact = reward.double().masked_fill(~valid, 0.0)
    count = valid.sum(-1, keepdim=True).clamp_min(1)
    deviation = (exact - exact.sum(-1, keepdim=True) / count).masked_fill(~valid, 0.0)
    tolerance = rounding * exact.abs().amax(-1, keepdim=True).clamp_min(1.0)
    return deviation.masked_fill(deviation.abs() <= tolerance, 0.0).to(reward.dtype)


def swepo(
    scores: Scores,
    beta: Positive,
    alpha: float,
    power: Literal[0, 1, 2] = 1,
    weighting: Literal["exp", "power", "signed"] = "exp",
    positives: Literal["above_mean", "best"] = "above_mean",
    standardize: bool = False,
) -> torch.Tensor:
    """Swepo, arXiv 2412.04628: contrast all K scored responses at once, weighted by their deviation from the
    mean. Returns (N,).

    -log(sum over Y+ of w e^(beta r) / sum over Y of w e^(beta r)), Y+ = {dS > 0} or, with positives="best",
    the best response. log w = alpha |dS|^power (exp, eq. 5-14), power log |dS| (power, eq. 15-16), or alpha
    dS^power (signed); no gradient. An example whose rewards are all equal has no Y+ and must have been left
    out: its loss is infinite.
    """
    deviation = deviations(scores, standardize).detach()
    if weighting == "exp":
        log_w = alpha * deviation.abs() ** power
    elif weighting == "signed":
        log_w = alpha * deviation**power
    else:
        log_w = power * deviation.abs().log() if power else torch.zeros_like(deviation)
    z = implied_rewards(scores, beta) + log_w
    if positives == "above_mean":
        positive = deviation > 0
    else:
        level = deviation.masked_fill(~scores.valid, -math.inf)
        positive = F.one_hot(level.argmax(-1), level.shape[-1]).bool()
    return z.logsumexp(-1) - z.masked_fill(~positive, -math.inf).logsumexp(-1)


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


def gdpo(
    scores: Scores,
    beta: Positive,
    calibration_weight: float = 1.0,
    belief_weight: float = 1.0,
    preference_weight: float = 1.0,
    kl_direction: Direction = "forward",
    kl_support: Support = "vocab",
    belief_reduction: Literal["mean", "sum"] = "mean",
    preference: Preference = "dpo",
    preference_keys: Keys | None = None,
) -> torch.Tensor:
    """Group Distributional Preference Optimization, arXiv 2412.20299, as its released `loss=mpo` computes it.
    Returns (N,).

    w_cal KL(p* || q) + w_belief NLL(b_w | x) + w_pref l_pref(y_w > y_l | b_w, x), all from one forward pass:
    q over the belief classes at the last prompt token, the accepted belief's tokens, and both answers under
    that same belief. `preference` names the loss of l_pref and `preference_keys` its keys beside beta: dpo
    (cDPO with label_smoothing), ipo, kto, or, where K answers stand under the belief, infonca, nca or swepo.
    A term of weight 0 is left out altogether.
    """
    total = torch.zeros_like(scores.policy[:, 0])
    if calibration_weight:
        total = total + calibration_weight * calibration(scores, kl_direction, kl_support)
    if belief_weight:
        tokens = scores.belief_length if belief_reduction == "mean" else 1.0
        total = total - belief_weight * scores.belief_logp / tokens
    if preference_weight:
        total = total + preference_weight * LOSSES[preference](scores, beta, **(preference_keys or {}))
    return total


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "sft": sft,
    "dpo": dpo,
    "ipo": ipo,
    "kto": kto,
    "infonca": infonca,
    "nca": nca,
    "swepo": swepo,
    "gdpo": gdpo,
}
RANKED = ("infonca", "nca", "swepo")  # take any number of scored responses an example


class Needs(NamedTuple):
    """What a bound loss asks of the data.

    `columns`: any, pair (two responses), side (a pair or one side of it), or several (two or more).
    `mismatched`: the mean log-ratio of mismatched pairs (`Scores.kl`). `pair_reward`: what a pair without
    rewards gives its preferred response; None: rewards are not made up.
    """

    reference: bool
    columns: Literal["any", "pair", "side", "several"]
    rewards: bool
    beliefs: bool
    mismatched: bool
    pair_reward: float | None = None


def needs(name: str, keys: Keys) -> Needs:
    """What `LOSSES[name](scores, **keys)` will read."""
    if name == "gdpo":
        return _gdpo_needs(keys)
    columns = {"sft": "any", "kto": "side"}.get(name, "several" if name in RANKED else "pair")
    return Needs(
        reference=name != "sft" and not keys.get("reference_free", False),
        columns=columns,
        rewards=name in RANKED,
        beliefs=False,
        mismatched=name == "kto",
        pair_reward=_pair_reward(name, keys),
    )


def _pair_reward(name: str, keys: Keys) -> float | None:
    """The reward of a pair's preferred response beside 0 for the other, where the data have none.

    Soft targets of such a pair are all on its preferred response; Swepo's weights of two are alike.
    """
    if name not in RANKED:
        return None
    return 1.0 if name == "swepo" else ONE_HOT * max(1.0, keys.get("temperature", 1.0))


def _gdpo_needs(keys: Keys) -> Needs:
    """What its preference term reads, beside the beliefs; an answer pair may not lack a side."""
    if not keys.get("preference_weight", 1.0):
        return Needs(reference=False, columns="any", rewards=False, beliefs=True, mismatched=False)
    term = needs(keys.get("preference", "dpo"), keys.get("preference_keys") or {})
    columns = "pair" if term.columns == "side" else term.columns
    return term._replace(beliefs=True, columns=columns)


def at_reference(loss: Callable[[Scores], torch.Tensor], scores: Scores) -> torch.Tensor:
    """The loss's closed form at step 0, where policy and reference are one model: its value at log-ratios of
    0. Returns (N,).
    """
    still = scores._replace(
        policy=scores.reference, kl=None if scores.kl is None else torch.zeros_like(scores.kl)
    )
    return loss(still)


def bind(name: str, keys: Keys) -> None:
    """Check a loss's config keys against its signature.

    Raises ValueError with one line that names the key and the remedy: unknown loss or key, a missing one, a
    wrong value.
    """
    if name not in LOSSES:
        raise ValueError(f"loss.name={name}: no such loss; choose one of {', '.join(sorted(LOSSES))}")
    hints = get_type_hints(LOSSES[name], include_extras=True)
    parameters = dict(list(inspect.signature(LOSSES[name]).parameters.items())[1:])
    for key, value in keys.items():
        if key not in parameters:
            known = ", ".join(parameters) or "none"
            raise ValueError(f"loss.{key}: {name} takes no such key; it takes {known}")
        _check_value(key, value, hints[key])
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in keys:
            raise ValueError(f"loss.{key}: {name} needs this key; set loss.{key}=...")
    if name == "gdpo" and keys.get("preference_weight", 1.0):
        _bind_preference(keys)


def _check_value(key: str, value: object, hint: object) -> None:
    """Raises ValueError where a key's value is not what the signature's annotation says."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"loss.{key}={value}: choose one of {', '.join(map(str, get_args(hint)))}")
    elif hint is bool:
        if not isinstance(value, bool):
            raise ValueError(f"loss.{key}={value}: must be true or false")
    elif hint is float or get_origin(hint) is Annotated:
        _check_number(key, value, get_args(hint)[1:])
    elif not isinstance(value, Mapping | None):
        raise ValueError(f"loss.{key}={value}: must be a section of keys")


def _check_number(key: str, value: object, bounds: tuple[Bounds, ...]) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not abs(value) < 1e300:
        raise ValueError(f"loss.{key}={value}: must be a finite number")
    for bound in bounds:
        if not bound.least <= value < bound.below:
            raise ValueError(f"loss.{key}={value}: must be {bound.said}")


def _bind_preference(keys: Keys) -> None:
    """Check the keys of GDPO's preference term, which are those of the loss that it names."""
    inner = dict(keys.get("preference_keys") or {})
    if "beta" in inner:
        raise ValueError("loss.preference_keys.beta: the preference term takes loss.beta; remove the key")
    try:
        bind(keys.get("preference", "dpo"), {"beta": keys["beta"], **inner})
    except ValueError as error:
        raise ValueError(str(error).replace("loss.", "loss.preference_keys.", 1)) from error
