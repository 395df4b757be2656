"""Models of a run that were given as recipes: each is merged once, before the search, into a folder of the run.

Knows where these folders lie. Does not make them.
"""

from __future__ import annotations

from pathlib import Path

from evomerge.config.config import Config
from evomerge.recipe.sources import ModelReference

MERGED = "merged"
"""The folder of a run with the models that are merged first, each as its name."""


def with_folders(config: Config, directory: Path) -> Config:
    """The config of the run in `directory` with folders in the place of recipes. A recipe given twice is one folder."""
    recipes = config.models.recipes
    if not recipes:
        return config
    # The first of several names is that of the folder.
    names = {path: name for name, path in reversed(recipes.items())}
    folders = {name: str((directory / MERGED / names[path]).absolute()) for name, path in recipes.items()}
    return in_place(config, folders)


def exported_recipe(reference: ModelReference, directory: Path) -> str | None:
    """The file beside an export that holds the recipe of a model; None for one that the run didn't merge first."""
    path = Path(reference.path)
    return f"recipe-{path.name}.yaml" if path.parent == (directory / MERGED).absolute() else None


def in_place(config: Config, folders: dict[str, str]) -> Config:
    """The config with folders in the place of models, by their names, and of their heads where tasks name these."""
    models, benchmark = config.models, config.benchmark
    given = {"base": models.base, **models.experts}
    found = {name: model.model_copy(update={"path": folders.get(name, model.path)}) for name, model in given.items()}
    changes = {"base": found.pop("base"), "experts": found}
    heads = {given[name].path: folder for name, folder in folders.items()}
    if (labels := benchmark.labels) is not None and labels.tasks:
        tasks = {
            name: task.model_copy(update={"head": heads.get(task.head or "", task.head)})
            for name, task in labels.tasks.items()
        }
        benchmark = benchmark.model_copy(update={"labels": labels.model_copy(update={"tasks": tasks})})
    return config.model_copy(update={"models": models.model_copy(update=changes), "benchmark": benchmark})
