"""`merge:` and `space:`, the method and which of its coefficients are searched."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from evomerge.config.section import Positive, Section
from evomerge.errors import unknown
from evomerge.recipe.group import KINDS, Kind
from evomerge.recipe.layer_path import BRANCH_OUTPUTS

TIES = ("layers", "kinds", "all")
"""Across what all groups can have one coefficient."""

_RANGE = re.compile(r"\{(\d+)-(\d+)\}")


class MergeConfig(Section):
    """The merge method and the options that stay fixed during the search."""

    method: str = "task_arithmetic"
    """The merge method; `evomerge methods` lists them."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """The method's fixed settings by name; `evomerge methods NAME` lists them."""


class ParameterConfig(Section):
    """How one coefficient of the method is searched, or fixed with `value`. Unset bounds are the method's own."""

    short = float

    low: float | None = None
    """Least value that is searched."""
    high: float | None = None
    """Largest value that is searched."""
    value: float | dict[str, float] | None = None
    """Fixed instead of searched: for all experts, or by name for some of them."""
    shared: bool | tuple[tuple[str, ...], ...] = False
    """One coefficient for all experts instead of one for each, or one for those of each list."""
    tied: str | tuple[tuple[str, ...], ...] | None = None
    """Groups with the same coefficient: `layers`, `kinds`, `all`, or lists of names of groups or of kinds."""
    sum: Annotated[float, Field(gt=0)] | None = None
    """The experts' coefficients are positive and have this sum in every group; their proportions are searched."""
    start: float | dict[str, float] | None = None
    """Where the search starts instead of the method's default, in every group: one value, or one by expert."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_value(cls, value: Any) -> Any:
        return {"value": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _bounds_in_order(self) -> ParameterConfig:
        if isinstance(self.value, float) and (self.low is not None or self.high is not None):
            raise ValueError("give either a fixed value or bounds, not both")
        if isinstance(self.value, float) and self.start is not None:
            raise ValueError("give either a fixed value or a start, not both")
        if self.sum is not None and (self.shared or self.value is not None or (self.low, self.high) != (None, None)):
            raise ValueError("with a sum each expert has its own share of it: leave out value, shared, low and high")
        if self.shared is True and isinstance(self.start, dict):
            raise ValueError("a coefficient that is shared has one start, not one for each expert")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}; swap them")
        return self

    @field_validator("tied")
    @classmethod
    def _known_ties(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in TIES:
            raise ValueError(f"{unknown('tie', value, TIES)} Or give lists of names of groups or kinds")
        return _apart(value)

    @field_validator("shared")
    @classmethod
    def _lists_apart(cls, value: Any) -> Any:
        return _apart(value)


class MethodConfig(Section):
    """One method of a space of methods."""

    options: dict[str, bool | int | float | str | tuple[bool | int | float | str, ...]] = Field(default_factory=dict)
    """Fixed settings of the method; a list of values is searched."""
    parameters: dict[str, ParameterConfig] = Field(default_factory=dict)
    """As `space.parameters`, for this method alone."""

    @field_validator("options")
    @classmethod
    def _different_values(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, values in value.items():
            if isinstance(values, tuple) and (len(values) < 2 or len({repr(one) for one in values}) != len(values)):
                raise ValueError(f"{name}: a list of values is searched, so at least two, all different")
        return value


class StackConfig(Section):
    """The row of layers of which stacks are made."""

    models: tuple[str, ...] = ()
    """`base` and experts, in the order of the row; none: the base, then all experts. The first is where the search
    starts."""
    repeats: Annotated[int, Field(ge=1, le=16)] = 1
    """How often the row is repeated, so that layers can come again or in another order."""
    scales: tuple[float, float] | None = None
    """Bounds of a factor on what each layer adds; None: there are no factors."""
    outputs: tuple[str, ...] = BRANCH_OUTPUTS
    """Parts of the names of the tensors that end a layer's branches, which factors multiply."""

    @model_validator(mode="after")
    def _scales_around_one(self) -> StackConfig:
        if self.scales is not None and not self.scales[0] < 1.0 < self.scales[1]:
            raise ValueError("scales: expected [low, high] with 1 in between, where the search starts")
        if self.scales is not None and (not self.outputs or not all(self.outputs)):
            raise ValueError("outputs: name the tensors that end a layer's branches, such as o_proj and down_proj")
        if len(set(self.models)) != len(self.models):
            raise ValueError("models: name each once; repeats says how often all of them come")
        return self


