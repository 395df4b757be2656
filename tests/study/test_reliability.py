"""The benchmark of reliability at a small size: kills at many moments, and damages of many kinds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "reliability.py"


@pytest.mark.slow
@pytest.mark.parametrize("block", [None, 5])
def test_no_kill_and_no_damage_changes_a_search_in_silence(tmp_path: Path, block: int | None) -> None:
    arguments = ["--kills", "40", "--damage", "40", "--evaluations", "8", "--seed", "11"]
    arguments += ["--block", str(block)] if block else []
    command = [sys.executable, str(FILE), *arguments, "--json", str(tmp_path / "found.json")]
    subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["kills"]["wrong"] == found["damage"]["wrong"] == []
    assert set(found["kills"]["outcomes"]) == {"same"}
    assert found["kills"]["tried"] >= 40
    assert set(found["damage"]["outcomes"]) == {"same", "refused"}
    repaired = found["damage"]["repaired"]
    assert sum(repaired.values()) == found["damage"]["outcomes"]["refused"]
    # Blocks by which a pruner judged can't be made again for candidates that have ended.
    assert set(repaired) <= ({"same", "refused"} if block else {"same"})
