"""`benchmark:`, the tasks, labelled data or function, their splits and what a score is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from evomerge.config.section import Positive, Section


class SplitConfig(Section):
    """Items of one role: from a split of the task's data set, whole, a seeded fraction or a seeded number of it.

    A bare string names a data-set split; a bare number is a fraction of the task's own evaluation split.
    Roles that draw on the same data-set split take disjoint parts of it.
    """

    short = str | float

    split: str | None = None
    """A split of the task's data set; None: the one that the task is evaluated on."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of its items to draw, from 0 to 1."""
    items: Positive | None = None
    """How many of its items to draw, instead of a fraction."""

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
    """Items on which candidates are scored during the search."""
    validation: SplitConfig = SplitConfig(fraction=0.3)
    """Items that choose the winner among the best."""
    test: SplitConfig = SplitConfig(fraction=0.3)
    """Items that only the winner and the baselines answer, at the end."""


class LanguageConfig(Section):
    """The language that a task's generated text is to be in; a bare code only measures it.

    The share of items in it is a metric of the task, "language,none".
    """

    short = str

    code: str = Field(min_length=2)
    """ISO 639-1 or 639-3, such as sw or swh."""
    at_least: Annotated[float, Field(gt=0, le=1)] | None = None
    """A merge with a smaller share of items in the language comes after every one that keeps it."""
    identifier: Literal["py3langid", "glotlid"] | None = None
    """Who tells the language; None: py3langid if it knows it, else GlotLID, whose model `evomerge prefetch` fetches."""
    penalty: Annotated[float, Field(gt=0)] | None = None
    """What a merge with no item in the language loses of the task's score; one with half of them, half of it."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_code(cls, value: Any) -> Any:
        return {"code": value} if isinstance(value, str) else value


class TaskConfig(Section):
    """One lm-eval task, by name. Unset values are the task's own, or the benchmark's."""

    short = str

    task: str = Field(min_length=1)
    """The name of an lm-eval task or group: built-in, or from `benchmark.include_path`."""
    metric: str | None = None
    """`metric` or `metric,filter` as lm-eval prints them; None: the task's first."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share in the score."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples in the prompt; None: the task's own number."""
    splits: SplitsConfig | None = None
    """Its items by role; None: as `benchmark.splits` says."""
    language: LanguageConfig | None = None
    """The language that its generated text is to be in."""
    parallel: str | None = None
    """With `benchmark.cluster`, a name that tasks of the same questions share: their documents are in no cluster with
    those of other tasks. Needed where data sets of different questions are numbered alike."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys of the task's own YAML to replace, such as dataset_path for a local copy of its data."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_name(cls, value: Any) -> Any:
        return {"task": value} if isinstance(value, str) else value


Files = str | dict[str, str]
"""A file of rows (.json, .jsonl, .csv, .parquet), a folder of `datasets.save_to_disk`, or a file for each split."""


class LabelTaskConfig(Section):
    """One of several labelled data sets that a classifier answers with the same encoder."""

    data: Files
    """Its rows: a file or folder, or one for each split by name."""
    head: str | None = None
    """An expert's name, or a model folder, whose output head and labels the task has; None: the merge's own."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share in the score; 1 / (the expert's own score) makes of accuracies normalised ones."""


class LabelsConfig(Section):
    """A labelled data set for a classifier of text or images, or several, each with a head of its own."""

    data: Files | None = None
    """Rows: a file or folder, or one for each split by name."""
    tasks: dict[str, LabelTaskConfig] = Field(default_factory=dict)
    """Several data sets by name, instead of one; they share the columns and the metric."""
    text: str | None = None
    """Column with a text."""
    pair: str | None = None
    """Column with a second text, for models that read two."""
    image: str | None = None
    """Column with an image: a file's name, relative to the data; its bytes; or rows of pixels."""
    label: str = "label"
    """Column with the right label: its name in the model's config.json (`id2label`), or its number."""
    metric: Literal["accuracy", "macro_f1"] = "accuracy"
    """How right labels are counted: `accuracy`, or `macro_f1`, the mean of F1 over labels."""

    @property
    def named_tasks(self) -> dict[str, LabelTaskConfig]:
        """The data sets by name; a single one is called "labels"."""
        return dict(self.tasks) if self.data is None else {"labels": LabelTaskConfig(data=self.data)}

    @field_validator("tasks")
    @classmethod
    def _plain_names(cls, tasks: dict[str, LabelTaskConfig]) -> dict[str, LabelTaskConfig]:
        for name in tasks:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"task name {name!r}: use letters, digits, '-' and '_'")
        return tasks

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> LabelsConfig:
        if (self.data is None) == (not self.tasks):
            raise ValueError("give the data of one task (data), or several by name (tasks), one of them")
        if (self.text is None) == (self.image is None):
            raise ValueError("give the column of the text (text) or of the image (image), one of them")
        if self.pair is not None and self.text is None:
            raise ValueError("pair is the column of a second text; it needs text")
        return self


