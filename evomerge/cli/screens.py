"""What a search shows while it runs: a live display on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evomerge.cli.console import duration, score, stderr, stdout
from evomerge.run.trial import TrialKind, TrialState

if TYPE_CHECKING:
    from evomerge.run.observer import Observer
    from evomerge.run.records import TrialRecord

_DOING = {
    "models": "opening the models",
    "benchmark": "building the benchmark",
    "workers": "starting workers",
    "baselines": "scoring base, experts and uniform merges",
    "search": "searching",
    "validation": "scoring the best on validation items",
    "test": "testing on held-out items",
    "export": "exporting the winner",
}
_LEADERS = {TrialKind.UNIFORM: "best uniform", TrialKind.CANDIDATE: "best candidate", TrialKind.MEAN: "mean"}
_BARS = "▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 60


class _State:
    """What both screens know of the search so far.

    Args:
        earlier: trials that an earlier session finished.
    """

    def __init__(self, earlier: Sequence[TrialRecord]) -> None:
        self._earlier = {
            "baselines": sum(trial.kind.is_baseline for trial in earlier),
            "search": sum(trial.kind is TrialKind.CANDIDATE for trial in earlier),
        }
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
        self._phase = ""
        self._since = time.monotonic()
        for trial in earlier:
            self._rank(trial)

    def enter(self, name: str, total: int | None) -> None:
        self.doing = _DOING.get(name, name)
        if name == "workers" and self.total is not None:
            # Workers start when a phase first needs them, and the phase goes on.
            return
        self._phase, self.total, self.new = name, total, 0
        self.done = self._earlier.get(name, 0)
        self._since = time.monotonic()

    def count(self, record: TrialRecord) -> None:
        self.doing = _DOING.get(self._phase, self._phase)
        self.done += 1
        self.new += 1
        self._rank(record)

    def _rank(self, record: TrialRecord) -> None:
        """Keep the best search score of the base, each expert, the uniform merges and the candidates."""
        self.failed += record.state is TrialState.FAILED
        if record.score is not None:
            name = _LEADERS.get(record.kind, record.name)
            self.leaders[name] = max(record.score, self.leaders.get(name, record.score))

    def close_generation(self, number: int, best: float, median: float) -> None:
        self.generation, self.median = number, median
        self.best = best if self.best is None else max(best, self.best)
        self.history.append(self.best)

    @property
    def rate(self) -> float | None:
        """Evaluations a minute in this phase."""
        elapsed = time.monotonic() - self._since
        return 60 * self.new / elapsed if self.new and elapsed > 0 else None

    @property
    def seconds_left(self) -> float | None:
        if self.total is None or not self.rate or self.done >= self.total:
            return None
        return max(1.0, 60 * (self.total - self.done) / self.rate)


class PlainScreen:
    """One line for each phase and generation: for pipes, files and batch systems."""

    def __init__(self, console: Console, earlier: Sequence[TrialRecord]) -> None:
        self._console = console
        self._state = _State(earlier)

    def phase(self, name: str, total: int | None) -> None:
        """Say what begins, and how much of it an earlier session has done."""
        state = self._state
        state.enter(name, total)
        amount = f": {total} evaluations" if total is not None else ""
        already = f", {state.done} of them already done" if total is not None and state.done else ""
        self._print(f"{state.doing}{amount}{already}")

    def trial(self, record: TrialRecord) -> None:
        """Count it."""
        self._state.count(record)

    def generation(self, number: int, best: float, median: float, failed: int) -> None:
        """Sum it up, unless it is only being replayed."""
        state = self._state
        new = state.new > 0
        state.close_generation(number, best, median)
        if not new:
            return
        parts = [
            f"generation {number}: best fitness {score(best)}",
            f"median {score(median)}",
            f"best so far {score(state.best)}",
            f"{state.done}/{state.total} evaluated",
        ]
        if state.rate:
            parts.append(f"{state.rate:.1f} a minute")
        if state.seconds_left is not None:
            parts.append(f"{duration(state.seconds_left)} left")
        if failed:
            parts.append(f"{failed} failed")
        self._print(", ".join(parts))

    def message(self, text: str) -> None:
        """Print it."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)
        self._console.file.flush()


