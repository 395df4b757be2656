"""Merges to disk load torch and transformers only where something computes with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evomerge.materialise.folder import write_folder
from evomerge.methods import METHODS
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import tiny_family

pytestmark = pytest.mark.slow

LARGE = ("torch", "transformers", "lm_eval", "ray", "optuna", "pandas")
TAKE_RAW = [name for name in METHODS.names() if METHODS.get(name).takes_raw]
BY_THE_COMMAND_LINE = f"""
import json, sys
from evomerge.cli import app
loaded = {{}}
for recipe in sys.argv[1:]:
    app(["merge", recipe, recipe + "-merged", "--shard-size", "100KB"], standalone_mode=False)
    loaded[recipe] = [name for name in {LARGE!r} if name in sys.modules]
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module", params=["bfloat16", "float16", "float32"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_family(tmp_path_factory.mktemp("family"), experts="abc", dtype=request.param)


def recipe_of(folders: dict[str, Path], method: str, dtype: str = "auto", **options: str) -> Recipe:
    found = METHODS.get(method)
    between = {parameter.name: 0.3 * parameter.low + 0.7 * parameter.high for parameter in found.parameters}
    return Recipe(
        base=ModelReference(path=str(folders["base"])),
        experts={name: ModelReference(path=str(folders[name])) for name in "abc"[: found.max_experts]},
        method=method,
        groups=(Group(name="all", coefficients=between),),
        options=options,
        dtype=dtype,
        seed=5,
    )


def loaded_by(files: list[Path]) -> dict[str, list[str]]:
    """The large libraries that are there after each merge, made one after the other in a fresh process."""
    command = [sys.executable, "-c", BY_THE_COMMAND_LINE, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return {Path(file).stem: names for file, names in found.items()}


def test_methods_that_take_raw_tensors_are_most_of_them() -> None:
    assert {"linear", "task_arithmetic", "slerp", "ties", "dare_linear", "breadcrumbs", "passthrough"} <= {*TAKE_RAW}


def test_the_command_line_merges_without_the_large_libraries(family: dict[str, Path], tmp_path: Path) -> None:
    files = []
    for method in TAKE_RAW:
        files.append(tmp_path / f"{method}.yaml")
        files[-1].write_text(recipe_of(family, method).to_yaml())
    files.append(tmp_path / "mergekit.yaml")
    document = {
        "merge_method": "task_arithmetic",
        "base_model": str(family["base"]),
        "models": [{"model": str(family[name]), "parameters": {"weight": 0.4}} for name in "ab"],
        "dtype": "float32",
    }
    files[-1].write_text(yaml.safe_dump(document))
    assert loaded_by(files) == {file.stem: [] for file in files}


@pytest.mark.parametrize("family", ["float32"], indirect=True)
def test_a_method_that_computes_with_torch_loads_it(family: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "iso_c.yaml"
    file.write_text(recipe_of(family, "iso_c").to_yaml())
    assert "torch" in loaded_by([file])["iso_c"]


@pytest.mark.parametrize("dtype", ["auto", "float64"])
@pytest.mark.parametrize("method", TAKE_RAW)
def test_raw_tensors_are_merged_to_the_bytes_of_torchs(
    family: dict[str, Path], method: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, options in enumerate(({}, *({"along": along} for along in along_of(method)))):
        recipe = recipe_of(family, method, dtype, **options)
        with monkeypatch.context() as patched:
            patched.setattr(METHODS.get(method), "takes_raw", False)
            expected = write_folder(recipe, tmp_path / f"torch-{number}")
        found = write_folder(recipe, tmp_path / f"raw-{number}")
        name = "model.safetensors"
        assert (found / name).read_bytes() == (expected / name).read_bytes()


def along_of(method: str) -> list[str]:
    """Ways to cut tensors that a method can be told of."""
    return [str(way) for option in METHODS.get(method).options if option.name == "along" for way in option.choices]
