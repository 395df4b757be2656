"""The YAML of an alternation: a model, tasks with their data, how each is tuned, and how the experts are merged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from evomerge.config.section import Positive
from evomerge.errors import ConfigError, RecipeError, shown
from evomerge.files.outside import check_plain
from evomerge.files.outside_yaml import read_yaml
from evomerge.files.places import is_there
from evomerge.files.places import local as local_path
from evomerge.methods.declared import build_method, checked_coefficients, method_class
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.streams import derive
from evomerge.tuning.settings import Checked, TuneData, TuneSettings


class RoundsMerge(Checked):
    """How the experts of a round become one model."""

    method: str = "task_arithmetic"
    options: dict[str, Any] = Field(default_factory=dict)
    coefficients: dict[str, float | dict[str, float]] = Field(default_factory=dict)
    """One number, or one for each task by its name; what is left out has the method's default."""


class Rounds(Checked):
    """An alternation of tuning and merging."""

    model: str
    """Where it starts: a model folder, or a hub id."""
    tasks: Annotated[dict[str, TuneData], Field(min_length=1)]
    rounds: Positive = 10
    tune: TuneSettings = TuneSettings()
    """Of each task in each round."""
    merge: RoundsMerge = RoundsMerge()
    keep: bool = False
    """Keep the experts and merges of all rounds, and not only those that the last one needs."""

    @model_validator(mode="after")
    def _names(self) -> Rounds:
        for name, data in self.tasks.items():
            if Path(name).name != name or name in {"", "merged", "."} or name.startswith("."):
                raise ValueError(f"tasks: {name!r} can't be the name of a folder; choose another")
            if data.new_head:
                raise ValueError(f"tasks.{name}: new_head: all rounds share one head; give the model it first")
        return self

    @classmethod
    def from_file(cls, path: str | Path) -> Rounds:
        """Read and check a file; relative paths that are there are relative to its folder. Raises: ConfigError."""
        path = Path(path)
        data = read_yaml(path, ConfigError)
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: expected keys such as model and tasks, got {shown(data)}")
        return cls.from_data(data, where=str(path)).relative_to(path.parent)

    @classmethod
    def from_data(cls, data: dict[str, Any], *, where: str = "rounds") -> Rounds:
        """Build from plain data. Raises: ConfigError."""
        check_plain(data, where, ConfigError)
        found = cls.of(data, where)
        found.refuse_merge(where)
        return found

    def relative_to(self, folder: Path) -> Rounds:
        """The same with files and folders that exist below `folder` made absolute."""

        def local(text: str) -> str:
            path = folder / local_path(text)
            return str(path.absolute()) if is_there(path) else text

        def task(data: TuneData) -> TuneData:
            validation = None if data.validation_data is None else local(data.validation_data)
            return data.model_copy(update={"data": tuple(map(local, data.data)), "validation_data": validation})

        tasks = {name: task(data) for name, data in self.tasks.items()}
        return self.model_copy(update={"model": local(self.model), "tasks": tasks})

    def refuse_merge(self, where: str) -> None:
        """Find early what the merge method doesn't take. Raises: ConfigError."""
        try:
            build_method(self.merge.method, self.merge.options, experts=list(self.tasks), seed=0)
            method = method_class(self.merge.method, len(self.tasks))
            checked_coefficients("recipe: coefficients", self.merge.coefficients, method, list(self.tasks))
        except RecipeError as error:
            raise ConfigError(f"{where}: merge: {str(error).removeprefix('recipe: ')}") from error

    def recipe(self, number: int, base: str | Path, experts: Mapping[str, Path]) -> Recipe:
        """The merge of a round."""
        return Recipe(
            base=ModelReference(path=str(base)),
            experts={name: ModelReference(path=str(folder)) for name, folder in experts.items()},
            method=self.merge.method,
            options=self.merge.options,
            groups=(Group(name="all", coefficients=self.merge.coefficients),),
            seed=derive(self.tune.seed, "merge", number, bits=31),
        )
