"""`evomerge report` and `evomerge plot`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from helpers.html import Reader
from helpers.written_runs import write_run

pytestmark = pytest.mark.slow


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", [3, 6, "no memory", 5]).directory


def test_report_writes_one_page_and_needs_no_plotly(
    cli: Any, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    printed = cli("report", written, "--out", tmp_path / "page.html")
    assert printed.exit_code == 0, printed.output
    assert f"Wrote {tmp_path / 'page.html'}" in printed.stdout
    assert Reader((tmp_path / "page.html").read_text(encoding="utf-8")).drawings


def test_plot_lists_its_figures_and_writes_one(cli: Any, written: Path, tmp_path: Path) -> None:
    listed = [line.split()[0] for line in cli("plot", written, "--list").stdout.splitlines()]
    assert listed == ["convergence", "coefficients", "depth", "time"]
    for suffix in ("svg", "html", "png"):
        out = tmp_path / f"figure.{suffix}"
        assert cli("plot", written, "convergence", "--out", out).exit_code == 0
    assert ElementTree.parse(tmp_path / "figure.svg").getroot().attrib["width"] == "860"
    assert "Convergence" in Reader((tmp_path / "figure.html").read_text(encoding="utf-8")).texts("h3")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.width == 2 * 860
        colours = {colour: count for count, colour in picture.convert("RGB").getcolors(1 << 24) or ()}
        assert max(colours, key=lambda colour: colours[colour]) == (255, 255, 255)
        assert colours.get((27, 31, 36), 0) > 100, "text is drawn, in dark on a light ground"


def test_what_cant_be_drawn_is_refused_with_what_can(
    cli: Any, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = cli("plot", written, "convergance", "--out", tmp_path / "a.svg")
    assert "Did you mean 'convergence'?" in refused.output
    assert "Did you mean 'convergence'?" in cli("plot", written, "convergance").output
    assert "name a file to write it to: evomerge plot RUN time --out time.svg" in " ".join(
        cli("plot", written, "time").output.replace("│", "").split()
    )
    assert "end the file's name" in cli("plot", written, "time", "--out", tmp_path / "a.pdf").output
    assert "--list" in cli("plot", written).output
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    missing = cli("plot", written, "time", "--out", tmp_path / "a.png")
    assert missing.exit_code == 1
    assert "pip install 'evomerge[png]'" in missing.output
    assert not (tmp_path / "a.png").exists()
