"""`evomerge control`: what a search found against random and uniform merges at the same cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli import complete
from evomerge.cli.guard import stoppable

if TYPE_CHECKING:
    from evomerge.study.control import Control

_NAMES = "random", "uniform"


def control(
    directory: Annotated[
        Path,
        typer.Argument(metavar="RUN", autocompletion=complete.runs, help="A run that has ended.", show_default=False),
    ],
) -> None:
    """Compare a search's winner with random and with uniform merges that cost as many answers.

    Both are searches of their own over the same models and items, in RUN/control. The same command goes on with them.

    **Example:** `evomerge control runs/swahili`
    """
    from evomerge.cli.console import say, stdout, table
    from evomerge.cli.screens import searching
    from evomerge.run.directory import open_run
    from evomerge.score.numbers import interval, probability

    # A wrong folder is refused before libraries are loaded.
    open_run(directory)
    where = directory / "control"
    with stoppable(*(where / name / "run.json" for name in _NAMES)), searching(where, title=str(where)) as screen:
        from evomerge.study.control import control as run_controls

        found = run_controls(directory, observer=screen.turn_to)
    made = table(
        "control",
        "score",
        "winner's lead",
        "paired p",
        title=f"The winner against merges at the cost of {found[0].evaluations}, on the same test items",
        right=("score", "winner's lead", "paired p"),
    )
    for each in found:
        lead = interval(each.difference, each.interval, signed=True)
        made.add_row(_words(each), f"{each.score:.3f}", lead, probability(each.p))
    console = stdout()
    console.print("", made, "", sep="\n")
    for each in found:
        verdict = "better than" if each.difference > 0 else "worse than"
        if each.p_holm >= 0.05:
            verdict = "not clearly different from"
        say(console, f"The winner is {verdict} the {_words(each)} (corrected p {probability(each.p_holm)}).")
    say(console, f"\nall figures: {directory / 'control.json'}")


def _words(control: Control) -> str:
    # Every search also scores uniform merges at its start, and one of them may be a random search's best.
    return "best of a random search" if control.name == "random" else f"best of {control.merges} uniform merges"
