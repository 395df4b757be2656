"""Parameter groups: which tensors share coefficients, and which coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["attention", "mlp", "norm", "embedding", "head", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Coefficient = float | Mapping[str, float]
"""One number, or one per expert name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The tensors that share coefficients: those of `kinds` in the layers first..last, both included.

    Tensors before the first layer (embeddings) count as layer 0, those after the last (final norm,
    head) as the last layer. None means every layer, or every kind. With `names`, only tensors in whose
    stored name every one of these texts occurs.
    """

    name: str
    layers: tuple[int, int] | None = None
    kinds: tuple[Kind, ...] | None = None
    names: tuple[str, ...] | None = None
    coefficients: Mapping[str, Coefficient] = field(default_factory=dict)

    def contains(self, layer: int, kind: Kind, name: str = "") -> bool:
        """Whether a tensor of this layer, kind and stored name belongs to the group."""
        in_layers = self.layers is None or self.layers[0] <= layer <= self.layers[1]
        of_kind = self.kinds is None or kind in self.kinds
        return in_layers and of_kind and all(part in name for part in self.names or ())
