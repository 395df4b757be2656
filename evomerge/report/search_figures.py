"""How a search went, as charts: scores candidate by candidate with their noise, fronts and their hypervolume, time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeVar

from evomerge.report.chart import Chart
from evomerge.report.figures import Numbers, number
from evomerge.report.plane import Level, Plane, Series
from evomerge.report.rows import Row, Rows
from evomerge.report.run_facts import RunFacts
from evomerge.run.fronts import front_of, history_of, merges_of
from evomerge.run.records import TrialRecord
from evomerge.run.trial import TrialKind, TrialState
from evomerge.score.numbers import duration

T = TypeVar("T")

MOST_POINTS = 1200
"""Candidates that are drawn as points; of more, evenly many of all."""
_LATER: dict[TrialKind, tuple[str, str]] = {
    TrialKind.ELITE: ("elite", "square"),
    TrialKind.MEAN: ("mean of the distribution", "diamond"),
    TrialKind.SURROGATE: ("surrogate's", "triangle-up"),
}
"""What comes after candidates, with its name and mark."""
_MOST_RUG = 250
_MOST_TURNS = 30
_MOST_PAIRS = 3
_DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")


def thinned(values: Sequence[T], most: int) -> list[T]:
    """At most so many of the values, evenly spaced, the last among them."""
    every = max(1, math.ceil(len(values) / most))
    return [*values[::-1][::every]][::-1]


def convergence(facts: RunFacts) -> Chart | None:
    """Scores on the search items in the order of candidates, the best so far with its standard error, and baselines."""
    places = {trial.number: place for place, trial in enumerate(facts.candidates, start=1)}
    scored = facts.scored
    later = _later(facts, places)
    if facts.goals.are_several or not (scored or later):
        return None
    series, notes = [], []
    drawn = thinned(scored, MOST_POINTS)
    if drawn:
        series.append(
            Series(
                name="candidate",
                x=[places[trial.number] for trial in drawn],
                y=[trial.score or 0.0 for trial in drawn],
                drawn="dots",
                colour=0,
                faint=len(drawn) > 60,
            )
        )
    if len(drawn) < len(scored):
        notes.append(
            f"{len(drawn):,} of {len(scored):,} candidates with a score are drawn as points, evenly spaced; lines and "
            "numbers are of all."
        )
    steps = _best_so_far(scored)
    errors = [facts.error(trial.number) for trial in steps]
    if steps:
        x = [places[trial.number] for trial in steps]
        y = [trial.score or 0.0 for trial in steps]
        low = high = None
        known = [error for error in errors if error is not None]
        if len(known) == len(errors):
            low = [value - error for value, error in zip(y, known, strict=True)]
            high = [value + error for value, error in zip(y, known, strict=True)]
            low, high = [*low, low[-1]], [*high, high[-1]]
            notes.append(
                "The band is one standard error on either side of the best so far: how much its score would vary with "
                "other search items of the same kind. The best of many is partly luck, so it stands too high."
            )
        else:
            notes.append("The scores aren't means over items, so no standard error is drawn.")
        series.append(
            Series(
                name="best so far",
                x=[*x, len(facts.candidates) + 0.5],
                y=[*y, y[-1]],
                drawn="steps",
                colour=1,
                low=low,
                high=high,
                band="± 1 standard error",
            )
        )
    for kind, (name, shape) in _LATER.items():
        own = [(place, trial.score or 0.0) for place, trial in later if trial.kind is kind]
        if own:
            x, y = ([*part] for part in zip(*own, strict=True))
            series.append(Series(name=name, x=x, y=y, drawn="marks", colour=2, shape=shape))
    rugs = []
    for name, state, colour, shape in (
        ("failed", TrialState.FAILED, 1, "x"),
        ("stopped early", TrialState.PRUNED, 3, "triangle-up"),
    ):
        found = [float(places[trial.number]) for trial in facts.candidates if trial.state is state]
        if found and (scored or state is TrialState.FAILED):
            rugs.append((name, thinned(found, _MOST_RUG), colour, shape))
            if len(found) > _MOST_RUG:
                notes.append(f"Of {len(found):,} that are {name}, only some are marked.")
    turns, turns_name = _turns(facts, places)
    if facts.config.search.items == "fresh":
        notes.append(
            "Each generation answered other items, so its candidates have no score on all of them; those that later "
            "answered all are drawn."
        )
    table = Numbers(
        columns=("candidate", "trial", "best so far", "standard error"),
        rows=tuple(
            (
                str(places[trial.number]),
                str(trial.number),
                number(trial.score or 0.0),
                "–" if error is None else number(error),
            )
            for trial, error in zip(steps, errors, strict=True)
        ),
    )
    return Plane(
        title="Convergence",
        caption=" ".join(notes),
        numbers=table if steps else None,
        x="candidates proposed",
        y="score on the search items",
        series=series,
        levels=_levels(facts),
        turns=turns,
        turns_name=turns_name,
        rugs=rugs,
        whole_x=True,
        x_range=(0.0, max(1, len(facts.candidates)) * 1.01 + 0.5),
    )


def fronts(facts: RunFacts) -> list[Chart]:
    """Merges in two objectives at a time, those on the front, and the baselines."""
    goals = facts.goals.goals
    if not facts.goals.are_several:
        return []
    merges = [one for one in merges_of(facts.ledger) if one.is_feasible]
    members = front_of(merges)
    if not merges:
        return []
    on_front = {one.trial for one in members}
    others = [one for one in merges if one.trial not in on_front]
    drawn = thinned(others, MOST_POINTS)
    made: list[Chart] = []
    pairs = [*itertools.combinations([goal.name for goal in goals], 2)][:_MOST_PAIRS]
    for first, second in pairs:
        along = sorted(members, key=lambda one: one.measured[first])
        series = [
            Series(
                name="other merge",
                x=[one.measured[first] for one in drawn],
                y=[one.measured[second] for one in drawn],
                drawn="dots",
                colour=0,
            ),
            Series(
                name="front",
                x=[one.measured[first] for one in along],
                y=[one.measured[second] for one in along],
                drawn="joined" if len(goals) == 2 else "marks",
                dash="dot",
                colour=1,
                shape="diamond",
            ),
        ]
        for place, (kind, best) in enumerate(_endpoints(facts)):
            if first in best.measured and second in best.measured:
                shape = ("square", "triangle-up", "star", "x")[place % 4]
                x, y = [best.measured[first]], [best.measured[second]]
                series.append(Series(name=kind, x=x, y=y, drawn="marks", colour=2 + place, shape=shape))
        note = "On the search items, by which the merges were searched, so all of this is optimistic."
        if len(drawn) < len(others):
            note += f" {len(drawn):,} of {len(others):,} merges off the front are drawn."
        less = [goal.name for goal in goals if not goal.higher_is_better and goal.name in {first, second}]
        note += f" Less is better: {', '.join(less)}." if less else ""
        rows = tuple((str(one.trial), *(number(one.measured[goal.name]) for goal in goals)) for one in members[:200])
        made.append(
            Plane(
                title="Front" if len(pairs) == 1 else f"Front: {first} and {second}",
                caption=note,
                numbers=Numbers(columns=("trial", *(goal.name for goal in goals)), rows=rows),
                x=first,
                y=second,
                series=[one for one in series if len(one.x)],
            )
        )
    return made


def hypervolume(facts: RunFacts) -> Chart | None:
    """What the front takes in, by candidates."""
    history = history_of(facts.ledger, facts.goals) if facts.goals.are_several else None
    if history is None or len(history.steps) < 2:
        return None
    steps = history.steps
    corner = ", ".join(f"{name} {value:.4g}" for name, value in history.reference.items())
    return Plane(
        title="Hypervolume of the front",
        caption=f"On the search items, counted from the worst of the baselines in each objective: {corner}.",
        numbers=Numbers(
            columns=("candidates", "merges on the front", "hypervolume"),
            rows=tuple((str(one.candidates), str(one.size), number(one.hypervolume)) for one in thinned(steps, 200)),
        ),
        x="candidates proposed",
        y="hypervolume",
        series=[
            Series(
                name="hypervolume",
                x=[one.candidates for one in steps],
                y=[one.hypervolume for one in steps],
                drawn="steps",
            )
        ],
        whole_x=True,
        height=220,
    )


def times(facts: RunFacts) -> Chart | None:
    """Seconds of evaluations on the search items by phase, summed over candidates and baselines."""
    spent: dict[str, float] = {}
    for trial in facts.trials:
        for phase, seconds in trial.seconds.items():
            spent[phase] = spent.get(phase, 0.0) + seconds
    rows = [
        Row(name=phase, value=seconds, shown=duration(seconds), colour=0) for phase, seconds in spent.items() if seconds
    ]
    if not rows:
        return None
    unit, factor = ("hours", 3600.0) if sum(spent.values()) > 7200 else ("seconds", 1.0)
    return Rows(
        title="Where the time went",
        caption="Of evaluations on the search items, summed over all workers; waiting isn't counted.",
        x=unit,
        groups=[("", [Row(name=row.name, value=row.value / factor, shown=row.shown) for row in rows])],
        zero=True,
    )


def _best_so_far(scored: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The candidates that were each the best by fitness when they came."""
    found: list[TrialRecord] = []
    for trial in scored:
        if not found or (trial.fitness or 0.0) > (found[-1].fitness or 0.0):
            found.append(trial)
    return found


