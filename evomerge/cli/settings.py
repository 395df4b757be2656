"""`--set KEY=VALUE`, which commands with a config have in common."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated

import typer

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A value instead of the config's, as search.evaluations=50; may be repeated.",
        show_default=False,
    ),
]


def again(settings: Sequence[str] | None) -> str:
    """The same settings, as the end of a command."""
    return "".join(f" --set {shlex.quote(setting)}" for setting in settings or ())
