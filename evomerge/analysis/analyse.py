"""The look at models before a search: opened, found to be one family, streamed, and put into words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.analysis.document import document, gradients_data
from evomerge.analysis.gradients import Gradients, loss_gradients, text_references
from evomerge.analysis.measures import Tasks
from evomerge.analysis.verdicts import Verdict, verdicts
from evomerge.analysis.weights import Progress, Weights, common_names, weight_statistics
from evomerge.benchmark import SPLITS, build_benchmark
from evomerge.config.config import Config
from evomerge.config.models import key_of
from evomerge.errors import CheckpointError, ConfigError
from evomerge.inference.architecture import refuse_unless_it_continues_text
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.open import Models, as_family, called_by_role, open_each
from evomerge.recipe.sources import ModelReference, Sources
from evomerge.score.requests import Reference

SPECTRA = ("auto", "all", "none")
"""For how many layers spectra are found."""

_TAKEN = {"base", "uniform", "winner", "mean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What was found. `to_dict` is all of it as plain data, in the form that docs/analysis.md describes.

    Attributes:
        sources: the models.
        weights: the statistics of the tensors that all of them have.
        only_in: by model, the tensors that it has and another lacks.
        verdicts: what it means for a merge.
        settings: how it was looked at.
        gradients: on texts, if some were given.
    """

    sources: Sources
    weights: Weights
    only_in: Mapping[str, tuple[str, ...]]
    verdicts: tuple[Verdict, ...]
    settings: Mapping[str, Any]
    gradients: Gradients | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        made = document(self.sources, self.weights, self.only_in, self.verdicts, self.settings)
        return {**made, "gradients": None if self.gradients is None else gradients_data(self.gradients)}


