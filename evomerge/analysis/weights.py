"""A base and its experts streamed through the statistics, one tensor of every model in memory at a time.

Knows models, layers and kinds. Does not know what is made of the numbers.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

from evomerge.analysis.matrices import MatrixStatistics, cost, matrix_statistics, mean_of
from evomerge.analysis.moments import Moments, moments, zero_moments
from evomerge.errors import CheckpointError
from evomerge.methods.spectral.decompose import NOT_LINEAR
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.names import match_names
from evomerge.models.open import Models
from evomerge.recipe.group import KINDS, Kind
from evomerge.streams import derive

BUDGET = 4e12
"""Floating-point operations that spectra may take before layers are left out."""

Progress = Callable[[int, int], None]
"""Called with the work done and the work in all, in bytes of tensors read."""

_IS_TABLE = re.compile(NOT_LINEAR)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorStatistics:
    """Of one tensor: where it is, its sums, and its spectra if it is a linear layer that was looked at."""

    name: str
    layer: int
    kind: Kind
    shape: tuple[int, ...]
    moments: Moments
    matrices: MatrixStatistics | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatistics:
    """Of the tensors of one layer and kind: sums of entries, and means over matrices."""

    layer: int | None
    kind: Kind | None
    moments: Moments
    matrices: MatrixStatistics | None
    num_matrices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The statistics of all tensors that every model has, and what was left out.

    Attributes:
        experts: names, in the order of all arrays.
        tensors: in the base's order.
        equal: by pairs of models, the base first, whether they hold the same numbers.
        spectra_layers: layers whose linear layers were decomposed.
        depth: number of layers.
        top: the fraction of entries that counts as the largest.
        not_finite: by tensor, the models that have NaN or infinity there; such tensors are in no sum.
        skipped: tensors that hold integers, or no entries.
    """

    experts: tuple[str, ...]
    tensors: tuple[TensorStatistics, ...]
    equal: tuple[tuple[bool, ...], ...]
    spectra_layers: tuple[int, ...]
    depth: int
    top: float
    not_finite: Mapping[str, tuple[str, ...]]
    skipped: tuple[str, ...]

    @property
    def whole(self) -> GroupStatistics:
        """Of all tensors together."""
        return self._group(None, None, self.tensors)

    @property
    def groups(self) -> tuple[GroupStatistics, ...]:
        """By layer and then by kind."""
        places = sorted({(one.layer, KINDS.index(one.kind)) for one in self.tensors})
        return tuple(
            self._group(
                layer, KINDS[kind], [one for one in self.tensors if (one.layer, one.kind) == (layer, KINDS[kind])]
            )
            for layer, kind in places
        )

    @property
    def kinds(self) -> tuple[GroupStatistics, ...]:
        """By kind, over all layers."""
        present = [kind for kind in KINDS if any(one.kind == kind for one in self.tensors)]
        return tuple(self._group(None, kind, [one for one in self.tensors if one.kind == kind]) for kind in present)

    def blocks(self, most: int) -> tuple[tuple[int, int, GroupStatistics], ...]:
        """Blocks of consecutive layers, at most so many, as equal as possible: first and last layer, and their sums.

        Embeddings and heads are outside of them.
        """
        inside = [one for one in self.tensors if one.kind not in {"embedding", "head"}]
        count = min(most, self.depth)
        edges = [round(index * self.depth / count) for index in range(count + 1)]
        return tuple(
            (first, end - 1, self._group(None, None, [one for one in inside if first <= one.layer < end]))
            for first, end in itertools.pairwise(edges)
        )

    def _group(self, layer: int | None, kind: Kind | None, tensors: Sequence[TensorStatistics]) -> GroupStatistics:
        matrices = [one.matrices for one in tensors if one.matrices is not None]
        return GroupStatistics(
            layer=layer,
            kind=kind,
            moments=reduce(add, [one.moments for one in tensors], zero_moments(len(self.experts))),
            matrices=mean_of(matrices) if matrices else None,
            num_matrices=len(matrices),
        )


