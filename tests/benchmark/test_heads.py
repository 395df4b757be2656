"""Tasks with a head each over one merged encoder: answers are transformers' own with that head put in."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from PIL import Image
from safetensors.torch import load_file

from evomerge.benchmark import build_benchmark
from evomerge.benchmark.labels import Labels
from evomerge.config.config import Config
from evomerge.errors import BenchmarkError, CheckpointError, ConfigError
from evomerge.materialise.folder import write_folder
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import open_models
from evomerge.recipe.recipe import Recipe
from evomerge.report.run_facts import RunFacts
from evomerge.report.run_page import run_page
from evomerge.run.directory import open_run
from evomerge.study.export import export
from evomerge.study.search import search
from evomerge.testing.models import tiny_family
from helpers.classifiers import SIDE, write_images

TASKS = {"three": ("calm", "glad", "sad"), "five": ("a", "b", "c", "d", "e")}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base of two labels, and experts of three and five on its encoder with noise."""
    folder = tmp_path_factory.mktemp("heads")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
    found, encoder = {}, None
    for name, labels in {"base": ("no", "yes"), **TASKS}.items():
        numbered: dict[str, Any] = {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: number for number, label in enumerate(labels)},
        }
        config = transformers.ViTConfig(
            **sizes, **numbered, intermediate_size=24, image_size=SIDE, patch_size=4, initializer_range=0.5
        )
        model: Any = transformers.ViTForImageClassification(config)
        if encoder is not None:
            model.vit = copy.deepcopy(encoder)
            with torch.no_grad():
                for parameter in model.vit.parameters():
                    parameter.add_(0.15 * torch.randn_like(parameter))
        else:
            encoder = model.vit
        found[name] = folder / name
        model.save_pretrained(found[name])
        transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(found[name])
    write_images(folder / "images.jsonl")
    return {**found, "images": folder / "images.jsonl"}


def config_of(family: dict[str, Path], path: Path, **changes: Any) -> Config:
    data: dict[str, Any] = {
        "models": {
            "base": str(family["base"]),
            "experts": {name: str(family[name]) for name in TASKS},
            "head": "base",
            **changes.pop("models", {}),
        },
        "merge": {"method": "task_arithmetic"},
        "space": {"granularity": "layer"},
        "benchmark": {
            "labels": {
                "image": "pixels",
                "tasks": {name: {"data": str(family["images"]), "head": name} for name in TASKS},
                **changes.pop("labels", {}),
            }
        },
        "search": {"evaluations": 14, "population": 6, "scan": 2, "shortlist": 2},
        "execution": {"backend": "inline", "cpus_per_worker": 1, "dtype": "float32"},
    }
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return Config.from_file(path)


def own_answers(folder: Path, head: Path, images: Path) -> dict[bytes, list[float]]:
    """By pixel values, transformers' log-probabilities of a model with another's head put in by hand."""
    model: Any = transformers.AutoModelForImageClassification.from_pretrained(folder)
    weights = load_file(head / "model.safetensors")
    model.classifier.weight = torch.nn.Parameter(weights["classifier.weight"])
    model.classifier.bias = torch.nn.Parameter(weights["classifier.bias"])
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    found = {}
    for row in map(json.loads, images.read_text().splitlines()):
        inputs = processor(Image.fromarray(np.uint8(row["pixels"])), return_tensors="pt")
        with torch.no_grad():
            answer = model.vit(**inputs).last_hidden_state[:, 0]
            found[inputs["pixel_values"][0].numpy().tobytes()] = model.classifier(answer)[0].log_softmax(-1).tolist()
    return found


