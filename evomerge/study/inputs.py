"""The files that an experiment's results come from: its models with their tokenizers, its tasks' YAML and code, and
the model that tells languages, where it doesn't come with a package.

Their content is part of what makes two runs the same experiment. Documents and prompts are told apart by the
benchmark's own fingerprint; lm-eval's built-in tasks are those of its version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.benchmark.lm_eval.language import language_files
from evomerge.config.config import Config
from evomerge.errors import CheckpointError, ResumeError, listed
from evomerge.files.fingerprint import changed, fingerprints
from evomerge.models.open import Models

_MODEL = frozenset(
    {".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken", ".codes", ".bpe", ".spm", ".index"}
)
"""Ends of the names of files that decide what a model or tokenizer is; others are for people."""

_TASK = frozenset({".yaml", ".yml", ".py"})


def input_files(config: Config, models: Models) -> dict[str, Path]:
    """The files of an experiment by name, such as "base/config.json" and "experts/x/model.safetensors"."""
    found = {f"base/{place}": path for place, path in _files(models.base.folder, _MODEL)}
    for name, expert in models.experts.items():
        found |= {f"experts/{name}/{place}": path for place, path in _files(expert.folder, _MODEL)}
    for number, folder in enumerate(config.benchmark.include_path):
        found |= {f"tasks/{number}/{place}": path for place, path in _task_files(config, Path(folder))}
    return found | language_files(config.benchmark)


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
    try:
        names = changed(files, recorded)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: can't be read: {error.strerror}") from error
    added = [name for name in files if name not in recorded and name.startswith("tasks/")] if recorded else []
    if names or added:
        places = [f"{name} ({files[name]})" if name in files else f"{name} (missing)" for name in (*names, *added)]
        raise ResumeError(
            f"{directory}: isn't the same experiment any more, since the content of its files has changed: "
            f"{listed(places)}. Restore them, or start a new run directory"
        )


def _files(folder: Path, ends: frozenset[str]) -> Iterator[tuple[str, Path]]:
    """Files that lie in a folder itself, by name."""
    for path in sorted(folder.iterdir()):
        if path.suffix in ends and not path.name.startswith(".") and path.is_file():
            yield path.name, path


def _task_files(config: Config, folder: Path) -> Iterator[tuple[str, Path]]:
    """YAML and code beside each YAML that defines one of the config's tasks or groups."""
    names = {task.task for task in config.benchmark.tasks}
    homes: dict[Path, None] = {}
    for path in sorted((*folder.rglob("*.yaml"), *folder.rglob("*.yml"))):
        if _defined(path) & names:
            homes[path.parent] = None
    for home in homes:
        for _, path in _files(home, _TASK):
            yield str(path.relative_to(folder)), path


def _defined(path: Path) -> set[str]:
    """Names that a task's YAML gives to tasks and groups, as far as its lines say without being parsed."""
    text = path.read_bytes().decode("utf-8", "replace")
    pairs = (line.partition(":") for line in text.splitlines())
    return {value.split("#")[0].strip().strip("'\"") for key, _, value in pairs if key.strip("- ") in {"task", "group"}}