class LiveScreen:
    """A display that is drawn in place, several times a second."""

    def __init__(self, console: Console, earlier: Sequence[TrialRecord], title: str) -> None:
        self._console = console
        self._state = _State(earlier)
        self._title = title
        self._start = time.monotonic()

    def __rich__(self) -> RenderableType:
        """The display as it is now; nothing if there is nothing to do."""
        state = self._state
        if not state.doing:
            return Text("", end="")
        header = Table.grid(expand=True)
        header.add_column()
        header.add_column(justify="right")
        header.add_row(Text(self._title, style="bold"), Text(duration(time.monotonic() - self._start), style="dim"))
        rows: list[RenderableType] = [header, self._progress(state)]
        if state.generation is not None:
            rows.append(
                Text.assemble(
                    (f"generation {state.generation}", "bold"),
                    "   fitness: best ",
                    (score(state.best), "green"),
                    f"   median {score(state.median)}   failed ",
                    (str(state.failed), "red" if state.failed else ""),
                )
            )
            rows.append(Text.assemble("best by generation  ", (_sparkline(state.history), "green")))
        if state.leaders:
            rows.append(_leaders(state.leaders))
        return Group(*rows)

    def phase(self, name: str, total: int | None) -> None:
        """Turn to the next phase."""
        self._state.enter(name, total)

    def trial(self, record: TrialRecord) -> None:
        """Count it."""
        self._state.count(record)

    def generation(self, number: int, best: float, median: float, failed: int) -> None:
        """Take over its figures."""
        self._state.close_generation(number, best, median)

    def message(self, text: str) -> None:
        """Print it above the display."""
        self._console.print(text, markup=False)

    def _progress(self, state: _State) -> RenderableType:
        doing = Text(state.doing, style="cyan")
        if state.total is None:
            return doing
        line = Table.grid(padding=(0, 2))
        cells: list[RenderableType] = [
            doing,
            ProgressBar(total=max(1, state.total), completed=state.done, width=24),
            Text(f"{state.done}/{state.total}"),
        ]
        if state.rate:
            cells.append(Text(f"{state.rate:.1f} a minute"))
        if state.seconds_left is not None:
            cells.append(Text(f"{duration(state.seconds_left)} left"))
        line.add_row(*cells)
        return line


def _sparkline(values: list[float]) -> str:
    """Values as a row of bars; the last ones if there are many."""
    values = values[-_SPARKLINE_WIDTH:]
    low, high = min(values), max(values)
    steps = len(_BARS) - 1
    return "".join(_BARS[round(steps * (value - low) / (high - low)) if high > low else 0] for value in values)


def _leaders(leaders: Mapping[str, float]) -> Text:
    """Best search scores side by side, the highest in green."""
    top = max(leaders.values())
    parts: list[tuple[str, str]] = []
    for name, value in leaders.items():
        parts += [(f"{name} ", "dim"), (score(value), "green" if value == top else ""), ("   ", "")]
    return Text.assemble(*parts)


@contextmanager
def searching(directory: Path, *, title: str) -> Iterator[Observer]:
    """An observer that shows a search on standard output, fit for where that goes."""
    console, earlier = stdout(), _finished(directory)
    if not console.is_terminal:
        yield PlainScreen(console, earlier)
        return
    screen = LiveScreen(console, earlier, title)
    with Live(screen, console=console, refresh_per_second=4, transient=False):
        yield screen


def _finished(directory: Path) -> list[TrialRecord]:
    """Trials of an existing run that need no more evaluation."""
    if not (directory / "run.json").exists():
        return []
    from evomerge.run.directory import open_run

    return [trial for trial in open_run(directory).trials() if trial.state.is_finished]


@contextmanager
def transfer(label: str) -> Iterator[Callable[[int, int], None]]:
    """A callback for bytes written and bytes in all, drawn as a bar on stderr if that is a terminal."""
    console = stderr()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(label, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update
