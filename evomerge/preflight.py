"""Everything that can be checked before a worker starts, and what a search will need.

Opens headers and tokenizers only: no weights are merged, no device is touched, except by `pilot`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

import torch

from evomerge.checkpoint import Checkpoint, check_compatible, is_adapter, is_compressed, whereabouts
from evomerge.config import Config
from evomerge.errors import BenchmarkError, ConfigError, ExecutionError, RecipeError, unknown
from evomerge.execute import choose_backend, make_executor, worker_settings
from evomerge.execute.base import Answers, Failure, Job
from evomerge.materialise import Materialiser, checked_options
from evomerge.merge import METHODS
from evomerge.models import notes_of, open_expert, open_models
from evomerge.propose import PROPOSERS
from evomerge.propose.base import Dimension
from evomerge.propose.population import default_population
from evomerge.recipe import Kind, Recipe
from evomerge.run import PREPARED, template_recipe
from evomerge.score.benchmark import Benchmark
from evomerge.score.plan import count_tokens
from evomerge.space import SearchSpace


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFound:
    """Where one model of the config is."""

    name: str
    path: str
    state: str
    """folder, cache or unresolved."""
    size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What a search will be, as far as it can be known on this machine now."""

    models: list[ModelFound]
    dtype: str | None = None
    dimensions: list[Dimension] = field(default_factory=list)
    groups: int | None = None
    population: int | None = None
    items: dict[str, int] = field(default_factory=dict)
    """Items by split; empty if the benchmark couldn't be built here."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Tokens of one candidate on the search items by how contexts are shared, fewest first; the first form that
    the model answers alike is taken when workers start."""
    evaluations: dict[str, int] = field(default_factory=dict)
    """Candidate evaluations by phase: baselines, search, validation, test."""
    backend: str = ""
    live_bytes: int | None = None
    """The live model, one per worker."""
    prepared_bytes: int | None = None
    """What the method and adapters keep besides, per worker; on a GPU also `state_bytes`."""
    state_bytes: int | None = None
    """What the method computes once for the run, in files that the workers of a machine map together."""
    state_folder: str = ""
    """Where these files will lie; RUN stands for the run directory."""
    mapped_bytes: int | None = None
    """The models' files, memory-mapped once per node."""
    unresolved: list[str] = field(default_factory=list)
    """Models that aren't on this machine."""
    notes: list[str] = field(default_factory=list)
    """How models that aren't whole checkpoints become experts."""
    warnings: list[str] = field(default_factory=list)

    @property
    def memory_bytes_per_worker(self) -> int | None:
        """Memory of one worker beside the mapped files and the activations of a batch."""
        if self.live_bytes is None or self.prepared_bytes is None:
            return None
        return self.live_bytes + self.prepared_bytes


def check(config: Config, *, where: str = "config") -> Preflight:
    """Find everything wrong with a config that can be found here, and size the search.

    Models that aren't on this machine are listed as unresolved, and what depends on them is left out;
    a benchmark whose data can't be reached becomes a warning.

    Raises: EvomergeError subclasses for what is wrong.
    """
    check_names(config, where=where)
    references = {"base": config.models.base.reference()} | {
        name: model.reference() for name, model in config.models.experts.items()
    }
    places = {name: whereabouts(reference) for name, reference in references.items()}
    base = None if places["base"].kind == "unresolved" else Checkpoint.open(references["base"])
    models = []
    for name, reference in references.items():
        found = places[name]
        size = None
        if name == "base":
            size = None if base is None else base.size_bytes
        elif base is not None and found.path is not None:
            size = open_expert(reference, base, resized=config.models.vocabulary != "same").size_bytes
        elif found.path is not None and not is_adapter(found.path) and not is_compressed(found.path):
            size = Checkpoint.open(reference).size_bytes
        models.append(ModelFound(name=name, path=reference.path, state=found.kind, size_bytes=size))
    unresolved = [found.message for found in places.values() if found.kind == "unresolved"]
    if unresolved:
        return Preflight(models=models, unresolved=unresolved, backend=choose_backend(config.execution))
    experiment = open_experiment(config, where=where)
    warnings: list[str] = []
    try:
        benchmark = open_benchmark(experiment)
        items = {split: len(found) for split, found in benchmark.splits.items()}
        warnings += benchmark.truncated
        tokens = _tokens(experiment, benchmark)
    except BenchmarkError as error:
        if not error.unreachable:
            raise
        items, tokens = {}, {}
        warnings.append(f"the benchmark's data can't be reached from here, so it wasn't checked: {error}")
    population = population_of(experiment, items.get("search", 100))
    backend = choose_backend(config.execution)
    workers = config.execution.workers
    if backend == "ray" and workers is not None and population % workers:
        warnings.append(
            f"a population of {population} doesn't divide among {workers} workers, so some wait at the end of each "
            f"generation; search.population: {-(-population // workers) * workers} would"
        )
    generations = config.search.evaluations / population
    if generations < 5:
        warnings.append(
            f"{config.search.evaluations} evaluations are only {generations:.1f} generations of {population}; "
            "CMA-ES learns little in fewer than 10: raise search.evaluations or coarsen the space"
        )
    if items and min(items["validation"], items["test"]) < 100:
        warnings.append(
            f"{items['validation']} validation and {items['test']} test items: differences below "
            f"{100 * 1.96 * (0.25 / min(items['validation'], items['test'])) ** 0.5:.0f} points will not show"
        )
    materialiser = Materialiser(experiment.base, experiment.experts)
    recipe = experiment.space.decode(experiment.space.default())
    state_bytes = materialiser.state_bytes(recipe)
    on_gpu = worker_settings(config, dtype=experiment.dtype).device.startswith("cuda")
    scan = len(experiment.space.uniform_scan(config.search.scan))
    experts = len(config.models.experts)
    return Preflight(
        models=models,
        dtype=experiment.dtype,
        dimensions=list(experiment.space.dimensions),
        groups=len(experiment.space.groups),
        population=population,
        items=items,
        tokens=tokens,
        evaluations={
            "baselines": 1 + experts + scan,
            "search": config.search.evaluations,
            "validation": config.search.shortlist + 3 + experts,
            "test": 3 + experts,
        },
        backend=backend,
        live_bytes=materialiser.size_bytes(recipe),
        prepared_bytes=materialiser.prepared_bytes(recipe) - (0 if on_gpu else state_bytes),
        state_bytes=state_bytes,
        state_folder=config.execution.prepared_directory or f"RUN/{PREPARED}",
        mapped_bytes=sum(model.size_bytes or 0 for model in models),
        notes=notes_of(experiment.base, experiment.experts),
        warnings=warnings,
    )


