"""The recipes of a run's trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.config.config import Config
from evomerge.errors import RunError
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import Sources
from evomerge.run.trial import Trial, TrialKind

if TYPE_CHECKING:
    from evomerge.space.base import Unchanged
    from evomerge.space.groups import Place

MAPS = "alignment.safetensors"
"""The file of a run that holds the maps of its models' alignment."""


def recipe_of(config: Config, facts: Mapping[str, Any], trial: Trial, directory: Path) -> Recipe:
    """The recipe of a trial, rebuilt from the frozen config and the facts of the run in `directory`."""
    from evomerge.space import make_space, without_idle

    template = template_recipe(config, dtype=facts["dtype"], options=facts["options"])
    template = with_maps(template, directory, facts.get("alignment"))
    if trial.kind.is_checkpoint:
        # Runs of earlier releases, which don't have that fact, scored every model with the base's settings.
        as_itself = trial.name in facts.get("as_themselves", {})
        return own_recipe(template, trial.name) if as_itself else checkpoint_recipe(template, trial.name)
    places = _places(facts["places"])
    if trial.kind is TrialKind.METHOD:
        return published_recipe(config, template, places, trial.name)
    space = without_idle(make_space(template, places, config.space), unchanged_of(facts))
    return space.decode(space.genome(trial.parameters))


def unchanged_of(facts: Mapping[str, Any]) -> Unchanged:
    """By expert, the places where its tensors are the base's, as a run found them at its start.

    Runs of earlier releases, which didn't look, have none: there every dimension is searched.
    """
    return {expert: frozenset(_places(places)) for expert, places in facts.get("unchanged", {}).items()}


def _places(data: Sequence[Sequence[Any]]) -> list[Place]:
    return [tuple(place) for place in data]


def published_recipes(config: Config, template: Recipe, places: Sequence[Place]) -> dict[str, Recipe]:
    """The merges that `search.baselines` asks for, by name. Raises: ConfigError for a name that doesn't fit."""
    from evomerge.methods.published import published

    return published(config.search.baselines, template, max((place[0] for place in places), default=0))


def published_recipe(config: Config, template: Recipe, places: Sequence[Place], name: str) -> Recipe:
    """One of them. Raises: RunError if the config doesn't ask for it."""
    found = published_recipes(config, template, places)
    if name not in found:
        raise RunError(f"search.baselines asks for no merge {name!r}, of which the run has a trial")
    return found[name]


def template_recipe(config: Config, *, dtype: str, options: Mapping[str, Any]) -> Recipe:
    """A recipe with everything but its groups."""
    return Recipe.of(
        config.models.sources(),
        method=config.merge.method,
        options=dict(options),
        dtype=dtype,
        seed=config.search.seed,
    )


def with_maps(template: Recipe, directory: Path, checksum: str | None) -> Recipe:
    """The recipe with the maps of the run in `directory`, whose file has this checksum; None: there are none."""
    if template.align is None or checksum is None:
        return template
    return replace(template, align=replace(template.align, maps=str((directory / MAPS).absolute()), sha256=checksum))


def checkpoint_recipe(template: Recipe, model: str) -> Recipe:
    """The recipe that gives back the tensors of the base (`model` "base") or of one expert unchanged."""
    return replace(template, method="passthrough", options={"model": model}, groups=())


def own_recipe(template: Recipe, model: str) -> Recipe:
    """The recipe of the base or of one whole expert as it is by itself, with its own config and tokenizer."""
    reference = template.references[model]
    sources = Sources(base=reference, experts={"model": reference})
    return Recipe.of(sources, method="passthrough", options={"model": "base"}, dtype=template.dtype, seed=template.seed)
