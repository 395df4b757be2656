"""What a search shows while it runs: a live display on a terminal, plain lines anywhere else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evomerge.cli.console import moment, say, sparkline, stderr, stdout
from evomerge.cli.progress import Progress
from evomerge.errors import counted
from evomerge.score.numbers import duration, score

if TYPE_CHECKING:
    from evomerge.run.records import TrialRecord

_MINUTE_S = 60.0
_TICK_S = 1.0


class PlainScreen:
    """A line with the time for each phase and each generation or as many results, and at least one a minute: for pipes
    and files.
    """

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._state = progress
        # The minute's line comes from a thread of its own, since one evaluation may take longer.
        self._lock = threading.Lock()
        self._said = time.monotonic()

    def turn_to(self, directory: Path) -> PlainScreen:
        """Show the search of another run directory from now on."""
        with self._lock:
            self._state = _known_of(directory)
        return self

    def phase(self, name: str, total: int | None) -> None:
        """Say what begins, and how much of it an earlier session has done."""
        state = self._state
        with self._lock:
            state.enter(name, total)
        if name == "ready":
            return
        if name == "search" and state.leaders:
            leaders = ", ".join(f"{leader} {score(value)}" for leader, value in state.leaders.items())
            self._print(f"scores so far: {leaders}")
            if (remark := state.remark()) is not None:
                self._print(remark)
        amount = f": {counted(total, 'evaluation')}" if total is not None else ""
        already = f", {state.done} of them already done" if total is not None and state.done else ""
        self._print(f"{state.doing}{amount}{already}")

    def trial(self, record: TrialRecord) -> None:
        """Count it."""
        with self._lock:
            self._state.count(record)

    def generation(self, number: int, best: float, median: float, failed: int) -> None:
        """Sum it up, unless it is only being replayed."""
        state = self._state
        with self._lock:
            new = state.new > 0
            state.close_generation(number, best, median)
        if not new:
            return
        parts = [
            f"{state.told}: best fitness {score(best)}",
            f"median {score(median)}",
            f"best so far {score(state.best)}",
            *_pace(state),
        ]
        if failed:
            parts.append(f"{failed} failed")
        self._print(", ".join(parts))

    def message(self, text: str) -> None:
        """Print it."""
        self._print(text)

    def beat(self) -> None:
        """Say where the search is if nothing has been said for a minute."""
        with self._lock:
            state, now = self._state, time.monotonic()
            if now - self._said < _MINUTE_S or not state.doing:
                return
            parts = [f"still {state.doing}", *_pace(state), f"{duration(now - state.start)} so far"]
        self._print(", ".join(parts))

    def _print(self, text: str) -> None:
        with self._lock:
            self._said = time.monotonic()
            say(self._console, f"{moment()}  {text}")
            self._console.file.flush()


def _pace(state: Progress) -> list[str]:
    """How much of the phase is done, how fast, and how long the rest of the run takes."""
    parts = []
    if state.total is not None:
        parts.append(f"{state.done}/{state.total} evaluated")
        if (rate := state.rate) is not None:
            parts.append(f"{rate:.1f} a minute")
        if (left := state.seconds_left) is not None:
            parts.append(f"about {duration(max(1.0, left))} left in all")
    return parts


class LiveScreen:
    """A display that is drawn in place, several times a second."""

    def __init__(self, console: Console, progress: Progress, title: str) -> None:
        self._console = console
        self._state = progress
        self._title = title

    def turn_to(self, directory: Path) -> LiveScreen:
        """Show the search of another run directory from now on."""
        self._state, self._title = _known_of(directory), str(directory)
        return self

    def __rich__(self) -> RenderableType:
        """The display as it is now; nothing if there is nothing to do."""
        state = self._state
        if not state.doing:
            return Text("", end="")
        header = Table.grid(expand=True)
        header.add_column()
        header.add_column(justify="right")
        header.add_row(Text(self._title, style="bold"), Text(duration(time.monotonic() - state.start), style="dim"))
        rows: list[RenderableType] = [header, self._progress(state)]
        if state.generation is not None:
            rows.append(
                Text.assemble(
                    (state.told or "", "bold"),
                    "   fitness: best ",
                    (score(state.best), "green"),
                    f"   median {score(state.median)}   failed ",
                    (str(state.failed), "red" if state.failed else ""),
                )
            )
            rows.append(Text.assemble(f"best by {state.turn}  ", (sparkline(state.history), "green")))
        if state.leaders:
            rows.append(_leaders(state.leaders))
        return Group(*rows)

    def phase(self, name: str, total: int | None) -> None:
        """Turn to the next phase."""
        self._state.enter(name, total)
        if name == "search" and (remark := self._state.remark()) is not None:
            self.message(remark)

    def trial(self, record: TrialRecord) -> None:
        """Count it."""
        self._state.count(record)

    def generation(self, number: int, best: float, median: float, failed: int) -> None:
        """Take over its figures."""
        self._state.close_generation(number, best, median)

    def message(self, text: str) -> None:
        """Print it above the display."""
        say(self._console, text)

    def _progress(self, state: Progress) -> RenderableType:
        doing = Text(state.doing, style="cyan")
        if state.total is None:
            return doing
        bar = Table.grid(padding=(0, 2))
        bar.add_row(doing, ProgressBar(total=max(1, state.total), completed=state.done, width=24))
        return Group(bar, Text(", ".join(_pace(state))))


def _leaders(leaders: Mapping[str, float]) -> Text:
    """Best search scores side by side, the highest in green."""
    top = max(leaders.values())
    parts: list[tuple[str, str]] = []
    for name, value in leaders.items():
        parts += [(f"{name} ", "dim"), (score(value), "green" if value == top else ""), ("   ", "")]
    return Text.assemble(*parts)


@contextmanager
def searching(directory: Path, *, title: str) -> Iterator[PlainScreen | LiveScreen]:
    """An observer that shows a search on standard output, fit for where that goes; it begins to speak at once."""
    console = stdout()
    progress = Progress(directory)
    if console.is_terminal:
        live = LiveScreen(console, progress, title)
        live.phase("libraries", None)
        with Live(live, console=console, refresh_per_second=4, transient=False):
            progress.recall(_finished(directory))
            yield live
        return
    plain = PlainScreen(console, progress)
    plain.phase("libraries", None)
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(_TICK_S):
            plain.beat()

    thread = threading.Thread(target=tick, name="evomerge-screen", daemon=True)
    thread.start()
    try:
        progress.recall(_finished(directory))
        yield plain
    finally:
        stop.set()
        thread.join()


def _known_of(directory: Path) -> Progress:
    progress = Progress(directory)
    progress.recall(_finished(directory))
    return progress


def _finished(directory: Path) -> list[TrialRecord]:
    """Trials of an existing run that need no more evaluation."""
    if not (directory / "run.json").exists():
        return []
    from evomerge.run.directory import open_run

    return [trial for trial in open_run(directory).trials() if trial.state.is_finished]


@contextmanager
def stages(*labels: str) -> Iterator[list[Callable[[int, int], None]]]:
    """For each stage of some work a callback for what is done and in all, drawn as bars on stderr on a terminal."""
    console = stderr()
    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bars:

        def stage(label: str) -> Callable[[int, int], None]:
            task = bars.add_task(label, total=None, start=False)

            def update(done: int, total: int) -> None:
                bars.start_task(task)
                bars.update(task, completed=done, total=total)

            return update

        yield [stage(label) for label in labels]


@contextmanager
def transfer(label: str) -> Iterator[Callable[[int, int], None]]:
    """A callback for bytes written and bytes in all, drawn as a bar on stderr if that is a terminal."""
    console = stderr()
    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bars:
        task = bars.add_task(label, total=None)

        def update(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield update
