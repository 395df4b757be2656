"""Alternating tuning and merging (ATM, Zhou et al. 2024, arXiv:2411.03055).

θ ← merge(θ, the experts of a short tuning from θ for each task), for some rounds. With task arithmetic that is
θ + (α/T) Σ τ. Killed anywhere, the same call goes on where it stood.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from evomerge.errors import EvomergeError, TuningError
from evomerge.files.atomic import read_json, write_json
from evomerge.files.places import local
from evomerge.materialise.folder import write_folder
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.portable import is_local
from evomerge.tuning.card import RECORD
from evomerge.tuning.examples import prepare
from evomerge.tuning.rounds_card import rounds_card
from evomerge.tuning.rounds_config import Rounds
from evomerge.tuning.state import begin, locked, model_files
from evomerge.tuning.training import Step
from evomerge.tuning.tune import data_files, measure, run

MODEL, RESULT = "model", "result.json"

Measures = Mapping[str, Mapping[str, float]]
"""By task, what was measured on its held-out data."""


class Watch(Protocol):
    """Is told how an alternation goes on."""

    def step(self, round_: int, task: str, step: Step) -> None:
        """A step of a tuning, or a look at its held-out data."""

    def merged(self, round_: int, measures: Measures) -> None:
        """What the merge of a round measures, of round 0 the base: known once each task's next tuning has looked at its
        held-out data, and after the last round at once.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternated:
    """What an alternation made.

    Attributes:
        folder: the model.
        measures: of the model before the first round, and after each, on each task's held-out data; a task without
            any is left out.
    """

    folder: Path
    measures: tuple[Measures, ...]


class _Silent:
    def step(self, round_: int, task: str, step: Step) -> None:
        """Say nothing."""

    def merged(self, round_: int, measures: Measures) -> None:
        """Say nothing."""


def alternate(
    config: Rounds | str | Path | dict[str, Any],
    directory: str | Path,
    *,
    device: str = "auto",
    watch: Watch | None = None,
    report: Callable[[str], None] | None = None,
) -> Alternated:
    """Tune on each task and merge, round after round.

    The model is DIRECTORY/model, and what each round needs is in DIRECTORY/rounds. Each merge is made as by
    `evomerge merge`, with the recipe beside it. The same call continues what was stopped.

    Args:
        config: the YAML file of it, its content, or `Rounds`.
        directory: where everything goes.
        device: auto, cpu or cuda, for tuning.
        watch: told of each step and round.
        report: called with each sentence that a person should know before the first round.

    Raises: ConfigError, TuningError, CheckpointError, RecipeError, MergeError, ExportError, as from `tune` and
    `merge`; ResumeError if the directory is of another alternation, LockedError if another process is at work there.
    """
    if isinstance(config, dict):
        config = Rounds.from_data(config)
    rounds = config if isinstance(config, Rounds) else Rounds.from_file(config)
    rounds.refuse_merge("rounds")
    directory, watch = local(directory).absolute(), watch or _Silent()
    base = Checkpoint.open(rounds.model)
    files = model_files(base.folder)
    for name, data in rounds.tasks.items():
        try:
            examples = prepare(data, rounds.tune, base)
            files |= {f"{name}/{place}": path for place, path in data_files(data).items()}
        except EvomergeError as error:
            raise TuningError(f"tasks.{name}: {error}") from error
        if report is not None:
            report(f"{name}: {len(examples.train)} {examples.unit}, {len(examples.validation)} held out")
    asked = rounds.model_dump(mode="json", exclude={"keep": True, "tune": {"save_every"}})
    asked["model"] = str(base.folder.resolve()) if is_local(base.reference) else rounds.model
    with locked(directory):
        begin(directory, asked, files)
        return _Alternation(rounds, directory, base, device, watch).run()


class _Alternation:
    def __init__(self, rounds: Rounds, directory: Path, base: Checkpoint, device: str, watch: Watch) -> None:
        self._rounds, self._directory, self._device, self._watch = rounds, directory, device, watch
        self._base = base
        self._result = directory / RESULT
        self._known: dict[str, Any] = read_json(self._result, missing_ok=True) or {"measures": []}

    def run(self) -> Alternated:
        last = self._rounds.rounds
        # Of earlier rounds nothing is left.
        done = max((number for number in range(1, last + 1) if self._merged(number).exists()), default=0)
        for number in range(max(1, done), last + 1):
            if number > done:
                self._round(number)
            self._tidy(number)
        self._measure(last, self._directory / MODEL)
        return Alternated(folder=self._directory / MODEL, measures=tuple(self._known["measures"]))

    def _round(self, number: int) -> None:
        start = self._merged(number - 1) if number > 1 else self._base.reference.path
        experts, before = {}, {}
        for name, data in self._rounds.tasks.items():
            folder = experts[name] = self._expert(number, name)
            if not folder.exists():
                run(
                    start,
                    data,
                    self._rounds.tune,
                    folder,
                    device=self._device,
                    part=number,
                    progress=self._steps(number, name),
                )
            if (found := read_json(folder / RECORD)["validation"].get("0")) is not None:
                before[name] = found
        self._record(number - 1, before)
        self._watch.merged(number - 1, before)
        recipe = self._rounds.recipe(number, start, experts)
        is_last = number == self._rounds.rounds
        card = {"README.md": rounds_card(self._directory.name, self._base, self._rounds)} if is_last else {}
        write_folder(recipe, self._merged(number), files=card)

    def _measure(self, number: int, model: Path) -> None:
        """What the last model's held-out measures are, unless they are known."""
        if len(self._known["measures"]) <= number:
            found = {
                name: made
                for name, data in self._rounds.tasks.items()
                if (made := measure(model, data, self._rounds.tune, device=self._device)) is not None
            }
            self._record(number, found)
        self._watch.merged(number, self._known["measures"][number])

    def _record(self, number: int, measures: Measures) -> None:
        self._known["measures"] = [*self._known["measures"][:number], dict(measures)]
        write_json(self._result, self._known)

    def _steps(self, number: int, name: str) -> Callable[[Step], None]:
        return lambda step: self._watch.step(number, name, step)

    def _merged(self, number: int) -> Path:
        return self._directory / MODEL if number == self._rounds.rounds else self._folder(number) / "merged"

    def _expert(self, number: int, name: str) -> Path:
        return self._folder(number) / name

    def _folder(self, number: int) -> Path:
        return self._directory / "rounds" / f"{number:0{len(str(self._rounds.rounds))}d}"

    def _tidy(self, number: int) -> None:
        """Delete what nothing needs once a round is merged: the experts before it, and the merge before its base."""
        if self._rounds.keep:
            return
        for name in self._rounds.tasks if number > 1 else ():
            shutil.rmtree(self._expert(number - 1, name), ignore_errors=True)
        if number > 2:
            shutil.rmtree(self._folder(number - 2), ignore_errors=True)
