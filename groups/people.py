"""The name of a group of people before the question, so that one model carries many distributions.

Contract: pure. The name stands in the prompt that a model reads and nowhere else: rows of one prompt are held
out together, whoever answers it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from groups.record import Group, Prompt
from groups.rows import usual_role
from settings import DataSet
from utils import UserError

NAME = "{group}"  # in a template


class Naming(NamedTuple):
    """How groups of people are named."""

    template: str | None  # what stands before the question; None: nothing does
    names: Mapping[str, str]  # by data set: what the config calls its people

    def named(self, group: Group) -> Group:
        """The group with its people's name, before its question where there is a template.

        Raises UserError where it has no name, and needs one.
        """
        people = self.names.get(group.dataset, group.people)
        if self.template is None:
            return group if people == group.people else group._replace(people=people)
        if not people:
            raise UserError(
                f"{group.where}: names no group of people, and group_in_prompt=true; add a field group, "
                f"write {{name: {group.dataset or '...'}, group: ...}} where the config names it, or "
                "set group_in_prompt=false"
            )
        prompt = _behind(self.template.replace(NAME, people), group.prompt)
        return group._replace(people=people, prompt=prompt, plain=group.prompt)


def naming_of(template: str | None, data_sets: Iterable[DataSet]) -> Naming:
    """template: None where names stand in no prompt. Raises UserError for a data set of two names."""
    names: dict[str, str] = {}
    for data_set in data_sets:
        if data_set.group and names.setdefault(data_set.name, data_set.group) != data_set.group:
            raise UserError(f"data set {data_set.name}: has two names of its group; give it one")
    return Naming(template, names)


def told_apart(groups: Sequence[Group]) -> list[Group]:
    """The groups under ids that differ between people who were asked the same."""
    people: dict[str, set[str]] = {}
    for group in groups:
        people.setdefault(group.id, set()).add(group.people)
    return [
        group._replace(id=f"{group.id}, {group.people}")
        if group.people and len(people[group.id]) > 1
        else group
        for group in groups
    ]


def _behind(said: str, prompt: Prompt) -> Prompt:
    """A prompt behind some words: of messages the user's last one."""
    if isinstance(prompt, str):
        return said + prompt
    asking = [i for i, message in enumerate(prompt) if usual_role(message["role"]) == "user"]
    place = asking[-1] if asking else len(prompt) - 1
    before, asked, after = prompt[:place], prompt[place], prompt[place + 1 :]
    return [*before, {**asked, "content": said + asked["content"]}, *after]


def names_in(groups: Sequence[Group]) -> list[str]:
    """The groups of people, in the order in which they first come; those without a name are none."""
    return [name for name in dict.fromkeys(group.people for group in groups) if name]
