"""The rooms of the package and the floors they stand on: the one place that says so.

The test of storeys holds the imports to this table, and the picture in the README is made from it:
python -m helpers.house prints it.
"""

from __future__ import annotations

FLOORS: tuple[tuple[str, ...], ...] = (
    ("score", "errors", "streams"),
    ("kernels", "estimate", "recipe", "files", "registry", "demo"),
    ("methods", "config", "pruners"),
    ("models", "space", "benchmark"),
    ("inference", "materialise", "mergekit", "algorithms", "run"),
    ("execute", "report"),
    ("study", "testing"),
    ("cli",),
    ("__main__",),
)
"""From the ground up. A room imports rooms on lower floors only."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms}


def picture() -> str:
    """The floors as the README shows them, the upper ones first."""
    return "\n".join(f"{number}  {'  '.join(rooms)}" for number, rooms in reversed([*enumerate(FLOORS, start=1)]))


if __name__ == "__main__":
    print(picture())
