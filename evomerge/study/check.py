"""Everything about an experiment that can be known without running it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from evomerge.benchmark.base import Item
from evomerge.benchmark.lm_eval.own_code import own_code
from evomerge.benchmark.lm_eval.tasks import check_tasks
from evomerge.benchmark.user_code import files_of
from evomerge.config.config import Config
from evomerge.config.models import key_of
from evomerge.errors import BenchmarkError, ConfigError, listed
from evomerge.execute.device import process_bytes
from evomerge.execute.settings import arithmetic_of, choose_backend, worker_settings
from evomerge.inference.plan import Work
from evomerge.materialise.merger import Merger
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.hub import Whereabouts, is_adapter, is_compressed, whereabouts
from evomerge.models.open import notes_of
from evomerge.models.own_settings import own_notes
from evomerge.recipe.sources import ModelReference, Sources
from evomerge.run.directory import PREPARED
from evomerge.run.plan import evaluations_of
from evomerge.study.advice import ASYNCHRONOUS, lack_of_memory, left_out, own_cost, unseen_devices, warnings_of
from evomerge.study.arithmetic import in_words
from evomerge.study.budget import check_budget, spending
from evomerge.study.costs import search_tokens
from evomerge.study.experiment import Experiment, check_names, check_pruner, open_experiment, population_of
from evomerge.study.gpus import live_size, notes_on_gpus
from evomerge.study.measures import Measures
from evomerge.study.merge_first import SeenRecipes, seen_recipes
from evomerge.study.observed import observers_of
from evomerge.study.outlines import Outlines, outlines_of
from evomerge.study.preflight import ModelFound, Preflight
from evomerge.study.preparations import preparations_of
from evomerge.study.references import reference_requests, what_they_add
from evomerge.study.start import start_of
from evomerge.study.storage import check_mirror, check_storage

_MERGED_FIRST = ": is merged first"


def check(config: Config, *, where: str = "config", trust_tasks: bool = False) -> Preflight:
    """Find everything wrong with a config that can be found here, and size the search.

    Models that aren't on this machine are listed as unresolved. Where the hub can be reached, their small files and the
    headers of their weights are looked at. Where it can't, an expert is sized as if it were the base; without the base,
    tasks and metrics are looked at and the rest is left out. What wasn't looked at is in `unchecked`.

    Args:
        config: the experiment.
        where: its file, for messages.
        trust_tasks: also load tasks that bring code, or a function, and run it then, as a search does; otherwise such
            a benchmark isn't looked at.

    Raises: EvomergeError subclasses for what is wrong; ConfigError for a path where no model can be.
    """
    check_names(config, where=where)
    with seen_recipes(config, where=where) as recipes:
        found = _check_models(recipes, where, trust_tasks)
    given = config.models.sources().references
    models = [
        replace(model, path=given[model.name].path, state="recipe", size_bytes=recipes.sizes.get(model.name))
        if model.name in recipes.found
        else model
        for model in found.models
    ]
    return replace(
        found,
        models=models,
        merged_bytes=recipes.disk_bytes,
        unresolved=[sentence for sentence in found.unresolved if not sentence.endswith(_MERGED_FIRST)],
        notes=[*recipes.notes(), *map(recipes.named, found.notes)],
        warnings=[*map(recipes.named, found.warnings)],
        unchecked=[*recipes.unchecked(), *map(recipes.named, found.unchecked)],
        # What was looked at of recipes is gone.
        experiment=None if recipes.found else found.experiment,
    )


def _check_models(recipes: SeenRecipes, where: str, trust_tasks: bool) -> Preflight:
    """As `check`, with outlines in the place of models that are recipes."""
    config = recipes.config
    sources = config.models.sources()
    places = {
        name: Whereabouts("unresolved", None, f"{reference.path}{_MERGED_FIRST}")
        if name in recipes.unseen
        else whereabouts(reference)
        for name, reference in sources.references.items()
    }
    _refuse_impossible(places, where)
    away = {name: found.message for name, found in places.items() if found.kind == "unresolved"}
    with outlines_of(sources, [name for name in away if name not in recipes.unseen]) as outlines:
        given = recipes.given.models.sources().references
        return _check(config, sources, given, places, away, outlines, where, trust_tasks)


def _check(
    config: Config,
    sources: Sources,
    given: Mapping[str, ModelReference],
    places: Mapping[str, Whereabouts],
    away: Mapping[str, str],
    outlines: Outlines,
    where: str,
    trust_tasks: bool,
) -> Preflight:
    """As `check`, with outlines of models that are away, by name with the reason."""
    observers_of(config, where=where)
    kept = (check_storage(config.storage, where=where), check_mirror(config.execution.mirror, where=where))
    unchecked = [sentence for sentence in kept if sentence is not None]
    code = {} if trust_tasks else _code(config, where)
    if code:
        unchecked.append(_untrusted(config, code))
    unchecked += outlines.unchecked
    missing = [name for name in away if name not in outlines.folders]
    if "base" in missing:
        return _without_base(config, sources, places, unchecked, where, load=not code)
    unchecked += [
        f"expert {name!r}: whether it fits the base; sizes take it to be as large as the base" for name in missing
    ]
    # Outlines of models hold no numbers.
    by_headers = bool(away) or given != sources.references
    stood_in = _with_stand_ins(outlines.put_in(config), missing)
    experiment = open_experiment(stood_in, where=where, unchanged={} if by_headers else None)
    if by_headers and experiment.space.adds_task_vectors:
        unchecked.append(
            "whether experts' tensors are the base's in places, whose coefficients a search then leaves out"
        )
    sizes = {name: model.size_bytes for name, model in experiment.opened.by_name.items() if name not in missing}
    warnings: list[str] = []
    notes = [
        *notes_of(experiment.models),
        *own_notes(experiment.as_themselves),
        *left_out(experiment.space),
    ]
    splits: Mapping[str, Sequence[Item]] = {}
    tokens: dict[str, Work] = {}
    try:
        if not code:
            benchmark = experiment.benchmark
            splits = benchmark.splits
            check_pruner(experiment)
            references = reference_requests(experiment)
            notes += [what_they_add(experiment, references)] if references else []
            check_budget(experiment, population_of(experiment, len(splits["search"])))
            Measures(config.search, benchmark, where=where)
            warnings += benchmark.truncated
            notes = [*notes, *benchmark.notes, *benchmark.searched_publicly]
            warnings += _unaskable(experiment)
            tokens = search_tokens(experiment)
    except BenchmarkError as error:
        if not error.unreachable:
            raise
        splits, tokens = {}, {}
        unchecked.append(_unreachable(error))
    items = {split: len(found) for split, found in splits.items()}
    if (start := config.search.start) is not None:
        template, step = experiment.template, config.search.step_size
        found = start_of(start, template, experiment.space, given=given, step_size=step, where=where)
        notes.append(found.words)
    population = population_of(experiment, items.get("search", 100))
    warnings += warnings_of(config, population, splits)
    worth = config.search.candidates_at_most(items.get("search", 0))
    notes += own_cost(config.search, len(experiment.space.dimensions), worth)
    unchecked += unseen_devices(config, experiment.dtype)
    merger = Merger(experiment.models)
    notes = [*notes, *merger.account(), *([ASYNCHRONOUS] if config.search.is_asynchronous else [])]
    others = [merger.bind(recipe) for recipe in experiment.other_methods.values()]
    space = experiment.space
    evaluations = evaluations_of(config, len(space.starting_points(config.search.scan)), items.get("search", 0))
    prepared = preparations_of(space, merger)
    notes += prepared.notes
    arithmetic = arithmetic_of(config.execution, experiment.dtype)
    notes += notes_on_gpus(config, merger.base, arithmetic.dtype, where=where)
    live = {name: live_size(model, arithmetic.dtype) for name, model in experiment.opened.by_name.items()}
    export_bytes, pool = prepared.bounds[0].size_bytes, 0
    if space.shares_layers:
        pool = sum(live.values())
        notes.append("each worker holds every model whole beside the live one, since candidates share their layers")
    on_gpu = worker_settings(config, dtype=experiment.dtype).device.startswith("cuda")
    live_bytes = export_bytes if arithmetic.dtype == experiment.dtype else live_size(merger.base, arithmetic.dtype)
    prepared_bytes = pool + prepared.kept_bytes - (0 if on_gpu else prepared.kept_state_bytes)
    process = process_bytes()
    warnings += lack_of_memory(config, experiment.dtype, live_bytes + prepared_bytes, process or 0)
    return Preflight(
        experiment=None if away or code else experiment,
        models=_found(sources, places, sizes),
        dtype=experiment.dtype,
        arithmetic=in_words(arithmetic, experiment.dtype),
        dimensions=list(space.dimensions),
        groups=len(space.groups),
        population=population,
        in_flight=str(config.search.in_flight or "as many as workers") if config.search.is_asynchronous else None,
        items=items,
        tokens=tokens,
        evaluations=evaluations,
        answers_parts=config.search.answers_parts,
        spending=spending(config.search, items, evaluations) if items else [],
        backend=choose_backend(config.execution),
        live_bytes=live_bytes,
        export_bytes=export_bytes,
        single_bytes=max((live[name] for name in experiment.as_themselves), default=0),
        prepared_bytes=prepared_bytes,
        state_bytes=prepared.state_bytes,
        baselines=[*experiment.other_methods],
        baseline_bytes=max(map(merger.preparer.prepared_bytes, others), default=0),
        baseline_state_bytes=sum({other.preparation: merger.preparer.state_bytes(other) for other in others}.values()),
        state_folder=config.execution.prepared_directory or f"RUN/{PREPARED}",
        mapped_bytes=sum(model.size_bytes for model in experiment.opened.by_name.values()),
        process_bytes=process,
        unresolved=list(away.values()),
        is_untrusted=bool(code),
        unchecked=unchecked,
        notes=[*map(outlines.named, notes)],
        warnings=[*map(outlines.named, warnings)],
    )


def _refuse_impossible(places: Mapping[str, Whereabouts], where: str) -> None:
    """Raises: ConfigError naming each model whose path is neither a folder here nor a hub id."""
    wrong = [
        f"{where}: {key_of(name)}: {found.message}" for name, found in places.items() if found.kind == "impossible"
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))


def _with_stand_ins(config: Config, away: Collection[str]) -> Config:
    """The config with the base in the place of experts that aren't on this machine."""
    experts = {name: config.models.base if name in away else expert for name, expert in config.models.experts.items()}
    return config.model_copy(update={"models": config.models.model_copy(update={"experts": experts})})


