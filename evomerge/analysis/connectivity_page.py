"""What lies between models as figures on one page."""

from __future__ import annotations

import numpy as np

from evomerge.analysis.mode_connectivity import Barrier, Connectivity, Line
from evomerge.report.figures import Curve, Figure, contours, lines, number
from evomerge.report.page import Page

BARRIERS = (
    "A barrier is how much worse than its ends a line gets. Above the mean: the worst of the line less the mean of "
    "both ends (Frankle et al. 2020). Above the chord: the largest distance from the straight line between the ends' "
    "values (Entezari et al. 2022). Where the ends differ, the first counts that difference too."
)
_WIDE = 10.0


def connectivity_page(found: Connectivity) -> Page:
    """A page of every line's curves, the barriers by both conventions, and the planes.

    Raises: MissingPackageError without plotly.
    """
    page = Page(f"Between {' and '.join(found.models)}", "What was measured on mixtures of the models' weights.")
    for note in found.notes:
        page.say(f"{note[:1].upper()}{note[1:]}.")
    page.heading("Lines")
    for measure in found.measures:
        for figure in line_figures(found, measure):
            page.figure(figure)
    page.heading("Barriers")
    page.say(BARRIERS)
    columns, rows = barrier_table(found)
    page.table(columns, rows)
    if planes := [plane for measure in found.measures for plane in plane_figures(found, measure)]:
        page.heading("Plane")
        for figure in planes:
            page.figure(figure)
    return page


def line_figures(found: Connectivity, measure: str) -> list[Figure]:
    """One measure on each pair's line: a curve for each set of items, before and after an alignment."""
    settings = found.measures[measure]
    figures = []
    for place, line in enumerate(next(iter(found.surveys.values())).lines):
        curves = []
        for way, survey in found.surveys.items():
            for name in found.sets:
                own = survey.lines[place]
                values = [point.value(name, measure) for point in own.points]
                if np.isfinite(values).any():
                    curves.append(Curve(name=_curve_name(found, way, name), x=own.at, y=values))
        first, second = (found.models[end] for end in line.ends)
        if curves:
            figures.append(
                lines(
                    f"{measure} between {first} and {second}",
                    curves,
                    x=f"share of {second}",
                    y=f"{measure} ({settings.unit})" if settings.unit != measure else measure,
                )
            )
    return figures


def plane_figures(found: Connectivity, measure: str) -> list[Figure]:
    """One measure on each plane, for each set of items."""
    figures = []
    for way, survey in found.surveys.items():
        for name in found.sets if survey.plane is not None else ():
            assert survey.plane is not None
            values = survey.plane.values(name, measure)
            known = values[np.isfinite(values)]
            if not known.size:
                continue
            title = f"{measure} on the plane, {_curve_name(found, way, name)}"
            figures.append(
                contours(
                    title,
                    values,
                    x_at=survey.plane.x_at,
                    y_at=survey.plane.y_at,
                    points=dict(zip(found.models, survey.plane.corners, strict=True)),
                    x="distance, along",
                    y="distance, across",
                    unit=found.measures[measure].unit,
                    log=bool(known.min() > 0 and known.max() / known.min() > _WIDE),
                    caption="Distances are Euclidean, over all weights; between grid points colours are drawn through.",
                )
            )
    return figures


def barrier_table(found: Connectivity) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows: every barrier by both conventions."""
    several = len(found.surveys) > 1
    rows = []
    for way, survey in found.surveys.items():
        for line in survey.lines:
            for measure in found.measures:
                for name in found.sets:
                    own = barrier_of(found, line, name, measure)
                    if np.isfinite(own.above_mean):
                        rows.append((*((way,) if several else ()), *_row(found, line, name, measure, own)))
    columns = ("between", "on", "measure", "above mean", "at", "above chord", "at")
    return (("models", *columns) if several else columns), rows


def barrier_of(found: Connectivity, line: Line, name: str, measure: str) -> Barrier:
    """A line's barrier on a set of items, worse being what the measure says."""
    return line.barrier(name, measure, higher_is_better=found.measures[measure].higher_is_better)


def _row(found: Connectivity, line: Line, name: str, measure: str, own: Barrier) -> tuple[str, ...]:
    first, second = (found.models[end] for end in line.ends)
    return (
        f"{first} – {second}",
        name,
        measure,
        number(own.above_mean),
        f"{own.at_mean:.2f}",
        number(own.above_chord),
        f"{own.at_chord:.2f}",
    )


def _curve_name(found: Connectivity, way: str, name: str) -> str:
    return name if len(found.surveys) == 1 else f"{name}, {way}"
