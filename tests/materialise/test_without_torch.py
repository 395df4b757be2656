"""Merges to disk load torch and transformers only where something computes with them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from evomerge.materialise.merger import Merger
from evomerge.materialise.shards import write_weights
from evomerge.methods import METHODS
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from helpers.weighted import merger_of

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
def family(request: pytest.FixtureRequest, family_of: Callable[..., dict[str, Path]]) -> dict[str, Path]:
    return family_of("llama", ("a", "b", "c"), dtype=request.param, layers=1)


@pytest.fixture(scope="module")
def merger_for(family: dict[str, Path]) -> Callable[[int], Merger]:
    """The base and so many experts, opened."""
    return cache(lambda experts: merger_of({name: family[name] for name in ("base", *"abc"[:experts])}))


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


def test_the_command_line_merges_without_the_large_libraries(
    family_of: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    files = []

    def add(name: str, text: str) -> None:
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(text)

    # A tensor is read in the same way for all methods.
    some = ["linear", "ties"]
    for dtype, methods in {"bfloat16": TAKE_RAW, "float16": some, "float32": some}.items():
        family = family_of("llama", ("a", "b", "c"), dtype=dtype, layers=1)
        for method in methods:
            add(f"{dtype}-{method}", recipe_of(family, method).to_yaml())
        document = {
            "merge_method": "task_arithmetic",
            "base_model": str(family["base"]),
            "models": [{"model": str(family[name]), "parameters": {"weight": 0.4}} for name in "ab"],
            "dtype": "float32",
        }
        add(f"{dtype}-mergekit", yaml.safe_dump(document))
    assert loaded_by(files) == {file.stem: [] for file in files}


@pytest.mark.parametrize("family", ["float32"], indirect=True)
def test_a_method_that_computes_with_torch_loads_it(family: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "iso_c.yaml"
    file.write_text(recipe_of(family, "iso_c").to_yaml())
    assert "torch" in loaded_by([file])["iso_c"]


@pytest.mark.parametrize("dtype", ["auto", "float64"])
@pytest.mark.parametrize("method", TAKE_RAW)
def test_raw_tensors_are_merged_to_the_bytes_of_torchs(
    family: dict[str, Path],
    merger_for: Callable[[int], Merger],
    method: str,
    dtype: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def weights(recipe: Recipe) -> bytes:
        merger = merger_for(len(recipe.experts))
        write_weights(tmp_path, merger, merger.bind(recipe), 2**30, None)
        return (tmp_path / "model.safetensors").read_bytes()

    for options in ({}, *({"along": along} for along in along_of(method))):
        recipe = recipe_of(family, method, dtype, **options)
        with monkeypatch.context() as patched:
            patched.setattr(METHODS.get(method), "takes_raw", False)
            expected = weights(recipe)
        assert weights(recipe) == expected


def along_of(method: str) -> list[str]:
    """Ways to cut tensors that a method can be told of."""
    return [str(way) for option in METHODS.get(method).options if option.name == "along" for way in option.choices]
