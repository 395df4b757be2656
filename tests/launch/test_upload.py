"""What of an experiment travels to a cluster: the config and what it names, and no model."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evomerge.errors import ConfigError
from evomerge.launch.upload import upload_of

MODELS = {"base": "owner/base", "experts": {"one": "/models/one"}}


def write(path: Path, models: object = MODELS, **benchmark: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"models": models, "benchmark": {"tasks": ["one"], **benchmark}}))
    return path


def test_tasks_above_the_config_keep_their_place_and_nothing_else_goes_along(tmp_path: Path) -> None:
    for name in ("tasks/de/one.yaml", "tasks/__pycache__/x.pyc", "tasks/.git/config", "data/large.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x" * 10)
    config = write(tmp_path / "configs" / "c.yaml", include_path=["../tasks", "/shared/tasks"])
    found = upload_of(config)
    assert set(found.files) == {"configs/c.yaml", "tasks/de/one.yaml"}
    assert found.config == "configs/c.yaml"
    assert found.absolute == ("/shared/tasks",)
    assert found.size_bytes == config.stat().st_size + 10
    assert "2 files" in found.words()
    assert "have to see /shared/tasks" in found.words()


def test_a_functions_module_and_its_data_go_along(tmp_path: Path) -> None:
    for name in ("scoring.py", "helpers.py", "rows.jsonl", "notes.txt"):
        (tmp_path / name).write_text("")
    function = {"call": "scoring:score", "data": {"search": "rows.jsonl"}}
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"models": MODELS, "benchmark": {"function": function}}))
    assert set(upload_of(config).files) == {"c.yaml", "scoring.py", "helpers.py", "rows.jsonl"}


@pytest.mark.parametrize("path", ["models/mine", "./models/mine", "../work/models/mine"])
def test_a_relative_model_is_refused_by_name(path: str, tmp_path: Path) -> None:
    (tmp_path / "work" / "models" / "mine").mkdir(parents=True)
    models = {"base": "owner/base", "experts": {"one": path}}
    with pytest.raises(ConfigError) as refused:
        upload_of(write(tmp_path / "work" / "c.yaml", models))
    assert f"models.experts.one: '{path}' is a folder on this machine" in str(refused.value)


def test_a_relative_recipe_is_refused_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("evomerge: 1")
    models = {"base": "owner/base", "experts": {"one": "mine.yaml"}}
    with pytest.raises(ConfigError, match=r"models\.experts\.one: 'mine\.yaml' is a recipe on this machine"):
        upload_of(write(tmp_path / "c.yaml", models))
    models["experts"] = {"one": str(tmp_path / "mine.yaml")}
    assert [*upload_of(write(tmp_path / "c.yaml", models)).files] == ["c.yaml"]
