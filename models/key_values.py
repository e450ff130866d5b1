"""Keys and values of what was read so far: of prompts, once for all of their samples, and of new tokens.

Contract: a pass of a model whose attention is SEGMENTS, with one of these passes as `cached_pass`, writes its
keys and values in place and attends to those of its own row alone. A table grows by doubling and is never
copied within a step. Windows, caps and sinks are those that a layer asks its attention for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers.integrations.sdpa_attention import repeat_kv

from models.attention import Extra, attend

LEAST_WIDTH = 32  # tokens that a table has room for at first


class KeysValues(NamedTuple):
    """What one layer keeps: (places, heads, width, D) each."""

    keys: torch.Tensor
    values: torch.Tensor


class Table:
    """Keys and values by layer and place, `width` tokens a place."""

    def __init__(self) -> None:
        self.layers: dict[nn.Module, KeysValues] = {}
        self.places = 0
        self.width = 0

    def reserve(self, places: int, width: int, most_places: int, most_width: int) -> None:
        """Have room for so much. It at least doubles, up to the most that is ever asked for."""
        if places > self.places:
            self.places = min(max(places, 2 * self.places), most_places)
        if width > self.width:
            self.width = min(max(width, 2 * self.width, LEAST_WIDTH), most_width)

    def of(self, layer: nn.Module, key: torch.Tensor, value: torch.Tensor) -> KeysValues:
        """What a layer keeps, with the room that was reserved; heads and widths are those of key and value
        (n, heads, L, D).
        """
        kept = self.layers.get(layer)
        if kept is None or kept.keys.shape[0] < self.places or kept.keys.shape[2] < self.width:
            old = kept or KeysValues(key[:0], value[:0])
            kept = KeysValues(self._grown(old.keys), self._grown(old.values))
            self.layers[layer] = kept
        return kept

    def _grown(self, old: torch.Tensor) -> torch.Tensor:
        """A copy with the room that was reserved. What is masked is multiplied by 0, so it must be finite."""
        places, heads, width, dim = old.shape
        new = old.new_zeros(self.places, heads, self.width, dim)
        if places:
            new[:places, :, :width] = old
        return new

    def move(self, source: int, target: int) -> None:
        """Copy what is kept at one place to another."""
        for kept in self.layers.values():
            for tensor in kept:
                tensor[target] = tensor[source]


def visible(query: torch.Tensor, key: torch.Tensor, window: int | None) -> torch.Tensor:
    """May a token at position `query` look at position `key`? A window holds the token itself."""
    if window is None:
        return key <= query
    return (key <= query) & (query - key < window)


class PromptPass:
    """Prompts (n, L), padded behind their ends, are read into places of a table.

    A layer's windows are kept in `windows`: whether all of those that a model has were asked for.
    """

    def __init__(self, prompts: Table, places: torch.Tensor):
        self.prompts = prompts
        self.places = places  # (n,)
        self.windows: list[int | None] = []  # one a layer

    def attend(
        self,
        layer: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        extra: Extra,
        window: int | None,
    ) -> torch.Tensor:
        """Causal attention (n, H, L, D) -> (n, H, L, D): padding stands behind, where no token looks."""
        self.windows.append(window)
        kept = self.prompts.of(layer, key, value)
        length = key.shape[2]
        kept.keys[self.places, :, :length] = key.to(kept.keys.dtype)
        kept.values[self.places, :, :length] = value.to(kept.values.dtype)
        mask = None
        if window is not None and window < length:
            position = torch.arange(length, device=query.device)
            mask = visible(position[:, None], position, window)
        groups = query.shape[1] // key.shape[1]
        return attend(query, repeat_kv(key, groups), repeat_kv(value, groups), mask, extra)


class Groups(NamedTuple):
    """Which rows continue which prompt: P prompts, of each up to S rows."""

    rows: torch.Tensor  # (P * S,) the rows of every prompt; row 0 where it has fewer than S
    of_row: torch.Tensor  # (n,) where a row stands in them
    num_prompts: int

    def by_prompt(self, x: torch.Tensor) -> torch.Tensor:
        """(n, heads, R, C) by rows -> (P, heads, S * R, C) by prompts."""
        _, heads, repeats, dim = x.shape
        grouped = x[self.rows].view(self.num_prompts, -1, heads, repeats, dim)
        return grouped.transpose(1, 2).reshape(self.num_prompts, heads, -1, dim)

    def by_row(self, x: torch.Tensor, repeats: int) -> torch.Tensor:
        """The way back."""
        num_prompts, heads, _, dim = x.shape
        grouped = x.view(num_prompts, heads, -1, repeats, dim).transpose(1, 2)
        return grouped.reshape(-1, heads, repeats, dim)[self.of_row]


def group_rows(prompt_of_row: Sequence[int], num_prompts: int, device: torch.device) -> Groups:
    """The groups of rows that continue these prompts, each a place below `num_prompts`."""
    rows: list[list[int]] = [[] for _ in range(num_prompts)]
    for row, prompt in enumerate(prompt_of_row):
        rows[prompt].append(row)
    size = max(map(len, rows))
    of_row = [0] * len(prompt_of_row)
    for prompt, members in enumerate(rows):
        for i, row in enumerate(members):
            of_row[row] = prompt * size + i
    padded = [row for members in rows for row in (*members, *[0] * (size - len(members)))]
    return Groups(torch.tensor(padded, device=device), torch.tensor(of_row, device=device), num_prompts)


class Widths(NamedTuple):
    """The longest that any row of a step has, in tokens."""

    prompt: int
    new: int


class StepPass:
    """One new token a row (n, 1): row i of the table of new tokens, behind the prompt at its group's place.

    lengths (n,): of the rows' prompts; counts (n,): of new tokens that are kept of them, before this one.
    """

    def __init__(
        self,
        prompts: Table,
        new: Table,
        groups: Groups,
        lengths: torch.Tensor,
        counts: torch.Tensor,
        widths: Widths,
    ):
        self.prompts, self.new, self.groups = prompts, new, groups
        self.lengths, self.counts, self.widths = lengths, counts, widths
        self.rows = torch.arange(len(lengths), device=lengths.device)
        self.masks: dict[int | None, torch.Tensor] = {}

    def attend(
        self,
        layer: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        extra: Extra,
        window: int | None,
    ) -> torch.Tensor:
        """Attention (n, H, 1, D) -> (n, H, 1, Dv) of every row over its prompt, which rows share, and over
        its own tokens; the softmax is over both.
        """
        num_rows, heads, _, dim = query.shape
        of_prompts = self.prompts.layers[layer]
        of_new = self.new.of(layer, key, value)
        of_new.keys[self.rows, :, self.counts] = key[:, :, 0].to(of_new.keys.dtype)
        of_new.values[self.rows, :, self.counts] = value[:, :, 0].to(of_new.values.dtype)
        shared = _part(of_prompts, self.groups.num_prompts, self.widths.prompt)
        own = _part(of_new, num_rows, self.widths.new)
        repeats = heads // key.shape[1]
        scale = dim**-0.5 if extra.scaling is None else extra.scaling
        query = query.view(num_rows, -1, repeats, dim) * scale
        to_prompt = self.groups.by_prompt(query) @ shared.keys.transpose(2, 3)
        to_new = query @ own.keys.transpose(2, 3)
        scores = torch.cat([self.groups.by_row(to_prompt, repeats), to_new], dim=3)
        weights = self._weights(scores, extra, window).to(own.values.dtype)
        of_prompt, of_own = weights.split([self.widths.prompt, self.widths.new], dim=3)
        seen = self.groups.by_row(self.groups.by_prompt(of_prompt) @ shared.values, repeats)
        return (seen + of_own @ own.values).view(num_rows, heads, 1, -1)

    def _weights(self, scores: torch.Tensor, extra: Extra, window: int | None) -> torch.Tensor:
        """The softmax (n, heads, R, T), fp32, of scores over the prompt's tokens and the new ones."""
        if extra.softcap is not None:
            scores = extra.softcap * torch.tanh(scores / extra.softcap)
        if window not in self.masks:
            self.masks[window] = self._mask(window)
        scores = scores.float() + self.masks[window]
        if extra.sinks is None:
            return scores.softmax(3)
        num_rows, heads, repeats, width = scores.shape
        sinks = extra.sinks.float().view(1, heads, repeats, 1).expand(num_rows, -1, -1, -1)
        return torch.cat([scores, sinks], dim=3).softmax(3)[..., :width]

    def _mask(self, window: int | None) -> torch.Tensor:
        """(n, 1, 1, T) what is added to the scores: nothing, or so much that a token is not seen."""
        device = self.lengths.device
        lengths, counts = self.lengths[:, None], self.counts[:, None]
        in_prompt = torch.arange(self.widths.prompt, device=device)
        in_new = torch.arange(self.widths.new, device=device)
        position = lengths + counts
        of_prompt = (in_prompt < lengths) & visible(position, in_prompt, window)
        of_new = visible(position, lengths + in_new, window)
        hidden = ~torch.cat([of_prompt, of_new], dim=1)[:, None, None]
        lowest = torch.finfo(torch.float32).min
        return torch.zeros(hidden.shape, device=device).masked_fill(hidden, lowest)


def _part(kept: KeysValues, places: int, width: int) -> KeysValues:
    """A view of the first places and tokens."""
    return KeysValues(kept.keys[:places, :, :width], kept.values[:places, :, :width])
