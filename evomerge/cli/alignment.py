"""`evomerge align`: models trained apart, brought together."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli.guard import echo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from evomerge.study.align import AlignedModel


class Residual(StrEnum):
    """Symmetries of the residual stream."""

    none = "none"
    permutation = "permutation"
    signed = "signed"
    orthogonal = "orthogonal"


def align(
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="The model that stays as it is.")],
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Folders or hub ids to bring to it.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make, with one for each model.")],
    method: Annotated[str, typer.Option(help="How maps are found, such as weight_matching.")] = "weight_matching",
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the method; may be repeated.")
    ] = None,
    residual: Annotated[
        Residual | None,
        typer.Option(
            help="What may act on the residual stream; orthogonal folds the norms. Default: the most that keeps the "
            "model stored as it is.",
            show_default=False,
        ),
    ] = None,
    heads: Annotated[bool, typer.Option(help="Whether attention heads may change places.")] = True,
    rotations: Annotated[bool, typer.Option(help="Whether heads may be turned inside.")] = True,
    hidden: Annotated[bool, typer.Option(help="Whether hidden units may change places.")] = True,
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A spec of your own instead of the architecture's, YAML or JSON.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is random in the method.")] = 0,
    refine: Annotated[
        bool, typer.Option("--refine", help="Go on from the maps by the loss between the models on --text.")
    ] = False,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --refine, plain text to learn from.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(help="With --refine, of each model.")] = 240,
    dtype: Annotated[str, typer.Option(help="Of the models that are written: auto is each one's own.")] = "auto",
    shard_size: Annotated[str, typer.Option(help="Largest size of a safetensors file, such as 2GB.")] = "5GB",
    carry_code: Annotated[
        bool, typer.Option("--carry-code", help="Take Python files of each model along. They aren't run here.")
    ] = False,
) -> None:
    """Bring models trained apart together, so that they can be merged: each computes what it computed before.

    Units, heads and the residual stream of each model are put where the reference has its own. The folders load in
    transformers, and are base and experts for recipes and configs like any others.

    **Example:** `evomerge align model-1 model-2 model-3 --out aligned`
    """
    if refine != (text is not None):
        raise typer.BadParameter("--refine and --text FILE go together: the text is what maps are refined on")
    from evomerge.cli.console import stdout
    from evomerge.cli.screens import stages
    from evomerge.study.align import align as write

    with stages("finding maps", *(["refining them"] if refine else []), f"writing to {out}") as bars:
        written = write(
            reference,
            models,
            out,
            method=method,
            options=_options(option or []),
            residual=None if residual is None else residual.value,
            heads=heads,
            rotations=rotations,
            hidden=hidden,
            spec=spec,
            seed=seed,
            dtype=dtype,
            shard_size=shard_size,
            carry_code=carry_code,
            text=text,
            steps=steps,
            progress=bars[0],
            refining=bars[1] if refine else None,
            writing=bars[-1],
        )
    stdout().print(_similarities(written), "")
    for note in dict.fromkeys(note for model in written for note in model.notes):
        echo(f"Note: {note}")
    for model in written:
        if (gain := model.refinement) is not None:
            kept = "taken" if gain.kept else "no better, so the maps stay as they were"
            echo(f"{model.name}: loss halfway, on the end of the text, {gain.before:.4f} → {gain.after:.4f}: {kept}")
        echo(f"Wrote {model.folder}: {model.moved} of {model.labels} sets of units moved")
    if len(written) == len(models):
        echo(f"{reference} stays as it is, and is merged with them as it is")
    else:
        echo(f"{reference} computes what it computed too; merge its folder here, with folded norms, with the others")


def rebase(
    expert: Annotated[str, typer.Argument(metavar="EXPERT", help="A whole model, tuned from the old base.")],
    old: Annotated[str, typer.Option("--from", metavar="BASE", help="The expert's own base.", show_default=False)],
    new: Annotated[str, typer.Option("--onto", metavar="BASE", help="The base to move to.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to make.", show_default=False)],
    scale: Annotated[float, typer.Option(help="Factor of the expert's changes.")] = 1.0,
    method: Annotated[str, typer.Option(help="How maps are found, such as weight_matching.")] = "weight_matching",
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the method; may be repeated.")
    ] = None,
    residual: Annotated[
        Residual | None, typer.Option(help="What may act on the residual stream, as in align.", show_default=False)
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A spec of your own instead of the architecture's, as in align.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is random in the method.")] = 0,
    shard_size: Annotated[str, typer.Option(help="Largest size of a safetensors file, such as 2GB.")] = "5GB",
) -> None:
    """Move an expert's changes onto another base of the same architecture.

    The old base is aligned with the new one, and what the expert changed is moved with the same maps and added to the
    new base. Whether it helps there is for a benchmark to say.

    **Example:** `evomerge rebase maths-7b --from base-1 --onto base-2 --out maths-on-base-2`
    """
    from evomerge.cli.screens import stages
    from evomerge.study.rebase import rebase as write

    with stages("finding maps", f"writing to {out}") as (progress, writing):
        made = write(
            expert,
            old,
            new,
            out,
            scale=scale,
            method=method,
            options=_options(option or []),
            residual=None if residual is None else residual.value,
            spec=spec,
            seed=seed,
            shard_size=shard_size,
            progress=progress,
            writing=writing,
        )
    for note in made.notes:
        echo(f"Note: {note}")
    echo(f"{made.moved} of {made.labels} sets of units moved; cosine of the bases {made.before:.3f} → {made.after:.3f}")
    echo(f"Wrote {made.folder}")


def _options(given: Sequence[str]) -> dict[str, Any]:
    """Options of a method as YAML reads their values. Raises: BadParameter for one without a value."""
    from evomerge.errors import AlignmentError
    from evomerge.files.outside_yaml import parse_yaml

    found = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{text!r}: write --option NAME=VALUE")
        found[name] = parse_yaml(value, f"--option {name}", AlignmentError)
    return found


def _similarities(written: Sequence[AlignedModel]) -> Table:
    """How alike each model's weights are to the reference's, in all and by kind of module, before and after."""
    from evomerge.cli.console import table

    shown = table("model", "kind", "cosine before", "after", right=("cosine before", "after"))
    for model in written:
        shown.add_row(model.name, "all", f"{model.before:.3f}", f"{model.after:.3f}")
        for kind, (before, after) in sorted(model.by_kind.items()):
            shown.add_row("", kind, f"{before:.3f}", f"{after:.3f}")
    return shown
