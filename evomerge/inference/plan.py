"""Planning a forward pass over many requests: what is computed once, in which rows and batches.

Requests are paths in a trie of tokens. A row holds a part of it, each node once, with the reach of every
node's subtree, from which the attention mask follows; a prefix is a prefix that many rows continue from its
cached keys and values. Knows tokens only: no model, no device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evomerge.inference.batches import Costs, batches, cost_of, most_tokens
from evomerge.inference.trie import FORMS, Form, Row, Trie, shared_prefixes
from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest, Request


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Block:
    """A part of the requests, answered together: positions in the request list, and the work."""

    requests: tuple[int, ...]
    rows: tuple[Row, ...]
    """By prefix, parents' before children's; longest first below each."""
    prefixes: tuple[int, ...]
    """Prefixes that hold answers of this block or are continued by its rows."""
    generations: tuple[tuple[int, GenerationRequest, int | None], ...]
    """Position in the request list, request, and the prefix that it continues; by prefix, longest first."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Plan:
    """Requests in the order and rows in which a model answers them."""

    form: Form
    requests: tuple[Request, ...]
    offsets: tuple[int, ...]
    """Per request, where its answer tokens begin; a generation has none."""
    prefixes: tuple[Row, ...]
    """Parents before their children."""
    blocks: tuple[Block, ...]
    tokens: Mapping[Form, int]
    """Tokens that each form computes, without padding and without those that are generated."""

    @property
    def num_answers(self) -> int:
        """Tokens in all log-likelihood continuations."""
        return sum(len(one.continuation) for one in self.requests if isinstance(one, LogLikelihoodRequest))


def make_plan(
    requests: Sequence[Request],
    form: Form,
    *,
    blocks: Sequence[Sequence[int]] | None = None,
    attention: float = 0.0,
    generation_prefixes: bool = True,
) -> Plan:
    """Lay out requests in rows.

    Args:
        requests: all of them.
        form: how much is shared.
        blocks: positions of the requests of each block; None: one block of all.
        attention: of a pass, from `Costs`; the larger, the less is packed into one row.
        generation_prefixes: whether generations may continue prefixes.
    """
    trie = Trie(requests, LogLikelihoodRequest)
    contexts = Trie(requests, GenerationRequest)
    prefixes: list[Row] = []
    prefix_of: dict[int, int | None] = dict.fromkeys([*trie.places, *contexts.places])
    if form == "shared":
        for kind in (trie, contexts) if generation_prefixes else (trie,):
            _add_prefixes(kind, prefixes, prefix_of)
    made = []
    for chosen in [range(len(requests))] if blocks is None else blocks:
        inside = set(chosen)
        places = [place for place in trie.places if place in inside]
        rows: list[Row] = []
        needed: set[int] = set()
        for prefix in dict.fromkeys(prefix_of[place] for place in places):
            below = [place for place in places if prefix_of[place] == prefix]
            start = 0 if prefix is None else prefixes[prefix].start + prefixes[prefix].length
            groups = trie.groups([place for place in below if len(trie.texts[place]) > start], form, start, attention)
            found = [trie.row(group, prefix=prefix, start=start) for group in groups]
            rows += sorted(found, key=lambda row: -row.length)
            while prefix is not None and prefix not in needed:
                needed.add(prefix)
                prefix = prefixes[prefix].prefix
        made.append(
            Block(
                requests=tuple(sorted(inside)),
                rows=tuple(rows),
                prefixes=tuple(sorted(needed)),
                generations=_generations(requests, sorted(inside), prefixes, prefix_of),
            )
        )
    tokens = {"plain": trie.plain_tokens, "packed": trie.packed_tokens}
    tokens[form] = sum(prefix.length for prefix in prefixes) + sum(row.length for block in made for row in block.rows)
    for name in tokens:
        tokens[name] += contexts.plain_tokens
    if form == "shared":
        tokens[form] -= sum(
            prefixes[prefix].start + prefixes[prefix].length
            for block in made
            for _, _, prefix in block.generations
            if prefix is not None
        )
    return Plan(
        form=form,
        requests=tuple(requests),
        offsets=tuple(trie.offsets),
        prefixes=tuple(prefixes),
        blocks=tuple(made),
        tokens=tokens,  # type: ignore[arg-type]
    )


class HasRequests(Protocol):
    """A block of a plan of any kind."""

    @property
    def requests(self) -> Sequence[int]:
        """Positions of its requests."""


