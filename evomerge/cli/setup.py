"""`evomerge init`, `methods`, `check` and `prefetch`: before a search."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from evomerge.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from evomerge.methods.base import MergeMethod
    from evomerge.study.check import Preflight
    from evomerge.study.experiment import Experiment

_SHOWN_DIMENSIONS = 12


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The config to write.")] = Path("evomerge.yaml"),
    genome: Annotated[
        Path | None, typer.Option("--from", metavar="GENOME", help="A mergekit-evolve file to start from.")
    ] = None,
) -> None:
    """Write a commented starter config: every key with its meaning and its default.

    With `--from` it is the search that a mergekit-evolve file describes, with comments on what couldn't be taken over.

    **Examples:** `evomerge init swahili.yaml`, `evomerge init swahili.yaml --from genome.yaml`
    """
    if genome is None:
        text = files("evomerge.cli").joinpath("starter.yaml").read_text(encoding="utf-8")
    else:
        text = _converted(genome)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise ConfigError(f"{file}: exists already; give another name: evomerge init NAME.yaml") from None
    todo = "Fill in models and tasks" if genome is None else "See the comments at its top"
    typer.echo(f"Wrote {file}. {todo}, then: evomerge check {shlex.quote(str(file))}")


def _converted(genome: Path) -> str:
    from evomerge.mergekit.genome import genome_to_config

    try:
        text = genome.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{genome}: can't be read: {error.strerror}") from error
    return genome_to_config(text, where=str(genome), folder=genome.parent)


def methods(
    name: Annotated[str | None, typer.Argument(metavar="METHOD", help="One of them.", show_default=False)] = None,
) -> None:
    """List the merge methods, or show what one of them takes: coefficients that can be searched, and fixed options.

    **Examples:** `evomerge methods`, `evomerge methods ties`
    """
    from evomerge.cli.console import stdout, table
    from evomerge.methods import METHODS

    console = stdout()
    if name is not None:
        _show_method(console, METHODS.get(name))
        return
    made = table("method", "what it does", "coefficients")
    for known in METHODS:
        method: type[MergeMethod] = METHODS.get(known)
        made.add_row(known, Text(method.summary), ", ".join(parameter.name for parameter in method.parameters))
    console.print(made)


def _show_method(console: Console, method: type[MergeMethod]) -> None:
    from evomerge.cli.console import table

    console.print(Text.assemble((method.name, "bold"), f": {method.summary}"))
    console.print(Text(method.source, style="dim"))
    if method.parameters:
        made = table("coefficient", "default", "searched", "defined", "meaning", right=("default",))
        for parameter in method.parameters:
            low, high = ("" if bound is None else f"{bound:g}" for bound in (parameter.minimum, parameter.maximum))
            made.add_row(
                parameter.name,
                f"{parameter.default:g}",
                f"{parameter.low:g} to {parameter.high:g}",
                f"{low or '-∞'} to {high or '∞'}",
                Text(parameter.description + (" One for each expert." if parameter.per_expert else "")),
            )
        console.print("", made)
    if method.options:
        made = table("option", "default", "choices", "meaning")
        for option in method.options:
            choices = ", ".join(map(_yaml, option.choices or ()))
            made.add_row(option.name, _yaml(option.default), choices, Text(option.description))
        console.print("", made)


def _yaml(value: bool | int | float | str) -> str:
    """A value as a config writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def prefetch(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The experiment's YAML file.", show_default=False)],
) -> None:
    """Download what a config needs, models and benchmark data, for a cluster without network.

    **Example:** `evomerge prefetch configs/swahili.yaml`
    """
    from evomerge.cli.console import size, stdout
    from evomerge.config.config import Config
    from evomerge.study.prefetch import prefetch as fetch

    states = {
        "folder": "a folder, left where it is",
        "cached": "was in the cache",
        "downloaded": "downloaded",
        "ready": "ready",
        "failed": "failed",
    }
    console = stdout()
    failed = 0
    for found in fetch(Config.from_file(config), where=str(config)):
        named = f"{found.name}: {found.source}" if found.kind == "model" else found.name
        bytes_ = "" if found.size_bytes is None else f", {size(found.size_bytes)}"
        console.print(Text.assemble((found.kind, "dim"), f" {named}: ", states[found.state], bytes_))
        if found.problem is not None:
            failed += 1
            console.print(Text(f"  {found.problem}", style="yellow"))
    if failed:
        raise ConfigError(f"{config}: {failed} of its models and tasks couldn't be had; the reasons are above")
    console.print(
        "Everything is here. Where there is no network, share the cache folder (HF_HOME) and set HF_HUB_OFFLINE=1 and "
        "HF_DATASETS_OFFLINE=1.",
        markup=False,
    )


def check(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The experiment's YAML file.", show_default=False)],
    pilot: Annotated[
        bool, typer.Option("--pilot", help="Also time one candidate, to estimate the whole search.")
    ] = False,
    dimensions: Annotated[bool, typer.Option("--dimensions", help="List every searched coefficient.")] = False,
) -> None:
    """Validate a config and show its cost: dimensions, groups, memory, disk. Runs nothing without --pilot.

    Works without network: models that aren't on this machine are said to be so.

    **Example:** `evomerge check configs/swahili.yaml --pilot`
    """
    from evomerge.cli.console import stdout
    from evomerge.config.config import Config
    from evomerge.study.check import check as run_check

    experiment = Config.from_file(config)
    console = stdout()
    report = run_check(experiment, where=str(config))
    _show(console, report, every_dimension=dimensions)
    if pilot and report.experiment is None:
        raise ConfigError(f"{config}: the pilot needs every model on this machine; unresolved ones are listed above")
    if pilot and report.experiment is not None:
        _show_pilot(console, report.experiment, shared=bool(report.state_bytes))
    elif not report.unresolved:
        console.print(f"Nothing is wrong. Next: evomerge search {shlex.quote(str(config))}", markup=False)


