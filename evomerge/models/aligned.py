"""A model seen through maps that bring it together with others, its function unchanged.

Knows one model, a spec and maps. Doesn't know how maps are found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from evomerge.alignment.folding import Folding
from evomerge.alignment.kinds.base import Map
from evomerge.alignment.spec import Maps, Spec
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.headers import TensorInfo
from evomerge.models.seen import SeenCheckpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What the models of an alignment have in common.

    Attributes:
        spec: by the reference's names.
        folding: how the gains of norms are folded first; None if they aren't.
    """

    spec: Spec
    folding: Folding | None = None


class FoldedWeights(Mapping[str, Tensor]):
    """A model's tensors by the spec's names, with norms folded where they are to be; read when asked for."""

    def __init__(
        self, model: Checkpoint, frame: Frame, names: Mapping[str, str], dtype: torch.dtype = torch.float32
    ) -> None:
        """`names` are the model's own, by the spec's; `dtype` is what folded tensors are computed in."""
        self._model, self._frame, self._names, self._dtype = model, frame, names, dtype

    def __getitem__(self, name: str) -> Tensor:
        if self._frame.folding is None:
            return self._stored(name)
        return self._frame.folding.tensor(name, lambda read: self._stored(read).to(self._dtype))

    def __iter__(self) -> Iterator[str]:
        return iter(self._frame.spec.tensors)

    def __len__(self) -> int:
        return len(self._frame.spec.tensors)

    def _stored(self, name: str) -> Tensor:
        return self._model.tensor(self._names.get(name, name))


@dataclass(frozen=True, kw_only=True)
class AlignedCheckpoint(SeenCheckpoint):
    """A model under maps. Made by `aligned`.

    A tensor that a map acts on is worked out each time it is asked for. Orders and signs are exact; what is turned or
    folded is computed in float64 and rounded once, to the dtype in which it is stored.

    Attributes:
        source: the model without maps.
        frame: of all models of the alignment.
        maps: by label.
        remarks: what was done to it, a sentence each.
    """

    frame: Frame
    maps: Maps
    _spec_names: Mapping[str, str] = field(repr=False)
    _exact: Mapping[str, bool] = field(repr=False)

    def tensor(self, name: str) -> Tensor:
        """One tensor: new memory where a map acts on it, else as the model gives it. Don't write to it."""
        if name not in self._exact:
            return self.source.tensor(name)
        tensor = self._folded[self._spec_names[name]]
        if not self._exact[name]:
            tensor = tensor.double()
        mapped = self.frame.spec.apply(self.maps, self._spec_names[name], tensor)
        return mapped.to(self.tensors[name].dtype)

    def computes(self, name: str) -> bool:
        """Whether a map acts on a tensor, or the model itself works it out."""
        return name in self._exact or self.source.computes(name)

    @property
    def is_whole(self) -> bool:
        """Whether its folder holds every tensor."""
        return self.source.is_whole

    @cached_property
    def _folded(self) -> FoldedWeights:
        names = {spec_name: own for own, spec_name in self._spec_names.items()}
        return FoldedWeights(self.source, self.frame, names, torch.float64)


def aligned(
    model: Checkpoint, frame: Frame, maps: Maps, names: Mapping[str, str], remarks: tuple[str, ...]
) -> AlignedCheckpoint:
    """A model under maps.

    Args:
        model: whole, or as its base shows it.
        frame: of all models of the alignment.
        maps: by label, those that change something, see `moving`.
        names: the model's own, by the spec's.
        remarks: what a person should know of it, a sentence each.
    """
    folding = frame.folding
    spec_names = {own: name for name, own in names.items()}
    tensors: dict[str, TensorInfo] = dict(model.tensors)
    for name, source in ({} if folding is None else folding.untied).items():
        # One that two tensors share: the folded model has each by itself.
        spec_names[name] = name
        tensors[name] = replace(model.tensors[names.get(source, source)], name=name, size_bytes=0)
    exact = {}
    for own, name in spec_names.items():
        labels = frame.spec.labels_of(name) & maps.keys()
        if (labels or folding is not None) and own in tensors and tensors[own].dtype.is_floating_point:
            exact[own] = folding is None and all(_is_exact(maps[label].arrays()) for label in labels)
            # A description of its own, since whoever finds the same one in two models takes it for the same tensor.
            tensors[own] = replace(tensors[own])
    return AlignedCheckpoint(
        reference=model.reference,
        folder=model.folder,
        config={**model.config, **({} if folding is None else folding.config)},
        tensors=tensors,
        ignored=model.ignored,
        source=model,
        frame=frame,
        maps=maps,
        remarks=remarks,
        _spec_names=spec_names,
        _exact=exact,
    )


def moving(spec: Spec, maps: Maps) -> dict[str, Map]:
    """Those of the maps that change something."""

    def is_identity(label: str, map_: Map) -> bool:
        identity = spec.labels[label].identity().arrays()
        return all(torch.equal(array, identity[name]) for name, array in map_.arrays().items())

    return {label: map_ for label, map_ in maps.items() if not is_identity(label, map_)}


def _is_exact(arrays: Mapping[str, Tensor]) -> bool:
    """Whether a map moves numbers and changes their signs, and does nothing else."""
    return not any(array.dtype.is_floating_point for array in arrays.values())
