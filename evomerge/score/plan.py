"""Planning a forward pass over many requests: what is computed once, in which rows and batches.

Requests are paths in a trie of tokens. A row holds a part of it, each node once, with the reach of every
node's subtree, from which the attention mask follows; a head is a prefix that many rows continue from its
cached keys and values. Knows tokens only: no model, no device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest, Request

Form = Literal["plain", "packed", "shared"]
FORMS: tuple[Form, ...] = ("shared", "packed", "plain")
"""How contexts are shared, fewest tokens first: heads across items, by the answers to one context, not at all."""

ROW_TOKENS = 512
"""A part of the trie of at most so many tokens is one row, and needs no head."""

_HEAD_COST = 256
"""Tokens whose computation costs about what a head does beside its own tokens: a pass of one row, wider masks."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Row:
    """Nodes of the trie in depth-first order, below the `head`'s last token. All tensors are int64.

    Node i attends to the head, to itself and to every node j before it with ends[j] > i: its ancestors.
    """

    head: int | None
    start: int
    """Tokens in the head and its own heads."""
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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Block:
    """A part of the requests, answered together: positions in the request list, and the work."""

    requests: tuple[int, ...]
    rows: tuple[Row, ...]
    """By head, parents' before children's; longest first below each."""
    heads: tuple[int, ...]
    """Heads that hold answers of this block or are continued by its rows."""
    generations: tuple[tuple[int, GenerationRequest, int | None], ...]
    """Position in the request list, request, and the head that it continues; by head, longest first."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Plan:
    """Requests in the order and rows in which a model answers them."""

    form: Form
    requests: tuple[Request, ...]
    offsets: tuple[int, ...]
    """Per request, where its answer tokens begin; a generation has none."""
    heads: tuple[Row, ...]
    """Parents before their children."""
    blocks: tuple[Block, ...]
    tokens: Mapping[Form, int]
    """Tokens that each form computes, without padding and without those that are generated."""

    @property
    def num_answers(self) -> int:
        """Tokens in all log-likelihood continuations."""
        return sum(len(one.continuation) for one in self.requests if isinstance(one, LogLikelihoodRequest))


def attention_cost(config: Mapping[str, Any]) -> float:
    """What attending to one more token costs, in units of all other work on a token.

    Args:
        config: contents of the model's config.json. Unknown sizes are taken as those of a small Llama.
    """
    config = config.get("text_config") or config
    hidden = config.get("hidden_size") or config.get("n_embd") or config.get("d_model") or 512
    inner = config.get("intermediate_size") or config.get("n_inner") or 4 * hidden
    inner *= config.get("num_experts_per_tok") or 1
    # 2·hidden multiplications a pair, 4·hidden² + 3·hidden·inner a token; attention runs at about half the speed.
    return float(4 / (4 * hidden + 3 * inner))


def make_plan(
    requests: Sequence[Request],
    form: Form,
    *,
    blocks: Sequence[Sequence[int]] | None = None,
    attention: float = 0.0,
    generation_heads: bool = True,
) -> Plan:
    """Lay out requests in rows.

    Args:
        requests: all of them.
        form: how much is shared.
        blocks: positions of the requests of each block; None: one block of all.
        attention: from `attention_cost`; the larger, the less is packed into one row.
        generation_heads: whether generations may continue heads.
    """
    trie = _Trie(requests, LogLikelihoodRequest)
    contexts = _Trie(requests, GenerationRequest)
    heads: list[Row] = []
    head_of: dict[int, int | None] = dict.fromkeys([*trie.places, *contexts.places])
    if form == "shared":
        for kind in (trie, contexts) if generation_heads else (trie,):
            _add_heads(kind, heads, head_of)
    made = []
    for chosen in [range(len(requests))] if blocks is None else blocks:
        inside = set(chosen)
        places = [place for place in trie.places if place in inside]
        rows: list[Row] = []
        needed: set[int] = set()
        for head in dict.fromkeys(head_of[place] for place in places):
            below = [place for place in places if head_of[place] == head]
            start = 0 if head is None else heads[head].start + heads[head].length
            groups = trie.groups([place for place in below if len(trie.texts[place]) > start], form, start, attention)
            found = [trie.row(group, head=head, start=start) for group in groups]
            rows += sorted(found, key=lambda row: -row.length)
            while head is not None and head not in needed:
                needed.add(head)
                head = heads[head].head
        made.append(
            Block(
                requests=tuple(sorted(inside)),
                rows=tuple(rows),
                heads=tuple(sorted(needed)),
                generations=_generations(requests, sorted(inside), heads, head_of),
            )
        )
    tokens = {"plain": trie.plain_tokens, "packed": trie.packed_tokens}
    tokens[form] = sum(head.length for head in heads) + sum(row.length for block in made for row in block.rows)
    for name in tokens:
        tokens[name] += contexts.plain_tokens
    if form == "shared":
        tokens[form] -= sum(
            heads[head].start + heads[head].length
            for block in made
            for _, _, head in block.generations
            if head is not None
        )
    return Plan(
        form=form,
        requests=tuple(requests),
        offsets=tuple(trie.offsets),
        heads=tuple(heads),
        blocks=tuple(made),
        tokens=tokens,  # type: ignore[arg-type]
    )


def count_tokens(
    requests: Sequence[Request], config: Mapping[str, Any], *, blocks: Sequence[Sequence[int]] | None = None
) -> dict[Form, int]:
    """Tokens that a candidate costs in each form, without those that are generated; fewest first.

    Args:
        requests: all of a split.
        config: contents of the model's config.json.
        blocks: as in `make_plan`.
    """
    attention = attention_cost(config)
    found = {form: make_plan(requests, form, blocks=blocks, attention=attention).tokens[form] for form in FORMS}
    return dict(sorted(found.items(), key=lambda pair: (pair[1], -FORMS.index(pair[0]))))


class _Trie:
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
                else:
                    self.texts[place] = request.context
        self.places = sorted(self.texts, key=lambda place: (self.texts[place], place))

    @property
    def plain_tokens(self) -> int:
        return sum(map(len, self.texts.values()))

    @property
    def packed_tokens(self) -> int:
        return sum(self._size(unit, 0) for unit in self._units(self.places))

    def context(self, place: int) -> tuple[int, ...]:
        return self.requests[place].context

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

    def row(self, places: Sequence[int], *, head: int | None, start: int, stop: int | None = None) -> Row:
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
            head=head,
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


def _add_heads(trie: _Trie, heads: list[Row], head_of: dict[int, int | None]) -> None:
    """Append the heads of a trie, and note the deepest that each request continues."""
    before = len(heads)
    for first, last, depth, parent in _heads(trie):
        above = None if parent is None else before + parent
        start = 0 if above is None else heads[above].start + heads[above].length
        heads.append(trie.row(trie.places[first:last], head=above, start=start, stop=depth))
        head_of.update(dict.fromkeys(trie.places[first:last], len(heads) - 1))


def _heads(trie: _Trie) -> Iterator[tuple[int, int, int, int | None]]:
    """Prefixes worth computing once: range of sorted requests, depth, and the number of the head above."""
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
        if (units - 1) * (shared - depth) > _HEAD_COST:
            yield first, last, shared, parent
            depth, parent = shared, found
            found += 1
        cuts = [first, *(first + 1 + np.flatnonzero(inner == shared)).tolist(), last]
        # Reversed, so that the first is popped first and a head's children follow it.
        waiting += [(one, other, depth, parent) for one, other in pairwise(cuts)][::-1]


def _generations(
    requests: Sequence[Request], chosen: Sequence[int], heads: Sequence[Row], head_of: Mapping[int, int | None]
) -> tuple[tuple[int, GenerationRequest, int | None], ...]:
    """Generations by head, longest first; something of every context is left below its head."""
    found = []
    for place in chosen:
        request = requests[place]
        if isinstance(request, GenerationRequest):
            head = head_of[place]
            while head is not None and heads[head].start + heads[head].length >= len(request.context):
                head = heads[head].head
            found.append((place, request, head))
    return tuple(sorted(found, key=lambda task: (-1 if task[2] is None else task[2], -len(task[1].context), task[0])))


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
