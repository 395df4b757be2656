"""`evomerge analyse`: the look at models before a search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from evomerge.cli.guard import echo
from evomerge.cli.settings import RunAhead, merged_ahead
from evomerge.errors import ConfigError, counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from evomerge.analysis.analyse import Analysis
    from evomerge.analysis.gradients import Gradients
    from evomerge.analysis.weights import GroupStatistics, Weights

_MAX_ROWS = 8
_MAX_EXPERTS_ABREAST = 4


class Spectra(StrEnum):
    """For how many layers singular values are found."""

    auto = "auto"
    all = "all"
    none = "none"


def analyse(
    models: Annotated[
        list[str],
        typer.Argument(metavar="CONFIG|MODELS...", help="A config, or a base and its experts: folders or hub ids."),
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write figures as one self-contained page.", show_default=False)
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Text of a task, or several times: gradients of the loss on it at every model, held in memory.",
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[
        bool,
        typer.Option("--tasks", help="Gradients on the right answers of the config's search items, by task, likewise."),
    ] = False,
    top: Annotated[
        float, typer.Option(help="Fraction of each expert's largest changes whose signs are counted by themselves.")
    ] = 0.2,
    spectra: Annotated[
        Spectra, typer.Option(help="Layers to decompose: as many as a budget of operations allows, all, or none.")
    ] = Spectra.auto,
    run: RunAhead = None,
) -> None:
    """Look at a base and its experts before a search: how far, how alike, how much in each other's way.

    Reads the weights alone, tensor by tensor, without a GPU. Adapters and compressed experts are models too.

    **Examples:** `evomerge analyse swahili.yaml --tasks`,
    `evomerge analyse base-7b maths-7b swahili-7b --json analysis.json`
    """
    from evomerge.analysis.analyse import analyse as look
    from evomerge.cli.console import stdout
    from evomerge.cli.screens import transfer

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise ConfigError(f"{json_file}: its folder isn't there; make it first")
    if html is not None:
        from evomerge.report.page import require_figures

        require_figures()
    given = _given(models, run)
    if tasks and isinstance(given, list):
        raise ConfigError("--tasks: needs a config that says which; without one give texts (--text FILE)")
    with transfer("reading the models") as progress:
        found = look(
            given,
            texts=_named(text or []),
            tasks=tasks,
            where=models[0],
            top=top,
            spectra=spectra.value,
            progress=progress,
        )
    show(stdout(), found)
    if json_file is not None:
        from evomerge.files.atomic import json_text, write_atomically

        write_atomically(json_file, json_text(found.to_dict()))
        echo(f"\nWrote {json_file}")
    if html is not None:
        from evomerge.analysis.analysis_page import analysis_page

        analysis_page(found).write(html)
        echo(f"Wrote {html}")


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Texts by the names of their files."""
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise ConfigError(f"--text {file}: a text of the name {file.stem!r} is given already; rename one")
        found[file.stem] = file
    return found


def _given(models: Sequence[str], run: Path | None) -> Any:
    """A config where one YAML file is given, with its recipes merged, or the models."""
    from evomerge.files.places import YAML_ENDS

    if len(models) == 1 and models[0].endswith(YAML_ENDS):
        from evomerge.config.config import Config

        config = Path(models[0])
        return merged_ahead(Config.from_file(config), config, run, lambda what: echo(what, err=True))
    if run is not None:
        raise ConfigError("--run: is where models of a config are merged first, and no config is given")
    return list(models)


def show(console: Console, found: Analysis) -> None:
    """Tables of experts, pairs, kinds and layers, and what they mean."""
    from evomerge.cli.console import say

    weights = found.weights
    whole = weights.whole
    say(
        console,
        f"{found.sources.base.path} and {counted(len(weights.experts), 'expert')}: "
        f"{whole.moments.entries:,} parameters in {counted(len(weights.tensors), 'tensor')}, "
        f"{counted(weights.depth, 'layer')}",
    )
    for made, note in _tables(weights, whole):
        console.print("", made, sep="\n")
        say(console, Text(note, style="dim"))
    if found.gradients is not None:
        for made, note in _gradient_tables(found.gradients):
            console.print("", made, sep="\n")
            say(console, Text(note, style="dim"))
        for note in found.gradients.notes:
            say(console, Text(note, style="dim"))
    if found.verdicts:
        say(console, Text("\nWhat it means", style="bold"))
        for verdict in found.verdicts:
            say(console, f"- {verdict.text}")


