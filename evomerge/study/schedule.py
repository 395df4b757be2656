"""Which search items a candidate answers, in which order.

Knows blocks and generations. Does not know what the items are, or what was answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from evomerge.streams import stream


class Schedule:
    """The order in which candidates answer blocks of items.

    Args:
        blocks: how many there are.
        share: how many of them a candidate answers; all of them where None. Then each generation has others: a quarter
            of its share, one at least, is common to all generations, and the rest are drawn anew.
        seed: of what is drawn.
    """

    def __init__(self, blocks: int, *, share: int | None = None, seed: int = 0) -> None:
        self.blocks = blocks
        self.share = blocks if share is None else min(share, blocks)
        self.common = self.share if self.share == blocks else max(1, self.share // 4)
        """Blocks that every candidate of every generation begins with."""
        self._seed = seed

    @property
    def is_fresh(self) -> bool:
        """Whether a candidate answers only some of the blocks, others in each generation."""
        return self.share < self.blocks

    def order(self, generation: int | None) -> Sequence[int]:
        """Numbers of all blocks, in the order in which a candidate of this generation answers them.

        The first `share` are those that every candidate answers; the rest follow for one that answers everything.
        """
        if generation is None or not self.is_fresh:
            return range(self.blocks)
        return _drawn(self._seed, self.blocks, self.common, generation)


@lru_cache(maxsize=256)
def _drawn(seed: int, blocks: int, common: int, generation: int) -> tuple[int, ...]:
    rest = stream(seed, "fresh blocks", generation).permutation(np.arange(common, blocks))
    return (*range(common), *rest.tolist())


def stratified_blocks(tasks: Sequence[str], size: int, seed: int) -> list[list[int]]:
    """Items in blocks, in each of which every task has its share of items.

    Args:
        tasks: of each item.
        size: items of a block; the last may have fewer.
        seed: of the order within a task.

    Returns: positions of the items, block by block.
    """
    generator = stream(seed, "stratified blocks")
    places: list[tuple[float, str, int]] = []
    for task in sorted(set(tasks)):
        items = generator.permutation([place for place, of in enumerate(tasks) if of == task]).tolist()
        # Spread evenly over the whole order, from a random start.
        start = float(generator.random())
        places += [((number + start) / len(items), task, item) for number, item in enumerate(items)]
    order = [item for _, _, item in sorted(places)]
    return [order[first : first + size] for first in range(0, len(order), size)]
