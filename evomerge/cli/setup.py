"""`evomerge init`, `methods` and `prefetch`: before a search."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from evomerge.cli import complete
from evomerge.cli.configs import write_new
from evomerge.cli.guard import echo
from evomerge.cli.settings import Settings
from evomerge.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from evomerge.methods.base import MergeMethod


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The config to write.")] = Path("evomerge.yaml"),
    genome: Annotated[
        Path | None, typer.Option("--from", metavar="GENOME", help="A mergekit-evolve file to start from.")
    ] = None,
    analysis: Annotated[
        Path | None, typer.Option("--from-analysis", metavar="ANALYSIS", help="A file of evomerge analyse --json.")
    ] = None,
) -> None:
    """Write a commented starter config: every key with its meaning and its default.

    With `--from` it is the search that a mergekit-evolve file describes, with comments on what couldn't be taken over.
    With `--from-analysis` it has the models that were looked at, and starting weights and bounds by their distances
    from the base; first steps are there as comments.

    **Examples:** `evomerge init swahili.yaml`, `evomerge init swahili.yaml --from genome.yaml`
    """
    if genome is not None and analysis is not None:
        raise ConfigError("init: give --from or --from-analysis, not both")
    if genome is not None:
        text = _converted(genome)
    else:
        text = files("evomerge.cli").joinpath("starter.yaml").read_text(encoding="utf-8")
        if analysis is not None:
            text = _seeded(text, analysis)
    write_new(file, text.encode(), again="evomerge init NAME.yaml")
    todo = "See the comments at its top" if genome is not None else "Fill in models and tasks"
    if analysis is not None:
        todo = "Fill in tasks"
    echo(f"Wrote {file}. {todo}, then: evomerge check {shlex.quote(str(file))}")


def _seeded(starter: str, analysis: Path) -> str:
    """The starter config with what an analysis knows in place of its models and its bounds."""
    from evomerge.analysis.prior import prior_of

    prior = prior_of(analysis)
    head, rest = starter.split("models:\n", 1)
    _, rest = rest.split("\nmerge:\n", 1)
    merge, rest = rest.split("\nspace:\n", 1)
    space, rest = rest.split("\nbenchmark:\n", 1)
    models = [f"  base: {_quoted(prior.base)}", "  experts:"]
    models += [f"    {name}: {_quoted(folder)}" for name, folder in prior.experts.items()]
    models += [f"    # {name} is left out: it {reason}" for name, reason in prior.left_out.items()]
    shares = ", ".join(f"{cell} {share:.0%}" for cell, share in prior.shares.items())
    seeds = [
        f"  blocks: {prior.space.blocks}",
        "  # All experts change the base equally far with these weights.",
        f"  parameters: {{weight: {{low: 0.0, high: {prior.high:g}, start: {_flow(prior.starts)}}}}}",
        "  # First steps, larger where a weight moves the model less; in benchmarks/RESULTS.md they didn't help.",
        "  # steps:",
        *(f"  #   {name}: {step:g}" for name, step in prior.steps.items()),
        f"  # Where the change is, by squared length: {shares}",
    ]
    return "".join(
        (
            head,
            "models:\n" + "\n".join(models) + "\n",
            "\nmerge:\n" + merge,
            "\nspace:\n" + "\n".join(seeds) + "\n" + space,
            "\nbenchmark:\n" + rest,
        )
    )


def _quoted(folder: str) -> str:
    """A model as YAML, an absolute path where it is a folder here."""
    import json

    return json.dumps(str(Path(folder).absolute()) if Path(folder).is_dir() else folder, ensure_ascii=False)


def _flow(numbers: Mapping[str, float]) -> str:
    return "{" + ", ".join(f"{name}: {number:g}" for name, number in numbers.items()) + "}"


def _converted(genome: Path) -> str:
    from evomerge.files.outside import read_text
    from evomerge.mergekit.genome import genome_to_config

    return genome_to_config(read_text(genome, ConfigError), where=str(genome), folder=genome.parent)


def methods(
    name: Annotated[
        str | None,
        typer.Argument(metavar="METHOD", autocompletion=complete.methods, help="One of them.", show_default=False),
    ] = None,
) -> None:
    """List the merge methods, or show what one of them takes: coefficients that can be searched, and fixed options.

    **Examples:** `evomerge methods`, `evomerge methods ties`
    """
    from evomerge.cli.console import say, stdout, table
    from evomerge.methods import METHODS

    console = stdout()
    if name is not None:
        _show_method(console, METHODS.get(name))
        return
    made = table("method", "what it does (its coefficients)")
    for known in METHODS:
        method: type[MergeMethod] = METHODS.get(known)
        coefficients = ", ".join(parameter.name for parameter in method.parameters)
        made.add_row(known, Text(f"{method.summary} ({coefficients})" if coefficients else method.summary))
    console.print(made)
    say(console, "\nOne of them in full: evomerge methods NAME")


def _show_method(console: Console, method: type[MergeMethod]) -> None:
    from evomerge.cli.console import say, table

    say(console, Text.assemble((method.name, "bold"), f": {method.summary}"))
    say(console, Text(method.source, style="dim"))
    if method.parameters:
        made = table("coefficient", "meaning, default and range")
        for parameter in method.parameters:
            per_expert = " One for each expert." if parameter.per_expert else ""
            values = (
                f"Default {parameter.default:g}; searched from {parameter.low:g} to {parameter.high:g}; "
                f"{_range(parameter.minimum, parameter.maximum)}."
            )
            made.add_row(parameter.name, Text(f"{parameter.description}{per_expert}\n{values}"))
        console.print("", made)
    if method.options:
        made = table("option", "meaning, default and choices")
        for option in method.options:
            choices = f"; one of {', '.join(map(_yaml, option.choices))}" if option.choices else ""
            made.add_row(option.name, Text(f"{option.description}\nDefault {_yaml(option.default)}{choices}."))
        console.print("", made)


def _range(low: float | None, high: float | None) -> str:
    """The values for which a coefficient is defined."""
    if low is None and high is None:
        return "any number is allowed"
    if low is None or high is None:
        return f"allowed from {low:g} up" if low is not None else f"allowed up to {high:g}"
    return f"allowed from {low:g} to {high:g}"


def _yaml(value: bool | int | float | str) -> str:
    """A value as a config writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def prefetch(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", autocompletion=complete.configs, help="The experiment's YAML file.", show_default=False
        ),
    ],
    set_: Settings = None,
) -> None:
    """Download what a config needs, models and benchmark data, for a cluster without network.

    **Example:** `evomerge prefetch configs/swahili.yaml`
    """
    from evomerge.cli.console import say, stdout
    from evomerge.config.config import Config
    from evomerge.score.numbers import size
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
    for found in fetch(Config.from_file(config, settings=set_ or ()), where=str(config)):
        named = f"{found.name}: {found.source}" if found.kind == "model" else found.name
        bytes_ = "" if found.size_bytes is None else f", {size(found.size_bytes)}"
        say(console, Text.assemble((found.kind, "dim"), f" {named}: ", states[found.state], bytes_))
        if found.problem is not None:
            failed += 1
            say(console, Text(f"  {found.problem}", style="yellow"))
    if failed:
        raise ConfigError(f"{config}: {failed} of its models and tasks couldn't be had; the reasons are above")
    say(
        console,
        "Everything is here. Where there is no network, share the cache folder (HF_HOME) and set HF_HUB_OFFLINE=1 and "
        "HF_DATASETS_OFFLINE=1.",
    )
