"""The seam of spaces: dimensions, genomes, and the recipes that they stand for.

Knows what a dimension can be and how a genome is written down. Does not know how a genome is proposed or scored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import ConfigError, unknown

if TYPE_CHECKING:
    # For annotations alone: a dimension is wanted where torch isn't.
    from evomerge.config.space import SpaceConfig
    from evomerge.methods.base import MergeMethod
    from evomerge.recipe.recipe import Recipe
    from evomerge.space.groups import Place

Genome = NDArray[np.float64]
"""A point of the search space, shape (num_dimensions,): a coefficient in its own units, a whole number, or the place
of a choice among its dimension's choices. A dimension that doesn't matter at this point is at its low end."""

Value = float | int | str
"""What the ledger records of one dimension: a coefficient, a whole number or a choice."""

Unchanged = Mapping[str, frozenset["Place"]]
"""By expert, the places all of whose tensors are the base's."""

DimensionKind = Literal["continuous", "integer", "categorical"]
DIMENSION_KINDS: tuple[DimensionKind, ...] = get_args(DimensionKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A dimension matters only where another, an integer or a categorical one, has one of these values."""

    dimension: str
    values: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One searched quantity: its name in the ledger, its bounds and where the search starts.

    Bounds belong to the range. Those of a categorical dimension are 0 and the place of the last choice.

    Raises: ConfigError for bounds, choices or an initial value that make no sense together.
    """

    name: str
    low: float
    high: float
    initial: float
    kind: DimensionKind = "continuous"
    choices: tuple[str, ...] = ()
    condition: Condition | None = None
    step: float = 1.0
    """First standard deviation over that of the other dimensions, as fractions of their ranges (`search.step_size`)."""
    group: str = ""
    """The group of tensors whose coefficient it is, where it is one's."""

    def __post_init__(self) -> None:
        where = f"dimension {self.name!r}"
        if self.kind not in DIMENSION_KINDS:
            raise ConfigError(f"{where}: {unknown('kind of dimension', str(self.kind), DIMENSION_KINDS)}")
        if (self.kind == "categorical") != bool(self.choices):
            raise ConfigError(f"{where}: choices belong to a categorical dimension, and only there; it is {self.kind}")
        if len(set(self.choices)) != len(self.choices):
            raise ConfigError(f"{where}: the same choice twice in {', '.join(self.choices)}")
        if self.kind == "categorical" and (len(self.choices) < 2 or (self.low, self.high) != (0, self._last)):
            raise ConfigError(f"{where}: expected at least 2 choices with bounds 0 to {self._last}")
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"{where}: low {self.low:g} is not below high {self.high:g}")
        if self.kind == "integer" and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise ConfigError(f"{where}: bounds of whole numbers are whole, not {self.low:g} and {self.high:g}")
        if not (np.isfinite(self.step) and self.step > 0):
            raise ConfigError(f"{where}: step {self.step:g} is no positive number")
        if not self.contains(self.initial):
            raise ConfigError(
                f"{where}: initial {self.initial:g} is no {self.kind} value from {self.low:g} to {self.high:g}"
            )

    @classmethod
    def categorical(
        cls, name: str, choices: Sequence[str], *, initial: str, condition: Condition | None = None
    ) -> Dimension:
        """One of several choices. Raises: ConfigError for fewer than two, or an initial one that is none of them."""
        if initial not in choices:
            raise ConfigError(f"dimension {name!r}: {unknown('choice', initial, choices)}")
        return cls(
            name=name,
            low=0,
            high=len(choices) - 1,
            initial=list(choices).index(initial),
            kind="categorical",
            choices=tuple(choices),
            condition=condition,
        )

    @property
    def _last(self) -> int:
        return len(self.choices) - 1

    def matters(self, values: Mapping[str, Value]) -> bool:
        """Whether the condition, if there is one, is met by the values of the dimensions before."""
        return self.condition is None or values.get(self.condition.dimension) in self.condition.values

    def contains(self, coordinate: float) -> bool:
        """Whether a genome may have this number here."""
        whole = self.kind == "continuous" or float(coordinate).is_integer()
        return bool(self.low <= coordinate <= self.high) and whole

    def value(self, coordinate: float) -> Value:
        """What the ledger records for a genome's number: itself, a whole number, or the choice at that place."""
        if self.kind == "continuous":
            return float(coordinate)
        return int(coordinate) if self.kind == "integer" else self.choices[int(coordinate)]

    def coordinate(self, value: Value) -> float:
        """The inverse of `value`. Raises: ConfigError for a choice that there isn't."""
        if self.kind != "categorical":
            return float(value)
        if value not in self.choices:
            raise ConfigError(f"dimension {self.name!r}: {unknown('choice', str(value), self.choices)}")
        return float(self.choices.index(value))


def check_dimensions(dimensions: Sequence[Dimension]) -> None:
    """Refuse names that occur twice, and conditions on what isn't there, comes later or can't have those values.

    Raises: ConfigError.
    """
    seen: dict[str, Dimension] = {}
    for dimension in dimensions:
        where = f"dimension {dimension.name!r}"
        if dimension.name in seen:
            raise ConfigError(f"{where}: there are two of that name")
        condition = dimension.condition
        if condition is not None:
            parent = seen.get(condition.dimension)
            if parent is None:
                raise ConfigError(f"{where}: depends on {condition.dimension!r}, which is no dimension before it")
            if parent.kind == "continuous":
                raise ConfigError(
                    f"{where}: depends on {parent.name!r}, which is continuous; only whole numbers and "
                    "choices can be depended on"
                )
            for value in condition.values:
                known = value in parent.choices if parent.kind == "categorical" else parent.contains(float(value))
                if not known:
                    raise ConfigError(f"{where}: depends on {parent.name!r} being {value!r}, which it can't be")
        seen[dimension.name] = dimension


