"""Lines on disk: found again by their place, incomplete ones left out, damaged, lost and foreign ones named."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import RunError
from evomerge.files.lines import Lines, Place, parsed


def test_lines_are_read_in_order_and_found_again_by_their_places(tmp_path: Path) -> None:
    lines, values = Lines(tmp_path / "x.jsonl"), [{"a": 1}, {"b": "ụ"}, {"c": [2.5, None]}]
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


def written(path: Path, of: str = "run", count: int = 4) -> list[bytes]:
    lines = Lines(path, of=of)
    for number in range(count):
        lines.append(json.dumps({"value": number, "text": "ụ" * number}) + "\n")
    return path.read_bytes().splitlines(keepends=True)


def values(path: Path, of: str = "run") -> list[int]:
    return [*Lines(path, of=of).read(lambda data, place: data["value"])]


def test_a_line_ends_with_its_number_and_the_checksum_of_what_stands_before(tmp_path: Path) -> None:
    for number, line in enumerate(written(tmp_path / "x.jsonl"), start=1):
        content, _, end = line.partition(b',"sum":')
        assert json.loads(line)["line"] == number
        assert end == b'"%08x"}\n' % zlib.crc32(content, zlib.crc32(b"run"))


@given(data=st.data())
def test_no_flipped_bit_passes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    whole = bytearray(b"".join(written(path)))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    if place == len(whole) - 1:
        # Without its end, the last line is one that was never finished.
        assert values(path) == [0, 1, 2]
    else:
        with pytest.raises(RunError, match=r"line \d is damaged"):
            values(path)


@pytest.mark.parametrize("order", [[0, 1, 3], [0, 2, 1, 3], [0, 0, 1, 2, 3], [1, 2, 3], [3, 1, 2, 0], [0, 1, 2, 3, 3]])
def test_lines_that_are_lost_doubled_or_exchanged_are_found(tmp_path: Path, order: list[int]) -> None:
    path = tmp_path / "x.jsonl"
    lines = written(path)
    path.write_bytes(b"".join(lines[number] for number in order))
    with pytest.raises(RunError, match=r"line \d is damaged \(it was written as line \d and stands where \d should"):
        values(path)


def test_lines_of_another_run_are_found_though_they_are_whole(tmp_path: Path) -> None:
    written(tmp_path / "x.jsonl", of="another")
    with pytest.raises(RunError, match=r"line 1 is damaged \(its checksum is wrong\)"):
        values(tmp_path / "x.jsonl")


def test_a_file_from_before_there_were_checksums_is_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"value": 10}\n{"value": 11}\n')
    assert values(path) == [10, 11]
    written(path)
    assert values(path) == [10, 11, 0, 1, 2, 3]
    path.write_bytes(path.read_bytes() + b'{"value": 12}\n')
    with pytest.raises(RunError, match=r"line 7 is damaged \(it has no checksum\)"):
        values(path)


def test_what_others_write_between_is_read_where_it_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = written(path)
    path.write_bytes(b"".join([*lines[:2], b'{"value": 99}\n', *lines[2:]]))
    found = Lines(path, of="run", others=lambda data: data["value"] == 99)
    assert [*found.read(lambda data, place: data["value"])] == [0, 1, 99, 2, 3]
    found.append('{"value": 4}\n')
    assert [*found.more(lambda data, place: data["value"])] == [4]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=JSON, ascii_only=st.booleans())
def test_a_line_says_what_it_says_to_python(value: Any, ascii_only: bool) -> None:
    line = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") + b"\n"
    assert repr(parsed(line)) == repr(json.loads(line))


@pytest.mark.parametrize(
    "line", [b'{"a":1,"a":2}', b"[1e400,-0,-0.0,5e-324,1E+5]", b'"\\ud800"', b"\xef\xbb\xbf1", b"[" * 300 + b"]" * 300]
)
def test_unusual_lines_say_what_they_say_to_python(line: bytes) -> None:
    assert repr(parsed(line)) == repr(json.loads(line))


@pytest.mark.parametrize("line", [b"", b"[01]", b"[1,]", b"[.5]", b"['a']", b'"\x01"', b"[inf]", b"1 2", b'"\xff"'])
def test_what_is_no_json_for_python_is_none(line: bytes) -> None:
    assert said(parsed, line) == said(json.loads, line)


def said(read: Callable[[bytes], Any], line: bytes) -> tuple[type[ValueError], str]:
    try:
        pytest.fail(f"read as {read(line)}")
    except ValueError as error:
        return type(error), str(error)
