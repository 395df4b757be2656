"""`evomerge search` and `evomerge resume`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli import complete
from evomerge.cli.guard import stoppable
from evomerge.cli.settings import Settings, run_directory

if TYPE_CHECKING:
    from evomerge.study.search import Result

_EVALUATIONS = "New total number of candidates to propose; a budget can only grow."
_ITEMS = "New total number of search items that candidates may answer, of a run that limits them."
_GPU_HOURS = "New limit in hours of driving times GPUs, summed over all sessions."
_HOURS = "New limit in hours of driving, summed over all sessions."


_NEXT = (("export", " OUT"), ("report", ""), ("trials", ""))


def search(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", autocompletion=complete.configs, help="The experiment's YAML file.", show_default=False
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Run directory; made if missing. Default: `runs/` and the config's name."),
    ] = None,
    set_: Settings = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="Wait this long for another search in RUN to end.")
    ] = 0.0,
) -> None:
    """Search for merge coefficients, choose a winner and test it.

    The same command again continues where it stopped, and changes nothing once it has ended. The run directory keeps
    the config with what --set changes in it, and `evomerge resume` goes by that.

    **Examples:** `evomerge search configs/swahili.yaml --run runs/swahili`,
    `evomerge search configs/swahili.yaml --run runs/seed-1 --set search.seed=1`
    """
    from evomerge.cli.screens import searching
    from evomerge.config.config import Config

    directory = run_directory(config, run)
    experiment = Config.from_file(config, settings=set_ or ())
    with _resumable(directory), searching(directory, title=str(directory)) as observer:
        # Takes seconds, in which something is on the screen already.
        from evomerge.study.search import search as run_search

        result = run_search(experiment, directory, observer=observer, where=str(config), wait_s=wait)
    show(result)


def resume(
    directory: Annotated[
        Path, typer.Argument(metavar="RUN", autocompletion=complete.runs, help="The run directory.", show_default=False)
    ],
    evaluations: Annotated[int | None, typer.Option(min=1, help=_EVALUATIONS, show_default=False)] = None,
    hours: Annotated[float | None, typer.Option(min=0, help=_HOURS, show_default=False)] = None,
    items: Annotated[int | None, typer.Option(min=1, help=_ITEMS, show_default=False)] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0, help=_GPU_HOURS, show_default=False)] = None,
) -> None:
    """Continue a search from its run directory alone, if you like with a larger budget.

    **Example:** `evomerge resume runs/swahili --evaluations 1000`
    """
    from evomerge.cli.screens import searching
    from evomerge.run.directory import open_run

    # A wrong folder is refused before libraries are loaded.
    open_run(directory)
    with _resumable(directory), searching(directory, title=str(directory)) as observer:
        from evomerge.study.search import resume as run_resume

        result = run_resume(
            directory, evaluations=evaluations, hours=hours, items=items, gpu_hours=gpu_hours, observer=observer
        )
    show(result)


def _resumable(directory: Path) -> AbstractContextManager[None]:
    return stoppable(directory / "run.json", again=f"evomerge resume {shlex.quote(str(directory))}")


def show(result: Result, *, files: Mapping[str, Path] | None = None, commands: Sequence[str] = ()) -> None:
    """Print the table of the test, what was found, where things are and what can be done next.

    `files` and `commands` replace those that fit any search.
    """
    from rich.text import Text

    from evomerge.cli.console import say, stdout
    from evomerge.cli.results import outcome
    from evomerge.report.all_alike import all_alike
    from evomerge.report.finding import cautions
    from evomerge.run.directory import open_run

    directory = shlex.quote(str(result.directory))
    console = stdout()
    made, found = outcome(result.data)
    console.print("", made, "", sep="\n")
    say(console, found)
    for caution in cautions(result.data):
        say(console, f"\n{caution}")
    run = open_run(result.directory)
    remark = all_alike(run, (trial.score for trial in run.trials() if trial.score is not None))
    if remark is not None:
        say(console, f"\n{remark}")
    console.print()
    won = f"trial {result.winner} {'is the knee of the front' if 'picks' in result.data else 'won'}; all figures"
    for what, where in (files or {won: result.directory / "result.json"}).items():
        say(console, f"{what}: {where}")
    say(console, "\nNext:")
    following = tuple(f"evomerge {name} {directory}{out}" for name, out in _NEXT)
    for command in commands or following:
        say(console, Text(f"  {command}", style="cyan"), wrapped=False)
