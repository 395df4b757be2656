"""What a launcher is given and what it makes: a job in, files and commands out.

Knows options and how their values are written. Starts nothing, writes nothing and knows no target.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Protocol

from evomerge.config.config import Config
from evomerge.errors import ConfigError, unknown

WAIT_S = 300
"""Seconds that a launched search waits for one that still holds the run directory. Network file systems give up the
locks of a machine that was lost after a minute or two."""

_MEMORY = re.compile(r"(\d+)\s*([MGT])(?:i?B)?", re.IGNORECASE)
_GIB = {"M": 1 / 1024, "G": 1.0, "T": 1024.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A search to be launched."""

    config: Path
    """The experiment's YAML on this machine."""
    experiment: Config
    """The same, read; local folders below the file's own are absolute."""
    run: str
    """The run directory where the search runs."""
    folder: Path
    """Where the plan's files will be written, on this machine; absolute."""
    options: Mapping[str, Any]
    """What the launcher takes, by name; as given or at its default."""

    @property
    def name(self) -> str:
        """Of the job: the run directory's own, in the characters that schedulers and Kubernetes allow."""
        name = re.sub(r"[^a-z0-9]+", "-", PurePosixPath(self.run).name.lower()).strip("-")[:40].strip("-")
        return name if name[:1].isalpha() else f"run-{name}".strip("-")

    @property
    def place(self) -> str:
        """Where machines that are sent the experiment's files keep them."""
        return f"/tmp/evomerge/{self.name}"

    def search(self, config: str) -> list[str]:
        """The command that starts the search and, once it was stopped, continues it."""
        return ["python", "-m", "evomerge", "search", config, "--run", self.run, "--wait", str(WAIT_S)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What launches a job."""

    files: Mapping[str, str | Path]
    """By name in the job's folder: text, or a file of this machine that is copied there."""
    commands: tuple[tuple[str, ...], ...]
    """Run one after the other, here; each ends with status 0 if it went well."""
    notes: tuple[str, ...] = ()
    """Sentences that the user should know before running them."""


class Launcher(Protocol):
    """A target that searches are launched on."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line on what it is for."""
    options: ClassVar[Mapping[str, Any]]
    """The options that it takes, with their defaults; None: left to the target or found from the config. One whose
    default is a tuple can be given several times; one with a boolean is a switch."""

    def plan(self, job: Job) -> Plan:
        """Files and commands for a job. Raises: ConfigError for options or a config that the target can't do."""


def options_of(launcher: type[Launcher], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a launcher, those not given at their defaults. Raises: ConfigError for one that it hasn't."""
    for option in given:
        if option not in launcher.options:
            names = [flag(name) for name in launcher.options]
            raise ConfigError(f"launch {launcher.name}: {unknown('option', flag(option), names)}")
    return {**launcher.options, **given}


def flag(option: str) -> str:
    """An option as the command line writes it."""
    return f"--{option.replace('_', '-')}"


def require(job: Job, option: str, why: str) -> str:
    """The value of an option that has to be given. Raises: ConfigError."""
    value = job.options[option]
    if value is None:
        raise ConfigError(f"launch: give {flag(option)}: {why}")
    return str(value)


def require_absolute(job: Job) -> None:
    """Raises: ConfigError for a run directory that isn't absolute."""
    if not PurePosixPath(job.run).is_absolute():
        raise ConfigError(
            f"launch: the run directory {job.run!r} must be absolute: the search starts in another folder, "
            "which ends with the job"
        )


def pairs(job: Job, option: str = "env") -> dict[str, str]:
    """KEY=VALUE pairs of an option. Raises: ConfigError for one without "="."""
    for pair in job.options[option]:
        if "=" not in pair:
            raise ConfigError(f"launch: {flag(option)} {pair!r}: expected KEY=VALUE")
    return dict(pair.split("=", 1) for pair in job.options[option])


def memory_gib(text: str) -> float:
    """An amount of memory such as 64G, 512M or 1T, in GiB. Raises: ConfigError."""
    found = _MEMORY.fullmatch(str(text).strip())
    if found is None:
        raise ConfigError(f"launch: --memory {text!r}: expected an amount such as 64G or 512M")
    return int(found[1]) * _GIB[found[2].upper()]


def gpus_of_node(job: Job) -> int:
    """GPUs of each machine: as given, else what one worker needs, else one unless the config says CPU.

    Raises: ConfigError.
    """
    if (given := job.options["gpus"]) is not None:
        if not str(given).isdecimal():
            raise ConfigError(f"launch: --gpus {given!r}: expected the number of GPUs of each machine")
        return int(given)
    execution = job.experiment.execution
    if execution.gpus_per_worker is not None:
        return -int(-execution.gpus_per_worker // 1)
    return 0 if execution.device == "cpu" else 1


def volume_of(job: Job) -> tuple[str, str] | None:
    """The name of a volume and where it is mounted, from --volume NAME:PATH; the run directory is on it.

    Raises: ConfigError if there is neither a volume nor a mirror to continue from, or the run isn't on the volume.
    """
    given = job.options["volume"]
    if given is None:
        if job.experiment.execution.mirror is not None:
            return None
        raise ConfigError(
            "launch: the machines' own disks end with the job; give --volume NAME:PATH with RUN below PATH, or set "
            "execution.mirror to a folder on object storage"
        )
    name, colon, path = given.partition(":")
    if not (name and colon and PurePosixPath(path).is_absolute()):
        raise ConfigError(f"launch: --volume {given!r}: expected NAME:PATH with an absolute path")
    if not PurePosixPath(job.run).is_relative_to(path):
        raise ConfigError(f"launch: the run directory {job.run} isn't on the volume, which is mounted at {path}")
    return name, path


def workers_notes(job: Job) -> list[str]:
    """What the config says of workers that doesn't fit several machines."""
    execution, nodes = job.experiment.execution, int(job.options["nodes"])
    if nodes > 1 and execution.backend == "inline":
        raise ConfigError(
            f"{job.config}: execution.backend: inline evaluates in one process and would leave {nodes - 1} of "
            f"{nodes} machines idle; use ray or auto"
        )
    if nodes > 1 and execution.workers is not None and execution.workers < nodes:
        return [f"execution.workers is {execution.workers}, so some of the {nodes} machines will have none."]
    return []
