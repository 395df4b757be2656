"""The experiment's YAML: every section, its defaults and its checks.

Knows names, ranges and defaults. Checks that need a model's header, a tokenizer or a data set live
with those parts; nothing here imports torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from evomerge.errors import ConfigError, unknown
from evomerge.recipe import KINDS, Kind, ModelReference, VocabularyPolicy

Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused and values don't change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)


class ModelConfig(Section):
    """A model: a local folder in Hugging Face layout, or a hub id with an optional revision."""

    path: str = Field(min_length=1)
    revision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    def reference(self) -> ModelReference:
        """The same, as recipes write it."""
        return ModelReference(path=self.path, revision=self.revision)


class ModelsConfig(Section):
    """The base that the experts were fine-tuned from, and the experts by name."""

    base: ModelConfig
    experts: dict[str, ModelConfig] = Field(min_length=1)
    vocabulary: VocabularyPolicy = "same"
    """Whose tokens the merge has: `same`, all models must agree; `base`, the base's; `union`, those of all models."""
    slices: tuple[dict[str, tuple[int, int]], ...] = ()
    """The layers of the merge in order, if not those of the base: for each slice one or more models (`base` or an
    expert), each with its first and last layer, both included. Models that a slice doesn't name take no part in it."""

    @model_validator(mode="after")
    def _slices_of_known_models(self) -> ModelsConfig:
        for index, part in enumerate(self.slices):
            if not part:
                raise ValueError(f"slices[{index}]: name at least one model with its layers")
            for name, (first, last) in part.items():
                if name != "base" and name not in self.experts:
                    raise ValueError(f"slices[{index}]: {unknown('model', name, ('base', *self.experts))}")
                if not 0 <= first <= last:
                    raise ValueError(f"slices[{index}].{name}: expected [first, last], both included")
        return self

    @field_validator("experts")
    @classmethod
    def _plain_names(cls, experts: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
        for name in experts:
            if not name.replace("_", "").replace("-", "").isalnum() or name in {"base", "uniform", "winner", "mean"}:
                raise ValueError(
                    f"expert name {name!r}: use letters, digits, '-' and '_'; base, uniform, winner and mean are taken"
                )
        return experts


class MergeConfig(Section):
    """The merge method and the options that stay fixed during the search."""

    method: str = "task_arithmetic"
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)


class ParameterConfig(Section):
    """How one coefficient of the method is searched, or fixed with `value`. Unset bounds are the method's own."""

    low: float | None = None
    high: float | None = None
    value: float | None = None
    shared: bool = False
    """One coefficient for all experts instead of one for each."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_value(cls, value: Any) -> Any:
        return {"value": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _bounds_in_order(self) -> ParameterConfig:
        if self.value is not None and (self.low is not None or self.high is not None):
            raise ValueError("give either a fixed value or bounds, not both")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}; swap them")
        return self


class SpaceConfig(Section):
    """Which tensors share a coefficient, and the bounds of each."""

    granularity: Literal["all", "layer", "blocks"] = "blocks"
    """One coefficient for all layers, one per layer, or one per block of consecutive layers."""
    blocks: Positive = 4
    """Number of blocks with granularity `blocks`; as equal as possible."""
    kinds: bool | tuple[Kind, ...] = False
    """Separate coefficients per module kind: all kinds, or the listed ones with the rest sharing one."""
    smooth: Annotated[int, Field(ge=2)] | None = None
    """Interpolate over depth between as many control points instead of one coefficient per layer or block."""
    parameters: dict[str, ParameterConfig] = Field(default_factory=dict)

    @field_validator("kinds", mode="before")
    @classmethod
    def _known_kinds(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            for kind in value:
                if kind not in KINDS:
                    raise ValueError(unknown("module kind", str(kind), KINDS))
            if len(set(value)) != len(value) or not value:
                raise ValueError("list each kind once, and at least one; use true for all or false for none")
        return value


class SplitConfig(Section):
    """Items of one role: from a split of the task's data set, whole, a seeded fraction or a seeded number of it.

    A bare string names a data-set split; a bare number is a fraction of the task's own evaluation split.
    Roles that draw on the same data-set split take disjoint parts of it.
    """

    split: str | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    items: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"split": value}
        if isinstance(value, float | int) and not isinstance(value, bool):
            return {"fraction": value}
        return value

    @model_validator(mode="after")
    def _one_amount(self) -> SplitConfig:
        if self.fraction is not None and self.items is not None:
            raise ValueError("give either a fraction or a number of items, not both")
        return self


class SplitsConfig(Section):
    """Items that the search sees, those that choose the winner among the best, and those that only test it."""

    search: SplitConfig = SplitConfig(fraction=0.4)
    validation: SplitConfig = SplitConfig(fraction=0.3)
    test: SplitConfig = SplitConfig(fraction=0.3)


class LanguageConfig(Section):
    """The language that a task's generated text is to be in; a bare code only measures it.

    The share of items in it is a metric of the task, "language,none".
    """

    code: str = Field(min_length=2)
    """ISO 639-1, such as sw; 639-3 where that has none."""
    at_least: Annotated[float, Field(gt=0, le=1)] | None = None
    """A merge with a smaller share of items in the language comes after every one that keeps it."""
    penalty: Annotated[float, Field(gt=0)] | None = None
    """What a merge with no item in the language loses of the task's score; one with half of them, half of it."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_code(cls, value: Any) -> Any:
        return {"code": value} if isinstance(value, str) else value


