"""The benchmark of the driver: a whole search with simulated answers, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.commands import run

FILE = Path(__file__).parents[2] / "benchmarks" / "driver.py"


def test_a_simulated_search_is_timed_in_ten_parts_and_its_ledger_opened(tmp_path: Path) -> None:
    arguments = ["--trials", "30", "--dimensions", "4", "--items", "8", "--failures", "0.2", "--block", "3"]
    done = run([*arguments, "--json", "found.json"], tmp_path, script=FILE)
    assert done.returncode == 0, done.stderr
    assert "driver, ms a trial" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["ms_per_trial"]) == 10
    assert all(value > 0 for value in found["ms_per_trial"])
    assert found["open_s"] > 0
    assert found["journal_bytes"] > 30 * 4 * len('"weight.a.layer_0":0.5')
    assert found["peak_bytes"] >= found["start_bytes"] > 0
