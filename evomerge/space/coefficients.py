"""The space of coefficients: a box with one method's coefficients for every parameter group.

Knows parameter groups and bounds. Does not know how a genome is proposed or scored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from evomerge.config.space import ParameterConfig, SpaceConfig
from evomerge.errors import ConfigError, unknown
from evomerge.methods.base import MergeMethod, Parameter
from evomerge.recipe.group import Coefficient, Group, Kind
from evomerge.recipe.recipe import Recipe
from evomerge.space.base import Dimension, Genome, Space, check_dimensions
from evomerge.space.groups import cells_of, mixing_of
from evomerge.space.scan import spread


@dataclass(frozen=True, slots=True)
class _Coordinate:
    """One coefficient of the method for one expert (or all: None), over every group."""

    parameter: Parameter
    expert: str | None
    low: float
    high: float
    # Row g holds the weights with which this coordinate's dimensions make up group g's coefficient.
    mixing: NDArray[np.float64] = field(compare=False)
    first: int = 0
    start: float | None = None

    @property
    def columns(self) -> slice:
        return slice(self.first, self.first + self.mixing.shape[1])

    @property
    def initial(self) -> float:
        return self.start if self.start is not None else float(min(max(self.parameter.default, self.low), self.high))


class CoefficientSpace(Space):
    """A box of coefficients and the recipe that each of its points stands for.

    Args:
        template: a recipe with everything but its groups.
        method: the class of the merge method, whose declared parameters are searched.
        places: (layer, kind) of every tensor, as Layout gives them.
        config: granularity, bounds and smoothing.
        where: prefix of error messages, the file that the config came from.
    Raises: ConfigError for unknown parameters, bounds outside the method's own, or an empty space.
    """

    def __init__(
        self,
        template: Recipe,
        method: type[MergeMethod],
        places: Iterable[tuple[int, Kind]],
        config: SpaceConfig,
        *,
        where: str = "config",
    ) -> None:
        self.template = template
        self._experts = tuple(template.experts)
        self._cells = cells_of(config, sorted(set(places)), where)
        self._fixed: dict[str, float] = {}
        self._coordinates: list[_Coordinate] = []
        known = {parameter.name: parameter for parameter in method.parameters}
        for name in config.parameters:
            if name not in known:
                message = unknown(f"parameter of {method.name}", name, known)
                raise ConfigError(f"{where}: space.parameters.{name}: {message}")
        dimensions: list[Dimension] = []
        for parameter in method.parameters:
            settings = config.parameters.get(parameter.name, ParameterConfig())
            place = f"{where}: space.parameters.{parameter.name}"
            value = settings.value
            if value is None and not parameter.searched and settings.low is None and settings.high is None:
                value = parameter.default
            if value is not None:
                _check_range(parameter, value, value, place)
                self._fixed[parameter.name] = value
                continue
            low = parameter.low if settings.low is None else settings.low
            high = parameter.high if settings.high is None else settings.high
            if low >= high:
                raise ConfigError(f"{place}: low {low:g} is not below high {high:g}; set both bounds")
            _check_range(parameter, low, high, place)
            per_expert = parameter.per_expert and not settings.shared
            starts = self._starts(settings, low, high, f"{place}.start", per_expert)
            for expert in self._experts if per_expert else (None,):
                dimensions += self._add_coordinate(
                    parameter, expert, low, high, config, where, len(dimensions), starts.get(expert)
                )
        if not dimensions:
            raise ConfigError(
                f"{where}: space: nothing to search: {method.name} has "
                + ("only fixed parameters here; give one of them bounds" if known else "no parameters")
            )
        check_dimensions(dimensions)
        self.dimensions = tuple(dimensions)
        self.groups = tuple(cell.name for cell in self._cells)

    def _starts(
        self, settings: ParameterConfig, low: float, high: float, place: str, per_expert: bool
    ) -> dict[str | None, float]:
        """Where coefficients start that don't start at the method's default, by expert, or for all: None."""
        starts = settings.start
        if starts is None:
            return {}
        if isinstance(starts, float):
            found: dict[str | None, float] = dict.fromkeys(self._experts if per_expert else (None,), starts)
        elif not per_expert:
            raise ConfigError(f"{place}: this coefficient is one for all experts; give one number")
        else:
            found = dict(starts.items())
            for name in starts:
                if name not in self._experts:
                    raise ConfigError(f"{place}: {unknown('expert', name, self._experts)}")
        for start in found.values():
            if not low <= start <= high:
                raise ConfigError(f"{place}: {start:g} is not within the bounds {low:g} to {high:g}")
        return found

    def _add_coordinate(
        self,
        parameter: Parameter,
        expert: str | None,
        low: float,
        high: float,
        config: SpaceConfig,
        where: str,
        first: int,
        start: float | None,
    ) -> list[Dimension]:
        labels, mixing = mixing_of(self._cells, config.smooth, where)
        coordinate = _Coordinate(parameter, expert, low, high, mixing, first, start)
        self._coordinates.append(coordinate)
        return [
            Dimension(
                name=".".join(part for part in (parameter.name, expert, label) if part),
                low=low,
                high=high,
                initial=coordinate.initial,
            )
            for label in labels
        ]

    def decode(self, genome: Genome) -> Recipe:
        """The complete recipe that a genome stands for."""
        values: dict[str, dict[str | None, NDArray[np.float64]]] = {}
        for coordinate in self._coordinates:
            # Interpolation weights sum to one, but their rounding could step past a bound.
            blended = np.clip(coordinate.mixing @ genome[coordinate.columns], coordinate.low, coordinate.high)
            values.setdefault(coordinate.parameter.name, {})[coordinate.expert] = blended
        groups = []
        for index, cell in enumerate(self._cells):
            coefficients: dict[str, Coefficient] = dict(self._fixed)
            for name, by_expert in values.items():
                if None in by_expert:
                    coefficients[name] = float(by_expert[None][index])
                else:
                    coefficients[name] = {str(expert): float(row[index]) for expert, row in by_expert.items()}
            groups.append(Group(name=cell.name, layers=cell.layers, kinds=cell.kinds, coefficients=coefficients))
        return replace(self.template, groups=tuple(groups))

    def starting_points(self, count: int) -> list[Genome]:
        """Genomes with the same coefficients in every group: the default, then others of the first parameter.

        If it has one coefficient for each expert, they are spread over the experts: see `spread`.
        """
        name = self._coordinates[0].parameter.name
        main = [coordinate for coordinate in self._coordinates if coordinate.parameter.name == name]
        points = {self.default().tobytes(): self.default()}
        for weights in spread(len(main), main[0].low, main[0].high, count - 1) if count > 1 else ():
            genome = self.default()
            for coordinate, weight in zip(main, weights, strict=True):
                genome[coordinate.columns] = weight
            points.setdefault(genome.tobytes(), genome)
            if len(points) == count:
                break
        return list(points.values())


def _check_range(parameter: Parameter, low: float, high: float, place: str) -> None:
    if (parameter.minimum is not None and low < parameter.minimum) or (
        parameter.maximum is not None and high > parameter.maximum
    ):
        lowest = "-inf" if parameter.minimum is None else f"{parameter.minimum:g}"
        highest = "inf" if parameter.maximum is None else f"{parameter.maximum:g}"
        found = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        raise ConfigError(f"{place}: {found} leaves the range where it is defined, {lowest} to {highest}")
