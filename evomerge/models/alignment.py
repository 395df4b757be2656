"""The alignment of a merge's models: found, kept as bytes, and read back for the same models.

Knows checkpoints, specs by model type and methods by name. Doesn't know merges or runs.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from evomerge.alignment import ALIGNMENTS, SPECS
from evomerge.alignment.base import Progress, Step, made
from evomerge.alignment.kinds.base import Map
from evomerge.alignment.own import spec_from
from evomerge.alignment.spec import Maps, Spec, from_arrays, to_arrays
from evomerge.alignment.symmetries import Symmetries
from evomerge.errors import AlignmentError, unknown
from evomerge.models.aligned import FoldedWeights, Frame, aligned, moving
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.compressed import fingerprint
from evomerge.models.names import match_names
from evomerge.recipe.align import BASE, Align
from evomerge.streams import stream

FORMAT_VERSION = 1
_HEAD = "evomerge_alignment"


class Similarity(NamedTuple):
    """Inner products of a tensor A of the reference and the same tensor B of a model: A·A, B·B, A·B and A·π(B)."""

    reference: float
    model: float
    before: float
    after: float


def cosine(similarities: Iterable[Similarity], when: Literal["before", "after"]) -> float:
    """Of the tensors as one vector, before or after the maps; 0 where one side is nothing but zeros."""
    every = list(similarities)
    lengths = math.sqrt(sum(each.reference for each in every) * sum(each.model for each in every))
    return sum(getattr(each, when) for each in every) / lengths if lengths else 0.0


class Found(NamedTuple):
    """Maps by model, none for the reference, and the steps by which they were found, each with its model's name."""

    maps: dict[str, dict[str, Map]]
    history: tuple[tuple[str, Step], ...] = ()


