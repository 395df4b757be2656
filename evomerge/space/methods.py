"""The space of methods: which merge method, with which options, of which experts, and each method's own coefficients.

Knows methods, their options and groups. Does not know how a genome is proposed or scored.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evomerge.config.space import MethodConfig, SpaceConfig
from evomerge.errors import ConfigError, RecipeError, listed, unknown
from evomerge.methods import METHODS
from evomerge.methods.base import MergeMethod
from evomerge.methods.declared import build_method
from evomerge.recipe.group import Coefficient
from evomerge.recipe.recipe import Recipe
from evomerge.space.base import Condition, Dimension, Genome, Space, Unchanged, check_dimensions, settled
from evomerge.space.coefficients import CoefficientSpace
from evomerge.space.coordinates import Shares
from evomerge.space.groups import Place
from evomerge.space.recipes import merge_alike

_MOST_EXPERTS = 6
"""Of so many experts all subsets are 63 choices; of more they have to be listed."""


@dataclass(frozen=True, slots=True)
class _Branch:
    """One method of the space."""

    space: CoefficientSpace
    columns: slice
    genes: Mapping[str, Sequence[Any]]
    """Values of the options that are searched, by name."""
    subsets: Mapping[str, tuple[str, ...]]
    """Experts by the choice that stands for them; one, of all experts, where they aren't searched."""


