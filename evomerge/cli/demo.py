"""`evomerge demo`: from nothing to a tested, exported merge, offline."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.guard import stoppable


def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where everything goes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Trains, searches and draws items differently.")] = 0,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="Candidates to propose. Default: the demo config's.", show_default=False)
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="Smaller and shorter: shows that all works, not how well.")
    ] = False,
) -> None:
    """Train small models, search for their best merge, test and export it. Offline, in minutes.

    Run again, it takes up where it stopped; models are trained once.

    **Example:** `evomerge demo`
    """
    from evomerge.cli.console import stdout
    from evomerge.cli.results import finding, result_table
    from evomerge.cli.screens import searching, transfer
    from evomerge.config import Config
    from evomerge.demo.build import build_demo
    from evomerge.export import export
    from evomerge.search import search

    console = stdout()
    run, exported = directory / "run", directory / "winner"
    again = f"evomerge demo {shlex.quote(str(directory))}"
    with stoppable(run, start=again):
        with _building() as stages:
            path = build_demo(directory, seed=seed, small=small, progress=stages)
        config = Config.from_file(path)
        if evaluations is not None:
            config = config.model_copy(update={"search": config.search.model_copy(update={"evaluations": evaluations})})
        with searching(run, title="evomerge demo") as observer:
            result = search(config, run, observer=observer, where=str(path))
        if not exported.exists():
            with transfer("exporting the winner") as progress:
                export(run, exported, progress=progress)
    console.print()
    console.print(result_table(result.data))
    console.print(finding(result.data), markup=False)
    console.print()
    for what, where in (
        ("The winner is a model folder:", exported),
        ("It was made by this experiment:", path),
        ("Everything about the search is in:", run),
    ):
        console.print(f"{what:<36}{where}", markup=False)
    console.print()
    console.print("Next, try:")
    for command in (
        f"evomerge trials {shlex.quote(str(run))}",
        f"evomerge resume {shlex.quote(str(run))} --evaluations {2 * config.search.evaluations}",
        f"evomerge check {shlex.quote(str(path))}",
        "evomerge init my-experiment.yaml",
    ):
        console.print(f"  {command}", markup=False)


@contextmanager
def _building() -> Iterator[Callable[[str, int, int], None]]:
    """Progress of making the demo's models: a bar per stage on a terminal, else a line per stage."""
    from evomerge.cli.console import stdout

    console = stdout()
    if not console.is_terminal:
        seen: set[str] = set()

        def say(stage: str, done: int, total: int) -> None:
            if stage not in seen:
                seen.add(stage)
                console.print(stage, markup=False)
                console.file.flush()

        yield say
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield draw
