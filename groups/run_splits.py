"""The splits of a run: which groups of its data sets each has, and which of their examples are taken.

Contract: what is held out of one data set is not trained on, be it in another one. A split without an example
raises `UserError` that says what was left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from groups import compared, loading
from groups.compared import Member
from groups.loading import Reading
from groups.people import Naming, naming_of
from groups.record import Group
from groups.rows import Drops, why_dropped
from groups.spilled import Joined
from groups.splits import keep_apart
from settings import DataSet, TrainSettings
from utils import UserError

if TYPE_CHECKING:  # torch is slow to import, and this is needed for its name alone
    from losses import Needs


Source = tuple[str, str | None, str | None]  # a data set's name, the split that it names, its format


class Split(NamedTuple):
    """What a split has of every data set."""

    members: list[Member]

    @property
    def groups(self) -> Sequence[Group]:
        """All groups, those of one data set behind those of the other."""
        return Joined([member.groups for member in self.members])

    @property
    def dropped(self) -> dict[str, Drops]:
        """What was left out, by data set."""
        return {member.name: member.dropped for member in self.members}


def check_first_rows(settings: TrainSettings, needs: Needs) -> None:
    """Raises UserError where the first rows of a data set are not what the loss needs, or there is no such
    data set: before anything that takes its time.
    """
    naming = naming_for(settings)
    for split, data_sets in sources_of(settings).items():
        for data_set in data_sets:
            taken = data_set.split or split
            groups = loading.first_groups(data_set.name, taken, _reading(settings, data_set))
            for group in groups:
                naming.named(group._replace(dataset=data_set.name))
            compared.compare(groups, settings, needs, Counter())


def naming_for(settings: TrainSettings) -> Naming:
    """How the run's prompts name the people that answer."""
    template = settings.group_template if settings.group_in_prompt else None
    return naming_of(template, [*settings.datasets, *(settings.eval_datasets or [])])


def read_splits(settings: TrainSettings, needs: Needs) -> dict[str, Split]:
    """The train and eval splits of a run, checked against what its loss needs. Raises UserError."""
    sources = sources_of(settings)
    dropped = {split: {of.name: Drops() for of in data_sets} for split, data_sets in sources.items()}
    loaded = _load(sources, settings, dropped)
    loaded["train"] = keep_apart(loaded["train"], loaded["eval"], dropped)
    splits: dict[str, Split] = {}
    for split, data_sets in sources.items():
        members = []
        for name, of_name in loaded[split].items():
            counts = dropped[split][name]
            members.append(compared.count(name, of_name.groups, of_name.marks, settings, needs, counts))
        _check_not_empty(split, members)
        if split == "train":
            members = compared.mixed(members, data_sets, settings.seed)
        splits[split] = Split(members)
    splits["eval"] = _some_of(splits["eval"], settings.n_eval_examples, settings.seed)
    return splits


def _load(
    sources: Mapping[str, Sequence[DataSet]], settings: TrainSettings, dropped: Mapping[str, dict[str, Drops]]
) -> dict[str, dict[str, loading.Loaded]]:
    """What every split has of every data set: {split: {data set: its groups}}."""
    loaded: dict[str, dict[str, loading.Loaded]] = {"train": {}, "eval": {}}
    whole: dict[Source, loading.Everything] = {}  # files that both splits are made of
    for split, data_sets in sources.items():
        for data_set in data_sets:
            counts = dropped[split][data_set.name]
            loaded[split][data_set.name] = _load_for(data_set, split, settings, counts, whole)
    return loaded


def sources_of(settings: TrainSettings) -> dict[str, list[DataSet]]:
    """The data sets of both splits, each once. Raises UserError where entries of one name differ, or one asks
    for a mixture to validate on.
    """
    for data_set in settings.eval_datasets or ():
        if data_set.weight is not None or data_set.n is not None:
            raise UserError(
                f"config key eval_datasets: {data_set.name} has a weight or n, and validation mixes nothing; "
                "remove it, or set n_eval_examples"
            )
    of_splits = {
        "train": ("datasets", settings.datasets),
        "eval": ("eval_datasets", settings.eval_datasets or settings.datasets),
    }
    return {split: each_once(key, data_sets) for split, (key, data_sets) in of_splits.items()}


def each_once(key: str, data_sets: Sequence[DataSet]) -> list[DataSet]:
    """The data sets, each once. Raises UserError where entries of one name differ; key: of the config."""
    by_name: dict[str, DataSet] = {}
    for data_set in data_sets:
        if by_name.setdefault(data_set.name, data_set) != data_set:
            raise UserError(
                f"config key {key}: {data_set.name} stands there twice, and differs; give it once"
            )
    return list(by_name.values())


def _reading(settings: TrainSettings, data_set: DataSet) -> Reading:
    return Reading(
        settings.seed,
        settings.belief_classes,
        settings.pairs_per_prompt,
        settings.eval_fraction,
        data_set.format,
    )


def _load_for(
    data_set: DataSet,
    split: str,
    settings: TrainSettings,
    dropped: Drops,
    whole: dict[Source, loading.Everything],
) -> loading.Loaded:
    """A data set's part of a split; one without splits is taken whole where the run names its eval data."""
    source, reading = (data_set.name, data_set.split, data_set.format), _reading(settings, data_set)
    everything = whole.get(source)
    if everything is None:
        everything = loading.everything_of(data_set, split, reading)
    if everything.whole:
        whole[source] = everything
    if settings.eval_datasets:
        of_split = "all" if everything.whole else split
        return loading.split_of(everything, of_split, reading, dropped)._replace(is_held_out=False)
    return loading.split_of(everything, split, reading, dropped)


def _check_not_empty(split: str, members: Sequence[Member]) -> None:
    """Raises UserError that says what was left out of each data set, and what stands in the other split."""
    if any(member.available for member in members):
        return
    has_groups = any(len(member.groups) for member in members)
    problem, remedy = "has no example left", "add data"
    if not has_groups:
        problem, remedy = "is empty", "add data or set eval_datasets"
    reasons = [f"{m.name}: {why_dropped(m.dropped)}" for m in members if m.dropped.first]
    elsewhere = sum(member.dropped["in_other_splits"] for member in members)
    if elsewhere:
        reasons.append(f"{elsewhere} prompts stand in the other split")
    left_out = f"; left out: {'; '.join(reasons)}" if reasons else ""
    names = [member.name for member in members]
    raise UserError(f"datasets={names}: split {split} {problem}{left_out}; {remedy}")


def _some_of(split: Split, number: int | None, seed: int) -> Split:
    """The split with `number` of its examples (None: all), drawn by the seed."""
    total = sum(member.taken for member in split.members)
    if number is None or number >= total:
        return split
    numbers = np.asarray(drawn(range(total), number, seed))
    members = []
    for member in split.members:
        of_member = numbers[(numbers >= 0) & (numbers < member.taken)]
        members.append(member._replace(chosen=of_member))
        numbers = numbers - member.taken
    return Split(members)


def drawn(values: Sequence, count: int | None, seed: int) -> Sequence:
    """`count` values (None: all) drawn by the seed, in their old order: the first ones would be of a few
    topics.
    """
    if count is None or count >= len(values):
        return values
    chosen = np.random.default_rng(seed).permutation(len(values))[:count]
    return [values[i] for i in sorted(chosen)]
