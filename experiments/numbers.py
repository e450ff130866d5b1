"""Numbers of the results' file as tables need them: means over seeds question by question, intervals over
questions, spread over seeds, paired differences.

Contract: a seed is no more than a repetition: values are averaged over seeds first, and questions are what is
drawn anew. Where a question has no value under a seed, the others count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.results import refusing_damage
from measures.differences import Difference, holm, summarize_difference
from measures.summaries import Summary, summarize

Values = Sequence[float | None]  # (Q,) of a population's questions


class Part(NamedTuple):
    """One population on one split."""

    group: str
    split: str


class Spread(NamedTuple):
    """Means under each seed: their standard deviation, None of one seed, and their range."""

    sd: float | None
    least: float
    most: float


class Compared(NamedTuple):
    """One row's measure minus another row's."""

    metric: str
    a: str
    b: str
    difference: Difference
    p_holm: float | None  # of all comparisons of the metric in this part


class Numbers:
    """The values of a results' file. Raises UserError where it is damaged."""

    def __init__(self, results: Mapping[str, object]):
        self.weights: dict[Part, list[float]] = {}
        self.prompts: dict[Part, int] = {}
        self.values: dict[tuple[Part, str, str], dict[str, Values]] = {}  # by part, method, metric; seed
        self.references: dict[tuple[Part, str], dict[str, Summary]] = {}  # by part and row; metric
        with refusing_damage():
            self._read(results)

    def _read(self, results: Mapping[str, object]) -> None:
        for line in results["questions"]:
            part = Part(line["group"], line["split"])
            self.weights[part], self.prompts[part] = line["weights"], line["prompts"]
        for line in results["values"]:
            part = Part(line["group"], line["split"])
            if len(line["values"]) != len(self.weights[part]):
                raise LookupError(f"{line['method']}, {line['metric']}: not one value a question")
            of_seeds = self.values.setdefault((part, line["method"], line["metric"]), {})
            of_seeds[line["seed"]] = line["values"]
        for line in results["references"]:
            row = self.references.setdefault((Part(line["group"], line["split"]), line["row"]), {})
            row[line["metric"]] = {key: line[key] for key in ("value", "low", "high", "n")}

    @property
    def parts(self) -> list[Part]:
        return list(self.weights)

    def methods(self, part: Part) -> list[str]:
        """The rows of a part, in the order of the file."""
        return list(dict.fromkeys(method for of, method, _ in self.values if of == part))

    def mean_over_seeds(self, part: Part, method: str, metric: str) -> list[float | None]:
        """(Q,) by question; None where no seed has a value."""
        of_seeds = self.values.get((part, method, metric), {})
        means = []
        for column in zip(*of_seeds.values()):
            known = [value for value in column if value is not None]
            means.append(sum(known) / len(known) if known else None)
        return means or [None] * len(self.weights[part])

    def summary(self, part: Part, method: str, metric: str) -> Summary | None:
        """Mean with its interval over questions, of two or more; None where nothing was measured."""
        values = self.mean_over_seeds(part, method, metric)
        held = [i for i, value in enumerate(values) if value is not None]
        if not held:
            return None
        weights = [self.weights[part][i] for i in held]
        found = summarize([values[i] for i in held], weights=weights)
        return found if len(held) > 1 else {**found, "low": None, "high": None}

    def spread(self, part: Part, method: str, metric: str) -> Spread | None:
        """Of the means under each seed; None where nothing was measured."""
        means = []
        for values in self.values.get((part, method, metric), {}).values():
            held = [i for i, value in enumerate(values) if value is not None]
            if held:
                weights = [self.weights[part][i] for i in held]
                means.append(float(np.average([values[i] for i in held], weights=weights)))
        if not means:
            return None
        return Spread(float(np.std(means, ddof=1)) if len(means) > 1 else None, min(means), max(means))

    def difference(self, part: Part, a: str, b: str, metric: str) -> Difference | None:
        """a minus b, paired by question; None where no question has both."""
        values = [self.mean_over_seeds(part, method, metric) for method in (a, b)]
        found = summarize_difference(*values, weights=self.weights[part])
        return found if found["n"] else None

    def compared(self, part: Part, metric: str, to: Sequence[str]) -> list[Compared]:
        """Every row against each row of `to`, with p adjusted for all of them."""
        pairs = []
        for b in to:
            for a in self.methods(part):
                is_earlier = a in to and to.index(a) <= to.index(b)
                found = None if is_earlier else self.difference(part, a, b, metric)
                if found is not None:
                    pairs.append((a, b, found))
        adjusted = holm([found["p"] for _, _, found in pairs])
        return [Compared(metric, a, b, found, p) for (a, b, found), p in zip(pairs, adjusted)]
