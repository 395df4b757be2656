"""`evomerge configs`: the experiments that come with the package."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.guard import echo
from evomerge.errors import ConfigError, unknown


def configs(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One of them.", show_default=False)] = None,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Where to copy it, if not here.", show_default=False),
    ] = None,
) -> None:
    """List the experiments that come with evomerge, or copy one of them to start from.

    **Examples:** `evomerge configs`, `evomerge configs swahili my-search.yaml`
    """
    from evomerge.files.shipped import shipped

    folder = shipped("configs")
    found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not found:
        raise ConfigError(f"{folder}: this installation has no experiments; install evomerge again")
    if name is None:
        _list(found)
        return
    name = name.removesuffix(".yaml")
    if name not in found:
        raise ConfigError(unknown("experiment", name, found))
    target = file or Path(f"{name}.yaml")
    write_new(target, found[name].read_bytes(), again=f"evomerge configs {name} FILE")
    echo(f"Wrote {target}. Its head says what it needs; then: evomerge check {target}")


def write_new(file: Path, content: bytes, *, again: str) -> None:
    """Write a file that isn't there yet.

    Args:
        file: to make.
        content: of it.
        again: the command that makes one of another name.

    Raises: ConfigError if it is there, or can't be written.
    """
    from evomerge.files.obstacles import obstacle

    try:
        with file.open("xb") as out:
            out.write(content)
    except FileExistsError:
        raise ConfigError(f"{file}: exists already; give another name: {again}") from None
    except OSError as error:
        raise ConfigError(f"{file}: {obstacle(error, file)}") from None


def _list(found: dict[str, Path]) -> None:
    from rich.text import Text

    from evomerge.cli.console import say, stdout, table

    made = table("name", "what it searches for")
    for name, path in found.items():
        made.add_row(name, Text(_about(path)))
    console = stdout()
    console.print(made)
    say(console, "\nTo copy one: evomerge configs NAME FILE")


def _about(path: Path) -> str:
    """The first paragraph of a file's head."""
    with path.open(encoding="utf-8") as file:
        return " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: len(line) > 2, file))
