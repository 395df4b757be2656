"""`evomerge connect` as a pipe sees it: tables in 80 columns, JSON, a page, and refusals before any work."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow

MLP = "model.layers.0.mlp"


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


def test_aligned_models_are_measured_too_and_a_reordered_copy_has_no_barrier_left(
    cli: object, tiny_llama: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_llama["a"], copy)
    weights = load_file(copy / "model.safetensors")
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(weights[f"{MLP}.up_proj.weight"])))
    for name in ("gate_proj", "up_proj"):
        weights[f"{MLP}.{name}.weight"] = weights[f"{MLP}.{name}.weight"][order].contiguous()
    weights[f"{MLP}.down_proj.weight"] = weights[f"{MLP}.down_proj.weight"][:, order].contiguous()
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    spec = tmp_path / "own.yaml"
    spec.write_text(
        "labels: {hidden: permutation}\n"
        f"tensors:\n  {MLP}.gate_proj.weight: [hidden, null]\n  {MLP}.up_proj.weight: [hidden, null]\n"
        f"  {MLP}.down_proj.weight: [null, hidden]\n"
        + "".join(f"  {name}: fixed\n" for name in weights if not name.startswith(MLP))
    )
    for number, way in enumerate((("--residual", "none"), ("--spec", spec))):
        out = tmp_path / f"{number}.json"
        told = ("connect", tiny_llama["a"], copy, "--text", text, "--dtype", "float32", "--points", "3")
        done = cli(*told, "--align", "weight_matching", *way, "--json", out)  # type: ignore[operator]
        assert done.exit_code == 0, done.output
        surveys = json.loads(out.read_text())["surveys"]
        before, after = (
            [point["values"]["text"]["loss"] for point in surveys[name]["lines"][0]["points"]]
            for name in ("as they are", "after weight_matching")
        )
        assert after == pytest.approx([before[0]] * 3, abs=1e-5)
        assert before[1] != pytest.approx(before[0], abs=1e-4)
    both = cli(*told, "--align", "weight_matching", "--residual", "none", "--spec", spec)  # type: ignore[operator]
    assert both.exit_code == 1
    assert "a spec of one's own says itself" in both.output
    alone = cli(*told, "--spec", spec)  # type: ignore[operator]
    assert alone.exit_code == 2
    assert "give --align METHOD" in " ".join(alone.output.split())
