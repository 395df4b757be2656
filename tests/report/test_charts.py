"""Charts as SVG: round ticks, wrapped text, nothing beyond the edges, and what is drawn where."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evomerge.report.chart import DESK, PHONE, Chart
from evomerge.report.heat_map import Cell, HeatMap, Shades
from evomerge.report.plane import Level, Plane, Series
from evomerge.report.rows import Row, Rows
from evomerge.report.svg import SIZE, ticks, width_of, wrapped

LONG = "weight.a-rather-long-name-of-an-expert.layer_12-15.attention+mlp+norm"
HOSTILE = "</text><script>x</script>\x1b[31m\u202e"

CHARTS: dict[str, Chart] = {
    "plane": Plane(
        title=HOSTILE,
        caption=f"{LONG} {HOSTILE}",
        x="candidates",
        y="score",
        series=[
            Series(name=LONG, x=[1, 2, 3], y=[0.1, math.nan, 0.3], drawn="joined", low=[0, 0, 0], high=[1, 1, 1]),
            Series(name=HOSTILE, x=[1, 2], y=[0.2, 0.4], drawn="dots", colour=1),
        ],
        levels=[Level(name="base", y=0.9, colour=2, dash="dash")],
        turns=[1.5],
        turns_name="a generation begins",
        rugs=[("failed", [2.0], 1, "x")],
    ),
    "one point": Plane(title="t", x="x", y="y", series=[Series(name="a", x=[1], y=[5e6], drawn="marks")]),
    "rows": Rows(
        title="rows",
        x="score",
        groups=[(LONG * 2, [Row(name=LONG, value=0.5, low=-0.2, high=0.7), Row(name=HOSTILE, value=-3e4)])],
        zero=True,
    ),
    "heat map": HeatMap(
        title="map",
        groups=[(LONG, ["attention, mlp, norm", HOSTILE]), ("b", ["mlp"])],
        columns=["embedding", *map(str, range(40)), "head"],
        cells=[Cell(row=0, column=0, value=-1.0, rows=2), Cell(row=2, column=41, value=0.25)],
        x="layers",
        unit="weight",
    ),
}


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", CHARTS)
def test_every_text_lies_within_the_drawing_and_is_only_text(name: str, width: float) -> None:
    for alone in (False, True):
        drawing = ElementTree.fromstring(CHARTS[name].svg(width, alone=alone))
        high = float(drawing.attrib["height"])
        assert not [one for one in drawing.iter() if one.tag.endswith("script")]

        def walk(element: ElementTree.Element, left: float, top: float, high: float = high) -> None:
            moved = re.match(r"translate\(([\d.-]+) ([\d.-]+)\)", element.attrib.get("transform", ""))
            if moved:
                left, top = left + float(moved[1]), top + float(moved[2])
            if element.tag.endswith("text") and "rotate" not in element.attrib.get("transform", ""):
                wide = width_of(element.text or "", float(element.attrib.get("font-size", SIZE)))
                start = left + float(element.attrib["x"])
                start -= {"end": wide, "middle": wide / 2}.get(element.attrib.get("text-anchor", ""), 0.0)
                assert start >= -1, element.text
                assert start + wide <= width + 1, element.text
                assert 0 <= top + float(element.attrib["y"]) <= high
            for child in element:
                walk(child, left, top)

        walk(drawing, 0.0, 0.0)
        assert not set("\x1b\u202e") & set(ElementTree.tostring(drawing, "unicode"))


def test_points_are_drawn_at_their_values() -> None:
    chart = Plane(title="t", x="x", y="y", series=[Series(name="a", x=[0, 1, 2], y=[0, 10, 5], drawn="marks")])
    marks = [one.attrib for one in ElementTree.fromstring(chart.svg()).iter("circle")]
    x, y = ([float(one[key]) for one in marks] for key in ("cx", "cy"))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert (y[0] - y[1]) == pytest.approx(2 * (y[0] - y[2]), abs=0.3)
    assert y[1] < y[2] < y[0], "higher values stand higher"


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 12))
@example(low=879609.9999999999, span=1e-6, most=6)
def test_ticks_are_round_evenly_spaced_and_inside(low: float, span: float, most: int) -> None:
    found = ticks(low, low + span, most)
    assert 1 <= len(found) <= most + 1 or span < 1e-9 * abs(low)
    assert all(low - 1e-6 * span <= value <= low + span * (1 + 1e-6) for value in found)
    steps = np.diff(found)
    assert np.allclose(steps, steps[:1].repeat(len(steps)), rtol=1e-3, atol=1e-9)


@given(st.text(max_size=60), st.floats(30, 300))
def test_wrapped_text_fits_and_loses_nothing_but_spaces(text: str, width: float) -> None:
    from evomerge.errors import printable

    lines = wrapped(text, width)
    assert all(width_of(one) <= width or len(one) == 1 for one in lines)
    assert "".join("".join(lines).split()) == "".join(printable(text).split())


def test_colours_go_through_white_only_where_values_have_both_signs() -> None:
    assert Shades([-2.0, 1.0])(0.0) == "#f7f7f7"
    assert Shades([0.0, 1.0])(0.0) == "#440154"
    assert Shades([0.0, 1.0])(1.0) == "#fde725"
