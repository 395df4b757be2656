"""Prefixes that requests share, and the rows of tokens that are left to compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest, Request

Form = Literal["plain", "packed", "shared"]
FORMS: tuple[Form, ...] = ("shared", "packed", "plain")
"""How contexts are shared, fewest tokens first: prefixes across items, by the answers to one context, not at all."""

ROW_TOKENS = 512
"""A part of the trie of at most so many tokens is one row, and needs no prefix."""

_PREFIX_COST = 256
"""Tokens whose computation costs about what a prefix does beside its own tokens: a pass of one row, wider masks."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Row:
    """Nodes of the trie in depth-first order, below the `prefix`'s last token. All tensors are int64.

    Node i attends to the prefix, to itself and to every node j before it with ends[j] > i: its ancestors.
    """

    prefix: int | None
    start: int
    """Tokens in the prefix and its own prefixes."""
    tokens: Tensor
    positions: Tensor
    ends: Tensor
    reads: Tensor
    """Nodes whose next token is asked for."""
    picks: Tensor
    """Per answer token: which of `reads` it is read from."""
    wanted: Tensor
    """Per answer token: the token."""
    slots: Tensor
    """Per answer token: its place among all answer tokens of the plan."""

    @property
    def length(self) -> int:
        """Number of nodes."""
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Whether every node's only child is the next one, so that an ordinary causal mask will do."""
        return bool((self.ends == self.length).all())


class Trie:
    """Requests of one kind as sorted texts: the context, and a continuation without its last token."""

    def __init__(self, requests: Sequence[Request], kind: type[Request]) -> None:
        self.requests = requests
        self.offsets: list[int] = []
        self.texts: dict[int, tuple[int, ...]] = {}
        total = 0
        for place, request in enumerate(requests):
            self.offsets.append(total)
            if isinstance(request, kind):
                if isinstance(request, LogLikelihoodRequest):
                    self.texts[place] = request.context + request.continuation[:-1]
                    total += len(request.continuation)
                elif isinstance(request, GenerationRequest):
                    self.texts[place] = request.context
        self.places = sorted(self.texts, key=lambda place: (self.texts[place], place))

    @property
    def plain_tokens(self) -> int:
        """Tokens of all contexts, each computed by itself."""
        return sum(map(len, self.texts.values()))

    @property
    def packed_tokens(self) -> int:
        """Tokens of all contexts, what they share computed once."""
        return sum(self._size(unit, 0) for unit in self._units(self.places))

    def context(self, place: int) -> tuple[int, ...]:
        """The tokens that a request's answer follows."""
        request = self.requests[place]
        assert isinstance(request, LogLikelihoodRequest | GenerationRequest)
        return request.context

    def groups(self, places: list[int], form: Form, start: int, attention: float) -> list[list[int]]:
        """Requests, in sorted order, that share a row."""
        if form == "plain":
            return [[place] for place in places]
        units = self._units(places)
        if form == "packed":
            return units
        units.sort(key=lambda unit: self.texts[unit[0]])
        groups: list[list[int]] = []
        size = 0
        for unit in units:
            own = self._size(unit, start)
            if groups:
                shared = common(self.texts[groups[-1][-1]], self.texts[unit[0]]) - start
                joint = size + own - shared
                # Neighbours in a row see each other's columns, masked: that is the price of the shared tokens.
                if joint <= ROW_TOKENS and shared > (joint**2 - size**2 - own**2) * attention:
                    groups[-1] += unit
                    size = joint
                    continue
            groups.append(list(unit))
            size = own
        return [sorted(group, key=lambda place: (self.texts[place], place)) for group in groups]

    def row(self, places: Sequence[int], *, prefix: int | None, start: int, stop: int | None = None) -> Row:
        """The part of the trie that sorted requests span from depth `start`, up to depth `stop` if given."""
        tokens: list[int] = []
        positions: list[int] = []
        ends: list[int] = []
        path: list[int] = []
        reads: dict[int, int] = {}
        picks: list[int] = []
        wanted: list[int] = []
        slots: list[int] = []
        before: tuple[int, ...] = ()
        for place in places:
            text = self.texts[place][:stop]
            kept = max(0, common(before, text) - start)
            for node in path[kept:]:
                ends[node] = len(tokens)
            del path[kept:]
            for depth in range(start + kept, len(text)):
                path.append(len(tokens))
                tokens.append(text[depth])
                positions.append(depth)
                ends.append(0)
            before = text
            request = self.requests[place]
            if not isinstance(request, LogLikelihoodRequest):
                continue
            first = len(request.context) - 1
            for step in range(max(0, start - first), min(len(request.continuation), len(text) - first)):
                picks.append(reads.setdefault(path[first + step - start], len(reads)))
                wanted.append(request.continuation[step])
                slots.append(self.offsets[place] + step)
        for node in path:
            ends[node] = len(tokens)
        columns = (torch.tensor(column, dtype=torch.int64) for column in (tokens, positions, ends, list(reads)))
        tokens_n, positions_n, ends_n, reads_r = columns
        return Row(
            prefix=prefix,
            start=start,
            tokens=tokens_n,
            positions=positions_n,
            ends=ends_n,
            reads=reads_r,
            picks=torch.tensor(picks, dtype=torch.int64),
            wanted=torch.tensor(wanted, dtype=torch.int64),
            slots=torch.tensor(slots, dtype=torch.int64),
        )

    def _units(self, places: Sequence[int]) -> list[list[int]]:
        """Requests with the same context together, in order of first appearance."""
        units: dict[tuple[int, ...], list[int]] = {}
        for place in places:
            units.setdefault(self.context(place), []).append(place)
        return list(units.values())

    def _size(self, places: Sequence[int], start: int) -> int:
        """Nodes that sorted requests span below depth `start`."""
        size, before = 0, ()
        for place in places:
            text = self.texts[place]
            size += len(text) - max(start, common(before, text))
            before = text  # type: ignore[assignment]
        return size


def shared_prefixes(trie: Trie) -> Iterator[tuple[int, int, int, int | None]]:
    """Prefixes worth computing once: range of sorted requests, depth, and the number of the prefix above."""
    texts = [trie.texts[place] for place in trie.places]
    if not texts:
        return
    alike = np.array([0, *(common(one, other) for one, other in pairwise(texts))])
    lengths = np.array([len(text) for text in texts])
    contexts = [trie.context(place) for place in trie.places]
    new_unit = np.array([1, *(one != other for one, other in pairwise(contexts))])
    found = 0
    waiting: list[tuple[int, int, int, int | None]] = [(0, len(texts), 0, None)]
    while waiting:
        first, last, depth, parent = waiting.pop()
        if last - first < 2:
            continue
        inner = alike[first + 1 : last]
        if lengths[first] - depth + int((lengths[first + 1 : last] - inner).sum()) <= ROW_TOKENS:
            continue
        shared = int(inner.min())
        units = int(new_unit[first + 1 : last].sum()) + 1
        if (units - 1) * (shared - depth) > _PREFIX_COST:
            yield first, last, shared, parent
            depth, parent = shared, found
            found += 1
        cuts = [first, *(first + 1 + np.flatnonzero(inner == shared)).tolist(), last]
        # Reversed, so that the first is popped first and a prefix's children follow it.
        waiting += [(one, other, depth, parent) for one, other in pairwise(cuts)][::-1]


def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Number of first tokens that two sequences share."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    low, high = 0, shorter - 1
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