@pytest.mark.slow
def test_the_winner_answers_each_task_as_its_exported_encoder_does_with_the_tasks_own_head(
    family: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(family, tmp_path / "config.yaml")
    result = search(config, tmp_path / "run")
    folder = export(tmp_path / "run", tmp_path / "out")
    built = build_benchmark(config.benchmark, Checkpoint.open(family["base"]))
    assert isinstance(built, Labels)
    assert built.labels == TASKS
    evaluation = open_run(tmp_path / "run").ledger().evaluation(result.winner, "test")
    assert evaluation is not None
    assert evaluation.table is not None
    kept = load_file(folder / "model.safetensors")["classifier.weight"]
    torch.testing.assert_close(kept, load_file(family["base"] / "model.safetensors")["classifier.weight"])
    for task in TASKS:
        truth = own_answers(folder, family[task], family["images"])
        items = [item for item in built.splits["test"] if item.task == task]
        expected = [truth[item.request.inputs["pixel_values"].tobytes()] for item in items]
        scores = evaluation.table.tasks[task]
        assert scores.answers is not None
        np.testing.assert_allclose(scores.answers.log_likelihoods(), expected, atol=2e-5)
        right = [int(np.argmax(row)) == item.label for item, row in zip(items, expected, strict=True)]
        assert evaluation.aggregates[task]["acc,none"] == pytest.approx(np.mean(right))
    assert evaluation.score == pytest.approx(np.mean([evaluation.aggregates[task]["acc,none"] for task in TASKS]))
    own = {model["name"]: model["tasks"] for model in result.data["test"]["models"] if model["kind"] == "expert"}
    for model in result.data["test"]["models"]:
        expected_shares = {task: model["tasks"][task] / own[task][task] for task in TASKS}
        assert model["normalised"] == pytest.approx(expected_shares)
    assert "Normalised by the experts" in run_page(RunFacts(open_run(tmp_path / "run"))).html()


@pytest.mark.parametrize("owner", ["base", *TASKS])
def test_a_recipe_gives_its_merge_the_head_and_labels_of_one_model(
    owner: str, family: dict[str, Path], tmp_path: Path
) -> None:
    models = {"base": str(family["base"]), "experts": {name: str(family[name]) for name in TASKS}, "head": owner}
    data = {"evomerge": 1, "models": models, "method": "task_arithmetic"}
    recipe = Recipe.from_data({**data, "groups": [{"name": "all", "coefficients": {"weight": 0.5}}]})
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    folder = write_folder(recipe, tmp_path / "out")
    merged: Any = transformers.AutoModelForImageClassification.from_pretrained(folder)
    assert tuple(merged.config.id2label.values()) == {"base": ("no", "yes"), **TASKS}[owner]
    weights = {name: load_file(family[name] / "model.safetensors") for name in ("base", *TASKS)}
    for name, tensor in load_file(folder / "model.safetensors").items():
        is_head = name.startswith("classifier")
        mean = weights[owner][name] if is_head else (weights["three"][name] + weights["five"][name]) / 2
        torch.testing.assert_close(tensor, mean)


def test_heads_of_other_sizes_are_refused_unless_one_is_kept(family: dict[str, Path], tmp_path: Path) -> None:
    from evomerge.study.experiment import open_experiment

    with pytest.raises(CheckpointError, match=r"its labels are calm, glad, sad, the base's no, yes"):
        open_experiment(config_of(family, tmp_path / "config.yaml", models={"head": None}))
    assert open_experiment(config_of(family, tmp_path / "config.yaml")).template.head == "base"


def test_a_model_without_a_head_of_its_own_cannot_give_it(tmp_path: Path) -> None:
    tied = tiny_family(tmp_path, "llama", tied=True)
    recipe = {"base": str(tied["base"]), "experts": {"a": str(tied["a"])}, "head": "a"}
    with pytest.raises(CheckpointError, match="has no output head of its own"):
        open_models(Recipe.from_data({"evomerge": 1, "models": recipe, "method": "linear"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {"head": "six"}}, "models: head: unknown model 'six'"),
        ({"labels": {"tasks": {}}}, "give the data of one task"),
        ({"labels": {"data": "x.csv"}}, "give the data of one task"),
        ({"labels": {"tasks": {"a b": {"data": "x.csv"}}}}, "task name 'a b': use letters"),
    ],
)
def test_settings_that_say_nothing_together_are_refused(
    changes: dict[str, Any], message: str, family: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(family, tmp_path / "config.yaml", **changes)


def test_a_head_that_cannot_be_read_is_named_by_its_task(family: dict[str, Path], tmp_path: Path) -> None:
    tasks = {"three": {"data": str(family["images"]), "head": str(tmp_path / "gone")}}
    config = config_of(family, tmp_path / "config.yaml", labels={"tasks": tasks})
    with pytest.raises(BenchmarkError, match=r"benchmark\.labels\.tasks\.three\.head: .*gone"):
        build_benchmark(config.benchmark, Checkpoint.open(family["base"]))


def test_a_run_over_one_labelled_set_is_the_same_experiment_as_before_there_were_several(
    family: dict[str, Path], tmp_path: Path
) -> None:
    labels = {"data": str(family["images"]), "tasks": {}}
    identity = config_of(family, tmp_path / "config.yaml", labels=labels, models={"head": None}).identity()
    assert "tasks" not in identity["benchmark"]["labels"]
    assert "head" not in identity["models"]
