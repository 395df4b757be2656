"""Files that hold several merges, which merge each other's results."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.errors import ExportError, RecipeError
from evomerge.mergekit.read import load_recipe
from evomerge.mergekit.several import several_merges
from evomerge.study.merge import merge
from helpers.adapters import merged_by_peft, write_adapter

TWO = """
merge_method: task_arithmetic
base_model: {base}
models: [{{model: mean, parameters: {{weight: 0.5}}}}]
---
name: mean
merge_method: linear
models: [{{model: {a}}}, {{model: {b}}}]
parameters: {{weight: 1}}
---
"""


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}


def written(folder: Path, text: str, family: dict[str, Path] | None = None) -> Path:
    path = folder / "several.yml"
    path.write_text(text if family is None else text.format(**family), encoding="utf-8")
    return path


def linear(name: str | None, *models: str) -> str:
    head = "" if name is None else f"name: {name}\n"
    listed = ", ".join(f"{{model: {model}, parameters: {{weight: 1}}}}" for model in models)
    return f"{head}merge_method: linear\nmodels: [{listed}]\n"


def names(path: Path, name: str | None = None) -> list[str | None]:
    return [step.name for step in several_merges(path, name=name)]


def test_the_last_merge_is_that_of_the_merged_results(tmp_path: Path, family: dict[str, Path]) -> None:
    notes: list[str] = []
    out = merge(written(tmp_path, TWO, family), tmp_path / "out", report=notes.append)
    base, a, b = (weights(family[name]) for name in ("base", "a", "b"))
    mean = weights(tmp_path / "out-mean")
    for name, tensor in weights(out).items():
        assert torch.equal(mean[name], ((a[name] + b[name]) / 2).float().double())
        assert torch.equal(tensor, ((base[name] + mean[name]) / 2).float().double())
    assert f"mean, which another merge needs, is in {tmp_path}/out-mean" in notes
    assert load_recipe(out / "recipe.yaml").experts["out-mean"].path == str(tmp_path / "out-mean")


def test_a_result_that_is_there_from_the_same_recipe_is_taken(tmp_path: Path, family: dict[str, Path]) -> None:
    path = written(tmp_path, TWO, family)
    first = merge(path, tmp_path / "out")
    before = (tmp_path / "out-mean" / "model.safetensors").stat().st_mtime_ns
    first.rename(tmp_path / "first")
    notes: list[str] = []
    merge(path, tmp_path / "out", report=notes.append)
    assert (tmp_path / "out-mean" / "model.safetensors").stat().st_mtime_ns == before
    assert f"mean is in {tmp_path}/out-mean from the same recipe, and is taken as it is" in notes
    assert (tmp_path / "first/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


def test_a_result_of_another_recipe_is_not_overwritten(tmp_path: Path, family: dict[str, Path]) -> None:
    merge(written(tmp_path, TWO, family), tmp_path / "out").rename(tmp_path / "first")
    path = written(tmp_path, TWO.replace("{b}", "{c}"), family)
    with pytest.raises(ExportError, match=r"out-mean: already holds files"):
        merge(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_taken_folder_is_refused_before_anything_is_made(tmp_path: Path, family: dict[str, Path]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ExportError, match="is there already"):
        merge(written(tmp_path, TWO, family), tmp_path / "out")
    assert not (tmp_path / "out-mean").exists()


def test_one_merge_of_a_file_is_made_by_its_name(tmp_path: Path, family: dict[str, Path]) -> None:
    path = written(tmp_path, TWO, family)
    result = CliRunner().invoke(app, ["merge", str(path), str(tmp_path / "out"), "--name", "mean"])
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out-mean").exists()
    a, b = weights(family["a"]), weights(family["b"])
    found = weights(tmp_path / "out")
    assert all(torch.equal(found[name], ((a[name] + b[name]) / 2).float().double()) for name in a)


def test_merges_come_after_those_that_they_need_and_others_are_left_out(tmp_path: Path) -> None:
    documents = [
        linear(None, "three", "org/x"),
        linear("three", "one", "two+org/lora"),
        linear("unused", "org/x"),
        linear("two", "one"),
        linear("one", "org/y"),
    ]
    path = written(tmp_path, "---\n".join(documents))
    assert names(path) == ["one", "two", "two-lora", "three", None]
    assert names(path, "two") == ["one", "two"]
    assert names(path, "unused") == ["unused"]


def test_without_a_nameless_merge_the_one_that_no_other_needs_is_made(tmp_path: Path) -> None:
    path = written(tmp_path, "---\n".join([linear("last", "first"), linear("first", "org/x")]))
    assert names(path) == ["first", "last"]


@pytest.mark.parametrize(
    "text", [linear("mine", "org/x"), f"{linear(None, 'org/x')}---\n", f"---\n{linear(None, 'x')}"]
)
def test_a_file_with_one_merge_is_a_plain_one(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    assert several_merges(path) == ()
    assert load_recipe(path).method == "linear"


@pytest.mark.parametrize(
    ("documents", "name", "message"),
    [
        ([linear("a", "b"), linear("b", "a"), linear(None, "a")], None, "b: merges a, which is made from its result"),
        ([linear("a", "a")], "a", "merges a, which is made from its result"),
        ([linear("a", "x"), linear("b", "x")], None, "holds several merges that no other merges, a, b"),
        ([linear("a", "x"), linear("b", "x")], "c", "unknown merge 'c'. Available: a, b"),
        ([linear(None, "x"), linear(None, "x")], None, "document 2: two merges have no name"),
        ([linear("a", "x"), linear("a", "x")], None, "a: two merges have this name"),
        ([linear("../a", "x"), linear(None, "x")], None, r"document 1: name: expected a word .* got '\.\./a'"),
        ([linear("a", "x"), "genome: {}\n"], None, "document 2: expected a merge of mergekit, with merge_method"),
        ([linear("a", "x"), "just text\n"], None, "document 2: expected a mapping"),
    ],
)
def test_files_whose_merges_cannot_be_made_are_refused(
    tmp_path: Path, documents: list[str], name: str | None, message: str
) -> None:
    with pytest.raises(RecipeError, match=rf"several\.yml: {message}"):
        several_merges(written(tmp_path, "---\n".join(documents)), name=name)


def test_a_file_of_several_merges_is_no_recipe(tmp_path: Path) -> None:
    path = written(tmp_path, f"{linear('a', 'x')}---\n{linear(None, 'a')}")
    with pytest.raises(RecipeError, match=r"holds 2 merges, as for mergekit-multi; .*: evomerge merge .* OUT"):
        load_recipe(path)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("spelling", ["{c}+{lora}", "{{model: {c}, lora: {{path: {lora}}}}}"])
def test_an_adapter_of_another_model_is_merged_into_that_first(
    tmp_path: Path, family: dict[str, Path], spelling: str
) -> None:
    lora = write_adapter(tmp_path / "lora", family["c"])
    text = f"""