def with_steps(dimensions: Sequence[Dimension], steps: Mapping[str, float], where: str) -> tuple[Dimension, ...]:
    """The dimensions with other first steps, by name. Raises: ConfigError for a name that there isn't."""
    names = [dimension.name for dimension in dimensions]
    for name in steps:
        if name not in names:
            raise ConfigError(f"{where}: space.steps: {unknown('dimension', name, names)}")
    return tuple(replace(item, step=steps.get(item.name, item.step)) for item in dimensions)


def active(dimensions: Sequence[Dimension], genome: Genome) -> list[bool]:
    """Which dimensions matter at this point: those without a condition, and those whose condition is met."""
    values: dict[str, Value] = {}
    for dimension, coordinate in zip(dimensions, genome, strict=True):
        if dimension.matters(values):
            values[dimension.name] = dimension.value(coordinate)
    return [dimension.name in values for dimension in dimensions]


def settled(dimensions: Sequence[Dimension], genome: Genome) -> Genome:
    """The same point with every dimension that doesn't matter there at its low end, so that equal merges are equal."""
    low = [dimension.low for dimension in dimensions]
    return np.where(active(dimensions, genome), np.asarray(genome, dtype=np.float64), low)


class Space(ABC):
    """Genomes, and the recipe that each stands for.

    Args:
        template: a recipe with everything but its groups.
        method: the class of the recipe's merge method.
        places: (layer, kind) of every tensor of the models; with `space.names` also the text that goes by.
        config: the config's `space` section.
        where: prefix of error messages, the file that the config came from.
    Raises: ConfigError for a section that doesn't fit the models or the method, or leaves nothing to search.
    """

    shares_layers: ClassVar[bool] = False
    """Whether candidates are stacks of whole layers, which workers share between them."""
    adds_task_vectors: bool = False
    """Whether a candidate may add task vectors, so that `idle` has to know where experts are the base."""
    left_out: tuple[str, ...] = ()
    """Names of dimensions that aren't searched, since they would change nothing in the models at hand."""
    dimensions: tuple[Dimension, ...]
    groups: tuple[str, ...]
    """Names of the parameter groups, in recipe order."""

    @abstractmethod
    def __init__(
        self,
        template: Recipe,
        method: type[MergeMethod],
        places: Iterable[Place],
        config: SpaceConfig,
        *,
        where: str = "config",
    ) -> None: ...

    @abstractmethod
    def decode(self, genome: Genome) -> Recipe:
        """The complete recipe that a genome stands for."""

    def nearest(self, recipe: Recipe) -> Genome | None:
        """The genome whose merge comes nearest to a recipe's; None if this space can't tell, or has none like it."""
        return self.encode(recipe)

    def encode(self, recipe: Recipe) -> Genome | None:
        """A genome that stands for the merge of a recipe, but for rounding; None if there is none, or it isn't known.

        A space that can do this finds one for every recipe that it decodes to.
        """
        return None

    def idle(self, unchanged: Unchanged) -> dict[int, int | None]:
        """The places of dimensions that change no merge of models of which these parts are unchanged.

        Each with the place of a dimension of the same kind that it may follow, which changes something; None: there is
        none.
        """
        return {}

    def starting_points(self, count: int) -> list[Genome]:
        """At most `count` different genomes worth scoring before a search; `default()` is the first."""
        return [self.default()]

    def groups_of(self, genome: Genome) -> tuple[str, ...]:
        """Names of the parameter groups of a genome's recipe, in its order, where not all have the same."""
        return self.groups

    def variants(self) -> list[Genome]:
        """One genome for each method and set of options that candidates can have."""
        return [self.default()]

    def default(self) -> Genome:
        """Every dimension at its initial value."""
        return settled(self.dimensions, np.array([float(dimension.initial) for dimension in self.dimensions]))

    def parameters(self, genome: Genome) -> dict[str, Value]:
        """The genome by dimension name, as the ledger records it; what doesn't matter at this point is left out."""
        matters = active(self.dimensions, genome)
        return {
            dimension.name: dimension.value(coordinate)
            for dimension, coordinate, named in zip(self.dimensions, genome, matters, strict=True)
            if named
        }

    def genome(self, parameters: Mapping[str, Value]) -> Genome:
        """The inverse of `parameters`. Raises: KeyError where a dimension without a condition has no value."""
        return np.array(
            [
                dimension.low
                if dimension.condition is not None and dimension.name not in parameters
                else dimension.coordinate(parameters[dimension.name])
                for dimension in self.dimensions
            ],
            dtype=np.float64,
        )

    def describe(self) -> dict[str, Any]:
        """Groups and dimensions as plain data."""
        return {"groups": list(self.groups), "dimensions": [_described(dimension) for dimension in self.dimensions]}


def _described(dimension: Dimension) -> dict[str, Any]:
    """Name and bounds; what only other dimensions have is left out of a continuous one without a condition."""
    data: dict[str, Any] = {name: getattr(dimension, name) for name in ("name", "low", "high", "initial")}
    if dimension.kind != "continuous":
        data["kind"] = dimension.kind
    if dimension.step != 1.0:
        data["step"] = dimension.step
    if dimension.choices:
        data["choices"] = list(dimension.choices)
    if dimension.condition is not None:
        data["when"] = {dimension.condition.dimension: list(dimension.condition.values)}
    return data
