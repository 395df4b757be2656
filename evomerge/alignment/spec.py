"""Specs: which axes of a model's tensors go together, and which maps may act on them.

A spec gives each axis of each tensor a label. A label's kind says which maps may act on it; an axis' role says how
the label's map acts there. Any maps of the labels' kinds leave the model's function as it was: that is what a spec
asserts. Knows names, shapes and tensors. Doesn't know checkpoints or architectures.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import Tensor, cat, split

from evomerge.alignment.kinds.base import Action, Kind, Map
from evomerge.errors import AlignmentError, listed, unknown

Shape = tuple[int, ...]
Maps = Mapping[str, Map]
"""A map by label; a label that isn't there keeps its axes as they are."""
STRETCH = 1 << 25
"""Numbers of a tensor that are looked at at once."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis that a label's map acts on.

    Attributes:
        label: such as "residual", "layers.3.heads" or "layers.3.hidden".
        role: how the map acts here; the label's kind defines the words.
        width: how many entries in a row each unit owns, such as the pixels of a flattened channel.
    """

    label: str
    role: str = "unit"
    width: int = 1


@dataclass(frozen=True, slots=True)
class Joined:
    """An axis of several segments, one after the other, each with its length: fused queries, keys and values."""

    segments: tuple[tuple[int, Axis | None], ...]


