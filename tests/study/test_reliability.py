"""The benchmark of reliability at a small size: kills at many moments, and damages of many kinds."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import run

FILE = Path(__file__).parents[2] / "benchmarks" / "reliability.py"
SETTINGS = {"evaluations": 8, "block": None}


def progress(path: Path | None, settings: dict[str, Any] = SETTINGS) -> Any:
    spec = importlib.util.spec_from_file_location("progress_of_benchmarks", FILE.parent / "progress.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Progress(path, settings)


@pytest.mark.slow
@pytest.mark.parametrize("block", [None, 5])
def test_no_kill_and_no_damage_changes_a_search_in_silence(tmp_path: Path, block: int | None) -> None:
    arguments = ["--kills", "40", "--damage", "40", "--evaluations", "8", "--seed", "11"]
    arguments += ["--block", str(block)] if block else []
    rows = tmp_path / "rows.jsonl"
    arguments += ["--progress", str(rows)]
    done = run([*arguments, "--json", "found.json"], tmp_path, script=FILE)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["kills"]["wrong"] == found["damage"]["wrong"] == []
    assert set(found["kills"]["outcomes"]) == {"same"}
    assert found["kills"]["tried"] >= 40
    assert len(rows.read_text().splitlines()) == 1 + found["kills"]["tried"] + found["damage"]["tried"]
    assert set(found["damage"]["outcomes"]) == {"same", "refused"}
    repaired = found["damage"]["repaired"]
    assert sum(repaired.values()) == found["damage"]["outcomes"]["refused"]
    # Blocks by which a pruner judged can't be made again for candidates that have ended.
    assert set(repaired) <= ({"same", "refused"} if block else {"same"})


def test_a_stopped_benchmark_finds_its_rows_again_but_for_one_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    begun = progress(path)
    for number in range(3):
        assert begun.get(f"kill {number}") is None
        assert begun.add(f"kill {number}", {"outcome": "same", "moment": number})["moment"] == number
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    again = progress(path)
    assert [again.get(f"kill {number}") for number in range(2)] == [
        {"outcome": "same", "moment": number} for number in range(2)
    ]
    assert again.get("kill 2") is None
    again.add("kill 2", {"outcome": "same", "moment": 2})
    assert path.read_bytes() == whole


def test_rows_of_other_settings_are_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    progress(path).add("kill 1", {"outcome": "same"})
    before = path.read_bytes()
    with pytest.raises(SystemExit, match=r"rows\.jsonl was begun with other settings"):
        progress(path, {**SETTINGS, "block": 5})
    assert path.read_bytes() == before


def test_without_a_file_rows_are_kept_in_memory_alone(tmp_path: Path) -> None:
    found = progress(None)
    found.add("kill 1", {"outcome": "same"})
    assert found.get("kill 1") == {"outcome": "same"}
    assert not list(tmp_path.iterdir())
