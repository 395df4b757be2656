"""Where a search starts that goes on from another: the point of its own space that comes nearest to a known merge.

Knows runs, recipes and spaces. Does not know algorithms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evomerge.config.search import StartConfig
from evomerge.errors import ConfigError, EvomergeError, listed
from evomerge.files.places import YAML_ENDS, local
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.run.directory import Run, open_run
from evomerge.run.trial import TrialKind
from evomerge.space.base import Dimension, Genome, Space, Value
from evomerge.study.merge_key import merge_key

_LEAST_STEP, _MOST_STEP = 0.1, 1.0
"""Limits of first steps by the spread of another run: none so small that the search can't leave a dimension's value."""
_LEAST_CANDIDATES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A point of the space, and how far a search is to look from there."""

    parameters: Mapping[str, Value]
    steps: Mapping[str, float]
    """First step of dimensions by name, over that of `search.step_size`; others have their own."""
    words: str
    """One sentence on where it comes from."""

    def to_data(self) -> dict[str, Any]:
        """As plain data, for run.json."""
        return {"parameters": dict(self.parameters), "steps": dict(self.steps), "words": self.words}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Start:
        """As run.json has it."""
        return cls(parameters=data["parameters"], steps=data["steps"], words=data["words"])


def start_of(
    config: StartConfig,
    template: Recipe,
    space: Space,
    *,
    step_size: float,
    where: str,
    given: Mapping[str, ModelReference] | None = None,
) -> Start:
    """Read the merge that a search is to start from, and find it in the space.

    Args:
        config: which merge that is.
        template: the search's recipe, with everything but groups.
        space: of the search.
        step_size: of the search, as a fraction of each dimension's range.
        where: the config's file, for messages.
        given: the models as the search's config gives them, where those of `template` are what recipes became.

    Raises: ConfigError for a run or recipe that can't be read, is of other models, or has no place in the space.
    """
    place = f"{where}: search.start"
    given = given or template.references
    try:
        if config.recipe is not None:
            run, source = None, config.recipe
            recipe = Recipe.from_file(source)
        else:
            assert config.run is not None
            run = open_run(config.run)
            number = _trial(run, config.trial, place)
            recipe = run.recipe(number, as_given=True)
            source = f"trial {number} of {config.run}"
        own = _own_models(recipe, given, template)
    except EvomergeError as error:
        words = str(error)
        raise ConfigError(words if words.startswith(place) else f"{place}: {words}") from error
    recipe = _in_place(recipe, own)
    genome = _found(recipe, template, space, source, place)
    exact = space.encode(_as_here(recipe, template)) is not None
    words = f"the search starts from {source}" + (
        "" if exact else "; this space can't have exactly its coefficients, so it starts from those that come nearest"
    )
    steps: dict[str, float] = {}
    if config.steps:
        assert run is not None
        steps = _steps(run, template, space, own, step_size, place)
        words += f", with first steps by how far the best candidates there lie apart ({_range(steps)})"
    return Start(parameters=space.parameters(genome), steps=steps, words=words)


def _trial(run: Run, wanted: int | str, place: str) -> int:
    if isinstance(wanted, int):
        if run.ledger().trial(wanted).kind.is_checkpoint if 0 <= wanted < len(run.ledger().trials()) else False:
            raise ConfigError(f"{place}.trial: trial {wanted} of {run.directory} is no merge, but a model as it is")
        return wanted
    if wanted == "mean":
        means = [trial.number for trial in run.ledger().trials() if trial.kind is TrialKind.MEAN]
        if not means:
            raise ConfigError(
                f"{place}.trial: {run.directory} has no mean, since its search hasn't ended or its algorithm has none; "
                "give winner or a trial's number"
            )
        return means[-1]
    result = run.result()
    if result is None:
        raise ConfigError(
            f"{place}.trial: {run.directory} has no winner yet; end it with evomerge resume, or give a trial's number"
        )
    return int(result["winner"]["trial"])


def _own_models(
    recipe: Recipe, given: Mapping[str, ModelReference], template: Recipe
) -> dict[ModelReference, ModelReference]:
    """The search's own models by what a recipe calls them: as the config does, or by another file of the same merge.

    Raises: EvomergeError subclasses for a file that holds no merge, or one that can't be made here.
    """
    own = {reference: template.references[name] for name, reference in given.items()}
    merges = [reference for reference in given.values() if _is_a_file(reference)]
    files = [reference for reference in recipe.references.values() if reference not in own and _is_a_file(reference)]
    if merges and files:
        keys = {merge_key(local(reference.path)): own[reference] for reference in merges}
        found = {reference: keys.get(merge_key(local(reference.path))) for reference in files}
        own |= {reference: ours for reference, ours in found.items() if ours is not None}
    return own


