"""Values of a mergekit file that may depend on tensor names and layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import RecipeError, unknown
from evomerge.mergekit.methods import INERT_EVERYWHERE, Counterpart, Number, Setting, Switch
from evomerge.mergekit.settings import conditions_of, evaluate
from evomerge.mergekit.stretches import Source, Spot, Stretch
from evomerge.methods import METHODS
from evomerge.methods.base import MergeMethod, Option, Parameter
from evomerge.recipe.group import Coefficient
from evomerge.recipe.sources import ModelReference


@dataclass(frozen=True, slots=True)
class Reading:
    """Resolves one file's parameters: of the model in its slice, else of the slice, else of the merge, else default."""

    where: str
    counterpart: Counterpart
    experts: Mapping[str, ModelReference]
    base: ModelReference | None
    parameters: Mapping[str, Any]

    def varies(self, stretch: Stretch) -> bool:
        """Whether any parameter depends on a tensor's name or depth."""
        return any(
            isinstance(value, list | Mapping)
            for scope in (self.parameters, stretch.parameters, *(source.parameters for source in stretch.sources))
            for value in scope.values()
        )

    def filters(self, stretches: Iterable[Stretch]) -> Iterable[str]:
        """Every text that a filter looks for in tensor names, once."""
        found: dict[str, None] = {}
        for stretch in stretches:
            for scope in (self.parameters, stretch.parameters, *(source.parameters for source in stretch.sources)):
                for value in scope.values():
                    for condition in conditions_of(value):
                        if isinstance(condition.get("filter"), str) and condition["filter"] != "*":
                            found[condition["filter"]] = None
        return found

    def coefficients(self, spot: Spot) -> dict[str, Coefficient]:
        """Our coefficients of one tensor."""
        found: dict[str, Coefficient] = {}
        for name, number in self.counterpart.per_model.items():
            if self.counterpart.ours == "scaled":
                found[number.ours] = self._number(name, number.default, spot, spot.stretch.sources[0])
                continue
            found[number.ours] = {
                expert: number.default or 0.0
                if (source := spot.stretch.source(model)) is None
                else self._number(name, number.default, spot, source)
                for expert, model in self.experts.items()
            }
        for name, number in self.counterpart.shared.items():
            found[number.ours] = self._number(name, number.default, spot)
        if self.counterpart.folded:
            weight = found["weight"]
            assert isinstance(weight, Mapping)
            factor = self._number("lambda", 1.0, spot)
            if self._switch("normalize", False, spot):
                total = sum(weight.values())
                factor /= total if abs(total) >= 1e-8 else 1.0
            found["weight"] = {expert: factor * value for expert, value in weight.items()}
        return {**found, **self.counterpart.fixed}

    def options(self, spots: Sequence[Spot]) -> dict[str, Any]:
        """Our options. Raises: RecipeError for one that differs between tensors or that we lack."""
        options: dict[str, Any] = dict(self.counterpart.options)
        if self.counterpart.base == "optional":
            options["origin"] = "zero" if self.base is None else "base"
        values = {}
        for name, switch in self.counterpart.switches.items():
            found = list(dict.fromkeys(self._switch(name, switch.default, spot) for spot in spots))
            if len(found) > 1:
                raise RecipeError(
                    f"{self.where}: parameters.{name}: {', '.join(map(str, found))} for different tensors; "
                    "it can only be one for the whole merge"
                )
            values[name] = value = found[0]
            if switch.values is not None and value not in switch.values:
                raise RecipeError(f"{self.where}: parameters.{name}: {value!r} isn't supported with this method")
            if switch.ours is not None:
                options[switch.ours] = value if switch.values is None else switch.values[value]
        if self.counterpart.ours == "nuslerp":
            # mergekit's row-wise vectors run along the first dimension, from row to row.
            vectors = "columns" if values["nuslerp_row_wise"] else "rows"
            options["along"] = "tensor" if values["nuslerp_flatten"] else vectors
        return options

    def given(self, name: str, spot: Spot) -> bool:
        """Whether the file states a parameter for one tensor of any model."""
        sources = (None, *spot.stretch.sources)
        return any(self._resolve(name, spot, source, number=True) is not None for source in sources)

    def _number(self, name: str, default: float | None, spot: Spot, source: Source | None = None) -> float:
        value = self._resolve(name, spot, source, number=True)
        if value is None and default is None:
            of_model = f" for {source.model.path}" if source is not None else ""
            of_tensor = f", tensor {spot.name}" if spot.name else ""
            raise RecipeError(f"{self.where}: parameters.{name}: missing{of_model}{of_tensor}; this method needs it")
        return float(default if value is None else value)  # type: ignore[arg-type]

    def _switch(self, name: str, default: Setting, spot: Spot) -> Setting:
        number = not isinstance(default, bool)
        value = self._resolve(name, spot, None, number=number)
        if value is None:
            return default
        return int(value) if number and isinstance(default, int) and float(value) == int(value) else value

    def _resolve(self, name: str, spot: Spot, source: Source | None, *, number: bool) -> Any:
        scopes = [(f"{self.where}: parameters", self.parameters)]
        scopes.insert(0, (spot.stretch.where, spot.stretch.parameters))
        if source is not None:
            scopes.insert(0, (source.where, source.parameters))
        for where, scope in scopes:
            if name in scope:
                value = evaluate(scope[name], spot.name, spot.depth, f"{where}.{name}", number=number)
                if value is not None:
                    if number:
                        self._refuse_out_of_range(value, name, f"{where}.{name}")
                    return value
        return None

    def _refuse_out_of_range(self, value: float, name: str, where: str) -> None:
        """Refuse a number that our method doesn't take, at its place in the file."""
        known: dict[str, Number | Switch] = {
            **self.counterpart.per_model, **self.counterpart.shared, **self.counterpart.switches
        }  # fmt: skip
        method: type[MergeMethod] = METHODS.get(self.counterpart.ours)
        declared: Iterable[Parameter | Option] = (*method.parameters, *method.options)
        ours = None if name not in known else known[name].ours
        bounds = next((item for item in declared if item.name == ours), None)
        least = -math.inf if bounds is None or bounds.minimum is None else bounds.minimum
        most = math.inf if bounds is None or bounds.maximum is None else bounds.maximum
        whole = bounds is not None and isinstance(bounds.default, int)
        if not (least <= value <= most) or math.isinf(value) or (whole and value != int(value)):
            span = f" from {least:g} to {most:g}" if math.isfinite(least) and math.isfinite(most) else ""
            span = f" of at least {least:g}" if math.isfinite(least) and not span else span
            raise RecipeError(f"{where}: expected a {'whole' if whole else 'finite'} number{span}, got {value:g}")


def check_names(parameters: Mapping[str, Any], where: str, counterpart: Counterpart, *, of_model: bool) -> None:
    """Refuse parameters that mergekit would pass over in silence, except those that change nothing there either."""
    shared = {*counterpart.shared, *counterpart.switches, *(("lambda", "normalize") if counterpart.folded else ())}
    inert = {**INERT_EVERYWHERE, **counterpart.inert}
    known = {*counterpart.per_model, *shared, *inert}
    for name in parameters:
        if name not in known:
            raise RecipeError(
                f"{where}: {unknown('parameter', name, known)} mergekit passes over parameters that "
                f"{counterpart.theirs} doesn't have; remove it"
            )
        if of_model and name in shared:
            raise RecipeError(
                f"{where}.{name}: is no model's own; mergekit passes over it here. "
                "Move it to the parameters of the merge"
            )
