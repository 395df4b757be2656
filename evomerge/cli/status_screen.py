"""What `evomerge status` shows of a run, as a screen and as a line."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from evomerge.cli.console import sparkline
from evomerge.cli.front import front_so_far
from evomerge.cli.names import leader_name
from evomerge.run.trial import TrialKind
from evomerge.score.numbers import duration, score

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evomerge.run.directory import Run
    from evomerge.run.records import RunStatus, TrialRecord
    from evomerge.run.workers import WorkerNow

_TIMED = "asynchronous: which candidates there are depends on timing"

_SHOWN = 8
"""Workers that have a line of their own."""


def screen(run: Run, status: RunStatus) -> RenderableType:
    """All that is known of a run."""
    grid = Table.grid(padding=(0, 2))
    best, median = status.best, status.median
    several = run.config.search.goals.are_several
    whose = "of the candidates asked last" if run.config.search.is_asynchronous else "in the last generation"
    front, members = front_so_far(run)
    rows: list[tuple[str, str | None]] = [
        ("run", str(run.directory)),
        ("phase", phase_of(run, status)),
        ("error", status.error),
        ("driver", status.driver if status.driver_alive else None),
        ("elapsed", f"{duration(status.driven_s)} of driving" if status.driven_s >= 0.05 else None),
        ("candidates", _candidates(status)),
        ("mode", _TIMED if run.config.search.is_asynchronous else None),
        ("items", _items(status, "candidates" if run.config.search.is_asynchronous else "generations")),
        *front,
        ("best", None if best is None or several else _best(best)),
        (
            "median",
            None if median is None or several else f"fitness {score(median)} {whose}",
        ),
        ("progress", _progress(status) if not several else None),
        ("failures", _failures(status)),
        ("rate", f"{status.rate_per_minute:.1f} a minute" if status.rate_per_minute and status.driver_alive else None),
        ("cost", _cost(status)),
        ("to come", _to_come(status)),
        ("time left", _time_left(status)),
        ("lost", _lost_workers(status)),
        ("workers", _workers(status)),
    ]
    for key, value in rows:
        if value is not None:
            grid.add_row(Text(key, style="dim"), Text(value, overflow="fold"))
    if status.workers:
        grid.add_row("", _each_worker(status.workers))
    if members is not None:
        grid.add_row("", members)
    if not status.leaders or several:
        return grid
    grid.add_row(Text("leaders", style="dim"), _leaders(status))
    return grid


def line(status: RunStatus) -> str:
    """Where a run is, in a line that stays the same while nothing happens."""
    parts = [status.phase, _candidates(status)]
    if status.best is not None:
        parts.append(f"best {score(status.best.score)}")
    return ", ".join(parts)


def pace(status: RunStatus) -> list[str]:
    """How busy workers are and how long it takes, which changes all the time."""
    parts = []
    if status.workers:
        busy = sum(worker.state == "working" for worker in status.workers)
        parts.append(f"{busy} of {len(status.workers)} workers busy")
    if status.seconds_left is not None:
        parts.append(f"about {duration(status.seconds_left)} left")
    return parts


def phase_of(run: Run, status: RunStatus) -> str:
    """What a run does, or where it has ended."""
    if status.driver_alive:
        return status.phase
    if run.has_ended():
        return "done"
    during = "" if status.phase in {"not started", "not continued"} else f" during {status.phase}"
    return f"stopped{' by an error' if status.stopped_by == 'error' else ''}{during}"


def _leaders(status: RunStatus) -> RenderableType:
    """The best of each kind with its score on the search items."""
    made = Table.grid(padding=(0, 2))
    made.add_column()
    made.add_column(justify="right", no_wrap=True)
    made.add_column(no_wrap=True)
    for kind, trial in status.leaders.items():
        made.add_row(leader_name(kind), score(trial.score), f"trial {trial.number}")
    return made


def _candidates(status: RunStatus) -> str:
    about = "about " if status.items_budget is not None and status.finished < status.budget else ""
    parts = [f"{status.finished} of {about}{status.budget} done"]
    for count, what in (
        (status.running, "running"),
        (status.interrupted, "interrupted"),
        (status.failed, "failed"),
        (status.pruned, "pruned"),
    ):
        if count:
            parts.append(f"{count} {what}")
    return ", ".join(parts)


def _items(status: RunStatus, turns: str) -> str | None:
    """Search items that candidates have answered, in turns that have ended."""
    if status.items is None:
        return None
    limit = "" if status.items_budget is None else f" of {status.items_budget:,}"
    return f"{status.items:,}{limit} item evaluations in {turns} that have ended"


def _best(best: TrialRecord) -> str:
    kinds = {
        TrialKind.CANDIDATE: "a candidate",
        TrialKind.ELITE: "a candidate",
        TrialKind.START: "the start",
        TrialKind.SURROGATE: "a merge of the surrogate's",
        TrialKind.METHOD: f"a merge of another method ({best.name})",
    }
    kind = kinds.get(best.kind, "a uniform merge")
    return f"trial {best.number}, {kind}: score {score(best.score)}, fitness {score(best.fitness)}"


def _progress(status: RunStatus) -> str | None:
    """The best fitness so far after each generation; nothing to see before the second."""
    return f"{sparkline(status.history)} best fitness so far" if len(status.history) > 1 else None


def _failures(status: RunStatus) -> str | None:
    """How many failed for which reason, and what was wrong with the last of them."""
    if not status.failures:
        return None
    return f"{', '.join(f'{count} {reason}' for reason, count in status.failures.items())}; last {status.last_failure}"


def _cost(status: RunStatus) -> str | None:
    return f"{status.gpu_hours:.2f} GPU hours so far" if status.gpu_hours else None


def _to_come(status: RunStatus) -> str | None:
    """The evaluations of the whole run that are still to come."""
    parts = [f"{count} {phase}" for phase, count in status.to_come.items() if count]
    if not parts:
        return None
    most = "at most " if status.to_come.get("test") else ""
    return f"{most}{', '.join(parts)} evaluations"


def _time_left(status: RunStatus) -> str | None:
    if status.seconds_left is None:
        return None
    gpus = "" if status.gpu_hours_left is None else f", {status.gpu_hours_left:.2f} GPU hours,"
    return f"about {duration(status.seconds_left)}{gpus} for all that is to come"


def _lost_workers(status: RunStatus) -> str | None:
    """How many workers were lost at candidates, and why."""
    counts = ", ".join(f"{count} {reason}" for reason, count in status.lost_workers.items())
    return f"workers: {counts}" if counts else None


def _workers(status: RunStatus) -> str | None:
    """How many do what, and how busy they were."""
    if not status.workers:
        return None
    states = Counter(worker.state for worker in status.workers)
    parts = [f"{states[state]} {state}" for state in ("working", "idle", "starting") if states[state]]
    busy = "" if status.utilisation is None else f"; busy {status.utilisation:.0%} of their time in this session"
    return ", ".join(parts) + busy


def _each_worker(workers: tuple[WorkerNow, ...]) -> RenderableType:
    """What the first of them do."""
    made = Table.grid(padding=(0, 2))
    for worker in workers[:_SHOWN]:
        made.add_row(Text(worker.name, overflow="fold"), _doing(worker), duration(worker.seconds))
    if len(workers) > _SHOWN:
        made.add_row(f"and {len(workers) - _SHOWN} more: --json")
    return made


def _doing(worker: WorkerNow) -> str:
    if worker.trial is None:
        return worker.state
    match worker.blocks:
        case None:
            blocks = ""
        case (block,):
            blocks = f", block {block}"
        case several:
            blocks = f", {len(several)} blocks"
    return f"trial {worker.trial}, {worker.split} items{blocks}"
