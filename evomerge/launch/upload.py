"""What of an experiment travels to a machine that doesn't see this one's files: the config, its tasks and their data.

Models don't: they are given as hub ids or as absolute paths that the machines see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from evomerge.config.config import Config
from evomerge.errors import ConfigError, counted, listed
from evomerge.files.outside_yaml import read_yaml
from evomerge.files.places import YAML_ENDS, is_there, local
from evomerge.recipe.sources import begins_here
from evomerge.score.numbers import size

UPLOAD = "upload"
"""The folder, in a job's own, with what is uploaded."""

_LEFT_OUT = ("__pycache__", ".*", "*.pyc", "*.safetensors", "*.bin", "*.pt", "*.gguf")
"""Weights, what Python compiles, and files that only mean something here, such as .git."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """The files of an experiment, and where they lie beside each other."""

    config: str
    """The config's own name in `files`."""
    files: dict[str, Path]
    """By path below a common folder, as the config's relative paths want them."""
    absolute: tuple[str, ...]
    """Files and folders that the config names by absolute paths, which the machines have to see."""

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(path.stat().st_size for path in self.files.values())

    def in_job(self) -> dict[str, str | Path]:
        """The files by their names in a job's folder."""
        return {f"{UPLOAD}/{name}": path for name, path in self.files.items()}

    def words(self) -> str:
        """A sentence on what travels."""
        own = f"{counted(len(self.files), 'file')}, {size(self.size_bytes)}"
        seen = f" The machines have to see {listed(self.absolute)} under the same path." if self.absolute else ""
        return f"The config and what it names beside it are uploaded: {own}.{seen}"


def upload_of(config: Path) -> Upload:
    """Collect the config and the task folders and data that it names by relative paths.

    Raises: ConfigError naming models that are given by relative paths, which other machines don't have.
    """
    config = config.resolve()
    data = read_yaml(config, ConfigError)
    _refuse_models(Config.from_data(data, where=str(config)), config)
    roots, absolute = [config], []
    for text in _places(data["benchmark"], config.parent):
        place = local(text)
        if place.is_absolute():
            absolute.append(str(place))
        elif is_there(config.parent / place):
            roots.append((config.parent / place).resolve())
    common = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in roots]))
    found = {str(path.relative_to(common)): path for root in roots for path in _walk(root)}
    return Upload(config=str(config.relative_to(common)), files=found, absolute=tuple(dict.fromkeys(absolute)))


def _refuse_models(experiment: Config, config: Path) -> None:
    sources = {"models.base": experiment.models.base.path}
    sources |= {f"models.experts.{name}": expert.path for name, expert in experiment.models.experts.items()}
    for key, path in sources.items():
        own = config.parent / local(path)
        if not local(path).is_absolute() and (is_there(own) or begins_here(path, config.parent)):
            what = "a recipe" if path.endswith(YAML_ENDS) else "a folder"
            raise ConfigError(
                f"{config}: {key}: {path!r} is {what} on this machine, and models aren't uploaded; give a hub id, or "
                "an absolute path on storage that all machines see"
            )
    start = experiment.search.start
    for key in ("run", "recipe"):
        given: str | None = getattr(start, key, None)
        if given is not None and not local(given).is_absolute():
            raise ConfigError(
                f"{config}: search.start.{key}: {given!r} isn't uploaded; give an absolute path on storage that all "
                "machines see"
            )


def _places(benchmark: dict[str, Any], folder: Path) -> Iterator[str]:
    """Paths that a benchmark's section names, as written; `folder` is the config's."""
    include = benchmark.get("include_path") or ()
    yield from [include] if isinstance(include, str) else include
    labels, function = benchmark.get("labels") or {}, benchmark.get("function") or {}
    function = {"call": function} if isinstance(function, str) else function
    if given := function.get("folder"):
        yield given
    elif function:
        # The module lies beside the config, and so does what it may import.
        yield from (path.name for path in sorted(folder.glob("*.py")))
        yield str(function["call"]).partition(":")[0].partition(".")[0]
    tasks = [task for task in (labels.get("tasks") or {}).values() if isinstance(task, dict)]
    for data in (labels.get("data"), function.get("data"), *(task.get("data") for task in tasks)):
        if isinstance(data, str):
            yield data
        elif isinstance(data, dict):
            yield from map(str, data.values())


def _walk(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not _is_left_out(name))
        yield from (Path(folder) / name for name in sorted(files) if not _is_left_out(name))


def _is_left_out(name: str) -> bool:
    return any(fnmatch(PurePosixPath(name).name, pattern) for pattern in _LEFT_OUT)
