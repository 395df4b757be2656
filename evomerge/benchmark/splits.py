"""Splitting: which of a data set's documents each role takes, no document in two of them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from evomerge.config.benchmark import SplitConfig
from evomerge.errors import BenchmarkError
from evomerge.streams import stream


def choose_items(
    roles: Mapping[str, SplitConfig],
    sources: Mapping[str, str],
    contents: Mapping[str, Sequence[str]],
    *,
    name: str,
    place: str,
    seed: int,
    drop: bool,
    every: bool = True,
    alike: bool = False,
) -> dict[str, list[int]]:
    """Positions of each role's documents, ascending.

    Args:
        roles: how much each role takes, the most precious last.
        sources: the data-set split that each role draws on.
        contents: by data-set split, what each document says; documents that say the same stay together.
        name: of the data set, in messages.
        place: in the config, for messages.
        seed: draws the documents of roles that take a part.
        drop: whether a document with two roles keeps the more precious one or is refused.
        every: whether roles whose fractions add up to one take every document: the last also what rounding leaves.
        alike: whether documents are drawn in an order that what they say decides, and not the data set, so that the
            same ones of other data sets have the same roles.

    Raises: BenchmarkError if a role can't be filled, or documents have two roles and may not.
    """
    chosen: dict[str, list[int]] = {}
    for source in dict.fromkeys(sources[role] for role in roles):
        drawing = {role: settings for role, settings in roles.items() if sources[role] == source}
        chosen |= _shared_out(
            drawing, source, contents[source], name=name, place=place, seed=seed, every=every, alike=alike
        )
    for role in roles:
        if not chosen[role]:
            raise BenchmarkError(
                f"{place}: splits.{role}: no items: {name} has {len(contents[sources[role]])} in {sources[role]!r}; "
                "ask for a larger part"
            )
    return without_overlap(roles, sources, contents, chosen, name=name, place=place, drop=drop)


def _shared_out(
    roles: Mapping[str, SplitConfig],
    source: str,
    contents: Sequence[str],
    *,
    name: str,
    place: str,
    seed: int,
    every: bool,
    alike: bool,
) -> dict[str, list[int]]:
    """Roles that share a data-set split take disjoint parts, equal texts together."""
    texts: dict[str, list[int]] = defaultdict(list)
    for index, content in enumerate(contents):
        texts[content].append(index)
    groups = list(texts.values())
    if alike:
        keys = [hashlib.sha256(f"{seed} {text}".encode()).digest() for text in texts]
        order = np.array(sorted(range(len(groups)), key=keys.__getitem__))
    else:
        order = stream(seed, "items", name, source).permutation(len(groups))
    total, taken = len(contents), 0
    shares = sum(settings.fraction or 0 for settings in roles.values())
    last = list(roles)[-1] if every and abs(shares - 1) < 1e-9 else None
    chosen: dict[str, list[int]] = {}
    for role, settings in roles.items():
        if settings.fraction is None and settings.items is None:
            chosen[role] = list(range(total))
            continue
        count = settings.items if settings.items is not None else round((settings.fraction or 0) * total)
        indices: list[int] = []
        if role == last and settings.items is None:
            count = total
        while len(indices) < count and taken < len(order):
            indices += groups[order[taken]]
            taken += 1
        if len(indices) < count and settings.items is not None:
            raise BenchmarkError(
                f"{place}: splits.{role}: {count} items asked for, {len(indices)} left of {source!r} of {name}"
            )
        chosen[role] = sorted(indices)
    if shares > 1 + 1e-9:
        raise BenchmarkError(f"{place}: splits: fractions of {source!r} of {name} add up to {shares:g}; at most 1")
    return chosen


def without_overlap(
    roles: Mapping[str, SplitConfig],
    sources: Mapping[str, str],
    contents: Mapping[str, Sequence[str]],
    chosen: Mapping[str, Sequence[int]],
    *,
    name: str,
    place: str,
    drop: bool,
) -> dict[str, list[int]]:
    """Refuse a document that has two roles, or keep only its most precious role: test, then validation."""
    seen: dict[str, str] = {}
    found: dict[str, list[int]] = {}
    for role in reversed(tuple(roles)):
        kept = []
        repeated: list[tuple[str, str]] = []
        for index in chosen[role]:
            content = contents[sources[role]][index]
            if seen.get(content, role) != role:
                repeated.append((seen[content], content))
            else:
                seen[content] = role
                kept.append(index)
        if repeated and not drop:
            other, content = repeated[0]
            raise BenchmarkError(
                f"{place}: splits: {len(repeated)} {role} items of {name} are also {other} items, such as "
                f"{content[:80]!r}. Choose disjoint splits, or set benchmark.overlap: drop"
            )
        if not kept:
            raise BenchmarkError(f"{place}: splits.{role}: every item of {name} is also a later split's")
        found[role] = kept
    return {role: found[role] for role in roles}
