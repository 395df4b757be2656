"""Files that somebody else wrote: plain data comes out, or an error that says where it is wrong."""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import ConfigError, printable, shown
from evomerge.files.outside import check_plain, parse_json, read_json, read_text
from evomerge.files.outside_yaml import parse_yaml, read_yaml

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXT
PLAIN = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))


@given(PLAIN)
def test_what_is_written_is_read_again(data: Any) -> None:
    check_plain(data, "data", ConfigError)
    assert parse_json(json.dumps(data), "data", ConfigError) == data
    assert parse_yaml(yaml.safe_dump(data, allow_unicode=True), "data", ConfigError) == data


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "holds more than 1,000,000 values"),
        (MERGED, "line 7, column 5: .*<< makes too many keys"),
        ("[" * 20_000, "line 1, column 65: .*nested more than 64 levels"),
        ("[" * 100 + "]" * 100, "line 1, column 65: .*nested more than 64 levels"),
        ("a: &a {b: *a}", "holds itself"),
        ("one: 1\nx: " + "9" * 5000, "line 2, column 4: .*is no int"),
        ("x: 0x" + "f" * 6000, "a whole number of more than 300 digits"),
        ("x: !!int y", "line 1, column 4: .*'y' is no int"),
        ("x: !!timestamp y", "could not determine a constructor"),
        ("x: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ('x: "\\ud83d"', "half a character"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: .*'a' is given twice, first in line 1"),
        ("on: 1", "the key True is no text; put it into quotes"),
        ("a: [1", "line 1, column 6: .*expected"),
        ("a: 1\nb: \x00", r"line 2: .*the character '\\x00' isn't allowed"),
        ("---\na: 1\n---\nb: 1", "expected a single document"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_wrong_yaml_is_refused_at_once_in_one_line_that_says_where(text: str, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError, match=f"^file: .*{message}") as error:
        parse_yaml(text, "file", ConfigError)
    assert time.monotonic() - start < 30
    assert "\n" not in str(error.value)


def test_dates_stay_text_and_merge_keys_keep_their_meaning() -> None:
    assert parse_yaml("revision: 2024-01-31", "file", ConfigError) == {"revision": "2024-01-31"}
    text = "a: &a {x: 1, y: 1}\nb: {<<: *a, x: 2}"
    assert parse_yaml(text, "file", ConfigError) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("name: caf\xe9\n".encode("latin-1"), r"line 1: isn't UTF-8 text \(byte 0xe9\); save the file as UTF-8"),
        (b"a: 1\nb: \xff\n", "line 2: isn't UTF-8 text"),
        ("a: 1".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
    ],
)
def test_other_encodings_are_named_with_the_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(data)
    for read in (read_text, read_yaml, read_json):
        with pytest.raises(ConfigError, match=f"^{path}: {message}"):
            read(path, ConfigError)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path, ConfigError) == read_yaml(path, ConfigError) == {"a": 1}


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "can't be read"), (tmp_path / "none", "can't be read: No such file")):
        with pytest.raises(ConfigError, match=message):
            read_text(path, ConfigError)
    with pytest.raises(ConfigError, match="is larger than 1 MB"):
        read_text(Path("/dev/zero"), ConfigError, limit=1_000_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 100 + "]" * 100, "nested more than 64"),
        ("9" * 5000, "a whole number of 5,000 digits"),
        ('{"a": "\\ud83d"}', "half a character"),
        ("{", "Expecting property name"),
    ],
)
def test_wrong_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^file: .*{message}"):
        parse_json(text, "file", ConfigError)


def test_json_that_model_folders_hold_is_read() -> None:
    text = '{"model_max_length": 1000000000000000019884624838656, "limit": [0.0, Infinity], "x": "\\ud83d\\ude00"}'
    assert parse_json(text, "file", ConfigError) == json.loads(text)


def test_data_that_is_not_plain_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for data in ({"a": {1, 2}}, {"a": b"x"}, circle, {"a": object()}, [10**400], {"\udc80": 1}, {(1, 2): 1}):
        with pytest.raises(ConfigError, match=r"^data: "):
            check_plain(data, "data", ConfigError)


@pytest.mark.slow
@given(st.text())
def test_no_control_character_is_left_in_a_printable_text(text: str) -> None:
    safe = printable(text)
    assert not any(letter < " " and letter not in "\t\n" for letter in safe)
    assert not any("\x7f" <= letter <= "\x9f" or letter in "\u202e\u2066" for letter in safe)
    safe.encode()
    assert printable(safe) == safe


def test_a_message_shows_what_would_act_on_a_terminal_as_python_writes_it() -> None:
    assert str(ConfigError("x: \x1b[31mred\x1b[0m\u202e\r")) == "x: \\x1b[31mred\\x1b[0m\\u202e\\r"
    assert str(ConfigError("héllo, 日本\n\tمرحبا")) == "héllo, 日本\n\tمرحبا"


def test_a_long_value_is_cut_in_a_message() -> None:
    for value in ("x" * 100_000, [[["x" * 500] * 50] * 50] * 50, {str(i): i for i in range(10_000)}, 10**5000):
        assert len(shown(value)) < 500
    assert shown([1, {"a": None}, "b"]) == "[1, {'a': None}, 'b']"


def test_damaged_texts_never_raise_anything_else() -> None:
    """Random edits of a valid file, the same each time."""
    source = yaml.safe_dump(
        {"models": {"base": "b", "experts": {"a": "x", "b": {"path": "y"}}}, "list": [1, 2.5, None]}
    )
    pieces = [
        ": ",
        "- ",
        "{",
        "[",
        "&a ",
        "*a ",
        "!!int ",
        "'",
        '"',
        "|\n",
        "? ",
        "%",
        "\x00",
        "\x1b",
        "\ufeff",
        "<<: ",
    ]
    source_json = json.dumps(yaml.safe_load(source))
    random_ = random.Random(0)
    for _ in range(400):
        for text, parse in ((source, parse_yaml), (source_json, parse_json)):
            letters = list(text)
            for _ in range(random_.choice((1, 2, 8))):
                place = random_.randrange(len(letters))
                letters[place : place + random_.randrange(3)] = random_.choice(pieces)
            with suppress(ConfigError):
                parse("".join(letters), "file", ConfigError)  # type: ignore[operator]
