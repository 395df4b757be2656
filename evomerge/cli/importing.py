"""`evomerge import`: models in other tools' files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.guard import echo


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="The model as llama.cpp keeps it.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to make.")],
    dtype: Annotated[
        str,
        typer.Option(
            help="Of the weights: float32, float16, bfloat16, or auto: the file's own, bfloat16 where it is quantised."
        ),
    ] = "auto",
) -> None:
    """Write a GGUF file as a model folder with its tokenizer, and say what was lost.

    Causal language models of the architectures that transformers reads. Needs `pip install 'evomerge[gguf]'`.

    **Example:** `evomerge import swahili-7b-Q4_K_M.gguf swahili-7b`
    """
    from evomerge.models.gguf import import_gguf

    made = import_gguf(file, out, dtype=dtype)
    total = sum(made.types.values())
    for note in made.notes:
        echo(f"Note: {note}")
    echo(f"Wrote {out}: {made.architecture}, {total:,} numbers in {made.dtype}, and its tokenizer")
