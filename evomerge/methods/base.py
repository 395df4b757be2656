"""The seam of merge methods: what a method declares, what it is given and what it returns.

A method is mathematics on one tensor at a time. It knows neither files nor layers nor search: it
declares its coefficients and options, and everything else (config validation, search space,
command line, documentation) is derived from that declaration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.formulas import Finite
from evomerge.kernels.raw import RawTensor, as_torch
from evomerge.late import Tensor

Coefficients = Mapping[str, NDArray[np.float64]]
"""Coefficients of one parameter group: shape (num_experts,) if per expert, else ()."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A coefficient that a method takes in every parameter group, and that a search may evolve.

    `low` and `high` bound the search by default; `minimum` and `maximum` are where the method stops
    being defined (None: unbounded). One that isn't `searched` keeps its default unless a config names it.
    """

    name: str
    description: str
    default: float
    low: float
    high: float
    minimum: float | None = None
    maximum: float | None = None
    per_expert: bool = False
    searched: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A fixed setting of a method, the same for the whole merge and never searched.

    `choices` are the accepted values; None accepts any value of the default's type.
    """

    name: str
    description: str
    default: bool | int | float | str
    choices: tuple[bool | int | float | str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInputs:
    """One tensor of every model, in storage dtype, unchanged; all of the same shape.

    `experts` are in config order. `base` is None for methods that don't use one.
    """

    name: str
    base: Tensor | None
    experts: tuple[Tensor, ...]

    def cpu(self) -> TensorInputs:
        """The same on the CPU, where what looks at small parts is prepared whatever the device."""
        base = None if self.base is None else self.base.cpu()
        return TensorInputs(name=self.name, base=base, experts=tuple(expert.cpu() for expert in self.experts))

    @property
    def is_raw(self) -> bool:
        """Whether these are `RawTensor`s, which only a method that `takes_raw` is given."""
        return isinstance(self.experts[0], RawTensor)

    def torch(self) -> TensorInputs:
        """The same as torch's tensors."""
        base = None if self.base is None else as_torch(self.base)
        return TensorInputs(name=self.name, base=base, experts=tuple(map(as_torch, self.experts)))


Tensors = Callable[[], Iterator[TensorInputs]]
"""Goes through all floating-point tensors of the models, one at a time, each time it is called."""


class MergeMethod(ABC):
    """A way to merge one tensor of several experts.

    An instance holds the checked options and the seed of one merge. `collect_statistics` learns, once, what depends
    on all tensors together; `prepare` computes, once, what else depends only on the models and the
    options; `merge` is the per-candidate work.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    options: ClassVar[tuple[Option, ...]] = ()
    base: ClassVar[Literal["required", "unused"]] = "required"
    min_experts: ClassVar[int] = 1
    max_experts: ClassVar[int | None] = None
    adds_task_vectors: ClassVar[bool] = False
    """Whether it writes the base plus what it makes of task vectors. Then an expert that equals the base adds nothing,
    whatever its coefficients, and a search leaves these out."""
    takes_raw: ClassVar[bool] = False
    """Whether it leaves all that it does with tensors' numbers to kernels. Then merges to disk give it `RawTensor`s in
    their place, where compiled loops are at hand, and needn't load torch."""

    def __init__(self, options: Mapping[str, Any], *, experts: tuple[str, ...], seed: int) -> None:
        """`options` holds a checked value for every declared option; `experts` are names in config order."""
        self.option = dict(options)
        self.experts = experts
        self.seed = seed

    def collect_statistics(self, tensors: Tensors) -> None:
        """Learn from all tensors together, before any is prepared; what is kept doesn't grow with the model.

        `tensors` stays valid, so that `merge` may go through them again.
        """
        return None

    def statistics_bytes(self, num_experts: int) -> int:
        """Size of what `collect_statistics` keeps, in bytes."""
        return 0

    def prepare(self, inputs: TensorInputs) -> Any:
        """What `merge` needs of this tensor whatever the coefficients; None if nothing."""
        return None

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """Size of the state that `prepare` keeps for a tensor of this shape, in bytes."""
        return 0

    @abstractmethod
    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> Finite | None:
        """Write the merged tensor into `out`, computed in float64 where inputs are 16-bit, rounded once.

        `out` may be of another dtype than the inputs and may be a strided view.

        Returns: whether all that was written is finite, if the method knows; None leaves it to the caller to look.
        Raises: MergeError if the result is undefined for these inputs.
        """
