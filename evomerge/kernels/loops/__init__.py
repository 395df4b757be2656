"""Loops over raw weights, compiled by numba: one pass over memory, float64 precision, one rounding.

A family's loops lie in the file of the same name as its methods, each a formula for one element; `elementwise` runs
it over whole tensors, on `tuples` of one number per model. LLVM neither reorders nor contracts float64
operations, so the bytes are those of the same operations in torch. Where results are bfloat16, `proofs`
proves the same bytes in float32. Loops that merge return whether what they wrote is finite. Threads are the
caller's business: the loops release the interpreter's lock.
"""

from evomerge.kernels.loops.divergence import divergences
from evomerge.kernels.loops.fusion import importances, merge_fusion
from evomerge.kernels.loops.linear import gram, low_rank, span
from evomerge.kernels.loops.magmax import merge_magmax
from evomerge.kernels.loops.nearswap import merge_nearswap
from evomerge.kernels.loops.numbers import are_finite
from evomerge.kernels.loops.orders import count, magnitudes, magnitudes_between, rank_steps, tally
from evomerge.kernels.loops.ram import count_changed, merge_ram
from evomerge.kernels.loops.sce import entries_of, into_levels, variances
from evomerge.kernels.loops.sparse import (
    add_band,
    add_random,
    add_ranked,
    elect_band,
    elect_largest,
    elect_level,
    elect_random,
    elect_ranked,
    masses_band,
    masses_random,
    masses_ranked,
)
from evomerge.kernels.loops.tall import agreement

__all__ = [
    "add_band",
    "add_random",
    "add_ranked",
    "agreement",
    "are_finite",
    "count",
    "count_changed",
    "divergences",
    "elect_band",
    "elect_largest",
    "elect_level",
    "elect_random",
    "elect_ranked",
    "entries_of",
    "gram",
    "importances",
    "into_levels",
    "low_rank",
    "magnitudes",
    "magnitudes_between",
    "masses_band",
    "masses_random",
    "masses_ranked",
    "merge_fusion",
    "merge_magmax",
    "merge_nearswap",
    "merge_ram",
    "rank_steps",
    "span",
    "tally",
    "variances",
]
