"""Figures as plain data for plotly: curves, bars, heat maps and contours that read in print and without colour.

Knows colours, dashes, markers and axes. Does not know what is drawn, nor the page that it stands on; plotly itself is
needed only there.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, told apart with any colour vision; without black and yellow, which vanish on dark or light pages."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star")
PATTERNS = ("", "/", ".", "x", "-", "+")
_REDS_AND_BLUES = ("#053061", "#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b", "#67001f")
SIGNED = [[place / 6, colour] for place, colour in enumerate(_REDS_AND_BLUES)]
"""From blue over white to red, ColorBrewer's RdBu turned round; both ends are dark."""
_MOST_MARKERS = 60
_MOST_LABELLED_CELLS = 150
_LEVELS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """A table: what is drawn, as text in columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure: its heading, plotly's traces and layout, a sentence under it and its numbers as a table."""

    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    caption: str = ""
    numbers: Numbers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A named row of points, in the order in which they are joined; NaN leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    """Lower ends of error bars."""
    high: Sequence[float] | None = None
    colour: int | None = None
    """Number of its colour, for curves that belong together; None: its place among the curves."""


def lines(
    title: str,
    curves: Sequence[Curve],
    *,
    x: str,
    y: str,
    caption: str = "",
    log_x: bool = False,
    log_y: bool = False,
    numbers: bool = True,
) -> Figure:
    """Curves over a common axis, told apart by colour, dash and marker.

    Args:
        title: the figure's heading.
        curves: what is drawn.
        x: what the horizontal axis is, with its unit.
        y: what the vertical axis is, with its unit.
        caption: a sentence under it.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
        numbers: whether to show all points as a table too.
    """
    data = []
    for place, curve in enumerate(curves):
        row = _style(place, curve)
        if curve.low is not None and curve.high is not None:
            middle = np.asarray(curve.y, dtype=np.float64)
            row["error_y"] = {
                "type": "data",
                "symmetric": False,
                "array": plain(np.asarray(curve.high) - middle),
                "arrayminus": plain(middle - np.asarray(curve.low)),
                "thickness": 1,
                "width": 3,
            }
        data.append(row)
    layout = _layout(x, y, legend=len(curves) > 1)
    for axis, is_log, values in (
        ("xaxis", log_x, [value for curve in curves for value in curve.x]),
        ("yaxis", log_y, [value for curve in curves for value in curve.y]),
    ):
        if is_log:
            positive = [value for value in values if math.isfinite(value) and value > 0]
            decades = math.log10(max(positive) / min(positive)) if positive else 0.0
            # Below two decades the numbers between are wanted too.
            layout[axis] |= {"type": "log", "exponentformat": "power", **({"dtick": 1} if decades >= 2 else {})}
    table = _points(curves, x) if numbers else None
    return Figure(title=title, data=data, layout=layout, caption=caption, numbers=table)


def bars(
    title: str, names: Sequence[str], series: Mapping[str, Sequence[float]], *, y: str, caption: str = ""
) -> Figure:
    """Bars side by side for each name, told apart by colour and pattern.

    Args:
        title: the figure's heading.
        names: what the groups of bars are.
        series: heights by what they belong to, one for each name.
        y: what a height is, with its unit.
        caption: a sentence under it.
    """
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": escaped(name),
            "x": [escaped(one) for one in names],
            "y": plain(values),
            "marker": {"color": colour, "pattern": _pattern(place, colour)},
        }
        for place, (name, values) in enumerate(series.items())
        for colour in (COLOURS[place % len(COLOURS)],)
    ]
    layout = _layout("", y, legend=len(series) > 1)
    layout["barmode"] = "group"
    layout["xaxis"]["type"] = "category"
    rows = tuple((name, *(number(values[place]) for values in series.values())) for place, name in enumerate(names))
    table = Numbers(columns=("", *series), rows=rows)
    return Figure(title=title, data=data, layout=layout, caption=caption, numbers=table)


def heat_map(
    title: str,
    values: ArrayLike,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    x: str = "",
    y: str = "",
    unit: str = "",
    signed: bool = False,
    limit: float | None = None,
    caption: str = "",
) -> Figure:
    """A matrix as colours, with its numbers in the cells where there is room for them.

    Args:
        title: the figure's heading.
        values: shape (rows, columns); NaN leaves a cell empty.
        rows: names, from the top.
        columns: names.
        x: what the columns are.
        y: what the rows are.
        unit: what a value is.
        signed: whether zero is the middle of the colours: red above it and blue below, both darker with the size.
        limit: the value of the last colour; None: the largest there is.
        caption: a sentence under it.
    """
    matrix = np.asarray(values, dtype=np.float64).reshape(len(rows), len(columns))
    finite = np.abs(matrix[np.isfinite(matrix)])
    most = limit if limit is not None else float(finite.max(initial=0.0)) or 1.0
    labelled = matrix.size <= _MOST_LABELLED_CELLS and len(columns) <= 12
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": plain(matrix),
        "x": [escaped(name) for name in columns],
        "y": [escaped(name) for name in rows],
        "colorscale": SIGNED if signed else "Viridis",
        "colorbar": {"title": {"text": escaped(unit), "side": "right"}, "thickness": 12, "outlinewidth": 0},
        "hovertemplate": "%{y}, %{x}: %{z:.4g}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
    }
    if signed or limit is not None:
        trace |= {"zmin": -most if signed else 0.0, "zmax": most}
    if labelled:
        trace["texttemplate"] = "%{z:.2f}" if 0.01 <= most < 100 else "%{z:.3g}"
    layout = _layout(x, y, legend=False)
    layout["xaxis"] |= {"type": "category", "showgrid": False}
    layout["yaxis"] |= {"type": "category", "showgrid": False, "autorange": "reversed"}
    layout["height"] = 160 + max(120, 24 * len(rows))
    table = tuple((name, *map(number, row)) for name, row in zip(rows, matrix, strict=True))
    return Figure(
        title=title, data=[trace], layout=layout, caption=caption, numbers=Numbers(columns=("", *columns), rows=table)
    )


