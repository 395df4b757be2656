"""What an observer is told: which run begins, numbers of its trials, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from evomerge.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Which run it is."""

    name: str
    """Of its directory."""
    directory: Path
    study: str
    """The same in every session of the run, and of no other."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What is searched, in a few words: models, method, algorithm, tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a session ended."""

    run: str
    directory: str
    state: Literal["done", "failed", "stopped"]
    text: str
    """The same in a sentence for people."""
    error: str | None = None
    """What went wrong, if it failed."""
    winner: int | None = None
    """Number of the winning trial, if the run is done."""

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


class RunObserver(Protocol):
    """Is told of a run by a thread of its own, so may take its time. What it raises is said once and stops nothing.

    Args:
        setting: what the config has after its name; None if it is only named.

    Raises: on being made, before anything runs: ConfigError, MissingPackageError.
    """

    takes_points: bool
    """Whether it wants `begin` and `point`."""

    def __init__(self, setting: Any) -> None: ...

    def begin(self, story: Story) -> None:
        """A session of the run begins, the first or a later one."""

    def point(self, trial: int, values: Mapping[str, float]) -> None:
        """Numbers of one trial, by names such as "score/candidate". Over all sessions each comes once."""

    def end(self, ended: Ended) -> None:
        """The session is over; nothing follows."""


def optional_text(name: str, setting: Any, what: str) -> str | None:
    """The setting of an observer that may have a text. Raises: ConfigError."""
    if setting is None or (isinstance(setting, str) and setting):
        return setting
    raise ConfigError(f"observe: {name}: takes {what}, or nothing; got {setting!r}")


def needed_text(name: str, setting: Any, what: str) -> str:
    """The setting of an observer that must have a text. Raises: ConfigError."""
    if isinstance(setting, str) and setting.strip():
        return setting
    raise ConfigError(f"observe: {name}: needs {what}, as in `- {name}: ...`")