def _show(console: Console, report: Preflight, *, every_dimension: bool) -> None:
    from evomerge.cli.console import size, table

    models = table("model", "from", "is", "size", right=("size",))
    # Messages are "path: why", one for each unresolved model, in their order.
    reasons = iter(report.unresolved)
    for model in report.models:
        if model.state == "unresolved":
            models.add_row(model.name, Text(model.path), next(reasons).rpartition(": ")[2], "", style="yellow")
        else:
            state = {"folder": "a folder", "cache": "in the hub's cache"}[model.state]
            models.add_row(model.name, Text(model.path), state, size(model.size_bytes or 0))
    console.print(models, "")
    if report.dimensions:
        console.print(_sizes(report), "")
        _show_dimensions(console, report, every=every_dimension)
    for note in report.notes:
        console.print(Text.assemble("Note: ", note))
    for warning in report.warnings:
        console.print(Text.assemble(("Warning: ", "yellow"), warning))
    if report.unresolved:
        console.print(
            Text.assemble(
                ("Unresolved models: ", "yellow"),
                "what depends on them (dimensions, memory, items) can't be checked here; the rest is right.",
            )
        )


_FORMS = {
    "shared": "prefixes shared by items",
    "packed": "answers that share their context",
    "plain": "nothing shared",
}


def _tokens(tokens: Mapping[str, int]) -> str:
    """What a candidate costs in each form, and which is taken."""
    (best, fewest), *others = tokens.items()
    rest = ", ".join(f"{count:,} with {_FORMS[form]}" for form, count in others if count > fewest)
    unless = "; tried out on the model when workers start" if best != "plain" else ""
    return f"{fewest:,} a candidate, with {_FORMS[best]}" + (f" ({rest}{unless})" if rest else "")


def _sizes(report: Preflight) -> Table:
    from evomerge.cli.console import size

    grid = Table.grid(padding=(0, 2))
    rows = [
        ("searched", f"{len(report.dimensions)} coefficients over {report.groups} parameter groups"),
        ("population", f"{report.population} candidates a generation"),
        ("evaluations", ", ".join(f"{count} {phase}" for phase, count in report.evaluations.items())),
    ]
    if report.items:
        rows.append(("items", ", ".join(f"{count} {split}" for split, count in report.items.items())))
    if report.tokens:
        rows.append(("tokens", _tokens(report.tokens)))
    rows.append(("runs", f"{'on Ray workers' if report.backend == 'ray' else 'in this process'}, in {report.dtype}"))
    if report.memory_bytes_per_worker is not None and report.live_bytes is not None:
        prepared = f" ({size(report.live_bytes)} live, the rest prepared)" if report.prepared_bytes else ""
        mapped = size(report.mapped_bytes or 0)
        rows.append(("memory", f"{size(report.memory_bytes_per_worker)} a worker{prepared} + {mapped} mapped, shared"))
        states = ""
        if report.state_bytes:
            states = f", {size(report.state_bytes)} prepared"
            where = f"{size(report.state_bytes)} once for the run, in {report.state_folder}"
            rows.append(("prepared", f"{where}; mapped, shared by the workers of a machine"))
        rows.append(("disk", f"{size(report.live_bytes)} for the export{states}; else the run directory is small"))
    for key, value in rows:
        grid.add_row(Text(key, style="dim"), Text(value))
    return grid


def _show_dimensions(console: Console, report: Preflight, *, every: bool) -> None:
    from evomerge.cli.console import table

    shown = report.dimensions if every else report.dimensions[:_SHOWN_DIMENSIONS]
    listed = table("coefficient", "from", "to", "start", right=("from", "to", "start"))
    for dimension in shown:
        listed.add_row(Text(dimension.name), f"{dimension.low:g}", f"{dimension.high:g}", f"{dimension.initial:g}")
    console.print(listed)
    if len(shown) < len(report.dimensions):
        console.print(f"and {len(report.dimensions) - len(shown)} more; all of them: --dimensions")
    console.print()


def _show_pilot(console: Console, experiment: Experiment, *, shared: bool) -> None:
    from evomerge.cli.console import duration, size
    from evomerge.study.pilot import pilot, time_preparing

    estimate = time_preparing(experiment)
    if estimate:
        console.print(f"preparing the method: about {duration(estimate)} by one worker, going by a few tensors")
    console.print("timing one candidate ...")
    report = pilot(experiment)
    phases = ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in report.seconds.items())
    console.print(f"one candidate: {duration(sum(report.seconds.values()))} ({phases}), peak {size(report.peak_bytes)}")
    if shared:
        among = "" if report.workers == 1 else ", which they share out"
        console.print(f"the method is prepared once for the run: {duration(report.prepare_s)} by one worker{among}")
    else:
        console.print(f"each worker prepares the method once: {duration(report.prepare_s)}")
    workers = "1 worker" if report.workers == 1 else f"{report.workers} workers"
    console.print(f"the whole search: about {duration(3600 * report.hours)} with {workers}, start-up aside")