AxisLike = Axis | Joined | None


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of one dimension of a tensor that a label's map acts on; `start` to `stop` of dimension `dim`."""

    tensor: str
    dim: int
    start: int
    stop: int
    axis: Axis

    def unfold(self, tensor: Tensor) -> Tensor:
        """The stretch as a matrix with a row for each unit; of the whole tensor."""
        part = tensor.narrow(self.dim, self.start, self.stop - self.start).movedim(self.dim, 0)
        return part.reshape(len(part) // self.axis.width, -1)


@dataclass(frozen=True)
class Spec:
    """The axes of a model's tensors, by label.

    Attributes:
        labels: each label's kind.
        tensors: for every tensor of the model, its axes; None for an axis that nothing acts on.
        unmatched: tensors whose numbers say nothing about which units go together, such as running statistics;
            they are mapped and not compared.
    """

    labels: Mapping[str, Kind]
    tensors: Mapping[str, tuple[AxisLike, ...]]
    unmatched: Collection[str] = field(default=())

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Hold the spec to the shapes of a model's tensors.

        Raises: AlignmentError naming what is left out, what isn't in the model, and each axis of another size.
        """
        problems = []
        if left_out := [name for name in shapes if name not in self.tensors]:
            problems.append(
                f"the spec leaves out {listed(left_out)}; every tensor needs its axes, None for those that stay"
            )
        if extra := [name for name in self.tensors if name not in shapes]:
            problems.append(f"the spec has {listed(extra)}, which the model hasn't")
        if extra := [name for name in self.unmatched if name not in self.tensors]:
            problems.append(f"the spec's unmatched tensors {listed(extra)} aren't among its tensors")
        for name, shape in shapes.items():
            problems += self._problems(name, shape)
        if problems:
            raise AlignmentError("\n".join(problems))

    def identity(self) -> dict[str, Map]:
        """For each label the map that changes nothing."""
        return {label: kind.identity() for label, kind in self.labels.items()}

    def random(self, generator: np.random.Generator) -> dict[str, Map]:
        """Any map for each label."""
        return {label: kind.random(generator) for label, kind in self.labels.items()}

    def apply(self, maps: Mapping[str, Action], name: str, tensor: Tensor, *, skip: int | None = None) -> Tensor:
        """A tensor with all its axes mapped, in its own dtype, or itself if no map acts on it.

        Args:
            maps: by label.
            name: the tensor's.
            tensor: floating-point; it is computed in its dtype.
            skip: a dimension to leave as it is.
        """
        for dim, axis in enumerate(self.tensors[name]):
            if dim == skip or axis is None:
                continue
            if isinstance(axis, Axis):
                tensor = _act(maps, axis, tensor, dim)
                continue
            parts = split(tensor, [length for length, _ in axis.segments], dim)
            acted = [
                part if inner is None else _act(maps, inner, part, dim)
                for part, (_, inner) in zip(parts, axis.segments, strict=True)
            ]
            tensor = cat(acted, dim)
        return tensor.contiguous()

    def stretches(self, name: str, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Tensors of one name, a stretch at a time along a dimension that nothing acts on, so that each may be mapped.

        A whole embedding in another dtype would be gigabytes. Tensors with a label on every dimension come whole.
        """
        free = next((dim for dim, axis in enumerate(self.tensors[name]) if axis is None), None)
        if free is None:
            yield tensors
            return
        size = tensors[0].shape[free]
        step = max(1, STRETCH * size // max(1, tensors[0].numel()))
        for start in range(0, size, step):
            length = min(step, size - start)
            yield tuple(tensor.narrow(free, start, length) for tensor in tensors)

    def moves(self, name: str) -> bool:
        """Whether any label acts on a tensor."""
        return bool(self.labels_of(name))

    def labels_of(self, name: str) -> frozenset[str]:
        """The labels that act on a tensor."""
        return frozenset(axis.label for axis in _labelled(self.tensors[name]))

    def places(self, label: str) -> tuple[Place, ...]:
        """Where a label acts, in the order of the tensors; those that are compared only."""
        return self._places.get(label, ())

    @cached_property
    def _places(self) -> dict[str, tuple[Place, ...]]:
        found: dict[str, list[Place]] = {label: [] for label in self.labels}
        for name, axes in self.tensors.items():
            if name in self.unmatched:
                continue
            for dim, axis in enumerate(axes):
                start = 0
                for length, inner in self._segments(axis):
                    if inner is not None:
                        found[inner.label].append(Place(name, dim, start, start + length, inner))
                    start += length
        return {label: tuple(places) for label, places in found.items()}

    def _segments(self, axis: AxisLike) -> tuple[tuple[int, Axis | None], ...]:
        if isinstance(axis, Axis):
            return ((self._length(axis), axis),)
        return () if axis is None else axis.segments

    def _length(self, axis: Axis) -> int:
        return self.labels[axis.label].sizes[axis.role] * axis.width

    def _problems(self, name: str, shape: Shape) -> Iterator[str]:
        axes = self.tensors.get(name)
        if axes is None:
            return
        if len(axes) != len(shape):
            yield f"{name}: the spec has {len(axes)} axes, the tensor's shape is {shape}"
            return
        for dim, (axis, size) in enumerate(zip(axes, shape, strict=True)):
            where = f"{name}: axis {dim}"
            segments = axis.segments if isinstance(axis, Joined) else ((size, axis),)
            for length, inner in segments:
                if inner is None:
                    continue
                if inner.label not in self.labels:
                    yield f"{where}: {unknown('label', inner.label, self.labels)}"
                elif inner.role not in self.labels[inner.label].sizes:
                    roles = self.labels[inner.label].sizes
                    yield f"{where}: {unknown(f'role of {inner.label!r}', inner.role, roles)}"
                elif self._length(inner) != length:
                    what = f"of {size}" if length == size else f"with a segment of {length}"
                    yield f"{where} {what}: {inner.label!r} as {inner.role!r} asks for {self._length(inner)} entries"
            if sum(length for length, _ in segments) != size:
                yield f"{where}: its segments have {sum(length for length, _ in segments)} entries, the tensor {size}"


def inverse(maps: Maps) -> dict[str, Map]:
    """The maps that undo these, by label."""
    return {label: map_.inverse() for label, map_ in maps.items()}


def composed(later: Maps, first: Maps) -> dict[str, Map]:
    """The maps that act as `first` and then as `later`, by label; a label that one lacks is as the other says."""
    both = {label: map_.after(first[label]) for label, map_ in later.items() if label in first}
    return {**first, **later, **both}


def to_arrays(maps: Maps) -> dict[str, Tensor]:
    """Maps as named arrays, "label:array", as a safetensors file takes them."""
    return {f"{label}:{name}": array for label, map_ in maps.items() for name, array in map_.arrays().items()}


def from_arrays(spec: Spec, arrays: Mapping[str, Tensor]) -> dict[str, Map]:
    """The maps that were saved as these arrays.

    Raises: AlignmentError if a label isn't the spec's, or its arrays aren't a map of its kind.
    """
    by_label: dict[str, dict[str, Tensor]] = {}
    for key, array in arrays.items():
        label, _, name = key.rpartition(":")
        by_label.setdefault(label, {})[name] = array
    found = {}
    for label, own in by_label.items():
        if label not in spec.labels:
            raise AlignmentError(f"a saved map is of another spec: {unknown('label', label, spec.labels)}")
        try:
            found[label] = spec.labels[label].load(own)
        except AlignmentError as error:
            raise AlignmentError(f"{label}: {error}") from error
    return found


def _labelled(axes: tuple[AxisLike, ...]) -> Iterator[Axis]:
    for axis in axes:
        if isinstance(axis, Axis):
            yield axis
        elif axis is not None:
            yield from (inner for _, inner in axis.segments if inner is not None)


def _act(maps: Mapping[str, Action], axis: Axis, tensor: Tensor, dim: int) -> Tensor:
    map_ = maps.get(axis.label)
    if map_ is None:
        return tensor
    first = tensor.movedim(dim, 0)
    acted = map_.act(axis.role, first.reshape(first.shape[0] // axis.width, -1))
    return acted.reshape(first.shape).movedim(0, dim)