@dataclass(frozen=True)
class Alignable:
    """Models that are to be aligned, found to be of one architecture that a spec is known for.

    Attributes:
        align: how.
        models: by name, "base" among them. Adapters and compressed experts, which change their base, share its maps.
        spec: one to use instead of that of the architecture; None: that.
    """

    align: Align
    models: Mapping[str, Checkpoint]
    spec: Spec | None = None

    @property
    def reference(self) -> Checkpoint:
        """The model that stays as it is."""
        return self.models[self.align.reference]

    @property
    def moved(self) -> tuple[str, ...]:
        """The models that maps are found for, the reference first."""
        whole = [name for name, model in self.models.items() if model.is_whole and name != self.align.reference]
        return (self.align.reference, *whole)

    @cached_property
    def names(self) -> dict[str, dict[str, str]]:
        """By model, its own names by those of the reference. Raises: CheckpointError."""
        return {
            name: {tensor: tensor for tensor in model.names}
            if model is self.reference
            else match_names(self.reference, model)
            for name, model in self.models.items()
        }

    @cached_property
    def frame(self) -> Frame:
        """The spec, with the folding of norms that it asks for.

        Raises: AlignmentError for an architecture without a spec, or symmetries that it hasn't.
        """
        align, reference = self.align, self.reference
        shapes = {
            name: info.shape
            for name, info in reference.tensors.items()
            if name not in reference.unread and all(name in names for names in self.names.values())
        }
        if self.spec is not None:
            self.spec.check(shapes)
            return Frame(spec=self.spec)
        if align.spec is not None:
            return Frame(spec=spec_from(align.spec, "align.spec", shapes))
        family = reference.model_type or ""
        if family not in SPECS:
            raise AlignmentError(
                f"{reference.folder}: {unknown(SPECS.kind, family, SPECS)} For another one, give a spec of your own "
                "(see docs/alignment-specs.md)"
            )
        symmetries: Any = {key: getattr(align, key) for key in ("residual", "heads", "rotations", "hidden")}
        spec_of, asked = SPECS.get(family), Symmetries(**symmetries)
        try:
            folding = None
            if align.residual == "orthogonal":
                if (fold := getattr(spec_of, "fold", None)) is None:
                    raise AlignmentError(f"models of type {family!r} have no norms that can be folded for rotations")
                folding = fold(shapes, reference.config)
                shapes = folding.shapes(shapes)
            spec = spec_of(shapes, reference.config, asked)
            spec.check(shapes)
        except AlignmentError as error:
            raise AlignmentError(f"{reference.folder}: {error}") from error
        return Frame(spec=spec, folding=folding)

    def check(self) -> None:
        """Everything that can be wrong before weights are read.

        Raises: CheckpointError for models that don't fit each other, AlignmentError for what can't be aligned so.
        """
        if self.align.reference not in self.models:
            raise AlignmentError(f"align.reference: {unknown('model', self.align.reference, self.models)}")
        if not self.reference.is_whole:
            raise AlignmentError(
                f"align.reference: {self.align.reference!r} changes its base and isn't a whole model; take the base"
            )
        made(ALIGNMENTS.get(self.align.method), self.align.options)
        others = {name: self.models[name] for name in self.moved[1:]}
        check_compatible(self.reference, others)
        if self.frame.folding is not None:
            for name in others:
                if len(set(self.names[name].values())) < len(self.names[name]):
                    raise AlignmentError(
                        f"{self.models[name].folder}: ties its head to the embedding and the reference doesn't, so "
                        "that norms can't be folded alike; store its head and set tie_word_embeddings to false"
                    )

    def find(self, progress: Progress | None = None) -> Found:
        """Maps of each model onto the reference, by the method. Raises: AlignmentError, CheckpointError."""
        self.check()
        method = made(ALIGNMENTS.get(self.align.method), self.align.options)
        weights = [FoldedWeights(self.models[name], self.frame, self.names[name]) for name in self.moved]
        with torch.no_grad():
            found = method.align(
                self.frame.spec, weights, reference=0, generator=stream(self.align.seed, "align"), progress=progress
            )
        history = tuple((self.moved[step.model], step) for step in found.history)
        return Found(dict(zip(self.moved, ({}, *found.onto(0)[1:]), strict=True)), history)

    def similarities(self, name: str, maps: Maps) -> dict[str, Similarity]:
        """How alike each tensor of a model is to the reference's, by the reference's names."""
        spec, one = self.frame.spec, FoldedWeights(self.reference, self.frame, self.names[self.align.reference])
        two = FoldedWeights(self.models[name], self.frame, self.names[name])
        found = {}
        for tensor in spec.tensors:
            if (a := one[tensor]).dtype.is_floating_point:
                sums = [0.0] * 4
                for stretch in spec.stretches(tensor, a, two[tensor]):
                    a, b = (part.float() for part in stretch)
                    pairs = ((a, a), (b, b), (a, b), (a, spec.apply(maps, tensor, b)))
                    sums = [total + float(torch.sum(x * y)) for total, (x, y) in zip(sums, pairs, strict=True)]
                found[tensor] = Similarity(*sums)
        return found

    def shown(self, maps: Mapping[str, Maps]) -> dict[str, Checkpoint]:
        """The models under their maps, by name; those that change their base under the base's."""
        found = {}
        for name, model in self.models.items():
            own = moving(self.frame.spec, maps.get(name if name in self.moved else BASE, {}))
            stays = name == self.align.reference or (not own and not model.is_whole)
            if stays and self.frame.folding is None:
                found[name] = model
            else:
                found[name] = aligned(model, self.frame, own, self.names[name], tuple(self._remarks(name, own)))
        return found

    def outlined(self) -> dict[str, Checkpoint]:
        """The models with the tensors, shapes and settings that they have under any maps, by name; each as it lies."""
        folding = self.frame.folding
        if folding is None:
            return dict(self.models)
        return {
            name: aligned(model, self.frame, {}, self.names[name], (f"{model.folder}: {folding.note()}",))
            for name, model in self.models.items()
        }

    def _remarks(self, name: str, maps: Maps) -> Iterator[str]:
        folder = self.models[name].folder
        if self.frame.folding is not None:
            yield f"{folder}: {self.frame.folding.note()}"
        if not maps and name in self.moved[1:]:
            yield f"{folder}: its units lie as the reference's do, so alignment leaves it as it is"

    def to_bytes(self, maps: Mapping[str, Maps]) -> bytes:
        """Maps as a safetensors file that says which models they are of."""
        arrays = {
            f"{name}/{key}": array.contiguous().clone()
            for name, own in maps.items()
            for key, array in to_arrays(moving(self.frame.spec, own)).items()
        }
        head = {
            "format": FORMAT_VERSION,
            "align": {**self.align.to_data(), "maps": None, "sha256": None},
            "models": {name: fingerprint(self.models[name]) for name in self.moved},
        }
        return bytes(save(arrays, {_HEAD: json.dumps(head)}))

    def from_bytes(self, data: bytes, where: str) -> dict[str, Maps]:
        """Maps from such a file, for the models that it was made for.

        Raises: AlignmentError if it is damaged, or of other models or symmetries.
        """
        head = _head(data, where)
        arrays = load(data)
        for name in self.moved:
            if head["models"].get(name) != fingerprint(self.models[name]):
                raise AlignmentError(
                    f"{where}: its maps were found for another model than {name!r} is now "
                    f"({self.models[name].folder}); restore that model, or find the maps anew without this file"
                )
        by_model: dict[str, dict[str, Tensor]] = {name: {} for name in self.moved}
        for key, array in arrays.items():
            name, _, rest = key.partition("/")
            if name in by_model:
                by_model[name][rest] = array
        try:
            return {name: from_arrays(self.frame.spec, own) for name, own in by_model.items()}
        except AlignmentError as error:
            raise AlignmentError(f"{where}: {error}") from error


def read_maps(align: Align) -> bytes:
    """The content of the file of maps that an alignment names.

    Raises: AlignmentError if it is missing or another file than it was.
    """
    path = Path(str(align.maps))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AlignmentError(
            f"{path}: the file of maps can't be read ({error.strerror}); put it there, or take `maps` and `sha256` "
            "out of `align`, so that they are found anew"
        ) from error
    if digest(data) != align.sha256:
        raise AlignmentError(f"{path}: isn't the file of maps that this merge was made with; restore it")
    return data


def _head(data: bytes, where: str) -> dict[str, Any]:
    """What the file says of itself. Raises: AlignmentError if it isn't a file of maps that this release reads."""
    try:
        (length,) = struct.unpack("<Q", data[:8])
        head = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_HEAD])
        load(data)
    except (SafetensorError, struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AlignmentError(f"{where}: can't be read as a file of maps ({type(error).__name__}: {error})") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT_VERSION or not isinstance(head.get("models"), dict):
        raise AlignmentError(f"{where}: isn't a file of maps of format {FORMAT_VERSION}, which this release reads")
    return head


def digest(data: bytes) -> str:
    """What tells one file of maps from another."""
    return hashlib.sha256(data).hexdigest()
