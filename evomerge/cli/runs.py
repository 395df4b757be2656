"""`evomerge status` and `evomerge trials`: reading a run, also while it is being driven."""

from __future__ import annotations

import csv
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli.models import Split
from evomerge.run.trial import TrialKind, TrialState

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evomerge.run.directory import Run
    from evomerge.run.records import RunStatus, TrialRecord

_REFRESH_S = 2.0


class Format(StrEnum):
    """How trials are printed."""

    table = "table"
    json = "json"
    csv = "csv"


def status(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.", show_default=False)],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep looking until nobody drives the run.")] = False,
) -> None:
    """Show how far a run is: phase, best so far, rate, time left; the result once it has ended.

    **Example:** `evomerge status runs/swahili --watch`
    """
    from evomerge.cli.console import stdout
    from evomerge.run.directory import open_run

    console, run = stdout(), open_run(directory)
    current = run.status()
    if not watch or not current.driver_alive:
        console.print(_status_screen(run, current))
        return
    if not console.is_terminal:
        _watch_lines(run)
        return
    from rich.live import Live

    with Live(_status_screen(run, current), console=console, auto_refresh=False) as live:
        while current.driver_alive:
            time.sleep(_REFRESH_S)
            current = run.status()
            live.update(_status_screen(run, current), refresh=True)


