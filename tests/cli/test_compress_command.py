"""`evomerge compress`, and what it writes as an expert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.config.config import Config
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compressed import CompressedExpert
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.study.search import search
from helpers.search import write_config, write_task

pytestmark = pytest.mark.slow


@pytest.fixture
def small(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> Path:
    done = cli("compress", tiny_llama["base"], tiny_llama["a"], tmp_path / "small", "--experts", 4)
    assert (done.exit_code, done.stderr) == (0, "")
    return tmp_path / "small"


def write_recipe(path: Path, family: dict[str, Path], expert: Path, method: str = "ties") -> Path:
    made = Recipe(
        base=ModelReference(path=str(family["base"])),
        experts={"a": ModelReference(path=str(expert)), "b": ModelReference(path=str(family["b"]))},
        method=method,
        groups=(Group(name="all", coefficients={"weight": {"a": 0.5, "b": 0.25}, "density": 0.5}),),
    )
    path.write_text(made.to_yaml())
    return path


def test_it_says_what_became_of_each_kind_of_tensor(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    done = cli("compress", tiny_llama["base"], tiny_llama["a"], tmp_path / "small", "--rank", 2)
    assert done.exit_code == 0, done.stderr
    rows = {tuple(line.split()[:2]): line.split() for line in done.stdout.splitlines() if line.split()}
    assert rows["attention", "factors"][2] == "8"
    assert rows["attention", "factors"][5] == "2"
    assert rows["norm", "whole"][2] == "5"
    manifest = CompressedExpert.open(tmp_path / "small").manifest
    assert f"the task vector as a whole is {manifest.error:.1%} off" in done.stdout
    assert f"({manifest.size_bytes / manifest.expert_bytes:.1%})" in done.stdout


def test_an_adapter_says_what_it_leaves_out(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    done = cli("compress", tiny_llama["base"], tiny_llama["a"], tmp_path / "lora", "--as", "lora", "--rank", 2)
    assert (done.exit_code, done.stderr) == (0, "")
    start, end = (load_file(tiny_llama[name] / "model.safetensors") for name in ("base", "a"))
    change = {name: float((end[name].double() - start[name].double()).square().sum()) for name in start}
    outside = sum(size for name, size in change.items() if "_proj" not in name and "lm_head" not in name)
    said = " ".join(done.stdout.split())
    assert f"{outside / sum(change.values()):.1%} of the change (its sum of squares) lies in other tensors" in said
    assert "a LoRA adapter of rank 2" in said
    done = cli("merge", write_recipe(tmp_path / "x.yaml", tiny_llama, tmp_path / "lora"), tmp_path / "out")
    assert done.exit_code == 0, done.stderr


def test_a_merge_with_it_is_the_merge_with_what_it_stands_for(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path], small: Path
) -> None:
    restored = tmp_path / "restored"
    restored.mkdir()
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (restored / file).write_bytes((tiny_llama["a"] / file).read_bytes())
    expert = CompressedExpert.open(small, base=Checkpoint.open(tiny_llama["base"]))
    save_file({name: expert.tensor(name) for name in expert.names}, restored / "model.safetensors")
    for name, folder in (("one", small), ("two", restored)):
        done = cli("merge", write_recipe(tmp_path / f"{name}.yaml", tiny_llama, folder), tmp_path / name)
        assert done.exit_code == 0, done.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_merge_says_how_far_it_is_from_the_expert(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path], small: Path
) -> None:
    done = cli("merge", write_recipe(tmp_path / "x.yaml", tiny_llama, small), tmp_path / "out")
    assert f"expert 'a': {small}: compressed by tsv_compress (fraction 0.25)" in " ".join(done.output.split())


def test_a_search_takes_it_as_an_expert(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path], small: Path) -> None:
    family = {**tiny_llama, "a": small}
    config = write_config(tmp_path / "x.yaml", family, write_task(tmp_path / "tasks"))
    checked = cli("check", config)
    assert checked.exit_code == 0, checked.stderr
    assert "Note: expert 'a'" in checked.stdout
    result = search(Config.from_file(config), tmp_path / "run")
    assert {model["name"] for model in result.data["test"]["models"]} >= {"a", "b", "base"}


def test_another_base_is_refused(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path], small: Path) -> None:
    family = {**tiny_llama, "base": tiny_llama["b"]}
    done = cli("merge", write_recipe(tmp_path / "x.yaml", family, small), tmp_path / "out")
    assert done.exit_code == 1
    assert "was compressed over another base" in done.stderr


def test_damaged_factors_are_named(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path], small: Path) -> None:
    factors = small / "factors-00001.safetensors"
    factors.write_bytes(factors.read_bytes()[:-100])
    done = cli("merge", write_recipe(tmp_path / "x.yaml", tiny_llama, small), tmp_path / "out")
    assert done.exit_code == 1
    assert str(factors) in done.stderr
    assert not (tmp_path / "out").exists()


def test_it_is_no_base(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path], small: Path) -> None:
    done = cli("merge", write_recipe(tmp_path / "x.yaml", {**tiny_llama, "base": small}, small), tmp_path / "out")
    assert done.exit_code == 1
    assert "is a compressed expert, not a whole model" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "give one of --experts, --fraction, --rank, --energy"),
        (["--rank", "2", "--energy", "0.5"], 2, "give one of"),
        (["--experts", "0"], 2, "Invalid value for '--experts'"),
        (["--rank", "0"], 1, "rank 0 keeps nothing"),
        (["--fraction", "1.5"], 1, "fraction 1.5 isn't above 0 and up to 1"),
        (["--rank", "2", "--dtype", "int8"], 1, "unknown dtype 'int8'"),
    ],
)
def test_wrong_options_are_refused(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path], options: list[str], code: int, message: str
) -> None:
    done = cli("compress", tiny_llama["base"], tiny_llama["a"], tmp_path / "small", *options)
    assert done.exit_code == code
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "small").exists()
