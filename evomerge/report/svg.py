"""Elements of SVG that are drawn for a width, in colours that read on light and dark grounds and in print.

Knows text, scales and ticks. Does not know what is drawn. Text is escaped, its control characters shown.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.errors import printable

SIZE = 12.0
"""Of text, in pixels: figures are drawn for the width that they are shown at."""

INK, DIM, LINE, GROUND = "#1b1f24", "#57606a", "#d0d7de", "#ffffff"
STYLE = """
.ink { fill: var(--ink); } .dim-ink { fill: var(--dim); } .ground { fill: var(--ground); }
.grid { stroke: var(--line); } .axis { stroke: var(--dim); } .outline { stroke: var(--ink); }
"""
"""What a page adds so that text and axes follow its colour scheme."""

# Without variables, which other programs than browsers don't know.
_DARK = (
    "@media (prefers-color-scheme: dark) { .ink { fill: #e6edf3; } .dim-ink { fill: #9da7b3; } "
    ".ground { fill: #14171c; } .grid { stroke: #3a424d; } .axis { stroke: #9da7b3; } .outline { stroke: #e6edf3; } }"
)
_FILLS = {"ink": INK, "dim-ink": DIM, "ground": GROUND}
_STROKES = {"grid": LINE, "axis": DIM, "outline": INK}
_BREAKS = re.compile(r"(?<=[\s,+/_.:-])")


def element(name: str, content: str = "", /, **attributes: str | float | None) -> str:
    """One element; `kind` becomes its class with that class's colour for a light ground, an underscore a hyphen."""
    kind = attributes.pop("kind", None)
    if kind is not None:
        attributes["class"] = kind
        for key, colours in (("fill", _FILLS), ("stroke", _STROKES)):
            if kind in colours:
                attributes.setdefault(key, colours[str(kind)])
    written = "".join(
        f' {key.replace("_", "-")}="{_number(value) if isinstance(value, int | float) else html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def label(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    kind: str = "ink",
    size: float = SIZE,
    bold: bool = False,
    fill: str | None = None,
    turned: bool = False,
) -> str:
    """A line of text whose middle is at a height `y`; `turned` reads from below."""
    return element(
        "text",
        html.escape(printable(text), quote=False),
        x=x,
        y=y + 0.35 * size,
        font_size=size if size != SIZE else None,
        text_anchor=anchor if anchor != "start" else None,
        font_weight="600" if bold else None,
        transform=f"rotate(-90 {_number(x)} {_number(y)}) translate(0 0)" if turned else None,
        **({"fill": fill} if fill else {"kind": kind}),
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> str:
    """A thin straight line."""
    return element("path", d=f"M{_number(x1)} {_number(y1)}L{_number(x2)} {_number(y2)}", kind=kind, fill="none")


def path(points: Sequence[tuple[float, float]]) -> str:
    """What joins points by straight lines, as the attribute `d`."""
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)


def dots(points: Sequence[tuple[float, float]]) -> str:
    """The attribute `d` of a path that is a dot at each point, where its stroke has round ends."""
    return "".join(f"M{_number(x)} {_number(y)}h0" for x, y in points)


def marker(shape: str, x: float, y: float, radius: float, colour: str) -> str:
    """A mark of one of the shapes `circle`, `square`, `diamond`, `triangle-up`, `x` and `star`."""
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=radius, fill=colour, stroke=colour)
    if shape in {"x", "star"}:
        half = 0.8 * radius
        ends = [(half, half), (half, -half)] + ([(0, radius), (radius, 0)] if shape == "star" else [])
        d = "".join(path([(x - right, y - down), (x + right, y + down)]) for right, down in ends)
        return element("path", d=d, stroke=colour, stroke_width=2, fill="none")
    corners = {
        "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        "diamond": [(0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)],
        "triangle-up": [(0, -1.1), (1.05, 0.85), (-1.05, 0.85)],
    }[shape]
    return element("path", d=path([(x + radius * a, y + radius * b) for a, b in corners]) + "Z", fill=colour)


def width_of(text: str, size: float = SIZE) -> float:
    """About how wide a line of text is: rather more than less."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return size * (0.57 * (len(text) - wide) + wide)


def wrapped(text: str, width: float, size: float = SIZE) -> list[str]:
    """Text in lines of at most a width, broken after spaces and marks, else anywhere."""
    lines = [""]
    for word in _BREAKS.split(printable(text)):
        rest = word
        if lines[-1] and width_of((lines[-1] + word).rstrip(), size) > width:
            lines.append("")
        while width_of(lines[-1] + rest.rstrip(), size) > width and len(rest) > 1:
            fits = max(1, int((width - width_of(lines[-1], size)) / (0.57 * size)))
            fits = next((n for n in range(fits, 1, -1) if width_of(rest[:n], size) <= width), 1)
            lines[-1] += rest[:fits]
            rest = rest[fits:]
            lines.append("")
        lines[-1] += rest
    return [one.strip() for one in lines if one.strip()] or [""]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places: `low` is drawn at `start`, `high` at `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Where a value is drawn."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """At most about `most` round numbers from `low` to `high`, evenly spaced; whole ones if asked for."""
    span = (high - low) or 1.0
    step = 10.0 ** math.floor(math.log10(span / max(1, most)))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if span / (step * factor) <= most)
    if whole:
        step = max(1.0, float(round(step)))
    first = math.ceil(low / step - 1e-9)
    places = range(first, math.floor(high / step + 1e-9) + 1)
    # Far from zero, a round number may be beyond an end by what a float can tell there.
    return [min(max(round(place * step, 12), low), high) for place in places]


def written(values: Sequence[float]) -> list[str]:
    """Numbers of one axis with as many decimals as tell them apart."""
    for decimals in range(7):
        if all(abs(value - round(value, decimals)) <= 1e-9 * max(1.0, abs(value)) for value in values):
            return [f"{value:,.{decimals}f}".replace("-", "−") for value in values]
    return [f"{value:.3g}".replace("-", "−") for value in values]


def document(body: str, width: float, height: float, *, title: str, alone: bool = False, name: str = "") -> str:
    """An SVG of a width and height in pixels.

    Args:
        body: its elements.
        width: in pixels.
        height: in pixels.
        title: what it shows, for those who don't see it.
        alone: whether it is a file of its own, with a ground and its own colours, and not part of a page.
        name: class of the element.
    """
    ground = element("rect", width=width, height=height, kind="ground") if alone else ""
    style = f"<style>{_DARK}</style>" if alone else ""
    namespace = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
    heading = f"<title>{html.escape(printable(title), quote=False)}</title>"
    size = f'width="{_number(width)}" height="{_number(height)}" viewBox="0 0 {_number(width)} {_number(height)}"'
    kind = f' class="{name}"' if name else ""
    # A renderer without a desktop may know its fonts by their own names alone.
    families = "system-ui, Arial, 'Liberation Sans', 'DejaVu Sans', 'Noto Sans', sans-serif"
    font = f'font-family="{families}" font-size="12"'
    return f'<svg{namespace}{kind} {size} {font} role="img">{heading}{style}{ground}{body}</svg>'


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"
