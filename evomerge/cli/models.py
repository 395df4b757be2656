"""`evomerge export` and `evomerge merge`: writing model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_SHARD_SIZE = "Largest size of a safetensors file, such as 2GB."


def export(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to make.", show_default=False)],
    trial: Annotated[
        int | None,
        typer.Option(min=0, help="Number of a trial. Default: the winner, or the best so far.", show_default=False),
    ] = None,
    shard_size: Annotated[str | None, typer.Option(help=f"{_SHARD_SIZE} Default: the config's.")] = None,
) -> None:
    """Write the winner of a run as a Hugging Face model folder, with its recipe and a model card.

    **Example:** `evomerge export runs/swahili swahili-7b`
    """
    from evomerge.cli.screens import transfer
    from evomerge.export import export as write

    with transfer(f"exporting to {out}") as progress:
        folder = write(directory, out, trial=trial, shard_size=shard_size, progress=progress)
    typer.echo(f"Wrote {folder}")


def merge(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe or mergekit file.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to make.", show_default=False)],
    shard_size: Annotated[str, typer.Option(help=_SHARD_SIZE)] = "5GB",
) -> None:
    """Realise one merge from a recipe.

    Every exported model folder holds the recipe that makes it again. A mergekit YAML is taken as it is;
    what isn't supported of it is refused by name.

    **Example:** `evomerge merge swahili-7b/recipe.yaml swahili-7b-again`
    """
    from evomerge.cli.screens import transfer
    from evomerge.folder import write_folder
    from evomerge.mergekit.read import load_recipe

    read = load_recipe(recipe)
    with transfer(f"merging to {out}") as progress:
        folder = write_folder(read, out, shard_size=shard_size, progress=progress)
    typer.echo(f"Wrote {folder}")
