"""Preparing: what a method can compute before coefficients are known, once for a search.

Knows where states come from: memory, a folder that workers share, or the method. Does not know what they mean.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evomerge.materialise.bind import Bound
from evomerge.materialise.inputs import Inputs
from evomerge.methods.base import MergeMethod, TensorInputs, Tensors

if TYPE_CHECKING:
    from evomerge.materialise.states import StoredStates

KEPT_PREPARATIONS = 2
"""Methods and sets of options of which states stay at hand in a worker."""
_KEPT_WITHOUT_STATES = 64


class Prepared(NamedTuple):
    """A method that has seen the models, and what it computed for each floating-point tensor."""

    method: MergeMethod
    states: Mapping[str, Any]


class Preparer:
    """Prepares methods over one base and its experts.

    Args:
        inputs: the models' tensors.
        folder: for states, shared with other workers; None keeps them in memory.
        beside: another preparer of these models; both together keep no more than one.

    Attributes:
        problem: why states aren't kept in their folder, a sentence for people.
    """

    def __init__(self, inputs: Inputs, folder: Path | None, *, beside: Preparer | None = None) -> None:
        self.problem: str | None = None
        self._inputs = inputs
        self._folder = folder
        self._prepared: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict() if beside is None else beside._prepared

    def prepare(self, bound: Bound) -> Prepared:
        """The state of every floating-point tensor, kept for the two latest methods and sets of options.

        Each is read from the folder of states if there is one, and computed and put there if it is missing. A method's
        statistics of all tensors are found again by each worker: that takes a pass over the models at most.
        """
        key = (*self._inputs.experts, *bound.preparation)
        if key not in self._prepared:
            bound.method.collect_statistics(lambda: self._inputs.all(bound.method, keep=True))
            self._prepared[key] = Prepared(bound.method, self._states(bound))
            for old in self._superfluous():
                del self._prepared[old]
        self._prepared.move_to_end(key)
        return self._prepared[key]

    @property
    def kept(self) -> tuple[tuple[Any, ...], ...]:
        """What is prepared and at hand: experts, method, options and seed of each, the latest last."""
        return tuple(self._prepared)

    def one_by_one(self, bound: Bound, tensors: Tensors) -> Callable[[TensorInputs], Any]:
        """What gives the state of one tensor at a time, read from the folder where it is there, and never put there.

        Args:
            bound: the merge.
            tensors: goes through what is merged, for statistics of all tensors.
        """
        method = bound.method
        method.collect_statistics(tensors)
        there = self._folder is not None and self._folder.is_dir()
        stored = self._stored(bound, keep=False) if there else None
        if stored is None:
            return method.prepare
        return lambda inputs: stored.state(inputs.name, lambda _: method.prepare(inputs))

    def state_bytes(self, bound: Bound) -> int:
        """Bytes of the states of all tensors, which workers share where there is a folder for them."""
        return sum(self.state_sizes(bound).values())

    def prepared_bytes(self, bound: Bound) -> int:
        """Bytes that preparing keeps: states, statistics, and the models' computed tensors."""
        statistics = bound.method.statistics_bytes(len(self._inputs.experts))
        return self.state_bytes(bound) + statistics + sum(model.computed_bytes for model in self._inputs.models)

    def estimated_seconds(self, bound: Bound, limit_s: float) -> float:
        """An estimate of the time that all states take to compute, from a few of them.

        Args:
            bound: the merge.
            limit_s: no tensor is begun after as many seconds. One of each shape is computed at most, the shape with
                the most entries in all first; other shapes are taken to cost as much by entry.
        """
        shapes: dict[tuple[int, ...], list[str]] = {}
        for name in self.state_sizes(bound):
            shapes.setdefault(self._inputs.base.tensors[name].shape, []).append(name)
        entries = {shape: math.prod(shape) * len(names) for shape, names in shapes.items()}
        started = time.perf_counter()
        seconds: dict[tuple[int, ...], float] = {}
        for shape in sorted(shapes, key=lambda shape: -entries[shape]):
            begun = time.perf_counter()
            if begun - started > limit_s:
                break
            # A tensor in the middle of the model: the first ones tend to be embeddings.
            names = shapes[shape]
            bound.method.prepare(self._inputs.of(names[len(names) // 2], bound.method, keep=False))
            self._inputs.wait()
            seconds[shape] = (time.perf_counter() - begun) * len(names)
        known = sum(entries[shape] for shape in seconds)
        return sum(seconds.values()) * sum(entries.values()) / max(1, known)

    def _superfluous(self) -> list[tuple[Any, ...]]:
        """What is kept longest without use, but for what takes next to no memory: methods without states."""
        large = [
            key for key, (_, states) in self._prepared.items() if any(state is not None for state in states.values())
        ]
        small = [key for key in self._prepared if key not in large]
        return large[:-KEPT_PREPARATIONS] + small[:-_KEPT_WITHOUT_STATES]

    def _states(self, bound: Bound) -> dict[str, Any]:
        def compute(name: str) -> Any:
            return bound.method.prepare(self._inputs.of(name, bound.method, keep=True))

        found: dict[str, Any] = {}
        if (stored := self._stored(bound, keep=True)) is not None:
            found = stored.collect(list(self.state_sizes(bound)), compute)
            self.problem = self.problem or stored.problem
        return {name: found[name] if name in found else compute(name) for name in self._inputs.floating}

    def _stored(self, bound: Bound, *, keep: bool) -> StoredStates | None:
        """Where the method's states are kept; None if it has none, or there is no folder for them."""
        if self._folder is None or not self.state_sizes(bound):
            return None
        # States in files are torch's.
        from evomerge.materialise.state_key import key_of
        from evomerge.materialise.states import StoredStates

        inputs = self._inputs.all(bound.method, keep=keep)
        files = [file for model in self._inputs.models for file in sorted(model.folder.glob("*.safetensors"))]
        key = key_of(bound.method, inputs, files, self._inputs.device)
        return None if key is None else StoredStates(self._folder, key, self._inputs.device_of)

    def state_sizes(self, bound: Bound) -> dict[str, int]:
        """Bytes of the state of each tensor that has one."""
        tensors, count = self._inputs.base.tensors, len(self._inputs.experts)
        sizes = {name: bound.method.prepared_bytes(tensors[name].shape, count) for name in self._inputs.floating}
        return {name: size for name, size in sizes.items() if size}