class MethodSpace(Space):
    """A method, options of it, experts that take part, and the coefficients that the method has then.

    Args:
        template: a recipe with everything but its groups; its method is where the search starts, if it is one of these.
        method: the class of that method.
        places: of every tensor.
        config: the methods, and granularity, bounds and smoothing of all of them.
        where: prefix of error messages, the file that the config came from.
    Raises: ConfigError for unknown methods, options or parameters, experts that a method can't take, or an empty space.
    """

    def __init__(
        self,
        template: Recipe,
        method: type[MergeMethod],
        places: Iterable[Place],
        config: SpaceConfig,
        *,
        where: str = "config",
    ) -> None:
        self.places = tuple(sorted(set(places)))
        self._template = template
        names = [*config.methods]
        if not names:
            raise ConfigError(f"{where}: space.methods: name at least one method, such as {{{method.name}: {{}}}}")
        self._several = len(names) > 1
        dimensions: list[Dimension] = []
        if self._several:
            first = template.method if template.method in names else names[0]
            dimensions.append(Dimension.categorical("method", names, initial=first))
        self._branches: dict[str, _Branch] = {}
        used: set[str] = set()
        for name, settings in config.methods.items():
            if name not in METHODS:
                raise ConfigError(f"{where}: space.methods: {unknown(METHODS.kind, name, METHODS)}")
            branch, added, known = self._branch(name, settings, config, len(dimensions), where)
            self._branches[name] = branch
            dimensions += added
            used |= known
        for parameter in config.parameters:
            if parameter not in used:
                message = unknown(f"parameter of {listed(names)}", parameter, used)
                raise ConfigError(f"{where}: space.parameters.{parameter}: {message}")
        if not dimensions:
            raise ConfigError(f"{where}: space: nothing to search: {names[0]} has no free coefficient or option here")
        check_dimensions(dimensions)
        self.dimensions = tuple(dimensions)
        self.groups = next(iter(self._branches.values())).space.groups
        self.adds_task_vectors = any(branch.space.adds_task_vectors for branch in self._branches.values())

    def _branch(
        self, name: str, settings: MethodConfig, config: SpaceConfig, first: int, where: str
    ) -> tuple[_Branch, list[Dimension], set[str]]:
        """A method with its dimensions, and the names of its parameters."""
        place = f"{where}: space.methods.{name}"
        template, genes = self._with_options(name, settings, place)
        made: type[MergeMethod] = METHODS.get(name)
        known = {parameter.name for parameter in made.parameters}
        shared = {key: value for key, value in config.parameters.items() if key in known}
        own = config.model_copy(update={"parameters": {**shared, **settings.parameters}, "steps": {}})
        space = CoefficientSpace(template, made, self.places, own, where=where, empty=True)
        condition = Condition(dimension="method", values=(name,)) if self._several else None
        prefix = f"{name}." if self._several else ""
        dimensions = [
            Dimension.categorical(
                f"{prefix}{option}",
                [json.dumps(value) for value in values],
                initial=json.dumps(template.options[option]),
                condition=condition,
            )
            for option, values in genes.items()
        ]
        subsets = _subsets(config.subsets, made, tuple(template.experts), place)
        if len(subsets) > 1:
            if any(isinstance(coordinate, Shares) for coordinate in space.coordinates):
                raise ConfigError(f"{place}: coefficients with a sum are of all experts; leave out sum or subsets")
            most = max(subsets, key=lambda label: len(subsets[label]))
            dimensions.append(Dimension.categorical(f"{prefix}experts", [*subsets], initial=most, condition=condition))
        for coordinate in space.coordinates:
            taking = tuple(
                label
                for label, experts in subsets.items()
                if coordinate.experts is None or set(experts) & set(coordinate.experts)
            )
            if not taking:
                raise ConfigError(f"{place}: {listed(coordinate.experts or ())} take part in no subset; leave them out")
            whole = len(taking) == len(subsets)
            own_condition = condition if whole else Condition(dimension=f"{prefix}experts", values=taking)
            dimensions += [
                replace(item, name=f"{prefix}{item.name}", condition=own_condition) for item in coordinate.dimensions
            ]
        columns = slice(first, first + len(dimensions))
        return _Branch(space, columns, genes, subsets), dimensions, known

    def _with_options(self, name: str, settings: MethodConfig, place: str) -> tuple[Recipe, dict[str, Sequence[Any]]]:
        """The template with the method and its options, and the options that are searched."""
        given = dict(self._template.options) if name == self._template.method else {}
        genes: dict[str, Sequence[Any]] = {}
        for option, value in settings.options.items():
            if isinstance(value, tuple):
                genes[option] = value
                given.setdefault(option, value[0])
                if given[option] not in value:
                    given[option] = value[0]
            else:
                given[option] = value
        # As many as the method takes, since options don't depend on which they are.
        made: type[MergeMethod] = METHODS.get(name)
        experts = tuple(self._template.experts)[: made.max_experts]
        seed = self._template.seed
        try:
            for choice in itertools.product(*genes.values()):
                build_method(name, {**given, **dict(zip(genes, choice, strict=True))}, experts=experts, seed=seed)
            options = build_method(name, given, experts=experts, seed=seed).option
        except RecipeError as error:
            raise ConfigError(f"{place}.{str(error).removeprefix('recipe: ')}") from error
        return replace(self._template, method=name, options=options), genes

    def decode(self, genome: Genome) -> Recipe:
        """The complete recipe that a genome stands for."""
        values = self.parameters(genome)
        name = str(values.get("method", next(iter(self._branches))))
        branch = self._branches[name]
        part = genome[branch.columns]
        recipe = branch.space.decode(part[len(part) - len(branch.space.dimensions) :])
        prefix = f"{name}." if self._several else ""
        options = {option: json.loads(str(values[f"{prefix}{option}"])) for option in branch.genes}
        recipe = replace(recipe, options={**recipe.options, **options})
        if len(branch.subsets) == 1:
            return recipe
        return _of_experts(recipe, branch.subsets[str(values[f"{prefix}experts"])])

    def idle(self, unchanged: Unchanged) -> dict[int, int | None]:
        """Those of each method."""
        found: dict[int, int | None] = {}
        for branch in self._branches.values():
            first = branch.columns.stop - len(branch.space.dimensions)
            for column, leader in branch.space.idle(unchanged).items():
                found[first + column] = None if leader is None else first + leader
        return found

    def variants(self) -> list[Genome]:
        """One genome for each method with each choice of its options, all its experts taking part."""
        found = []
        for name, branch in self._branches.items():
            start = self._default_of(name)
            for choice in itertools.product(*(range(len(values)) for values in branch.genes.values())):
                genome = start.copy()
                genome[branch.columns.start : branch.columns.start + len(choice)] = choice
                found.append(genome)
        return found

    def starting_points(self, count: int) -> list[Genome]:
        """The default, that of each other method, and then uniform merges of each method in turn."""
        points = {point.tobytes(): point for point in self._points(count)}
        return [*points.values()][:count]

    def _points(self, count: int) -> Iterator[Genome]:
        yield self.default()
        rows = [list(self._points_of(name, count)) for name in self._branches]
        for row in itertools.zip_longest(*rows):
            yield from (point for point in row if point is not None)

    def _points_of(self, name: str, count: int) -> Iterator[Genome]:
        branch = self._branches[name]
        if not branch.space.dimensions:
            yield self._default_of(name)
            return
        for point in branch.space.starting_points(count):
            genome = self._default_of(name)
            genome[branch.columns.stop - len(point) : branch.columns.stop] = point
            yield settled(self.dimensions, genome)

    def _default_of(self, name: str) -> Genome:
        """Every dimension at its initial value, with this method."""
        initial = np.array([float(item.initial) for item in self.dimensions])
        if self._several:
            initial[0] = float([*self._branches].index(name))
        return settled(self.dimensions, initial)

    def nearest(self, recipe: Recipe) -> Genome | None:
        """That of the recipe's method, if the space has the method with these options and experts."""
        branch = self._branches.get(recipe.method)
        if branch is None:
            return None
        own = branch.space.template
        subset = next((label for label, experts in branch.subsets.items() if experts == tuple(recipe.experts)), None)
        try:
            option = build_method(recipe.method, recipe.options, experts=tuple(recipe.experts), seed=recipe.seed).option
        except RecipeError:
            return None
        fixed = {key: value for key, value in own.options.items() if key not in branch.genes}
        if subset is None or any(option[key] != value for key, value in fixed.items()):
            return None
        genome = self._default_of(recipe.method)
        head = []
        for key, values in branch.genes.items():
            if option[key] not in values:
                return None
            head.append(float(values.index(option[key])))
        if len(branch.subsets) > 1:
            head.append(float([*branch.subsets].index(subset)))
        whole = replace(recipe, options=own.options, experts=own.experts, groups=_completed(recipe, own.experts))
        # What only the recipe names of the models must be the template's.
        if any(own.experts[name] != reference for name, reference in recipe.experts.items()):
            return None
        part = branch.space.nearest(whole)
        if part is None:
            return None
        genome[branch.columns] = [*head, *part]
        return settled(self.dimensions, genome)

    def encode(self, recipe: Recipe) -> Genome | None:
        """The nearest genome, if it merges alike."""
        genome = self.nearest(recipe)
        if genome is None or not merge_alike(self.decode(genome), recipe, self.places):
            return None
        return genome


