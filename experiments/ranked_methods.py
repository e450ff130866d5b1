"""The rows of the tables on ranked responses: methods at k responses, which of them are one and the same, and
how many examples see as many responses.

Contract: a row is `method@k`. Rows that are the same loss on the same responses are one run, the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from groups.views import view, with_fewer_responses
from preference_datasets import Group
from utils import UserError

BASE, DPO, SWEPO = "base", "dpo", "swepo_p1"
ON_POLICY, AGAIN = "swepo_p1_on_policy", "swepo_p1_again"  # a second round from the model of the first


class Method(NamedTuple):
    """How a row is trained."""

    title: str
    loss: str  # a file of config/loss/
    responses: str  # config key of train.py
    keys: tuple[str, ...] = ()  # of the loss
    is_of_two: bool = False  # sees two of a prompt's responses, whatever k is


METHODS = {
    DPO: Method("DPO, best vs worst", "dpo", "pairs.best_vs_worst", is_of_two=True),
    "dpo_random": Method("DPO, best vs random", "dpo", "pairs.best_vs_random", is_of_two=True),
    "dpo_rest": Method("DPO x (k-1)", "dpo", "pairs.best_vs_rest"),
    "dpo_all": Method("DPO x C(k,2)", "dpo", "pairs.all"),
    "infonca": Method("InfoNCA", "infonca", "ranked"),
    "nca": Method("NCA", "nca", "ranked"),
    "swepo_p0": Method("Swepo, p = 0", "swepo", "ranked", ("loss.power=0",)),
    SWEPO: Method("Swepo, p = 1", "swepo", "ranked", ("loss.power=1",)),
    "swepo_p2": Method("Swepo, p = 2", "swepo", "ranked", ("loss.power=2",)),
    "swepo_1vsk": Method("Swepo 1 vs k, p = 0", "swepo", "ranked", ("loss.positives=best", "loss.power=0")),
    "swepo_signed": Method("Swepo, signed", "swepo", "ranked", ("loss.weighting=signed",)),
}
ROUNDS = {ON_POLICY: "Swepo, then on-policy", AGAIN: "Swepo, then the same data again"}
# of two responses these are DPO on them: all pairs are one, and weights of Swepo cancel or are alike
DPO_OF_TWO = ("dpo_random", "dpo_rest", "dpo_all", "swepo_p0", SWEPO, "swepo_p2", "swepo_1vsk")


class Row(NamedTuple):
    """A method at k responses of a prompt."""

    method: str
    k: int

    @property
    def name(self) -> str:
        return f"{self.method}@{self.k}"


def row_of(name: str) -> Row:
    """`Row.name`, read."""
    method, _, k = name.rpartition("@")
    return Row(method, int(k))


def title_of(name: str) -> str:
    """A row's name for readers."""
    if name == BASE:
        return "base"
    row = row_of(name)
    title = ROUNDS.get(row.method) or METHODS[row.method].title
    return title if row.method == DPO else f"{title}, k = {row.k}"


def same_as(row: Row, counts: Sequence[int]) -> Row:
    """The row whose run this one is: itself, or DPO of the best and the worst, which every k keeps."""
    if row.method == DPO or (row.k == 2 and row.method in DPO_OF_TWO):
        return Row(DPO, min(counts))
    return row


def rows_of(methods: Sequence[str], counts: Sequence[int]) -> list[Row]:
    """The rows that are runs of their own."""
    every = [same_as(Row(method, k), counts) for k in counts for method in methods]
    return list(dict.fromkeys(every))


def equal_rows(methods: Sequence[str], counts: Sequence[int]) -> dict[str, str]:
    """By the name of a row that is no run of its own: the one that it is equal to."""
    every = [Row(method, k) for k in counts for method in methods]
    return {row.name: same_as(row, counts).name for row in every if same_as(row, counts) != row}


# --- how many examples see as many responses ----------------------------------------------------------------


class Load(NamedTuple):
    """What a visit of one prompt is, in the mean."""

    responses: int  # that are encoded
    examples: float  # that a step counts

    def examples_of(self, responses: float) -> int:
        """Examples that see so many responses; at least one."""
        return max(1, round(responses / self.responses * self.examples))


def load_of(row: Row, groups: Sequence[Group]) -> Load:
    """Examples a prompt, counted on the data: ties make fewer pairs than k (k - 1) / 2.

    Raises UserError where no prompt has k responses, or none has a preference.
    """
    if max(len(group.responses) for group in groups) < row.k:
        raise UserError(f"counts=[...,{row.k}]: no prompt has {row.k} responses; leave it out")
    method = METHODS[row.method]
    responses = 2 if method.is_of_two else row.k
    if method.responses not in ("pairs.best_vs_rest", "pairs.all"):
        return Load(responses, 1.0)
    kept = [with_fewer_responses(group, row.k, seed=0) for group in groups]
    examples = view(kept, method.responses)
    prompts = len({example.group for example in examples})
    if not prompts:
        raise UserError("dataset: no prompt has rewards that differ; give another data set")
    return Load(responses, len(examples) / prompts)
