"""Damaged, odd and hostile versions of every kind of file: read, or refused in words. The same each time.

`benchmarks/reliability_inputs.py` does it with thousands.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "reliability_inputs.py"


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    fuzz = runpy.run_path(str(SCRIPT))["fuzz"]
    return {row["kind"]: row for row in fuzz(seconds=60.0, most=50, seed=0)}


def test_every_file_is_read_or_refused_in_words(rows: dict[str, dict[str, Any]]) -> None:
    assert len(rows) == 10
    for kind, row in rows.items():
        assert row["where"] == {}, kind
        assert row["refused"] >= 20, kind
    # The valid files are accepted, so that not everything is refused for another reason.
    assert sum(row["accepted"] for row in rows.values()) > 10
