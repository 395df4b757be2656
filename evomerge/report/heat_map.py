"""A heat map as SVG: cells in colours of their values, numbers in them where there is room."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.errors import printable
from evomerge.report.chart import Chart
from evomerge.report.svg import SIZE, Scale, element, label, width_of, wrapped, written

_VIRIDIS = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725")
_BLUES_AND_REDS = ("#053061", "#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b", "#67001f")
"""Through white at zero; both ends are dark."""
_ROW = 22.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A value in one column and one or several rows."""

    row: int
    column: int
    value: float
    rows: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap(Chart):
    """Cells over named rows, in groups under headings, and named columns."""

    groups: Sequence[tuple[str, Sequence[str]]]
    columns: Sequence[str]
    cells: Sequence[Cell]
    """Rows are counted through all groups."""
    x: str = ""
    unit: str = ""

    def body(self, width: float) -> tuple[str, float]:
        """Its elements for a width in pixels, and how high they are."""
        names = [name for _, rows in self.groups for name in rows]
        gutter = min(max(map(width_of, names), default=0.0) + 10, 0.38 * width)
        step = min((width - gutter) / max(1, len(self.columns)), 96.0)
        parts, tops, down = [], [], 0.0
        for heading, rows in self.groups:
            for text in wrapped(heading, width) if heading else ():
                down += 20
                parts.append(label(0, down - 7, text, bold=True))
            for name in rows:
                lines = wrapped(name, gutter - 8)
                height = max(_ROW, 15.0 * len(lines) + 6)
                tops.append((down, height))
                for place, text in enumerate(lines):
                    parts.append(label(0, down + height / 2 + 15 * (place - (len(lines) - 1) / 2), text))
                down += height
            down += 6
        values = [cell.value for cell in self.cells]
        shade = Shades(values)
        room = max((width_of(f"{value:.2f}", 11) for value in values), default=0.0) + 4
        for cell in self.cells:
            top, last = tops[cell.row][0], tops[cell.row + cell.rows - 1]
            height, left, colour = last[0] + last[1] - top, gutter + step * cell.column, shade(cell.value)
            name = f"{names[cell.row]}, {self.columns[cell.column]}: {cell.value:.4g}"
            parts.append(
                element(
                    "rect",
                    element("title", html.escape(printable(name), quote=False)),
                    x=left + 0.5,
                    y=top + 0.5,
                    width=max(step - 1, 1),
                    height=height - 1,
                    fill=colour,
                )
            )
            if step >= room:
                ink = "#000000" if _is_light(colour) else "#ffffff"
                parts.append(
                    label(left + step / 2, top + height / 2, f"{cell.value:.2f}", anchor="middle", size=11, fill=ink)
                )
        under, down = self._column_names(gutter, step, down)
        scale, down = shade.legend(gutter, min(width - gutter - 20, 300.0), down + 8, self.unit)
        return "".join(parts) + under + scale, down

    def _column_names(self, gutter: float, step: float, down: float) -> tuple[str, float]:
        """Names under the columns, from below where they are wide, those of numbers only as often as there is room."""
        widest = max(map(width_of, self.columns), default=0.0)
        turned = widest > step - 4
        every = max(1, int(np.ceil((SIZE + 3) / step))) if turned else 1
        parts = []
        for place, name in enumerate(self.columns):
            if place % every and name[:1].isdigit():
                continue
            middle = gutter + step * (place + 0.5)
            if turned:
                parts.append(label(middle, down + 4, name, anchor="end", kind="dim-ink", turned=True))
            else:
                parts.append(label(middle, down + 8, name, anchor="middle", kind="dim-ink"))
        down += (widest if turned else SIZE) + 12
        middle = gutter + step * len(self.columns) / 2
        if self.x:
            parts.append(label(middle, down + 4, self.x, anchor="middle", kind="dim-ink"))
            down += 18
        return "".join(parts), down


class Shades:
    """Colours of values: from dark to light, or from blue over white to red where some are below zero.

    Args:
        values: all that are shown.
    """

    def __init__(self, values: Sequence[float]) -> None:
        low, high = min(values, default=0.0), max(values, default=1.0)
        signed = low < 0 < high
        most = max(abs(low), abs(high))
        self._low, self._high = (-most, most) if signed else (low, high if high > low else low + (abs(low) or 1.0))
        self._colours = _BLUES_AND_REDS if signed else _VIRIDIS
        self._is_one = high == low

    def __call__(self, value: float) -> str:
        """The colour of a value."""
        place = (value - self._low) / (self._high - self._low) * (len(self._colours) - 1)
        place = min(max(place, 0.0), len(self._colours) - 1.0)
        low = min(int(place), len(self._colours) - 2)
        ends = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in self._colours[low : low + 2]]
        mixed = [round(first + (place - low) * (second - first)) for first, second in zip(*ends, strict=True)]
        return "#" + "".join(f"{value:02x}" for value in mixed)

    def legend(self, left: float, width: float, down: float, unit: str) -> tuple[str, float]:
        """A strip of the colours with numbers under it, and where it ends; nothing for a single value."""
        if self._is_one:
            return "", down
        steps = 48
        parts = [
            element(
                "rect",
                x=left + width * place / steps,
                y=down,
                width=width / steps + 0.6,
                height=10,
                fill=self(self._low + (self._high - self._low) * (place + 0.5) / steps),
            )
            for place in range(steps)
        ]
        scale = Scale(self._low, self._high, left, left + width)
        shown = [round(value, 3) for value in np.linspace(self._low, self._high, 3 if width < 200 else 5)]
        for value, text in zip(shown, written(shown), strict=True):
            parts.append(label(scale(value), down + 20, text, anchor="middle", kind="dim-ink"))
        if unit:
            parts.append(label(left + width / 2, down + 36, unit, anchor="middle", kind="dim-ink"))
        return "".join(parts), down + (46 if unit else 30)


def _is_light(colour: str) -> bool:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140
