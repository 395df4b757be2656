"""`evomerge import`: a GGUF file becomes a folder, and what was lost is said."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from evomerge.models.checkpoint import Checkpoint


def test_the_command_says_what_was_made(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    pytest.importorskip("gguf")
    from helpers.gguf_file import Types, write_gguf

    llama = tiny_llama["base"]
    done = cli("import", write_gguf(tmp_path / "m.gguf", llama, Types.Q8_0), tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert Checkpoint.open(tmp_path / "out").names == Checkpoint.open(llama).names
    assert "these weights are what the quantiser kept" in said
    assert f"llama, {Checkpoint.open(llama).num_parameters:,} numbers in bfloat16, and its tokenizer" in said


def test_without_the_package_and_without_the_file_it_says_what_to_do(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec("gguf") is not None
    if there:
        done = cli("import", tmp_path / "none.gguf", tmp_path / "out")
        assert (done.exit_code, "no such file" in done.stderr) == (1, True)
        assert f"{tmp_path}: is a folder; give a .gguf file" in cli("import", tmp_path, tmp_path / "out").stderr
    monkeypatch.setattr("evomerge.models.gguf.find_spec", lambda name: None)
    done = cli("import", tmp_path / "none.gguf", tmp_path / "out")
    assert done.exit_code == 1
    assert "pip install 'evomerge[gguf]'" in done.stderr