def _tables(weights: Weights, whole: GroupStatistics) -> Iterator[tuple[Table, str]]:
    """The tables, each with what its columns are."""
    yield (
        _experts(weights, whole),
        "distance: length of expert minus base; changed: share of entries; ranks: means over linear layers; 95% in: "
        "directions that hold 95% of the change",
    )
    if len(weights.experts) > 1:
        yield (
            _pairs(weights, whole),
            "conflicts: entries that both change, with different signs; outputs, inputs: overlap of the spaces that "
            "hold 95% of each change, 1 if one holds the other",
        )
    yield _groups(weights), f"conflicts: among entries in the top {weights.top:.0%} of at least two experts"


def _gradient_tables(found: Gradients) -> Iterator[tuple[Table, str]]:
    """Losses and descent by text or task, and how the gradients of two of them lie to each other."""
    from evomerge.cli.console import table

    columns = ("loss", "against gradient")
    made = table("model", "on", *columns, right=columns)
    for row, model in enumerate(found.models):
        for column, text in enumerate(found.texts):
            along = "" if row == 0 else _share(found.descent[row - 1, column])
            made.add_row(Text(model), Text(text), f"{found.losses[row, column]:.4f}", along)
    yield (
        made,
        "loss: nats per token, or per item with labels; against gradient: cosine of the task vector with the negative "
        "gradient at the base, 1 for one step of gradient descent",
    )
    if len(found.texts) < 2:
        return
    columns = ("cosine", "distance")
    made = table("gradients at", "on", *columns, right=columns)
    for row, model in enumerate(found.models):
        for one, two in itertools.combinations(range(len(found.texts)), 2):
            pair = Text(f"{found.texts[one]}, {found.texts[two]}")
            made.add_row(
                Text(model), pair, _share(found.cosines[row, one, two]), _number(found.distances[row, one, two])
            )
    yield made, "near 1, what helps one helps the other too; below 0, it harms it"


def _experts(weights: Weights, whole: GroupStatistics) -> Table:
    from evomerge.cli.console import table

    columns = ("distance", "of base", "changed", "stable rank", "eff. rank", "95% in")
    made = table("expert", *columns, right=columns)
    matrices, moments = whole.matrices, whole.moments
    for index, expert in enumerate(weights.experts):
        ranks = (
            ["–"] * 3
            if matrices is None
            else [
                _number(matrices.stable_rank[index]),
                _number(matrices.effective_rank[index]),
                _percent(matrices.rank_at_energy[index]),
            ]
        )
        made.add_row(
            Text(expert),
            _number(moments.norms[index]),
            _percent(moments.relative_norms[index]),
            _percent(moments.changed[index] / max(1, moments.entries)),
            *ranks,
        )
    return made


def _pairs(weights: Weights, whole: GroupStatistics) -> Table:
    from evomerge.cli.console import table

    largest = f"in top {weights.top:.0%}"
    columns = ("cosine", "conflicts", largest, "outputs", "inputs")
    made = table("pair", *columns, right=columns)
    moments, matrices = whole.moments, whole.matrices
    for one, two in itertools.combinations(range(len(weights.experts)), 2):
        shared = (
            ["–"] * 2
            if matrices is None
            else [_share(matrices.overlap_left[one, two]), _share(matrices.overlap_right[one, two])]
        )
        made.add_row(
            Text(f"{weights.experts[one]}, {weights.experts[two]}"),
            _share(moments.cosines[one, two]),
            _percent(moments.signs.pairs[one, two]),
            _percent(moments.top_signs.pairs[one, two]),
            *shared,
        )
    return made


def _groups(weights: Weights) -> Table:
    """Kinds, then blocks of layers: lengths relative to the base's, conflicts and interference."""
    from evomerge.cli.console import table

    experts = weights.experts if len(weights.experts) <= _MAX_EXPERTS_ABREAST else ("least", "most")
    columns = ("parameters", *experts, "conflicts", "interference")
    made = table("group", *columns, right=columns)
    made.title = "Change of each group, as a share of the base's length"
    rows = [(str(group.kind), group) for group in weights.kinds]
    rows += [(_layers(first, last), group) for first, last, group in weights.blocks(_MAX_ROWS)]
    for name, group in rows:
        lengths = group.moments.relative_norms.tolist()
        if experts is not weights.experts:
            lengths = [min(lengths), max(lengths)]
        made.add_row(
            name,
            f"{group.moments.entries:,}",
            *map(_percent, lengths),
            _percent(group.moments.top_signs.share),
            "–" if group.matrices is None else _share(float(group.matrices.interference)),
        )
    return made


def _layers(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first}-{last}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"


def _share(value: float) -> str:
    # Adding zero takes the sign from a zero.
    return "–" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2%}" if 0 < value < 0.01 else f"{value:.1%}"
