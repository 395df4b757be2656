"""`search.objectives` and `search.constraints`: what a search is for, and what it may not give up.

Knows what can be measured of a candidate and which way is better. Does not know tasks, models or scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from evomerge.config.section import Section
from evomerge.score.goals import Bound, Goal, Goals, MeasureKind

KINDS: tuple[MeasureKind, ...] = ("tasks", "worst", "length", "distance")

_Weight = Annotated[float, Field(gt=0)]


class MeasureConfig(Section):
    """What is measured of a candidate: one of these keys."""

    tasks: dict[str, _Weight | None] | None = None
    """Score of one or several tasks or groups of tasks; without weights, those of the benchmark."""
    worst: dict[str, tuple[str, ...]] | None = None
    """The lowest of several scores: tasks, or names of languages with the tasks of each."""
    length: tuple[str, ...] | None = None
    """Mean number of tokens that an answer to these tasks has, or to `all` that generate text; less is better."""

    distance: str | None = Field(default=None, min_length=1)
    """How far the weights are from those of the base or an expert, as a fraction of their norm; less is better."""

    @property
    def kind(self) -> MeasureKind | None:
        """Which of the keys is given."""
        return next((kind for kind in KINDS if getattr(self, kind) is not None), None)

    @field_validator(
        "tasks", mode="before", json_schema_input_type=str | tuple[str, ...] | dict[str, _Weight | None] | None
    )
    @classmethod
    def _names_without_weights(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        return dict.fromkeys(map(str, names)) if isinstance(names, list | tuple) else value

    @field_validator(
        "worst", mode="before", json_schema_input_type=tuple[str, ...] | dict[str, str | tuple[str, ...]] | None
    )
    @classmethod
    def _tasks_by_themselves(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return {str(name): (str(name),) for name in value}
        if isinstance(value, Mapping):
            return {name: (tasks,) if isinstance(tasks, str) else tasks for name, tasks in value.items()}
        return value

    @field_validator("length", mode="before", json_schema_input_type=str | tuple[str, ...] | None)
    @classmethod
    def _all_or_some(cls, value: Any) -> Any:
        return () if value == "all" else (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_measure(self) -> MeasureConfig:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; give one of {', '.join(KINDS)}")
        if self.tasks is not None and not self.tasks:
            raise ValueError("tasks names none; name a task or a group of tasks")
        if self.tasks and len({weight is None for weight in self.tasks.values()}) > 1:
            raise ValueError("tasks: some have a weight and some have none; give each of them one, or none of them")
        if self.worst is not None and (len(self.worst) < 2 or not all(self.worst.values())):
            raise ValueError("worst is the lowest of several scores; name two tasks or more, or languages with tasks")
        return self


class ObjectiveConfig(MeasureConfig):
    """One of the objectives of a search; a bare name or list of names is of tasks."""

    short = str | tuple[str, ...]

    weight: _Weight | None = None
    """With a weight on every objective their weighted sum is searched; without, the front between them."""

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_names(cls, value: Any) -> Any:
        return {"tasks": value} if isinstance(value, str | list | tuple) else value

    @model_validator(mode="after")
    def _something_is_measured(self) -> ObjectiveConfig:
        if self.kind is None:
            raise ValueError(f"nothing is measured; give one of {', '.join(KINDS)}")
        return self


class ConstraintConfig(MeasureConfig):
    """A requirement; every candidate that misses one comes after all that meet them, by how far it misses them.

    Without a measure of its own it is of the objective of the same name.
    """

    at_least: float | None = None
    """The least value that it may have."""
    at_most: float | None = None
    """The largest value that it may have."""
    worse_by_at_most: Annotated[float, Field(ge=0)] | None = None
    """How much worse than another model a candidate may be on the same items, in the measure's own unit."""
    than: str | None = None
    """That model: `base`, an expert's name, or `uniform`, the best uniform merge."""

    @model_validator(mode="after")
    def _one_bound(self) -> ConstraintConfig:
        bounds = ("at_least", "at_most", "worse_by_at_most")
        given = [name for name in bounds if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "there is no bound"
            raise ValueError(f"{found}; give one of {', '.join(bounds)}")
        if (self.worse_by_at_most is None) != (self.than is None):
            raise ValueError("worse_by_at_most and than belong together, such as worse_by_at_most: 0.01, than: base")
        return self


def goals_of(objectives: Mapping[str, ObjectiveConfig], constraints: Mapping[str, ConstraintConfig]) -> Goals:
    """Objectives and constraints as they are reckoned with."""
    kinds = {name: objective.kind or "tasks" for name, objective in objectives.items()}
    kinds |= {name: constraint.kind for name, constraint in constraints.items() if constraint.kind is not None}
    return Goals(
        goals=tuple(Goal(name=name, kind=kinds[name], weight=one.weight) for name, one in objectives.items()),
        bounds=tuple(
            Bound(
                name=name,
                kind=kinds[name],
                at_least=one.at_least,
                at_most=one.at_most,
                worse_by=one.worse_by_at_most,
                than=one.than,
            )
            for name, one in constraints.items()
        ),
    )


def problem_of(objectives: Mapping[str, ObjectiveConfig], constraints: Mapping[str, ConstraintConfig]) -> str | None:
    """What is wrong with them together, in words; None if nothing is."""
    for name in [*objectives, *constraints]:
        if not name.replace("_", "").replace("-", "").isalnum():
            return f"objectives and constraints: name {name!r}: use letters, digits, '-' and '_'"
    weighted = {objective.weight is not None for objective in objectives.values()}
    if len(weighted) > 1:
        return "objectives: some have a weight and some have none; give each of them one, or none of them"
    for name, constraint in constraints.items():
        if constraint.kind is None and name not in objectives:
            return (
                f"constraints: {name} says not what it is of; give it one of {', '.join(KINDS)}, or the name of an "
                "objective"
            )
        if constraint.kind is not None and name in objectives:
            return f"constraints: {name} is also an objective's name; leave out its {constraint.kind}, or rename it"
    return None
