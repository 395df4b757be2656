"""Files of the same merge are known to be, so that an export's recipe is a start for any search over what it merges."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.config.config import Config
from evomerge.config.search import StartConfig
from evomerge.errors import CheckpointError, ConfigError
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.run.directory import open_run
from evomerge.study.check import check
from evomerge.study.export import export
from evomerge.study.merge_key import merge_key
from evomerge.study.search import search
from helpers.first_merges import config_of, write_recipe
from helpers.search import Interrupt

pytestmark = pytest.mark.slow


def starting(config: Config, **start: Any) -> Config:
    settings = config.search.model_copy(update={"start": StartConfig(**start)})
    return config.model_copy(update={"search": settings})


@pytest.mark.parametrize("chained", [False, True])
def test_an_exported_recipe_is_a_start_for_the_search_it_came_from_and_for_others(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path, chained: bool
) -> None:
    merged = write_recipe(tmp_path / "last.yaml", recipe.name, models["base"], weight=0.25) if chained else recipe
    config = config_of(tmp_path, tasks, models["base"], x=merged, y=models["a"])
    winner = search(config, tmp_path / "one").winner
    score = open_run(tmp_path / "one").trials()[winner].score
    out = export(tmp_path / "one", tmp_path / "out", trial=winner)
    by_export = config_of(tmp_path, tasks, models["base"], x=out / "recipe-x.yaml", y=models["a"])
    shutil.copy(merged, tmp_path / "copy.yaml")
    by_copy = config_of(tmp_path, tasks, models["base"], x=tmp_path / "copy.yaml", y=models["a"])
    for number, (other, start) in enumerate(
        [
            (config, {"recipe": str(out / "recipe.yaml")}),
            (by_export, {"recipe": str(out / "recipe.yaml")}),
            (by_copy, {"recipe": str(out / "recipe.yaml")}),
            (by_copy, {"run": str(tmp_path / "one"), "trial": winner}),
        ]
    ):
        found = starting(other, **start)
        assert any(note.startswith("the search starts from ") for note in check(found).notes)
        # Until the start is scored, after the base, the experts and the uniform merges.
        with pytest.raises(KeyboardInterrupt):
            search(found, tmp_path / f"from {number}", observer=Interrupt(6))
        (begin,) = (trial for trial in open_run(tmp_path / f"from {number}").trials() if trial.kind == "start")
        assert begin.score == score


def test_a_start_over_another_merge_is_refused_and_one_whose_models_lie_elsewhere_says_which(
    tmp_path: Path, tasks: Path, models: dict[str, Path], recipe: Path
) -> None:
    config = config_of(tmp_path, tasks, models["base"], x=recipe, y=models["a"])
    search(config, tmp_path / "run")
    out = export(tmp_path / "run", tmp_path / "out")
    other = write_recipe(tmp_path / "other.yaml", models["a"], models["b"], weight=0.25)
    start = {"recipe": str(out / "recipe.yaml")}
    with pytest.raises(ConfigError, match=rf"other models: x \({out / 'recipe-x.yaml'} there, "):
        check(starting(config_of(tmp_path, tasks, models["base"], x=other, y=models["a"]), **start))
    data = yaml.safe_load((out / "recipe-x.yaml").read_text())
    data["models"]["experts"]["b"]["path"] = "./b"
    (out / "recipe-x.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=r"search\.start: .*recipe-x\.yaml: models\.experts\.b: .*/b: no such folder"):
        check(starting(config, **start))


def test_what_is_merged_counts_and_how_and_not_what_it_is_called(tmp_path: Path, models: dict[str, Path]) -> None:
    a, b = str(models["a"]), str(models["b"])
    one = write_recipe(tmp_path / "one.yaml", a, b)
    (tmp_path / "below").mkdir()
    relative = write_recipe(tmp_path / "below" / "two.yaml", "../models/a", "../models/b")
    assert merge_key(one) == merge_key(relative)
    others = [
        write_recipe(tmp_path / "weighted.yaml", a, b, weight=0.25),
        write_recipe(tmp_path / "turned.yaml", b, a, weight=2.0),
        write_recipe(tmp_path / "more.yaml", a, b, models["base"]),
        write_recipe(tmp_path / "above.yaml", one, a),
        write_recipe(tmp_path / "above-other.yaml", tmp_path / "weighted.yaml", a),
    ]
    narrow = yaml.safe_load(one.read_text()) | {"dtype": "bfloat16"}
    (tmp_path / "narrow.yaml").write_text(yaml.safe_dump(narrow))
    keys = [merge_key(path) for path in (one, *others, tmp_path / "narrow.yaml")]
    assert len({*keys}) == len(keys)
    inner = yaml.safe_load(one.read_text()) | {"name": "inner"}
    last = yaml.safe_load(write_recipe(tmp_path / "last.yaml", "inner", a).read_text())
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump_all([inner, last]))
    assert merge_key(tmp_path / "chain.yaml") == merge_key(others[3])


@pytest.mark.parametrize("words", [("mlp", "all"), ("weight", "task_arithmetic"), ("head", "same")])
def test_an_expert_may_be_called_by_a_word_that_a_recipe_has_for_something_else(
    tmp_path: Path, models: dict[str, Path], words: tuple[str, str]
) -> None:
    def written(names: tuple[str, str], first: float) -> Path:
        weights = {"weight": dict(zip(names, (first, 0.5), strict=True))}
        recipe = Recipe(
            base=ModelReference(path=str(models["base"])),
            experts={name: ModelReference(path=str(models[key])) for name, key in zip(names, "ab", strict=True)},
            method="task_arithmetic",
            head=names[0],
            groups=(
                Group(name="feedforward", kinds=("mlp",), coefficients=weights),
                Group(name="all", coefficients=weights),
            ),
        )
        path = tmp_path / f"{'-'.join(names)}-{first}.yaml"
        path.write_text(recipe.to_yaml())
        return path

    assert merge_key(written(words, 0.25)) == merge_key(written(("x", "y"), 0.25))
    assert merge_key(written(words, 0.25)) != merge_key(written(("x", "y"), 0.75))


def test_a_merge_of_models_that_are_away_is_known_unless_others_hang_on_it(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    away = write_recipe(tmp_path / "away.yaml", "org/away", models["a"])
    assert merge_key(away) == merge_key(write_recipe(tmp_path / "again.yaml", "org/away", models["a"]))
    assert merge_key(away) != merge_key(write_recipe(tmp_path / "other.yaml", "org/other", models["a"]))
    with pytest.raises(CheckpointError, match=r"above\.yaml: can't be told from other merges: .*org/away"):
        merge_key(write_recipe(tmp_path / "above.yaml", away, models["a"]))
