"""`evomerge trials` and `evomerge items`: reading a run, also while it is being driven."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli import complete
from evomerge.cli.guard import echo
from evomerge.cli.models import Split
from evomerge.errors import RunError

if TYPE_CHECKING:
    from evomerge.run.directory import Run
    from evomerge.run.records import TrialRecord


class Order(StrEnum):
    """What trials are sorted by."""

    number = "number"
    fitness = "fitness"
    val = "val"
    test = "test"


class Format(StrEnum):
    """How trials are printed."""

    table = "table"
    json = "json"
    csv = "csv"


def trials(
    directory: Annotated[
        Path, typer.Argument(metavar="RUN", autocompletion=complete.runs, help="The run directory.", show_default=False)
    ],
    trial: Annotated[
        int | None,
        typer.Argument(metavar="[N]", min=0, help="One trial by number, with its parameters.", show_default=False),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", "-f", help="How to print them.")] = Format.table,
    top: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Only the first N; by fitness unless sorted otherwise."),
    ] = None,
    sort: Annotated[
        Order | None,
        typer.Option(
            help="Best first by fitness on the search items, or by the score on validation or test items. Default: by "
            "number.",
            show_default=False,
        ),
    ] = None,
    front: Annotated[bool, typer.Option("--front", help="Only the front of a search for several objectives.")] = False,
    weights: Annotated[
        str | None, typer.Option(help="Rank anew with other weights of tasks, such as maths=2,xcopa_sw=1.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Rank anew by another metric of a task, as task=metric; may be repeated.")
    ] = None,
) -> None:
    """List every trial with its scores, or show one: parameters, seconds of each phase, why it failed.

    Scores are on the search items; those of the shortlist also on validation, those of the winner and the baselines
    also on test items. JSON and CSV hold everything.

    With `--weights` or `--metric` scores are computed anew from the recorded item table, without any model, and
    trials are listed best first; `evomerge export RUN OUT --trial N` writes one of them.

    **Examples:** `evomerge trials runs/swahili`, `evomerge trials runs/swahili 12`,
    `evomerge trials runs/swahili --top 20 --sort val`,
    `evomerge trials runs/swahili --format json | jq '.[] | select(.state == "failed")'`
    """
    from evomerge.cli.tables import marks_of
    from evomerge.run.directory import open_run
    from evomerge.study.answered import answered_by_trial

    run, anew = open_run(directory), bool(weights or metric)
    marks = {} if anew else marks_of(run)
    if anew:
        from evomerge.report.rescore import rescore

        found = rescore(directory, weights=_weights(weights or ""), metrics=dict(map(_named, metric or ())))
        # Their validation and test scores are by the run's own objective.
        records = [
            replace(item.trial, score=item.score, fitness=item.fitness, validation=None, test=None) for item in found
        ]
    else:
        records = run.trials()
    answered = answered_by_trial(run)
    records = [replace(record, items=answered.get(record.number)) for record in records]
    if front:
        records = _on_front(run, records)
    records = _in_order(run, records, sort, top, anew=anew)
    if trial is not None:
        records = [record for record in records if record.number == trial]
        if not records:
            raise RunError(f"{directory}: no trial {trial}; see: evomerge trials {shlex.quote(str(directory))}")
    if format_ is Format.json:
        plain = [{**_plain(record), "mark": marks.get(record.number)} for record in records]
        json.dump(plain, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
        sys.stdout.write("\n")
    elif format_ is Format.csv:
        _write_csv(records, marks)
    else:
        from evomerge.cli.console import stdout
        from evomerge.cli.tables import print_trial, print_trials
        from evomerge.run.lock import is_locked

        alive = is_locked(directory)
        if run.config.search.is_asynchronous:
            # The record counts populations where nothing waits for one.
            records = [replace(record, generation=None) for record in records]
        if trial is not None:
            print_trial(stdout(), records[0], marks.get(trial), alive=alive)
        else:
            goals = run.config.search.goals
            objectives = [goal.name for goal in goals.goals] if goals.are_several and not anew else []
            print_trials(stdout(), records, marks, alive=alive, anew=anew, objectives=objectives)


def _in_order(
    run: Run, records: Sequence[TrialRecord], sort: Order | None, top: int | None, *, anew: bool
) -> list[TrialRecord]:
    """The records as they are asked for; those without a value come last, in order of number.

    Raises: RunError if they have no such order.
    """
    by = sort or (Order.number if top is None or anew else Order.fitness)
    if anew and sort in {Order.val, Order.test}:
        raise RunError(f"{run.directory}: --sort {sort.value}: only scores on the search items are ranked anew")
    if by is Order.fitness and run.config.search.goals.are_several and not anew:
        raise RunError(
            f"{run.directory}: --top and --sort fitness: its search has several objectives and so no order of its "
            "own; see --front, or give --sort val or --sort test for the benchmark's score"
        )
    attribute = {Order.fitness: "fitness", Order.val: "validation", Order.test: "test"}.get(by)
    found = list(records)
    if attribute is not None:
        values = {record.number: getattr(record, attribute) for record in found}
        found.sort(key=lambda record: (values[record.number] is None, -(values[record.number] or 0.0), record.number))
    elif sort is Order.number:
        found.sort(key=lambda record: record.number)
    return found[:top]


def _on_front(run: Run, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records of a front. Raises: RunError if the run has none."""
    from evomerge.run.fronts import front_of, merges_of

    if not run.config.search.goals.are_several:
        raise RunError(f"{run.directory}: --front: its search has one objective, so there is no front")
    members = {one.trial for one in front_of(merges_of(run.ledger()))}
    return [record for record in records if record.number in members]


def items(
    directory: Annotated[
        Path, typer.Argument(metavar="RUN", autocompletion=complete.runs, help="The run directory.", show_default=False)
    ],
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
    echo(f"Wrote {file}: {rows} rows")


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


def _write_csv(records: Sequence[TrialRecord], marks: Mapping[int, str]) -> None:
    """One row a trial; parameters and seconds in a column each, empty where a trial has none."""
    parameters = list(dict.fromkeys(name for record in records for name in record.parameters))
    phases = list(dict.fromkeys(name for record in records for name in record.seconds))
    measured = list(dict.fromkeys(name for record in records for name in record.measured))
    scores = ("score", "fitness", "reason", "validation", "test", "items")
    plain = ("number", "kind", "name", "state", "generation", *scores)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    columns = {"measured": measured, "seconds": phases, "parameters": parameters}
    named = [f"{group}.{name}" for group, names in columns.items() for name in names]
    writer.writerow([*plain, "mark", *named])
    for record in records:
        writer.writerow(
            [
                *(getattr(record, name) for name in plain),
                marks.get(record.number),
                *(record.measured.get(name) for name in measured),
                *(record.seconds.get(name) for name in phases),
                *(record.parameters.get(name) for name in parameters),
            ]
        )


def _plain(record: TrialRecord) -> dict[str, Any]:
    copied = {name: dict(getattr(record, name)) for name in ("parameters", "seconds", "measured")}
    plain = {**asdict(record), **copied}
    if record.items is None:
        del plain["items"]
    if not record.lost_workers:
        del plain["lost_workers"]
    if not record.measured:
        # Without objectives and constraints, only requirements of languages can be missed.
        del plain["measured"]
        if record.is_feasible:
            del plain["is_feasible"]
    return plain
