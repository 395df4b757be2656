"""`search:`, the algorithm, its budget and its seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from evomerge.config.budget import BudgetConfig, in_one_place
from evomerge.config.objectives import ConstraintConfig, ObjectiveConfig, goals_of, problem_of
from evomerge.config.section import Positive, Section
from evomerge.score.goals import Goals


class StartConfig(Section):
    """A merge that a search starts from: one of another run, or that of a recipe."""

    run: str | None = None
    """A run directory over the same models; its space may be coarser or finer."""
    trial: int | str = "winner"
    """Of the run: `winner`, `mean` (of the algorithm's distribution), or a trial's number."""
    steps: bool = False
    """Take first steps from the run, too: large where its best later candidates lie far apart. Of cma."""
    recipe: str | None = None
    """A recipe file, instead of a run."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.run is None) == (self.recipe is None):
            raise ValueError("give either run, a run directory, or recipe, a recipe file")
        if self.recipe is not None and (self.steps or self.trial != "winner"):
            raise ValueError("trial and steps are of a run; with recipe leave them out")
        if isinstance(self.trial, str) and self.trial not in {"winner", "mean"}:
            raise ValueError(f"trial: expected winner, mean or a trial's number (found {self.trial})")
        return self


class SearchConfig(Section):
    """The algorithm, its budget and where it starts."""

    algorithm: str = "cma"
    """What proposes candidates: `cma`, `tpe`, `random` and others."""
    evaluations: Positive = 200
    """Candidates to propose, beside baselines, the uniform scan and the final re-scoring."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Stop proposing after as many hours of driving, summed over resumes."""
    budget: BudgetConfig = BudgetConfig()
    """Other limits, such as of item evaluations: the one to use where candidates cost different amounts."""
    mode: Literal["generations", "asynchronous"] = "generations"
    """Candidates are proposed a generation at a time, or each as soon as a worker is free for it."""
    in_flight: Positive | None = None
    """With `mode: asynchronous`, how many candidates are being evaluated at any time; None: as many as workers."""
    population: Positive | None = None
    """Candidates per generation; None chooses by dimension, noise and workers."""
    initial: Literal["uniform", "default"] = "uniform"
    """Start from the best uniform merge of the scan, or from the method's default coefficients."""
    start: StartConfig | None = None
    """Start from a merge of another run, or that of a recipe, instead of `initial`; it is scored as one of this run's
    merges."""
    step_size: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Initial standard deviation as a fraction of each coefficient's range."""
    scan: Annotated[int, Field(ge=1)] = 16
    """Uniform merges (the same coefficients in every group), spread over the experts' weights, scored before the
    search starts."""
    baselines: tuple[str, ...] = ()
    """Merges of other methods at their papers' settings, scored before the search starts and compared with the winner,
    by name; `standard` stands for a set of them, as far as it fits the experts. "none" is an empty list."""
    block: Positive | None = None
    """Search items after which a candidate's answers are on disk, and it can be stopped; None: all of them."""
    items: Literal["fixed", "fresh"] = "fixed"
    """Candidates answer all search items, or in each generation others of them; needs `block`."""
    items_per_candidate: Positive = 100
    """With fresh items, how many a candidate answers, in whole blocks."""
    probe: Positive = 10
    """With fresh items, generations after which the distribution's mean answers all of them."""
    pruner: str = "none"
    """Rule by which a candidate is stopped after a block of items; needs `block`."""
    pruner_options: dict[str, int | float] = Field(default_factory=dict)
    """Settings of the pruner; a wrong name is refused with the right ones."""
    estimator: str = "none"
    """How the score of a stopped candidate is estimated for the algorithm, which needs a pruner; none: it only ranks
    below those that weren't stopped."""
    estimator_options: dict[str, int | float] = Field(default_factory=dict)
    """Settings of the estimator; a wrong name is refused with the right ones."""
    covariate: Literal["none", "reference"] = "none"
    """What the estimator knows of a model on the items that it hasn't answered; `reference`: the probability that the
    model gives to each item's reference answer, of tasks that generate."""
    surrogate: Annotated[int, Field(ge=0)] = 0
    """Merges that a Gaussian process, fitted to all scores of the search, proposes at its end one after the other; each
    answers all search items."""
    surrogate_every: Annotated[int, Field(ge=0)] = 0
    """In each how many generations one candidate is the merge that a Gaussian process, fitted to the scores so far,
    expects the most of, instead of the algorithm's; 0: in none. Of cma."""
    shortlist: Positive = 5
    """Best merges scored again on validation; the distribution's mean and as many uniform merges join them."""
    seed: int = 0
    """Of all that the search draws at random."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Settings of the algorithm itself, such as `active` of cma; a wrong name is refused with the right ones."""
    objectives: dict[str, ObjectiveConfig] = Field(default_factory=dict)
    """What is searched for, by name, instead of the benchmark's score."""
    constraints: dict[str, ConstraintConfig] = Field(default_factory=dict)
    """What a merge must keep, by name."""

    @property
    def goals(self) -> Goals:
        """Objectives and constraints as they are reckoned with."""
        return goals_of(self.objectives, self.constraints)

    @property
    def distances(self) -> tuple[str, ...]:
        """The models from which objectives and constraints measure distances, each once."""
        measures = [*self.objectives.values(), *self.constraints.values()]
        return tuple(dict.fromkeys(measure.distance for measure in measures if measure.distance is not None))

    @property
    def has_surrogate(self) -> bool:
        """Whether a Gaussian process proposes merges, in the search or at its end."""
        return bool(self.surrogate or self.surrogate_every)

    @property
    def is_limited(self) -> bool:
        """Whether the number of candidates is limited by itself, not only by the items that they answer."""
        return self.budget.items is None or self.evaluations < self.budget.items

    @property
    def is_asynchronous(self) -> bool:
        """Whether candidates depend on which of those before them ended first."""
        return self.mode == "asynchronous"

    @property
    def spendable(self) -> set[str]:
        """Keys of what a finished search may be continued with more of."""
        return {"evaluations", "hours", "shortlist"} | ({"budget"} if self.budget != BudgetConfig() else set())

    @property
    def answers_parts(self) -> bool:
        """Whether candidates may answer only some of the search items."""
        return self.pruner != "none" or self.items == "fresh"

    def items_of_candidate(self, items: int) -> int:
        """The most search items that one candidate answers, of so many."""
        if self.items == "fixed" or self.block is None:
            return items
        return min(items, math.ceil(self.items_per_candidate / self.block) * self.block)

    def candidates_worth(self, items: int) -> int:
        """How many candidates the budget is worth, if each answers all that one may, of so many search items."""
        if self.budget.items is None or not items:
            return self.evaluations
        return min(self.evaluations, max(1, self.budget.items // self.items_of_candidate(items)))

    def candidates_at_most(self, items: int) -> int:
        """How many candidates the budget is worth, if each is stopped after its first block."""
        if self.budget.items is None or self.pruner == "none" or self.block is None:
            return self.candidates_worth(items)
        return min(self.evaluations, max(1, self.budget.items // min(self.block, self.items_of_candidate(items))))

    @model_validator(mode="before")
    @classmethod
    def _limits_in_one_place(cls, data: Any) -> Any:
        return in_one_place(data) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _goals_fit(self) -> Self:
        if problem := problem_of(self.objectives, self.constraints):
            raise ValueError(problem)
        if self.pruner != "none" and not self.goals.is_empty:
            given = "objectives" if self.objectives else "constraints"
            raise ValueError(
                f"pruner {self.pruner!r} goes by the benchmark's score of a part of the items, and {given} are given; "
                "use pruner: none with them"
            )
        if self.items == "fresh" and not self.goals.is_empty:
            given = "objectives" if self.objectives else "constraints"
            raise ValueError(
                f"fresh items tell of the benchmark's score alone, and {given} are given; use items: fixed"
            )
        return self

    @model_validator(mode="after")
    def _surrogate_is_of_the_score(self) -> Self:
        if self.has_surrogate and not self.goals.is_empty:
            given = "objectives" if self.objectives else "constraints"
            raise ValueError(
                f"a surrogate expects the best of the benchmark's score alone, and {given} are given; leave out "
                "surrogate and surrogate_every"
            )
        return self

    @field_validator("baselines", mode="before", json_schema_input_type=str | tuple[str, ...] | None)
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if value is None or value == "none":
            return ()
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fresh_items_come_in_blocks(self) -> Self:
        if self.items == "fixed":
            given = {"items_per_candidate", "probe"} & {
                name for name in self.model_fields_set if getattr(self, name) != SearchConfig.model_fields[name].default
            }
            if given:
                raise ValueError(f"{min(given)} is of fresh items; set search.items: fresh, or leave it out")
        elif self.block is None:
            raise ValueError("fresh items are drawn in blocks; set search.block, such as 20")
        elif self.pruner == "median":
            raise ValueError(
                "the median pruner compares with the generation before, which answered other items; with fresh items "
                "choose one that compares within a generation, such as standard_error"
            )
        return self

    @model_validator(mode="after")
    def _asynchronous_has_no_generations(self) -> Self:
        if self.mode == "generations":
            if self.in_flight is not None:
                raise ValueError("in_flight is of mode: asynchronous; a generation is in flight as a whole otherwise")
            return self
        if self.surrogate_every:
            raise ValueError(
                "surrogate_every counts generations, and mode: asynchronous has none; use surrogate, which proposes at "
                "the end, or mode: generations"
            )
        if self.pruner != "none":
            raise ValueError(
                f"pruner {self.pruner!r} compares candidates by generations, and mode: asynchronous has none; use "
                "pruner: none, or mode: generations"
            )
        if self.items == "fresh":
            raise ValueError(
                "fresh items are drawn for each generation, and mode: asynchronous has none; use items: fixed, or "
                "mode: generations"
            )
        return self

    @model_validator(mode="after")
    def _pruner_needs_blocks(self) -> Self:
        if self.pruner != "none" and self.block is None:
            raise ValueError("a pruner is asked after each block of items; set search.block, such as a fifth of them")
        return self

    @model_validator(mode="after")
    def _estimator_needs_a_pruner(self) -> Self:
        if self.estimator != "none" and self.pruner == "none":
            raise ValueError(
                "an estimator speaks of candidates that were stopped; set search.pruner and search.block, or "
                "estimator: none"
            )
        if self.estimator != "none" and self.items == "fresh":
            raise ValueError(
                "with fresh items, what is told of a candidate is reckoned from its share of them, without an "
                "estimator; use estimator: none, or items: fixed"
            )
        if self.estimator == "none" and self.estimator_options:
            raise ValueError("estimator_options are of an estimator; set search.estimator, or leave them out")
        if self.estimator == "none" and self.covariate != "none":
            raise ValueError(
                "a covariate helps to estimate the scores of candidates that were stopped; set search.estimator: "
                "difference with search.pruner and search.block, or covariate: none"
            )
        return self
