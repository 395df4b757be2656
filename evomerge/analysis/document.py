"""An analysis as plain data for JSON, by names instead of places in arrays; null where a number isn't defined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from evomerge.analysis.gradients import Gradients
from evomerge.analysis.matrices import ENERGY, MatrixStatistics
from evomerge.analysis.moments import Moments, Signs
from evomerge.analysis.spectra import DIRECTIONS, FULL_UP_TO
from evomerge.analysis.verdicts import Verdict
from evomerge.analysis.weights import GroupStatistics, Weights
from evomerge.recipe.sources import Sources

FORMAT = "evomerge analysis"
VERSION = 1


def document(
    sources: Sources,
    weights: Weights,
    only_in: Mapping[str, Sequence[str]],
    verdicts: Sequence[Verdict],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """All of it. The form is described in docs/analysis.md."""
    names = ("base", *weights.experts)
    return {
        "format": FORMAT,
        "version": VERSION,
        "models": {
            "base": sources.base.path,
            "experts": {name: reference.path for name, reference in sources.experts.items()},
        },
        "settings": {
            **settings,
            "energy": ENERGY,
            "full_up_to": FULL_UP_TO,
            "directions": DIRECTIONS,
            "depth": weights.depth,
            "spectra_layers": list(weights.spectra_layers),
        },
        "verdicts": [{"topic": one.topic, "models": list(one.models), "text": one.text} for one in verdicts],
        "whole": _group(weights.whole, weights.experts),
        "kinds": [_group(group, weights.experts) for group in weights.kinds],
        "groups": [_group(group, weights.experts) for group in weights.groups],
        "tensors": [
            {
                "name": one.name,
                "layer": one.layer,
                "kind": one.kind,
                "shape": list(one.shape),
                **_moments(one.moments, weights.experts),
                "matrices": None if one.matrices is None else _matrices(one.matrices, weights.experts),
            }
            for one in weights.tensors
        ],
        "equal": [
            [names[row], names[column]]
            for row in range(len(names))
            for column in range(row + 1, len(names))
            if weights.equal[row][column]
        ],
        "only_in": {name: list(found) for name, found in only_in.items()},
        "not_finite": {name: list(found) for name, found in weights.not_finite.items()},
        "skipped": list(weights.skipped),
    }


def gradients_data(found: Gradients) -> dict[str, Any]:
    """Gradients on texts by names."""
    return {
        "texts": list(found.texts),
        "notes": list(found.notes),
        "models": {
            model: {
                "loss": _named(found.losses[row], found.texts),
                "norm": _named(found.norms[row], found.texts),
                "cosine": _named(found.cosines[row], found.texts),
                "distance": _named(found.distances[row], found.texts),
            }
            for row, model in enumerate(found.models)
        },
        "descent": {
            expert: _named(row, found.texts) for expert, row in zip(found.models[1:], found.descent, strict=True)
        },
    }


def _group(group: GroupStatistics, experts: Sequence[str]) -> dict[str, Any]:
    matrices = None
    if group.matrices is not None:
        matrices = {"count": group.num_matrices, **_matrices(group.matrices, experts)}
    return {
        "layer": group.layer,
        "kind": group.kind,
        **_moments(group.moments, experts),
        "matrices": matrices,
    }


def _moments(moments: Moments, experts: Sequence[str]) -> dict[str, Any]:
    entries = max(1, moments.entries)
    return {
        "entries": moments.entries,
        "base_norm": moments.base_square**0.5,
        "norm": _named(moments.norms, experts),
        "relative_norm": _named(moments.relative_norms, experts),
        "changed": _named(moments.changed / entries, experts),
        "cosine": _named(moments.cosines, experts),
        "signs": _signs(moments.signs, experts),
        "top_signs": _signs(moments.top_signs, experts),
    }


def _signs(signs: Signs, experts: Sequence[str]) -> dict[str, Any]:
    return {
        "shared": signs.shared,
        "conflict": _number(signs.share),
        "pairs": _named(signs.pairs, experts),
    }


def _matrices(matrices: MatrixStatistics, experts: Sequence[str]) -> dict[str, Any]:
    return {field.name: _named(getattr(matrices, field.name), experts) for field in fields(MatrixStatistics)}


def _named(values: np.ndarray, experts: Sequence[str]) -> Any:
    """Numbers by expert, or by pairs of experts; a single number as it is."""
    if values.ndim == 0:
        return _number(float(values))
    return {name: _named(value, experts) for name, value in zip(experts, values, strict=True)}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