def places_of(blocks: Sequence[HasRequests], numbers: Iterable[int] | None) -> list[int]:
    """Positions of the requests of some blocks, or of all, ascending."""
    chosen = blocks if numbers is None else [blocks[number] for number in numbers]
    return sorted(place for block in chosen for place in block.requests)


def joined(blocks: Sequence[Block]) -> Block:
    """Blocks of one plan as one, whose rows are batched together."""
    if len(blocks) == 1:
        return blocks[0]
    return Block(
        requests=tuple(places_of(blocks, None)),
        rows=tuple(sorted((row for block in blocks for row in block.rows), key=_by_prefix)),
        prefixes=tuple(sorted({prefix for block in blocks for prefix in block.prefixes})),
        generations=tuple(sorted((task for block in blocks for task in block.generations), key=_longest_first)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What answering a plan's requests takes, without what is generated."""

    tokens: int
    """That are computed."""
    padded: int
    """With the padding of rows that are computed together."""
    cost: float
    """Of all passes, in that of all work on one token but for attention."""


def work_of(plan: Plan, costs: Costs, budget: int) -> Work:
    """Find what a plan takes.

    Args:
        plan: the plan.
        costs: of the model's passes.
        budget: most padded tokens in a pass.
    """
    written = plan.tokens[plan.form] - sum(row.length for row in plan.prefixes)
    written -= sum(row.length for block in plan.blocks for row in block.rows)
    passes = [[prefix] for prefix in plan.prefixes]
    for block in plan.blocks:
        by_prefix: dict[int | None, list[Row]] = {}
        for row in block.rows:
            by_prefix.setdefault(row.prefix, []).append(row)
        passes += [batch for rows in by_prefix.values() for batch in batches(rows, budget, costs)]
    padded = sum(len(batch) * batch[0].length for batch in passes)
    return Work(
        tokens=plan.tokens[plan.form],
        padded=written + padded,
        cost=written + sum(cost_of(batch, costs) for batch in passes),
    )


def cheapest_first(work: Mapping[Form, Work]) -> list[Form]:
    """Forms by what they cost; of those that cost the same, the one that shares least."""
    return sorted(work, key=lambda form: (work[form].cost, -FORMS.index(form)))


def count_work(
    requests: Sequence[Request],
    config: Mapping[str, Any],
    *,
    blocks: Sequence[Sequence[int]] | None = None,
    device: str = "cpu",
    budget: int | None = None,
) -> dict[Form, Work]:
    """What a candidate takes in each form; cheapest first.

    Args:
        requests: all of a split.
        config: contents of the model's config.json.
        blocks: as in `make_plan`.
        device: "cpu" or "cuda", where it is computed.
        budget: most padded tokens in a pass; None: those that are worth while there.
    """
    costs, most = Costs.of(config, device), budget or most_tokens(device)
    found = {
        form: work_of(make_plan(requests, form, blocks=blocks, attention=costs.attention), costs, most)
        for form in FORMS
    }
    return {form: found[form] for form in cheapest_first(found)}


def _add_prefixes(trie: Trie, prefixes: list[Row], prefix_of: dict[int, int | None]) -> None:
    """Append the prefixes of a trie, and note the deepest that each request continues."""
    before = len(prefixes)
    for first, last, depth, parent in shared_prefixes(trie):
        above = None if parent is None else before + parent
        start = 0 if above is None else prefixes[above].start + prefixes[above].length
        prefixes.append(trie.row(trie.places[first:last], prefix=above, start=start, stop=depth))
        prefix_of.update(dict.fromkeys(trie.places[first:last], len(prefixes) - 1))


def _generations(
    requests: Sequence[Request], chosen: Sequence[int], prefixes: Sequence[Row], prefix_of: Mapping[int, int | None]
) -> tuple[tuple[int, GenerationRequest, int | None], ...]:
    """Generations by prefix, longest first; something of every context is left below its prefix."""
    found = []
    for place in chosen:
        request = requests[place]
        if isinstance(request, GenerationRequest):
            prefix = prefix_of[place]
            while prefix is not None and prefixes[prefix].start + prefixes[prefix].length >= len(request.context):
                prefix = prefixes[prefix].prefix
            found.append((place, request, prefix))
    return tuple(sorted(found, key=_longest_first))


def _by_prefix(row: Row) -> tuple[int, int]:
    return -1 if row.prefix is None else row.prefix, -row.length


def _longest_first(task: tuple[int, GenerationRequest, int | None]) -> tuple[int, int, int]:
    place, request, prefix = task
    return -1 if prefix is None else prefix, -len(request.context), place
