"""One self-contained HTML page: headings, sentences, tables, charts, and figures with plotly's code inlined once.

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
from evomerge.report.chart import DESK, PHONE, Chart
from evomerge.report.figures import Figure, Numbers
from evomerge.report.svg import STYLE

_CONFIG = {"responsive": True, "displaylogo": False, "displayModeBar": False}

_STYLE = (
    """
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
h2 { border-top: 1px solid var(--line); padding-top: 1rem; }
.lead { border-left: 4px solid #0072B2; padding: .1rem 0 .1rem .9rem; font-size: 1.1rem; }
.lead.open { border-color: #E69F00; }
svg { display: block; max-width: 100%; height: auto; margin: .25rem 0; } svg.phone { display: none; }
@media screen and (max-width: 52rem) { svg.desk { display: none; } svg.phone { display: block; }
  table { font-size: .78rem; } th, td { padding-right: .35rem; white-space: normal; overflow-wrap: break-word; } }
pre, .text { white-space: pre-wrap; overflow-wrap: anywhere; font: .85rem/1.45 ui-monospace, monospace; margin: 0; }
pre { padding: .6rem; border: 1px solid var(--line); border-radius: 6px; }
article { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .75rem; margin: .6rem 0; }
dl { margin: .3rem 0; } dt { color: var(--dim); font-size: .85rem; } dd { margin: 0 0 .4rem; }
"""
    + STYLE
    + """@media print {
  :root { color-scheme: light; --ink: #000; --dim: #333; --ground: #fff; --line: #bbb; }
  main { padding: 0; max-width: none; } figure, table, article { break-inside: avoid; }
  h2, h3, h2 + p { break-after: avoid; } details:not([open]) { display: none; }
}
"""
)

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


class TextPage:
    """A page that grows from the top, without plotly.

    Args:
        title: its heading.
        lead: a sentence under it.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self._title = title
        self._parts = [f"<h1>{_text(title)}</h1>"]
        if lead:
            self.say(lead)

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{_text(text)}</h2>")

    def subheading(self, text: str) -> None:
        """Begin a part of a section."""
        self._parts.append(f"<h3>{_text(text)}</h3>")

    def say(self, text: str, *, kind: str = "") -> None:
        """Add a paragraph; `kind` is its class: `lead`, `lead open` or `dim`."""
        mark = f' class="{kind}"' if kind else ""
        self._parts.append(f"<p{mark}>{_text(text)}</p>")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
        """Add a table of text; its first column names the rows."""
        if title:
            self.subheading(title)
        self._parts.append(_table(Numbers(columns=tuple(columns), rows=tuple(tuple(row) for row in rows))))

    def chart(self, chart: Chart) -> None:
        """Add a chart, drawn for a phone and for a desk, its caption, and its numbers to be unfolded."""
        drawn = chart.svg(DESK, name="desk") + chart.svg(PHONE, name="phone")
        self._parts.append(_figure(chart.title, drawn, chart.caption, chart.numbers))

    def code(self, text: str, *, title: str = "") -> None:
        """Add lines of code; with a title they are to be unfolded."""
        block = f"<pre>{_text(text)}</pre>"
        self._parts.append(f"<details><summary>{_text(title)}</summary>{block}</details>" if title else block)

    def entry(self, heading: str, parts: Sequence[tuple[str, str]]) -> None:
        """Add a box: a heading, and named texts whose lines are kept."""
        rows = "".join(f'<dt>{_text(name)}</dt><dd class="text">{_text(text)}</dd>' for name, text in parts)
        self._parts.append(f"<article><strong>{_text(heading)}</strong><dl>{rows}</dl></article>")

    def _script(self) -> str:
        """What comes after the page's contents."""
        return ""

    def html(self) -> str:
        """The whole page."""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_text(self._title)}</title><style>{_STYLE}</style></head>"
            f"<body><main>{''.join(self._parts)}</main>{self._script()}</body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page by atomic rename. Raises: RunError if it can't be written."""
        write_atomically(path, self.html(), parents=True)


class Page(TextPage):
    """A page that may have figures, which plotly draws; with figures it holds plotly's code, about 5 MB.

    Args:
        title: its heading.
        lead: a sentence under it.

    Raises: MissingPackageError without plotly.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        require_figures()
        super().__init__(title, lead)
        self._has_figures = False

    def figure(self, figure: Figure) -> None:
        """Add a figure, its caption, and its numbers to be unfolded."""
        self._has_figures = True
        # What ends a script element can't stand in it.
        source = json.dumps({"data": figure.data, "layout": figure.layout, "config": _CONFIG}).replace("<", "\\u003c")
        drawn = f'<div role="img" aria-label="{_text(figure.title)}"></div>'
        drawn += f'<script type="application/json">{source}</script>'
        self._parts.append(_figure(figure.title, drawn, figure.caption, figure.numbers))

    def _script(self) -> str:
        """Plotly's code, and what draws the figures."""
        if not self._has_figures:
            return ""
        from plotly.offline import get_plotlyjs

        return f"<script>{get_plotlyjs()}</script><script>{_SCRIPT}</script>"


def _figure(title: str, drawn: str, caption: str, numbers: Numbers | None) -> str:
    """A heading, what is drawn, a caption, and numbers to be unfolded."""
    parts = [f"<h3>{_text(title)}</h3>", drawn]
    if caption:
        parts.append(f"<figcaption>{_text(caption)}</figcaption>")
    if numbers is not None:
        parts.append(f"<details><summary>Numbers</summary>{_table(numbers)}</details>")
    return f"<figure>{''.join(parts)}</figure>"


def _table(numbers: Numbers) -> str:
    columns = [*zip(*numbers.rows, strict=True)] or [() for _ in numbers.columns]
    kinds = [' class="number"' if all(map(_is_number, column)) else "" for column in columns]

    def row(tag: str, cells: Sequence[str]) -> str:
        joined = "".join(
            f"<{tag}{kind}>{_text(cell).replace(', ', ',&nbsp;')}</{tag}>"
            for cell, kind in zip(cells, kinds, strict=True)
        )
        return f"<tr>{joined}</tr>"

    body = "".join(row("td", cells) for cells in numbers.rows)
    return f'<div class="scroll"><table><thead>{row("th", numbers.columns)}</thead><tbody>{body}</tbody></table></div>'


def _is_number(cell: str) -> bool:
    """Whether a cell begins as a number does, or stands for one that is missing."""
    return cell.lstrip("+-−±< ")[:1].isdigit() or cell in {"–", ""}


def _text(text: str) -> str:
    return html.escape(printable(text))
