"""The rooms of the package and the floors they stand on: the one place that says so.

The test of storeys holds the imports to this table, and the picture in README.md and CONTRIBUTING.md is made from it:
python -m helpers.house prints it, and with names of files redraws it there.
"""

from __future__ import annotations

import sys
from pathlib import Path

FLOORS: tuple[tuple[str, ...], ...] = (
    ("score", "errors", "streams", "late"),
    ("files", "options"),
    ("kernels", "estimate", "recipe", "registry", "demo"),
    ("methods", "alignment", "config", "pruners", "estimators"),
    ("models", "space", "launch"),
    ("benchmark",),
    ("inference", "materialise", "mergekit", "algorithms", "run"),
    ("execute", "observers", "report", "tuning"),
    ("analysis", "study", "testing"),
    ("cli",),
    ("__main__",),
)
"""From the ground up. A room imports rooms on lower floors only."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms}

WORDS: dict[str, str] = {
    "__main__": "where the command begins",
    "alignment": "maps that bring models trained apart together",
    "algorithms": "which genomes to try next: CMA-ES, Optuna's samplers",
    "analysis": "what weights say before a search, and what lies between models",
    "benchmark": "items in splits, requests out, answers to scores",
    "cli": "the command line: screens and messages",
    "config": "the experiment's YAML, a file for each section",
    "demo": "small models trained from scratch, offline",
    "errors": "what is wrong, where, and what to do",
    "estimate": "intervals, paired tests, corpus metrics",
    "estimators": "a model's score on all items, from some of them",
    "execute": "candidates to workers: in this process or on Ray",
    "files": "files that survive a crash, files from anywhere",
    "inference": "a live model answers requests",
    "kernels": "one formula over whole tensors, the same bytes everywhere",
    "late": "torch, imported when it is first used",
    "launch": "a search on a cluster: files and commands",
    "materialise": "from a recipe to merged tensors, live or in a folder",
    "mergekit": "mergekit's files, read and written",
    "methods": "merge methods: tensors in, one tensor out",
    "models": "what is on disk, seen as one family",
    "observers": "TensorBoard, MLflow, W&B, webhooks and commands hear of a run",
    "options": "of parts chosen by name, with their defaults",
    "pruners": "whether a candidate is worth its next items",
    "recipe": "the complete merge as data",
    "registry": "names of parts, each with its import path",
    "report": "tables, model cards and new rankings of a run",
    "run": "the run directory: everything about one search, on disk",
    "score": "plain values: what is asked, answered and scored",
    "space": "from a genome to a recipe",
    "streams": "named streams of random numbers",
    "study": "one search, from config to result",
    "testing": "tiny real models, and laws that every part keeps",
    "tuning": "experts from a base and data",
}
"""What each room is for, in a few words."""

BEGIN, END = "<!-- house: drawn by tests/helpers/house.py -->", "<!-- end of house -->"
"""What a picture stands between in a page."""


def picture() -> str:
    """A line for each room with what it is for, the upper floors first; at most 80 columns."""
    width, digits = max(map(len, FLOOR)), len(str(len(FLOORS)))
    lines = []
    for number, rooms in reversed([*enumerate(FLOORS, start=1)]):
        for place, room in enumerate(rooms):
            floor = str(number) if place == 0 else ""
            lines.append(f"{floor:>{digits}}  {room:<{width}}  {WORDS.get(room, '')}".rstrip())
    return "\n".join(lines)


def block() -> str:
    """The picture with its marks, as it stands in a page."""
    return f"{BEGIN}\n```text\n{picture()}\n```\n{END}"


def redraw(path: Path) -> None:
    """Put the picture where the page at `path` has an older one. Raises: ValueError if it has none."""
    text = path.read_text(encoding="utf-8")
    start, end = text.index(BEGIN), text.index(END) + len(END)
    path.write_text(text[:start] + block() + text[end:], encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        redraw(Path(name))
    if not sys.argv[1:]:
        print(picture())
