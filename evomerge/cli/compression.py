"""`evomerge compress`: an expert as the factors of its task vector."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.guard import echo

if TYPE_CHECKING:
    from rich.table import Table

    from evomerge.models.architecture import Layout
    from evomerge.models.compress_lora import LoraCompression
    from evomerge.models.compressed import Compression


class Form(StrEnum):
    """What `compress` writes."""

    factors = "factors"
    lora = "lora"


_STORED = {"same": "not at all: the base's", "whole": "whole", "factors": "factors"}


def compress(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model that the expert was tuned from.")],
    expert: Annotated[str, typer.Argument(metavar="EXPERT", help="A model folder, or a hub id.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    experts: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Keep one Nth of the directions: for N experts kept together."),
    ] = None,
    fraction: Annotated[float | None, typer.Option(help="Keep this fraction of the directions, as 0.1.")] = None,
    rank: Annotated[int | None, typer.Option(help="Keep so many directions of each matrix.")] = None,
    energy: Annotated[
        float | None, typer.Option(help="Keep as many as make up this share of a matrix's sum of squares, as 0.95.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the factors: auto, float32, float16 or bfloat16.")] = "auto",
    form: Annotated[
        Form, typer.Option("--as", help="factors, for merges here; or a LoRA adapter, for PEFT too.")
    ] = Form.factors,
) -> None:
    """Store an expert as the leading singular directions of its task vector.

    The folder is an expert for recipes and configs, beside the same base. Give one of --experts, --fraction
    (TSV-Compress), --rank and --energy (truncated SVD). Embeddings, heads and what isn't a matrix stay whole.
    An adapter (--as lora) changes linear layers alone: what that leaves out is said.

    **Examples:** `evomerge compress base-7b swahili-7b swahili-small --experts 8`,
    `evomerge compress base-7b swahili-7b swahili-lora --as lora --rank 16`
    """
    given = {"--experts": experts, "--fraction": fraction, "--rank": rank, "--energy": energy}
    if sum(value is not None for value in given.values()) != 1:
        raise typer.BadParameter(f"give one of {', '.join(given)}")
    from evomerge.cli.console import say, stdout
    from evomerge.cli.screens import transfer
    from evomerge.models.checkpoint import Checkpoint
    from evomerge.models.compress import compress as write
    from evomerge.score.numbers import size

    if form is Form.lora:
        _lora(base, expert, out, experts, fraction, rank, energy, dtype)
        return
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
    say(
        console,
        f"{size(made.expert_bytes)} became {size(made.size_bytes)} ({share:.1%}); the task vector as a whole is "
        f"{made.error:.1%} off",
    )
    echo(f"Wrote {out}")


def _lora(
    base: str,
    expert: str,
    out: Path,
    experts: int | None,
    fraction: float | None,
    rank: int | None,
    energy: float | None,
    dtype: str,
) -> None:
    """Write an adapter, and say what it holds and what it leaves out."""
    from evomerge.cli.console import stdout
    from evomerge.cli.screens import transfer
    from evomerge.methods.spectral.compress import Truncation
    from evomerge.models.checkpoint import Checkpoint
    from evomerge.models.compress_lora import compress_to_lora
    from evomerge.score.numbers import size

    if experts is not None:
        fraction = 1.0 / experts
    with transfer(f"compressing to {out}") as progress:
        made = compress_to_lora(
            base, expert, out, Truncation(rank=rank, fraction=fraction, energy=energy), dtype=dtype, progress=progress
        )
    stdout().print(_adapted(made, Checkpoint.open(base).layout), "")
    if made.left_out:
        echo(
            f"An adapter changes linear layers alone: {made.left_out:.1%} of the change (its sum of squares) lies in "
            "other tensors and is left out"
        )
    echo(
        f"{size(made.expert_bytes)} became {size(made.size_bytes)} ({made.size_bytes / made.expert_bytes:.1%}); the "
        f"task vector as a whole is {made.error:.1%} off"
    )
    echo(f"Wrote {out}: a LoRA adapter of rank {made.rank}")


def _adapted(made: LoraCompression, layout: Layout) -> Table:
    """Changed tensors by kind of module, and what an adapter keeps of them."""
    from evomerge.cli.console import table

    found: dict[tuple[str, bool], list[str]] = {}
    for name, tensor in made.tensors.items():
        found.setdefault((layout.place(name).kind, tensor.rank is not None), []).append(name)
    total = sum(tensor.change for tensor in made.tensors.values())
    shown = table("kind", "stored", "tensors", "share of change", "rank", "error", right=("tensors", "share of change"))
    for (kind, adapted), names in sorted(found.items()):
        tensors = [made.tensors[name] for name in names]
        change, lost = sum(tensor.change for tensor in tensors), sum(tensor.lost for tensor in tensors)
        row = [kind, "factors" if adapted else "left out", str(len(tensors)), f"{change / total:.1%}"]
        if adapted:
            ranks = sorted({tensor.rank or 0 for tensor in tensors})
            span = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
            row += [span, f"{(lost / change) ** 0.5:.1%}"]
        shown.add_row(*row)
    return shown


def _kinds(made: Compression, layout: Layout) -> Table:
    """Tensors by kind of module and how they are stored, with sizes, ranks and errors."""
    from statistics import median

    from evomerge.cli.console import table
    from evomerge.score.numbers import size

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
