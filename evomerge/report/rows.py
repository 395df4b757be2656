"""Values under each other, each with its interval or as a bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.report.chart import Chart, bottom_axis, range_of, stroke
from evomerge.report.figures import COLOURS
from evomerge.report.svg import SIZE, Scale, element, label, line, marker, path, width_of, wrapped


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A named value with its interval."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: int = 0
    shape: str = "circle"
    bold: bool = False
    shown: str = ""
    """The value in words; its number if empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(Chart):
    """Values under each other, each with its interval, in groups under headings."""

    x: str
    groups: Sequence[tuple[str, Sequence[Row]]]
    zero: bool = False
    """Whether the axis has zero, and lines go from there to the values."""

    def body(self, width: float) -> tuple[str, float]:
        """Its elements for a width in pixels, and how high they are."""
        rows = [row for _, group in self.groups for row in group]
        said = {id(row): row.shown or f"{row.value:.3f}" for row in rows}
        right = width - max((width_of(text) for text in said.values()), default=0.0) - 10
        gutter = min(
            max((width_of(row.name) * (1.08 if row.bold else 1) for row in rows), default=0.0) + 12, 0.42 * width
        )
        ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
        low, high = range_of([*ends, *([0.0] if self.zero else [])], margin=0.04)
        x = Scale(low, high, gutter + 4, right - 6)
        marks, grid, down = [], [], 6.0
        for heading, group in self.groups:
            if heading:
                for text in wrapped(heading, width):
                    down += 20
                    marks.append(label(0, down - 6, text, bold=True))
                down += 2
            top = down
            for row in group:
                names = wrapped(row.name, gutter - 10, SIZE * (1.06 if row.bold else 1))
                height = max(22.0, 15.0 * len(names) + 7)
                middle = down + height / 2
                for place, text in enumerate(names):
                    marks.append(label(0, middle + 15 * (place - (len(names) - 1) / 2), text, bold=row.bold))
                colour = COLOURS[row.colour % len(COLOURS)]
                if row.low is not None and row.high is not None:
                    marks.append(stroke(path([(x(row.low), middle), (x(row.high), middle)]), colour, "solid"))
                    for end in (row.low, row.high):
                        marks.append(stroke(path([(x(end), middle - 4), (x(end), middle + 4)]), colour, "solid"))
                elif self.zero:
                    bar = min(x(0), x(row.value)), abs(x(row.value) - x(0))
                    marks.append(
                        element("rect", x=bar[0], y=middle - 6, width=bar[1], height=12, fill=colour, opacity="0.8")
                    )
                if row.low is not None or not self.zero:
                    marks.append(marker(row.shape, x(row.value), middle, 4.5, colour))
                marks.append(label(right + 4, middle, said[id(row)], bold=row.bold))
                down += height
            grid.append((top, down))
        down += 4
        axis = bottom_axis(x, down, self.x, grid=grid)
        if self.zero and low < 0:
            axis += line(x(0), grid[0][0], x(0), down, "axis")
        return axis + "".join(marks), down + 38
