"""The scripts of benchmarks/toolkit run as their reports say, at the smallest size, with what the tests install."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import run as command

FOLDER = Path(__file__).parents[1] / "benchmarks" / "toolkit"
SMALL = ("--kinds", "vgg", "--models", "3", "--seeds", "1", "--epochs", "1", "--threads", "1")


def run(folder: Path, script: str, *arguments: str) -> Any:
    done = command([*SMALL, "--json", "found.json", *arguments], folder, script=FOLDER / script)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
def test_networks_trained_apart_are_averaged_in_every_way(tmp_path: Path) -> None:
    rows = {row["method"]: row for row in run(tmp_path, "trained_apart.py", "--page", "page.html")}
    assert list(rows) == ["ends", "naive", "matched to the first", "MergeMany", "C2M3", "pairs"]
    assert rows["C2M3"]["returning"] == 1 > rows["pairs"]["returning"] > 0
    for name in ("naive", "C2M3"):
        assert all(0 <= rows[name][which][0] <= 1 and rows[name][which][1] > 0 for which in ("as it is", "repaired"))
    assert "</html>" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_a_search_over_aligned_networks_stands_beside_its_controls(tmp_path: Path) -> None:
    (found,) = run(tmp_path, "searched_apart.py", "--evaluations", "32")["vgg"]
    search_loss = {name: search[1] for name, (search, _) in found.items()}
    assert search_loss["CMA-ES"] > 0
    assert search_loss["scan of one weight"] <= search_loss["average, aligned"] + 0.05
    assert {"random search", "average, not aligned", "the same, repaired"} <= set(found)


@pytest.mark.slow
def test_task_vectors_begin_along_the_negative_gradient(tmp_path: Path) -> None:
    arguments = ("--seeds", "0", "--epochs", "1", "2", "--rounds", "1", "--items", "60", "--base-epochs", "2")
    written = ("--json", "found.json", "--html", "a.html")
    done = command([*arguments, *written], tmp_path, script=FOLDER / "task_vectors.py")
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert found["one step"] < 1e-9
    one, two = found["epochs"]["1"], found["epochs"]["2"]
    assert one["first"] == pytest.approx(1)
    assert 0 < two["gradient"] <= one["gradient"] + 0.05
    assert two["share"] < 1
    assert 0 <= found["joint"] <= 1
    assert "</html>" in (tmp_path / "a.html").read_text()
