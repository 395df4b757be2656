"""Figures and their page: plotly's own validation, what is drawn, and text that stays text."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from plotly import graph_objects

from evomerge.errors import MissingPackageError
from evomerge.report.figures import COLOURS, Curve, Figure, bars, contours, heat_map, lines
from evomerge.report.page import Page

HOSTILE = '</script><b onclick="x">a & b</b>'


def curves(count: int = 3) -> list[Curve]:
    x = np.linspace(0, 1, 5)
    return [
        Curve(name=f"model {place}", x=x, y=x + place, low=x + place - 0.1, high=x + place + 0.2)
        for place in range(count)
    ]


def plane(log: bool = False) -> Figure:
    values = np.array([[1.0, 10.0], [100.0, 1000.0], [3.0, math.nan]])
    return contours(
        HOSTILE, values, x_at=[0, 1], y_at=[0, 1, 2], points={"A": (0, 0)}, x="x", y="y", unit="loss", log=log
    )


FIGURES: dict[str, Callable[[], Figure]] = {
    "lines": lambda: lines("lines", curves(), x="share", y="loss"),
    "log lines": lambda: lines("lines", curves(), x="rank", y="value", log_x=True, log_y=True),
    "bars": lambda: bars("bars", ["a", HOSTILE], {"one": [1, 2], "two": [math.nan, 3]}, y="accuracy"),
    "heat map": lambda: heat_map("map", np.eye(3), rows=["a", "b", "c"], columns=["a", "b", "c"], unit="cosine"),
    "signed map": lambda: heat_map("map", [[-1, 0.5]], rows=["a"], columns=["b", "c"], signed=True, limit=1),
    "plane": plane,
    "plane by logarithms": lambda: plane(log=True),
}


@pytest.mark.parametrize("name", FIGURES)
def test_plotly_knows_every_setting_of_every_figure(name: str) -> None:
    figure = FIGURES[name]()
    graph_objects.Figure(data=figure.data, layout=figure.layout)
    json.dumps(figure.data, allow_nan=False)


def test_curves_are_told_apart_without_colour() -> None:
    data = lines("many", curves(12), x="x", y="y").data
    looks = [(row["line"]["color"], row["line"]["dash"], row["marker"]["symbol"]) for row in data]
    assert len(set(looks)) == len(looks)
    assert len({look[1:] for look in looks[: len(COLOURS)]}) == len(COLOURS)


def test_what_is_drawn_is_what_is_given() -> None:
    (row, *_) = lines("one", curves(1), x="x", y="y").data
    assert row["x"] == [0, 0.25, 0.5, 0.75, 1]
    assert row["error_y"]["array"] == pytest.approx([0.2] * 5)
    assert row["error_y"]["arrayminus"] == pytest.approx([0.1] * 5)
    (contour, marks) = plane(log=True).data
    assert contour["z"] == [[0.0, 1.0], [2.0, 3.0], [pytest.approx(math.log10(3)), None]]
    assert contour["customdata"][1] == [100.0, 1000.0]
    assert (marks["x"], marks["y"], marks["text"]) == ([0], [0], ["<b>A</b>"])


def test_numbers_of_curves_share_a_table_row_where_they_share_an_abscissa() -> None:
    figure = lines(
        "two", [Curve(name="a", x=[0, 1], y=[1, 2]), Curve(name="b", x=[1, 2], y=[5, math.nan])], x="t", y="y"
    )
    assert figure.numbers is not None
    assert figure.numbers.columns == ("t", "a", "b")
    assert figure.numbers.rows == (("0", "1", "–"), ("1", "2", "5"), ("2", "–", "–"))


class Reader(HTMLParser):
    """Elements of a page with their attributes, and its text outside scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        (self.sources if self.elements[-1][0] == "script" else self.text).append(data)


def page_of(tmp_path: Path) -> str:
    page = Page(HOSTILE, "A lead.")
    page.heading("Figures")
    for make in FIGURES.values():
        page.figure(make())
    page.table(["model", HOSTILE], [["a", HOSTILE]], title=HOSTILE)
    page.write(tmp_path / "new" / "page.html")
    return (tmp_path / "new" / "page.html").read_text(encoding="utf-8")


def test_a_page_needs_nothing_from_elsewhere_and_shows_text_as_text(tmp_path: Path) -> None:
    text = page_of(tmp_path)
    reader = Reader()
    reader.feed(text)
    assert not [tag for tag, _ in reader.elements if tag in {"b", "link", "img", "iframe"}]
    assert not [attributes for _, attributes in reader.elements if "src" in attributes or "onclick" in attributes]
    assert reader.text.count(HOSTILE) >= 5
    assert text.count("Plotly.newPlot(place") == 1
    given = [json.loads(source) for source in reader.sources if source.startswith('{"data"')]
    assert [one["data"] for one in given] == [make().data for make in FIGURES.values()]
    # plotly reads a few tags in names, so those of names are written out.
    assert given[2]["data"][0]["x"][1].startswith("&lt;/script&gt;")


def test_a_page_without_figures_is_small() -> None:
    page = Page("title")
    page.say("words")
    assert len(page.html()) < 10_000
    assert re.search(r"<p>words</p>", page.html())


def test_without_plotly_a_page_is_refused_saying_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'evomerge\[figures\]'"):
        Page("title")
