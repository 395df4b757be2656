"""Products of the weights of two attention layers, by pair of groups and pair of query heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from evomerge.alignment.kinds.base import assignment


class Layout(Protocol):
    """How many heads there are and how wide they are."""

    @property
    def groups(self) -> int:
        """Key-value heads."""

    @property
    def queries(self) -> int:
        """Query heads in each group."""

    @property
    def dims(self) -> tuple[int, int]:
        """Coordinates of a query or key, and of a value."""


@dataclass(frozen=True, slots=True)
class HeadProducts:
    """A·Bᵀ of two layers, cut into heads. The first index of each pair belongs to A.

    Attributes:
        query: (G, G, Q, Q, d, d), what a turn of queries in a pair of query heads gains by.
        output: (G, G, Q, Q, v, v), the same for values.
        key: (G, G, d, d).
        value: (G, G, v, v).
        head: (G, G, Q, Q), what a pair of query heads gains whatever the turns.
        group: (G, G), what a pair of groups gains whatever the turns.
    """

    query: Tensor
    output: Tensor
    key: Tensor
    value: Tensor
    head: Tensor
    group: Tensor

    @classmethod
    def of(cls, layout: Layout, cross: Mapping[str, Tensor]) -> HeadProducts:
        """Cut the products of each role; what is missing counts nothing."""
        groups, queries, (inner, value) = layout.groups, layout.queries, layout.dims
        zeros = partial(torch.zeros, dtype=next((matrix.dtype for matrix in cross.values()), torch.float32))
        found = cls(
            query=zeros(groups, groups, queries, queries, inner, inner),
            output=zeros(groups, groups, queries, queries, value, value),
            key=zeros(groups, groups, inner, inner),
            value=zeros(groups, groups, value, value),
            head=zeros(groups, groups, queries, queries),
            group=zeros(groups, groups),
        )
        for role, matrix in cross.items():
            if role in ("query", "output"):
                getattr(found, role).add_(found._heads(matrix))
            elif role in ("key", "value"):
                getattr(found, role).add_(found._groups(matrix))
            elif role in ("query_gain", "head"):
                found.head.add_(_trace(found._heads(matrix)))
            elif role == "key_gain":
                found.group.add_(_trace(found._groups(matrix)))
            else:
                # The fused axis: of a group's rows, its queries, its key, its value.
                whole, end = found._groups(matrix), queries * inner
                fused = whole[..., :end, :end].reshape(groups, groups, queries, inner, queries, inner)
                found.query.add_(fused.transpose(3, 4))
                found.key.add_(whole[..., end : end + inner, end : end + inner])
                found.value.add_(whole[..., end + inner :, end + inner :])
        return found

    def turned(self, inner: Tensor | None, value: Tensor | None) -> Tensor:
        """What each pair of query heads gains under the turns of its pair of groups, (G, G, Q, Q).

        Args:
            inner: (G, G, d, d), of queries; None turns nothing.
            value: (G, G, v, v), of outputs; None turns nothing.
        """
        gains = self.head
        for products, turns in ((self.query, inner), (self.output, value)):
            same = (
                _trace(products)
                if turns is None
                else torch.einsum("abqpij,abij->abqp", products, turns.to(products.dtype))
            )
            gains = gains + same
        return gains

    def summed(self, orders: Tensor) -> tuple[Tensor, Tensor]:
        """What the turn of queries and keys, and that of values, gains by: (..., d, d) and (..., v, v).

        Args:
            orders: (G, G, Q), for each pair of groups the query head of B that comes to each one's place.
        """
        one, two, place = torch.meshgrid(*map(torch.arange, orders.shape), indexing="ij")
        return (
            self.key + self.query[one, two, place, orders].sum(dim=2),
            self.value + self.output[one, two, place, orders].sum(dim=2),
        )

    def fixed(self, orders: Tensor) -> Tensor:
        """What each pair of groups gains whatever the turns, under an order of its query heads, (G, G) float64."""
        picked = torch.gather(self.head, 3, orders[..., None]).squeeze(3)
        return self.group.double() + picked.sum(dim=2, dtype=torch.float64)

    def _heads(self, matrix: Tensor) -> Tensor:
        """(G, G, Q, Q, n, n) of a matrix whose sides are groups, their query heads and n coordinates."""
        groups, queries = len(self.group), self.head.shape[-1]
        size = len(matrix) // (groups * queries)
        return matrix.reshape(groups, queries, size, groups, queries, size).permute(0, 3, 1, 4, 2, 5)

    def _groups(self, matrix: Tensor) -> Tensor:
        """(G, G, n, n) of a matrix whose sides are groups and n coordinates."""
        groups = len(self.group)
        size = len(matrix) // groups
        return matrix.reshape(groups, size, groups, size).transpose(1, 2)


def assignments(gains: Tensor) -> Tensor:
    """For each pair of groups the best order of query heads, (G, G, Q) int64, of (G, G, Q, Q)."""
    groups, _, queries, _ = gains.shape
    return torch.stack([assignment(matrix) for matrix in gains.flatten(0, 1)]).reshape(groups, -1, queries)


def _trace(products: Tensor) -> Tensor:
    return products.diagonal(dim1=-2, dim2=-1).sum(-1)
