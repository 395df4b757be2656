"""`evomerge connect`: from model folders to what lies between them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from evomerge.analysis.geometry import differences, frame
from evomerge.analysis.measures import CHARACTERS, Measured, Tasks, Texts
from evomerge.analysis.mode_connectivity import POINTS, Connectivity, Done, Survey, check_points, survey
from evomerge.benchmark import SPLITS, build_benchmark
from evomerge.config.config import Config
from evomerge.config.execution import ExecutionConfig
from evomerge.config.models import ModelConfig, ModelsConfig
from evomerge.errors import ConfigError, counted, unknown
from evomerge.execute.settings import make_executor, worker_settings
from evomerge.inference.architecture import refuse_unless_it_continues_text
from evomerge.models.compatible import check_compatible
from evomerge.models.open import Models, alignable, as_family, maps_of, open_each
from evomerge.recipe.align import Align
from evomerge.recipe.sources import Sources

AS_THEY_ARE = "as they are"
_LETTERS = ("A", "B", "C")


def connect(
    models: Sequence[str | Path],
    *,
    texts: Mapping[str, str | Path] | None = None,
    config: Config | None = None,
    splits: Sequence[str] = ("search",),
    points: int = POINTS,
    characters: int = CHARACTERS,
    window: int | None = None,
    align: Align | None = None,
    execution: ExecutionConfig | None = None,
    where: str = "config",
    report: Callable[[str], None] = lambda doing: None,
    done: Done = lambda number, total: None,
) -> Connectivity:
    """Measure models on the straight line between two of them, or on the lines and the plane of three.

    Args:
        models: two or three folders or hub ids; with a config also its "base" and its experts by name.
        texts: files of plain text by name, such as "train" and "test".
        config: measure on the items of its benchmark instead.
        splits: which of its items.
        points: on each line, and on each side of the plane's grid.
        characters: how much of each text is read.
        window: tokens that a model reads of a text at a time; None: its context, at most 1,024.
        align: also measure them once they were brought to the first of them in this way.
        execution: where and how; None: the config's, or what fits this machine.
        where: the config's file, for messages.
        report: called with what is being done, before it is.
        done: called with the points that are measured and those in all, after each point.

    Raises: ConfigError, CheckpointError, BenchmarkError, AlignmentError, ExecutionError for what can't be used, before
        any model is loaded; ExecutionError if a model can't be measured.
    """
    check_points(points)
    if (not texts and config is None) or (texts and config is not None):
        raise ConfigError("give either a text or a config to measure the models on")
    experiment = _experiment(models, config, execution)
    report("opening the models")
    sources = experiment.models.sources()
    opened = open_each(sources, lambda name: f"model {'A' if name == 'base' else name}")
    check_compatible(*opened)
    if align is not None:
        alignable(opened, sources, align)
    measured: Measured
    if config is not None:
        measured = _tasks(config, opened, splits, where)
    else:
        refuse_unless_it_continues_text(opened.base)
        files = {name: Path(path) for name, path in (texts or {}).items()}
        measured = Texts(files, opened.base, characters=characters, window=window)
    gram = differences(opened)
    notes = [*measured.notes]
    if len(models) == 3:
        frame(gram)
    elif not gram[0, 0]:
        notes.append("the two models are equal in every weight, so that every point between them is the same model")
    surveys = {AS_THEY_ARE: _surveyed(experiment, sources, gram, measured, points, report, done)}
    if align is not None:
        report("aligning")
        maps = maps_of(opened, replace(sources, align=align)) or b""
        with TemporaryDirectory(prefix="evomerge-") as folder:
            # Found once, for the distances here and for the models that are loaded.
            file = Path(folder) / "maps"
            file.write_bytes(maps)
            known = replace(align, maps=str(file), sha256=hashlib.sha256(maps).hexdigest())
            aligned = replace(sources, align=known)
            gram = differences(as_family(opened, aligned))
            surveys[f"after {align.method}"] = _surveyed(experiment, aligned, gram, measured, points, report, done)
    return Connectivity(
        models=_names(models),
        sets=tuple(measured.requests),
        measures=measured.measures,
        surveys=surveys,
        notes=(*notes, *(note for found in surveys.values() for note in _unmeasured(found))),
    )


def _surveyed(
    experiment: Config,
    sources: Sources,
    gram: NDArray[np.float64],
    measured: Measured,
    points: int,
    report: Callable[[str], None],
    done: Done,
) -> Survey:
    dtype = str(open_each(sources).base.dtype).removeprefix("torch.")
    settings = replace(worker_settings(experiment, dtype=dtype), sources=sources)
    executor = make_executor(experiment.execution, settings)
    report("measuring")
    try:
        return survey(sources, gram, measured, executor, points=points, done=done)
    finally:
        executor.close()


def _experiment(models: Sequence[str | Path], config: Config | None, execution: ExecutionConfig | None) -> Config:
    """The first model as the base, the others as its experts."""
    if not 2 <= len(models) <= len(_LETTERS):
        raise ConfigError(
            f"{counted(len(models), 'model')} given; give two for the line between them, or three for a plane"
        )
    known = {} if config is None else {"base": config.models.base, **config.models.experts}
    found = [
        known[str(model)] if str(model) in known and not Path(model).is_dir() else ModelConfig(path=str(model))
        for model in models
    ]
    own = ExecutionConfig() if config is None else config.execution
    return Config.model_construct(
        models=ModelsConfig(base=found[0], experts=dict(zip(_LETTERS[1:], found[1:], strict=False))),
        execution=execution or own,
    )


def _tasks(config: Config, opened: Models, splits: Sequence[str], where: str) -> Tasks:
    for split in splits:
        if split not in SPLITS:
            raise ConfigError(unknown("split", split, SPLITS))
    if config.benchmark.kind == "lm_eval":
        refuse_unless_it_continues_text(opened.base)
    # All splits, since which items are in one hangs on how many the others take.
    benchmark = build_benchmark(
        config.benchmark, opened.base, max_length=config.execution.max_length, where=where, splits=SPLITS
    )
    return Tasks(benchmark, splits)


def _names(models: Sequence[str | Path]) -> tuple[str, ...]:
    """What the models are called: by their folders, with a letter where two have the same name."""
    names = [Path(model).name or str(model) for model in models]
    seen = Counter(names)
    return tuple(
        name if seen[name] == 1 else f"{letter} ({name})" for letter, name in zip(_LETTERS, names, strict=False)
    )


def _unmeasured(found: Survey) -> list[str]:
    """Points that couldn't be measured, a sentence for all of them."""
    points = [point for line in found.lines for point in line.points]
    if found.plane is not None:
        points += [point for row in found.plane.points for point in row]
    reasons = {point.weights: point.reason for point in points if point.reason is not None}
    if not reasons:
        return []
    first = next(iter(reasons.values()))
    return [f"{len(reasons)} of the points couldn't be measured and count in no barrier; the first: {first}"]
