"""What the numbers mean for a merge, in plain sentences. A sentence is only there where its condition holds.

Knows statistics. Does not know how they are shown.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evomerge.analysis.weights import GroupStatistics, Weights
from evomerge.errors import counted, listed

Topic = Literal[
    "not_finite", "missing", "same_as_base", "same", "far", "near", "unrelated", "alike", "opposed", "orthogonal",
    "signs", "unchanged", "where", "low_rank", "left_out",
]  # fmt: skip

FAR = 2.0
"""How many times as far from the base as the others an expert is called far, and the inverse near."""

UNRELATED = 0.7
"""Length of a task vector, over the base's, from which on it may be no fine-tuning: unrelated ones have about 1.4."""

ALIKE, OPPOSED, ORTHOGONAL = 0.5, -0.1, 0.1
"""Cosines from which on task vectors count as alike, up to which as opposed, and within which as orthogonal."""

SIGNS = 0.3
"""Share of conflicts among the largest entries from which on methods that settle signs are named."""

LOW_RANK = 0.05
"""Fraction of the directions that hold 95% of a task vector's energy up to which it is called of low rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A sentence, what it is about, and the models that it concerns."""

    topic: Topic
    models: tuple[str, ...]
    text: str


def verdicts(weights: Weights, *, only_in: Mapping[str, tuple[str, ...]]) -> tuple[Verdict, ...]:
    """All that is worth saying, what keeps a merge from working first.

    Args:
        weights: the statistics.
        only_in: by model, the tensors that it has and another lacks.
    """
    whole = weights.whole
    found = [
        *_not_finite(weights),
        *_missing(only_in),
        *_same(weights, only_in),
        *_distances(weights, whole),
        *_directions(weights, whole),
        *_signs(weights, whole),
        *_unchanged(weights),
        *_where(weights, whole),
        *_low_rank(weights, whole),
        *_left_out(weights),
    ]
    return tuple(found)


def starting_scales(norms: np.ndarray) -> np.ndarray:
    """The weight of each expert, over that of the others, with which all change the base equally far.

    Args:
        norms: lengths of the task vectors, shape (K,); zeros get 1.

    Returns: the median length of the other experts over its own, shape (K,).
    """
    scales = np.ones(len(norms))
    for index, norm in enumerate(norms):
        others = [one for place, one in enumerate(norms) if place != index and one > 0]
        if norm > 0 and others:
            scales[index] = float(np.median(others)) / norm
    return scales


def _not_finite(weights: Weights) -> Iterator[Verdict]:
    for model in ("base", *weights.experts):
        if names := [name for name, models in weights.not_finite.items() if model in models]:
            yield Verdict(
                topic="not_finite",
                models=(model,),
                text=f"{_called(model)} has NaN or infinite numbers in {_tensors(names)}. They are in no figure here, "
                "and a merge with them can't be scored: get that model again.",
            )


def _missing(only_in: Mapping[str, tuple[str, ...]]) -> Iterator[Verdict]:
    for model, names in only_in.items():
        yield Verdict(
            topic="missing",
            models=(model,),
            text=f"{_called(model)} has {_tensors(names)}, which not every model has. They are in no figure here, and "
            "a merge of these models is refused until all have the same tensors.",
        )


def _same(weights: Weights, only_in: Mapping[str, tuple[str, ...]]) -> Iterator[Verdict]:
    every = "every tensor that all models have" if only_in else "every tensor"
    names = ("base", *weights.experts)
    told: set[str] = set()
    for row, name in enumerate(names):
        same = tuple(names[column] for column in range(row + 1, len(names)) if weights.equal[row][column])
        if not same or name in told:
            continue
        told.update(same)
        if row == 0:
            text = f"{_called(*same)} {_has(same)} the base's numbers in {every}: leave {_it(same)} out."
            yield Verdict(topic="same_as_base", models=same, text=text)
        else:
            text = f"{_called(name, *same)} have the same numbers in {every}: keep one."
            yield Verdict(topic="same", models=(name, *same), text=text)


def _distances(weights: Weights, whole: GroupStatistics) -> Iterator[Verdict]:
    norms, relative = whole.moments.norms, whole.moments.relative_norms
    scales = starting_scales(norms)
    for index, expert in enumerate(weights.experts):
        if norms[index] == 0 or np.count_nonzero(norms) < 2:
            continue
        ratio, two = 1 / scales[index], np.count_nonzero(norms) == 2
        if ratio >= FAR:
            others, theirs = ("the other", "the other's") if two else ("the others", "theirs")
            yield Verdict(
                topic="far",
                models=(expert,),
                text=f"{_called(expert)} is {ratio:.3g} times as far from the base as {others}: start its weight near "
                f"{scales[index]:.2g} of {theirs}.",
            )
        elif ratio <= 1 / FAR and not two:
            yield Verdict(
                topic="near",
                models=(expert,),
                text=f"{_called(expert)} is only {ratio:.2g} times as far from the base as the others: at equal "
                f"weights it moves a merge least. Try up to {scales[index]:.2g} times their weight.",
            )
    for index, expert in enumerate(weights.experts):
        if relative[index] >= UNRELATED:
            yield Verdict(
                topic="unrelated",
                models=(expert,),
                text=f"{_called(expert)} differs from the base by {relative[index]:.2g} times the base's own length; "
                "unrelated weights of one size differ by 1.4 times. It may not have been tuned from this base.",
            )


