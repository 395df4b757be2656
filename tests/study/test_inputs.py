"""Files of models, tokenizers and tasks: what was replaced between sessions is refused by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from evomerge.benchmark.lm_eval.own_code import own_files
from evomerge.config.benchmark import BenchmarkConfig
from evomerge.config.config import Config
from evomerge.errors import CheckpointError, ResumeError
from evomerge.files.atomic import read_json, write_json
from evomerge.run.directory import open_run
from evomerge.study.export import export
from evomerge.study.inputs import fingerprints_of
from evomerge.study.search import resume, search
from helpers.search import Interrupt, write_config, write_task

pytestmark = pytest.mark.slow


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


def test_a_folder_of_tasks_may_be_moved_and_its_content_may_not_change(tmp_path: Path, models: dict[str, Path]) -> None:
    tasks = write_task(tmp_path / "tasks")
    config = Config.from_file(write_config(tmp_path / "x.yaml", models, tasks))
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(config, run, observer=Interrupt(2))
    # Runs of earlier releases have the folder's place in their identity.
    facts = read_json(run / "run.json")
    assert str(tasks) not in str(facts["identity"])
    facts["identity"]["benchmark"]["include_path"] = [str(tasks)]
    write_json(run / "run.json", facts)
    (tmp_path / "moved").mkdir()
    moved = (tasks / "tiny_choice.yaml").rename(tmp_path / "moved" / "tiny_choice.yaml")
    elsewhere = Config.from_file(write_config(tmp_path / "y.yaml", models, moved.parent))
    with pytest.raises(KeyboardInterrupt):
        search(elsewhere, run, observer=Interrupt(1))
    moved.write_text(moved.read_text() + "description: other\n")
    with pytest.raises(ResumeError, match=r"tasks/0/tiny_choice\.yaml"):
        search(elsewhere, run)


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


def test_what_a_task_includes_and_runs_from_other_folders_is_part_of_the_experiment(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    tasks = write_task(tmp_path / "tasks")
    (tasks / "code").mkdir()
    (tasks / "code" / "texts.py").write_text("from helper import SUFFIX\ndef ask(doc):\n    return doc['question']\n")
    (tasks / "code" / "helper.py").write_text("SUFFIX = ''\n")
    (tasks / "unrelated").mkdir()
    (tasks / "unrelated" / "other.py").write_text("")
    task = yaml.safe_load((tasks / "tiny_choice.yaml").read_text())
    del task["task"]
    (tmp_path / "shared").write_text(yaml.safe_dump(task))
    (tasks / "tiny_choice.yaml").write_text("task: tiny_choice\ninclude: ../shared\n")
    group = "group: both\ntask: [tiny_choice, deep]\n"
    (tasks / "group.yaml").write_text(group)
    (tasks / "deep").mkdir()
    (tasks / "deep" / "it.yaml").write_text("task: deep\ninclude: ../../shared\n")
    function = "task: functions\ninclude: ../shared\ndoc_to_text: !function code.texts.ask\n"
    (tasks / "functions.yaml").write_text(function)

    def files(*names: str) -> set[str]:
        config = BenchmarkConfig.model_validate({"tasks": names, "include_path": str(tasks)})
        return set(own_files(config, "x.yaml"))

    beside = {"0/tiny_choice.yaml", "0/group.yaml", "0/functions.yaml"}
    outside = {f"outside{(tmp_path / 'shared').resolve().as_posix()}"}
    assert files("tiny_choice") == beside | outside
    assert files("both") == beside | outside | {"0/deep/it.yaml"}
    assert files("functions") == beside | outside | {"0/code/texts.py", "0/code/helper.py"}
    config = Config.from_file(write_config(tmp_path / "x.yaml", models, tasks))
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(config, run, observer=Interrupt(2))
    # Earlier releases kept other files, too, and knew none of other folders.
    facts = read_json(run / "run.json")
    other = fingerprints_of({"tasks/0/unrelated/other.py": tasks / "unrelated" / "other.py"})
    earlier = {name: kept for name, kept in facts["files"].items() if "outside" not in name} | other
    write_json(run / "run.json", {**facts, "files": earlier})
    with pytest.raises(KeyboardInterrupt):
        resume(run, observer=Interrupt(1))
    write_json(run / "run.json", facts)
    (tmp_path / "shared").write_text(yaml.safe_dump({**task, "doc_to_text": "{{question}} is"}))
    with pytest.raises(ResumeError, match=r"tasks/outside.*shared"):
        resume(run)
