"""The front of a run: the merges that no other beats in every objective, how it grew, and which of them to pick.

Knows recorded evaluations. Does not know what objectives measure, nor how the run goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.errors import RunError, unknown
from evomerge.run.evaluation import Evaluation
from evomerge.run.ledger import Ledger
from evomerge.run.trial import Trial
from evomerge.score.goals import Goals
from evomerge.score.pareto import Points, front, hypervolume, knee, scaled

KNEE, BEST, WORST, WEIGHTS = "knee", "best", "worst", "weights"
"""Ways to pick from a front; that of one objective is written best:NAME, one of all of them weights:NAME=W,NAME=W."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The front after a generation; the first step is that of the merges among the baselines."""

    generation: int | None
    candidates: int
    """Proposed so far, failed ones included."""
    size: int
    """Merges on the front."""
    hypervolume: float


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How a front grew."""

    reference: Mapping[str, float]
    """What hypervolume is counted from: in each objective the worst of the baselines."""
    steps: Sequence[Step]


def merges_of(ledger: Ledger, split: str = "search", trials: Iterable[Trial] | None = None) -> list[Evaluation]:
    """What is known of merges on a split in each objective: each recipe once, in order of trials.

    Of merges that come to the same in every objective the one with the largest tie-break stays, the first of equals.

    Args:
        ledger: of the run.
        split: whose items.
        trials: those to look at; None: all.
    """
    found: dict[tuple[object, ...], Evaluation] = {}
    seen = set()
    for trial in ledger.trials() if trials is None else trials:
        evaluation = ledger.evaluation(trial.number, split)
        if trial.kind.is_checkpoint or evaluation is None or not evaluation.aims or trial.recipe_key in seen:
            continue
        seen.add(trial.recipe_key)
        key = (*evaluation.aims, evaluation.missed_by)
        if key not in found or evaluation.tie_break > found[key].tie_break:
            found[key] = evaluation
    return sorted(found.values(), key=lambda evaluation: evaluation.trial)


def front_of(merges: Sequence[Evaluation]) -> list[Evaluation]:
    """Those that meet all constraints and that no other of these beats, best in the first objective first."""
    feasible = [evaluation for evaluation in merges if evaluation.is_feasible]
    if not feasible:
        return []
    chosen = [one for one, best in zip(feasible, front(points_of(feasible)), strict=True) if best]
    return sorted(chosen, key=lambda evaluation: [*(-value for value in evaluation.aims), evaluation.trial])


def nearest(merges: Sequence[Evaluation]) -> list[Evaluation]:
    """Merges by how far they miss the constraints, those that miss them least first; the first of equals."""
    return sorted(merges, key=lambda evaluation: (evaluation.missed_by, evaluation.trial))


def points_of(merges: Sequence[Evaluation]) -> Points:
    """What the objectives come to, (merges, objectives), higher being better."""
    return np.array([evaluation.aims for evaluation in merges], dtype=np.float64)


class Growth:
    """How a front on the search items grows, turn by turn; a turn's cost doesn't grow with the run.

    Args:
        ledger: of the run.
        goals: the run's objectives.
        corner: what hypervolume is counted from, (objectives,).
    """

    def __init__(self, ledger: Ledger, goals: Goals, corner: Points) -> None:
        self._ledger = ledger
        self._corner = corner
        self.members: list[Evaluation] = []
        """The present front, best in the first objective first."""
        self._proposed = 0
        self.reference = {goal.name: goal.signed(float(value)) for goal, value in zip(goals.goals, corner, strict=True)}

    @classmethod
    def begun(cls, ledger: Ledger, goals: Goals) -> tuple[Growth, Step] | None:
        """The front of the merges among the baselines; None before any baseline has a score."""
        baselines = [trial for trial in ledger.trials() if trial.kind.is_baseline]
        found = [ledger.evaluation(trial.number, "search") for trial in baselines]
        known = [evaluation for evaluation in found if evaluation is not None and evaluation.aims]
        if not known:
            return None
        growth = cls(ledger, goals, points_of(known).min(axis=0))
        return growth, growth.add(None, [trial for trial in baselines if not trial.kind.is_checkpoint])

    def add(self, generation: int | None, trials: Sequence[Trial]) -> Step:
        """The front with a generation's trials, or with baselines (None)."""
        before = [self._ledger.trial(member.trial) for member in self.members]
        self.members = front_of(merges_of(self._ledger, trials=[*before, *trials]))
        self._proposed += 0 if generation is None else len(trials)
        volume = hypervolume(points_of(self.members), self._corner) if self.members else 0.0
        return Step(generation=generation, candidates=self._proposed, size=len(self.members), hypervolume=volume)


