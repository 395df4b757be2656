"""The tasks that benchmarks make of handwritten digits: the same digits in other pictures, split alike for all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PIXELS = np.arange(5 * 64, dtype=np.uint8).reshape(5, 8, 8)
DIGITS = np.array([0, 3, 5, 8, 9])


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks" / "toolkit")
    import image_tasks  # type: ignore[import-not-found]

    yield image_tasks
    del sys.modules["image_tasks"]


def test_pictures_are_turned_and_come_back(tasks: Any) -> None:
    for name, times in {"rotated": 4, "upside-down": 2, "mirrored": 2, "transposed": 2, "inverted": 2}.items():
        pixels = PIXELS
        for turn in range(times):
            pixels, labels = tasks.items_of(tasks.TASKS[name], pixels, DIGITS)
            assert np.array_equal(pixels, PIXELS) == (turn == times - 1), name
            assert labels == [str(digit) for digit in DIGITS]


def test_classes_are_split_between_tasks_and_joined_by_parity(tasks: Any) -> None:
    low, high = (tasks.items_of(tasks.TASKS[name], PIXELS, DIGITS) for name in ("low", "high"))
    assert (low[1], high[1]) == (["0", "3"], ["5", "8", "9"])
    np.testing.assert_array_equal(np.concatenate([low[0], high[0]]), PIXELS)
    assert tasks.items_of(tasks.TASKS["parity"], PIXELS, DIGITS)[1] == ["even", "odd", "odd", "even", "odd"]


def test_every_digit_is_in_one_part_and_seeds_draw_others(tasks: Any) -> None:
    parts = [tasks._parts(seed) for seed in (0, 0, 1)]
    rows = [[bytes(picture) for pixels, _ in one.values() for picture in pixels] for one in parts]
    assert len(rows[0]) == 1797
    assert sorted(rows[0]) == sorted(rows[2])
    assert rows[0] == rows[1] != rows[2]
