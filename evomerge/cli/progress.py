"""What a screen knows of a search while it goes on: phase, counts, leaders, rate, time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.cli.names import leader_name
from evomerge.errors import EvomergeError
from evomerge.run.clock import Rate, driven_s, without_preparing
from evomerge.run.trial import TrialKind, TrialState

if TYPE_CHECKING:
    from evomerge.run.directory import Run
    from evomerge.run.records import TrialRecord

_DOING = {
    "libraries": "loading libraries",
    "merging": "merging the models that are recipes",
    "models": "opening the models",
    "alignment": "aligning the models",
    "benchmark": "building the benchmark",
    "workers": "starting workers",
    "baselines": "scoring base, experts and uniform merges",
    "search": "searching",
    "validation": "scoring the best on validation items",
    "test": "testing on held-out items",
    "export": "exporting the winner",
}


class Progress:
    """The state of a search as its observer is told of it.

    `directory` is of the run, which may not be there yet.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._run: Run | None = None
        self._earlier: dict[str, int] = {}
        self.doing = ""
        self.total: int | None = None
        self.done = 0
        self.new = 0
        self.failed = 0
        self.generation: int | None = None
        self.best: float | None = None
        self.median: float | None = None
        self.history: list[float] = []
        self.leaders: dict[str, float] = {}
        """Best scores on the search items: of the base, each expert, the uniform merges, the candidates, the mean."""
        self.start = time.monotonic()
        self._rate = Rate()
        self._phase = ""
        self._driven_before = 0.0 if directory is None else _driven_s(directory)

    def recall(self, earlier: Sequence[TrialRecord]) -> None:
        """Take over the trials that an earlier session finished."""
        self._earlier = {
            "baselines": sum(trial.kind.is_baseline for trial in earlier),
            "search": sum(trial.kind is TrialKind.CANDIDATE for trial in earlier),
        }
        for trial in earlier:
            self._rank(trial)

    def enter(self, name: str, total: int | None) -> None:
        """A phase begins; workers may start within one, which then goes on."""
        within = self.total is not None
        if name in {"workers", "ready"} and within:
            self.doing = _DOING["workers"] if name == "workers" else _DOING.get(self._phase, self._phase)
            self._rate.count_afresh()
            return
        if name == "ready":
            return
        self.doing = _DOING.get(name, name)
        self._phase, self.total, self.new = name, total, 0
        self.done = self._earlier.get(name, 0)
        self._rate.count_afresh()

    def count(self, record: TrialRecord) -> None:
        """One more evaluation is done."""
        self.doing = _DOING.get(self._phase, self._phase)
        # A search is done with its candidates; the mean, which fresh items have answer all now and then, is none.
        self.done += self._phase != "search" or record.kind is TrialKind.CANDIDATE
        self.new += 1
        self._rate.count(without_preparing(record.seconds))
        self._rank(record)

    def close_generation(self, number: int, best: float, median: float) -> None:
        """A generation is complete."""
        self.generation, self.median = number, median
        self.best = best if self.best is None else max(best, self.best)
        self.history.append(self.best)
        run = self.run()
        if run is not None and self._phase == "search" and run.config.search.budget.items is not None:
            # Candidates that are stopped leave items for more of them.
            self.total = run.plan().candidates(run.progress())

    @property
    def told(self) -> str | None:
        """What its figures are of: a generation, or as many results where nothing waits for one; None before any."""
        if self.generation is None:
            return None
        return f"generation {self.generation}" if self._results is None else f"last {self._results} results"

    @property
    def turn(self) -> str:
        """How often its history has a figure."""
        return "generation" if self._results is None else f"{self._results} results"

    @property
    def _results(self) -> int | None:
        """How many results an asynchronous search sums up at once; None in one with generations."""
        run = self.run()
        if run is None or not run.config.search.is_asynchronous:
            return None
        return int(run.facts["population"])

    @property
    def rate(self) -> float | None:
        """Evaluations a minute since workers were ready in this phase."""
        return self._rate.per_minute

    @property
    def seconds_left(self) -> float | None:
        """Of the whole run, if every token or item goes on taking as long; None where that isn't known."""
        run = self.run()
        if run is None or self.total is None:
            return None
        driven = self._driven_before + time.monotonic() - self.start
        return run.plan().seconds_left(self._phase, self.done, self.rate, total=self.total, driven_s=driven)

    def run(self) -> Run | None:
        """The run directory, once it is there."""
        if self._run is None and self._directory is not None and (self._directory / "run.json").exists():
            from evomerge.run.directory import open_run

            # What is wrong with it is said by those who need it.
            with suppress(EvomergeError):
                self._run = open_run(self._directory)
        return self._run

    def remark(self) -> str | None:
        """What to look at if all models so far have a score of 0, or of 1; else None."""
        run = self.run() if set(self.leaders.values()) in ({0.0}, {1.0}) else None
        if run is None:
            return None
        from evomerge.report.all_alike import all_alike

        return all_alike(run, self.leaders.values())

    def _rank(self, record: TrialRecord) -> None:
        """Keep the best search score of the base, each expert, the uniform merges and the candidates."""
        self.failed += record.state is TrialState.FAILED
        if record.score is not None:
            name = leader_name(record.model)
            self.leaders[name] = max(record.score, self.leaders.get(name, record.score))


def _driven_s(directory: Path) -> float:
    """As `driven_s`; what is wrong with the file is said by those who need it."""
    with suppress(EvomergeError):
        return driven_s(directory)
    return 0.0
