"""Mode connectivity: loss and accuracy on the straight line between two models, and on the plane of three.

Points are merged in place into one live model and asked there; nothing is loaded or written for a point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.analysis.geometry import frame, grid
from evomerge.analysis.measures import Measure, Measured
from evomerge.errors import ConfigError, ExecutionError
from evomerge.execute.base import Executor, Failure, Job
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import Sources

POINTS = 11
"""On each line, when nothing is said, and on each side of the plane's grid."""
FEWEST_POINTS = 3

Values = Mapping[str, Mapping[str, float]]
"""By set of items and by measure."""
Done = Callable[[int, int], None]
"""Called with the points that are measured and those in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A mixture of the models, and what was measured there."""

    weights: tuple[float, ...]
    """Of each model; they add up to 1."""
    values: Values
    reason: str | None = None
    """Why something couldn't be measured, where it couldn't."""

    def value(self, name: str, measure: str) -> float:
        """One number; NaN where it couldn't be measured."""
        return self.values.get(name, {}).get(measure, math.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Barrier:
    """How much worse than its ends a line gets, in the unit of its measure.

    By two conventions, which agree where both ends are equally good. Never negative.
    """

    above_mean: float
    """max L − ½(L(A) + L(B)) over the line (Frankle et al. 2020)."""
    above_chord: float
    """max [L(λ) − (1 − λ) L(A) − λ L(B)] over the line (Entezari et al. 2022)."""
    at_mean: float
    """The share of the second model where the first is found."""
    at_chord: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The straight line between two of the models."""

    ends: tuple[int, int]
    """Numbers of the models."""
    distance: float
    """Euclidean, over all weights."""
    at: tuple[float, ...]
    """Shares of the second model."""
    points: tuple[Point, ...]

    def barrier(self, name: str, measure: str, *, higher_is_better: bool) -> Barrier:
        """How much worse it gets on a set of items; NaN where nothing between the ends could be measured."""
        return barrier(self.at, [point.value(name, measure) for point in self.points], higher_is_better)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """A grid on the plane through three models; distances are Euclidean, over all weights."""

    x_at: tuple[float, ...]
    """Along the line from the first model to the second."""
    y_at: tuple[float, ...]
    """Across it, towards the third."""
    corners: tuple[tuple[float, float], ...]
    """Where the models are."""
    points: tuple[tuple[Point, ...], ...]
    """By y, then by x."""

    def values(self, name: str, measure: str) -> NDArray[np.float64]:
        """One measure on the grid, shape (y_at, x_at)."""
        return np.array([[point.value(name, measure) for point in row] for row in self.points])


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What lies between two or three models: each pair's line, and the plane of three."""

    lines: tuple[Line, ...]
    plane: Plane | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connectivity:
    """What was found between the models, as they are and perhaps once they were aligned."""

    models: tuple[str, ...]
    sets: tuple[str, ...]
    """Names of the sets of items or texts."""
    measures: Mapping[str, Measure]
    surveys: Mapping[str, Survey]
    """By what was done to the models before."""
    notes: tuple[str, ...]

    def to_data(self) -> dict[str, Any]:
        """All of it as plain data for JSON; None stands where nothing could be measured."""
        return {
            "models": list(self.models),
            "sets": list(self.sets),
            "measures": {
                name: {"unit": one.unit, "higher_is_better": one.higher_is_better}
                for name, one in self.measures.items()
            },
            "notes": list(self.notes),
            "surveys": {
                way: {
                    "lines": [self._line(line) for line in survey.lines],
                    **({"plane": _plane(survey.plane)} if survey.plane is not None else {}),
                }
                for way, survey in self.surveys.items()
            },
        }

    def _line(self, line: Line) -> dict[str, Any]:
        barriers: dict[str, Any] = {}
        for name in self.sets:
            barriers[name] = {}
            for measure, settings in self.measures.items():
                found = line.barrier(name, measure, higher_is_better=settings.higher_is_better)
                barriers[name][measure] = {
                    "above_mean_of_ends": _finite(found.above_mean),
                    "at": _finite(found.at_mean),
                    "above_chord": _finite(found.above_chord),
                    "at_chord": _finite(found.at_chord),
                }
        return {
            "between": [self.models[end] for end in line.ends],
            "distance": line.distance,
            "points": [{"share": at, **_point(point)} for at, point in zip(line.at, line.points, strict=True)],
            "barriers": barriers,
        }


def barrier(at: Sequence[float], values: Sequence[float], higher_is_better: bool = False) -> Barrier:
    """How much worse than its ends a curve gets.

    Args:
        at: ascending shares of the second end, from 0 to 1.
        values: at each of them; NaN is left out.
        higher_is_better: whether worse means lower.
    """
    share = np.array(at, dtype=np.float64)
    loss = -np.array(values, dtype=np.float64) if higher_is_better else np.array(values, dtype=np.float64)
    known = np.isfinite(loss)
    if not (known[0] and known[-1] and known[1:-1].any()):
        return Barrier(above_mean=math.nan, above_chord=math.nan, at_mean=math.nan, at_chord=math.nan)
    share, loss = share[known], loss[known]
    mean = loss - (loss[0] + loss[-1]) / 2
    # Exactly nothing at the ends, whatever rounding makes of it.
    chord = loss - ((1.0 - share) * loss[0] + share * loss[-1])
    chord[0] = chord[-1] = 0.0
    worst, furthest = int(mean.argmax()), int(chord.argmax())
    return Barrier(
        above_mean=float(mean[worst]),
        above_chord=float(chord[furthest]),
        at_mean=float(share[worst]),
        at_chord=float(share[furthest]),
    )


def check_points(points: int) -> None:
    """Find whether a line of so many points can have a barrier. Raises: ConfigError."""
    if points < FEWEST_POINTS:
        raise ConfigError(
            f"{points} points can't show what lies between the ends; give {FEWEST_POINTS} or more (default: {POINTS})"
        )


def survey(
    sources: Sources,
    gram: NDArray[np.float64],
    measured: Measured,
    executor: Executor,
    *,
    points: int = POINTS,
    done: Done = lambda number, total: None,
) -> Survey:
    """Measure every pair's line, and the plane of three models.

    Args:
        sources: the first model is its base, the others its experts, one or two.
        gram: inner products of the other models' differences from the first, as `differences` has them.
        measured: what each point is asked.
        executor: with the models loaded.
        points: on each line, and on each side of the grid.
        done: called after each point.

    Raises: ConfigError for models on one line, or too few points; ExecutionError if a model itself can't be measured.
    """
    check_points(points)
    for name, requests in measured.requests.items():
        # One block of all: a point that is asked several sets is then merged once.
        executor.add_requests(name, requests, [list(range(len(requests)))])
    count = len(sources.experts) + 1
    at = tuple(float(share) for share in np.linspace(0.0, 1.0, points))
    ends = [*combinations(range(count), 2)]
    wanted = [_mixture(count, first, second, share) for first, second in ends for share in at]
    corners = frame(gram) if count == 3 else None
    if corners is not None:
        x_at, y_at, weights = grid(corners, points)
        wanted += weights
    # Lines share their ends, and are measured there once.
    places = [*dict.fromkeys(wanted)]
    found = dict(zip(places, _measure(sources, places, measured, executor, done), strict=True))
    lines = [
        Line(
            ends=(first, second),
            distance=_distance(gram, first, second),
            at=at,
            points=tuple(found[_mixture(count, first, second, share)] for share in at),
        )
        for first, second in ends
    ]
    if corners is None:
        return Survey(lines=tuple(lines), plane=None)
    rows = [0, *np.cumsum([len(x_at)] * len(y_at)).tolist()]
    return Survey(
        lines=tuple(lines),
        plane=Plane(
            x_at=tuple(x_at),
            y_at=tuple(y_at),
            corners=corners,
            points=tuple(tuple(found[place] for place in weights[start:end]) for start, end in pairwise(rows)),
        ),
    )


def _mixture(count: int, first: int, second: int, share: float) -> tuple[float, ...]:
    weights = [0.0] * count
    weights[first], weights[second] = 1.0 - share, share
    return tuple(weights)


def _measure(
    sources: Sources,
    places: Sequence[tuple[float, ...]],
    measured: Measured,
    executor: Executor,
    done: Done,
) -> list[Point]:
    """What is measured at each place, in their order."""
    names, sets = tuple(sources.experts), tuple(measured.requests)

    def jobs() -> Iterator[Job]:
        for number, weights in enumerate(places):
            group = Group(name="all", coefficients={"weight": dict(zip(names, weights[1:], strict=True))})
            recipe = Recipe.of(sources, method="task_arithmetic", groups=(group,))
            for split in sets:
                yield Job(number=number, recipe=recipe, split=split, blocks=(0,))

    values: list[dict[str, dict[str, float]]] = [{} for _ in places]
    reasons: dict[int, str] = {}
    left = [len(sets)] * len(places)
    for job, outcome in executor.run(jobs()):
        weights = places[job.number]
        if not isinstance(outcome, Failure):
            values[job.number][job.split] = measured.take(job.split, outcome.responses)
        elif max(weights) == 1.0 and min(weights) == 0.0:
            model = [*sources.references.values()][weights.index(1.0)].path
            raise ExecutionError(f"{model} can't be measured: {outcome.reason}: {outcome.message}")
        else:
            reasons.setdefault(job.number, f"{outcome.reason}: {outcome.message}")
        left[job.number] -= 1
        if not left[job.number]:
            done(left.count(0), len(places))
    return [
        Point(weights=weights, values=values[number], reason=reasons.get(number))
        for number, weights in enumerate(places)
    ]


def _distance(gram: NDArray[np.float64], first: int, second: int) -> float:
    """Between two models, from inner products of the others' differences from the first."""
    size = len(gram) + 1
    position = np.zeros((size, size - 1))
    position[1:] = np.eye(size - 1)
    step = position[second] - position[first]
    return float(math.sqrt(max(0.0, step @ gram @ step)))


def _point(point: Point) -> dict[str, Any]:
    values = {name: {measure: _finite(value) for measure, value in row.items()} for name, row in point.values.items()}
    return {
        "weights": list(point.weights),
        "values": values,
        **({"reason": point.reason} if point.reason is not None else {}),
    }


def _plane(plane: Plane) -> dict[str, Any]:
    return {
        "x": list(plane.x_at),
        "y": list(plane.y_at),
        "corners": [list(corner) for corner in plane.corners],
        "points": [[_point(point) for point in row] for row in plane.points],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
