"""Everything that can be checked before a worker starts, and what a search will need.

Opens headers and tokenizers only: no weights are merged, no device is touched, except by `pilot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evomerge.algorithms import PROPOSERS
from evomerge.algorithms.population import default_population
from evomerge.benchmark.lm_eval.benchmark import Benchmark
from evomerge.config.config import Config
from evomerge.errors import ConfigError, RecipeError, unknown
from evomerge.methods import METHODS
from evomerge.methods.declared import checked_options
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.open import open_models
from evomerge.recipe.group import Kind
from evomerge.recipe.recipe import Recipe
from evomerge.run.recipes import template_recipe
from evomerge.space.coefficients import SearchSpace


@dataclass(frozen=True)
class Experiment:
    """A config with its models' headers, found to fit each other."""

    config: Config
    where: str
    base: Checkpoint
    experts: Mapping[str, Checkpoint]
    dtype: str
    options: Mapping[str, Any]

    @cached_property
    def places(self) -> list[tuple[int, Kind]]:
        """(layer, kind) of the base's tensors, each once, in order."""
        return sorted({(place.layer, place.kind) for place in map(self.base.layout.place, self.base.names)})

    @cached_property
    def template(self) -> Recipe:
        """The recipe that every candidate completes with its groups."""
        return template_recipe(self.config, dtype=self.dtype, options=self.options)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space over these models."""
        method = METHODS.get(self.config.merge.method)
        return SearchSpace(self.template, method, self.places, self.config.space, where=self.where)


def open_experiment(config: Config, *, where: str = "config") -> Experiment:
    """Check names and options, open the models' headers and find that everything fits.

    Raises: ConfigError for the config's own mistakes, CheckpointError for models that can't be used.
    """
    options = check_names(config, where=where)
    try:
        base, experts = open_models(
            config.models.base.reference(),
            {name: model.reference() for name, model in config.models.experts.items()},
            vocabulary=config.models.vocabulary,
            slices=config.models.slices,
        )
    except RecipeError as error:
        raise ConfigError(f"{where}: {error}") from error
    check_compatible(base, experts)
    wanted = config.execution.dtype
    dtype = str(base.dtype).removeprefix("torch.") if wanted == "auto" else wanted
    experiment = Experiment(config=config, where=where, base=base, experts=experts, dtype=dtype, options=options)
    _check_algorithm(experiment)
    return experiment


def check_names(config: Config, *, where: str) -> dict[str, Any]:
    """Check what needs no model: method, options, number of experts, algorithm; return all options with defaults.

    Raises: ConfigError.
    """
    if config.merge.method not in METHODS:
        message = unknown("merge method", config.merge.method, METHODS)
        raise ConfigError(f"{where}: merge.method: {message}")
    if config.search.algorithm not in PROPOSERS:
        message = unknown("search algorithm", config.search.algorithm, PROPOSERS)
        raise ConfigError(f"{where}: search.algorithm: {message}")
    try:
        return checked_options(template_recipe(config, dtype="auto", options=config.merge.options))
    except RecipeError as error:
        message = str(error).removeprefix("recipe: ")
        section = "merge." if message.startswith("options") else ""
        raise ConfigError(f"{where}: {section}{message}") from error


def open_benchmark(experiment: Experiment) -> Benchmark:
    """Build the benchmark with the base's tokenizer. Raises: BenchmarkError."""
    return Benchmark.build(
        experiment.config.benchmark,
        experiment.base.tokenizer(),
        model_config=experiment.base.config,
        max_length=experiment.config.execution.max_length,
        where=experiment.where,
    )


def population_of(experiment: Experiment, items: int) -> int:
    """Candidates per generation, as given or chosen from dimension, budget and items."""
    settings = experiment.config.search
    return settings.population or default_population(len(experiment.space.dimensions), settings.evaluations, items)


def _check_algorithm(experiment: Experiment) -> None:
    """Build the proposer once, so that its own checks speak before anything starts."""
    settings = experiment.config.search
    try:
        PROPOSERS.get(settings.algorithm)(
            experiment.space.dimensions,
            seed=settings.seed,
            population=settings.population or 8,
            step_size=settings.step_size,
            options=settings.options,
        )
    except ConfigError as error:
        raise ConfigError(f"{experiment.where}: {error}") from error
