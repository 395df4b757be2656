"""What an analysis lets a search begin with, and the seams through which it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evomerge
from evomerge.algorithms.cma_es import CMAES
from evomerge.analysis.prior import prior_of
from evomerge.config.config import Config
from evomerge.config.space import SpaceConfig
from evomerge.errors import ConfigError
from evomerge.files.atomic import json_text
from evomerge.recipe.group import Kind
from evomerge.space.base import Dimension
from evomerge.study.experiment import open_experiment
from evomerge.testing.models import tiny_family

EXPERTS = ("maths", "swahili")


def analysis(path: Path, norms: dict[str, list[float]], **more: Any) -> Path:
    """A file as `analyse` writes it, with these lengths in the layers, by expert."""
    kinds: tuple[Kind, ...] = ("attention",)
    depth = len(next(iter(norms.values())))
    groups = [
        {"layer": layer, "kind": kind, "norm": {name: of[layer] for name, of in norms.items()}}
        for layer in range(depth)
        for kind in kinds
    ]
    whole = {name: float(np.linalg.norm(of)) for name, of in norms.items()}
    data = {
        "format": "evomerge analysis",
        "version": 1,
        "models": {"base": "the/base", "experts": {name: f"the/{name}" for name in norms}},
        "settings": {"depth": depth},
        "whole": {"norm": whole},
        "groups": groups,
        "equal": [],
        "not_finite": {},
    }
    path.write_text(json_text(data | more), encoding="utf-8")
    return path


def test_starting_weights_move_the_model_equally_far(tmp_path: Path) -> None:
    file = analysis(tmp_path / "a.json", {"maths": [2.0, 2.0], "swahili": [1.0, 1.0]})
    found = prior_of(file, SpaceConfig(granularity="layer"))
    assert found.starts["maths"] * 2 == pytest.approx(found.starts["swahili"], rel=0.01)
    assert found.starts["maths"] * found.starts["swahili"] == pytest.approx(0.25, rel=0.01)
    assert found.high == 1.5
    assert found.starts["swahili"] < found.high


def test_steps_are_smaller_where_a_weight_moves_the_model_more(tmp_path: Path) -> None:
    file = analysis(tmp_path / "a.json", {"maths": [4.0, 1.0, 1.0], "swahili": [1.0, 1.0, 1e-9]})
    found = prior_of(file, SpaceConfig(granularity="layer"))
    assert found.steps["weight.maths.layer_0"] == 0.5
    assert found.steps["weight.swahili.layer_2"] == 2.0
    assert next(iter(found.shares)) == "layer_0"
    assert sum(found.shares.values()) == pytest.approx(1.0)


def test_steps_have_the_names_of_the_space(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, experts=EXPERTS, layers=4)
    file = tmp_path / "analysis.json"
    file.write_text(json_text(evomerge.analyse(folders, spectra="none").to_dict()))
    for section in (
        {"granularity": "layer", "kinds": True},
        {"granularity": "all"},
        {"blocks": 2, "kinds": ["embedding", "head"]},
    ):
        found = prior_of(file, SpaceConfig.model_validate(section))
        config = Config.from_data(
            {
                "models": {"base": str(folders["base"]), "experts": {name: str(folders[name]) for name in EXPERTS}},
                "space": section
                | {"steps": dict(found.steps), "parameters": {"weight": {"start": dict(found.starts)}}},
                "benchmark": {"function": {"call": "somewhere:score"}},
            }
        )
        space = open_experiment(config).space
        assert {item.name for item in space.dimensions} == found.steps.keys()
        assert [item.step for item in space.dimensions] == [found.steps[item.name] for item in space.dimensions]
        assert {item.initial for item in space.dimensions} == set(found.starts.values())


def test_copies_and_broken_experts_are_left_out(tmp_path: Path) -> None:
    norms = {"a": [1.0], "b": [1.0], "c": [0.0], "d": [1.0]}
    more = {"equal": [["base", "c"], ["a", "b"]], "not_finite": {"some.weight": ["d"]}}
    found = prior_of(analysis(tmp_path / "a.json", norms, **more))
    assert list(found.experts) == ["a"]
    assert found.left_out == {
        "b": "has the same numbers as a",
        "c": "has the base's numbers",
        "d": "has NaN or infinite numbers",
    }
    with pytest.raises(ConfigError, match="leaves no expert"):
        prior_of(analysis(tmp_path / "b.json", {"c": [0.0]}, equal=[["base", "c"]]))


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"format": "evomerge analysis", "version": 1}'])
def test_what_is_no_analysis_is_refused_in_words(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.json"):
        prior_of(file)


def test_cma_takes_first_steps_of_the_sizes_that_it_is_given() -> None:
    dimensions = [
        Dimension(name=f"x{index}", low=0.0, high=1.0, initial=0.5, step=step) for index, step in enumerate((0.5, 1, 2))
    ]
    asked = np.array(CMAES(dimensions, seed=0, population=4000, step_size=0.05).ask())
    np.testing.assert_allclose(asked.std(0), 0.05 * np.array([0.5, 1.0, 2.0]), rtol=0.1)


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_is_a_positive_number(step: float) -> None:
    with pytest.raises(ConfigError, match="step"):
        Dimension(name="x", low=0.0, high=1.0, initial=0.5, step=step)


def test_a_run_from_before_starts_and_steps_has_no_word_on_them() -> None:
    text = "models: {base: b, experts: {a: a}}\nspace: {parameters: {weight: {high: 2.0}}}\nbenchmark: {tasks: [t]}\n"
    plain = Config.from_yaml(text)
    assert "start" not in json.dumps(plain.identity())
    assert "steps" not in json.dumps(plain.identity())
    started = Config.from_yaml(text.replace("high: 2.0", "high: 2.0, start: 1.0"))
    assert started.identity() != plain.identity()
