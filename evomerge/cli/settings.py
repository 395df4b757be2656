"""What commands with a config have in common: `--set KEY=VALUE`, and the run directory of its search."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evomerge.config.config import Config

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A value instead of the config's, as search.evaluations=50; null leaves a key out; may be repeated.",
        show_default=False,
    ),
]

RunAhead = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Where models that are recipes are merged first: the run directory of the config's search. "
        "Default: `runs/` and the config's name.",
        show_default=False,
    ),
]


def run_directory(config: Path, run: Path | None) -> Path:
    """The run directory of a config's search: the given one, or the default."""
    return run or Path("runs") / config.stem


def merged_ahead(
    experiment: Config, config: Path, run: Path | None, told: Callable[[str], None], only: Collection[str] | None = None
) -> Config:
    """A config, whose file is `config`, with folders in the place of recipes: see `merge_ahead`."""
    if not experiment.models.recipes:
        return experiment
    from evomerge.study.merge_ahead import merge_ahead

    return merge_ahead(experiment, run_directory(config, run), told, only=only, where=str(config))


def again(settings: Sequence[str] | None) -> str:
    """The same settings, as the end of a command."""
    return "".join(f" --set {shlex.quote(setting)}" for setting in settings or ())