merge_method: task_arithmetic
base_model: {{base}}
models:
  - {{{{model: {spelling}, parameters: {{{{weight: 0.5}}}}}}}}
  - {{{{model: "{{base}}+{{lora}}", parameters: {{{{weight: 0.25}}}}}}}}
"""
    path = written(tmp_path, text, {**family, "lora": lora})
    out = weights(merge(path, tmp_path / "out"))
    theirs = {name: tensor.double() for name, tensor in merged_by_peft(family["c"], lora).items()}
    original = weights(family["c"])
    change = {name: tensor - original[name] for name, tensor in theirs.items()}
    base = weights(family["base"])
    for name, tensor in out.items():
        expected = base[name] + 0.5 * (theirs[name] - base[name]) + 0.25 * change[name]
        assert torch.allclose(tensor, expected, rtol=0, atol=1e-6), name
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith("out")} == {"out", "out-c-lora"}


@pytest.mark.parametrize("text", ["merge_method: slerp\nbase_model: org/a+org/lora\n", "merge_method: linear\n"])
def test_adapters_of_one_model_with_the_base_or_first_model_need_no_merge_of_their_own(
    tmp_path: Path, text: str
) -> None:
    models = "models: [{model: org/a}, {model: org/a+org/lora}]\n"
    path = written(tmp_path, text + models)
    assert names(path) == (["a-lora", None] if "base_model" in text else [])
