"""Everything that can be checked before a worker starts, and what a search will need.

Opens headers and tokenizers only: no weights are merged, no device is touched, except by `pilot`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from evomerge.algorithms import PROPOSERS
from evomerge.algorithms.population import default_population
from evomerge.alignment import ALIGNMENTS
from evomerge.alignment.base import made
from evomerge.benchmark import SPLITS, Benchmark, build_benchmark
from evomerge.config.config import Config
from evomerge.config.models import key_of
from evomerge.errors import AlignmentError, CheckpointError, ConfigError, RecipeError, listed, unknown
from evomerge.estimators import ESTIMATORS
from evomerge.estimators.base import uses_covariates
from evomerge.execute import EXECUTORS
from evomerge.execute.settings import AUTO
from evomerge.inference.architecture import refuse_unless_it_continues_text
from evomerge.materialise.bind import Binder
from evomerge.materialise.inputs import Inputs
from evomerge.methods import METHODS
from evomerge.methods.declared import build_method
from evomerge.models.alignment import digest
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.open import Models, as_family, as_outlined_family, open_each
from evomerge.models.own_settings import own_settings
from evomerge.pruners import PRUNERS
from evomerge.recipe.recipe import Recipe
from evomerge.registry import Registry
from evomerge.run.recipes import published_recipes, template_recipe
from evomerge.space import SPACES, make_space, without_idle
from evomerge.space.base import Space, Unchanged
from evomerge.space.groups import Place
from evomerge.study.asked_alone import AskedAlone
from evomerge.study.fitting import check_algorithm
from evomerge.study.places import places_of, unchanged_places


@dataclass(frozen=True)
class Experiment:
    """A config with its models' headers, found to fit each other."""

    config: Config
    where: str
    opened: Models
    """As they are on disk."""
    models: Models
    """As the merge sees them."""
    dtype: str
    options: Mapping[str, Any]
    maps: bytes | None = field(default=None, repr=False)
    """Of the models' alignment, once they are found; until then `models` are as they were."""
    known_unchanged: Unchanged | None = field(default=None, repr=False)
    """As a run has it; None: the models are looked at."""

    def aligned(self, maps: bytes) -> Experiment:
        """The same with the models under these maps. Raises: AlignmentError if they aren't of these models."""
        models = as_family(self.opened, self.config.models.sources(), maps)
        check_compatible(*models)
        return replace(self, models=models, maps=maps)

    @property
    def base(self) -> Checkpoint:
        """The model whose names, shapes and tokenizer the merge has."""
        return self.models.base

    @cached_property
    def benchmark(self) -> Benchmark:
        """The items that candidates answer, built with the base's files. Raises: BenchmarkError, CheckpointError."""
        return open_benchmark(self.config, self.base, where=self.where)

    @cached_property
    def as_themselves(self) -> dict[str, tuple[str, ...]]:
        """By model, the settings of its own that a merge hasn't, so that its own score is asked of it by itself.

        Raises: CheckpointError.
        """
        return own_settings(self.opened, self.base)

    def benchmark_of(self, model: str) -> Benchmark:
        """The items as a model, "base" or an expert, is asked them by itself: with its own tokenizer and window.

        Raises: BenchmarkError for a prompt that can't be made, or doesn't fit the window; CheckpointError.
        """
        asked = AskedAlone(self.opened.by_name[model], self.opened.base)
        return build_benchmark(
            self.config.benchmark, asked, max_length=self.config.execution.max_length, where=self.where
        )

    @cached_property
    def places(self) -> list[Place]:
        """(layer, kind) of the base's tensors, each once, in order; with `space.names` also the text that goes by."""
        return places_of(self.base, self.config.space.texts)

    @cached_property
    def unchanged(self) -> Unchanged:
        """By expert, the places all of whose tensors are the base's; none where no candidate adds task vectors.

        Raises: CheckpointError for weights that can't be read.
        """
        if self.known_unchanged is not None:
            return self.known_unchanged
        # Tensors of models that are aligned are worked out.
        if self.config.models.align is not None or not self._whole_space.adds_task_vectors:
            return {}
        return unchanged_places(self.models, self.config.space.texts)

    @cached_property
    def template(self) -> Recipe:
        """The recipe that every candidate completes with its groups."""
        template = template_recipe(self.config, dtype=self.dtype, options=self.options)
        if template.align is None or self.maps is None:
            return template
        # Workers are given the maps; a recipe says which they are.
        return replace(template, align=replace(template.align, sha256=digest(self.maps)))

    @cached_property
    def other_methods(self) -> dict[str, Recipe]:
        """The merges of other methods that the search is compared with, by name.

        Raises: ConfigError for one that there isn't, or that doesn't fit the models.
        """
        try:
            return published_recipes(self.config, self.template, self.places)
        except ConfigError as error:
            raise ConfigError(f"{self.where}: search.baselines: {error}") from error

    @cached_property
    def _whole_space(self) -> Space:
        return make_space(self.template, self.places, self.config.space, where=self.where)

    @cached_property
    def space(self) -> Space:
        """The search space over these models."""
        return without_idle(self._whole_space, self.unchanged, where=self.where)