def _directions(weights: Weights, whole: GroupStatistics) -> Iterator[Verdict]:
    cosines = whole.moments.cosines
    pairs = [
        (one, two, float(cosines[one, two]))
        for one, two in itertools.combinations(range(len(weights.experts)), 2)
        if np.isfinite(cosines[one, two]) and not weights.equal[one + 1][two + 1]
    ]
    for one, two, cosine in pairs:
        models = (weights.experts[one], weights.experts[two])
        if cosine >= ALIKE:
            text = (
                f"{_called(*models)} change the base in much the same direction (cosine {cosine:.2f}): what one "
                "weight gains the other can give as well."
            )
            yield Verdict(topic="alike", models=models, text=text)
        elif cosine <= OPPOSED:
            text = f"{_called(*models)} pull against each other (cosine {cosine:.2f}): each undoes part of the other."
            yield Verdict(topic="opposed", models=models, text=text)
    if pairs and all(abs(cosine) < ORTHOGONAL for *_, cosine in pairs):
        # Adding zero takes the sign from a zero.
        values = sorted({round(cosine, 2) + 0.0 for *_, cosine in pairs})
        span = f"{values[0]:.2f}" if len(values) == 1 else f"{values[0]:.2f} to {values[-1]:.2f}"
        text = f"The task vectors are nearly orthogonal (cosine {span}), as those of unrelated tasks mostly are."
        yield Verdict(topic="orthogonal", models=weights.experts, text=text)


def _signs(weights: Weights, whole: GroupStatistics) -> Iterator[Verdict]:
    every, largest = whole.moments.signs, whole.moments.top_signs
    if not every.shared or not largest.shared:
        return
    pairs = "two" if len(weights.experts) == 2 else "at least two"
    chance = " Signs drawn at random would conflict in 50%." if len(weights.experts) == 2 else ""
    advice = " Methods that settle signs, such as ties, are worth a try." if largest.share >= SIGNS else ""
    yield Verdict(
        topic="signs",
        models=weights.experts,
        text=f"Of the entries that {pairs} experts change, {every.share:.0%} have conflicting signs; of those that are "
        f"among the largest {weights.top:.0%} of {pairs}, {largest.share:.0%}.{chance}{advice}",
    )


def _unchanged(weights: Weights) -> Iterator[Verdict]:
    names = [one.name for one in weights.tensors if not one.moments.changed.any()]
    if names and len(names) < len(weights.tensors):
        yield Verdict(
            topic="unchanged",
            models=weights.experts,
            text=f"No expert changes {_tensors(names)}: coefficients do nothing there.",
        )


def _where(weights: Weights, whole: GroupStatistics) -> Iterator[Verdict]:
    total = np.diagonal(whole.moments.gram)
    if not total.any():
        return

    def share(group: GroupStatistics) -> float:
        """Mean over the experts of the share of their squared length."""
        return float(np.mean((np.diagonal(group.moments.gram) / np.where(total > 0, total, np.nan))[total > 0]))

    kinds = sorted(((share(group), str(group.kind)) for group in weights.kinds), reverse=True)
    told = [f"{kind} {part:.0%}" for part, kind in kinds if part >= 0.005]
    text = f"Where the change is, by squared length, over the experts: {', '.join(told)}"
    if weights.depth >= 4:
        by_layer = np.zeros(weights.depth)
        for group in weights.groups:
            if group.kind not in {"embedding", "head"} and group.layer is not None:
                by_layer[group.layer] += share(group)
        half = np.cumsum(by_layer) / by_layer.sum() if by_layer.any() else by_layer
        late = 1 - float(half[weights.depth // 2 - 1])
        if max(late, 1 - late) >= 0.6:
            first, last = (weights.depth // 2, weights.depth - 1) if late >= 0.6 else (0, weights.depth // 2 - 1)
            text += f". Of that in layers, {max(late, 1 - late):.0%} is in layers {first} to {last}"
    yield Verdict(topic="where", models=weights.experts, text=f"{text}.")


def _low_rank(weights: Weights, whole: GroupStatistics) -> Iterator[Verdict]:
    if whole.matrices is None:
        return
    for index, expert in enumerate(weights.experts):
        ranks = [one.matrices.rank_at_energy[index] for one in weights.tensors if one.matrices is not None]
        known = [rank for rank in ranks if np.isfinite(rank)]
        if known and max(known) <= LOW_RANK and len(known) >= len(ranks) / 2:
            text = (
                f"{_called(expert)} changes linear layers by low rank: at most {max(known):.1%} of the directions hold "
                "95% of the change in each that was decomposed. `evomerge compress` stores it small."
            )
            yield Verdict(topic="low_rank", models=(expert,), text=text)


def _left_out(weights: Weights) -> Iterator[Verdict]:
    looked_at = len(weights.spectra_layers)
    if 0 < looked_at < weights.depth:
        layers = ", ".join(map(str, weights.spectra_layers))
        text = (
            f"Spectra and subspaces are those of layer{'s' * (looked_at != 1)} {layers} of {weights.depth}; "
            "--spectra all takes every layer."
        )
        yield Verdict(topic="left_out", models=weights.experts, text=text)


def _called(*models: str) -> str:
    """Experts by name, at the start of a sentence."""
    if models == ("base",):
        return "The base"
    quoted = [f"'{model}'" for model in models]
    named = quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
    return f"Expert{'s' * (len(models) > 1)} {named}"


def _has(models: tuple[str, ...]) -> str:
    return "has" if len(models) == 1 else "have"


def _it(models: tuple[str, ...]) -> str:
    return "it" if len(models) == 1 else "them"


def _tensors(names: tuple[str, ...] | list[str]) -> str:
    return f"{counted(len(names), 'tensor')} ({listed(names)})"
