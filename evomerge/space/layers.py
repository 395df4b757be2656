"""The space of layer stacks: which layers of which models, in what order, repeated or not, each with a scale.

Akiba et al. 2024 (arXiv 2403.13187, §3.2): all layers in a row, the row repeated, and for each a gene that says whether
it takes part. Knows layers and models' names. Does not know weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from evomerge.config.space import SpaceConfig
from evomerge.errors import ConfigError, unknown
from evomerge.methods.base import MergeMethod
from evomerge.recipe.group import Group
from evomerge.recipe.layer_path import from_path
from evomerge.recipe.recipe import Recipe
from evomerge.space.base import Condition, Dimension, Genome, Space, Value, check_dimensions, settled
from evomerge.space.groups import Place

_MOST = 2000
"""Dimensions that are hardly meant."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """A layer of a model at one place of the row."""

    model: str
    layer: int
    label: str


class LayerSpace(Space):
    """Stacks of whole layers. The first model's first layer is always in, so that none is empty.

    The row is the layers of each model in order, one model after the other, all of it as often as `space.stack.repeats`
    says; a stack is the part of the row whose genes are 1. With scales a layer adds s·f(x) instead of f(x): the tensors
    that end its branches are multiplied. The search starts at the first model's own layers.

    Args:
        template: a recipe with everything but its groups and slices; its method doesn't matter.
        method: of the template.
        places: of every tensor, which say how many layers each model has.
        config: models, repeats and scales.
        where: prefix of error messages, the file that the config came from.
    Raises: ConfigError for models that there aren't, or are shown otherwise than they are, and too many layers.
    """

    shares_layers = True

    def __init__(
        self,
        template: Recipe,
        method: type[MergeMethod],
        places: Iterable[Place],
        config: SpaceConfig,
        *,
        where: str = "config",
    ) -> None:
        places = tuple(places)
        stack = config.stack
        names = stack.models or ("base", *template.experts)
        for name in names:
            if name not in template.references:
                raise ConfigError(f"{where}: space.stack.models: {unknown('model', name, template.references)}")
        for key, differs in (
            ("slices", bool(template.slices)),
            ("vocabulary", template.vocabulary != "same"),
            ("head", template.head is not None),
            ("align", template.align is not None),
        ):
            if differs:
                raise ConfigError(f"{where}: models.{key}: layers are stacked of models as they are; leave it out")
        for key in ("parameters", "names", "kinds", "smooth"):
            if getattr(config, key):
                raise ConfigError(f"{where}: space.{key}: a stack has no coefficients but its scales; leave it out")
        depth = 1 + max(place[0] for place in places)
        self._outputs = stack.outputs if stack.scales is not None else ()
        texts = {place[2] for place in places if len(place) == 3}
        for text in self._outputs:
            if text not in texts:
                raise ConfigError(
                    f"{where}: space.stack.outputs: {text!r} occurs in no tensor's stored name; name the tensors that "
                    "end a layer's branches, such as o_proj and down_proj, or leave out scales"
                )
        self._slots = [
            _Slot(model, layer, f"{model}.layer_{layer}" + (f".{number}" if number > 1 else ""))
            for number in range(1, stack.repeats + 1)
            for model in names
            for layer in range(depth)
        ]
        dimensions: list[Dimension] = []
        for index, slot in enumerate(self._slots):
            use = f"use.{slot.label}"
            if index:
                initial = float(index < depth)
                dimensions.append(Dimension(name=use, kind="integer", low=0, high=1, initial=initial))
            if stack.scales is not None:
                low, high = stack.scales
                condition = Condition(dimension=use, values=(1,)) if index else None
                dimensions.append(
                    Dimension(name=f"scale.{slot.label}", low=low, high=high, initial=1.0, condition=condition)
                )
        if not 0 < len(dimensions) <= _MOST:
            remedy = f"more than {_MOST}; use fewer models or repeats"
            if not dimensions:
                remedy = "one model of one layer leaves nothing to search; add models or repeats"
            raise ConfigError(f"{where}: space.stack: {len(dimensions)} dimensions: {remedy}")
        check_dimensions(dimensions)
        self.dimensions = tuple(dimensions)
        self.groups = ("rest",)
        name = "passthrough" if stack.scales is None else "scaled"
        self._template = replace(template, method=name, options={"model": "base"})

    def decode(self, genome: Genome) -> Recipe:
        """The complete recipe that a genome stands for."""
        values = self.parameters(genome)
        used = self._used(values)
        groups = [
            Group(
                name=f"layer_{index}.{text}",
                layers=(index, index),
                names=(text,),
                coefficients={"scale": float(values[f"scale.{slot.label}"])},
            )
            for index, slot in enumerate(used)
            for text in self._outputs
        ]
        rest = Group(name="rest", coefficients={"scale": 1.0} if self._outputs else {})
        slices = from_path((slot.model, slot.layer) for slot in used)
        return replace(self._template, slices=slices, groups=(*groups, rest))

    def _used(self, values: dict[str, Value]) -> list[_Slot]:
        first, *others = self._slots
        return [first, *(slot for slot in others if values[f"use.{slot.label}"] == 1)]

    def groups_of(self, genome: Genome) -> tuple[str, ...]:
        """One for each scaled tensor of the stack, and the rest."""
        depth = len(self._used(self.parameters(genome)))
        return (*(f"layer_{index}.{text}" for index in range(depth) for text in self._outputs), "rest")

    def encode(self, recipe: Recipe) -> Genome | None:
        """The genome of a recipe's stack, with each layer at its first place in the row; None if it has no place."""
        bare = replace(recipe, slices=(), groups=(), method=self._template.method, options=self._template.options)
        path = [
            (model, layer)
            for part in recipe.slices
            for model, (first, last) in part.items()
            for layer in range(first, last + 1)
        ]
        if bare.key() != self._template.key() or any(len(part) != 1 for part in recipe.slices) or not path:
            return None
        if recipe.method != self._template.method:
            return None
        slots = iter(enumerate(self._slots))
        values: dict[str, Value] = {dimension.name: dimension.low for dimension in self.dimensions}
        for position, step in enumerate(path):
            index = next((index for index, slot in slots if (slot.model, slot.layer) == step), None)
            scale = self._scale(recipe, position)
            if index is None or scale is None or (position == 0 and index):
                return None
            label = self._slots[index].label
            values |= {f"use.{label}": 1.0, f"scale.{label}": scale}
        genome = self.genome(values)
        if not all(item.contains(value) for item, value in zip(self.dimensions, genome, strict=True)):
            return None
        return settled(self.dimensions, genome)

    def _scale(self, recipe: Recipe, layer: int) -> float | None:
        """The one factor of a layer's outputs; None if there are several, or others have one."""
        found: set[float] = set()
        for text in (*self._outputs, ""):
            group = next((one for one in recipe.groups if one.contains(layer, "other", text)), None)
            scale = 1.0 if group is None else group.coefficients.get("scale", 1.0)
            if isinstance(scale, Mapping) or (not text and scale != 1.0):
                return None
            found |= {scale} if text else set()
        return next(iter(found), 1.0) if len(found) < 2 else None
