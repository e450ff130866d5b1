"""The terms of a composite loss, by name, for the log.

Contract: a term is its loss with that term's weight at 1 and the other weights at 0, so the loss's equation
stands in one place. A term whose weight is 0 is left out, as in the loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch

from losses import Keys, Scores, loss_of, terms
from measures.examples import Column
from objectives.keys import with_defaults

Terms = Mapping[str, Callable[[Scores], torch.Tensor]]  # name -> (N,) values of a term


def terms_of(name: str, keys: Keys) -> Terms:
    """The terms that the loss `name` declares, with these keys; none where it is of one piece."""
    declared = terms(name)
    nothing = {f"{term}_weight": 0.0 for term in declared}
    whole = with_defaults(loss_of(name), keys)
    chosen = [term for term in declared if whole[f"{term}_weight"]]
    return {
        term: functools.partial(loss_of(name), **{**keys, **nothing, f"{term}_weight": 1.0})
        for term in chosen
    }


@torch.no_grad()
def term_columns(of_loss: Terms, scores: Scores) -> dict[str, Column]:
    """What is logged of each term, without its weight: see `example_metrics`."""
    everyone = torch.ones(len(scores.policy), dtype=torch.bool, device=scores.policy.device)
    return {f"{name}_{{}}": (term(scores), everyone) for name, term in of_loss.items()}
