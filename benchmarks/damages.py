"""Ways in which a file of a run directory gets damaged, drawn at random from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LINES = ("study.journal", "evaluations.jsonl", "parts.jsonl")
OTHERS = ("run.json", "config.yaml", "progress.json", "result.json", "lock")

FOREIGN = (
    b"[]",
    b"1",
    b"null",
    b"{}",
    b"hello",
    b'"x"',
    b'{"trial":0}',
    b'{"trial":0,"split":"search","block":0,"answers":[[]]}',
    b"\xff\xfe",
    b"[" * 3000,
    b'{"op_code":0}',
    b'{"op_code":99,"worker_id":"x"}',
    b'{"op_code":6,"worker_id":"x","trial_id":999,"state":1,"values":[1.0]}',
    b'{"op_code":6,"worker_id":"x","trial_id":1,"state":1,"values":[1.0],"datetime_complete":"2026-01-01T00:00:00"}',
)
"""Lines of something else."""


class Damage(NamedTuple):
    """One file of a run directory, and what it then holds; None: it is gone."""

    file: str
    what: str
    data: bytes | None


def damages(directory: Path, generator: random.Random) -> Iterator[Damage]:
    """Damages of the files in a run directory, without end."""
    lines = [name for name in LINES if (directory / name).exists()]
    others = [name for name in OTHERS if (directory / name).exists()]
    while True:
        # Most of a run is in its files of lines.
        name = generator.choice(lines) if generator.random() < 0.7 else generator.choice(others)
        whole = (directory / name).read_bytes()
        what, data = _of_lines(whole, generator) if name in lines else _of_text(whole, generator)
        if data != whole:
            yield Damage(name, what, data)


def _of_lines(whole: bytes, generator: random.Random) -> tuple[str, bytes | None]:
    lines = whole.splitlines(keepends=True)
    first, second = generator.randrange(len(lines)), generator.randrange(len(lines))
    kinds = ("end", "foreign", "lost", "twice", "exchanged", "zeros", "crlf", "bom")
    kind = generator.choice((*kinds, "any", "any", "any"))
    match kind:
        case "end":
            end = sum(map(len, lines[: first + 1])) + generator.choice((-1, 0, 1))
            return f"cut near the end of line {first + 1}", whole[:end]
        case "foreign":
            strange = generator.choice(FOREIGN)
            return f"{strange[:40]!r} as line {first + 1}", b"".join([*lines[:first], strange + b"\n", *lines[first:]])
        case "lost":
            return f"line {first + 1} of {len(lines)} lost", b"".join([*lines[:first], *lines[first + 1 :]])
        case "twice":
            return f"line {first + 1} of {len(lines)} twice", b"".join([*lines[: first + 1], *lines[first:]])
        case "exchanged":
            lines[first], lines[second] = lines[second], lines[first]
            return f"lines {first + 1} and {second + 1} exchanged", b"".join(lines)
        case "zeros":
            start = generator.randrange(len(whole))
            return f"zeros from byte {start}", whole[:start] + b"\0" * (len(whole) - start)
        case "crlf":
            return "line ends of another system", whole.replace(b"\n", b"\r\n")
        case "bom":
            return "a byte order mark", b"\xef\xbb\xbf" + whole
    return _of_text(whole, generator)


def _of_text(whole: bytes, generator: random.Random) -> tuple[str, bytes | None]:
    kind = generator.choice(("flip", "flip", "flip", "flip", "cut", "cut", "foreign", "empty", "gone"))
    place = generator.randrange(max(1, len(whole)))
    match kind:
        case "cut":
            return f"cut at byte {place}", whole[:place]
        case "foreign":
            strange = generator.choice(FOREIGN)
            return f"it holds {strange[:40]!r}", strange
        case "empty":
            return "it is empty", b""
        case "gone":
            return "it is gone", None
    if not whole:
        return "it holds something", b"x"
    damaged = bytearray(whole)
    damaged[place] ^= 1 << generator.randrange(8)
    return f"a bit flipped at byte {place}, {whole[max(0, place - 20) : place + 8]!r}", bytes(damaged)
