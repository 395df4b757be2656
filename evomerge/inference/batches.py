"""Which rows are computed together, by what passes cost: their padded tokens, and something for every pass.

What is cheapest is found from lengths and constants, and not by the clock, so that the same rows are put together, and
sums have the same last bits, in every session and every worker.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from evomerge.inference.trie import Row

MASKED = 1.03
"""What a pass with a mask of its own costs, in that of one whose mask is the causal one. Measured: 1.00 to 1.05."""

# A pass costs what its tokens do, and besides as much as so many tokens: for reading the weights; and for starting
# kernels, the more tokens' worth the fewer parameters a layer has.
_WEIGHTS = {"cpu": 20.0, "cuda": 100.0}
_KERNELS = {"cpu": 1.5e7, "cuda": 4.5e10}


BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}
"""Most padded tokens in a forward pass when nothing is said; less where memory is short."""


def most_tokens(device: str) -> int:
    """Padded tokens beyond which a pass on a device gains nothing."""
    return BATCH_TOKENS.get(device, BATCH_TOKENS["cuda"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of forward passes, in those of all work on one token but for attention."""

    attention: float = 0.0
    """Of attending to one more token."""
    a_pass: float = 0.0
    """Of a pass, besides its tokens."""

    @classmethod
    def of(cls, config: Mapping[str, Any], device: str) -> Costs:
        """For a model.

        Args:
            config: contents of its config.json. Unknown sizes are taken as those of a small Llama.
            device: "cpu" or "cuda"; what a pass costs is measured on CPUs, and reckoned for GPUs.
        """
        hidden, inner = _sizes(config)
        kind = device if device in _WEIGHTS else "cuda"
        a_pass = _WEIGHTS[kind] + _KERNELS[kind] / (4 * hidden * hidden + 3 * hidden * inner)
        return cls(attention=attention_cost(config), a_pass=a_pass)

    def of_pass(self, rows: int, width: int, *, start: int = 0, masked: bool = False) -> float:
        """Of one pass of so many rows, padded to a width, that continue `start` tokens."""
        own = rows * width * (1.0 + self.attention * (start + width))
        return self.a_pass + own * (MASKED if masked else 1.0)


def attention_cost(config: Mapping[str, Any]) -> float:
    """What attending to one more token costs, in units of all other work on a token.

    Args:
        config: contents of the model's config.json. Unknown sizes are taken as those of a small Llama.
    """
    hidden, inner = _sizes(config)
    # 2·hidden multiplications a pair, 4·hidden² + 3·hidden·inner a token; attention runs at about half the speed.
    return float(4 / (4 * hidden + 3 * inner))


def batches(rows: Sequence[Row], budget: int, costs: Costs) -> list[list[Row]]:
    """Divide rows that continue the same prefix into passes, in order, as cheaply as can be.

    Chains need no mask of their own where nothing is before them, so that they are computed apart from rows that
    branch, unless that costs more; where they go together, each pass counts as one with a mask.

    Args:
        rows: longest first.
        budget: most padded tokens in a pass; a longer row has a pass to itself.
        costs: of passes.
    """
    if not rows:
        return []
    parts = [[row for row in rows if row.is_chain is chain] for chain in (True, False)]
    if rows[0].start or not all(parts):
        return _divided(rows, budget, costs)
    together, apart = (
        _divided(rows, budget, costs),
        [batch for part in parts for batch in _divided(part, budget, costs)],
    )
    return min(apart, together, key=lambda found: sum(cost_of(batch, costs) for batch in found))


def cost_of(batch: Sequence[Row], costs: Costs) -> float:
    """What a pass over rows costs."""
    return costs.of_pass(len(batch), batch[0].length, start=batch[0].start, masked=_is_masked(batch))


def _is_masked(batch: Sequence[Row]) -> bool:
    return bool(batch[0].start) or not all(row.is_chain for row in batch)


def _divided(rows: Sequence[Row], budget: int, costs: Costs) -> list[list[Row]]:
    cuts = _cuts(tuple(row.length for row in rows), rows[0].start, _is_masked(rows), budget, costs)
    return [[*rows[first:last]] for first, last in zip((0, *cuts), cuts, strict=False)]


@lru_cache(maxsize=1024)
def _cuts(lengths: tuple[int, ...], start: int, masked: bool, budget: int, costs: Costs) -> tuple[int, ...]:
    """Where each pass over rows of these lengths, longest first, ends, at the least cost.

    A pass that begins within a run of equal lengths is full in some cheapest division: else it could take rows from the
    end of the pass before, which is at least as wide, and save there what they cost here. Where filling passes from the
    first row on, or up to the end of a run, is as cheap, that is done.
    """
    count = len(lengths)
    borders = [place for place in range(1, count + 1) if place == count or lengths[place] != lengths[place - 1]]
    full = _full_up_to(borders, lengths, budget)
    places = sorted({*borders, *full})

    def price(first: int, end: int) -> float:
        return costs.of_pass(end - first, lengths[first], start=start, masked=masked)

    def from_the_left(first: int) -> list[int]:
        most = min(count, first + _rows_within(budget, lengths[first]))
        return [*_between(borders, first, most), most]

    def in_any_way(first: int) -> list[int]:
        most = min(count, first + _rows_within(budget, lengths[first]))
        return [full[first]] if first in full else [*_between(places, first, most + 1)]

    usual, cuts = _cheapest(count, from_the_left, price)
    least, others = _cheapest(count, in_any_way, price)
    return others if least < usual * (1 - 1e-9) else cuts


def _cheapest(
    count: int, ends_of: Callable[[int], Iterable[int]], price: Callable[[int, int], float]
) -> tuple[float, tuple[int, ...]]:
    """The least cost of going from 0 to `count` by passes that may end where `ends_of` says, and their ends."""
    least: dict[int, tuple[float, int]] = {0: (0.0, 0)}
    for first in range(count):
        if first in least:
            for end in ends_of(first):
                cost = least[first][0] + price(first, end)
                if end not in least or cost < least[end][0]:
                    least[end] = cost, first
    found, end = [], count
    while end:
        found.append(end)
        end = least[end][1]
    return least[count][0], tuple(reversed(found))


def _full_up_to(borders: Sequence[int], lengths: Sequence[int], budget: int) -> dict[int, int]:
    """Full passes that begin within a run of equal lengths and end where a run ends or another of them begins.

    Returns: where they end, by where they begin.
    """
    found: dict[int, int] = {}
    runs, pending = {0, *borders}, [*borders]
    while pending:
        end = pending.pop()
        # The more rows, the longer the first of them, and the fewer fit.
        first = end - 1
        while first > 0 and end - first < _rows_within(budget, lengths[first]):
            first -= 1
        rows = end - first
        if first > 0 and rows == _rows_within(budget, lengths[first]) and first not in runs and first not in found:
            found[first] = end
            pending.append(first)
    return found


def _between(places: Sequence[int], first: int, last: int) -> Sequence[int]:
    """Those of the places, in order, that are above the first and below the last."""
    return places[bisect_right(places, first) : bisect_left(places, last)]


def _rows_within(budget: int, width: int) -> int:
    """How many rows of a width a pass takes at most; one, however wide."""
    return max(1, budget // max(1, width))


def _sizes(config: Mapping[str, Any]) -> tuple[int, int]:
    """Hidden size, and that of what is between in the MLP."""
    config = config.get("text_config") or config
    hidden = config.get("hidden_size") or config.get("n_embd") or config.get("d_model") or 512
    inner = config.get("intermediate_size") or config.get("n_inner") or 4 * hidden
    return int(hidden), int(inner * (config.get("num_experts_per_tok") or 1))
