"""Kernels compiled for a GPU that isn't there: python -m helpers.gpu_code prints what they read and write memory with.

In a process of its own, since Triton interprets kernels for the rest of one that was told to.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from evomerge.kernels.fuse import _weighted_sum
from evomerge.kernels.gpu import launch, merges
from evomerge.kernels.gpu.trace import MergeKernel, Together

HOPPER = GPUTarget("cuda", 90, 32)


def accesses(compiled: merges.Compiled, kinds: dict[str, str], aligned: list[str]) -> dict[str, int]:
    """How often each instruction stands in a kernel that reads or writes a GPU's memory.

    Args:
        compiled: the kernel, which hasn't run yet.
        kinds: of its arguments, as Triton calls them.
        aligned: those that are multiples of 16.
    """
    names = compiled.function.arg_names
    source = ASTSource(
        compiled.function,
        {name: "constexpr" if name == "BLOCK" else kinds.get(name, "i64") for name in names},
        {"BLOCK": compiled.block},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": compiled.warps, "enable_fp_fusion": False}
    text = triton.compile(source, target=HOPPER, options=options).asm["ptx"]
    return dict(Counter(re.findall(r"\b(?:ld|st)\.global[\w.:]*", text)))


def main() -> None:
    """Print the accesses of a weighted sum of four bfloat16 tensors: alone, and among others, aligned or not."""
    pattern, _, _ = launch._packed((np.ones((4, 1)), 7))
    kernel = MergeKernel(_weighted_sum, 4, 0, pattern, torch.bfloat16, False)
    sources = [f"source_{k}" for k in range(4)]
    alone: dict[str, str] = dict.fromkeys([*sources, "out", "arrays"], "*bf16") | {"finite": "*i1", "size": "i32"}
    single: Any = merges.alone(kernel)
    found = {"alone": accesses(single, alone, [*sources, "out", "size"])}
    for name, aligned in (("aligned", True), ("unaligned", False)):
        many = merges.together(Together(kernel, (torch.bfloat16,) * 4, aligned))
        found[name] = accesses(many, {"table": "*i64", "row_of": "*i32"}, ["table"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