def analyse(
    models: Config | Mapping[str, str | Path] | Sequence[str | Path],
    *,
    texts: Mapping[str, str | Path] | None = None,
    tasks: bool = False,
    where: str = "config",
    top: float = 0.2,
    spectra: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Analysis:
    """Look at the weights of a base and its experts, one tensor of every model at a time.

    Args:
        models: a config; folders or hub ids by name, with "base" among the names; or in a row, the base first.
        texts: files of plain text by name, one for each task: gradients of the loss on them are worked out at every
            model, with a model and as many gradients in memory.
        tasks: the same for the tasks of a config, on the right answers of their search items.
        where: the config's file, for messages.
        top: the fraction of each task vector's entries whose signs are looked at by themselves.
        spectra: "auto" decomposes as many layers as `BUDGET` allows, "all" every one, "none" none.
        seed: of the random starts for large matrices.
        progress: is told of bytes read and bytes in all.

    Raises: ConfigError for settings or names that can't be; CheckpointError for models that can't be read, or are of
        different architecture, depth or shapes, naming the tensors; BenchmarkError for texts and tasks that can't
        be used.
    """
    if spectra not in SPECTRA:
        raise ConfigError(f"spectra: expected one of {', '.join(SPECTRA)}, got {spectra!r}")
    if not 0 < top <= 1:
        raise ConfigError(f"top: expected a fraction above 0 and up to 1, got {top!r}")
    if isinstance(models, Config):
        sources = models.models.sources()
        family, only_in = open_family(sources, lambda name: f"{where}: {key_of(name)}")
    else:
        sources = sources_of(models)
        family, only_in = open_family(sources)
    if (texts or tasks) and only_in:
        raise CheckpointError(
            "gradients: models that haven't all the same tensors can't be run; leave out texts and tasks"
        )
    # First, since it refuses texts, tasks and models that can't be used.
    files = {name: Path(path) for name, path in (texts or {}).items()}
    references, notes = _references(models, family, files, tasks=tasks, where=where)
    gradients = loss_gradients(family, references, notes=notes) if references else None
    weights = weight_statistics(family, top=top, spectra=spectra, seed=seed, progress=progress)
    return Analysis(
        sources=sources,
        weights=weights,
        only_in=only_in,
        verdicts=verdicts(weights, only_in=only_in),
        settings={"top": top, "spectra": spectra, "seed": seed},
        gradients=gradients,
    )


def _references(
    models: Any, family: Models, files: Mapping[str, Path], *, tasks: bool, where: str
) -> tuple[dict[str, Sequence[Reference]], list[str]]:
    """Right answers by the names of texts and tasks, and what a person should know of them, a sentence each.

    Raises: ConfigError, BenchmarkError, CheckpointError.
    """
    found: dict[str, Sequence[Reference]] = {}
    notes: list[str] = []
    if files:
        found, notes = text_references(files, family.base)
    if not tasks:
        return found, notes
    if not isinstance(models, Config):
        raise ConfigError("tasks: gradients on tasks need a config that says which; give a text for models by name")
    if models.benchmark.kind == "lm_eval":
        refuse_unless_it_continues_text(family.base)
    # All splits, since which items are in one hangs on how many the others take.
    benchmark = build_benchmark(
        models.benchmark, family.base, max_length=models.execution.max_length, where=where, splits=SPLITS
    )
    # Refuses labels that are all the same.
    notes = [*notes, *Tasks(benchmark, ["search"]).notes]
    own = benchmark.references("search")
    if taken := sorted(own.keys() & found.keys()):
        raise ConfigError(f"--text {taken[0]}: a task of the config has this name; rename the text's file")
    counts = ", ".join(f"{len(each):,} of {name}" for name, each in own.items())
    notes.append(f"right answers of search items: {counts}")
    return {**found, **own}, notes


def sources_of(models: Mapping[str, str | Path] | Sequence[str | Path]) -> Sources:
    """The base and experts among some models, with names from their folders where they have none.

    Raises: ConfigError without a base and an expert, or for a name that experts can't have.
    """
    if isinstance(models, Mapping):
        named = dict(models)
        if "base" not in named or len(named) < 2:
            raise ConfigError("analyse: expected a model named base, and at least one expert")
    else:
        paths = [models] if isinstance(models, str | Path) else list(models)
        if len(paths) < 2:
            raise ConfigError("analyse: expected a config, or a base and at least one expert")
        named = {"base": paths[0]}
        for path in paths[1:]:
            named[_name(path, named)] = path
    references = {name: ModelReference(path=str(path)) for name, path in named.items()}
    return Sources(base=references.pop("base"), experts=references)


def _name(path: str | Path, taken: Mapping[str, Any]) -> str:
    """A name for an expert that configs can use: that of its folder, with a number if it is taken."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(str(path)).resolve().name).strip("-") or "expert"
    if plain in _TAKEN:
        plain = f"expert-{plain}"
    number, name = 1, plain
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


def open_family(
    sources: Sources, called: Callable[[str], str] = called_by_role
) -> tuple[Models, dict[str, tuple[str, ...]]]:
    """The models, found to be of one architecture and shape, and what only some of them have.

    Models that a merge takes are shown as the merge sees them. Others are looked at as far as they go together, if
    they differ in nothing but in which tensors they have.

    Args:
        sources: of the models.
        called: what a model is called in messages, as `open_each` takes it.

    Raises: CheckpointError, RecipeError.
    """
    models = as_family(open_each(sources, called), sources)
    try:
        check_compatible(*models)
    except CheckpointError as error:
        shared = _shared(models)
        if shared is None:
            raise error
        return shared, _only_in(models)
    return models, {}


def _shared(models: Models) -> Models | None:
    """The models without the tensors that not all have; None if they differ in anything else, or in whole layers."""
    names = {expert: common_names(models.base, model) for expert, model in models.experts.items()}
    kept = [name for name in models.base.names if all(name in known for known in names.values())]
    if not kept or any(type(model) is not Checkpoint for model in models.by_name.values()):
        return None
    base = _reduced(models.base, set(kept))
    experts = {
        expert: _reduced(model, {names[expert][name] for name in kept}) for expert, model in models.experts.items()
    }
    try:
        if any(model.layout.depth != models.base.layout.depth for model in models.experts.values()):
            return None
        check_compatible(base, experts)
    except CheckpointError:
        return None
    return Models(base, experts)


def _reduced(model: Checkpoint, names: set[str]) -> Checkpoint:
    return replace(model, tensors={name: info for name, info in model.tensors.items() if name in names})


def _only_in(models: Models) -> dict[str, tuple[str, ...]]:
    """By model, the names of its tensors that another lacks."""
    found = {name: set(model.names) for name, model in models.by_name.items()}
    everywhere = set.intersection(*found.values())
    return {
        name: tuple(one for one in model.names if one not in everywhere)
        for name, model in models.by_name.items()
        if found[name] - everywhere
    }
