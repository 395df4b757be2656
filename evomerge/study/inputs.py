"""The files that an experiment's results come from: its models with their tokenizers, its tasks' YAML and code, and
the model that tells languages, where it doesn't come with a package.

Their content is part of what makes two runs the same experiment. Documents and prompts are told apart by the
benchmark's own fingerprint; lm-eval's built-in tasks are those of its version.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from evomerge.benchmark.lm_eval.language import language_files
from evomerge.benchmark.lm_eval.own_code import own_files
from evomerge.config.config import Config
from evomerge.errors import CheckpointError, ResumeError, listed
from evomerge.files.fingerprint import changed, fingerprints
from evomerge.models.hub import content_files
from evomerge.models.open import Models


def input_files(
    config: Config, models: Models, *, where: str = "config", recorded: Collection[str] = ()
) -> dict[str, Path]:
    """The files of an experiment by name, such as "base/config.json" and "experts/x/model.safetensors".

    Args:
        config: the experiment.
        models: as they are on disk.
        where: the config's file, for messages.
        recorded: names of files that a run has kept; earlier releases also took some of tasks that it doesn't use.

    Raises: BenchmarkError for folders of tasks that aren't there.
    """
    found = model_files({name: model.folder for name, model in models.by_name.items()})
    found |= {f"tasks/{place}": path for place, path in own_files(config.benchmark, where).items()}
    for name in recorded:
        kind, _, place = name.partition("/")
        number, _, file = place.partition("/")
        if kind == "tasks" and number.isdecimal() and name not in found:
            path = Path(config.benchmark.include_path[int(number)]) / file
            found |= {name: path} if path.is_file() else {}
    return found | language_files(config.benchmark)


def model_files(folders: Mapping[str, Path]) -> dict[str, Path]:
    """The files of models and their tokenizers by name, from the models' folders by theirs, "base" and the experts'."""
    found: dict[str, Path] = {}
    for name, folder in folders.items():
        place = name if name == "base" else f"experts/{name}"
        found |= {f"{place}/{file}": path for file, path in content_files(folder).items()}
    return found


def fingerprints_of(files: Mapping[str, Path]) -> dict[str, Any]:
    """What is kept of the files' content, as plain data. Raises: CheckpointError naming a file that can't be read."""
    try:
        return {name: found.to_data() for name, found in fingerprints(files).items()}
    except OSError as error:
        raise CheckpointError(f"{error.filename}: can't be read: {error.strerror}") from error


def check_same_files(directory: Path, recorded: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Compare files with what a run has kept of them; runs of earlier releases have kept nothing.

    Raises: ResumeError naming what has changed since the run was started; CheckpointError for what can't be read.
    """
    places = _changed(recorded, files)
    # Whole folders of tasks that nothing was kept of were not looked at by earlier releases.
    kept = {Path(name).parent for name in recorded if name.startswith("tasks/")}
    places += [f"{name} ({files[name]})" for name in files if name not in recorded and Path(name).parent in kept]
    if places:
        raise ResumeError(
            f"{directory}: isn't the same experiment any more, since the content of its files has changed: "
            f"{listed(places)}. Restore them, or start a new run directory"
        )


def check_same_models(directory: Path, recorded: Mapping[str, Any], folders: Mapping[str, Path]) -> None:
    """Compare the models' files with what a run has kept of them; runs of earlier releases have kept nothing.

    Args:
        directory: the run's.
        recorded: what it has kept of all its files.
        folders: the models' by name, "base" and the experts.

    Raises: CheckpointError naming what has changed since the run was started, or can't be read.
    """
    of_models = {name: kept for name, kept in recorded.items() if name.startswith(("base/", "experts/"))}
    if places := _changed(of_models, model_files(folders)):
        raise CheckpointError(
            f"{directory}: these files of its models aren't those that were scored: {listed(places)}. Restore them"
        )


def _changed(recorded: Mapping[str, Any], files: Mapping[str, Path]) -> list[str]:
    """Names and places of the recorded files whose content is another now. Raises: CheckpointError."""
    try:
        names = changed(files, recorded)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: can't be read: {error.strerror}") from error
    return [f"{name} ({files[name]})" if name in files else f"{name} (missing)" for name in names]