def history_of(ledger: Ledger, goals: Goals) -> History | None:
    """How the front on the search items grew, generation by generation; None before any baseline has a score."""
    begun = Growth.begun(ledger, goals)
    if begun is None:
        return None
    growth, first = begun
    generations: dict[int, list[Trial]] = {}
    for trial in ledger.trials():
        if trial.generation is not None:
            generations.setdefault(trial.generation, []).append(trial)
    later = [growth.add(generation, found) for generation, found in sorted(generations.items())]
    return History(reference=growth.reference, steps=[first, *later])


def picks_of(goals: Goals) -> list[str]:
    """The picks that a search ends with: the knee, the best of each objective, and the best worst score."""
    return [KNEE, *(f"{BEST}:{goal.name}" for goal in goals.goals), *([WORST] if _worst(goals) else [])]


def picked(way: str, merges: Sequence[Evaluation], goals: Goals) -> Evaluation:
    """The merge of a front that is picked in this way, the first of equals.

    Args:
        way: `knee`, `best:NAME`, `worst` or `weights:NAME=W,NAME=W`. The last goes by the weighted sum of objectives
            whose ranges over these merges are scaled to 1.
        merges: of which one is picked; at least one.
        goals: the run's objectives.

    Raises: RunError for another way, or an objective that there isn't.
    """
    kind, _, rest = way.partition(":")
    names = [goal.name for goal in goals.goals]
    points = points_of(merges)
    if way == KNEE:
        return merges[knee(points)]
    if kind == BEST and rest:
        # Where several are best in it, what they have in the others decides.
        column = names.index(_known(rest, names))
        others = scaled(points).sum(axis=1)
        return merges[max(range(len(merges)), key=lambda place: (points[place, column], others[place], -place))]
    if kind == WEIGHTS and rest:
        weights = _weights(rest, names)
        sums = scaled(points) @ np.array([weights.get(name, 0.0) for name in names])
        return merges[int(np.argmax(sums.round(12)))]
    if way == WORST and (columns := _worst(goals)):
        return merges[int(np.argmax(points[:, columns].min(axis=1)))]
    known = [KNEE, *(f"{BEST}:{name}" for name in names), f"{WEIGHTS}:{','.join(f'{name}=1' for name in names)}"]
    if _worst(goals):
        known.append(WORST)
    raise RunError(f"--pick: {unknown('pick', way, known)} A trial is picked by its number")


def _worst(goals: Goals) -> list[int]:
    """Places of the objectives whose lowest counts for the best worst score; none if that has no meaning."""
    lowest = [place for place, goal in enumerate(goals.goals) if goal.kind == "worst"]
    scores = [place for place, goal in enumerate(goals.goals) if goal.kind == "tasks"]
    return lowest or (scores if len(scores) > 1 else [])


def _known(name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise RunError(f"--pick: {unknown('objective', name, names)}")
    return name


def _weights(text: str, names: Sequence[str]) -> dict[str, float]:
    """Weights written as a=0.7,b=0.3. Raises: RunError."""
    found = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight >= 0):
            raise RunError(f"--pick: {WEIGHTS}: {part!r}: write NAME=NUMBER with a number from 0 on")
        found[_known(name.strip(), names)] = weight
    if not any(found.values()):
        raise RunError(f"--pick: {WEIGHTS}: every weight is 0; give one of them a positive weight")
    return found
