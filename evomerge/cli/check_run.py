"""`evomerge check RUN`: whether the files of a run are whole, and what can be kept of damaged ones."""

from __future__ import annotations

import shlex
from pathlib import Path

from evomerge.errors import RunError, counted


def check_run(directory: Path, *, repair: bool) -> None:
    """Say that every file of a run is whole and that they agree, or repair it.

    Raises: RunError naming each file that isn't, or what can't be repaired.
    """
    from evomerge.cli.console import say, stdout
    from evomerge.run.consistency import problems
    from evomerge.run.directory import has_records, open_run
    from evomerge.run.repair import ASIDE
    from evomerge.run.repair import repair as keep_what_is_good

    if not (directory / "run.json").exists() and not has_records(directory):
        raise RunError(
            f"{directory}: is a folder, and no run directory: there is no run.json in it; give a run directory or a "
            "config's file"
        )
    console = stdout()
    told = keep_what_is_good(directory) if repair else []
    for sentence in told:
        say(console, sentence)
    if told:
        say(console, f"The files as they were are in {directory / ASIDE}.")
    found = problems(directory)
    if found:
        raise RunError("\n".join(found))
    run = open_run(directory)
    if lost := run.ledger().lost:
        say(
            console,
            f"The evaluations of {counted(len(lost), 'trial')} are lost; they are made again when the search goes on.",
        )
    quoted = shlex.quote(str(directory))
    following = f"export {quoted} OUT" if run.has_ended() and not lost else f"resume {quoted}"
    say(console, f"{directory}: every line can be read, and the files agree. Next: evomerge {following}")
