"""The config that a run keeps, and how two experiments differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.config.config import Config
from evomerge.errors import ConfigError, RunError
from evomerge.files.atomic import with_checksum, without_checksum, write_atomically
from evomerge.files.lines import remedy

CONFIG = "config.yaml"


def freeze(directory: Path, config: Config) -> None:
    """Write the config that a run is driven by into its directory. Raises: RunError."""
    words = "of what stands above; delete this line if you change it"
    write_atomically(directory / CONFIG, with_checksum(config.to_yaml(), words))


def frozen(directory: Path, facts: Mapping[str, Any]) -> Config:
    """The config that a run is driven by.

    Args:
        directory: the run's.
        facts: of its run.json, which say what may not have changed.

    Raises: RunError if it is missing, damaged or of another experiment.
    """
    path = directory / CONFIG
    text, proven = without_checksum(path)
    try:
        config = Config.from_yaml(text, where=str(path))
    except ConfigError as error:
        raise RunError(f"{error}; {remedy(directory)}") from error
    if not proven and "identity" in facts:
        differences = list(differences_of(recorded_identity(facts, config), config.identity()))
        if differences:
            raise RunError(
                f"{path}: isn't of the experiment that this run was started with: {'; '.join(differences)}; "
                f"{remedy(directory)}"
            )
    # What no run of an earlier release has a word on.
    if "every_item" not in facts.get("config", {}).get("benchmark", {}):
        config = with_every_item(config, False)
    return config


def with_every_item(config: Config, every: bool) -> Config:
    """The config with or without what rounding leaves of the items."""
    return config.model_copy(update={"benchmark": config.benchmark.model_copy(update={"every_item": every})})


def recorded_identity(facts: Mapping[str, Any], config: Config) -> Any:
    """What a run's facts say makes it the same experiment, in the terms of this release.

    A run from before a key existed has no word on it; its frozen config then says what it was. Runs from before folders
    of tasks could be moved have the place of theirs.
    """
    recorded = completed(facts["identity"], config.identity())
    recorded["benchmark"].pop("include_path", None)
    return recorded


def completed(recorded: Any, frozen: Any) -> Any:
    """What was recorded, with the keys that only the other has."""
    if isinstance(recorded, Mapping) and isinstance(frozen, Mapping):
        return {**frozen, **{key: completed(value, frozen.get(key)) for key, value in recorded.items()}}
    if isinstance(recorded, list) and isinstance(frozen, list) and len(recorded) == len(frozen):
        return [completed(*pair) for pair in zip(recorded, frozen, strict=True)]
    return recorded


def differences_of(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Each key whose values differ, with both."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from differences_of(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield f"{path} ({short(old)} → {short(new)})"


def short(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
