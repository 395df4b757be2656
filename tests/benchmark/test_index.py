"""The index of lm-eval's built-in tasks that is kept is the one that lm-eval would make."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager, manager
from lm_eval.tasks._index import TaskIndex

from evomerge.benchmark.lm_eval.index import all_tasks


class Builds:
    """Counts which folders lm-eval reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folders: list[str] = []
        build = TaskIndex.build

        def noted(paths: Any, **options: Any) -> Any:
            folders = list(paths)
            self.folders += [folder.name for folder in folders]
            return build(folders, **options)

        monkeypatch.setattr(TaskIndex, "build", staticmethod(noted))


@pytest.fixture
def built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some of lm-eval's tasks in place of all of them, and a cache of their own."""
    installed, folder = Path(manager.__file__).parent, tmp_path / "built_in"
    for name in ("arc", "hellaswag", "xcopa", "kobest", "minerva_math"):
        shutil.copytree(installed / name, folder / name)
    monkeypatch.setattr(manager, "__file__", str(folder / "manager.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_it_is_read_once_and_the_same(built_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = TaskManager()
    assert expected.all_groups
    assert expected.all_tags
    assert any(".py" in str(entry.cfg) or "utils." in str(entry.cfg) for entry in expected.task_index.values())
    read = Builds(monkeypatch)
    for _ in range(2):
        found = all_tasks([])
        assert found.task_index == expected.task_index
        assert list(found.task_index) == list(expected.task_index)
        assert (found.all_groups, found.all_tags) == (expected.all_groups, expected.all_tags)
    assert read.folders == ["built_in"]
    assert manager.TaskIndex is TaskIndex


def test_a_task_of_ones_own_comes_before_a_built_in_one(built_in: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(built_in / "arc" / "arc_easy.yaml", own)
    (own / "mine.yaml").write_text("task: mine\n")
    for _ in range(2):
        index = all_tasks([str(own)]).task_index
        assert index["arc_easy"].yaml_path == own / "arc_easy.yaml"
        assert index["arc_challenge"].yaml_path == built_in / "arc" / "arc_challenge.yaml"
        assert "mine" in index
    assert "mine" not in all_tasks([]).task_index


def test_a_file_that_was_changed_added_or_taken_away_is_noticed(built_in: Path) -> None:
    before = all_tasks([]).task_index
    file = built_in / "arc" / "arc_challenge.yaml"
    file.write_text(file.read_text() + "num_fewshot: 7\n")
    assert all_tasks([]).task_index["arc_challenge"].cfg["num_fewshot"] == 7
    (built_in / "new.yaml").write_text("task: new\n")
    assert set(all_tasks([]).task_index) - set(before) == {"new"}
    file.unlink()
    assert set(before) - set(all_tasks([]).task_index) == {"arc_challenge"}
    state = (built_in / "new.yaml").stat()
    (built_in / "new.yaml").write_text("task: now\n")
    os.utime(built_in / "new.yaml", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert "now" in all_tasks([]).task_index


def test_a_damaged_one_is_made_again(built_in: Path, tmp_path: Path) -> None:
    expected = all_tasks([]).task_index
    (kept,) = (tmp_path / "cache").rglob("*.json.gz")
    whole = kept.read_bytes()
    flipped = whole[:200] + bytes([whole[200] ^ 255]) + whole[201:]
    torn = whole[:20] + bytes(len(whole) - 20)
    for content in (b"", b"none", whole[:99], flipped, torn, *map(gzip.compress, (b"[]", b'{"content": 1}', b"\xff"))):
        kept.write_bytes(content)
        assert all_tasks([]).task_index == expected
        assert json.loads(gzip.decompress(kept.read_bytes())) == json.loads(gzip.decompress(whole))


def test_nothing_is_kept_where_nothing_can_be_written(
    built_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file where the folder would be: a permission alone wouldn't stop an administrator.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "arc_easy" in all_tasks([]).task_index


def test_a_task_that_json_can_not_hold_is_read_each_time(built_in: Path, tmp_path: Path) -> None:
    (built_in / "odd.yaml").write_text("task: odd\nmetadata: {1: one}\n")
    for _ in range(2):
        assert all_tasks([]).task_index["odd"].cfg["metadata"] == {1: "one"}
    assert not list((tmp_path / "cache").rglob("*.json.gz"))