class SpaceConfig(Section):
    """What is searched: which tensors share a coefficient, and the bounds of each."""

    kind: str = "coefficients"
    """Name of the search space."""
    methods: dict[str, MethodConfig] = Field(default_factory=dict)
    """With kind `methods`: the merge methods among which the search chooses, each with its own options and bounds."""
    subsets: bool | tuple[tuple[str, ...], ...] = False
    """With kind `methods`: whether the experts that take part are searched, too; or lists of those worth trying."""
    stack: StackConfig = StackConfig()
    """With kind `layers`: of which models, how often and with which factors layers are stacked."""
    granularity: Literal["all", "layer", "blocks"] = "blocks"
    """One coefficient for all layers, one per layer, or one per block of consecutive layers."""
    blocks: Positive = 4
    """Number of blocks with granularity `blocks`; as equal as possible."""
    kinds: bool | tuple[Kind, ...] = False
    """Separate coefficients per module kind: all kinds, or the listed ones with the rest sharing one."""
    names: tuple[str, ...] = ()
    """Separate coefficients for tensors in whose stored name one of these texts occurs, the first that does; the
    others share. `experts.{0-7}.` stands for eight texts, such as the experts of a mixture."""
    smooth: Annotated[int, Field(ge=2)] | None = None
    """Interpolate over depth between as many control points instead of one coefficient per layer or block."""
    curve: Literal["linear", "cubic"] = "linear"
    """What `smooth` draws: straight lines through the control points, or a cubic B-spline that they pull."""
    parameters: dict[str, ParameterConfig] = Field(default_factory=dict)
    """Bounds, starts or fixed values of the method's coefficients, by name."""
    steps: dict[str, Annotated[float, Field(gt=0, le=100)]] = Field(default_factory=dict)
    """First step of a dimension by its name, over `search.step_size`; of cma, other algorithms don't use it."""

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

    @field_validator("methods", mode="before", json_schema_input_type=tuple[str, ...] | dict[str, MethodConfig | None])
    @classmethod
    def _bare_names(cls, value: Any) -> Any:
        """A list of names, and a name without settings, stand for methods with all defaults."""
        if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
            return {name: {} for name in value}
        return {name: part or {} for name, part in value.items()} if isinstance(value, dict) else value

    @field_validator("subsets")
    @classmethod
    def _different_subsets(cls, value: Any) -> Any:
        if isinstance(value, tuple) and (len(value) < 2 or len({frozenset(part) for part in value}) != len(value)):
            raise ValueError("give at least two lists of experts, all different; or true for all subsets")
        if isinstance(value, tuple) and not all(value):
            raise ValueError("name at least one expert in each list")
        return value

    @model_validator(mode="after")
    def _methods_with_their_kind(self) -> SpaceConfig:
        for key in ("methods", "subsets"):
            if self.kind == "coefficients" and getattr(self, key):
                raise ValueError(f"{key}: is searched with kind: methods; set space.kind, or leave it out")
        if self.kind in {"coefficients", "methods"} and self.stack != StackConfig():
            raise ValueError("stack: is searched with kind: layers; set space.kind, or leave it out")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts in tensor names by which the space tells tensors apart."""
        return self.stack.outputs if self.stack.scales is not None else self.names

    @field_validator("names")
    @classmethod
    def _spelled_out(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Ranges in braces as one text for each number."""
        found: list[str] = []
        for text in value:
            match = _RANGE.search(text)
            numbers = range(int(match[1]), int(match[2]) + 1) if match else ()
            if match and not 1 <= len(numbers) <= 1024:
                raise ValueError(f"{match[0]}: expected a range of 1 to 1024 numbers, such as {{0-7}}")
            ends = (text[: match.start()], text[match.end() :]) if match else (text, "")
            found += [ends[0] + str(number) + ends[1] for number in numbers] if match else [text]
        if not all(found) or len(set(found)) != len(found):
            raise ValueError("give each text once, and none that is empty")
        return tuple(found)


def _apart(lists: Any) -> Any:
    """Lists of names that have at least two each, none of them twice."""
    if isinstance(lists, tuple):
        names = [name for part in lists for name in part]
        if len(set(names)) != len(names) or not lists or any(len(part) < 2 for part in lists):
            raise ValueError("give lists of at least two names each, and no name twice")
    return lists