def _is_a_file(reference: ModelReference) -> bool:
    return reference.path.endswith(YAML_ENDS) and local(reference.path).is_file()


def _in_place(recipe: Recipe, own: Mapping[ModelReference, ModelReference]) -> Recipe:
    """The recipe with the search's own models in the place of what it calls them."""
    found = {name: own.get(reference, reference) for name, reference in recipe.references.items()}
    return replace(recipe, base=found.pop("base"), experts=found)


def _as_here(recipe: Recipe, template: Recipe) -> Recipe:
    """The recipe with the search's own dtype, seed and maps, which are no coefficients."""
    align = template.align if recipe.align is not None and template.align is not None else recipe.align
    return replace(recipe, dtype=template.dtype, seed=template.seed, align=align)


def _found(recipe: Recipe, template: Recipe, space: Space, source: str, place: str) -> Genome:
    here = _as_here(recipe, template)
    try:
        genome = space.nearest(here)
    except EvomergeError as error:
        raise ConfigError(f"{place}: {source}: {error}") from error
    if genome is not None:
        return genome
    other = [
        f"{name} ({theirs.path if theirs else 'none'} there, {ours.path if ours else 'none'} here)"
        for name in dict.fromkeys([*template.references, *here.references])
        if (ours := template.references.get(name)) != (theirs := here.references.get(name))
    ]
    if other or tuple(here.experts) != tuple(template.experts):
        raise ConfigError(
            f"{place}: {source} is a merge of other models: {listed(other) or 'in another order'}; start from a run "
            "over the same base and experts under the same names and paths, or leave out search.start"
        )
    differing = [
        f"{name} {theirs!r} there, {ours!r} here"
        for name, theirs, ours in (
            ("method", here.method, template.method),
            ("options", dict(here.options), dict(template.options)),
            ("vocabulary", here.vocabulary, template.vocabulary),
            ("slices", here.slices, template.slices),
            ("head", here.head, template.head),
        )
        if theirs != ours
    ]
    raise ConfigError(
        f"{place}: {source} has no place in this space: {listed(differing) or 'its groups go by names of tensors'}; "
        "change merge and models to what they are there, or leave out search.start"
    )


def _steps(
    run: Run,
    template: Recipe,
    space: Space,
    own: Mapping[ModelReference, ModelReference],
    step_size: float,
    place: str,
) -> dict[str, float]:
    """First steps by the standard deviation of the better half of the run's later candidates, seen in this space."""
    records = [
        record
        for record in run.trials()
        if record.kind is TrialKind.CANDIDATE and record.fitness is not None and record.generation is not None
    ]
    later = records[len(records) // 2 :]
    if len(later) < _LEAST_CANDIDATES:
        raise ConfigError(
            f"{place}.steps: {run.directory} has scored {len(records)} candidates, and at least "
            f"{2 * _LEAST_CANDIDATES} are needed to see how far they lie apart; leave out steps"
        )

    def point(place_of_record: int) -> Genome:
        number = later[place_of_record].number
        recipe = _in_place(run.recipe(number, as_given=True), own)
        return _found(recipe, template, space, f"trial {number} of {run.directory}", place)

    return steps_of_better_half([record.fitness or 0.0 for record in later], point, space.dimensions, step_size)


def steps_of_better_half(
    scores: Sequence[float], point: Callable[[int], Genome], dimensions: Sequence[Dimension], step_size: float
) -> dict[str, float]:
    """First steps of the continuous dimensions by name, over `step_size`: how far the better half of candidates lie
    apart, but none so small that a search can't leave a dimension's value.

    Args:
        scores: of candidates in their order, higher is better.
        point: that of a candidate by its place in this order.
        dimensions: those of the points.
        step_size: of the search, as a fraction of each dimension's range.
    """
    best = sorted(range(len(scores)), key=lambda place: -scores[place])[: max(4, len(scores) // 2)]
    spread = np.std(np.array([point(place) for place in best]), axis=0)
    return {
        item.name: float(np.clip(deviation / (step_size * (item.high - item.low)), _LEAST_STEP, _MOST_STEP))
        for item, deviation in zip(dimensions, spread, strict=True)
        if item.kind == "continuous"
    }


def _range(steps: Mapping[str, float]) -> str:
    return f"{min(steps.values(), default=1.0):.2g} to {max(steps.values(), default=1.0):.2g} of search.step_size"
