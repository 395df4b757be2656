"""`evomerge runs`, `compare`, `clean` and `reproduce`: what has been searched, and what is left of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli import complete
from evomerge.cli.guard import echo
from evomerge.cli.models import Split
from evomerge.errors import EvomergeError, RunError

if TYPE_CHECKING:
    from evomerge.run.directory import Run


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to look.")] = Path(),
) -> None:
    """List the run directories below a folder: state, candidates, best search score, the winner's test score.

    **Example:** `evomerge runs runs`
    """
    from rich.text import Text

    from evomerge.cli.console import say, stdout, table
    from evomerge.run.directory import open_run
    from evomerge.run.found import runs_below

    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    numbers = ("candidates", "best", "test")
    made, broken, count = table("run", "state", *numbers, right=numbers), [], 0
    for path in runs_below(folder):
        count += 1
        name = str(path.relative_to(folder)) if path != folder else path.absolute().name
        try:
            made.add_row(*map(Text, (name, *_cells(open_run(path)))))
        except EvomergeError as error:
            made.add_row(Text(name), "can't be read", "", "", "")
            broken.append(str(error))
    if not count:
        raise RunError(f"{folder}: no run directory in it or below it")
    console = stdout()
    console.print(made)
    for problem in broken:
        say(console, f"\n{problem}")


def _cells(run: Run) -> tuple[str, str, str, str]:
    """State, candidates, the best score on search items and the winner's on test items."""
    from evomerge.score.numbers import score

    status, result = run.status(), run.result()
    ended = result is not None and run.has_ended()
    state = f"running: {status.phase}" if status.driver_alive else "done" if ended else f"stopped: {status.phase}"
    tested: list[dict[str, Any]] = result["test"]["models"] if result is not None and "picks" not in result else []
    won = next((model["score"] for model in tested if model["kind"] == "winner"), None)
    best = None if run.config.search.goals.are_several or status.best is None else status.best.score
    return state, f"{status.finished}/{status.budget}", score(best), score(won)


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="RUN", autocompletion=complete.runs, help="The run to compare with.")
    ],
    others: Annotated[list[Path], typer.Argument(metavar="RUN...", autocompletion=complete.runs, help="Other runs.")],
) -> None:
    """Compare runs with the first: their configs key by key, and their winners on the same test items, in pairs.

    Winners are compared in pairs only where items and bases have the same content; else it says why not.

    **Example:** `evomerge compare runs/seed-0 runs/seed-1`
    """
    import json

    from rich.text import Text

    from evomerge.cli.console import say, stdout, table
    from evomerge.report.compare import config_changes, why_not_paired, winners
    from evomerge.run.directory import open_run
    from evomerge.score.numbers import interval, probability

    console, one = stdout(), open_run(first)
    for number, path in enumerate(others):
        if number:
            console.print()
        other = open_run(path)
        changes = table("key", "first", "other", title=f"{path} against {first}")
        found = config_changes(one, other)
        for change in found:
            values = (json.dumps(value, ensure_ascii=False) for value in (change.first, change.second))
            changes.add_row(Text(change.key), *map(Text, values))
        if found:
            console.print(changes, "")
        else:
            say(console, f"{path} against {first}: their configs say the same\n")
        scores = table("test score", "first", "other", right=("first", "other"))
        names: dict[str, list[str]] = {}
        for place, run in enumerate((one, other)):
            result = run.result()
            for model in result["test"]["models"] if result is not None and "picks" not in result else ():
                names.setdefault(model["name"], ["–", "–"])[place] = interval(model["score"], model["interval"])
        for name, cells in names.items():
            scores.add_row(Text(name), *cells)
        if names:
            console.print(scores, "")
        if (reason := why_not_paired(one, other)) is not None:
            say(console, f"The winners aren't compared in pairs: {reason}.")
            continue
        paired = winners(one, other)
        lead = interval(paired.difference, paired.interval, signed=True)
        say(
            console,
            f"The other's winner against the first's, on the same test items: {lead}, p {probability(paired.p)}.",
        )
        say(console, "Items by which one run is preferred to another are no longer held out for it.")


def clean(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN|DIR", autocompletion=complete.runs, help="A run, or a folder with runs.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Remove it. Otherwise it is only listed.")] = False,
) -> None:
    """List, or with --yes remove, what runs can do without: prepared states, and halves of files of killed drivers.

    Prepared states are computed again when a search goes on or an export needs them. Models that were merged first go
    where their search hasn't begun. Results and records are never touched, nor are runs that a process is driving.

    **Examples:** `evomerge clean runs`, `evomerge clean runs/swahili --yes`
    """
    import shutil

    from evomerge.run.found import not_begun_below, removable, runs_below
    from evomerge.run.lock import is_locked, lock
    from evomerge.score.numbers import size

    found = [*runs_below(folder), *not_begun_below(folder)]
    if not found:
        raise RunError(f"{folder}: no run directory in it or below it")
    total = 0
    for run in found:
        if is_locked(run):
            echo(f"{run}: is being driven, and left alone")
            continue
        for item in removable(run):
            total += item.size_bytes
            echo(f"{item.path}: {size(item.size_bytes)}, {item.why}")
        if yes:
            with lock(run):
                for item in removable(run):
                    if item.path.is_dir() and not item.path.is_symlink():
                        shutil.rmtree(item.path)
                    else:
                        item.path.unlink(missing_ok=True)
    if not total:
        echo("Nothing to remove")
    else:
        echo(f"Removed {size(total)}" if yes else f"{size(total)} in all; to remove it: the same with --yes")


def reproduce(
    directory: Annotated[
        Path,
        typer.Argument(metavar="RUN", autocompletion=complete.runs, help="The run directory.", show_default=False),
    ],
    trial: Annotated[
        int | None, typer.Option(min=0, help="Another trial than the winner, by number.", show_default=False)
    ] = None,
    split: Annotated[Split, typer.Option(help="Items to answer again.")] = Split.test,
) -> None:
    """Score the winner again from the same files, and say whether each item and the score are what they were.

    Exit code 0 if they are to the last digit, 1 if not. Nothing in the run changes.

    **Example:** `evomerge reproduce runs/swahili`
    """
    from evomerge.study.reproduce import reproduce as again

    found = again(directory, trial=trial, split=split.value, report=lambda doing: echo(f"{doing} ...", err=True))
    if found.matches:
        echo(f"Trial {found.trial} scores {found.found!r} again, and each of {found.items} items what it did")
        return
    raise RunError(
        f"{directory}: trial {found.trial} scores {found.found!r} now and scored {found.recorded!r}; {found.differing} "
        f"of {found.items} items differ. The versions that the run had are in run.json"
    )
