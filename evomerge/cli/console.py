"""Where the command line prints."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from evomerge.errors import printable

_BARS = "▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 60

# Pipes and files have no width of their own; tables there are at least as wide as most terminals.
_WIDTH_OF_A_FILE = 80


class SafeConsole(Console):
    """A console on which text from files is only text: nothing in it acts on the terminal.

    Where it is no terminal, lines end with their last character, and not with spaces up to the console's width.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed, with control characters shown as Python writes them; rich's own are kept."""
        safe = (
            segment if segment.control else segment._replace(text=printable(segment.text))
            for segment in super().render(renderable, options)
        )
        return safe if self.is_terminal else _without_padding(safe)


def _without_padding(segments: Iterable[Segment]) -> Iterator[Segment]:
    """The segments without the spaces that end a line."""
    held: list[Segment] = []
    for segment in segments:
        if segment.control:
            yield segment
            continue
        lines = segment.text.split("\n")
        for number, text in enumerate(lines):
            if number:
                held = []
                yield segment._replace(text="\n")
            if kept := text.rstrip(" "):
                yield from held
                held = []
                yield segment._replace(text=kept)
            if len(kept) < len(text):
                held.append(segment._replace(text=text[len(kept) :]))
    # Of a line that hasn't ended.
    yield from held


class SafeTable(Table):
    """A table no cell of which is cut unless it asks to be: they are made safe before they are measured, and where the
    console is too narrow for numbers in one line beside words, numbers are wrapped, too.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, as wide as fits."""
        if self._width_needed() > (self.width or options.max_width):
            for column in self.columns:
                column.no_wrap = False
        yield from super().__rich_console__(console, options)

    def _width_needed(self) -> int:
        """The least width that cuts no word, and no line of a column that isn't wrapped."""
        # Of texts alone: rich's own measuring would take as long again as drawing a long table.
        widths = []
        for column in self.columns:
            texts = [str(cell) for cell in (column.header, *column.cells) if isinstance(cell, str | Text)]
            parts = (part for text in texts for part in (text.splitlines() if column.no_wrap else text.split()))
            widths.append(max(map(cell_len, parts), default=0))
        gap = sum(self.padding[1::2]) + 1
        return sum(widths) + gap * (len(widths) - 1)

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
        width = max(int(given) if given.isdecimal() else 0, _WIDTH_OF_A_FILE)
        console = SafeConsole(stderr=stderr, highlight=False, width=width, color_system=None)
    return console


def say(console: Console, text: str | Text, *, wrapped: bool = True) -> None:
    """Print prose: wrapped between words on a terminal, unless it is to be copied; in a pipe or file a line stays a
    line.
    """
    console.print(Text(text) if isinstance(text, str) else text, soft_wrap=not (wrapped and console.is_terminal))


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> Table:
    """An empty table in the house style; columns named in `right` are aligned right."""
    made = SafeTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
    )
    for column in columns:
        made.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=column in right
        )
    return made


def moment() -> str:
    """Now, by the clock of this machine, as "2026-11-28 19:02:03"."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def sparkline(values: Sequence[float]) -> str:
    """Values as a row of bars; the last ones if there are many."""
    values = values[-_SPARKLINE_WIDTH:]
    low, high = min(values), max(values)
    steps = len(_BARS) - 1
    return "".join(_BARS[round(steps * (value - low) / (high - low)) if high > low else 0] for value in values)
