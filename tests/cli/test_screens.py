"""What a search shows: plain lines in a pipe, a live display on a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from evomerge.cli import progress, screens
from evomerge.cli.progress import Progress
from evomerge.cli.screens import LiveScreen, PlainScreen, searching, transfer
from evomerge.run.observer import Observer
from evomerge.run.records import TrialRecord
from evomerge.run.trial import TrialKind, TrialState


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test turns by hand."""
    now = [0.0]
    monkeypatch.setattr(screens.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def record(number: int, kind: str = "candidate", score: float | None = 0.5, name: str = "c") -> TrialRecord:
    state = TrialState.COMPLETE if score is not None else TrialState.FAILED
    return TrialRecord(
        number=number,
        kind=TrialKind(kind),
        name=name,
        state=state,
        score=score,
        fitness=score,
        seconds={"prepare": 90.0, "materialise": 0.25, "respond": 0.75},
    )


def after(earlier: Sequence[TrialRecord] = (), directory: Path | None = None) -> Progress:
    """The state of a search of which an earlier session did something."""
    made = Progress(directory)
    made.recall(earlier)
    return made


def everything_from(master: int) -> str:
    """What was written to the other side of a pseudo-terminal that is closed now."""
    read = b""
    # At the end, Linux answers with an error rather than with nothing.
    with suppress(OSError):
        while part := os.read(master, 4096):
            read += part
    os.close(master)
    return read.decode()


def said(out: str) -> list[str]:
    """What lines say after the time, which each of them has."""
    lines = [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (.*)", line) for line in out.splitlines()]
    return [line[1] for line in lines if line or pytest.fail(out)]


def drive(observer: Observer, clock: list[float]) -> None:
    """Baselines and two generations of four, a second each, with one failure."""
    observer.phase("models", None)
    observer.phase("baselines", 3)
    for number, (kind, name) in enumerate([("base", "base"), ("expert", "maths"), ("uniform", "uniform 1")]):
        clock[0] += 1
        observer.trial(record(number, kind, 0.1 * (number + 1), name))
    observer.phase("search", 16)
    for generation in range(2):
        for index in range(4):
            clock[0] += 1
            failed = generation == 1 and index == 0
            observer.trial(record(4 * generation + index, score=None if failed else 0.4 + 0.1 * generation))
        observer.generation(generation, 0.4 + 0.1 * generation, 0.35, generation)
    observer.message("something [to] know")
    observer.phase("validation", 5)


def test_a_pipe_gets_a_line_for_each_phase_and_generation_and_nothing_else(clock: list[float]) -> None:
    out = io.StringIO()
    drive(PlainScreen(Console(file=out, width=240), Progress()), clock)
    assert said(out.getvalue()) == [
        "opening the models",
        "scoring base, experts and uniform merges: 3 evaluations",
        "scores so far: base 0.1000, expert maths 0.2000, best uniform 0.3000",
        "searching: 16 evaluations",
        "generation 0: best fitness 0.4000, median 0.3500, best so far 0.4000, 4/16 evaluated, 60.0 a minute",
        "generation 1: best fitness 0.5000, median 0.3500, best so far 0.5000, 8/16 evaluated, 60.0 a minute, 1 failed",
        "something [to] know",
        "scoring the best on validation items: 5 evaluations",
    ]


def test_a_resumed_search_counts_what_was_done_and_repeats_no_line(clock: list[float]) -> None:
    out = io.StringIO()
    screen = PlainScreen(Console(file=out, width=240), after([record(number) for number in range(8)]))
    screen.phase("search", 16)
    screen.phase("workers", None)
    screen.phase("ready", None)
    # On Ray they are still starting.
    clock[0] += 1000
    screen.generation(0, 0.4, 0.3, 0)
    screen.generation(1, 0.6, 0.3, 0)
    for number in range(4):
        clock[0] += 1
        screen.trial(record(number))
    screen.generation(2, 0.5, 0.3, 0)
    assert said(out.getvalue()) == [
        "scores so far: best candidate 0.5000",
        "searching: 16 evaluations, 8 of them already done",
        "starting workers",
        "generation 2: best fitness 0.5000, median 0.3000, best so far 0.6000, 12/16 evaluated, 60.0 a minute",
    ]


def test_the_live_display_shows_where_the_search_is(clock: list[float]) -> None:
    console = Console(width=110, color_system=None, file=io.StringIO())
    screen = LiveScreen(console, Progress(), "runs/swahili")
    observer_calls = drive
    observer_calls(screen, clock)
    screen.phase("search", 16)
    clock[0] += 2
    screen.trial(record(9, score=0.7))
    clock[0] += 3
    with console.capture() as capture:
        console.print(screen)
    shown = capture.get()
    for part in (
        "runs/swahili",
        "searching",
        "1/16",
        "15.0 a minute",
        "generation 1",
        "fitness: best 0.5000",
    ):
        assert part in shown
    assert "failed 1" in shown
    assert "▁█" in shown
    assert re.search(r"base 0\.1000\s+expert maths 0\.2000\s+best uniform 0\.3000\s+best candidate 0\.7000", shown)


def test_the_live_display_fits_a_narrow_terminal(clock: list[float]) -> None:
    console = Console(width=60, color_system=None, file=io.StringIO())
    screen = LiveScreen(console, Progress(), "a/rather/long/run/directory/somewhere/on/the/disk/of/a/cluster")
    drive(screen, clock)
    with console.capture() as capture:
        console.print(screen)
    assert all(len(line) <= 60 for line in capture.get().splitlines())


def test_a_run_with_nothing_left_to_do_shows_no_display() -> None:
    console = Console(width=60, color_system=None, file=io.StringIO())
    with console.capture() as capture:
        console.print(LiveScreen(console, after([record(0)]), "x"), end="")
    assert capture.get() == ""


def test_a_long_search_keeps_its_sparkline_short(clock: list[float]) -> None:
    screen = LiveScreen(Console(width=100, file=io.StringIO()), Progress(), "x")
    screen.phase("search", 500)
    for generation in range(500):
        screen.generation(generation, generation / 500, 0.1, 0)
    console = Console(width=100, color_system=None, file=io.StringIO())
    with console.capture() as capture:
        console.print(screen)
    assert len(capture.get().splitlines()) <= 5


def test_no_control_character_reaches_a_pipe(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with searching(tmp_path, title="x") as observer:
        drive(observer, [0.0])
    with transfer("writing") as update:
        update(1, 2)
    out, err = capfd.readouterr()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", out)
    assert err == ""


def test_a_terminal_gets_the_live_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    master, slave = pty.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(screens.Console, "file", property(lambda self: terminal))
        with searching(tmp_path, title="a title") as observer:
            assert isinstance(observer, LiveScreen)
            drive(observer, clock)
    shown = everything_from(master)
    assert "a title" in shown
    assert "something [to] know" in shown
    assert "\x1b[?25l" in shown
    assert "\x1b[?25h" in shown, "the cursor comes back"


def test_starting_workers_within_a_phase_does_not_end_it(clock: list[float]) -> None:
    console = Console(width=110, color_system=None, file=io.StringIO())
    screen = LiveScreen(console, after([record(0, "base", 0.25, "base"), record(1, "uniform", 0.5)]), "x")

    def shown() -> str:
        with console.capture() as capture:
            console.print(screen)
        return capture.get()

    screen.phase("baselines", 5)
    screen.phase("workers", None)
    assert "starting workers" in shown()
    assert "2/5" in shown()
    screen.phase("ready", None)
    assert "scoring base" in shown()
    screen.phase("workers", None)
    assert re.search(r"base 0\.2500\s+best uniform 0\.5000", shown())
    clock[0] += 1
    screen.trial(record(2, "uniform", 0.4))
    assert "scoring base" in shown()
    assert "3/5" in shown()


def test_the_mean_that_answers_everything_now_and_then_is_none_of_the_candidates() -> None:
    state = Progress()
    state.enter("search", 2)
    for number, kind in enumerate(("candidate", "mean", "candidate", "mean")):
        state.count(record(number, kind))
    assert (state.done, state.total) == (2, 2)
    state.enter("validation", 2)
    for number in range(2):
        state.count(record(number, "mean"))
    assert state.done == 2


def test_a_minute_in_which_nothing_ends_is_not_silent(clock: list[float]) -> None:
    out = io.StringIO()
    screen = PlainScreen(Console(file=out, width=240), Progress())
    screen.phase("models", None)
    clock[0] += 59
    screen.beat()
    clock[0] += 1
    screen.beat()
    screen.phase("baselines", 3)
    screen.trial(record(0, "base", 0.1, "base"))
    for _ in range(90):
        clock[0] += 1
        screen.beat()
    assert said(out.getvalue()) == [
        "opening the models",
        "still opening the models, 1 min 00 s so far",
        "scoring base, experts and uniform merges: 3 evaluations",
        "still scoring base, experts and uniform merges, 1/3 evaluated, 1.0 a minute, 2 min 00 s so far",
    ]


def test_a_pipe_hears_something_at_once_and_each_minute_without_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screens, "_MINUTE_S", 0.2)
    monkeypatch.setattr(screens, "_TICK_S", 0.02)
    with searching(tmp_path, title="x"):
        assert said(capfd.readouterr().out) == ["loading libraries"]
        time.sleep(0.5)
    assert "still loading libraries, " in capfd.readouterr().out


def test_the_time_left_is_that_of_the_whole_run(clock: list[float], run: Path) -> None:
    screen = PlainScreen(Console(file=(out := io.StringIO()), width=240), after(directory=run))
    screen.phase("search", 8)
    for number in range(4):
        clock[0] += 1
        screen.trial(record(number))
    screen.generation(0, 0.5, 0.5, 0)
    # 4 more candidates, 10 evaluations on validation and 5 on test items, a second each.
    assert out.getvalue().splitlines()[-1].endswith("60.0 a minute, about 19 s left in all")


def test_finished_trials_of_an_existing_run_are_counted(run: Path) -> None:
    assert [trial.number for trial in screens._finished(run)] == [0, 1, 2, 3, 4]


def test_a_new_run_has_nothing_to_count(tmp_path: Path) -> None:
    assert screens._finished(tmp_path) == []
