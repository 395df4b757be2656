"""From logits to each row's next token: the most probable one, or one that the row draws for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evomerge.inference.batch import Running
from evomerge.inference.decoding import Decoding, processed
from evomerge.streams import derive


class Chosen(NamedTuple):
    """The next token of each row, and the largest of the logits that it was chosen by; both of shape (rows,)."""

    tokens: Tensor
    largest: Tensor


def choose(
    rows: Sequence[Running], decoding: Decoding, seen: Tensor, logits: Tensor, best: Chosen | None = None
) -> Chosen:
    """The next token of several rows, each as if it were alone.

    Args:
        rows: what changes the scores of each, and draws its token.
        decoding: of all of them.
        seen: tokens before the next one, shape (rows, columns), with `PADDING` where there is none.
        logits: shape (rows, vocabulary).
        best: `best_of(logits)`, where it is known.
    """
    best = best or best_of(logits)
    if not decoding.processors and not decoding.draws:
        return best
    scores = processed([row.processors for row in rows], seen, logits)
    tokens = _drawn(scores, [row.generator for row in rows]) if decoding.draws else scores.argmax(dim=1)
    return Chosen(tokens, best.largest)


def best_of(logits: Tensor) -> Chosen:
    """The most probable token of each row."""
    largest, tokens = logits.max(dim=1)
    return Chosen(tokens, largest)


def generator_of(place: int, device: torch.device) -> torch.Generator:
    """What draws the tokens of one request: seeded by its place among the requests of its split alone.

    So a request draws from the same numbers for every candidate, in every block and beside any others, and two equal
    ones draw from different numbers.
    """
    return torch.Generator(device=device).manual_seed(seed_of(place))


def seed_of(place: int) -> int:
    """The seed of a request's generator."""
    return derive(0, "sample", place, bits=63)


def _drawn(scores: Tensor, generators: Sequence[torch.Generator | None]) -> Tensor:
    """Draw by the softmax of each row's scores, as torch.multinomial does with that row and its generator.

    The token of which chance / exponential noise is largest; multinomial itself takes one generator for all rows.
    """
    noise = torch.empty_like(scores)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    return (scores.softmax(dim=1) / noise).argmax(dim=1)
