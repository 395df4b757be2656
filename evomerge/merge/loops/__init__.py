"""Fused loops over raw weights, compiled by numba: one pass over memory, float64 inside, one rounding.

A family's loops lie in the file of the same name as its formulas. Blocks of a few hundred elements are
decoded into the first-level cache, merged there and rounded once on the way out. LLVM neither reorders
nor contracts these operations, so the bytes are those of the same operations in torch. Where results
are bfloat16, `narrow` finds the same bytes in float32. Loops that merge return whether what they wrote
is finite. Threads are the caller's business: the loops release the interpreter's lock.
"""

from evomerge.merge.loops.elements import are_finite
from evomerge.merge.loops.fusion import importances, merge_fusion
from evomerge.merge.loops.linear import gram, low_rank, span
from evomerge.merge.loops.magmax import merge_magmax
from evomerge.merge.loops.nearswap import merge_nearswap
from evomerge.merge.loops.orders import magnitudes, magnitudes_between, tally
from evomerge.merge.loops.ram import merge_ram
from evomerge.merge.loops.sce import entries_of, variances
from evomerge.merge.loops.sparse import add_sparse, masses
from evomerge.merge.loops.tall import agreement

__all__ = [
    "add_sparse",
    "agreement",
    "are_finite",
    "entries_of",
    "gram",
    "importances",
    "low_rank",
    "magnitudes",
    "magnitudes_between",
    "masses",
    "merge_fusion",
    "merge_magmax",
    "merge_nearswap",
    "merge_ram",
    "span",
    "tally",
    "variances",
]
