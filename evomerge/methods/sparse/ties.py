"""TIES: trim task vectors by magnitude, elect a sign per entry, average those that agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from evomerge.kernels.order_statistics import OrderStatistics
from evomerge.kernels.tally import Tally
from evomerge.kernels.threads import in_parts
from evomerge.kernels.thresholds import count_kept, least_reaching
from evomerge.late import Tensor
from evomerge.methods.base import Coefficients, Option, TensorInputs, Tensors
from evomerge.methods.sparse.base import DENSITY, ELECTED_WEIGHT, ELECTION, SCALE, BandMethod, normalize_option
from evomerge.methods.sparse.sparsify import Sparsity

_KEPT_THRESHOLDS = 4096


class Ties(BandMethod):
    """θ = θ₀ + λ · disjoint mean of the trimmed task vectors that agree with the elected sign (§3, eq. 1).

    *Trim*: per expert the ⌊density · size⌋ entries of largest magnitude are kept, with all that tie with
    the smallest of them, so that no entry depends on where it stands. A positive density keeps at least one
    entry; a density of 0 leaves the expert out. `trim: tensor`, the default, ranks each tensor's entries by
    themselves, as is usual: no layer is emptied because its changes are small, and a recipe's tensors can
    be merged one by one. `trim: model` ranks them over all floating-point tensors together, as in the
    paper's code; a tensor's threshold is then the whole task vector's at the density of its own group.
    *Elect*: the sign of Σ wᵢ τᵢ (`election: weighted`, the default, as is usual in practice) or of
    Σ τᵢ (`unweighted`, as in the paper) over what was kept; a sum of zero counts as positive.
    *Merge*: Σ wᵢ τᵢ over the entries of that sign, divided by the sum of their wᵢ if `normalize`
    (unless that is 0), times λ, the coefficient `scale`.
    """

    name = "ties"
    summary = "Trimmed task vectors, one elected sign per entry, mean of those that agree."
    source = "Yadav et al. 2023, TIES-Merging, arXiv 2306.01708"
    parameters = (ELECTED_WEIGHT, DENSITY, replace(SCALE, searched=True))
    options = (
        Option(
            name="trim",
            description="Rank entries within their tensor, or over the whole model as in the paper's code.",
            default="tensor",
            choices=("tensor", "model"),
        ),
        ELECTION,
        normalize_option(True),
    )
    elects = True

    def __init__(self, options: Mapping[str, Any], *, experts: tuple[str, ...], seed: int) -> None:
        super().__init__(options, experts=experts, seed=seed)
        self._tallies: list[Tally] = []
        self._thresholds: dict[tuple[int, int], float] = {}
        self._tensors: Tensors | None = None

    def collect_statistics(self, tensors: Tensors) -> None:
        """Count all magnitudes of each task vector, if entries are ranked over the model."""
        if self.option["trim"] == "tensor":
            return
        self._tensors = tensors
        self._tallies = [Tally() for _ in self.experts]

        for inputs in tensors():
            in_parts(partial(self._count, inputs.cpu()), len(self.experts), grain=1, least=1)

    def statistics_bytes(self, num_experts: int) -> int:
        """4 MiB per expert if entries are ranked over the model."""
        return 0 if self.option["trim"] == "tensor" else num_experts * Tally.size_bytes()

    def prepare(self, inputs: TensorInputs) -> tuple[OrderStatistics, ...]:
        """Each task vector's order statistics in this tensor; nothing if entries are ranked over the model."""
        return super().prepare(inputs) if self.option["trim"] == "tensor" else ()

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """At most 832 KiB per expert; nothing if entries are ranked over the model."""
        return super().prepared_bytes(shape, num_experts) if self.option["trim"] == "tensor" else 0

    def sparsity(
        self, inputs: TensorInputs, coefficients: Coefficients, state: tuple[OrderStatistics, ...]
    ) -> Sparsity:
        """Keep what reaches each expert's threshold."""
        densities, size = coefficients["density"].tolist(), inputs.experts[0].numel()
        if self.option["trim"] == "tensor":
            found = self.largest(inputs, state, [[count_kept(density, size)] for density in densities])
            thresholds = [threshold for [threshold] in found]
        else:
            thresholds = [self._over_model(expert, density) for expert, density in enumerate(densities)]
        low = [least_reaching(threshold) for threshold in thresholds]
        return Sparsity(kind="largest", low=np.array(low), high=np.full(len(low), np.inf), factor=np.ones(len(low)))

    def _count(self, inputs: TensorInputs, start: int, stop: int) -> None:
        assert inputs.base is not None
        for tally, expert in zip(self._tallies[start:stop], inputs.experts[start:stop], strict=True):
            tally.add(inputs.base, expert)

    def _over_model(self, expert: int, density: float) -> float:
        """The threshold of one expert's whole task vector, found once for each number of entries."""
        tensors, tally = self._tensors, self._tallies[expert]
        assert tensors is not None
        count = count_kept(density, tally.size)
        if (expert, count) not in self._thresholds:

            def pairs() -> Iterator[tuple[Tensor, Tensor]]:
                for inputs in tensors():
                    assert inputs.base is not None
                    yield inputs.base, inputs.experts[expert]

            if len(self._thresholds) >= _KEPT_THRESHOLDS:
                self._thresholds.clear()
            self._thresholds[expert, count] = tally.largest(count, pairs)
        return self._thresholds[expert, count]
