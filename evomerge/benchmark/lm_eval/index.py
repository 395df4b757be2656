"""lm-eval's index of its built-in tasks, kept on disk: its thousands of YAML files take seconds to read."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from evomerge.files.user_cache import user_cache

_PATCHING = threading.Lock()


def all_tasks(include: list[str]) -> Any:
    """lm-eval's `TaskManager` of its own tasks and those of some folders, which come first."""
    from lm_eval.tasks import TaskManager

    with _kept_index():
        return TaskManager(include_path=include or None)


@contextmanager
def _kept_index() -> Iterator[None]:
    """Have lm-eval take its built-in tasks from the kept index, where it makes its index as we know it."""
    from lm_eval.tasks import manager

    if not hasattr(manager, "TaskIndex"):
        yield
        return
    stock, built_in = manager.TaskIndex, Path(manager.__file__).parent

    class Kept(stock):  # type: ignore[misc, valid-type]
        @staticmethod
        def build(paths: Iterable[Path], **options: Any) -> dict[str, Any]:
            """The index of several folders, of which the later ones win."""
            first, *others = paths
            as_known = first == built_in and not options
            found: dict[str, Any] = _built_in(built_in) if as_known else stock.build([first], **options)
            found.update(stock.build(others, **options))
            return found

    with _PATCHING:
        manager.TaskIndex = Kept
        try:
            yield
        finally:
            manager.TaskIndex = stock


def _built_in(folder: Path) -> dict[str, Any]:
    """The index of lm-eval's own tasks: the kept one if it is of the files that are there."""
    from lm_eval.tasks._index import Entry, Kind, TaskIndex

    content = _content(folder)
    file: Path | None = None
    with suppress(RuntimeError):
        file = user_cache() / "tasks" / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.json.gz"
    rows = _read(file, content) if file is not None else None
    if rows is None:
        found: dict[str, Any] = TaskIndex.build([folder])
        if file is not None:
            _write(file, content, [_row(entry) for entry in found.values()])
        return found
    return {
        name: Entry(name=name, kind=Kind[kind], yaml_path=None if path is None else Path(path), cfg=cfg, tags=set(tags))
        for name, kind, path, cfg, tags in rows
    }


def _row(entry: Any) -> list[Any]:
    path = entry.yaml_path
    return [entry.name, entry.kind.name, None if path is None else str(path), entry.cfg, sorted(entry.tags)]


def _content(folder: Path) -> str:
    """What tells whether an index is that of the folder: names, times and sizes of its files, and lm-eval's version."""
    from importlib.metadata import version

    files: list[tuple[str, int, int]] = []
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".yaml"):
                state = os.stat(os.path.join(place, name))
                files.append((os.path.join(place, name), state.st_mtime_ns, state.st_size))
    return hashlib.sha256(repr((version("lm_eval"), sorted(files))).encode()).hexdigest()


def _read(file: Path, content: str) -> list[Any] | None:
    """The rows of a kept index; None if there is none, it can't be read or is of other files."""
    try:
        kept = json.loads(gzip.decompress(file.read_bytes()))
        return list(kept["entries"]) if kept["content"] == content else None
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, content: str, rows: list[Any]) -> None:
    """Keep an index for later, where it can be written and JSON holds all of it."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    with suppress(OSError, TypeError, ValueError):
        text = json.dumps({"content": content, "entries": rows})
        if json.loads(text)["entries"] != rows:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(gzip.compress(text.encode(), 1))
        unfinished.replace(file)
