"""Folders that are complete or not there at all, whenever their writing is interrupted."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from evomerge.files.fresh_folder import fresh_folder

STEPS = [(Path, "mkdir"), (os, "open"), (fcntl, "flock"), (Path, "rename"), (os, "close"), (shutil, "rmtree")]


@pytest.mark.parametrize(("where", "step"), STEPS, ids=[step for _, step in STEPS])
def test_an_interrupt_at_any_step_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, step: str
) -> None:
    known, pressed = getattr(where, step), []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        """As known, and Ctrl-C is pressed meanwhile, so that the handler runs afterwards."""
        try:
            return known(*arguments, **named)
        finally:
            # The folder's parent is made first.
            if not pressed and (step != "mkdir" or arguments[0].suffix == ".partial"):
                pressed.append(True)
                signal.raise_signal(signal.SIGINT)

    folder = tmp_path / "folder"
    folder.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(where, step, interrupted)
        with pytest.raises(KeyboardInterrupt), fresh_folder(folder / "out") as hidden:
            (hidden / "file").write_text("x")
    left = [entry.name for entry in folder.iterdir()]
    assert left == (["out"] if step in {"rename", "close", "rmtree"} else [])


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), fresh_folder(tmp_path / "out"):
        raise ValueError("wrong")
    assert not [*tmp_path.iterdir()]
