"""The experiment's YAML: every section, its defaults and its checks.

Knows names, ranges and defaults. Checks that need a model's header, a tokenizer or a data set live
with those parts; nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, field_validator, model_validator

from evomerge.config.benchmark import BenchmarkConfig, Files
from evomerge.config.execution import ExecutionConfig, ExportConfig
from evomerge.config.explain import explain
from evomerge.config.models import ModelConfig, ModelsConfig
from evomerge.config.search import SearchConfig, StartConfig
from evomerge.config.section import Section
from evomerge.config.settings import with_settings
from evomerge.config.space import MergeConfig, SpaceConfig
from evomerge.errors import ConfigError, shown, unknown
from evomerge.files.outside import check_plain, read_text
from evomerge.files.outside_yaml import parse_yaml
from evomerge.files.places import is_there
from evomerge.files.places import local as local_path
from evomerge.recipe.sources import located

MAY_BE_EMPTY = frozenset({"merge", "space", "search", "execution", "export"})
"""Sections that have a default for every key."""


class Config(Section):
    """One experiment."""

    models: ModelsConfig
    """The base and the experts."""
    merge: MergeConfig = MergeConfig()
    """The merge method and its fixed options."""
    space: SpaceConfig = SpaceConfig()
    """What is searched: which tensors share a coefficient, and the bounds of each."""
    benchmark: BenchmarkConfig
    """What candidates are scored on."""
    search: SearchConfig = SearchConfig()
    """The algorithm, its budget and where it starts."""
    execution: ExecutionConfig = ExecutionConfig()
    """Where and how candidates are evaluated."""
    storage: str = "journal"
    """Where trials are kept: `journal` (a file in the run directory) or any Optuna storage URL."""
    export: ExportConfig = ExportConfig()
    """How winning merges are written."""
    observe: tuple[str | dict[str, Any], ...] = ()
    """Who hears of it: tensorboard, mlflow, wandb, `webhook: URL`, `command: ...`. May change between resumes."""

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, data: Any) -> Any:
        """A section whose keys are all commented out has its defaults."""
        return {key: {} if value is None and key in MAY_BE_EMPTY else value for key, value in data.items()}

    @model_validator(mode="before")
    @classmethod
    def _heads_of_experts(cls, data: Any) -> Any:
        """A task's head may be named as an expert is; from here on it is that model's place."""
        try:
            experts, labels = data["models"]["experts"], data["benchmark"]["labels"]
            tasks = {
                name: {**task, "head": _place_of(experts[task["head"]])} if task.get("head") in experts else task
                for name, task in labels["tasks"].items()
            }
        except (AttributeError, KeyError, TypeError):
            # Without heads, or of another form, which is found when it is read.
            return data
        return {**data, "benchmark": {**data["benchmark"], "labels": {**labels, "tasks": tasks}}}

    @field_validator("observe")
    @classmethod
    def _one_name_each(cls, observe: tuple[str | dict[str, Any], ...]) -> tuple[str | dict[str, Any], ...]:
        for entry in observe:
            if isinstance(entry, dict) and len(entry) != 1:
                raise ValueError("each is a name, such as tensorboard, or one name with a value, such as webhook: URL")
        return observe

    @model_validator(mode="after")
    def _mirror_has_the_trials(self) -> Config:
        if self.execution.mirror is not None and self.storage.startswith("sqlite"):
            raise ValueError(
                "execution.mirror: a file of SQLite isn't uploaded, so a run couldn't be continued from the mirror; "
                "use storage: journal, or a database server"
            )
        return self

    @model_validator(mode="after")
    def _goals_name_models(self) -> Config:
        models = ["base", *self.models.experts]
        for section, measures in (("objectives", self.search.objectives), ("constraints", self.search.constraints)):
            for name, measure in measures.items():
                if measure.distance is not None and measure.distance not in models:
                    raise ValueError(f"search.{section}.{name}.distance: {unknown('model', measure.distance, models)}")
        if "uniform" in models and any(item.than == "uniform" for item in self.search.constraints.values()):
            raise ValueError(
                "search.constraints: than: uniform is the best uniform merge, and an expert is called so; rename that"
            )
        for name, constraint in self.search.constraints.items():
            known = [*models, "uniform"]
            if constraint.than is not None and constraint.than not in known:
                raise ValueError(f"search.constraints.{name}.than: {unknown('model', constraint.than, known)}")
        return self

    @classmethod
    def from_file(cls, path: str | Path, *, settings: Sequence[str] = ()) -> Config:
        """Read and check an experiment; relative folders are relative to the file's own folder.

        Args:
            path: of the file.
            settings: values instead of the file's, such as "search.evaluations=50".

        Raises: ConfigError naming the file, each wrong key with its value, and the remedy.
        """
        path = Path(path)
        data = with_settings(parse_yaml(read_text(path, ConfigError), str(path), ConfigError), settings, cls)
        return cls.from_data(data, where=f"{path} with --set" if settings else str(path)).relative_to(path.parent)

    @classmethod
    def from_yaml(cls, text: str, *, where: str = "config") -> Config:
        """Parse YAML text. Raises: ConfigError."""
        return cls.from_data(parse_yaml(text, where, ConfigError), where=where)

    @classmethod
    def from_data(cls, data: dict[str, Any], *, where: str = "config") -> Config:
        """Build from plain data, with `where` as the place named in errors. Raises: ConfigError."""
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: expected sections such as models and benchmark, got {shown(data)}")
        check_plain(data, where, ConfigError)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, where)) from error

    def relative_to(self, folder: Path) -> Config:
        """The same experiment with local folders below `folder` made absolute."""

        def local(text: str) -> str:
            candidate = folder / local_path(text)
            return str(candidate.resolve()) if is_there(candidate) else text

        def model(config: ModelConfig) -> ModelConfig:
            return config.model_copy(update={"path": located(config.path, folder)})

        models = self.models.model_copy(
            update={
                "base": model(self.models.base),
                "experts": {name: model(expert) for name, expert in self.models.experts.items()},
            }
        )

        def files(data: Files | int | None) -> Files | int | None:
            if isinstance(data, dict):
                return {split: local(file) for split, file in data.items()}
            return local(data) if isinstance(data, str) else data

        found: dict[str, Any] = {"include_path": tuple(local(entry) for entry in self.benchmark.include_path)}
        if (labels := self.benchmark.labels) is not None:
            tasks = {
                name: task.model_copy(
                    update={"data": files(task.data), "head": None if task.head is None else local(task.head)}
                )
                for name, task in labels.tasks.items()
            }
            found["labels"] = labels.model_copy(
                update={"data": None if labels.data is None else files(labels.data), "tasks": tasks}
            )
        if (function := self.benchmark.function) is not None:
            changes = {"data": files(function.data), "folder": local(function.folder or ".")}
            found["function"] = function.model_copy(update=changes)
        benchmark = self.benchmark.model_copy(update=found)
        search = self.search
        if (start := search.start) is not None:
            paths = {key: str((folder / local_path(path)).resolve()) for key, path in _places(start).items()}
            search = search.model_copy(update={"start": start.model_copy(update=paths)})
        return self.model_copy(update={"models": models, "benchmark": benchmark, "search": search})

    def to_yaml(self) -> str:
        """The whole experiment with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same experiment: all but execution, storage, export, observers and the budget."""
        data = self.model_dump(mode="json", exclude={"execution", "storage", "export", "observe"})
        # The first model of a slice has a meaning of its own, which comparing mappings would lose.
        data["models"]["slices"] = [list(part.items()) for part in data["models"]["slices"]]
        data["execution"] = {"dtype": self.execution.dtype, "max_length": self.execution.max_length}
        # It shows in the items, which are compared; so does where tasks lie, whose files' content is compared besides.
        del data["benchmark"]["every_item"], data["benchmark"]["include_path"]
        if data["benchmark"]["near_duplicates"] == "tell":
            del data["benchmark"]["near_duplicates"]
        for kind in ("labels", "function", "other", "cluster"):
            if data["benchmark"][kind] is None:
                del data["benchmark"][kind]
        # Runs from before models kept heads of their own, or were aligned, have no word on it.
        for key in ("head", "align"):
            if data["models"][key] is None:
                del data["models"][key]
        if data["models"].get("align", {}).get("spec", True) is None:
            del data["models"]["align"]["spec"]
        if not (data["benchmark"].get("labels") or {}).get("tasks", True):
            del data["benchmark"]["labels"]["tasks"]
        for key in ("evaluations", "hours", "budget", "shortlist"):
            del data["search"][key]
        # As the number of workers, it may change between sessions.
        del data["search"]["in_flight"]
        if data["search"]["mode"] == SearchConfig().mode:
            del data["search"]["mode"]
        if data["search"]["start"] is None:
            del data["search"]["start"]
        # Runs from before there were objectives and constraints have no word on them.
        for key in ("objectives", "constraints"):
            if not data["search"][key]:
                del data["search"][key]
        # Runs from before there were others than uniform merges have no word on it.
        if not self.search.baselines:
            del data["search"]["baselines"]
        # Runs from before scores of stopped candidates were estimated have no word on it.
        if self.search.estimator == "none":
            del data["search"]["estimator"], data["search"]["estimator_options"]
        # Nor those from before these had covariates.
        if self.search.covariate == "none":
            del data["search"]["covariate"]
        # Nor those from before a surrogate proposed merges.
        for key in ("surrogate", "surrogate_every"):
            if not data["search"][key]:
                del data["search"][key]
        # Runs from before there was another space have no word on it.
        if data["space"]["kind"] == SpaceConfig().kind:
            del data["space"]["kind"]
        # Nor have those from before there were starts, steps, ties, sums, names, curves, methods and stacks.
        for key in ("steps", "names", "methods", "subsets"):
            if not data["space"][key]:
                del data["space"][key]
        if data["space"]["curve"] == SpaceConfig().curve:
            del data["space"]["curve"]
        if self.space.stack == SpaceConfig().stack:
            del data["space"]["stack"]
        for settings in data["space"]["parameters"].values():
            for key in ("start", "tied", "sum"):
                if settings[key] is None:
                    del settings[key]
        return data


def _places(start: StartConfig) -> dict[str, str]:
    return {key: path for key in ("run", "recipe") if (path := getattr(start, key)) is not None}


def _place_of(expert: Any) -> Any:
    return expert["path"] if isinstance(expert, dict) else expert