def _later(facts: RunFacts, places: dict[int, int]) -> list[tuple[int, TrialRecord]]:
    """What comes after candidates and has a score, by how many of these there were before."""
    found, count = [], 0
    for trial in facts.trials:
        count = places.get(trial.number, count)
        if trial.kind in _LATER and trial.score is not None:
            found.append((count, trial))
    return found


def _turns(facts: RunFacts, places: dict[int, int]) -> tuple[list[float], str]:
    """Where generations begin, and what these lines are called."""
    first: dict[int, int] = {}
    for trial in facts.candidates:
        if trial.generation is not None:
            first.setdefault(trial.generation, places[trial.number])
    starts = [place - 0.5 for _, place in sorted(first.items())][1:]
    if facts.config.search.is_asynchronous or not starts or len(first) == len(facts.candidates):
        return [], ""
    every = next(step for step in (1, 5, 10, 20, 50, 100, 1000, 10**9) if len(starts) / step <= _MOST_TURNS)
    return starts[every - 1 :: every], "a generation begins" if every == 1 else f"every {every}th generation begins"


def _endpoints(facts: RunFacts) -> list[tuple[str, TrialRecord]]:
    """Base, experts and best uniform merge by what they are called."""
    kinds = {
        TrialKind.BASE: "base",
        TrialKind.UNIFORM: "best uniform",
        TrialKind.START: "start",
        TrialKind.METHOD: "best of other methods",
    }
    return [(kinds.get(trial.kind, name), trial) for name, trial in facts.leaders.items() if trial.kind.is_baseline]


def _levels(facts: RunFacts) -> list[Level]:
    """Baselines as heights; of many experts only the best."""
    found = _endpoints(facts)
    experts = [trial for _, trial in found if trial.kind is TrialKind.EXPERT]
    if len(experts) > 3:
        best = max(experts, key=lambda trial: trial.score or 0.0)
        found = [(f"best {name}" if trial is best else name, trial) for name, trial in found]
        found = [(name, trial) for name, trial in found if trial.kind is not TrialKind.EXPERT or trial is best]
    return [
        Level(
            name=f"{name} {trial.score:.3f}", y=trial.score or 0.0, colour=2 + place, dash=_DASHES[place % len(_DASHES)]
        )
        for place, (name, trial) in enumerate(found)
    ]