def contours(
    title: str,
    values: ArrayLike,
    *,
    x_at: ArrayLike,
    y_at: ArrayLike,
    points: Mapping[str, tuple[float, float]],
    x: str,
    y: str,
    unit: str,
    log: bool = False,
    caption: str = "",
) -> Figure:
    """A function of two numbers as filled, labelled contours, with named points on it.

    Args:
        title: the figure's heading.
        values: shape (y_at, x_at).
        x_at: where the columns are.
        y_at: where the rows are.
        points: places by name.
        x: what the horizontal axis is.
        y: what the vertical axis is.
        unit: what a value is.
        log: whether contours are spaced by the logarithm of the values, which are then positive.
        caption: a sentence under it.
    """
    matrix = np.asarray(values, dtype=np.float64)
    shown = np.log10(matrix) if log else matrix
    # Below, since beside them a phone has no room.
    bar: dict[str, Any] = {
        "title": {"text": escaped(unit), "side": "bottom"},
        "orientation": "h",
        "thickness": 12,
        "outlinewidth": 0,
        "y": -0.22,
        "yanchor": "top",
    }
    trace: dict[str, Any] = {
        "type": "contour",
        "x": plain(x_at),
        "y": plain(y_at),
        "z": plain(shown),
        "customdata": plain(matrix),
        "colorscale": "Viridis",
        "ncontours": _LEVELS,
        "contours": {"coloring": "fill"},
        "line": {"width": 0.7, "color": "#ffffff"},
        "colorbar": bar,
        "hovertemplate": "%{customdata:.4g}<extra></extra>",
    }
    if log:
        low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
        ticks = np.linspace(low, high, 6)
        bar |= {"tickvals": plain(ticks), "ticktext": [f"{10**tick:.3g}" for tick in ticks]}
    marks: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [place[0] for place in points.values()],
        "y": [place[1] for place in points.values()],
        "text": [f"<b>{escaped(name)}</b>" for name in points],
        "textposition": "top center",
        # On the contours' own colours, whatever the page's.
        "textfont": {"color": "#ffffff", "size": 15, "shadow": "0 0 4px #000, 0 0 2px #000"},
        "marker": {"color": "#ffffff", "line": {"color": "#000000", "width": 2}, "size": 11},
        "hoverinfo": "text",
        "showlegend": False,
    }
    layout = _layout(x, y, legend=False)
    layout["xaxis"]["showgrid"] = layout["yaxis"]["showgrid"] = False
    layout["yaxis"] |= {"scaleanchor": "x", "constrain": "domain"}
    layout["xaxis"]["constrain"] = "domain"
    layout["height"] = 460
    layout["margin"]["b"] = 100
    columns = np.asarray(x_at, dtype=np.float64)
    table = tuple(
        (number(at), *map(number, row)) for at, row in zip(np.asarray(y_at, dtype=np.float64), matrix, strict=True)
    )
    return Figure(
        title=title,
        data=[trace, marks],
        layout=layout,
        caption=caption,
        numbers=Numbers(columns=("", *map(number, columns)), rows=table),
    )


def escaped(text: str) -> str:
    """Text that plotly shows as it is, where it would read tags."""
    return html.escape(text, quote=False)


def number(value: float) -> str:
    """A number in a table, to four significant digits; a dash where there is none."""
    return f"{value:.4g}" if math.isfinite(value) else "–"


def plain(values: ArrayLike) -> Any:
    """Numbers as JSON has them, None where they aren't finite."""
    array: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if array.ndim > 1:
        return [plain(row) for row in array]
    return [float(value) if math.isfinite(value) else None for value in array]


def _style(place: int, curve: Curve) -> dict[str, Any]:
    colour = COLOURS[(place if curve.colour is None else curve.colour) % len(COLOURS)]
    # Beyond six curves colours come again, so dashes and markers then are other ones.
    turn = place + place // len(COLOURS)
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(curve.x) <= _MOST_MARKERS else "lines",
        "name": escaped(curve.name),
        "x": plain(curve.x),
        "y": plain(curve.y),
        "line": {"color": colour, "dash": DASHES[turn % len(DASHES)], "width": 2},
        "marker": {"color": colour, "symbol": MARKERS[turn % len(MARKERS)], "size": 7},
    }


def _pattern(place: int, colour: str) -> dict[str, Any]:
    return {"shape": PATTERNS[place % len(PATTERNS)], "bgcolor": colour, "fgcolor": "#ffffff", "solidity": 0.2}


def _points(curves: Sequence[Curve], x: str) -> Numbers:
    """All points as rows, curves that share an abscissa side by side."""
    at = sorted({float(value) for curve in curves for value in curve.x})
    known = [dict(zip(map(float, curve.x), curve.y, strict=True)) for curve in curves]
    rows = tuple((number(value), *(number(points.get(value, math.nan)) for points in known)) for value in at)
    return Numbers(columns=(x, *(curve.name for curve in curves)), rows=rows)


def _layout(x: str, y: str, *, legend: bool) -> dict[str, Any]:
    """What all figures have: no ground of their own, so that the page's colour scheme shows, and room on a phone."""
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "margin": {"l": 12, "r": 12, "t": 12, "b": 12},
        "height": 380,
        "showlegend": legend,
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "xaxis": _axis(x),
        "yaxis": _axis(y),
    }


def _axis(title: str) -> dict[str, Any]:
    return {"title": {"text": escaped(title)}, "automargin": True, "zeroline": False, "ticks": "outside"}
