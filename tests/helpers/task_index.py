"""lm-eval's index of its built-in tasks, read once for all processes of a test run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest


def keep_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have lm-eval read its thousands of YAML files, which takes seconds, only where the folder has no index yet."""
    from lm_eval.tasks import manager
    from lm_eval.tasks._index import TaskIndex

    build, built_in = TaskIndex.build, Path(manager.__file__).parent

    def kept(paths: Iterable[Path], **options: Any) -> dict[str, Any]:
        first, *others = paths
        if first != built_in or options:
            return build([first, *others], **options)
        file = folder / "task_index.pickle"
        if not file.exists():
            unfinished = file.with_suffix(f".{os.getpid()}")
            unfinished.write_bytes(pickle.dumps(build([built_in])))
            unfinished.replace(file)
        found: dict[str, Any] = pickle.loads(file.read_bytes())
        return found | build(others)

    monkeypatch.setattr(TaskIndex, "build", staticmethod(kept))
