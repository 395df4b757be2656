"""Attention heads: groups that share keys and values, query heads inside them, and rotations inside each head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from evomerge.alignment.kinds.base import Cross, Map, assignment, is_permutation, overlap, refuse_not_finite
from evomerge.alignment.kinds.head_products import HeadProducts, assignments
from evomerge.alignment.kinds.head_space import HeadSpace, Inside
from evomerge.errors import AlignmentError

_ENUMERATED = 3
"""Query heads in a group up to which all their orders are tried, where rotations tie their gains together."""
_ROUNDS = 20

_Turns = Callable[[int], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class HeadMap:
    """Where heads go, and how they are turned.

    Attributes:
        groups: (G,) int64; group g becomes group `groups[g]` of what it acts on.
        queries: (G, Q) int64; its query head q becomes `queries[g, q]` of that group.
        inner: (G, d, d) float64, what then turns each query and key of a group; None turns nothing.
        value: (G, v, v) float64, what turns its values and what reads them; None turns nothing.
    """

    groups: Tensor
    queries: Tensor
    inner: Tensor | None
    value: Tensor | None
    dims: tuple[int, int]

    def act(self, role: str, matrix: Tensor) -> Tensor:
        """Heads in their new places, turned."""
        groups, queries = self.queries.shape
        if role in ("query", "output", "query_gain", "head"):
            heads = matrix.reshape(groups, queries, -1, matrix.shape[1])
            moved = heads[self.groups[:, None], self.queries]
            turn = {"query": self.inner, "output": self.value}.get(role)
            return (moved if turn is None else turn.to(matrix.dtype)[:, None] @ moved).reshape(matrix.shape)
        if role == "query_key_value":
            inner, value = self.dims
            whole = matrix.reshape(groups, -1, matrix.shape[1])
            parts = torch.split(whole, [queries * inner, inner, value], dim=1)
            roles = ("query", "key", "value")
            acted = [self.act(name, part.flatten(0, 1)) for name, part in zip(roles, parts, strict=True)]
            return torch.cat([part.reshape(groups, -1, matrix.shape[1]) for part in acted], dim=1).reshape(matrix.shape)
        moved = matrix.reshape(groups, -1, matrix.shape[1])[self.groups]
        turn = {"key": self.inner, "value": self.value}.get(role)
        return (moved if turn is None else turn.to(matrix.dtype) @ moved).reshape(matrix.shape)

    def inverse(self) -> HeadMap:
        """The map that brings every head back."""
        back = torch.argsort(self.groups)
        inner = None if self.inner is None else self.inner[back].mT.contiguous()
        value = None if self.value is None else self.value[back].mT.contiguous()
        return HeadMap(back, torch.argsort(self.queries[back], dim=1), inner, value, self.dims)

    def after(self, other: HeadMap) -> HeadMap:
        """As `other`, then as this one."""
        queries = torch.gather(other.queries[self.groups], 1, self.queries)
        inner = None if self.inner is None or other.inner is None else self.inner @ other.inner[self.groups]
        value = None if self.value is None or other.value is None else self.value @ other.value[self.groups]
        return HeadMap(other.groups[self.groups], queries, inner, value, self.dims)

    def arrays(self) -> dict[str, Tensor]:
        """`groups`, `queries`, and `inner` and `value` where heads are turned."""
        turns = {"inner": self.inner, "value": self.value}
        found = {name: turn for name, turn in turns.items() if turn is not None}
        return {"groups": self.groups, "queries": self.queries, **found}


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Heads of one attention layer. Its roles are the axes that queries, keys, values and the output projection have.

    Axes lie group by group, a group's query heads one after the other. The role "query_key_value" is an axis that
    holds, for each group, its query heads, its key and its value. "query_gain" and "key_gain" are gains of norms over
    all heads, and "head" has one number for each query head.

    Attributes:
        groups: key-value heads.
        queries: query heads in each group.
        head_dim: coordinates of a query and of a key.
        value_dim: coordinates of a value; None: `head_dim`.
        inside: how queries and keys may turn, see `HeadSpace`; signs where a norm stands between them.
        rotary: coordinates, from the first, that are rotated by position.
        interleaved: whether the pairs of rotary coordinates are neighbours.
        value_rotations: whether values may turn.
        ordered: whether heads keep their places, as those with a slope of their own (ALiBi).
    """

    groups: int
    queries: int
    head_dim: int
    value_dim: int | None = None
    inside: Inside = "none"
    rotary: int = 0
    interleaved: bool = False
    value_rotations: bool = False
    ordered: bool = False

    @property
    def sizes(self) -> Mapping[str, int]:
        """By role."""
        heads, values = self.groups * self.queries, self._values.size
        sizes = {
            "query": heads * self.head_dim,
            "key": self.groups * self.head_dim,
            "value": self.groups * values,
            "output": heads * values,
            "query_key_value": (heads + self.groups) * self.head_dim + self.groups * values,
            "head": heads,
        }
        if self.inside == "rotations":
            return sizes
        return sizes | {"query_gain": sizes["query"], "key_gain": sizes["key"]}

    def identity(self) -> HeadMap:
        """Every head in its place, unturned."""
        queries = torch.arange(self.queries).repeat(self.groups, 1)
        return self._map(torch.arange(self.groups), queries, self._keys.identity, self._values.identity)

    def random(self, generator: np.random.Generator) -> HeadMap:
        """Any order of groups and of query heads in each, any turns."""
        groups, queries = torch.arange(self.groups), torch.arange(self.queries).repeat(self.groups, 1)
        if not self.ordered:
            groups = torch.from_numpy(generator.permutation(self.groups)).to(torch.int64)
            queries = torch.from_numpy(generator.permuted(queries.numpy(), axis=1)).to(torch.int64)
        keys, values = self._keys, self._values
        return self._map(groups, queries, lambda n: keys.random(n, generator), lambda n: values.random(n, generator))

    def best(self, cross: Cross) -> HeadMap:
        """Query heads are assigned for each pair of groups, then the groups.

        Exact where nothing turns, or a group has at most three query heads; otherwise orders and turns are found in
        alternation, from the order of the heads that fit best one by one.
        """
        refuse_not_finite(cross)
        products = HeadProducts.of(self, cross)
        orders, gains = self._orders(products)
        places = torch.arange(self.groups)
        groups = places if self.ordered else assignment(gains)
        keys, values = (part[places, groups] for part in products.summed(orders))
        return self._map(
            groups, orders[places, groups], lambda _: self._keys.best(keys), lambda _: self._values.best(values)
        )

    def value(self, map_: Map, cross: Cross) -> float:
        """Σ_role ⟨A, map·B⟩."""
        return overlap(map_, cross)

    def load(self, arrays: Mapping[str, Tensor]) -> HeadMap:
        """From `groups`, `queries` and its turns. Raises: AlignmentError if they aren't a map of these heads."""
        like = self.identity()
        if set(arrays) != set(like.arrays()) or any(
            (array.shape, array.dtype) != (arrays[name].shape, arrays[name].dtype)
            for name, array in like.arrays().items()
        ):
            raise AlignmentError("a saved map of heads has other arrays than its layer's heads ask for")
        groups, queries = arrays["groups"], arrays["queries"]
        inner, value = arrays.get("inner"), arrays.get("value")
        moved = not torch.equal(groups, like.groups) or not torch.equal(queries, like.queries)
        if (
            not is_permutation(groups, self.groups)
            or not is_permutation(queries, self.queries)
            or (self.ordered and moved)
            or (inner is not None and not self._keys.contains(inner))
            or (value is not None and not self._values.contains(value))
        ):
            raise AlignmentError("a saved map of heads isn't one that leaves its layer's function unchanged")
        return HeadMap(groups, queries, inner, value, like.dims)

    @property
    def dims(self) -> tuple[int, int]:
        """Coordinates of a query or key, and of a value."""
        return self.head_dim, self._values.size

    @property
    def _keys(self) -> HeadSpace:
        return HeadSpace(self.head_dim, self.inside, self.rotary, self.interleaved)

    @property
    def _values(self) -> HeadSpace:
        return HeadSpace(self.value_dim or self.head_dim, "rotations" if self.value_rotations else "none")

    def _map(self, groups: Tensor, queries: Tensor, inner: _Turns, value: _Turns) -> HeadMap:
        keys = None if self.inside == "none" else inner(self.groups)
        values = value(self.groups) if self.value_rotations else None
        return HeadMap(groups, queries, keys, values, self.dims)

    def _orders(self, products: HeadProducts) -> tuple[Tensor, Tensor]:
        """For each pair of groups the order of query heads, (G, G, Q), and what the pair gains, (G, G) float64."""
        shape = (self.groups, self.groups, self.queries)
        turns = self.inside != "none" or self.value_rotations
        if self.ordered or self.queries == 1:
            orders = torch.arange(self.queries).expand(shape)
            return orders, self._gain(products, orders)
        if turns and self.queries <= _ENUMERATED:
            every = torch.stack([torch.tensor(order).expand(shape) for order in permutations(range(self.queries))])
            gains = torch.stack([self._gain(products, orders) for orders in every])
            best = gains.argmax(dim=0)[None]
            return torch.gather(every, 0, best[..., None].expand(1, *shape))[0], torch.gather(gains, 0, best)[0]
        orders = assignments(self._each(products) if turns else products.turned(None, None))
        gains = self._gain(products, orders)
        for _ in range(_ROUNDS if turns else 0):
            keys, values = products.summed(orders)
            inner = self._keys.best(keys.flatten(0, 1)).view(keys.shape)
            value = self._values.best(values.flatten(0, 1)).view(values.shape)
            changed = assignments(products.turned(inner, value))
            better = self._gain(products, changed)
            up = better > gains + 1e-9 * gains.abs()
            if not bool(up.any()):
                break
            orders, gains = torch.where(up[..., None], changed, orders), torch.where(up, better, gains)
        return orders, gains

    def _each(self, products: HeadProducts) -> Tensor:
        """What each pair of query heads would gain if it turned alone, (G, G, Q, Q)."""
        return products.head + self._keys.gain(products.query) + self._values.gain(products.output)

    def _gain(self, products: HeadProducts, orders: Tensor) -> Tensor:
        keys, values = products.summed(orders)
        return products.fixed(orders) + self._keys.gain(keys) + self._values.gain(values)
