"""The space of coefficients: a box with one method's coefficients for every parameter group.

Knows parameter groups and bounds. Does not know how a genome is proposed or scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evomerge.config.space import ParameterConfig, SpaceConfig
from evomerge.errors import ConfigError, unknown
from evomerge.methods.base import MergeMethod, Parameter
from evomerge.recipe.group import Coefficient
from evomerge.recipe.recipe import Recipe
from evomerge.space.base import Genome, Space, Unchanged, check_dimensions
from evomerge.space.coordinates import Coordinate, Free, Shares
from evomerge.space.groups import Place, cells_of
from evomerge.space.mixing import mixing_of
from evomerge.space.recipes import coefficients_at, merge_alike, same_but_groups
from evomerge.space.scan import spread


class CoefficientSpace(Space):
    """A box of coefficients and the recipe that each of its points stands for.

    Args:
        template: a recipe with everything but its groups.
        method: the class of the merge method, whose declared parameters are searched.
        places: of every tensor.
        config: granularity, bounds and smoothing.
        where: prefix of error messages, the file that the config came from.
        empty: whether there may be nothing to search.
    Raises: ConfigError for unknown parameters, bounds outside the method's own, or an empty space.
    """

    def __init__(
        self,
        template: Recipe,
        method: type[MergeMethod],
        places: Iterable[Place],
        config: SpaceConfig,
        *,
        where: str = "config",
        empty: bool = False,
    ) -> None:
        self.template = template
        self.places = tuple(sorted(set(places)))
        self._experts = tuple(template.experts)
        self._cells = cells_of(config, self.places, where)
        self._groups = [cell.group({}) for cell in self._cells]
        """Without coefficients, which `decode` gives them."""
        self._config = config
        self._where = where
        self._fixed: dict[str, float | dict[str, float]] = {}
        self.coordinates: list[Coordinate] = []
        """What the dimensions stand for, in order."""
        known = {parameter.name: parameter for parameter in method.parameters}
        for name in config.parameters:
            if name not in known:
                message = unknown(f"parameter of {method.name}", name, known)
                raise ConfigError(f"{where}: space.parameters.{name}: {message}")
        for parameter in method.parameters:
            self._add(parameter, config.parameters.get(parameter.name, ParameterConfig()))
        if not self.coordinates and not empty:
            raise ConfigError(
                f"{where}: space: nothing to search: {method.name} has "
                + ("only fixed parameters here; give one of them bounds" if known else "no parameters")
            )
        self.dimensions = tuple(item for coordinate in self.coordinates for item in coordinate.dimensions)
        check_dimensions(self.dimensions)
        self.groups = tuple(cell.name for cell in self._cells)
        self.adds_task_vectors = method.adds_task_vectors

    def _add(self, parameter: Parameter, settings: ParameterConfig) -> None:
        """Fix a parameter, or add the dimensions by which it is searched."""
        place = f"{self._where}: space.parameters.{parameter.name}"
        value = settings.value
        bounds = (settings.low, settings.high)
        unset = value is None and bounds == (None, None) and settings.sum is None
        if unset and not parameter.searched:
            value = parameter.default
        if isinstance(value, int | float):
            _check_range(parameter, value, value, place)
            self._fixed[parameter.name] = value
            return
        if settings.sum is not None:
            self._add_shares(parameter, settings, settings.sum, place)
            return
        low = parameter.low if settings.low is None else settings.low
        high = parameter.high if settings.high is None else settings.high
        if low >= high:
            raise ConfigError(f"{place}: low {low:g} is not below high {high:g}; set both bounds")
        _check_range(parameter, low, high, place)
        fixed = self._fixed_for_some(parameter, value or {}, place)
        sets = self._sets(parameter, settings, fixed, place)
        starts = self._starts(settings, low, high, f"{place}.start", None not in sets)
        default = float(min(max(parameter.default, low), high))
        for experts in sets:
            # Those that share a coefficient share its start.
            given = {starts[expert] for expert in experts or (None,) if expert in starts}
            if len(given) > 1:
                raise ConfigError(f"{place}.start: {', '.join(experts or ())} share a coefficient; give them one start")
            labels, mixing = mixing_of(self._cells, self._config, settings.tied, self._where, place)
            self.coordinates.append(
                Free(
                    parameter.name,
                    experts,
                    low=low,
                    high=high,
                    initial=next(iter(given), default),
                    labels=labels,
                    mixing=mixing,
                    first=self._width,
                )
            )

    def _add_shares(self, parameter: Parameter, settings: ParameterConfig, total: float, place: str) -> None:
        """Add the dimensions of coefficients with a sum."""
        if not parameter.per_expert or len(self._experts) < 2:
            why = "one number for all experts" if not parameter.per_expert else "one expert's alone"
            raise ConfigError(f"{place}.sum: this coefficient is {why}; leave out sum, and give a value or bounds")
        _check_range(parameter, 0.0, total, f"{place}.sum")
        start = settings.start
        if start is not None and (
            isinstance(start, float)
            or set(start) != set(self._experts)
            or min(start.values()) <= 0
            or not math.isclose(sum(start.values()), total, rel_tol=1e-6)
        ):
            raise ConfigError(
                f"{place}.start: with a sum, give a number above 0 for each of {', '.join(self._experts)}, {total:g} "
                "in all"
            )
        labels, mixing = mixing_of(self._cells, self._config, settings.tied, self._where, place)
        shares = Shares(
            parameter.name,
            self._experts,
            total=total,
            start=start if isinstance(start, dict) else None,
            labels=labels,
            mixing=mixing,
            first=self._width,
        )
        self.coordinates.append(shares)

    @property
    def _width(self) -> int:
        """Dimensions so far."""
        return sum(len(coordinate.dimensions) for coordinate in self.coordinates)

    @cached_property
    def _inside(self) -> list[list[Place]]:
        """The places of each group."""
        return [[place for place in self.places if cell.holds(place)] for cell in self._cells]

    def _fixed_for_some(self, parameter: Parameter, values: Mapping[str, float], place: str) -> Mapping[str, float]:
        """Keep the values of experts whose coefficient isn't searched."""
        if not values:
            return {}
        if not parameter.per_expert:
            raise ConfigError(f"{place}.value: this coefficient is one for all experts; give one number")
        for expert, value in values.items():
            if expert not in self._experts:
                raise ConfigError(f"{place}.value: {unknown('expert', expert, self._experts)}")
            _check_range(parameter, value, value, f"{place}.value.{expert}")
        self._fixed[parameter.name] = dict(values)
        return values

    def _sets(
        self, parameter: Parameter, settings: ParameterConfig, fixed: Mapping[str, float], place: str
    ) -> list[tuple[str, ...] | None]:
        """The experts that share each searched coefficient; None: it is one number for all."""
        lists = settings.shared
        if not parameter.per_expert:
            if isinstance(lists, tuple):
                raise ConfigError(f"{place}.shared: this coefficient is one for all experts; leave out shared")
            return [None]
        free = [expert for expert in self._experts if expert not in fixed]
        if lists is True:
            return ([tuple(free)] if free else []) if fixed else [None]
        named = {expert: experts for experts in lists or () for expert in experts}
        for expert in named:
            if expert not in free:
                if expert in fixed:
                    raise ConfigError(f"{place}.shared: {expert} has a fixed value; leave it out of one of them")
                raise ConfigError(f"{place}.shared: {unknown('expert', expert, self._experts)}")
        return [*dict.fromkeys(named.get(expert, (expert,)) for expert in free)]

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

    def decode(self, genome: Genome) -> Recipe:
        """The complete recipe that a genome stands for."""
        values: dict[str, dict[str | None, NDArray[np.float64]]] = {}
        for coordinate in self.coordinates:
            values.setdefault(coordinate.name, {}).update(coordinate.values(genome))
        groups = []
        for index, group in enumerate(self._groups):
            coefficients: dict[str, Coefficient] = dict(self._fixed)
            for name, by_expert in values.items():
                if None in by_expert:
                    coefficients[name] = float(by_expert[None][index])
                    continue
                fixed = self._fixed.get(name)
                of_some = fixed if isinstance(fixed, dict) else {}
                coefficients[name] = {
                    expert: of_some[expert] if expert in of_some else float(by_expert[expert][index])
                    for expert in self._experts
                }
            groups.append(replace(group, coefficients=coefficients))
        return replace(self.template, groups=tuple(groups))

    def nearest(self, recipe: Recipe) -> Genome | None:
        """The genome whose coefficients come nearest to a recipe's: in each group the mean over its tensors' places.

        None for a recipe that differs in more than its coefficients, or whose coefficients a place doesn't tell.
        """
        if not same_but_groups(self.template, recipe):
            return None
        found = coefficients_at(recipe, self.places)
        if found is None:
            return None
        by_place = dict(zip(self.places, found, strict=True))
        inside = [[by_place[place] for place in places] for places in self._inside]
        genome = self.default()
        for coordinate in self.coordinates:
            # Relative to the first, so that what all places have in common is kept to the last bit.
            rows = np.stack(
                [
                    group[0][coordinate.name]
                    + sum(one[coordinate.name] - group[0][coordinate.name] for one in group) / len(group)
                    for group in inside
                ]
            )
            by_expert = np.broadcast_to(rows.T, (len(self._experts), len(self._cells)))
            genome[coordinate.columns] = coordinate.nearest(dict(zip(self._experts, by_expert, strict=True)))
        return genome

    def encode(self, recipe: Recipe) -> Genome | None:
        """The nearest genome, if it merges alike."""
        genome = self.nearest(recipe)
        if genome is None or not merge_alike(self.decode(genome), recipe, self.places):
            return None
        return genome

    def idle(self, unchanged: Unchanged) -> dict[int, int | None]:
        """With a method that adds task vectors: coefficients of experts in groups where these have none."""
        if not self.adds_task_vectors or not any(unchanged.values()):
            return {}
        same = {
            expert: np.array([unchanged.get(expert, frozenset()).issuperset(places) for places in self._inside])
            for expert in self._experts
        }
        return {column: leader for part in self.coordinates for column, leader in part.idle(same).items()}

    def starting_points(self, count: int) -> list[Genome]:
        """Genomes with the same coefficients in every group: the default, then others of the first parameter.

        If it has one coefficient for each expert, they are spread over the experts: see `spread`.
        """
        first = self.coordinates[0]
        points = {self.default().tobytes(): self.default()}
        if isinstance(first, Shares):
            made = self._spread_shares(first, count)
        else:
            made = self._spread([part for part in self.coordinates if isinstance(part, Free)], first.name, count)
        for genome in made:
            points.setdefault(genome.tobytes(), genome)
            if len(points) >= count:
                break
        return list(points.values())

    def _spread(self, coordinates: Sequence[Free], name: str, count: int) -> Iterator[Genome]:
        main = [coordinate for coordinate in coordinates if coordinate.name == name]
        for weights in spread(len(main), main[0].low, main[0].high, count - 1) if count > 1 else ():
            genome = self.default()
            for coordinate, weight in zip(main, weights, strict=True):
                genome[coordinate.columns] = weight
            yield genome

    def _spread_shares(self, shares: Shares, count: int) -> Iterator[Genome]:
        """Different proportions; each expert has a little at least, as it must."""
        for weights in spread(len(self._experts), 0.0, 1.0, count - 1) if count > 1 else ():
            # Rounded, so that the same proportions at another scale are the same point.
            balances = np.round(shares.balances(np.maximum(weights, 0.05)), 9) + 0.0
            genome = self.default()
            genome[shares.columns] = np.repeat(balances, (shares.columns.stop - shares.columns.start) // len(balances))
            yield genome


def _check_range(parameter: Parameter, low: float, high: float, place: str) -> None:
    if (parameter.minimum is not None and low < parameter.minimum) or (
        parameter.maximum is not None and high > parameter.maximum
    ):
        lowest = "-inf" if parameter.minimum is None else f"{parameter.minimum:g}"
        highest = "inf" if parameter.maximum is None else f"{parameter.maximum:g}"
        found = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        raise ConfigError(f"{place}: {found} leaves the range where it is defined, {lowest} to {highest}")
