"""`evomerge status`: how far a run is, also while it is being driven."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli import complete
from evomerge.cli.guard import echo
from evomerge.run.trial import TrialKind

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from evomerge.run.directory import Run
    from evomerge.run.records import RunStatus, TrialRecord

_REFRESH_S = 2.0
_MINUTE_S = 60.0
_TIMED = "asynchronous: which candidates there are depends on timing"


def status(
    directory: Annotated[
        Path, typer.Argument(metavar="RUN", autocompletion=complete.runs, help="The run directory.", show_default=False)
    ],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep looking until nobody drives the run.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, with the front and its hypervolume after each generation.")
    ] = False,
) -> None:
    """Show how far a run is and who drives it: phase, leaders, rate, time left; the result once it has ended.

    **Example:** `evomerge status runs/swahili --watch`
    """
    from evomerge.cli.console import stdout
    from evomerge.run.directory import open_run

    console, run = stdout(), open_run(directory)
    current = run.status()
    if as_json:
        _print_json(run, current)
        return
    if not watch or not current.driver_alive:
        _show(console, run, current)
        return
    if not console.is_terminal:
        _watch_lines(run)
        return
    from rich.live import Live

    with Live(_screen(run, current), console=console, auto_refresh=False, transient=True) as live:
        while current.driver_alive:
            time.sleep(_REFRESH_S)
            current = run.status()
            live.update(_screen(run, current), refresh=True)
    _show(console, run, current)


def _show(console: Console, run: Run, status: RunStatus) -> None:
    """The run as it is now, and its result if it has ended."""
    from evomerge.cli.console import say
    from evomerge.cli.results import outcome
    from evomerge.report.finding import cautions

    console.print(_screen(run, status))
    if status.driver_alive:
        return
    result = run.result()
    if result is None or not run.has_ended():
        say(console, f"\n{_how_to_go_on(run)}")
        return
    made, found = outcome(result)
    console.print("", made, "", sep="\n")
    say(console, found)
    for caution in cautions(result):
        say(console, f"\n{caution}")
    say(console, f"\nNext: evomerge export {shlex.quote(str(run.directory))} OUT")


def _print_json(run: Run, status: RunStatus) -> None:
    """Everything known of the run as one object."""
    from evomerge.cli.front import front_data

    data = {**asdict(status), "phase": _phase(run, status), "several_objectives": front_data(run)}
    echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=dict))


def _screen(run: Run, status: RunStatus) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from evomerge.cli.console import duration, score
    from evomerge.cli.front import front_so_far

    grid = Table.grid(padding=(0, 2))
    best, median, left = status.best, status.median, status.seconds_left
    several = run.config.search.goals.are_several
    front, members = front_so_far(run)
    rows: list[tuple[str, str | None]] = [
        ("run", str(run.directory)),
        ("phase", _phase(run, status)),
        ("driver", status.driver if status.driver_alive else None),
        ("elapsed", f"{duration(status.driven_s)} of driving" if status.driven_s >= 0.05 else None),
        ("candidates", _candidates(status)),
        ("mode", _TIMED if run.config.search.is_asynchronous else None),
        ("items", _items(status, "candidates" if run.config.search.is_asynchronous else "generations")),
        *front,
        ("best", None if best is None or several else _best(best)),
        (
            "median",
            None if median is None or several else f"fitness {score(median)} in the last generation",
        ),
        ("rate", f"{status.rate_per_minute:.1f} a minute" if status.rate_per_minute and status.driver_alive else None),
        ("time left", None if left is None else f"about {duration(left)} for all that is to come"),
    ]
    for key, value in rows:
        if value is not None:
            grid.add_row(Text(key, style="dim"), Text(value, overflow="fold"))
    if members is not None:
        grid.add_row("", members)
    if not status.leaders or several:
        return grid
    grid.add_row(Text("leaders", style="dim"), _leaders(status))
    return grid


def _leaders(status: RunStatus) -> RenderableType:
    """The best of each kind with its score on the search items."""
    from rich.table import Table

    from evomerge.cli.console import score
    from evomerge.cli.names import leader_name

    made = Table.grid(padding=(0, 2))
    made.add_column()
    made.add_column(justify="right", no_wrap=True)
    made.add_column(no_wrap=True)
    for kind, trial in status.leaders.items():
        made.add_row(leader_name(kind), score(trial.score), f"trial {trial.number}")
    return made


def _candidates(status: RunStatus) -> str:
    about = "about " if status.items_budget is not None and status.finished < status.budget else ""
    parts = [f"{status.finished} of {about}{status.budget} done"]
    for count, what in (
        (status.running, "running"),
        (status.interrupted, "interrupted"),
        (status.failed, "failed"),
        (status.pruned, "pruned"),
    ):
        if count:
            parts.append(f"{count} {what}")
    return ", ".join(parts)


def _items(status: RunStatus, turns: str) -> str | None:
    """Search items that candidates have answered, in turns that have ended."""
    if status.items is None:
        return None
    limit = "" if status.items_budget is None else f" of {status.items_budget:,}"
    return f"{status.items:,}{limit} item evaluations in {turns} that have ended"


def _best(best: TrialRecord) -> str:
    from evomerge.cli.console import score

    kinds = {
        TrialKind.CANDIDATE: "a candidate",
        TrialKind.ELITE: "a candidate",
        TrialKind.START: "the start",
        TrialKind.METHOD: f"a merge of another method ({best.name})",
    }
    kind = kinds.get(best.kind, "a uniform merge")
    return f"trial {best.number}, {kind}: score {score(best.score)}, fitness {score(best.fitness)}"


def _phase(run: Run, status: RunStatus) -> str:
    if status.driver_alive:
        return status.phase
    if run.has_ended():
        return "done"
    during = "" if status.phase in {"not started", "not continued"} else f" during {status.phase}"
    return f"stopped{during}"


def _how_to_go_on(run: Run) -> str:
    return f"continue with: evomerge resume {shlex.quote(str(run.directory))}"


def _watch_lines(run: Run) -> None:
    """One plain line whenever something has changed, and at least each minute."""
    from evomerge.cli.console import duration, score

    last, said = "", float("-inf")
    while True:
        status = run.status()
        parts = [status.phase, _candidates(status)]
        if status.best is not None:
            parts.append(f"best {score(status.best.score)}")
        line = ", ".join(parts)
        if line != last or time.monotonic() - said >= _MINUTE_S:
            left = f", about {duration(status.seconds_left)} left" if status.seconds_left is not None else ""
            echo(line + left)
            last, said = line, time.monotonic()
        if not status.driver_alive:
            echo(_phase(run, status) if run.has_ended() else f"{_phase(run, status)}; {_how_to_go_on(run)}")
            return
        time.sleep(_REFRESH_S)
