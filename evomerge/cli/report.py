"""`evomerge report` and `evomerge plot`: a run as a page, and its charts one by one."""

from __future__ import annotations

import html
import shlex
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.guard import echo
from evomerge.errors import MissingPackageError, RunError, unknown

_FORMATS = (".html", ".svg", ".png")


def report(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page to write. Default: report.html in RUN.", show_default=False),
    ] = None,
    items: Annotated[int, typer.Option(min=0, help="Items won, and as many lost, with their texts.")] = 5,
    prompts: Annotated[
        bool, typer.Option("--prompts/--no-prompts", help="Read the tasks' data again to show what was asked.")
    ] = True,
) -> None:
    """Write one self-contained page of a run: the result first, then how it came about. Safe while it is being driven.

    Needs no network, no models and no other package to be read; what the items asked is read from the tasks' data.

    **Example:** `evomerge report runs/swahili --out swahili.html`
    """
    from evomerge.errors import EvomergeError
    from evomerge.report.items_won import Question, compared
    from evomerge.report.run_facts import RunFacts
    from evomerge.report.run_page import run_page
    from evomerge.run.directory import open_run
    from evomerge.score.numbers import size

    run = open_run(directory)
    facts = RunFacts(run)
    found = compared(facts)
    questions: dict[str, Question] = {}
    missing = ""
    wanted = {one.item for one in [*found.won[:items], *found.lost[:items]]} if found is not None else set()
    if wanted and prompts:
        from evomerge.study.questions import questions as questions_of

        try:
            questions = questions_of(run, "test", wanted)
        except EvomergeError as error:
            missing = str(error)
    path = out or directory / "report.html"
    run_page(facts, compared=found, questions=questions, missing=missing, items=items).write(path)
    echo(f"Wrote {path}: {size(path.stat().st_size)}")


def plot(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.", show_default=False)],
    figure: Annotated[
        str | None, typer.Argument(metavar="[FIGURE]", help="Its name: see --list.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A file that ends in .html, .svg or .png.", show_default=False)
    ] = None,
    width: Annotated[int, typer.Option(min=240, max=4000, help="In pixels.")] = 860,
    list_: Annotated[bool, typer.Option("--list", help="Name the figures that there are of this run.")] = False,
) -> None:
    """Write one figure of a run's report as HTML, SVG or PNG.

    **Example:** `evomerge plot runs/swahili convergence --out convergence.svg`
    """
    from evomerge.report.run_facts import RunFacts
    from evomerge.report.run_page import charts
    from evomerge.run.directory import open_run

    if not list_ and figure is None:
        raise typer.BadParameter("name a figure and a file: evomerge plot RUN FIGURE --out FILE (or --list)")
    if out is not None and out.suffix not in _FORMATS:
        raise RunError(f"{out}: figures are written as {', '.join(_FORMATS)}; end the file's name in one of these")
    if out is not None and out.suffix == ".png":
        _require_renderer()
    drawn = charts(RunFacts(open_run(directory)))
    if list_:
        for name, chart in drawn.items():
            echo(f"{name:<14} {chart.title}")
        return
    assert figure is not None
    if figure not in drawn:
        raise RunError(f"{shlex.quote(str(directory))}: {unknown('figure', figure, drawn)}")
    if out is None:
        raise typer.BadParameter(f"name a file to write it to: evomerge plot RUN {figure} --out {figure}.svg")
    from evomerge.files.atomic import write_atomically
    from evomerge.report.page import TextPage

    chart = drawn[figure]
    if out.suffix == ".html":
        page = TextPage(f"{chart.title}: {directory.resolve().name}")
        page.chart(chart)
        page.write(out)
    elif out.suffix == ".svg":
        write_atomically(out, chart.svg(width, alone=True))
    else:
        import resvg_py

        out.write_bytes(bytes(resvg_py.svg_to_bytes(svg_string=chart.svg(width, alone=True), zoom=2)))
    echo(f"Wrote {html.unescape(str(out))}")


def _require_renderer() -> None:
    """Raises: MissingPackageError without what draws SVG as PNG."""
    from importlib.util import find_spec

    if find_spec("resvg_py") is None:
        raise MissingPackageError(
            "a .png needs resvg-py, which isn't installed: pip install 'evomerge[png]'; .svg and .html need nothing"
        )