class FunctionConfig(Section):
    """A Python function of your own, `module:name`, that scores the live model on items. It is run as it is.

    It is called with the transformers model and a list of items, and with the base's tokenizer as `tokenizer` if it
    has a parameter of that name, and returns a finite number for each item. It leaves the model as it found it.
    Random numbers are the same in every call.
    """

    short = str

    call: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """The function as `module:name`."""
    data: Files | Positive | None = None
    """Items as rows of files; or how many, for items 0, 1, 2 and so on; None: the list that the module's own
    function `items()` returns."""
    folder: str | None = None
    """Where the module is looked for first, on every worker's machine; None: the config file's folder."""
    higher_is_better: bool = True
    """Whether a larger number is better."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_name(cls, value: Any) -> Any:
        return {"call": value} if isinstance(value, str) else value

    @field_validator("call", mode="before")
    @classmethod
    def _module_and_name(cls, value: Any) -> Any:
        if not isinstance(value, str) or value.count(":") != 1:
            raise ValueError("name a function as module:name, such as scoring:accuracy")
        return value


class OtherConfig(Section):
    """A kind of benchmark that another package brings, through the entry points `evomerge.benchmarks`."""

    kind: str = Field(min_length=1)
    """The name that the package gives it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its settings."""


KINDS = ("tasks", "labels", "function", "other")
_OF_TASKS = (
    *("include_path", "apply_chat_template", "system_instruction", "fewshot_as_multiturn"),
    "confirm_run_unsafe_code",
    *("cluster", "near_duplicates"),
)


class BenchmarkConfig(Section):
    """What candidates are scored on: lm-eval tasks, labelled data, a function, or another package's kind."""

    tasks: tuple[TaskConfig, ...] = ()
    """lm-eval tasks, each by its name or with settings."""
    labels: LabelsConfig | None = None
    """Labelled data for a classifier, instead of tasks."""
    function: FunctionConfig | None = None
    """A Python function of your own, instead of tasks."""
    other: OtherConfig | None = None
    """Another package's kind of benchmark, instead of tasks."""
    include_path: tuple[str, ...] = ()
    """Folders with lm-eval task YAMLs of your own."""
    splits: SplitsConfig = SplitsConfig()
    """Which items guide the search, choose the winner and test it."""
    seed: int = 0
    """Draws the items of each split."""
    overlap: Literal["refuse", "drop"] = "refuse"
    """The same document in two roles: an error, or dropped from search and validation."""
    near_duplicates: Literal["tell", "refuse", "drop"] = "tell"
    """Documents of tasks that nearly repeat one of another role: named, an error, or dropped where less precious."""
    cluster: str | None = None
    """Field of the tasks' documents that is the same in those that belong together, such as translations of a question;
    `position`: those at the same place of each task's data. They get one role, and count as one where items are counted
    as independent."""
    every_item: bool = True
    """Fractions that add up to one take every item: the last also what rounding leaves. A run keeps to what it was
    begun with; those of earlier releases leave an item or two out."""
    apply_chat_template: bool = False
    """Whether prompts are put into the base's chat template."""
    system_instruction: str | None = None
    """Text that comes before every prompt."""
    fewshot_as_multiturn: bool | None = None
    """With a chat template, examples as turns of the conversation or within one; None: as turns, as in lm-eval."""
    confirm_run_unsafe_code: tuple[str, ...] | None = None
    """Tasks that may run code which a model wrote, by name; any other task that would is refused."""
    tie_break: bool = True
    """Where a task gives it, let the right answer's probability decide between equal scores."""

    @property
    def kind(self) -> str:
        """Which of the kinds of benchmark it is, as `BENCHMARKS` names them."""
        if self.other is not None:
            return self.other.kind
        return "labels" if self.labels is not None else "function" if self.function is not None else "lm_eval"

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> BenchmarkConfig:
        given = [name for name in KINDS if getattr(self, name)]
        if not given:
            raise ValueError("tasks, labels and function are missing; give one of them")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; give one of tasks, labels and function")
        if given != ["tasks"]:
            for name in _OF_TASKS:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is of tasks; {given[0]} has no use for it")
        return self

    @model_validator(mode="after")
    def _turns_need_a_template(self) -> BenchmarkConfig:
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise ValueError("fewshot_as_multiturn needs apply_chat_template: true")
        return self

    @model_validator(mode="after")
    def _parallel_tasks_have_clusters(self) -> BenchmarkConfig:
        for task in self.tasks:
            if task.parallel is not None and self.cluster is None:
                raise ValueError(f"task {task.task!r}: parallel says whose clusters it shares; name cluster, too")
        return self

    @field_validator("include_path", mode="before", json_schema_input_type=str | tuple[str, ...])
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
