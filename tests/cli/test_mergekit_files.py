"""`evomerge merge` and `evomerge init --from` with files of mergekit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from evomerge.config.config import Config
from evomerge.recipe.recipe import Recipe

GENOME = """
genome: {models: [org/one, org/two], merge_method: ties, base_model: org/base, layer_granularity: 1}
tasks: [{name: arc_easy, metric: "acc_norm,none"}]
"""


def test_merge_takes_a_mergekit_file_as_it_is(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    file = tmp_path / "merge.yaml"
    file.write_text(
        f"merge_method: linear\nmodels: [{{model: {tiny_llama['a']}}}, {{model: {tiny_llama['b']}}}]\n"
        "parameters: {weight: [{filter: mlp, value: 1.0}, {value: 3.0}]}\n"
    )
    done = cli("merge", file, tmp_path / "out")
    assert (done.exit_code, done.stderr) == (0, "")
    merged, a, b = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "out", tiny_llama["a"], tiny_llama["b"])
    )
    for name, tensor in merged.items():
        mean = ((a[name].double() + b[name].double()) / 2).to(tensor.dtype)
        assert tensor.equal(mean)
    assert Recipe.from_file(tmp_path / "out" / "recipe.yaml").method == "linear"


def test_merge_refuses_what_it_does_not_support_of_a_mergekit_file(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "merge.yaml"
    file.write_text("merge_method: linear\nmodels: [{model: x}]\ntokenizer: {pad_to_multiple_of: 8}\n")
    done = cli("merge", file, tmp_path / "out")
    assert done.exit_code == 1
    assert f"Error: {file}: tokenizer.pad_to_multiple_of: isn't supported" in done.stderr
    assert not (tmp_path / "out").exists()


def test_init_writes_the_config_of_a_genome(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "genome.yaml").write_text(GENOME)
    done = cli("init", tmp_path / "config.yaml", "--from", tmp_path / "genome.yaml")
    assert done.exit_code == 0, done.stderr
    assert "See the comments at its top" in done.stdout
    config = Config.from_file(tmp_path / "config.yaml")
    assert (config.merge.method, config.space.granularity) == ("ties", "layer")


def test_init_says_that_a_genome_is_missing(cli: Any, tmp_path: Path) -> None:
    done = cli("init", tmp_path / "config.yaml", "--from", tmp_path / "nope.yaml")
    assert done.exit_code == 1
    assert "nope.yaml: can't be read: No such file" in done.stderr
    assert not (tmp_path / "config.yaml").exists()


@pytest.mark.slow
def test_a_recipe_printed_as_a_mergekit_file_is_the_same_merge(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    ours = tmp_path / "recipe.yaml"
    ours.write_text(
        "evomerge: 1\nmethod: ties\n"
        f"models: {{base: {tiny_llama['base']}, experts: {{a: {tiny_llama['a']}, b: {tiny_llama['b']}}}}}\n"
        "groups: [{name: all, coefficients: {weight: {a: 0.5, b: 1.25}, density: 0.5}}]\n"
    )
    theirs = tmp_path / "mergekit.yaml"
    printed = cli("recipe", ours, "--format", "mergekit")
    assert (printed.exit_code, printed.stderr) == (0, "")
    assert "merge_method: ties" in printed.stdout
    theirs.write_text(printed.stdout)
    for file, out in ((ours, "one"), (theirs, "two")):
        assert cli("merge", file, tmp_path / out).exit_code == 0
    one, two = (load_file(tmp_path / out / "model.safetensors") for out in ("one", "two"))
    assert all(one[name].equal(two[name]) for name in one)


def test_a_recipe_that_mergekit_cannot_express_is_refused(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    ours = tmp_path / "recipe.yaml"
    ours.write_text(
        f"evomerge: 1\nmethod: wudi\nmodels: {{base: {tiny_llama['base']}, experts: {{a: {tiny_llama['a']}}}}}\n"
    )
    done = cli("recipe", ours, "--format", "mergekit")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "mergekit has no counterpart of wudi" in done.stderr


def test_a_trial_is_asked_for_of_a_run_only(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("evomerge: 1")
    done = cli("recipe", tmp_path / "recipe.yaml", "--trial", "3")
    assert done.exit_code == 1
    assert "--trial is for run directories" in done.stderr
