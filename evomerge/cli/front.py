"""A search for several objectives on the screen: its front, its picks, and what their test showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from evomerge.cli.console import table
from evomerge.run.trial import TrialKind

if TYPE_CHECKING:
    from evomerge.run.directory import Run
    from evomerge.run.ledger import Ledger
    from evomerge.run.records import TrialRecord
    from evomerge.score.goals import Goals

_SHOWN = 8


def number(value: float | None) -> str:
    """A value of an objective, in at most eight characters."""
    if value is None:
        return ""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def picks_table(result: Mapping[str, Any]) -> Table:
    """Each baseline and each picked merge with its objectives on the test items."""
    names = [*result["objectives"]]
    made = table("model", *names, title="On test items, held out", right=tuple(names))
    less = [name for name, facts in result["objectives"].items() if not facts["higher_is_better"]]
    notes = [f"less is better: {', '.join(less)}"] if less else []
    rows = {row["trial"]: row for row in [*result["front"], *result["baselines"]]}
    picks: dict[int, list[str]] = {}
    for pick, trial in result["picks"].items():
        picks.setdefault(trial, []).append(pick)
    for row in result["baselines"]:
        if row["trial"] not in picks:
            made.add_row(Text(_baseline(row)), *_values(row, names))
    for trial, ways in picks.items():
        missed = not rows[trial].get("test", {}).get("feasible", True)
        notes += ["*: misses constraints"] if missed and "*: misses constraints" not in notes else []
        label = f"trial {trial}{'*' if missed else ''}: {', '.join(ways)}"
        made.add_row(Text(label), *_values(rows[trial], names), style="bold")
    if notes:
        made.caption = Text("; ".join(notes))
    return made


def front_so_far(run: Run) -> tuple[list[tuple[str, str]], Table | None]:
    """The front so far in words, and its members in a table; nothing and None without several objectives."""
    goals = run.config.search.goals
    if not goals.are_several:
        return [], None
    # Read once: a run is large, and may grow between two looks.
    ledger = run.ledger()
    return _size(ledger, goals), _members(ledger, goals)


def _size(ledger: Ledger, goals: Goals) -> list[tuple[str, str]]:
    """How many merges are on the front and what they take in; empty before a baseline has a score."""
    from evomerge.run.fronts import history_of

    history = history_of(ledger, goals)
    if history is None or not history.steps:
        return []
    last = history.steps[-1]
    size = (
        "no merge meets the constraints yet"
        if not last.size
        else "1 merge"
        if last.size == 1
        else f"{last.size} merges"
    )
    return [("front", f"{size}, hypervolume {last.hypervolume:.4g}")]


def _members(ledger: Ledger, goals: Goals) -> Table | None:
    """The front on the search items, at most some members spread over it; None without one."""
    from evomerge.run.fronts import front_of, merges_of, points_of
    from evomerge.score.pareto import spread

    members = front_of(merges_of(ledger))
    if not members:
        return None
    names = [goal.name for goal in goals.goals]
    made = table("trial", *names, right=("trial", *names))
    shown = spread(points_of(members), _SHOWN)
    for member in (members[place] for place in shown):
        made.add_row(str(member.trial), *(number(member.measured.get(name)) for name in names))
    if len(members) > len(shown):
        made.caption = Text(f"{len(shown)} of {len(members)}; all: evomerge trials --front")
    return made


def front_data(run: Run) -> dict[str, Any] | None:
    """The front so far and how it grew, as plain data; None without several objectives."""
    from dataclasses import asdict

    from evomerge.run.fronts import front_of, history_of, merges_of

    goals = run.config.search.goals
    if not goals.are_several:
        return None
    ledger = run.ledger()
    history = history_of(ledger, goals)
    return {
        "objectives": {goal.name: {"higher_is_better": goal.higher_is_better} for goal in goals.goals},
        "front": [{"trial": one.trial, "measured": dict(one.measured)} for one in front_of(merges_of(ledger))],
        "hypervolume": None
        if history is None
        else {"reference": dict(history.reference), "steps": [asdict(step) for step in history.steps]},
    }


def objective_cells(record: TrialRecord, names: Sequence[str]) -> list[str]:
    """A trial's values on the search items, in the order of the objectives."""
    return [number(record.measured.get(name)) for name in names]


def _baseline(row: Mapping[str, Any]) -> str:
    if row["kind"] == TrialKind.EXPERT:
        return f"expert {row['name']}"
    return "best uniform" if row["kind"] == TrialKind.UNIFORM else str(row["name"])


def _values(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    found = row.get("test", {}).get("objectives", {})
    return [number(found.get(name)) for name in names]
