"""Prefetching: put everything that a config needs from the hub into this machine's caches.

For clusters whose workers have no network: run it where there is one, with the caches on a shared disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evomerge.benchmark.lm_eval.identifiers import GLOTLID, fetch_glotlid, glotlid_file
from evomerge.benchmark.lm_eval.language import needs_glotlid
from evomerge.config.config import Config
from evomerge.errors import EvomergeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.hub import resolve, whereabouts
from evomerge.recipe.sources import ModelReference
from evomerge.study.experiment import check_names, open_benchmark
from evomerge.study.merge_first import SeenRecipes, seen_recipes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """One model or task after the attempt to have it here."""

    kind: Literal["model", "task"]
    name: str
    """The model's name in the config, or the task."""
    source: str
    """Folder or hub id of a model; the task's name."""
    state: Literal["folder", "cached", "downloaded", "ready", "failed"]
    size_bytes: int | None = None
    """Size of a model's folder."""
    problem: str | None = None
    """Why it isn't here, and what to do."""


def prefetch(config: Config, *, where: str = "config") -> Iterator[Fetched]:
    """Fetch every model, and build every task so that its data is cached; one that fails doesn't stop the rest.

    Yields: the models of recipes, then the others in config order, then the identifier of languages if it comes with
        no package, then tasks, each as soon as it is known.
    Raises: ConfigError for what is wrong with the config itself; BenchmarkError without what telling languages needs.
    """
    check_names(config, where=where)
    fetched: dict[ModelReference, Fetched] = {}

    def fetch(name: str, reference: ModelReference) -> None:
        if reference not in fetched:
            fetched[reference] = _model(name, reference)

    with seen_recipes(config, where=where, fetch=fetch) as recipes:
        yield from fetched.values()
        yield from _prefetch(recipes, where)


def _prefetch(recipes: SeenRecipes, where: str) -> Iterator[Fetched]:
    """As `prefetch`, with outlines in the place of models that are recipes, whose own models are here."""
    config, missing = recipes.config, "base" in recipes.unseen
    for name, reference in config.models.sources().references.items():
        if name in recipes.found:
            continue
        fetched = _model(name, reference)
        missing |= name == "base" and fetched.state == "failed"
        yield fetched
    if needs_glotlid(config.benchmark):
        yield _identifier()
    if not config.benchmark.tasks:
        # Labelled data and functions are local; they are built so that what is wrong shows here.
        kind = config.benchmark.kind
        problem = "its items are made with the base's files, which aren't here" if missing else None
        problem = problem or _problem(config, None, where)
        yield Fetched(kind="task", name=kind, source=kind, state="failed" if problem else "ready", problem=problem)
    for index, task in enumerate(config.benchmark.tasks):
        problem = "its items are made with the base's tokenizer, which isn't here" if missing else None
        problem = problem or _problem(config, index, where)
        state: Literal["failed", "ready"] = "failed" if problem else "ready"
        yield Fetched(kind="task", name=task.task, source=task.task, state=state, problem=problem)


def _model(name: str, reference: ModelReference) -> Fetched:
    before = whereabouts(reference).kind
    try:
        folder = resolve(reference)
    except EvomergeError as error:
        return Fetched(kind="model", name=name, source=reference.path, state="failed", problem=str(error))
    return Fetched(
        kind="model",
        name=name,
        source=reference.path,
        state="folder" if before == "folder" else "cached" if before == "cache" else "downloaded",
        size_bytes=_size(folder),
    )


def _identifier() -> Fetched:
    """GlotLID's model, for languages that nothing that comes with a package tells."""
    name, before = "the identifier of languages", glotlid_file()
    try:
        path = fetch_glotlid()
    except EvomergeError as error:
        return Fetched(kind="model", name=name, source=GLOTLID, state="failed", problem=str(error))
    state: Literal["cached", "downloaded"] = "downloaded" if before is None else "cached"
    return Fetched(kind="model", name=name, source=GLOTLID, state=state, size_bytes=path.stat().st_size)


def _problem(config: Config, index: int | None, where: str) -> str | None:
    """Why a task's items, or those of a benchmark without tasks, can't be made here; None if they can."""
    own = slice(None) if index is None else slice(index, index + 1)
    try:
        base = Checkpoint.open(config.models.base.reference())
        alone = config.benchmark.model_copy(update={"tasks": config.benchmark.tasks[own]})
        open_benchmark(config.model_copy(update={"benchmark": alone}), base, where=where)
    except EvomergeError as error:
        # Built alone, each task is the first; a person counts them as in the config.
        return str(error).replace("benchmark.tasks[0]", f"benchmark.tasks[{index}]")
    return None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
