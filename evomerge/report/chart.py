"""The seam of charts: what is drawn as SVG for any width, with its caption and numbers; axes that charts share.

Does not know what is measured, nor the page that a chart stands on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.report.figures import Numbers
from evomerge.report.svg import Scale, document, element, label, line, ticks, width_of, wrapped, written

PHONE, DESK = 358.0, 928.0
"""Widths that a page draws each chart at, in pixels."""

_LINES = {
    "solid": None,
    "dash": "7 4",
    "dot": "2 3",
    "dashdot": "8 3 2 3",
    "longdash": "12 4",
    "longdashdot": "12 3 2 3",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart(ABC):
    """One chart: its heading, a sentence under it and its numbers as a table."""

    title: str
    caption: str = ""
    numbers: Numbers | None = None

    @abstractmethod
    def body(self, width: float) -> tuple[str, float]:
        """Its elements for a width in pixels, and how high they are."""

    def svg(self, width: float = DESK, *, alone: bool = False, name: str = "") -> str:
        """The chart as SVG.

        Args:
            width: in pixels.
            alone: whether it is a file of its own, with title and caption in it, and not part of a page.
            name: class of the element in a page.
        """
        body, height = self.body(width)
        if alone:
            edge, inner = 16.0, width - 32
            body, height = self.body(inner)
            heading = wrapped(self.title, inner, 15)
            notes = wrapped(self.caption, inner) if self.caption else []
            top = 14 + 20.0 * len(heading)
            text = [label(edge, 20 + 20.0 * row, one, size=15, bold=True) for row, one in enumerate(heading)]
            text += [label(edge, top + height + 14 + 16 * row, one, kind="dim-ink") for row, one in enumerate(notes)]
            moved = element("g", body, transform=f"translate({edge:g} {top:g})")
            body, height = "".join(text) + moved, top + height + 16 * len(notes) + 16
        return document(body, width, height, title=self.title, alone=alone, name=name)


def range_of(values: Sequence[float], margin: float = 0.06) -> tuple[float, float]:
    """From the least to the largest finite value, and a little more."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    around = margin * (high - low) or 0.05 * abs(high) or 0.5
    # What can't be negative has no axis below zero.
    return (max(low - around, -0.02 * high) if low >= 0 else low - around), high + around


def bottom_axis(
    x: Scale, bottom: float, name: str, *, whole: bool = False, grid: Sequence[tuple[float, float]] = ()
) -> str:
    """A line with ticks and their numbers, and the axis' name under it; `grid` is from where to where lines go."""
    places = ticks(x.low, x.high, max(2, int((x.stop - x.start) / 52)), whole=whole)
    parts = [line(x.start, bottom, x.stop, bottom, "axis")]
    for value, text in zip(places, written(places), strict=True):
        parts += [line(x(value), top, x(value), end) for top, end in grid]
        parts.append(line(x(value), bottom, x(value), bottom + 4, "axis"))
        half = width_of(text) / 2
        anchor = "end" if x(value) + half > x.stop + 6 else "middle"
        parts.append(label(x(value) + (6 if anchor == "end" else 0), bottom + 13, text, anchor=anchor, kind="dim-ink"))
    middle = max((x.start + x.stop) / 2, width_of(name) / 2)
    return "".join(parts) + label(middle, bottom + 30, name, anchor="middle", kind="dim-ink")


def stroke(d: str, colour: str, dash: str, width: float = 2) -> str:
    """A coloured line along `d`, in one of the dashes of curves."""
    return element("path", d=d, stroke=colour, stroke_width=width, stroke_dasharray=_LINES[dash], fill="none")
