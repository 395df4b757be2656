"""Random numbers by counter: each is a function of a key and an index."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.kernels.loops.compile import inner


@inner
def stir(value: Any) -> Any:
    """Scramble 32 bits one to one; the upper ones depend on all (Wellons 2018, "Prospecting for hash functions").

    This is lowbias32 without its last step.
    """
    value = np.uint32(value ^ np.uint32(value >> np.uint32(16)))
    value = np.uint32(value * np.uint32(0x7FEB352D))
    value = np.uint32(value ^ np.uint32(value >> np.uint32(15)))
    return np.uint32(value * np.uint32(0x846CA68B))


@inner
def mix(value: Any) -> Any:
    """As `stir`, with that step: all bits depend on all."""
    value = stir(value)
    return np.uint32(value ^ np.uint32(value >> np.uint32(16)))