def weight_statistics(
    models: Models,
    *,
    top: float = 0.2,
    spectra: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Weights:
    """Read every tensor of all models once, side by side, and work out their statistics.

    Args:
        models: of one family; tensors that an expert lacks are left out.
        top: as `moments`.
        spectra: "all" layers, "none", or "auto": as many, evenly spaced, as fit `BUDGET`.
        seed: of random starts.
        progress: is told after each tensor.
    """
    base, experts = models.base, dict(models.experts)
    names = {expert: common_names(base, model) for expert, model in experts.items()}
    shared = [name for name in base.names if all(name in known for known in names.values())]
    layers = spectra_layers(base, shared, len(experts), spectra)
    total = sum(base.tensors[name].size_bytes for name in shared) * (len(experts) + 1)
    found, skipped, done = [], [], 0
    not_finite: dict[str, tuple[str, ...]] = {}
    equal = np.ones((len(experts) + 1, len(experts) + 1), dtype=bool)
    for name in shared:
        info, place = base.tensors[name], base.layout.place(name)
        tensors = [base.tensor(name), *(model.tensor(names[expert][name]) for expert, model in experts.items())]
        _compare(tensors, equal)
        broken = tuple(
            model for model, tensor in zip(("base", *experts), tensors, strict=True) if not is_finite(tensor)
        )
        if not info.dtype.is_floating_point or info.num_elements == 0:
            skipped.append(name)
        elif broken:
            not_finite[name] = broken
        else:
            looked_at = place.layer in layers and is_linear(name, info.shape)
            found.append(
                TensorStatistics(
                    name=name,
                    layer=place.layer,
                    kind=place.kind,
                    shape=info.shape,
                    moments=moments(tensors[0], tensors[1:], top=top),
                    matrices=_matrices(tensors, derive(seed, "spectra", name, bits=63)) if looked_at else None,
                )
            )
        done += info.size_bytes * (len(experts) + 1)
        if progress is not None:
            progress(done, total)
    return Weights(
        experts=tuple(experts),
        tensors=tuple(found),
        equal=tuple(tuple(bool(same) for same in row) for row in equal),
        spectra_layers=tuple(sorted(layers)),
        depth=base.layout.depth,
        top=top,
        not_finite=not_finite,
        skipped=tuple(skipped),
    )


def common_names(base: Checkpoint, other: Checkpoint) -> dict[str, str]:
    """For each tensor of the base that the other model has too, its name there."""
    try:
        return match_names(base, other)
    except CheckpointError:
        return {name: name for name in base.names if name in other.tensors}


def is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the matrix of a linear layer, or a stack of them, as the spectral merge methods see it."""
    return len(shape) in {2, 3} and min(shape[-2:]) > 1 and _IS_TABLE.search(name) is None


def spectra_layers(base: Checkpoint, names: Collection[str], num_experts: int, spectra: str) -> frozenset[int]:
    """The layers to decompose: all, none, or evenly spaced ones that fit the budget, and one in any case."""
    costs: dict[int, float] = {}
    for name in names:
        shape = base.tensors[name].shape
        if is_linear(name, shape):
            layer = base.layout.place(name).layer
            stacked = shape[0] if len(shape) == 3 else 1
            costs[layer] = costs.get(layer, 0.0) + stacked * cost((shape[-2], shape[-1]), num_experts)
    layers = sorted(costs)
    if spectra == "none" or not layers:
        return frozenset()
    if spectra == "all":
        return frozenset(layers)
    for count in range(len(layers), 0, -1):
        chosen = (
            {layers[round(place)] for place in np.linspace(0, len(layers) - 1, count)}
            if count > 1
            else {layers[len(layers) // 2]}
        )
        if sum(costs[layer] for layer in chosen) <= BUDGET or count == 1:
            return frozenset(chosen)
    raise AssertionError


def is_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite."""
    if not tensor.dtype.is_floating_point or tensor.numel() == 0:
        return True
    # The extremes of numbers of 8 bits aren't implemented.
    number = tensor.to(torch.float32) if tensor.dtype.itemsize == 1 else tensor
    return all(math.isfinite(extreme) for extreme in torch.aminmax(number))


def _compare(tensors: Sequence[Tensor], equal: np.ndarray) -> None:
    """Note in `equal` which models differ in this tensor; what is known to differ isn't compared again."""
    for row in range(len(tensors)):
        for column in range(row + 1, len(tensors)):
            if equal[row, column]:
                one, two = tensors[row], tensors[column]
                same = one.data_ptr() == two.data_ptr() or torch.equal(one, two.to(one.dtype))
                equal[row, column] = equal[column, row] = same


def _matrices(tensors: Sequence[Tensor], seed: int) -> MatrixStatistics:
    """Of a matrix, or means over the matrices of a stack."""
    return mean_of([matrix_statistics(tau, seed=seed) for tau in _task_vectors(tensors)])


def _task_vectors(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    stacks = [tensor if tensor.dim() == 3 else tensor[None] for tensor in tensors]
    wide = torch.float64 if min(stacks[0].shape[-2:]) <= 512 else torch.float32
    for base, *experts in zip(*stacks, strict=True):
        start = base.to(wide)
        yield [expert.to(wide) - start for expert in experts]
