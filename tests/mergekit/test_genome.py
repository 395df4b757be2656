"""mergekit-evolve files as configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.mergekit.genome import genome_to_config


def genome(tasks: Any = None, *, top: dict[str, Any] | None = None, **changes: Any) -> str:
    data: dict[str, Any] = {
        "models": ["org/one", "org/two@v1"],
        "merge_method": "dare_ties",
        "base_model": "org/base",
        "layer_granularity": 8,
        "normalize": True,
    }
    data = {key: value for key, value in {**data, **changes}.items() if value is not None}
    tasks = tasks or [{"name": "arc_easy", "weight": 0.5, "metric": "acc_norm,none"}, {"name": "copa"}]
    return yaml.safe_dump({"genome": data, "tasks": tasks, **(top or {})})


def test_a_genome_becomes_a_config_of_the_same_search() -> None:
    text = genome_to_config(
        genome(
            filters=["self_attn", "mlp", "q_proj"],
            allow_negative_weights=True,
            tokenizer_source="union",
            top={"limit": 100, "num_fewshot": 2, "shuffle": True, "apply_chat_template": False, "random_init": True},
        ),
        num_layers=32,
    )
    config = Config.from_yaml(text)
    assert config.models.base.path == "org/base"
    assert {name: (model.path, model.revision) for name, model in config.models.experts.items()} == {
        "one": ("org/one", None),
        "two": ("org/two", "v1"),
    }
    assert (config.merge.method, config.merge.options) == ("dare_ties", {"rescale": "l1", "normalize": True})
    assert (config.space.granularity, config.space.blocks) == ("blocks", 4)
    assert config.space.kinds == ("attention", "mlp")
    assert config.space.parameters["weight"].low == -1.0
    first, second = config.benchmark.tasks
    assert (first.task, first.metric, first.weight, first.num_fewshot) == ("arc_easy", "acc_norm,none", 0.5, 2)
    assert (second.task, second.metric, second.weight) == ("copa", "acc,none", 1.0)
    assert config.benchmark.splits.search.items == 100
    assert not config.benchmark.apply_chat_template
    assert config.models.vocabulary == "union"
    for said in ("filter 'q_proj'", "shuffle", "random_init", "--max-fevals"):
        assert f"# - {said}" in text or said in text.partition("models:")[0]


@pytest.mark.parametrize(
    ("changes", "granularity", "blocks", "smooth"),
    [
        ({"layer_granularity": 0}, "all", None, None),
        ({"layer_granularity": 1}, "layer", None, None),
        ({"layer_granularity": 32}, "all", None, None),
        ({"layer_granularity": 16}, "blocks", 2, None),
        ({"layer_granularity": 4, "smooth": True}, "layer", None, 8),
    ],
)
def test_groups_of_layers_are_kept(
    changes: dict[str, Any], granularity: str, blocks: int | None, smooth: int | None
) -> None:
    space = Config.from_yaml(genome_to_config(genome(**changes), num_layers=32)).space
    assert (space.granularity, space.smooth) == (granularity, smooth)
    assert blocks in (None, space.blocks)


def test_the_depth_is_read_from_a_model_that_is_here(tiny_llama: dict[str, Path]) -> None:
    text = genome_to_config(genome(base_model=str(tiny_llama["base"]), layer_granularity=2))
    assert Config.from_yaml(text).space.granularity == "all"
    with pytest.raises(ConfigError, match="3 layers don't divide the models' 2"):
        genome_to_config(genome(base_model=str(tiny_llama["base"]), layer_granularity=3))


def test_without_any_model_here_the_comments_say_how_many_blocks() -> None:
    text = genome_to_config(genome())
    assert "# - layer_granularity 8: set space to blocks = the number of layers / 8." in text


def test_without_a_base_the_first_model_stands_for_it() -> None:
    config = Config.from_yaml(genome_to_config(genome(merge_method="linear", base_model=None)))
    assert config.models.base.path == "org/one"
    assert list(config.models.experts) == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (genome(merge_method="breadcrumbs"), "genome.merge_method: unknown mergekit-evolve method 'breadcrumbs'"),
        (genome(base_model=None), "genome.base_model: missing; dare_ties needs it"),
        (genome(layer_granularity="two"), "genome.layer_granularity: expected a whole number, got 'two'"),
        (genome(layer_granularity=2.5), "genome.layer_granularity: expected a whole number, got 2.5"),
        (genome(smooth=3), "genome.smooth: expected true or false, got 3"),
        (genome(models=["org/one+org/lora"]), r"genome.models\[0\]: .* adapter"),
        (genome(population=3), "unknown key 'population'"),
        (genome([{"name": "x", "weight": -1}]), r"tasks\[0\].weight: -1"),
        (genome([{"task": "x"}]), r"tasks\[0\]: unknown key 'task'"),
        (genome(top={"shuffle": "very"}), "genome.yaml: shuffle: expected true or false"),
        ("merge_method: linear\nmodels: []", "is a merge file, not a genome; run it with: evomerge merge"),
        ("genome: [", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        genome_to_config(text, where="genome.yaml")
    assert str(error.value).startswith("genome.yaml: ")
