"""`evomerge calibration`: how well scores can be estimated from some of the items."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli import complete

if TYPE_CHECKING:
    from evomerge.report.calibration import CalibrationReport


def calibration(
    directory: Annotated[
        Path, typer.Argument(metavar="RUN", autocompletion=complete.runs, help="The run directory.", show_default=False)
    ],
    items: Annotated[
        list[int] | None,
        typer.Option(
            min=2,
            help="Items to estimate from; may be repeated. Default: those of 20, 50 and 100 that are fewer than all, "
            "else half of all.",
            show_default=False,
        ),
    ] = None,
    estimator: Annotated[
        list[str] | None, typer.Option(help="One estimator; may be repeated. Default: all.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare scores estimated from some items with those seen on all, on the models of a run.

    For each estimator: the error and the bias of its estimates, how many of its 95% intervals hold what was seen, how
    well it ranks (Kendall's tau), and whether a search would go by it. No model is needed.

    **Example:** `evomerge calibration runs/swahili --items 30 --estimator gp_irt`
    """
    from evomerge.report.calibration import calibrate

    report = calibrate(directory, items=items, estimators=estimator)
    if as_json:
        json.dump(report.to_data(), sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
        sys.stdout.write("\n")
        return
    _print(report)


def _print(report: CalibrationReport) -> None:
    from rich.text import Text

    from evomerge.cli.console import say, stdout, table

    columns = ("items", "estimator", "error", "bias", "in 95%", "tau", "trusted")
    made = table(
        *columns,
        title=f"Scores on {report.items} items estimated from some of them, of {report.models} models",
        right=("items", "error", "bias", "in 95%", "tau"),
    )
    for one in report.tried:
        found = one.calibration
        figures = ["", "", "", ""]
        if found is not None:
            figures = [f"{found.rmse:.4f}", f"{found.bias:+.4f}", f"{found.coverage:.0%}", f"{found.tau:.2f}"]
        cells = [str(one.items), one.estimator, *figures, "yes" if one.doubt is None else "no"]
        made.add_row(*map(Text, cells))
    out = stdout()
    out.print(made)
    for one in report.tried:
        if one.doubt is not None:
            say(out, f"{one.estimator} from {one.items} items: {one.doubt}.")
    for (name, reasons), lines in groupby(report.told, lambda one: (one["estimator"], list(one["reasons"].items()))):
        generations = [one["generation"] for one in lines]
        which = f"generation {generations[0]}"
        if len(generations) > 1:
            which = f"generations {generations[0]} to {generations[-1]}"
        why = "; ".join(f"{other}: {reason}" for other, reason in reasons)
        say(out, f"The search went by {name} in {which}" + (f" ({why})." if why else "."))
