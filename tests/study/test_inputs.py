"""Files of models, tokenizers and tasks: what was replaced between sessions is refused by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.errors import CheckpointError, ResumeError
from evomerge.run.directory import open_run
from evomerge.study.export import export
from evomerge.study.search import resume, search
from helpers.search import Interrupt, write_config, write_task


@pytest.fixture
def models(tmp_path: Path, tiny_llama: dict[str, Path]) -> dict[str, Path]:
    return {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in tiny_llama.items()}


def flip(path: Path, place: int) -> None:
    """Change one bit of a file, and nothing of its size."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_replaced_weights_tokenizers_and_tasks_are_refused_by_name(tmp_path: Path, models: dict[str, Path]) -> None:
    tasks = write_task(tmp_path / "tasks")
    (tasks / "notes.txt").write_text("for people")
    config = Config.from_file(write_config(tmp_path / "x.yaml", models, tasks))
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(config, run, observer=Interrupt(2))
    names = set(open_run(run).facts["files"])
    assert {"base/model.safetensors", "experts/a/config.json", "base/tokenizer.json"} <= names
    assert {name for name in names if name.startswith("tasks/")} == {"tasks/0/tiny_choice.yaml"}
    changes = {
        "experts/b/model.safetensors": models["b"] / "model.safetensors",
        "base/tokenizer_config.json": models["base"] / "tokenizer_config.json",
        "tasks/0/tiny_choice.yaml": tasks / "tiny_choice.yaml",
    }
    for name, path in changes.items():
        kept = path.read_bytes()
        if path.suffix == ".safetensors":
            flip(path, len(kept) - 2)
        else:
            path.write_bytes(kept + b"\n")
        with pytest.raises(ResumeError, match="the content of its files has changed") as error:
            resume(run)
        assert f"{name} ({path})" in str(error.value)
        path.write_bytes(kept)
    os.utime(models["a"] / "model.safetensors", ns=(1, 1))
    (tasks / "notes.txt").write_text("for other people")
    with pytest.raises(KeyboardInterrupt):
        resume(run, observer=Interrupt(1))


def test_a_merge_is_not_exported_from_other_models_than_those_that_were_scored(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    tasks = write_task(tmp_path / "tasks")
    config = Config.from_file(write_config(tmp_path / "x.yaml", models, tasks))
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(config, run, observer=Interrupt(2))
    weights = models["b"] / "model.safetensors"
    kept = weights.read_bytes()
    flip(weights, len(kept) - 2)
    with pytest.raises(CheckpointError, match="aren't those that were scored") as error:
        export(run, tmp_path / "out", trial=3)
    assert f"experts/b/model.safetensors ({weights})" in str(error.value)
    assert not (tmp_path / "out").exists()
    weights.write_bytes(kept)
    # Tasks aren't part of what is exported, and a model may have been copied, with another time.
    (tasks / "tiny_choice.yaml").unlink()
    os.utime(weights, ns=(1, 1))
    assert (export(run, tmp_path / "out", trial=3) / "model.safetensors").is_file()
