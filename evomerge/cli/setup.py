"""`evomerge init` and `evomerge check`: before a search."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from evomerge.preflight import PilotReport, Preflight

_SHOWN_DIMENSIONS = 12


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The config to write.")] = Path("evomerge.yaml"),
) -> None:
    """Write a commented starter config: every key with its meaning and its default.

    **Example:** `evomerge init swahili.yaml`
    """
    text = files("evomerge.cli").joinpath("starter.yaml").read_text(encoding="utf-8")
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise ConfigError(f"{file}: exists already; give another name: evomerge init NAME.yaml") from None
    typer.echo(f"Wrote {file}. Fill in models and tasks, then: evomerge check {shlex.quote(str(file))}")


def check(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The experiment's YAML file.", show_default=False)],
    pilot: Annotated[
        bool, typer.Option("--pilot", help="Also time one candidate, to estimate the whole search.")
    ] = False,
    dimensions: Annotated[bool, typer.Option("--dimensions", help="List every searched coefficient.")] = False,
) -> None:
    """Validate a config and show its cost: dimensions, groups, memory, disk. Runs nothing without --pilot.

    Works without network: models that aren't on this machine are said to be so.

    **Example:** `evomerge check configs/swahili.yaml --pilot`
    """
    from evomerge import preflight
    from evomerge.cli.console import stdout
    from evomerge.config import Config

    experiment = Config.from_file(config)
    console = stdout()
    report = preflight.check(experiment, where=str(config))
    _show(console, report, all_dimensions=dimensions)
    if pilot:
        from evomerge.cli.screens import PlainScreen

        _show_pilot(console, preflight.pilot(experiment, observer=PlainScreen(console, {})))


def _show(console: Console, report: Preflight, *, all_dimensions: bool) -> None: ...


def _show_pilot(console: Console, report: PilotReport) -> None: ...
