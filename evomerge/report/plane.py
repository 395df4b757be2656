"""Points, curves and levels over two axes, with a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evomerge.report.chart import Chart, bottom_axis, range_of, stroke
from evomerge.report.figures import COLOURS
from evomerge.report.svg import Scale, dots, element, label, line, marker, path, ticks, width_of, wrapped, written

_LEGEND_ROW = 18.0
_SWATCH = 24.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Named points of one kind; NaN leaves a gap in a line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    drawn: Literal["dots", "marks", "line", "steps", "joined"] = "line"
    """As many small dots, as marks, joined by a line, by steps that keep a value until the next, or both."""
    colour: int = 0
    """Number of its colour."""
    dash: str = "solid"
    shape: str = "circle"
    low: Sequence[float] | None = None
    """Lower edge of a band around it."""
    high: Sequence[float] | None = None
    band: str = ""
    """What the band is."""
    faint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A named height, with a band around it."""

    name: str
    y: float
    colour: int
    dash: str
    error: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane(Chart):
    """Series over two axes, levels across it, marks along its ends."""

    x: str
    y: str
    series: Sequence[Series]
    levels: Sequence[Level] = ()
    turns: Sequence[float] = ()
    """Where thin upright lines stand."""
    turns_name: str = ""
    rugs: Sequence[tuple[str, Sequence[float], int, str]] = ()
    """Marks at the bottom: name, places, number of colour, shape."""
    whole_x: bool = False
    x_range: tuple[float, float] | None = None
    height: float = 300.0

    def body(self, width: float) -> tuple[str, float]:
        """Its elements for a width in pixels, and how high they are."""
        legend, top = _legend(self._entries(), width)
        top += 22
        low, high = range_of(
            [value for one in self.series for values in (one.y, one.low, one.high) for value in values or ()]
            + [level.y + sign * level.error for level in self.levels for sign in (-1, 1)]
        )
        steps = ticks(low, high, 6)
        names = written(steps)
        left = max(map(width_of, names), default=10.0) + 10
        bottom = top + self.height
        y = Scale(low, high, bottom - 14 * len(self.rugs) - 4, top + 4)
        across = self.x_range or range_of([value for one in self.series for value in one.x], margin=0.02)
        x = Scale(*across, left, width - 8)
        parts = [legend, label(0, top - 12, self.y, kind="dim-ink")]
        for value, name in zip(steps, names, strict=True):
            parts += [
                line(left, y(value), width - 8, y(value)),
                label(left - 6, y(value), name, anchor="end", kind="dim-ink"),
            ]
        parts += [line(x(value), top, x(value), bottom) for value in self.turns if across[0] <= value <= across[1]]
        parts.append(bottom_axis(x, bottom, self.x, whole=self.whole_x))
        for level in self.levels:
            colour = COLOURS[level.colour % len(COLOURS)]
            if level.error:
                ends = y(level.y + level.error), y(level.y - level.error)
                parts.append(
                    element(
                        "rect",
                        x=left,
                        y=ends[0],
                        width=width - 8 - left,
                        height=ends[1] - ends[0],
                        fill=colour,
                        opacity="0.10",
                    )
                )
            parts.append(stroke(path([(left, y(level.y)), (width - 8, y(level.y))]), colour, level.dash))
        parts += [_drawn(one, x, y) for one in self.series]
        for row, (_, places, number, shape) in enumerate(self.rugs):
            down = bottom - 14 * row - 8
            parts += [marker(shape, x(place), down, 3, COLOURS[number]) for place in places]
        return "".join(parts), bottom + 38

    def _entries(self) -> list[tuple[str, str]]:
        """Names for the legend, with what stands before each."""
        found = []
        for one in self.series:
            colour = COLOURS[one.colour % len(COLOURS)]
            swatch = ""
            if one.low is not None:
                swatch += element("rect", x=0, y=-7, width=18, height=14, fill=colour, opacity="0.18")
            if one.drawn in {"line", "steps", "joined"}:
                swatch += stroke("M0 0L18 0", colour, one.dash)
            if one.drawn in {"marks", "joined"}:
                swatch += marker(one.shape, 9, 0, 4, colour)
            if one.drawn == "dots":
                swatch += marker("circle", 9, 0, 2.5, colour)
            found.append((one.name + (f" ({one.band})" if one.band else ""), swatch))
        for level in self.levels:
            found.append((level.name, stroke("M0 0L18 0", COLOURS[level.colour % len(COLOURS)], level.dash)))
        found += [(name, marker(shape, 9, 0, 3, COLOURS[colour])) for name, _, colour, shape in self.rugs]
        if self.turns:
            found.append((self.turns_name, line(9, -7, 9, 7)))
        return found if len(found) > 1 else []


def _legend(entries: Sequence[tuple[str, str]], width: float) -> tuple[str, float]:
    """Names beside each other in as many lines as they need, and how high that is."""
    parts, across, down = [], 0.0, 0.0
    for name, swatch in entries:
        lines = wrapped(name, width - _SWATCH - 4)
        wide = _SWATCH + max(map(width_of, lines)) + 16
        if across and across + wide - 16 > width:
            across, down = 0.0, down + _LEGEND_ROW
        parts.append(element("g", swatch, transform=f"translate({across:.1f} {down + 9:.1f})"))
        for place, text in enumerate(lines):
            parts.append(label(across + _SWATCH, down + 9 + _LEGEND_ROW * place, text))
        down += _LEGEND_ROW * (len(lines) - 1)
        across += wide
    return "".join(parts), down + _LEGEND_ROW if entries else 0.0


def _drawn(one: Series, x: Scale, y: Scale) -> str:
    """A series in its place."""
    colour = COLOURS[one.colour % len(COLOURS)]
    parts = []
    runs: list[list[int]] = [[]]
    for place, value in enumerate(one.y):
        if math.isfinite(value):
            runs[-1].append(place)
        elif runs[-1]:
            runs.append([])
    places = [place for run in runs for place in run]
    if one.low is not None and one.high is not None:
        for run in filter(None, runs):
            upper = _walk([(x(one.x[at]), y(one.high[at])) for at in run], one.drawn)
            lower = _walk([(x(one.x[at]), y(one.low[at])) for at in run], one.drawn)
            parts.append(element("path", d=path(upper + lower[::-1]) + "Z", fill=colour, opacity="0.18"))
    if one.drawn in {"line", "steps", "joined"}:
        d = "".join(path(_walk([(x(one.x[at]), y(one.y[at])) for at in run], one.drawn)) for run in runs if run)
        if d:
            parts.append(stroke(d, colour, one.dash))
    if one.drawn == "dots":
        parts.append(
            element(
                "path",
                d=dots([(x(one.x[at]), y(one.y[at])) for at in places]) or None,
                stroke=colour,
                stroke_width=6 if len(places) <= 200 else 4,
                stroke_linecap="round",
                stroke_opacity="0.55" if one.faint else "0.8",
            )
        )
    if one.drawn in {"marks", "joined"}:
        parts += [marker(one.shape, x(one.x[at]), y(one.y[at]), 4, colour) for at in places]
    return "".join(parts)


def _walk(points: list[tuple[float, float]], drawn: str) -> list[tuple[float, float]]:
    """The corners of a line, with those of its steps."""
    if drawn != "steps":
        return points
    found = points[:1]
    for x, y in points[1:]:
        found += [(x, found[-1][1]), (x, y)]
    return found
