"""`evomerge export`, `merge` and `recipe`: writing model folders and recipes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli import complete
from evomerge.cli.guard import echo
from evomerge.errors import counted

_SHARD_SIZE = "Largest size of a safetensors file, such as 2GB."
_PICK = (
    "Of a search for several objectives: `knee`, `best:NAME`, `worst` (the best worst score), "
    "`weights:NAME=0.7,NAME=0.3` or a trial's number. Default: the knee."
)
_CARRY_CODE = "Take Python files of the base along, and the auto_map that names them. They aren't run here."


class Split(StrEnum):
    """Items of an experiment, by what they are for."""

    search = "search"
    validation = "validation"
    test = "test"


class Form(StrEnum):
    """The two kinds of merge files."""

    evomerge = "evomerge"
    mergekit = "mergekit"


def export(
    directory: Annotated[
        Path, typer.Argument(metavar="RUN", autocompletion=complete.runs, help="The run directory.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to make.", show_default=False)],
    trial: Annotated[
        int | None,
        typer.Option(min=0, help="Number of a trial. Default: the winner, or the best so far.", show_default=False),
    ] = None,
    pick: Annotated[str | None, typer.Option(help=_PICK, show_default=False)] = None,
    shard_size: Annotated[str | None, typer.Option(help=f"{_SHARD_SIZE} Default: the config's.")] = None,
    carry_code: Annotated[bool, typer.Option("--carry-code", help=_CARRY_CODE)] = False,
    license_: Annotated[
        str | None,
        typer.Option("--license", help="Licence for the card, as apache-2.0. Default: the models', if the same."),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(help="Language for the card, as sw; may be repeated. Default: the tasks' and the models'."),
    ] = None,
    to_hub: Annotated[
        str | None,
        typer.Option("--push", metavar="USER/NAME", help="Also upload it to the hub, for its owner alone to see."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push, let everybody see a new repository.")] = False,
) -> None:
    """Write the winner of a run as a Hugging Face model folder, with its recipe and a model card.

    **Examples:** `evomerge export runs/swahili swahili-7b`, `evomerge export runs/two short --pick best:length`,
    `evomerge export runs/swahili swahili-7b --license apache-2.0 --push me/swahili-7b`
    """
    from evomerge.cli.screens import transfer
    from evomerge.run.frozen import CONFIG
    from evomerge.study.export import export as write

    if public and to_hub is None:
        raise typer.BadParameter("--public is of --push USER/NAME")
    if to_hub is not None:
        from evomerge.study.push import check_push

        check_push(to_hub)
    notes: list[str] = []
    with transfer(f"exporting to {out}") as progress:
        folder = write(
            directory,
            out,
            trial=trial,
            pick=pick,
            shard_size=shard_size,
            progress=progress,
            report=notes.append,
            carry_code=carry_code,
            license=license_,
            languages=language or (),
            repository=to_hub,
        )
    for note in notes:
        echo(f"Note: {note}")
    if to_hub is not None:
        from evomerge.study.push import push

        echo(f"Uploading {folder}")
        address, is_private = push(folder, to_hub, private=not public)
        echo(f"Uploaded to {address} ({'only its owner sees it' if is_private else 'everybody sees it'})")
    _written(folder, f"--config {shlex.quote(str(directory / CONFIG))}")


def merge(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", autocompletion=complete.configs, help="A recipe or mergekit file.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to make.", show_default=False)],
    shard_size: Annotated[str, typer.Option(help=_SHARD_SIZE)] = "5GB",
    carry_code: Annotated[bool, typer.Option("--carry-code", help=_CARRY_CODE)] = False,
    name: Annotated[
        str | None,
        typer.Option(
            help="Which merge of a file that holds several of mergekit's. Default: the one that ends it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Realise one merge from a recipe.

    Every exported model folder holds the recipe that makes it again. A mergekit YAML is taken as it is;
    what isn't supported of it is refused by name.

    **Example:** `evomerge merge swahili-7b/recipe.yaml swahili-7b-again`
    """
    from evomerge.cli.screens import transfer
    from evomerge.study.merge import merge as merge_file

    notes: list[str] = []
    with _of_file(recipe), transfer(f"merging to {out}") as progress:
        folder = merge_file(
            recipe,
            out,
            shard_size=shard_size,
            progress=progress,
            report=notes.append,
            carry_code=carry_code,
            name=name,
        )
    for note in notes:
        echo(f"Note: {note}")
    _written(folder, "--tasks TASK")


def _written(folder: Path, benchmark: str) -> None:
    """What was made, and how to score it on a benchmark, given as options of `evomerge score`."""
    from evomerge.score.numbers import size

    files = sorted(folder.iterdir())
    weights = [file for file in files if file.suffix == ".safetensors"]
    others = ", ".join(file.name for file in files if file not in weights)
    bytes_ = size(sum(file.stat().st_size for file in weights))
    echo(f"Wrote {folder}: {counted(len(weights), 'file')} of weights ({bytes_}), {others}")
    echo(f"Next: evomerge score {shlex.quote(str(folder))} {benchmark}")


def recipe(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            autocompletion=complete.configs_and_runs,
            help="A run directory, a recipe, a mergekit file, or a model folder that evomerge wrote.",
            show_default=False,
        ),
    ],
    trial: Annotated[
        int | None,
        typer.Option(min=0, help="Number of a trial of a run. Default: as export.", show_default=False),
    ] = None,
    pick: Annotated[str | None, typer.Option(help=_PICK, show_default=False)] = None,
    form: Annotated[Form, typer.Option("--format", help="Whose kind of file to print.")] = Form.evomerge,
) -> None:
    """Print a merge as a recipe, or as a mergekit file where mergekit can express it.

    **Examples:** `evomerge recipe runs/swahili --trial 12`, `evomerge recipe recipe.yaml --format mergekit`
    """
    from evomerge.errors import RecipeError
    from evomerge.materialise.folder import RECIPE
    from evomerge.mergekit.read import load_recipe
    from evomerge.mergekit.write import to_mergekit
    from evomerge.study.export import recipe_of

    if not (source / "run.json").exists() and (source / RECIPE).is_file():
        source /= RECIPE
    if source.is_dir():
        found = recipe_of(source, trial=trial, pick=pick)
    elif trial is not None or pick is not None:
        option = "--pick" if trial is None else "--trial"
        raise RecipeError(f"{source}: {option} is for run directories; a recipe is one merge")
    else:
        found = load_recipe(source, report=lambda note: echo(f"Note: {note}", err=True))
    with _of_file(source):
        echo(to_mergekit(found) if form is Form.mergekit else found.to_yaml(), nl=False)


@contextmanager
def _of_file(file: Path) -> Iterator[None]:
    """Name the file in errors of what it asks for, where only the recipe is known."""
    from evomerge.errors import AlignmentError, CheckpointError, RecipeError

    try:
        yield
    except (RecipeError, CheckpointError, AlignmentError) as error:
        if str(error).startswith(str(file)):
            raise
        raise type(error)(f"{file}: {str(error).removeprefix('recipe: ')}") from error
