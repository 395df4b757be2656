"""Named random streams: every consumer of randomness gets its own, derived from the run's seed.

Libraries reseed or draw from the process-wide generators (lm-eval reseeds them, pycma draws from
them), so nothing here touches global state.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator that depends on the seed and on the names alone, not on the process or call order."""
    return np.random.Generator(np.random.PCG64(derive(seed, *names)))


def derive(seed: int, *names: str | int, bits: int = 64) -> int:
    """An integer of `bits` bits derived from the seed and the names."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") >> (256 - bits)
