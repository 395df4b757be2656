"""`evomerge compress`: an expert as the factors of its task vector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.guard import echo

if TYPE_CHECKING:
    from rich.table import Table

    from evomerge.models.architecture import Layout
    from evomerge.models.compressed import Compression

_STORED = {"same": "not at all: the base's", "whole": "whole", "factors": "factors"}


def compress(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model that the expert was tuned from.")],
    expert: Annotated[str, typer.Argument(metavar="EXPERT", help="A model folder, or a hub id.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    experts: Annotated[
        int | None, typer.Option(metavar="N", help="Keep one Nth of the directions: for N experts kept together.")
    ] = None,
    fraction: Annotated[float | None, typer.Option(help="Keep this fraction of the directions, as 0.1.")] = None,
    rank: Annotated[int | None, typer.Option(help="Keep so many directions of each matrix.")] = None,
    energy: Annotated[
        float | None, typer.Option(help="Keep as many as make up this share of a matrix's sum of squares, as 0.95.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the factors: auto, float32, float16 or bfloat16.")] = "auto",
) -> None:
    """Store an expert as the leading singular directions of its task vector.

    The folder is an expert for recipes and configs, beside the same base. Give one of --experts, --fraction
    (TSV-Compress), --rank and --energy (truncated SVD). Embeddings, heads and what isn't a matrix stay whole.

    **Example:** `evomerge compress base-7b swahili-7b swahili-small --experts 8`
    """
    given = {"--experts": experts, "--fraction": fraction, "--rank": rank, "--energy": energy}
    if sum(value is not None for value in given.values()) != 1:
        raise typer.BadParameter(f"give one of {', '.join(given)}")
    from evomerge.cli.console import size, stdout
    from evomerge.cli.screens import transfer
    from evomerge.models.checkpoint import Checkpoint
    from evomerge.models.compress import compress as write

    with transfer(f"compressing to {out}") as progress:
        made = write(
            base,
            expert,
            out,
            method="svd" if rank is not None or energy is not None else "tsv_compress",
            num_experts=experts,
            fraction=fraction,
            rank=rank,
            energy=energy,
            dtype=dtype,
            progress=progress,
        )
    console = stdout()
    console.print(_kinds(made, Checkpoint.open(base).layout), "")
    share = made.size_bytes / made.expert_bytes
    console.print(
        f"{size(made.expert_bytes)} became {size(made.size_bytes)} ({share:.1%}); the task vector as a whole is "
        f"{made.error:.1%} off",
        markup=False,
        highlight=False,
    )
    echo(f"Wrote {out}")


def _kinds(made: Compression, layout: Layout) -> Table:
    """Tensors by kind of module and how they are stored, with sizes, ranks and errors."""
    from statistics import median

    from evomerge.cli.console import size, table

    found: dict[tuple[str, str], list[str]] = {}
    for name, tensor in made.tensors.items():
        found.setdefault((layout.place(name).kind, tensor.kind), []).append(name)
    shown = table("kind", "stored", "tensors", "size", "rank", "error, median", "largest", right=("tensors", "size"))
    for (kind, stored), names in sorted(found.items()):
        tensors = [made.tensors[name] for name in names]
        row = [kind, _STORED[stored], str(len(tensors)), size(sum(tensor.size_bytes for tensor in tensors))]
        if stored == "factors":
            ranks = sorted({tensor.rank or 0 for tensor in tensors})
            errors = [tensor.error for tensor in tensors]
            span = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
            row += [span, f"{median(errors):.1%}", f"{max(errors):.1%}"]
        shown.add_row(*row)
    return shown