def _tokens(experiment: Experiment, benchmark: Benchmark) -> dict[str, int]:
    """Tokens of a candidate on the search items, by form."""
    size = experiment.config.search.block
    blocks = None
    if size is not None:
        blocks = [benchmark.places("search", items) for items in benchmark.blocks("search", size)]
    found = count_tokens(benchmark.requests("search"), experiment.base.config, blocks=blocks)
    return {str(form): count for form, count in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotReport:
    """One candidate, timed on this machine."""

    workers: int
    seconds: dict[str, float]
    """By phase, for one candidate on the search items."""
    prepare_s: float
    """What the method computes once, before the first candidate, by one worker; a search's workers share it out."""
    peak_bytes: int
    hours: float
    """Estimate for the whole search with as many workers, without start-up."""


def time_preparing(config: Config, *, where: str = "config", limit_s: float = 5.0) -> float | None:
    """Estimate the seconds that preparing the method takes, from a few tensors; None where workers run elsewhere.

    Args:
        config: the experiment.
        where: its file, for messages.
        limit_s: no tensor is begun after as many seconds.

    Raises: EvomergeError subclasses, as `search` would.
    """
    execution = config.execution
    experiment = open_experiment(config, where=where)
    settings = worker_settings(config, dtype=experiment.dtype)
    on_cluster = choose_backend(execution) == "ray" and (execution.ray_address or os.environ.get("RAY_ADDRESS"))
    if on_cluster or (settings.device.startswith("cuda") and not torch.cuda.is_available()):
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        materialiser = Materialiser(experiment.base, experiment.experts, device=settings.device)
        return materialiser.time_preparing(experiment.space.decode(experiment.space.default()), limit_s)
    finally:
        torch.set_num_threads(before)


def pilot(config: Config, *, where: str = "config", repeats: int = 3) -> PilotReport:
    """Time one candidate as the search would evaluate it, on the search items.

    Raises: EvomergeError subclasses, as `search` would; ExecutionError if the candidate fails.
    """
    experiment = open_experiment(config, where=where)
    benchmark = open_benchmark(experiment)
    recipe = experiment.space.decode(experiment.space.default())
    timed: list[Answers] = []
    with ExitStack() as stack:
        executor = make_executor(config.execution, worker_settings(config, dtype=experiment.dtype))
        stack.callback(executor.close)
        executor.add_requests("search", benchmark.requests("search"))
        workers = executor.workers
        # The first candidate pays for preparation and warm-up, which a search pays once.
        for number in range(repeats + 1):
            for _, outcome in executor.run([Job(number=number, recipe=recipe, split="search")]):
                if isinstance(outcome, Failure):
                    raise ExecutionError(f"the pilot candidate failed: {outcome.reason}: {outcome.message}")
                timed.append(outcome)
    seconds = {
        phase: median(answers.seconds[phase] for answers in timed[1:])
        for phase in timed[0].seconds
        if phase != "prepare"
    }
    settings = config.search
    total = settings.evaluations + settings.scan + settings.shortlist + 2 * len(config.models.experts) + 6
    return PilotReport(
        workers=workers,
        seconds=seconds,
        prepare_s=timed[0].seconds["prepare"],
        peak_bytes=max(answers.peak_bytes for answers in timed),
        hours=total * sum(seconds.values()) / workers / 3600,
    )
