"""Binding: a recipe and its models as one value, found once, that preparing, merging and costing take.

Everything that is wrong with a recipe for these models shows here, from names and shapes, before a tensor is read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import RecipeError, listed, unknown
from evomerge.kernels.dtypes import Dtype, dtype_of
from evomerge.late import torch
from evomerge.materialise.inputs import Inputs
from evomerge.methods.base import Coefficients, MergeMethod
from evomerge.methods.declared import build_method, checked_coefficients
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import FLOATING, Recipe

_KEPT_FRAMES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What all recipes that differ in their coefficients alone have in common."""

    method: MergeMethod
    kind: Dtype
    """In which floating-point tensors are stored, but those of a mixed checkpoint that keep their own."""
    stored: Mapping[str, Dtype]
    """The merged tensors with the dtypes in which they are stored. Wide dtypes come first, so that in a file each
    tensor starts at a multiple of its item size."""
    size_bytes: int
    """Of the merged tensors as they are stored."""
    group_of: Mapping[str, int | None]
    """For each floating-point tensor the position of the first group that contains it."""

    @property
    def dtype(self) -> torch.dtype:
        """Its `kind`, as torch knows it."""
        return self.kind.torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound(Frame):
    """A recipe that fits its models."""

    recipe: Recipe
    coefficients: Mapping[str, Coefficients]
    """For each floating-point tensor those of its group, with defaults filled in."""

    @property
    def preparation(self) -> tuple[Any, ...]:
        """What prepared states depend on beside the models: equal for all candidates of a search."""
        return (self.method.name, tuple(sorted(self.method.option.items())), self.method.seed)


class Binder:
    """Binds recipes to one base and its experts.

    The candidates of a search differ in their coefficients alone, so that all else is found for the first of them.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._places = {name: inputs.base.layout.place(name) for name in inputs.base.names}
        self._last_layer = max((place.layer for place in self._places.values()), default=0)
        self._frames: OrderedDict[tuple[Any, ...], Frame] = OrderedDict()

    def bind(self, recipe: Recipe) -> Bound:
        """Check a recipe against its method and the models, without touching a tensor.

        Raises: RecipeError with the place in the recipe and what would be right.
        """
        frame = self._frame(recipe)
        method = type(frame.method)
        groups = [
            checked_coefficients(
                f"{_place(index, group)}: coefficients", group.coefficients, method, frame.method.experts
            )
            for index, group in enumerate(recipe.groups)
        ]
        homeless = [name for name, index in frame.group_of.items() if index is None]
        if homeless and method.parameters:
            raise RecipeError(
                f"recipe: groups: no group contains {listed(homeless)}; add a last group without "
                "layers and kinds to give every other tensor its coefficients"
            )
        return Bound(
            recipe=recipe,
            method=frame.method,
            kind=frame.kind,
            stored=frame.stored,
            size_bytes=frame.size_bytes,
            group_of=frame.group_of,
            coefficients={name: {} if index is None else groups[index] for name, index in frame.group_of.items()},
        )

    def notes(self, bound: Bound) -> list[str]:
        """What is allowed in a recipe that fits these models, but hardly meant: a sentence each."""
        used = set(bound.group_of.values())
        notes = [
            f"group {group.name!r} contains no tensor that no earlier group contains; it has no effect"
            for index, group in enumerate(bound.recipe.groups)
            if index not in used
        ]
        from_base = bound.method.base == "required" and bound.method.option.get("origin") != "zero"
        if from_base and not bound.recipe.slices:
            notes += [
                f"expert {name!r} is the base itself; its task vector is zero"
                for name, expert in self._inputs.experts.items()
                if expert.folder == self._inputs.base.folder
            ]
        return notes

    def _frame(self, recipe: Recipe) -> Frame:
        selections = tuple((group.layers, group.kinds, group.names) for group in recipe.groups)
        options = tuple((name, type(value), repr(value)) for name, value in recipe.options.items())
        key = (recipe.method, options, recipe.seed, recipe.dtype, tuple(recipe.experts), selections)
        if key not in self._frames:
            self._frames[key] = self._new_frame(recipe)
            while len(self._frames) > _KEPT_FRAMES:
                self._frames.popitem(last=False)
        self._frames.move_to_end(key)
        return self._frames[key]

    def _new_frame(self, recipe: Recipe) -> Frame:
        experts = tuple(self._inputs.experts)
        method = build_method(recipe.method, recipe.options, experts=tuple(recipe.experts), seed=recipe.seed)
        kind = self._kind(recipe)
        if tuple(recipe.experts) != experts:
            raise RecipeError(
                f"recipe: models.experts: names {', '.join(recipe.experts)}, but the models at hand are "
                f"{', '.join(experts)}, in this order"
            )
        for index, group in enumerate(recipe.groups):
            if group.layers is not None and group.layers[1] > self._last_layer:
                raise RecipeError(
                    f"{_place(index, group)}: layers: {list(group.layers)} goes beyond the models' last layer, "
                    f"{self._last_layer}; both ends are included, and the first layer is 0"
                )
        tensors = self._inputs.base.tensors
        stored = {name: self._storage_kind(name, kind) for name in self._inputs.base.names}
        return Frame(
            method=method,
            kind=kind,
            stored=dict(sorted(stored.items(), key=lambda item: -item[1].itemsize)),
            size_bytes=sum(tensors[name].num_elements * of.itemsize for name, of in stored.items()),
            group_of={name: self._group_of(name, recipe) for name in self._inputs.floating},
        )

    def _kind(self, recipe: Recipe) -> Dtype:
        if recipe.dtype == "auto":
            return self._inputs.base.kind
        if recipe.dtype not in FLOATING:
            raise RecipeError(f"recipe: dtype: {unknown('dtype', recipe.dtype, ('auto', *FLOATING))}")
        return dtype_of(recipe.dtype)

    def _storage_kind(self, name: str, wanted: Dtype) -> Dtype:
        """A merge in the base's own dtype keeps the dtypes of a mixed checkpoint; integers stay as they are."""
        base = self._inputs.base
        stored = base.tensors[name].kind
        return stored if not stored.is_floating_point or wanted == base.kind else wanted

    def _group_of(self, name: str, recipe: Recipe) -> int | None:
        place = self._places[name]
        return next((index for index, group in enumerate(recipe.groups) if group.contains(*place, name)), None)


def _place(index: int, group: Group) -> str:
    return f"recipe: groups[{index}] ({group.name})"
