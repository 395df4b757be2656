"""Files as strangers, editors and broken disks leave them: damaged, odd and hostile versions of a valid one.

Knows YAML, JSON and bytes. Doesn't know what reads them: whatever does is to accept them or to refuse them in words.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import yaml

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**299, 0.0, -0.0, 1e308, 5e-324, math.inf, -math.inf,
    math.nan, "", "x" * 100_000, "\u202e", "\x1b[31mred\x1b[0m", "日本語", "../../etc/passwd", "/dev/zero", "~nobody/x",
    "~no-such-user/x", [], [[]], [[[[]]]], {}, {"a": {"b": {}}}, [None], ["a", "a"], {"low": 1, "high": 0}, "1e-3",
    "nan", "null", "a\nb", "%s%n", "{0}", "{{7*7}}", "a/b", "\x7f", [1, 2], [2, 1], [-1, 0], [0, 10**9],
    {"base": [0, 1]}, 0.5, "base", "ties",
)  # fmt: skip
"""Values that are seldom what a field expects."""

_LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 8)
)
HOSTILE: tuple[bytes, ...] = (
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf{}", b"null", b"42", b"[]", b'"x"', b"- a\n", b"\t- a", b"[" * 100_000,
    b'{"a":' * 5000, b"[" * 3000 + b"]" * 3000, b"a: " * 3000, b"9" * 5000, b"x: 0x" + b"f" * 6000, b"NaN", b"{{{{",
    b'{"a": "\\ud83d"}', b'{"a": 1, "a": 2}', b"&a a: *a\n", b"a: &x {b: *x}\n", b"? [1,2]\n: 3\n", b"<<: [a]\n",
    b"x: 2001-99-99\n", b"x: !!timestamp y\n", b"x: !!int y\n", b"x: !!binary '#'\n", b"x: !!set {a}\n",
    b"x: !!python/object/apply:os.getcwd []\n", b"---\n---\n", b"%YAML 9.9\n---\na: 1\n", b"caf\xe9: 1\n",
    "a: 1".encode("utf-16"), _LAUGHS.encode(),
)  # fmt: skip
"""Files that have little in common but that some reader has stumbled over them."""

_PIECES = (
    ": ",
    "- ",
    "\n",
    "\t",
    "{",
    "[",
    "&a ",
    "*a ",
    "!!str ",
    "'",
    '"',
    "|\n",
    "? ",
    "%",
    "@",
    "`",
    "\x00",
    "\x85",
)


def damaged(data: bytes, random_: random.Random) -> bytes:
    """A file with a few bytes changed, lost, moved or put in."""
    found = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 4, 16))):
        place = random_.randrange(len(found) + 1)
        change = random_.randrange(4)
        if change == 0:
            found[place : place + 1] = bytes([random_.randrange(256)])
        elif change == 1:
            del found[place : place + random_.randrange(1, 30)]
        elif change == 2:
            found[place:place] = random_.choice(_PIECES).encode()
        else:
            del found[place:]
    return bytes(found)


def changed(value: Any, random_: random.Random) -> Any:
    """Plain data with a few values replaced, removed, renamed or put into lists."""
    found = copy.deepcopy(value)
    for _ in range(random_.choice((1, 1, 1, 2, 3, 5))):
        places = [place for place in _places(found) if place]
        if not places:
            break
        *path, key = random_.choice(places)
        parent = found
        for step in path:
            parent = parent[step]
        odd = copy.deepcopy(random_.choice(ODD))
        change = random_.randrange(6)
        if change <= 1:
            parent[key] = odd
        elif change == 2:
            del parent[key]
        elif change == 3 and isinstance(parent, dict):
            parent[random_.choice((f"{key}x", str(key).upper(), "\x1b[2J", "", str(odd)[:200]))] = odd
        elif change == 4:
            parent[key] = [parent[key], odd]
        else:
            parent[key] = {str(key): parent[key]}
    return found


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _places(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _places(part, (*path, index))


def versions(data: bytes, random_: random.Random, write: Callable[[Any], bytes], value: Any) -> Iterator[bytes]:
    """Without end: the hostile files, then versions of a valid one.

    Args:
        data: the valid file.
        random_: decides what is changed.
        write: makes a file of plain data.
        value: the plain data in the file.
    """
    yield from HOSTILE
    while True:
        if random_.random() < 0.3:
            yield damaged(data, random_)
        else:
            yield write(changed(value, random_))


def as_yaml(value: Any) -> bytes:
    """Plain data as a YAML file."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


def as_json(value: Any) -> bytes:
    """Plain data as a JSON file."""
    return json.dumps(value).encode()


def as_safetensors(body: bytes) -> Callable[[Any], bytes]:
    """Plain data as the header of a safetensors file with these tensors' bytes."""

    def write(value: Any) -> bytes:
        header = as_json(value)
        return len(header).to_bytes(8, "little") + header + body

    return write
