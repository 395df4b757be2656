"""`evomerge demo`: from nothing to a tested, exported merge, offline."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.guard import echo, stoppable

if TYPE_CHECKING:
    from evomerge.config.config import Config


def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where everything goes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Trains, searches and draws items differently.")] = 0,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="Candidates to propose. Default: the demo config's.", show_default=False)
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="Smaller and shorter, with easier sums: shows that all works, on few items.")
    ] = False,
) -> None:
    """Train small models, search for their best merge, test and export it. Offline, in minutes.

    Run again, it takes up where it stopped; models are trained once.

    **Example:** `evomerge demo`
    """
    # Saving models has a progress bar of its own, a line for each; ours says more.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from evomerge.cli.screens import searching, transfer
    from evomerge.cli.search import show
    from evomerge.config.config import Config

    run = directory / "run"
    # Before torch is imported, which takes seconds.
    echo(f"Everything goes to {directory}")
    with stoppable(run / "run.json"):
        with _building() as stages:
            from evomerge.demo.build import SMALL, build_demo

            path = build_demo(directory, seed=seed, settings=SMALL if small else None, progress=stages)
        config = _budgeted(Config.from_file(path), evaluations or _budget(run))
        with searching(run, title="evomerge demo") as observer:
            from evomerge.study.search import search

            result = search(config, run, observer=observer, where=str(path))
        # A demo that is continued with a larger budget may find another winner.
        winner = directory / f"winner-trial-{result.winner}"
        if not winner.exists():
            from evomerge.study.export import export

            with transfer("exporting the winner") as progress:
                export(run, winner, progress=progress)
    show(
        result,
        files={"the winner, a model folder": winner, "the experiment": path, "everything about the search": run},
        commands=(
            f"evomerge trials {shlex.quote(str(run))}",
            f"evomerge resume {shlex.quote(str(run))} --evaluations {2 * config.search.evaluations}",
            f"evomerge check {shlex.quote(str(path))} --dimensions",
            "evomerge init my-experiment.yaml",
        ),
    )


def _budgeted(config: Config, evaluations: int | None) -> Config:
    if evaluations is None:
        return config
    return config.model_copy(update={"search": config.search.model_copy(update={"evaluations": evaluations})})


def _budget(run: Path) -> int | None:
    """The budget of an earlier demo in the same folder, which may have been extended since."""
    if not (run / "run.json").exists():
        return None
    from evomerge.run.directory import open_run

    return open_run(run).config.search.evaluations


@contextmanager
def _building() -> Iterator[Callable[[str, int, int], None]]:
    """Progress of making the demo's models: a bar per stage on a terminal, else a line per stage."""
    from evomerge.cli.console import say, stdout

    console = stdout()
    if not console.is_terminal:
        seen: set[str] = set()

        def line(stage: str, done: int, total: int) -> None:
            if stage not in seen:
                seen.add(stage)
                say(console, stage)
                console.file.flush()

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                for earlier in tasks.values():
                    # A skill may be learnt in fewer steps than it was given.
                    bars.update(earlier, total=bars.tasks[earlier].completed)
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield draw