class TaskConfig(Section):
    """One lm-eval task, by name. Unset values are the task's own, or the benchmark's."""

    task: str = Field(min_length=1)
    metric: str | None = None
    """`metric` or `metric,filter` as lm-eval prints them; None: the task's first."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    splits: SplitsConfig | None = None
    language: LanguageConfig | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys of the task's own YAML to replace, such as dataset_path for a local copy of its data."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_name(cls, value: Any) -> Any:
        return {"task": value} if isinstance(value, str) else value


class BenchmarkConfig(Section):
    """What candidates are scored on."""

    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    include_path: tuple[str, ...] = ()
    """Folders with lm-eval task YAMLs of your own."""
    splits: SplitsConfig = SplitsConfig()
    seed: int = 0
    """Draws the items of each split."""
    overlap: Literal["refuse", "drop"] = "refuse"
    """The same document in two roles: an error, or dropped from search and validation."""
    apply_chat_template: bool = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    """With a chat template, examples as turns of the conversation or within one; None: as turns, as in lm-eval."""
    confirm_run_unsafe_code: tuple[str, ...] | None = None
    """Tasks that may run code which a model wrote, by name; any other task that would is refused."""
    tie_break: bool = True
    """Where a task gives it, let the right answer's probability decide between equal scores."""

    @model_validator(mode="after")
    def _turns_need_a_template(self) -> BenchmarkConfig:
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise ValueError("fewshot_as_multiturn needs apply_chat_template: true")
        return self

    @field_validator("include_path", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
        names = [task.task for task in tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"task {name!r} is listed twice; list it once, with a weight")
        return tasks


class SearchConfig(Section):
    """The algorithm, its budget and where it starts."""

    algorithm: str = "cma"
    evaluations: Positive = 200
    """Candidates to propose, beside baselines, the uniform scan and the final re-scoring."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Stop proposing after as many hours of driving, summed over resumes."""
    population: Positive | None = None
    """Candidates per generation; None chooses by dimension, noise and workers."""
    initial: Literal["uniform", "default"] = "uniform"
    """Start from the best uniform merge of the scan, or from the method's default coefficients."""
    step_size: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Initial standard deviation as a fraction of each coefficient's range."""
    scan: Annotated[int, Field(ge=1)] = 16
    """Uniform merges (the same coefficients in every group) scored before the search starts."""
    block: Positive | None = None
    """Search items after which a candidate's answers are on disk, and it can be stopped; None: all of them."""
    shortlist: Positive = 5
    """Best candidates re-scored on validation; the distribution's mean joins them."""
    seed: int = 0
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Settings of the algorithm itself, such as `active` of cma; a wrong name is refused with the right ones."""


class ExecutionConfig(Section):
    """Where and how candidates are evaluated. May change between resumes without changing the experiment."""

    backend: Literal["auto", "inline", "ray"] = "auto"
    """auto: Ray when a cluster address is given or several GPUs or workers are to be used, else inline."""
    workers: Positive | None = None
    """Number of Ray workers; None: as many as the cluster has room for."""
    cpus_per_worker: Annotated[float, Field(gt=0)] | None = None
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the live model and of the export; auto: the base checkpoint's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_tokens: Positive | None = None
    """Tokens per forward pass; None sizes it to memory."""
    max_length: Positive | None = None
    """Context window in tokens; None: the model's own."""
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    """Longest time for one candidate."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a candidate is tried again after its worker died."""
    ray_address: str | None = None
    """Address of a Ray cluster; None: the one this process runs in, or a local one."""
    prepared_directory: str | None = None
    """Where workers share what the merge method computes once; None: in the run directory. A fast disk of each node,
    such as $TMPDIR, spares a slow shared one; ~ and variables are those of the worker's machine."""

    @field_validator("prepared_directory")
    @classmethod
    def _the_same_everywhere(cls, path: str | None) -> str | None:
        if path is not None and not path.startswith(("/", "~", "$")):
            raise ValueError("give an absolute path, or one that begins with ~ or a variable: workers start elsewhere")
        return path


class ExportConfig(Section):
    """How winning merges are written."""

    shard_size: str = "5GB"
    directory: str | None = None
    """Export the winner there when the search ends; None: only on `evomerge export`."""


class Config(Section):
    """One experiment."""

    models: ModelsConfig
    merge: MergeConfig = MergeConfig()
    space: SpaceConfig = SpaceConfig()
    benchmark: BenchmarkConfig
    search: SearchConfig = SearchConfig()
    execution: ExecutionConfig = ExecutionConfig()
    storage: str = "journal"
    """Where trials are kept: `journal` (a file in the run directory) or any Optuna storage URL."""
    export: ExportConfig = ExportConfig()

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, data: Any) -> Any:
        """A section whose keys are all commented out has its defaults."""
        empty = {"merge", "space", "search", "execution", "export"}
        return {key: {} if value is None and key in empty else value for key, value in data.items()}

    @classmethod
    def from_file(cls, path: str | Path) -> Config:
        """Read and check an experiment; relative folders are relative to the file's own folder.

        Raises: ConfigError naming the file, each wrong key with its value, and the remedy.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
        return cls.from_yaml(text, where=str(path)).relative_to(path.parent)

    @classmethod
    def from_yaml(cls, text: str, *, where: str = "config") -> Config:
        """Parse YAML text. Raises: ConfigError."""
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{where}: not valid YAML: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: expected sections such as models and benchmark, got {data!r}")
        return cls.from_data(data, where=where)

    @classmethod
    def from_data(cls, data: dict[str, Any], *, where: str = "config") -> Config:
        """Build from plain data, with `where` as the place named in errors. Raises: ConfigError."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_explain(error, where)) from error

    def relative_to(self, folder: Path) -> Config:
        """The same experiment with local folders that exist below `folder` made absolute."""

        def local(text: str) -> str:
            candidate = folder / os.path.expanduser(text)
            return str(candidate.resolve()) if candidate.exists() else text

        def model(config: ModelConfig) -> ModelConfig:
            return config.model_copy(update={"path": local(config.path)})

        models = self.models.model_copy(
            update={
                "base": model(self.models.base),
                "experts": {name: model(expert) for name, expert in self.models.experts.items()},
            }
        )
        benchmark = self.benchmark.model_copy(
            update={"include_path": tuple(local(entry) for entry in self.benchmark.include_path)}
        )
        return self.model_copy(update={"models": models, "benchmark": benchmark})

    def to_yaml(self) -> str:
        """The whole experiment with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same experiment: all but execution, storage, export and the budget."""
        data = self.model_dump(mode="json", exclude={"execution", "storage", "export"})
        # The first model of a slice has a meaning of its own, which comparing mappings would lose.
        data["models"]["slices"] = [list(part.items()) for part in data["models"]["slices"]]
        data["execution"] = {"dtype": self.execution.dtype, "max_length": self.execution.max_length}
        for key in ("evaluations", "hours", "shortlist"):
            del data["search"][key]
        return data


def _explain(error: ValidationError, where: str) -> str:
    """One line per mistake: file, key path, value, remedy."""
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"]) or "(top level)"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: {path}: {_unknown_key(problem['loc'])}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: {path}: missing; this key is required")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            value = problem["input"]
            shown = "" if isinstance(value, dict | list) else f" (found {value!r})"
            lines.append(f"{where}: {path}: {message}{shown}")
    return "\n".join(lines)


def _unknown_key(location: tuple[int | str, ...]) -> str:
    """Name the key that isn't known and those that are, in its section."""
    section: Any = Config
    for part in location[:-1]:
        if isinstance(section, type) and issubclass(section, BaseModel):
            field = section.model_fields.get(str(part))
            # A part that is no field is a key or an index inside the section's own mapping or list.
            section = _section_of(field.annotation) if field else section
    known = list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
    return unknown("key", str(location[-1]), known)


def _section_of(annotation: Any) -> Any:
    """The Section class inside an annotation such as `dict[str, ParameterConfig]` or `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_of(argument)
        if found is not None:
            return found
    return None