def _subsets(
    wanted: bool | tuple[tuple[str, ...], ...], method: type[MergeMethod], experts: tuple[str, ...], place: str
) -> dict[str, tuple[str, ...]]:
    """The sets of experts that may take part, in order, by their names joined; all experts if none is wanted."""
    if wanted is False:
        lists = [experts]
    elif wanted is True:
        if len(experts) > _MOST_EXPERTS:
            raise ConfigError(
                f"{place}: all subsets of {len(experts)} experts are {2 ** len(experts) - 1} choices; list those that "
                "are worth trying in space.subsets"
            )
        lists = [part for size in range(1, len(experts) + 1) for part in itertools.combinations(experts, size)]
    else:
        for name in itertools.chain(*wanted):
            if name not in experts:
                raise ConfigError(f"{place}: space.subsets: {unknown('expert', name, experts)}")
        lists = [tuple(name for name in experts if name in part) for part in wanted]
    most = method.max_experts or len(experts)
    fitting = [part for part in lists if method.min_experts <= len(part) <= most]
    if not fitting:
        takes = f"at least {method.min_experts}" if method.max_experts is None else f"{method.min_experts} to {most}"
        raise ConfigError(
            f"{place}: {method.name} merges {takes} experts, "
            + (
                f"not {len(experts)}; set space.subsets"
                if wanted is False
                else "and no list in space.subsets has as many"
            )
        )
    return {"+".join(part): part for part in fitting}


def _of_experts(recipe: Recipe, experts: Sequence[str]) -> Recipe:
    """The recipe with these experts alone."""

    def of(value: Coefficient) -> Coefficient:
        return {name: value[name] for name in experts} if isinstance(value, Mapping) else value

    return replace(
        recipe,
        experts={name: recipe.experts[name] for name in experts},
        groups=tuple(
            replace(group, coefficients={name: of(value) for name, value in group.coefficients.items()})
            for group in recipe.groups
        ),
    )


def _completed(recipe: Recipe, experts: Iterable[str]) -> tuple[Any, ...]:
    """The recipe's groups with a coefficient for each expert; for those that it lacks, that of another."""

    def of(value: Coefficient) -> Coefficient:
        if not isinstance(value, Mapping):
            return value
        return {name: value.get(name, next(iter(value.values()))) for name in experts}

    return tuple(
        replace(group, coefficients={name: of(value) for name, value in group.coefficients.items()})
        for group in recipe.groups
    )
