"""How many candidates a generation has, when the user doesn't say."""

from __future__ import annotations

import math


def default_population(num_dimensions: int, evaluations: int, items: int) -> int:
    """Candidates per generation by dimension, noise and budget; a multiple of 8, which fills 1, 2, 4 or 8 workers.

    Twice the textbook 4 + 3 ln n, since averaging over more candidates is what helps against the noise
    of finite benchmarks; twice again below 100 items. Never so many that fewer than 8 generations fit.

    Args:
        num_dimensions: size of the genome.
        evaluations: candidates that the whole search may propose.
        items: benchmark items that each candidate sees.
    """
    wanted = (4 if items < 100 else 2) * (4 + math.floor(3 * math.log(num_dimensions)))
    affordable = max(8, evaluations // 8)
    return max(8, 8 * (min(wanted, affordable) // 8))
