"""Lines on disk: found again by their place, incomplete ones left out, damaged ones named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.files.lines import Lines, Place


def test_lines_are_read_in_order_and_found_again_by_their_places(tmp_path: Path) -> None:
    lines, values = Lines(tmp_path / "x.jsonl"), [{"a": 1}, "ụ", [2.5, None]]
    places = [lines.append(json.dumps(value, ensure_ascii=False) + "\n") for value in values]
    assert [*lines.read(lambda data, place: (data, place))] == [*zip(values, places, strict=True)]
    for value, place in zip(values, places, strict=True):
        assert lines.at(place, lambda data: data) == value
    whole = lines.path.read_bytes()
    assert b"".join(whole[start : start + size] for start, size in places) == whole


def test_an_incomplete_last_line_is_left_out(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "x.jsonl")
    lines.path.write_bytes(b"1\n2")
    assert [*lines.read(lambda data, place: data)] == [1]


@pytest.mark.parametrize("line", [b"{", b"\xff", b"[]", b"{}"], ids=str)
def test_a_line_that_nothing_can_be_made_of_is_named(tmp_path: Path, line: bytes) -> None:
    def make(data: Any) -> Any:
        return data["key"]

    lines = Lines(tmp_path / "x.jsonl")
    lines.path.write_bytes(b'{"key": 1}\n' + line + b"\n")
    found = lines.read(lambda data, place: make(data))
    assert next(found) == 1
    with pytest.raises(RunError, match=r"x\.jsonl: line 2 is damaged .*restore the file from a copy"):
        next(found)
    with pytest.raises(RunError, match=r"x\.jsonl: the line at byte 11 is damaged"):
        lines.at(Place(11, len(line) + 1), make)
