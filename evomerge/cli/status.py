"""`evomerge status`: how far a run is, also while it is being driven, and how it stands in an exit code."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from evomerge.cli import complete
from evomerge.cli.guard import echo

if TYPE_CHECKING:
    from rich.console import Console

    from evomerge.run.directory import Run
    from evomerge.run.records import RunStatus

DONE, RUNNING, STOPPED, FAILED = 0, 3, 4, 5
"""Exit codes. 1 is of an error of this command, 2 of a wrong command line, as everywhere."""

FORMAT = 1
"""Of what --json prints. A number grows when a key goes or means something else; new keys may come without that."""

_EVERY_S = 2.0
_MINUTE_S = 60.0
_WATCH = ("--watch", "-w")


class StatusCommand(TyperCommand):
    """Takes --watch with and without a number of seconds."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give --watch its usual number where none follows."""
        whole: list[str] = []
        for place, argument in enumerate(args):
            whole.append(argument)
            following = "".join(args[place + 1 : place + 2])
            if argument in _WATCH and not following.replace(".", "", 1).isdecimal():
                whole.append(str(_EVERY_S))
        return super().parse_args(ctx, whole)


def status(
    directory: Annotated[
        Path, typer.Argument(metavar="RUN", autocompletion=complete.runs, help="The run directory.", show_default=False)
    ],
    watch: Annotated[
        float | None,
        typer.Option(
            *_WATCH,
            metavar="[SECONDS]",
            min=0.01,
            help="Look again every 2, or so many, seconds, until nobody drives the run.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON; with --watch an object a line. Keys: docs/run-directory.md.")
    ] = False,
) -> None:
    """Show how far a run is and who drives it: workers, leaders, failures, cost so far and to come; its result at last.

    Exit codes: 0 the run has ended with a result, 3 it is running, 4 it was stopped before its end, 5 an error ended
    its last session.

    **Example:** `evomerge status runs/swahili --watch`
    """
    from evomerge.cli.console import stdout
    from evomerge.run.directory import open_run

    console, run = stdout(), open_run(directory)
    if as_json:
        current = _watch_json(run, watch)
    elif watch is None:
        current = run.status()
        _show(console, run, current)
    elif console.is_terminal:
        current = _watch_screen(console, run, watch)
    else:
        current = _watch_lines(run, watch)
    if code := code_of(run, current):
        raise typer.Exit(code)


def code_of(run: Run, status: RunStatus) -> int:
    """How a run stands, as an exit code."""
    if status.driver_alive:
        return RUNNING
    if run.has_ended():
        return DONE
    return FAILED if status.stopped_by == "error" else STOPPED


def data_of(run: Run, status: RunStatus) -> dict[str, Any]:
    """Everything known of a run, as plain data."""
    from evomerge.cli.front import front_data
    from evomerge.cli.status_screen import phase_of

    state = {DONE: "done", RUNNING: "running", STOPPED: "stopped", FAILED: "failed"}[code_of(run, status)]
    return {
        "format": FORMAT,
        "run": str(run.directory),
        "state": state,
        **asdict(status),
        "phase": phase_of(run, status),
        "several_objectives": front_data(run),
    }


def _watch_screen(console: Console, run: Run, every_s: float) -> RunStatus:
    """One screen, drawn anew in place until nobody drives the run; then as it is left."""
    from rich.live import Live

    from evomerge.cli.status_screen import screen

    current = run.status()
    with Live(screen(run, current), console=console, auto_refresh=False, transient=True) as live:
        while current.driver_alive:
            sleep(every_s)
            current = run.status()
            live.update(screen(run, current), refresh=True)
    _show(console, run, current)
    return current


def _show(console: Console, run: Run, status: RunStatus) -> None:
    """The run as it is now, and its result if it has ended."""
    from evomerge.cli.console import say
    from evomerge.cli.results import outcome
    from evomerge.cli.status_screen import screen
    from evomerge.report.finding import cautions

    console.print(screen(run, status))
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


def _how_to_go_on(run: Run) -> str:
    return f"continue with: evomerge resume {shlex.quote(str(run.directory))}"


def _watch_json(run: Run, every_s: float | None) -> RunStatus:
    """One object, or while the run is driven one a line."""
    while True:
        current = run.status()
        indent = 2 if every_s is None else None
        echo(json.dumps(data_of(run, current), indent=indent, ensure_ascii=False, allow_nan=False, default=dict))
        if every_s is None or not current.driver_alive:
            return current
        sleep(every_s)


def _watch_lines(run: Run, every_s: float) -> RunStatus:
    """One plain line with the time whenever something has changed, and at least each minute."""
    from evomerge.cli.console import moment
    from evomerge.cli.status_screen import line, pace, phase_of

    last, said = "", float("-inf")
    while True:
        current = run.status()
        if (now := line(current)) != last or monotonic() - said >= _MINUTE_S:
            echo(f"{moment()}  {', '.join([now, *pace(current)])}")
            last, said = now, monotonic()
        if not current.driver_alive:
            left = phase_of(run, current)
            echo(f"{moment()}  {left}" + ("" if run.has_ended() else f"; {_how_to_go_on(run)}"))
            return current
        sleep(every_s)
