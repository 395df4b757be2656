"""Items that belong together, such as translations of one question: found by a field, kept in one role.

Knows documents and roles. Does not know tasks, prompts or scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from evomerge.errors import BenchmarkError, counted, listed

POSITION = "position"
"""Instead of a field: documents at the same place of data-set splits of the same name belong together."""


class Member(Protocol):
    """An item that may belong to a cluster."""

    @property
    def task(self) -> str:
        """The task that it is of."""

    @property
    def cluster(self) -> str:
        """The name of its cluster; empty: it has none."""


M = TypeVar("M", bound=Member)


def clusters_of(documents: Sequence[Any], field: str, source: str, contents: Sequence[str], place: str) -> list[str]:
    """The name of each document's cluster; those that say the same are of one cluster, whatever their fields say.

    Args:
        documents: of one data-set split, in order.
        field: of the documents, or `POSITION`.
        source: the data-set split's name.
        contents: what each document says.
        place: in the config, for messages.

    Raises: BenchmarkError if a document lacks the field.
    """
    names = []
    for index, document in enumerate(documents):
        if field == POSITION:
            names.append(f"{source} {index}")
        elif (name := document.get(field)) is None or name == "":
            raise BenchmarkError(
                f"{place}: benchmark.cluster: document {index} of {source!r} has no {field!r}; it has "
                f"{listed(map(str, document))}. Name one of these, or {POSITION} where translations stand in one order"
            )
        else:
            names.append(str(name))
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    for name, content in zip(names, contents, strict=True):
        one, other = _root(same, name), _root(same, first.setdefault(content, name))
        if one != other:
            same[max(one, other)] = min(one, other)
    return [_root(same, name) for name in names]


def kept_apart(splits: Mapping[str, Iterable[M]], *, drop: bool, where: str) -> dict[str, list[M]]:
    """The items, no cluster in two roles: refused, or left where they are most precious (test, then validation).

    Args:
        splits: items by role, the most precious last.
        drop: whether to drop rather than refuse.
        where: the config's file, for messages.

    Raises: BenchmarkError naming some of the clusters that have two roles.
    """
    roles: dict[str, str] = {}
    kept: dict[str, list[M]] = {}
    for role in reversed([*splits]):
        kept[role] = []
        twice: dict[str, str] = {}
        for item in splits[role]:
            if item.cluster and roles.get(item.cluster, role) != role:
                twice[item.cluster] = roles[item.cluster]
            else:
                kept[role].append(item)
        roles |= {item.cluster: role for item in kept[role] if item.cluster}
        if twice and not drop:
            name, other = next(iter(twice.items()))
            have = counted(len(twice), "cluster has", "clusters have")
            raise BenchmarkError(
                f"{where}: benchmark.cluster: {have} {role} items, and {other} items in other "
                f"tasks, such as {name!r}. Give all tasks the same splits, or set benchmark.overlap: drop"
            )
        if not kept[role]:
            raise BenchmarkError(f"{where}: benchmark.cluster: every {role} item belongs to a later split's cluster")
    return {role: kept[role] for role in splits}


def by_task(items: Iterable[Any]) -> dict[str, tuple[str, ...]] | None:
    """By task, the name of each item's cluster, in item order; None where items have none."""
    found: dict[str, list[str]] = {}
    for item in items:
        name = getattr(item, "cluster", "")
        if not name:
            return None
        found.setdefault(item.task, []).append(name)
    return {task: tuple(names) for task, names in found.items()} or None


def independent(items: Iterable[Any]) -> int:
    """How many items don't depend on each other: the clusters, or the items where they are in none."""
    every = list(items)
    found = by_task(every)
    return len(every) if found is None else len({name for names in found.values() for name in names})


def numbered(items: Iterable[Any]) -> dict[str, list[int]] | None:
    """`by_task` with numbers in the order of the names, which may be long; None where no two items share one, too."""
    found = by_task(items) or {}
    every = [name for names in found.values() for name in names]
    numbers = {name: number for number, name in enumerate(sorted({*every}))}
    if len(numbers) == len(every):
        return None
    return {task: [numbers[name] for name in names] for task, names in found.items()}


def _root(same: Mapping[str, str], name: str) -> str:
    while name in same:
        name = same[name]
    return name
