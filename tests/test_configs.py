"""The experiments in configs/ and the starter config: valid, and true to what lm-eval offers. No data is loaded."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from evomerge.algorithms import PROPOSERS
from evomerge.algorithms.population import default_population
from evomerge.config.benchmark import SplitConfig, TaskConfig
from evomerge.config.config import Config
from evomerge.methods import METHODS
from evomerge.recipe.group import Kind
from evomerge.run.recipes import template_recipe
from evomerge.space import make_space

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
STARTER = ROOT / "evomerge" / "cli" / "starter.yaml"
REAL = [path for path in CONFIGS if path.stem != "demo"]


class TaskLoader(yaml.SafeLoader):
    """Reads lm-eval's task files without importing the functions that they name."""


TaskLoader.add_constructor("!function", lambda loader, node: f"!function {node.value}")


def lm_eval_tasks() -> Path:
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "tasks"


@cache
def task_files() -> dict[str, Path]:
    """Where each task is defined, by name. The name is read from the text: parsing all files takes a minute."""
    found = {}
    for path in lm_eval_tasks().rglob("*.yaml"):
        if match := re.search(r"^task:\s*['\"]?([\w.-]+)['\"]?\s*$", path.read_text(encoding="utf-8"), re.MULTILINE):
            found[match[1]] = path
    return found


def task_settings(path: Path) -> dict[str, Any]:
    """A task file with what it includes."""
    data: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=TaskLoader)
    include = data.pop("include", None)
    return {**task_settings(path.parent / include), **data} if include else data


def cases() -> list[Any]:
    return [
        pytest.param(path, task, id=f"{path.stem}-{task.task}")
        for path in REAL
        for task in Config.from_file(path).benchmark.tasks
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_names_registered_parts(path: Path) -> None:
    config = Config.from_file(path)
    assert config.merge.method in METHODS
    assert config.search.algorithm in PROPOSERS
    method = METHODS.get(config.merge.method)
    assert set(config.space.parameters) <= {parameter.name for parameter in method.parameters}
    assert set(config.merge.options) <= {option.name for option in method.options}
    least, most = method.min_experts, method.max_experts or 99
    assert least <= len(config.models.experts) <= most


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_the_budget_of_a_real_search_is_worth_its_dimensions(path: Path) -> None:
    config = Config.from_file(path)
    places: list[tuple[int, Kind]] = [
        (0, "embedding"),
        *((layer, kind) for layer in range(32) for kind in ("attention", "mlp", "norm")),  # type: ignore[misc]
        (31, "head"),
    ]
    template = template_recipe(config, dtype="bfloat16", options=config.merge.options)
    space = make_space(template, places, config.space)
    population = default_population(len(space.dimensions), config.search.evaluations, 400)
    assert config.search.evaluations >= 10 * population


def test_there_are_four_real_searches_besides_the_demo() -> None:
    assert len(REAL) >= 4
    assert (ROOT / "configs" / "demo.yaml") in CONFIGS


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_configs_name_hub_ids_and_say_what_they_cost(path: Path) -> None:
    config = Config.from_file(path)
    for model in [config.models.base, *config.models.experts.values()]:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.path)
    text = path.read_text(encoding="utf-8")
    assert "# Hardware:" in text
    assert "# Cost:" in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_readme_lists_every_config(path: Path) -> None:
    assert f"]({path.name})" in (ROOT / "configs" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("path", "task"), cases())
def test_tasks_of_a_config_are_lm_evals_and_have_its_splits_and_metric(path: Path, task: TaskConfig) -> None:
    assert task.task in task_files(), f"{path.name}: lm-eval has no task {task.task}"
    settings = task_settings(task_files()[task.task])
    splits = {settings.get(f"{role}_split") for role in ("training", "validation", "test", "fewshot")} - {None}
    roles = task.splits or Config.from_file(path).benchmark.splits
    for role in (roles.search, roles.validation, roles.test):
        assert role.split in {*splits, None}, f"{path.name}: {task.task} has splits {splits}"
    metric, _, chosen = (task.metric or "").partition(",")
    assert metric in {entry["metric"] for entry in settings["metric_list"]}
    filters = {entry["name"] for entry in settings.get("filter_list", [])}
    assert chosen in filters if filters else chosen in {"", "none"}


@pytest.mark.parametrize(("path", "task"), cases())
def test_parts_of_one_split_add_up_to_no_more_than_all_of_it(path: Path, task: TaskConfig) -> None:
    roles = task.splits or Config.from_file(path).benchmark.splits
    parts: dict[str | None, list[SplitConfig]] = {}
    for role in (roles.search, roles.validation, roles.test):
        parts.setdefault(role.split, []).append(role)
    for sharing in parts.values():
        assert sum(role.fraction or 0 for role in sharing) <= 1 + 1e-9
        whole = [role for role in sharing if role.fraction is None and role.items is None]
        assert not (whole and len(sharing) > 1)


def uncommented(text: str) -> str:
    """The starter config with every commented default switched on."""
    return re.sub(r"^( *)# (\w+): (\S.*)$", r"\1\2: \3", text, flags=re.MULTILINE)


def sections(model: type[BaseModel], data: Any, path: str = "") -> list[tuple[str, type[BaseModel], dict[str, Any]]]:
    """Every section that the data shows, with its class."""
    found = [(path, model, data)]
    for name, field in model.model_fields.items():
        for inner in _models_in(field.annotation):
            value = data.get(name)
            if isinstance(value, list) and value and isinstance(value[0], dict):
                found += sections(inner, value[0], f"{path}.{name}[0]")
            elif isinstance(value, dict) and (get_origin(field.annotation) is not dict or name == "experts"):
                if inner.__name__ in {"ModelConfig"} and name == "experts":
                    found += [
                        item
                        for key, entry in value.items()
                        if isinstance(entry, dict)
                        for item in sections(inner, entry, f"{path}.{name}.{key}")
                    ]
                else:
                    found += sections(inner, value, f"{path}.{name}")
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def test_the_starter_config_is_valid_as_it_is() -> None:
    config = Config.from_file(STARTER)
    assert config.search.evaluations == 200


def test_the_starter_config_shows_every_key_with_its_true_default() -> None:
    text = uncommented(STARTER.read_text(encoding="utf-8"))
    data = yaml.safe_load(text)
    Config.from_yaml(text)
    shown: set[str] = set()
    for path, model, values in sections(Config, data):
        shown.add(model.__name__)
        for name, field in model.model_fields.items():
            if path.startswith(".benchmark.splits.") and path != ".benchmark.splits.search":
                continue
            assert name in values, f"{path or 'top level'}: {name} isn't shown"
            if field.is_required() or _models_in(field.annotation):
                continue
            default = field.get_default(call_default_factory=True)
            if model is SplitConfig and name == "fraction":
                assert values[name] == Config.from_yaml(text).benchmark.splits.search.fraction
            else:
                assert values[name] == (list(default) if isinstance(default, tuple) else default), f"{path}.{name}"
    assert {"ModelConfig", "TaskConfig", "SplitConfig", "SearchConfig", "ExecutionConfig", "ExportConfig"} <= shown


def test_the_starter_config_names_every_algorithm_in_its_comments() -> None:
    assert f"# {', '.join(PROPOSERS)}" in STARTER.read_text(encoding="utf-8")