def _without_base(
    config: Config, sources: Sources, places: Mapping[str, Whereabouts], unchecked: list[str], where: str, *, load: bool
) -> Preflight:
    """What can be said of an experiment whose base isn't on this machine."""
    unchecked = [*unchecked, "whether the models fit each other; dimensions, memory, items and cost"]
    if config.benchmark.kind == "lm_eval":
        try:
            if load:
                check_tasks(config.benchmark, where)
        except BenchmarkError as error:
            if not error.unreachable:
                raise
            unchecked.append(_unreachable(error))
    else:
        unchecked.append(f"benchmark.{config.benchmark.kind}, which is read with the base's files")
    return Preflight(
        models=_found(sources, places, _sizes_of_resolved(sources, places)),
        unresolved=[found.message for found in places.values() if found.kind == "unresolved"],
        is_untrusted=not load,
        unchecked=unchecked,
        backend=choose_backend(config.execution),
    )


def _code(config: Config, where: str) -> dict[str, tuple[str, ...]]:
    """What code of one's own building the benchmark runs, by the names of tasks, or of the function."""
    if config.benchmark.kind == "lm_eval":
        return own_code(config.benchmark, where)
    if (function := config.benchmark.function) is None:
        return {}
    file = next(iter(files_of(function.call, function.folder or ".")), None)
    return {function.call: (f"the module {function.call.partition(':')[0]}" if file is None else str(file),)}


