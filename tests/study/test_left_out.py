"""Searches over experts that are the base here and there: what isn't searched, and what is said and kept of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.files.atomic import read_json, write_json
from evomerge.report.run_facts import RunFacts
from evomerge.report.run_page import run_page
from evomerge.run.directory import open_run
from evomerge.run.trial import TrialKind
from evomerge.study import experiment
from evomerge.study.check import check
from evomerge.study.experiment import open_experiment
from evomerge.study.reproduce import reproduce
from evomerge.study.search import resume, search
from helpers.checkpoints import edit_tensors
from helpers.first_merges import config_of
from helpers.search import changed, write_config

pytestmark = pytest.mark.slow

SEARCHED = ["weight.a.layer_0", "weight.a.layer_1", "weight.b.layer_1"]


def make_base(models: dict[str, Path], expert: str, layer: str) -> None:
    """Give an expert the base's tensors in one layer, or everywhere, the embedding and norm beside the layers too."""
    from safetensors.torch import load_file

    base = load_file(models["base"] / "model.safetensors")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: base[name].clone() for name in tensors if f"layers.{layer}" in name or layer == ""})
        if layer == "0.":
            tensors.update({name: base[name].clone() for name in tensors if "embed" in name})

    edit_tensors(models[expert], change)


@pytest.fixture
def half(tmp_path: Path, models: dict[str, Path], tasks: Path) -> Config:
    """Expert b is the base in the first layer."""
    make_base(models, "b", "0.")
    config = write_config(tmp_path / "half.yaml", models, tasks)
    return changed(Config.from_file(config), search={"evaluations": 12, "population": 4, "scan": 3})


def test_coefficients_that_change_nothing_are_left_out_said_and_kept(half: Config, tmp_path: Path) -> None:
    said = "1 coefficient would change nothing, since experts have no task vector there"
    found = check(half)
    assert [item.name for item in found.dimensions] == SEARCHED
    note = next(note for note in found.notes if note.startswith(said))
    assert note.endswith("is left out of the search: weight.b.layer_0")

    search(half, tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.facts["space"]["left_out"] == ["weight.b.layer_0"]
    assert run.facts["unchanged"]["a"] == []
    assert {layer for layer, _ in run.facts["unchanged"]["b"]} == {0}
    for trial in run.ledger().trials():
        if not trial.kind.is_checkpoint:
            assert list(trial.parameters) == SEARCHED
            weights = [group.coefficients["weight"]["b"] for group in run.recipe(trial.number).groups]  # type: ignore[index]
            assert weights == [trial.parameters["weight.b.layer_1"]] * 2
    page = run_page(RunFacts(run)).html()
    assert "not searched: 1 coefficient of experts whose tensors there are the base&#x27;s (weight.b.layer_0)" in page
    winner = next(trial for trial in run.ledger().trials() if trial.kind is TrialKind.CANDIDATE)
    assert reproduce(tmp_path / "run", trial=winner.number, split="search").matches


def test_a_run_goes_on_with_what_it_found_and_one_of_an_earlier_release_with_every_dimension(
    half: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(experiment, "unchanged_places", lambda models, texts: {})
        search(half, tmp_path / "run")
    facts = read_json(tmp_path / "run" / "run.json")
    del facts["unchanged"]
    write_json(tmp_path / "run" / "run.json", facts)
    with monkeypatch.context() as later:
        later.setattr(experiment, "unchanged_places", lambda models, texts: pytest.fail("the models were looked at"))
        resume(tmp_path / "run", evaluations=20)
    trials = [trial for trial in open_run(tmp_path / "run").trials() if trial.kind is TrialKind.CANDIDATE]
    assert len(trials) == 20
    assert {len(trial.parameters) for trial in trials} == {4}


@pytest.mark.parametrize(
    ("space", "merge"),
    [
        ({"kind": "layers"}, {"method": "task_arithmetic"}),
        ({"kind": "methods", "methods": {"linear": {}, "slerp": {}}, "granularity": "layer"}, {"method": "linear"}),
        ({"granularity": "layer"}, {"method": "linear"}),
    ],
)
def test_models_are_compared_only_for_spaces_whose_candidates_add_task_vectors(
    half: Config, monkeypatch: pytest.MonkeyPatch, space: dict[str, Any], merge: dict[str, Any]
) -> None:
    monkeypatch.setattr(experiment, "unchanged_places", lambda models, texts: pytest.fail("the models were looked at"))
    data = half.model_dump(exclude_unset=True)
    search = {**data["search"], "algorithm": "random"}
    config = Config.model_validate({**data, "space": space, "merge": merge, "search": search})
    assert open_experiment(config).space.left_out == ()


def test_a_space_of_methods_compares_models_if_one_of_them_adds_task_vectors(half: Config) -> None:
    data = half.model_dump(exclude_unset=True)
    space = {"kind": "methods", "methods": {"linear": {}, "ties": {}}, "granularity": "layer"}
    search = {**data["search"], "algorithm": "random"}
    data |= {"space": space, "merge": {"method": "linear"}, "search": search}
    opened = open_experiment(Config.model_validate(data))
    assert opened.space.left_out == ("ties.weight.b.layer_0", "ties.density.b.layer_0")


def test_experts_that_are_the_base_everywhere_are_refused_before_anything_is_written(
    tmp_path: Path, models: dict[str, Path], tasks: Path
) -> None:
    for expert in ("a", "b"):
        make_base(models, expert, "")
    config = Config.from_file(write_config(tmp_path / "same.yaml", models, tasks))
    with pytest.raises(
        ConfigError, match=r"same.yaml: space: nothing to search: .*; look whether models.experts names"
    ):
        search(config, tmp_path / "run", where="same.yaml")
    assert not (tmp_path / "run" / "run.json").exists()


def test_check_says_that_outlines_of_recipes_hold_no_numbers(
    tmp_path: Path, models: dict[str, Path], tasks: Path, recipe: Path
) -> None:
    make_base(models, "b", "0.")
    config = config_of(tmp_path, tasks, models["base"], x=recipe, y=models["b"])
    found = check(config)
    assert len(found.dimensions) == 4
    assert any("a search then leaves out" in sentence for sentence in found.unchecked)
    # A pilot merges the recipe, and then it is known.
    shown = CliRunner().invoke(app, ["check", str(tmp_path / "config.yaml"), "--pilot", "--run", str(tmp_path / "run")])
    assert "left out of the search: weight.y.layer_0" in " ".join(shown.output.split())
    search(changed(config, search={"evaluations": 4, "population": 4, "scan": 2}), tmp_path / "run")
    assert open_run(tmp_path / "run").facts["space"]["left_out"] == ["weight.y.layer_0"]