def open_benchmark(config: Config, base: Checkpoint, *, where: str, splits: Sequence[str] = SPLITS) -> Benchmark:
    """Build the config's benchmark for a base that can answer it.

    Args:
        config: its `benchmark` section, and the context window that candidates are given.
        base: the model whose files make the items.
        where: the config's file, for messages.
        splits: the splits to make, if not all are wanted.

    Raises: BenchmarkError; CheckpointError for a base of another kind than the benchmark asks.
    """
    if config.benchmark.kind == "lm_eval":
        refuse_unless_it_continues_text(base)
    return build_benchmark(config.benchmark, base, max_length=config.execution.max_length, where=where, splits=splits)


def open_experiment(config: Config, *, where: str = "config", unchanged: Unchanged | None = None) -> Experiment:
    """Check names and options, open the models' headers and find that everything fits.

    Args:
        config: the experiment.
        where: the config's file, for messages.
        unchanged: where experts are the base, as a run has it; None: the models are looked at.

    Raises: ConfigError for the config's own mistakes, CheckpointError for models that can't be used.
    """
    options = check_names(config, where=where)
    sources = config.models.sources()
    try:
        opened = open_each(sources, key_of)
        models = as_outlined_family(opened, sources)
        check_compatible(*models)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    except RecipeError as error:
        raise ConfigError(f"{where}: {error}") from error
    wanted = config.execution.dtype
    dtype = str(models.base.dtype).removeprefix("torch.") if wanted == "auto" else wanted
    experiment = Experiment(
        config=config,
        where=where,
        opened=opened,
        models=models,
        dtype=dtype,
        options=options,
        known_unchanged=unchanged,
    )
    # The space says itself where its mistakes are.
    check_algorithm(config.search, experiment.space, where=where)
    _check_other_methods(experiment)
    return experiment


def check_names(config: Config, *, where: str) -> dict[str, Any]:
    """Check what needs no model: method, options, number of experts, names; return all options with defaults.

    Raises: ConfigError.
    """
    named: tuple[tuple[str, str, Registry[Any]], ...] = (
        ("merge.method", config.merge.method, METHODS),
        ("search.algorithm", config.search.algorithm, PROPOSERS),
        ("space.kind", config.space.kind, SPACES),
        ("search.pruner", config.search.pruner, PRUNERS),
    )
    if config.models.align is not None:
        named = (*named, ("models.align.method", config.models.align.method, ALIGNMENTS))
    for key, name, registry in named:
        if name not in registry:
            raise ConfigError(f"{where}: {key}: {unknown(registry.kind, name, registry)}")
    if (name := config.search.estimator) != "none" and name not in ESTIMATORS:
        message = unknown(ESTIMATORS.kind, name, ("none", *ESTIMATORS))
        raise ConfigError(f"{where}: search.estimator: {message}")
    if (backend := config.execution.backend) != AUTO and backend not in EXECUTORS:
        message = unknown(EXECUTORS.kind, backend, (AUTO, *EXECUTORS))
        raise ConfigError(f"{where}: execution.backend: {message}")
    try:
        if (align := config.models.align) is not None:
            made(ALIGNMENTS.get(align.method), align.options)
    except AlignmentError as error:
        raise ConfigError(f"{where}: models.align.options: {error}") from error
    try:
        PRUNERS.get(config.search.pruner)(config.search.pruner_options)
        if config.search.estimator != "none":
            ESTIMATORS.get(config.search.estimator)(config.search.estimator_options)
            _check_covariate(config)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    try:
        method = build_method(
            config.merge.method, config.merge.options, experts=tuple(config.models.experts), seed=config.search.seed
        )
        return method.option
    except RecipeError as error:
        message = str(error).removeprefix("recipe: ")
        section = "merge." if message.startswith("options") else ""
        raise ConfigError(f"{where}: {section}{message}") from error


