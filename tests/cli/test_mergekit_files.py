"""`evomerge merge` and `evomerge init --from` with files of mergekit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from evomerge.config import Config
from evomerge.recipe import Recipe

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
    file.write_text("merge_method: linear\nmodels: [{model: x}]\ntokenizer_source: union\n")
    done = cli("merge", file, tmp_path / "out")
    assert done.exit_code == 1
    assert f"Error: {file}: tokenizer_source: union isn't supported yet" in done.stderr
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