def trials(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.", show_default=False)],
    format_: Annotated[Format, typer.Option("--format", "-f", help="How to print them.")] = Format.table,
    weights: Annotated[
        str | None, typer.Option(help="Rank anew with other weights of tasks, such as maths=2,xcopa_sw=1.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Rank anew by another metric of a task, as task=metric; may be repeated.")
    ] = None,
) -> None:
    """List every trial: number, state, values, parameters and the seconds of each phase.

    With `--weights` or `--metric` scores are computed anew from the recorded item table, without any model, and
    trials are listed best first; `evomerge export RUN OUT --trial N` writes one of them.

    **Examples:** `evomerge trials runs/swahili`,
    `evomerge trials runs/swahili --format json | jq '.[] | select(.state == "failed")'`
    """
    from evomerge.run.directory import open_run

    if weights or metric:
        from evomerge.report.rescore import rescore

        found = rescore(directory, weights=_weights(weights or ""), metrics=dict(map(_named, metric or ())))
        records = [replace(item.trial, score=item.score, fitness=item.fitness) for item in found]
    else:
        records = open_run(directory).trials()
    if format_ is Format.json:
        json.dump([_plain(record) for record in records], sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
        sys.stdout.write("\n")
    elif format_ is Format.csv:
        _write_csv(records)
    else:
        _print_table(records)


def items(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The Parquet file to make.", show_default=False)],
    trial: Annotated[int | None, typer.Option(min=0, help="One trial. Default: all.", show_default=False)] = None,
    split: Annotated[Split | None, typer.Option(help="One split. Default: all.", show_default=False)] = None,
) -> None:
    """Export the per-item table as Parquet: each item's scores, answers, tokens and seconds.

    One row for each trial, split and item, with a column for each metric.

    **Example:** `evomerge items runs/swahili items.parquet --split search`
    """
    from evomerge.report.items import export_items

    file, rows = export_items(directory, out, trial=trial, split=split.value if split else None)
    typer.echo(f"Wrote {file}: {rows} rows")


def _weights(text: str) -> dict[str, float]:
    """Weights written as "task=2,other=1"."""
    found = {}
    for name, value in map(_named, filter(None, map(str.strip, text.split(",")))):
        try:
            found[name] = float(value)
        except ValueError:
            raise typer.BadParameter(f"--weights: {name}={value}: not a number") from None
    return found


def _named(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name or not value:
        raise typer.BadParameter(f"{text!r}: write it as task=value")
    return name.strip(), value.strip()


def _status_screen(run: Run, status: RunStatus) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from evomerge.cli.console import duration, score
    from evomerge.cli.results import finding, result_table

    result = run.result()
    grid = Table.grid(padding=(0, 2))
    for key, value in (
        ("run", str(run.directory)),
        ("phase", _phase(run, status)),
        (
            "candidates",
            f"{status.finished} of {status.budget}, {status.running} running, {status.failed} failed{_pruned(status)}",
        ),
        ("best", _best(status.best)),
        ("median", f"fitness {score(status.median)} in the last generation" if status.median is not None else "–"),
        ("rate", f"{status.rate_per_minute:.1f} a minute" if status.rate_per_minute and status.driver_alive else "–"),
        ("time left", duration(status.seconds_left) if status.seconds_left is not None else "–"),
    ):
        if value != "–":
            grid.add_row(Text(key, style="dim"), Text(value))
    if result is None or status.driver_alive:
        return grid
    return Group(grid, "", result_table(result), Text(finding(result)))


def _phase(run: Run, status: RunStatus) -> str:
    if status.driver_alive:
        return status.phase
    if run.result() is not None:
        return "done"
    during = "" if status.phase == "not started" else f" during {status.phase}"
    return f"stopped{during}; continue with: evomerge resume {shlex.quote(str(run.directory))}"


def _best(best: TrialRecord | None) -> str:
    from evomerge.cli.console import score

    if best is None:
        return "–"
    return f"score {score(best.score)}, fitness {score(best.fitness)}: trial {best.number} ({best.name})"


def _watch_lines(run: Run) -> None:
    """One plain line whenever something has changed."""
    from evomerge.cli.console import duration, score

    last = ""
    while True:
        status = run.status()
        parts = [
            status.phase,
            f"{status.finished}/{status.budget} candidates",
            f"{status.failed} failed{_pruned(status)}",
        ]
        if status.best is not None:
            parts.append(f"best {score(status.best.score)}")
        line = ", ".join(parts)
        if line != last:
            left = f", {duration(status.seconds_left)} left" if status.seconds_left is not None else ""
            print(line + left, flush=True)
            last = line
        if not status.driver_alive:
            print(_phase(run, status), flush=True)
            return
        time.sleep(_REFRESH_S)


def _print_table(records: Sequence[TrialRecord]) -> None:
    from rich.text import Text

    from evomerge.cli.console import duration, score, stdout, table

    columns = ("trial", "name", "gen.", "state", "score", "time")
    made = table(*columns, right=("trial", "gen.", "score", "time"))
    for column in made.columns:
        column.no_wrap = True
    # The one column that may shrink; its text is cut, not wrapped.
    made.add_column(Text("parameters, or why it failed", no_wrap=True, overflow="ellipsis"))
    for record in records:
        parameters = " ".join(
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in record.parameters.items()
        )
        made.add_row(
            str(record.number),
            Text(f"{record.kind} {record.name}" if record.kind is TrialKind.EXPERT else record.name),
            "" if record.generation is None else str(record.generation),
            record.state,
            score(record.score),
            duration(sum(record.seconds.values())) if record.seconds else "",
            Text(record.reason or parameters, no_wrap=True, overflow="ellipsis"),
            style={TrialState.FAILED: "red", TrialState.RUNNING: "dim", TrialState.PRUNED: "dim"}.get(record.state),
        )
    stdout().print(made)


def _pruned(status: RunStatus) -> str:
    return f", {status.pruned} pruned" if status.pruned else ""


def _write_csv(records: Sequence[TrialRecord]) -> None:
    """One row a trial; parameters and seconds in a column each, empty where a trial has none."""
    parameters = list(dict.fromkeys(name for record in records for name in record.parameters))
    phases = list(dict.fromkeys(name for record in records for name in record.seconds))
    plain = ("number", "kind", "name", "state", "generation", "score", "fitness", "reason")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*plain, *(f"seconds.{name}" for name in phases), *(f"parameters.{name}" for name in parameters)])
    for record in records:
        writer.writerow(
            [
                *(getattr(record, name) for name in plain),
                *(record.seconds.get(name) for name in phases),
                *(record.parameters.get(name) for name in parameters),
            ]
        )


def _plain(record: TrialRecord) -> dict[str, Any]:
    return {**asdict(record), "parameters": dict(record.parameters), "seconds": dict(record.seconds)}
