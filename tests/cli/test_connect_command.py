"""`evomerge connect` as a pipe sees it: tables in 80 columns, JSON, a page, and refusals before any work."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The river rises in the hills. Mvua ilinyesha usiku kucha. " * 2)
    return path


def test_lines_and_barriers_are_shown_in_80_columns_and_written_as_json_and_page(
    cli: object, tiny_llama: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    done = cli(  # type: ignore[operator]
        *("connect", tiny_llama["a"], tiny_llama["b"], "--text", text, "--test-text", text),
        *("--json", tmp_path / "new" / "line.json", "--html", tmp_path / "line.html", "--dtype", "float32"),
    )
    assert done.exit_code == 0, done.output
    tables = done.output.partition("A barrier is")[0]
    assert max(map(len, tables.splitlines())) <= 80
    assert "above mean" in tables
    assert "above chord" in tables
    data = json.loads((tmp_path / "new" / "line.json").read_text())
    assert data["models"] == ["a", "b"]
    assert data["sets"] == ["train", "test"]
    (line,) = data["surveys"]["as they are"]["lines"]
    assert len(line["points"]) == 11
    assert f"{line['points'][4]['values']['train']['loss']:.4f}" in tables
    page = (tmp_path / "line.html").read_text()
    assert page.count("<figure>") == 2
    assert "Entezari" in page


def test_figures_without_plotly_are_refused_before_any_work(
    cli: object, tiny_llama: dict[str, Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    done = cli("connect", tmp_path / "gone", tmp_path / "gone", "--text", text, "--html", tmp_path / "x.html")  # type: ignore[operator]
    assert done.exit_code == 1
    assert "pip install 'evomerge[figures]'" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --text or --config"),
        (("--config", "x.yaml", "--text", "t.txt"), "give either --text or --config"),
        (("--config", "x.yaml", "--test-text", "t.txt"), "--test-text is a second text beside --text"),
        (("--text", "gone.txt", "--points", "1"), "1 points can't show what lies between"),
    ],
)
def test_options_that_say_nothing_together_are_refused(
    arguments: tuple[str, ...], message: str, cli: object, tiny_llama: dict[str, Path]
) -> None:
    done = cli("connect", tiny_llama["a"], tiny_llama["b"], *arguments)  # type: ignore[operator]
    assert done.exit_code in {1, 2}
    assert message in " ".join(done.output.replace("│", " ").split())
