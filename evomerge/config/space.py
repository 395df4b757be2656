"""`merge:` and `space:`, the method and which of its coefficients are searched."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from evomerge.config.section import Positive, Section
from evomerge.errors import unknown
from evomerge.recipe.group import KINDS, Kind


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
    start: float | dict[str, float] | None = None
    """Where the search starts instead of the method's default, in every group: one value, or one by expert."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_value(cls, value: Any) -> Any:
        return {"value": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _bounds_in_order(self) -> ParameterConfig:
        if self.value is not None and (self.low is not None or self.high is not None):
            raise ValueError("give either a fixed value or bounds, not both")
        if self.value is not None and self.start is not None:
            raise ValueError("give either a fixed value or a start, not both")
        if self.shared and isinstance(self.start, dict):
            raise ValueError("a coefficient that is shared has one start, not one for each expert")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}; swap them")
        return self


class SpaceConfig(Section):
    """What is searched: which tensors share a coefficient, and the bounds of each."""

    kind: str = "coefficients"
    """Name of the search space."""
    granularity: Literal["all", "layer", "blocks"] = "blocks"
    """One coefficient for all layers, one per layer, or one per block of consecutive layers."""
    blocks: Positive = 4
    """Number of blocks with granularity `blocks`; as equal as possible."""
    kinds: bool | tuple[Kind, ...] = False
    """Separate coefficients per module kind: all kinds, or the listed ones with the rest sharing one."""
    smooth: Annotated[int, Field(ge=2)] | None = None
    """Interpolate over depth between as many control points instead of one coefficient per layer or block."""
    parameters: dict[str, ParameterConfig] = Field(default_factory=dict)
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
