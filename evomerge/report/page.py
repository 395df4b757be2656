"""One self-contained HTML page: headings, sentences, tables and figures, plotly's code inlined once.

Reads at any width, in print, in both colour schemes and without a network. Does not know what it reports.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from evomerge.errors import MissingPackageError, printable
from evomerge.files.atomic import write_atomically
from evomerge.report.figures import Figure, Numbers

_CONFIG = {"responsive": True, "displaylogo": False, "displayModeBar": False}

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #57606a; --ground: #ffffff; --line: #d0d7de; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9da7b3; --ground: #14171c; --line: #3a424d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2rem 0 .25rem; }
h3, figure h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
figure { margin: 1.5rem 0; } figcaption, .dim { color: var(--dim); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .2rem .7rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
.number { text-align: right; } th { color: var(--dim); font-weight: 600; }
summary { cursor: pointer; color: var(--dim); font-size: .9rem; }
.xtick text, .ytick text, .xtitle, .ytitle, .legendtext, .cbaxis text, .cbtitle text { fill: var(--ink) !important; }
.gridlayer path { stroke: var(--line) !important; }
path.xtick, path.ytick { stroke: var(--dim) !important; }
@media print {
  :root { color-scheme: light; --ink: #000; --dim: #333; --ground: #fff; --line: #bbb; }
  main { padding: 0; max-width: none; } figure, table { break-inside: avoid; } details:not([open]) { display: none; }
}
"""

# A page is laid out for paper after figures were drawn for the window, so they are drawn again.
_SCRIPT = """
const figures = [...document.querySelectorAll("script[type='application/json']")].map(source => {
  const place = source.previousElementSibling, figure = JSON.parse(source.textContent);
  Plotly.newPlot(place, figure.data, figure.layout, figure.config);
  return place;
});
const fit = width => figures.forEach(place => Plotly.relayout(place, width ? {width} : {width: null, autosize: true}));
matchMedia("print").addEventListener("change", event => fit(event.matches ? 640 : 0));
addEventListener("beforeprint", () => fit(640));
addEventListener("afterprint", () => fit(0));
"""


def require_figures() -> None:
    """Find whether figures can be drawn, before any work. Raises: MissingPackageError saying what to install."""
    if find_spec("plotly") is None:
        raise MissingPackageError("figures need plotly, which isn't installed: pip install 'evomerge[figures]'")


class Page:
    """A page that grows from the top.

    Args:
        title: its heading.
        lead: a sentence under it.

    Raises: MissingPackageError without plotly.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        require_figures()
        self._title = title
        self._parts = [f"<h1>{_text(title)}</h1>"]
        self._has_figures = False
        if lead:
            self.say(lead)

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{_text(text)}</h2>")

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{_text(text)}</p>")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
        """Add a table of text; its first column names the rows."""
        if title:
            self._parts.append(f"<h3>{_text(title)}</h3>")
        self._parts.append(_table(Numbers(columns=tuple(columns), rows=tuple(tuple(row) for row in rows))))

    def figure(self, figure: Figure) -> None:
        """Add a figure, its caption, and its numbers to be unfolded."""
        self._has_figures = True
        # What ends a script element can't stand in it.
        source = json.dumps({"data": figure.data, "layout": figure.layout, "config": _CONFIG}).replace("<", "\\u003c")
        parts = [f"<h3>{_text(figure.title)}</h3>", f'<div role="img" aria-label="{_text(figure.title)}"></div>']
        parts.append(f'<script type="application/json">{source}</script>')
        if figure.caption:
            parts.append(f"<figcaption>{_text(figure.caption)}</figcaption>")
        if figure.numbers is not None:
            parts.append(f"<details><summary>Numbers</summary>{_table(figure.numbers)}</details>")
        self._parts.append(f"<figure>{''.join(parts)}</figure>")

    def html(self) -> str:
        """The whole page; with figures it holds plotly's code, about 5 MB."""
        script = ""
        if self._has_figures:
            from plotly.offline import get_plotlyjs

            script = f"<script>{get_plotlyjs()}</script><script>{_SCRIPT}</script>"
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_text(self._title)}</title><style>{_STYLE}</style></head>"
            f"<body><main>{''.join(self._parts)}</main>{script}</body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page by atomic rename. Raises: RunError if it can't be written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.html())


def _table(numbers: Numbers) -> str:
    columns = [*zip(*numbers.rows, strict=True)] or [() for _ in numbers.columns]
    kinds = [' class="number"' if all(map(_is_number, column)) else "" for column in columns]

    def row(tag: str, cells: Sequence[str]) -> str:
        joined = "".join(f"<{tag}{kind}>{_text(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
        return f"<tr>{joined}</tr>"

    body = "".join(row("td", cells) for cells in numbers.rows)
    return f'<div class="scroll"><table><thead>{row("th", numbers.columns)}</thead><tbody>{body}</tbody></table></div>'


def _is_number(cell: str) -> bool:
    """Whether a cell begins as a number does, or stands for one that is missing."""
    return cell.lstrip("+-−±< ")[:1].isdigit() or cell in {"–", ""}


def _text(text: str) -> str:
    return html.escape(printable(text))
