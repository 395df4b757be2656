"""The run directory: everything about one search, and the lock that keeps it to one driver.

config.yaml        the experiment, with every default written out
run.json           what was found out at the start and must stay so: parameter groups, dtype, population, items
study.journal      the Optuna study (unless another storage is configured)
evaluations.jsonl  every evaluation with its item table, one line each
parts.jsonl        answers of candidates that are evaluated block by block, one block a line (with `search.block`)
prepared/          what the merge method computes once, for workers and later sessions; can be deleted between sessions
progress.json      phase and driving time, for `evomerge status`
result.json        winner, scores, intervals and comparisons, once the search has ended
lock               held by the driver
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Protocol

from evomerge.config import Config
from evomerge.errors import LockedError, ResumeError, RunError, listed
from evomerge.ledger import Ledger, Trial
from evomerge.recipe import Recipe

FORMAT_VERSION = 2

PREPARED = "prepared"

# Runs of format 1 hold no answers; they are read, and continued in the present format.
_READABLE = (1, FORMAT_VERSION)

# What a driver that was killed while it made the directory may have left there.
_OWN_FILES = frozenset(
    {
        "lock",
        "config.yaml",
        "study.journal",
        "study.journal.lock",
        "evaluations.jsonl",
        ".config.yaml.tmp",
        ".run.json.tmp",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial with everything known of it on the search items."""

    number: int
    kind: str
    """base, expert, uniform, candidate or mean."""
    name: str
    state: str
    """running, complete or failed."""
    score: float | None = None
    fitness: float | None = None
    generation: int | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By phase: materialise, respond, bookkeeping."""
    reason: str | None = None
    """Why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How far a run is."""

    phase: str
    finished: int
    """Candidates proposed by the algorithm that have a result, failed ones included."""
    failed: int
    running: int
    budget: int
    best: TrialRecord | None
    median: float | None
    """Of the last complete generation."""
    rate_per_minute: float | None
    seconds_left: float | None
    driver_alive: bool


class Observer(Protocol):
    """Is told what a search is doing. Must not raise and must return at once."""

    def phase(self, name: str, total: int | None) -> None:
        """A phase begins: models, benchmark, workers, baselines, search, validation, test or export."""

    def trial(self, record: TrialRecord) -> None:
        """A candidate has been evaluated."""

    def generation(self, number: int, best: float, median: float, failed: int) -> None:
        """A generation is complete: its number, best and median fitness and failed candidates."""

    def message(self, text: str) -> None:
        """Something that the user should know."""


class SilentObserver:
    """Says nothing."""

    def phase(self, name: str, total: int | None) -> None:
        """Ignored."""

    def trial(self, record: TrialRecord) -> None:
        """Ignored."""

    def generation(self, number: int, best: float, median: float, failed: int) -> None:
        """Ignored."""

    def message(self, text: str) -> None:
        """Ignored."""


class Run:
    """A run directory, open for reading. Safe to use while a driver is at work."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.facts = _read_json(directory / "run.json")
        if self.facts.get("format") not in _READABLE:
            raise RunError(
                f"{directory}: run.json has format {self.facts.get('format')!r}; this release reads "
                f"{' and '.join(map(str, _READABLE))}"
            )
        try:
            text = (directory / "config.yaml").read_text(encoding="utf-8")
        except OSError as error:
            raise RunError(f"{directory / 'config.yaml'}: can't be read: {error.strerror}") from error
        self.config = Config.from_yaml(text, where=str(directory / "config.yaml"))

    def ledger(self) -> Ledger:
        """The ledger as it is on disk now, for reading."""
        return Ledger.read(self.directory, self.config.storage, self.facts["study"])

    def trials(self) -> list[TrialRecord]:
        """All trials in order of number."""
        ledger = self.ledger()
        return [record_of(ledger, trial) for trial in ledger.trials()]

    def result(self) -> dict[str, Any] | None:
        """The contents of result.json; None before the search has ended."""
        path = self.directory / "result.json"
        return _read_json(path) if path.exists() else None

    def recipe(self, number: int) -> Recipe:
        """The complete recipe of a trial. Raises: RunError if there is no such trial."""
        trials = self.ledger().trials()
        if not 0 <= number < len(trials):
            raise RunError(
                f"{self.directory}: no trial {number}; it has trials 0 to {len(trials) - 1}. "
                f"See: evomerge trials {self.directory}"
            )
        return recipe_of(self.config, self.facts, trials[number])

    def status(self) -> RunStatus:
        """Counts, best, rate and time left."""
        trials = self.trials()
        progress = _read_json(self.directory / "progress.json", missing_ok=True)
        candidates = [trial for trial in trials if trial.kind == "candidate"]
        finished = [trial for trial in candidates if trial.state != "running"]
        complete = [trial for trial in trials if trial.score is not None and trial.kind in {"candidate", "uniform"}]
        alive = _is_locked(self.directory)
        phase = progress.get("phase", "not started")
        rate = progress.get("rate_per_minute")
        budget = self.config.search.evaluations
        left = None
        if phase == "search" and alive and rate:
            left = 60.0 * max(0, budget - len(finished)) / rate
        generations = [trial.generation for trial in finished if trial.generation is not None]
        latest = sorted(
            trial.fitness
            for trial in finished
            if generations and trial.generation == max(generations) and trial.fitness is not None
        )
        return RunStatus(
            phase=phase,
            finished=len(finished),
            failed=sum(trial.state == "failed" for trial in candidates),
            running=sum(trial.state == "running" for trial in candidates),
            budget=budget,
            best=max(complete, key=lambda trial: trial.fitness or float("-inf"), default=None),
            median=latest[len(latest) // 2] if latest else None,
            rate_per_minute=rate,
            seconds_left=left,
            driver_alive=alive,
        )


def open_run(directory: str | Path) -> Run:
    """Open a run directory for reading. Raises: RunError if it isn't one."""
    directory = Path(directory)
    if not (directory / "run.json").exists():
        hint = "its search never started" if (directory / "lock").exists() else "there is no run.json in it"
        raise RunError(f"{directory}: not a run directory: {hint}")
    return Run(directory)


def create_run(directory: Path, config: Config, facts: Mapping[str, Any]) -> Run:
    """Write a new run directory. `run.json` comes last, so a crash in between leaves no half-made run.

    Raises: RunError if the directory holds files of something else, or can't be written.
    """
    foreign = sorted(entry.name for entry in directory.iterdir() if entry.name not in _OWN_FILES)
    if foreign:
        raise RunError(
            f"{directory}: holds {listed(foreign)} and no run; choose a new or an empty directory with --run"
        )
    study = f"{directory.resolve().name}-{uuid.uuid4().hex[:8]}"
    for leftover in ("study.journal", "study.journal.lock", "evaluations.jsonl"):
        (directory / leftover).unlink(missing_ok=True)
    write_atomically(directory / "config.yaml", config.to_yaml())
    Ledger.create(directory, config.storage, study)
    write_json(directory / "run.json", {"format": FORMAT_VERSION, "study": study, **facts})
    return Run(directory)


def update_config(run: Run, config: Config) -> None:
    """Take over the parts of a config that may change between resumes: execution, budget, export."""
    if config.storage != run.config.storage:
        raise ResumeError(
            f"{run.directory}: its trials are in storage {run.config.storage!r}, this config says "
            f"{config.storage!r}. Restore the old value, or start a new run directory"
        )
    if config != run.config:
        write_atomically(run.directory / "config.yaml", config.to_yaml())
        run.config = config


def check_same_experiment(run: Run, facts: Mapping[str, Any], *, where: str) -> None:
    """Compare the facts given with those of the run. Raises: ResumeError saying what differs."""
    # A run from before a key existed has no word on it; its frozen config then says what it was.
    recorded = _completed(run.facts["identity"], run.config.identity())
    differences = list(_differences(recorded, facts["identity"]))
    for key, words in (("places", "the models' tensors"), ("dtype", "the dtype"), ("items", "the benchmark's items")):
        if key in facts and run.facts[key] != facts[key]:
            differences.append(f"{words} ({_short(run.facts[key])} → {_short(facts[key])})")
    if differences:
        raise ResumeError(
            f"{run.directory} is a run of another experiment than {where}: {'; '.join(differences)}. "
            "Restore the old values, or start a new run directory"
        )


def recipe_of(config: Config, facts: Mapping[str, Any], trial: Trial) -> Recipe:
    """The recipe of a trial, rebuilt from the frozen config and the facts of the run."""
    from evomerge.merge import METHODS
    from evomerge.space import SearchSpace

    template = template_recipe(config, dtype=facts["dtype"], options=facts["options"])
    if trial.kind in {"base", "expert"}:
        return checkpoint_recipe(template, trial.name)
    places = [(layer, kind) for layer, kind in facts["places"]]
    space = SearchSpace(template, METHODS.get(config.merge.method), places, config.space)
    return space.decode(space.genome(trial.parameters))


def template_recipe(config: Config, *, dtype: str, options: Mapping[str, Any]) -> Recipe:
    """A recipe with everything but its groups."""
    return Recipe(
        base=config.models.base.reference(),
        experts={name: model.reference() for name, model in config.models.experts.items()},
        method=config.merge.method,
        options=dict(options),
        dtype=dtype,
        seed=config.search.seed,
        vocabulary=config.models.vocabulary,
        slices=config.models.slices,
    )


def checkpoint_recipe(template: Recipe, model: str) -> Recipe:
    """The recipe that gives back the base (`model` "base") or one expert unchanged."""
    return replace(template, method="passthrough", options={"model": model}, groups=())


def record_of(ledger: Ledger, trial: Trial) -> TrialRecord:
    """Join a trial with its evaluation on the search items."""
    evaluation = ledger.evaluation(trial.number, "search")
    return TrialRecord(
        number=trial.number,
        kind=trial.kind,
        name=trial.name,
        state=trial.state,
        score=trial.score,
        fitness=evaluation.fitness if evaluation is not None else None,
        generation=trial.generation,
        parameters=trial.parameters,
        seconds=evaluation.seconds if evaluation is not None else {},
        reason=evaluation.failure if evaluation is not None else None,
    )


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Be the only driver of a run directory. Raises: LockedError, RunError if it can't be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file: IO[str] = (directory / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{directory}: can't be written: {error.strerror}. Choose another --run directory") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise LockedError(
                f"{directory}: {holder} is driving this run. Wait for it, or stop it first; "
                f"see: evomerge status {directory}"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
            if [entry.name for entry in directory.iterdir()] == ["lock"]:
                # Refused before anything was recorded: leave no trace.
                (directory / "lock").unlink()
                directory.rmdir()
            fcntl.flock(file, fcntl.LOCK_UN)


class Clock:
    """Driving time of a run, summed over resumes, and its rate; written to progress.json at most once a second."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "progress.json"
        self._earlier = float(_read_json(self._path, missing_ok=True).get("driving_seconds", 0.0))
        self._start = time.monotonic()
        self._phase = "models"
        self._phase_start = self._start
        self._evaluated = 0
        self._written = float("-inf")

    @property
    def hours(self) -> float:
        """Hours of driving so far, earlier sessions included."""
        return (self._earlier + time.monotonic() - self._start) / 3600

    def phase(self, name: str) -> None:
        """A phase begins."""
        self._phase, self._phase_start, self._evaluated = name, time.monotonic(), 0
        self._write()

    def evaluated(self) -> None:
        """One more candidate was evaluated."""
        self._evaluated += 1
        if time.monotonic() - self._written > 1.0:
            self._write()

    def _write(self) -> None:
        now = self._written = time.monotonic()
        elapsed = now - self._phase_start
        write_json(
            self._path,
            {
                "phase": self._phase,
                "driving_seconds": round(self._earlier + now - self._start, 1),
                "rate_per_minute": round(60 * self._evaluated / elapsed, 2) if self._evaluated else None,
            },
        )


def write_json(path: Path, data: Any) -> None:
    """Write JSON by atomic rename."""
    write_atomically(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that readers and crashes see the old or the new one. Raises: RunError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(
            f"{path}: can't be written: {error.strerror or error}. Nothing already recorded is lost: "
            "make room or restore access, then run the same command again"
        ) from error


def _read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise RunError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: can't be read: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{path}: expected a JSON object")
    return data


def _is_locked(directory: Path) -> bool:
    try:
        with (directory / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _completed(recorded: Any, frozen: Any) -> Any:
    """What was recorded, with the keys that only the other has."""
    if isinstance(recorded, Mapping) and isinstance(frozen, Mapping):
        return {**frozen, **{key: _completed(value, frozen.get(key)) for key, value in recorded.items()}}
    if isinstance(recorded, list) and isinstance(frozen, list) and len(recorded) == len(frozen):
        return [_completed(*pair) for pair in zip(recorded, frozen, strict=True)]
    return recorded


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield f"{path} ({_short(old)} → {_short(new)})"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
