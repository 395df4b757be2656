"""The objective of models in a common place: how alike they are there, and where it rises.

With U_m the mapped model m, Σ_{p<q} ⟨U_p, U_q⟩ is ½·(‖Σ_m U_m‖² − Σ_m ‖U_m‖²): no pair is ever formed. Maps may be
combinations of maps, which is where methods that move by small steps are between two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor

from evomerge.alignment.base import Weights
from evomerge.alignment.kinds import Kind, Map
from evomerge.alignment.kinds.base import Action
from evomerge.alignment.spec import Place, Spec
from evomerge.errors import AlignmentError

Actions = Mapping[str, Action]
"""What acts, by label."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """A convex combination of maps of one kind: by role, the matrix that rows are multiplied by."""

    matrices: Mapping[str, Tensor]

    def act(self, role: str, matrix: Tensor) -> Tensor:
        """The rows combined; (size of the role, any)."""
        return self.matrices[role].to(matrix.dtype) @ matrix


def towards(own: Actions, corner: Mapping[str, Mixture], step: float) -> dict[str, Action]:
    """The combination that lies `step` of the way from one's maps to the corner."""
    found = dict(own)
    for label, end in corner.items():
        start = found[label]
        assert isinstance(start, Mixture)
        found[label] = Mixture(
            {role: torch.lerp(matrix, end.matrices[role], step) for role, matrix in start.matrices.items()}
        )
    return found


class Universe:
    """The products of models under any maps, tensor by tensor: one tensor of each model is held at a time.

    Args:
        spec: of all models.
        models: each with every tensor of the spec.
        normalise: whether every tensor counts alike, instead of by its squared norm.

    Raises: AlignmentError for weights that aren't finite.
    """

    def __init__(self, spec: Spec, models: Sequence[Weights], *, normalise: bool = False) -> None:
        self.spec = spec
        self._models = models
        self._places: dict[str, list[Place]] = {}
        for label in spec.labels:
            for place in spec.places(label):
                self._places.setdefault(place.tensor, []).append(place)
        sizes = {name: self._size(name) for name in self._places}
        self._scales = {name: 1 / size if normalise and size else 1.0 for name, size in sizes.items()}

    def mixture(self, label: str, map_: Map) -> Mixture:
        """A map as the combination of itself alone."""
        kind: Kind = self.spec.labels[label]
        roles = dict.fromkeys(place.axis.role for place in self.spec.places(label))
        return Mixture({role: map_.act(role, torch.eye(kind.sizes[role])) for role in roles})

    def gradients(self, maps: Sequence[Actions], labels: Sequence[str]) -> list[dict[str, dict[str, Tensor]]]:
        """For each model, by label and role, the objective's derivative by the map's matrix."""
        found: list[dict[str, dict[str, Tensor]]] = [{label: {} for label in labels} for _ in maps]
        for name, places in self._places.items():
            mapped = [self._mapped(own, name, model) for model, own in enumerate(maps)]
            total = torch.stack(mapped).sum(0)
            for model, own in enumerate(maps):
                others = total - mapped[model]
                for place in places:
                    if place.axis.label in found[model]:
                        self._add(found[model][place.axis.label], place, others, own, model)
        return found

    def line_search(self, maps: Sequence[Actions], corners: Sequence[Mapping[str, Mixture]]) -> tuple[float, float]:
        """The step in [0, 1] that gains most, exactly, and the share of the objective that it gains.

        Along the line each axis' matrix is linear in the step, so the objective is a polynomial whose degree is twice
        the most axes of a tensor; as many points and one more give it.
        """
        degree = 2 * max(len({place.dim for place in places}) for places in self._places.values())
        steps = [float(step) for step in np.linspace(0, 1, degree + 1)]
        values = [
            self.objective([towards(own, end, step) for own, end in zip(maps, corners, strict=True)]) for step in steps
        ]
        curve = Polynomial.fit(steps, values, degree, domain=[0, 1])
        roots = [complex(root) for root in curve.deriv().roots()]
        turns = [root.real for root in roots if abs(root.imag) < 1e-9 and 0 < root.real < 1]
        best = max([0.0, 1.0, *turns], key=lambda step: (float(curve(step)), -step))
        return best, float(curve(best) - curve(0.0)) / max(abs(values[0]), 1e-300)

    def total(self, maps: Sequence[Actions]) -> dict[str, Tensor]:
        """The sum of the mapped models, by tensor."""
        return {
            name: torch.stack([self._mapped(own, name, model) for model, own in enumerate(maps)]).sum(0)
            for name in self._places
        }

    def improve(
        self, maps: list[dict[str, Map]], label: str, model: int, total: dict[str, Tensor], tolerance: float
    ) -> float:
        """Replace one map by the best given all others, and the model's part of `total` with it.

        Args:
            maps: of all models; that of the label is replaced in the model's.
            label: which map.
            model: whose.
            total: the sum of the mapped models.
            tolerance: the least gain that counts, as a share of what the label's tensors could agree in all.

        Returns: what the objective gained; 0 if that didn't count, and nothing has changed.
        """
        own = maps[model]
        names = dict.fromkeys(place.tensor for place in self.spec.places(label))
        before = {name: self._mapped(own, name, model) for name in names}
        others = {name: total[name] - before[name] for name in names}
        cross: dict[str, Tensor] = {}
        for place in self.spec.places(label):
            self._add(cross, place, others[place.tensor], own, model)
        if not cross:
            return 0.0
        changed = {**own, label: self.spec.labels[label].best(cross)}
        moved = {name: self._mapped(changed, name, model) for name in names}
        # A tensor may have the label on two axes, where the best map for each alone needn't be better for both.
        gain = sum(self._scales[name] * _dot(moved[name] - before[name], others[name]) for name in names)
        most = sum(self._scales[name] * float(before[name].norm() * others[name].norm()) for name in names)
        if gain <= tolerance * most:
            return 0.0
        maps[model] = changed
        total.update({name: others[name] + moved[name] for name in names})
        return gain

    def objective(self, maps: Sequence[Actions]) -> float:
        """Σ_{p<q} ⟨U_p, U_q⟩."""
        found = 0.0
        for name in self._places:
            mapped = torch.stack([self._mapped(own, name, model) for model, own in enumerate(maps)])
            total = mapped.sum(0)
            found += self._scales[name] * (_dot(total, total) - _dot(mapped, mapped)) / 2
        return found

    def _mapped(self, own: Actions, name: str, model: int, skip: int | None = None) -> Tensor:
        return self.spec.apply(own, name, self._models[model][name].float(), skip=skip)

    def _add(self, cross: dict[str, Tensor], place: Place, others: Tensor, own: Actions, model: int) -> None:
        """Add a place's products to those by role."""
        without = self._mapped(own, place.tensor, model, skip=place.dim)
        products = place.unfold(others) @ place.unfold(without).T * self._scales[place.tensor]
        cross[place.axis.role] = cross[place.axis.role] + products if place.axis.role in cross else products

    def _size(self, name: str) -> float:
        """The mean squared norm of a tensor over the models."""
        mean = sum(_dot(tensor, tensor) for tensor in (model[name].float() for model in self._models))
        if not np.isfinite(mean):
            raise AlignmentError(f"{name}: holds numbers that aren't finite (NaN or infinity), so it can't be compared")
        return mean / len(self._models)


def _dot(one: Tensor, other: Tensor) -> float:
    return float(torch.dot(one.flatten().double(), other.flatten().double()))
