"""`evomerge connect`: loss and accuracy on the line between two models, or on the plane of three."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.alignment import Residual
from evomerge.cli.guard import echo
from evomerge.cli.models import Split
from evomerge.cli.score import Dtype
from evomerge.cli.settings import RunAhead, merged_ahead

if TYPE_CHECKING:
    from evomerge.analysis.mode_connectivity import Connectivity, Line
    from evomerge.recipe.align import Align

_MOST_COLUMNS = 5


def connect(
    models: Annotated[
        list[str],
        typer.Argument(metavar="A B [C]", help="Two or three model folders or hub ids.", show_default=False),
    ],
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plain text to measure the loss on.", show_default=False)
    ] = None,
    test_text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A second text, shown beside the first.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="An experiment's YAML file instead: its tasks, labels or function.", show_default=False),
    ] = None,
    split: Annotated[list[Split], typer.Option(help="Which of its items; may be repeated.")] = [Split.search],  # noqa: B006
    points: Annotated[int, typer.Option(help="On each line, and on each side of the plane's grid.")] = 11,
    characters: Annotated[int, typer.Option(min=1, help="How much of each text is read.")] = 20_000,
    window: Annotated[
        int | None,
        typer.Option(help="Tokens read at a time. Default: the model's context, at most 1,024.", show_default=False),
    ] = None,
    align: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="Also once aligned with the first, as by weight_matching.", show_default=False
        ),
    ] = None,
    residual: Annotated[
        Residual | None,
        typer.Option(help="With --align, what may act on the residual stream.", show_default=False),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --align, a spec of your own instead of the architecture's, YAML or JSON.",
            show_default=False,
        ),
    ] = None,
    run: RunAhead = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Of the models. Default: the config's, or their own.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write figures as one self-contained page.", show_default=False)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every number.", show_default=False)
    ] = None,
) -> None:
    """Show what lies between models: loss and accuracy on the straight line between two, or on the plane of three.

    A barrier on the line says that the average of the two is worse than either. With --config, A, B and C may be
    `base` or names of its experts.

    **Examples:** `evomerge connect base-7b swahili-7b --text swahili.txt --html line.html`,
    `evomerge connect base maths swahili --config experiment.yaml`
    """
    if (text is None) == (config is None):
        raise typer.BadParameter("give either --text or --config")
    if test_text is not None and text is None:
        raise typer.BadParameter("--test-text is a second text beside --text")
    if run is not None and config is None:
        raise typer.BadParameter("--run is where models of a --config are merged first")
    for name, given in (("--residual", residual), ("--spec", spec)):
        if given is not None and align is None:
            raise typer.BadParameter(f"{name} says how to align; give --align METHOD")
    # Takes seconds, so after what can be refused without it.
    from evomerge.analysis.connect import connect as measure
    from evomerge.cli.console import say, stderr, stdout
    from evomerge.cli.screens import stages
    from evomerge.config.config import Config
    from evomerge.config.execution import ExecutionConfig
    from evomerge.files.atomic import json_text, write_atomically
    from evomerge.report.page import require_figures

    if html is not None:
        require_figures()

    def doing(what: str) -> None:
        say(stderr(), f"{what} ...")

    experiment = None
    if config is not None:
        experiment = merged_ahead(Config.from_file(config), config, run, lambda what: say(stderr(), what), models)
    execution = ExecutionConfig() if experiment is None else experiment.execution
    if dtype is not None:
        execution = execution.model_copy(update={"dtype": dtype.value})
    named = {"train": text, "test": test_text} if test_text is not None else {"text": text}
    with stages("points") as (done,):
        found = measure(
            models,
            texts=None if text is None else {name: path for name, path in named.items() if path is not None},
            config=experiment,
            splits=[*dict.fromkeys(one.value for one in split)],
            points=points,
            characters=characters,
            window=window,
            align=None if align is None else _asked(align, residual, spec),
            execution=execution,
            where=str(config),
            report=doing,
            done=done,
        )
    _show(found)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(json_file, json_text(found.to_data()))
        echo(f"Wrote {json_file}")
    if html is not None:
        from evomerge.analysis.connectivity_page import connectivity_page

        connectivity_page(found).write(html)
        echo(f"Wrote {html}")
    if html is None and json_file is None:
        say(stdout(), "\nFigures: --html FILE; every number: --json FILE")


def _asked(method: str, residual: Residual | None, spec: Path | None) -> Align:
    """How to align. Raises: AlignmentError for a spec that can't be read, or both it and a symmetry."""
    from evomerge.errors import AlignmentError
    from evomerge.recipe.align import Align, asked_besides, spec_content

    asked = Align(
        method=method,
        residual=None if residual is None else residual.value,
        spec=spec_content(spec, AlignmentError),
    )
    if (wrong := asked_besides(asked.to_data())) is not None:
        raise AlignmentError(wrong)
    return asked


def _show(found: Connectivity) -> None:
    """Tables of each line's points and of all barriers."""
    from evomerge.analysis.connectivity_page import BARRIERS
    from evomerge.cli.console import say, stdout, table

    console = stdout()
    for note in found.notes:
        say(console, f"Note: {note}")
    shown = [(name, measure) for measure in found.measures for name in found.sets][:_MOST_COLUMNS]
    for way, survey in found.surveys.items():
        for line in survey.lines:
            first, second = (found.models[end] for end in line.ends)
            title = f"{first} – {second}" + (f", {way}" if len(found.surveys) > 1 else "")
            names = [f"{measure}\n{name}" if len(found.sets) > 1 else measure for name, measure in shown]
            made = table(f"share of {second}", *names, title=title, right=(f"share of {second}", *names))
            for at, point in zip(line.at, line.points, strict=True):
                made.add_row(f"{at:.2f}", *(_decimal(point.value(name, measure)) for name, measure in shown))
            console.print(made, "")
            _print_barriers(found, line)
    say(console, BARRIERS)
    left_out = len(found.measures) * len(found.sets) - len(shown)
    if left_out > 0:
        say(console, f"{left_out} more columns of numbers are in --json and --html.")


def _decimal(value: float) -> str:
    return f"{value:.4f}" if isfinite(value) else "–"


def _print_barriers(found: Connectivity, line: Line) -> None:
    """A row for each measure and set whose barrier on a line is finite."""
    from evomerge.analysis.connectivity_page import barrier_of
    from evomerge.cli.console import stdout, table

    made = table("barrier in", "above mean", "at", "above chord", "at", right=("above mean", "at", "above chord"))
    for measure in found.measures:
        for name in found.sets:
            own = barrier_of(found, line, name, measure)
            if isfinite(own.above_mean):
                made.add_row(
                    f"{measure}, {name}" if len(found.sets) > 1 else measure,
                    f"{own.above_mean:.4f}",
                    f"{own.at_mean:.2f}",
                    f"{own.above_chord:.4f}",
                    f"{own.at_chord:.2f}",
                )
    stdout().print(made, "")
