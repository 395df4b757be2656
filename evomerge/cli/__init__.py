"""The command line: `evomerge`. One file per family of commands; no logic of its own.

Nothing large is imported before a command runs.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from evomerge.cli import (
    alignment,
    analyse,
    calibration,
    check,
    compression,
    configs,
    connect,
    control,
    demo,
    importing,
    launch,
    many_runs,
    models,
    report,
    runs,
    schema,
    score,
    search,
    setup,
    status,
    tuning,
)
from evomerge.cli.collecting import seldom_while_loading
from evomerge.cli.guard import Commands, print_any_text, quiet_libraries
from evomerge.kernels.machine import limit_threads

_START = "Start"
_SEARCH = "Search"
_RESULTS = "Look and use"

app = typer.Typer(
    cls=Commands,
    add_completion=True,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from evomerge import __version__

        typer.echo(f"evomerge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="EVOMERGE_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Evolutionary search for the merge coefficients of fine-tuned language models.

    New here? `evomerge demo` trains small models, searches, tests and exports, offline, in minutes.
    """


app.command(rich_help_panel=_START)(demo.demo)
app.command(rich_help_panel=_START)(setup.init)
app.command(rich_help_panel=_START)(configs.configs)
app.command(rich_help_panel=_START)(setup.methods)
app.command(rich_help_panel=_START)(schema.schema)
app.command(rich_help_panel=_START)(analyse.analyse)
app.command(rich_help_panel=_SEARCH)(check.check)
app.command(rich_help_panel=_SEARCH)(setup.prefetch)
app.command(rich_help_panel=_SEARCH)(search.search)
app.command(rich_help_panel=_SEARCH)(search.resume)
app.command(rich_help_panel=_SEARCH)(launch.launch)
app.command(cls=status.StatusCommand, rich_help_panel=_SEARCH)(status.status)
app.command(rich_help_panel=_SEARCH)(control.control)
app.command(rich_help_panel=_RESULTS)(many_runs.runs)
app.command(rich_help_panel=_RESULTS)(runs.trials)
app.command(rich_help_panel=_RESULTS)(runs.items)
app.command(rich_help_panel=_RESULTS)(report.report)
app.command(rich_help_panel=_RESULTS)(report.plot)
app.command(rich_help_panel=_RESULTS)(calibration.calibration)
app.command(rich_help_panel=_RESULTS)(many_runs.compare)
app.command(rich_help_panel=_RESULTS)(many_runs.reproduce)
app.command(rich_help_panel=_RESULTS)(many_runs.clean)
app.command(rich_help_panel=_RESULTS)(models.export)
app.command(rich_help_panel=_RESULTS)(models.merge)
app.command(rich_help_panel=_RESULTS)(models.recipe)
app.command(rich_help_panel=_RESULTS)(alignment.align)
app.command(rich_help_panel=_RESULTS)(alignment.rebase)
app.command(rich_help_panel=_RESULTS)(compression.compress)
app.command("import", rich_help_panel=_RESULTS)(importing.import_)
app.command(rich_help_panel=_RESULTS)(tuning.tune)
app.command(rich_help_panel=_RESULTS)(tuning.alternate)
app.command(rich_help_panel=_RESULTS)(score.score)
app.command(rich_help_panel=_RESULTS)(connect.connect)


def main() -> None:
    """Run the command line."""
    quiet_libraries(sys.argv[1:])
    limit_threads()
    print_any_text()
    with seldom_while_loading():
        app(prog_name="evomerge")