def _untrusted(config: Config, code: Mapping[str, Collection[str]]) -> str:
    """What isn't checked where a benchmark brings code."""
    tasks = "; ".join(f"{name}: {listed(files)}" for name, files in code.items())
    of_tasks = config.benchmark.kind == "lm_eval"
    runs = "tasks of it run code when they are loaded" if of_tasks else "it runs code of its own when it is loaded"
    return (
        f"the benchmark's metrics and items, since {runs} ({tasks}). A search runs "
        "that code; look at it, and if you trust it, check with --trust-tasks"
    )


def _unreachable(error: BenchmarkError) -> str:
    return f"the benchmark, whose data can't be reached from here: {error}"


def _unaskable(experiment: Experiment) -> list[str]:
    """A sentence for each model that is to be asked by itself, and can't be."""
    found = []
    for name in experiment.as_themselves:
        try:
            experiment.benchmark_of(name)
        except BenchmarkError as error:
            found.append(f"{name} will have no score, since it can't be asked by itself: {error}")
    return found


def _found(sources: Sources, places: Mapping[str, Whereabouts], sizes: Mapping[str, int]) -> list[ModelFound]:
    return [
        ModelFound(name=name, path=reference.path, state=places[name].kind, size_bytes=sizes.get(name))
        for name, reference in sources.references.items()
    ]


def _sizes_of_resolved(sources: Sources, places: Mapping[str, Whereabouts]) -> dict[str, int]:
    """Sizes of the models that are here; without its base, an adapter's or compressed expert's isn't known."""
    return {
        name: Checkpoint.open(reference).size_bytes
        for name, reference in sources.references.items()
        if (path := places[name].path) is not None and not is_adapter(path) and not is_compressed(path)
    }
