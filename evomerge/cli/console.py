"""Where the command line prints, and how it writes numbers, sizes and times."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from evomerge.errors import printable

# Pipes and files have no width of their own; tables there are as wide as most terminals.
_WIDTH_OF_A_FILE = 80


class SafeConsole(Console):
    """A console on which text from files is only text: nothing in it acts on the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed, with control characters shown as Python writes them; rich's own are kept."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


class SafeTable(Table):
    """A table whose cells are made safe before they are measured, so that none is cut."""

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """Add a row."""
        super().add_row(*map(_safe, cells), **settings)


def _safe(cell: RenderableType | None) -> RenderableType | None:
    if isinstance(cell, Text) and printable(cell.plain) != cell.plain:
        return Text(printable(cell.plain), style=cell.style)
    return printable(cell) if isinstance(cell, str) else cell


def stdout() -> Console:
    """Results and screens. Without colour or control characters when not a terminal."""
    return _console(stderr=False)


def stderr() -> Console:
    """Errors, and progress of commands whose output is data."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = SafeConsole(stderr=stderr, highlight=False)
    if not console.is_terminal:
        given = os.environ.get("COLUMNS", "")
        width = int(given) if given.isdecimal() and int(given) else _WIDTH_OF_A_FILE
        console = SafeConsole(stderr=stderr, highlight=False, width=width, color_system=None)
    return console


def say(console: Console, text: str | Text) -> None:
    """Print prose: wrapped between words on a terminal; in a pipe or file a line stays a line."""
    console.print(Text(text) if isinstance(text, str) else text, soft_wrap=not console.is_terminal)


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> Table:
    """An empty table in the house style; columns named in `right` are aligned right."""
    made = SafeTable(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left", title_style="bold"
    )
    for column in columns:
        made.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=column in right
        )
    return made


def score(value: float | None) -> str:
    """A score or fitness, to four decimals, or that a requirement was missed."""
    from evomerge.score.objective import INFEASIBLE

    if value is None:
        return "–"
    return f"{value:.4f}" if value > -INFEASIBLE else "infeasible"


def interval(value: float, bounds: Sequence[float], *, signed: bool = False) -> str:
    """A value with its interval, as "0.463 [0.412, 0.519]"."""
    low, high = bounds
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" if signed else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def probability(p: float) -> str:
    """A p-value, to two significant digits."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def duration(seconds: float) -> str:
    """A time span, as "45 s", "3 min 20 s" or "2 h 05 min"."""
    if seconds < 0.995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours / 24:.1f} days"


def size(num_bytes: float) -> str:
    """A size in decimal units, as "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(num_bytes) < 999.5:
            return f"{num_bytes:.0f} {unit}" if unit == "B" or num_bytes >= 100 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