def _check_covariate(config: Config) -> None:
    """Find whether the estimator makes use of a covariate. Raises: ConfigError."""
    search = config.search
    if search.covariate != "none" and not uses_covariates(ESTIMATORS.get(search.estimator)):
        able = [name for name in ESTIMATORS if uses_covariates(ESTIMATORS.get(name))]
        raise ConfigError(
            f"search.covariate: estimator {search.estimator!r} makes no use of covariates; use estimator: "
            f"{' or '.join(able)}, or covariate: none"
        )


def population_of(experiment: Experiment, items: int) -> int:
    """Candidates per generation, as given or chosen from dimension, budget and items."""
    settings = experiment.config.search
    return settings.population or default_population(
        len(experiment.space.dimensions), settings.candidates_worth(items), items
    )


def check_pruner(experiment: Experiment) -> None:
    """Find whether there are scores of items that the pruner can go by. Raises: ConfigError."""
    objective, search = experiment.benchmark.objective, experiment.config.search
    pruner = search.pruner
    others = [] if objective.means is None else sorted(set(objective.metrics) - objective.means)
    if search.items == "fresh":
        _check_fresh(experiment, others)
    if search.has_surrogate and others:
        raise ConfigError(
            f"{experiment.where}: search.surrogate: how exactly a score is known is told by its items, and the metric "
            f"of {listed(others)} isn't a mean of its items' scores; choose another metric, or leave out "
            "surrogate and surrogate_every"
        )
    if pruner != "none" and others:
        raise ConfigError(
            f"{experiment.where}: search.pruner: {pruner!r} compares items, but the metric of {listed(others)} isn't a "
            "mean of its items' scores; choose another metric, or pruner: none"
        )
    if getattr(PROPOSERS.get(search.algorithm), "learns_items", False) and (others or objective.languages):
        reason = (
            f"the metric of {listed(others)} isn't a mean of its items' scores"
            if others
            else f"items don't tell what is asked of the language of {listed(objective.languages)}"
        )
        raise ConfigError(
            f"{experiment.where}: search.algorithm: {search.algorithm} learns from items, and {reason}; use another "
            "algorithm, such as cma"
        )
    if search.estimator != "none" and objective.languages:
        raise ConfigError(
            f"{experiment.where}: search.estimator: no estimator knows what is asked of the language of "
            f"{listed(objective.languages)}; leave out language there, or take estimator: none"
        )


def _check_fresh(experiment: Experiment, others: Sequence[str]) -> None:
    """Find whether fresh items can be drawn, and tell something of a score. Raises: ConfigError.

    Args:
        experiment: with its benchmark.
        others: tasks whose metric isn't a mean.
    """
    search, items = experiment.config.search, len(experiment.benchmark.splits["search"])
    if others:
        raise ConfigError(
            f"{experiment.where}: search.items: a part of the items tells of the score only where this is a mean "
            f"of items' scores, and the metric of {listed(others)} isn't; choose another metric, or items: fixed"
        )
    block = search.block or 1
    if -(-search.items_per_candidate // block) >= -(-items // block):
        raise ConfigError(
            f"{experiment.where}: search.items_per_candidate: {search.items_per_candidate} in blocks of {block} are "
            f"all of the {items} search items; fresh items need fewer, such as {max(1, items // 2)}; or take "
            "items: fixed"
        )


def _check_other_methods(experiment: Experiment) -> None:
    """Find whether the merges of other methods fit these models. Raises: ConfigError."""
    if not (recipes := experiment.other_methods):
        return
    binder = Binder(Inputs(experiment.models))
    for name, recipe in recipes.items():
        try:
            binder.bind(recipe)
        except RecipeError as error:
            raise ConfigError(f"{experiment.where}: search.baselines: {name}: {error}") from error
