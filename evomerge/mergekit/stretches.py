"""The slices of a mergekit file, as stretches of layers that are merged in one way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.errors import RecipeError, shown
from evomerge.mergekit.documents import mapping, named, reference, sequence, with_adapter
from evomerge.mergekit.methods import Counterpart
from evomerge.mergekit.settings import parameters_of
from evomerge.models.architecture import Layout
from evomerge.recipe.sources import ModelReference, Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One model in one stretch of layers, with its own layers there (None: all) and the parameters given for it.

    An adapter is a model too; `adapts` is then the model that it is added to.
    """

    model: ModelReference
    where: str
    parameters: Mapping[str, Any]
    layers: tuple[int, int] | None = None
    adapts: ModelReference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Consecutive layers of the merge, made from the same sources; `layers` None means all."""

    layers: tuple[int, int] | None
    sources: tuple[Source, ...]
    where: str
    parameters: Mapping[str, Any]

    @property
    def end(self) -> int:
        """The layer after the last; 0 if the stretch is all layers."""
        return 0 if self.layers is None else self.layers[1] + 1

    def source(self, model: ModelReference) -> Source | None:
        """What is given for one of the models; None if it isn't merged here."""
        return next((source for source in self.sources if source.model == model), None)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a tensor stands: its name, the stretch that gives its parameters, and its position there, 0 to 1."""

    name: str
    stretch: Stretch
    depth: float


def stretches_of(
    top: Mapping[str, Any], where: str, folder: Path | None
) -> tuple[tuple[Stretch, ...], ModelReference | None]:
    """The stretches of layers that the file merges, and its base."""
    base = top.get("base_model")
    base = None if base is None else reference(base, f"{where}: base_model", folder)
    if top.get("models") is not None:
        sources = [
            _source(entry, f"{where}: models[{index}]", {"model", "parameters", "layer_range"}, folder)
            for index, entry in enumerate(sequence(top["models"], f"{where}: models"))
        ]
        if base is not None and all(source.model != base for source in sources):
            sources.append(Source(model=base, where=f"{where}: base_model", parameters={}))
        _refuse_twice(sources)
        return (Stretch(layers=None, sources=tuple(sources), where=f"{where}: parameters", parameters={}),), base

    stretches: list[Stretch] = []
    bases: list[ModelReference | None] = []
    start = 0
    for index, entry in enumerate(sequence(top["slices"], f"{where}: slices")):
        place = f"{where}: slices[{index}]"
        data = mapping(entry, place, {"sources", "base_model", "residual_weight", "parameters"})
        if data.get("residual_weight") is not None:
            raise RecipeError(f"{place}.residual_weight: isn't supported; remove it")
        own = data.get("base_model")
        bases.append(base if own is None else reference(own, f"{place}.base_model", folder))
        stretches.append(_stretch(data, place, folder, start))
        start = stretches[-1].end
        if bases[-1] != bases[0]:
            raise RecipeError(f"{place}.base_model: another base than in slices[0] isn't supported")
    return tuple(stretches), bases[0]


def _stretch(data: Mapping[str, Any], where: str, folder: Path | None, start: int) -> Stretch:
    """One slice, whose layers follow after those before `start`."""
    sources: list[Source] = []
    known = {"model", "layer_range", "parameters"}
    for index, entry in enumerate(sequence(data.get("sources"), f"{where}.sources")):
        place = f"{where}.sources[{index}]"
        source = _source(entry, place, known, folder)
        span = entry.get("layer_range")
        if (
            not isinstance(span, list)
            or len(span) != 2
            or not all(type(layer) is int for layer in span)
            or not 0 <= span[0] < span[1]
        ):
            raise RecipeError(f"{place}.layer_range: expected [first, end], end not included, got {shown(span)}")
        sources.append(replace(source, layers=(span[0], span[1] - 1)))
    _refuse_twice(sources)
    lengths = [last - first + 1 for first, last in (source.layers or (0, -1) for source in sources)]
    if len(set(lengths)) > 1:
        raise RecipeError(f"{where}.sources: {' and '.join(map(str, lengths))} layers; a slice needs as many of each")
    return Stretch(
        layers=(start, start + lengths[0] - 1),
        sources=tuple(sources),
        where=f"{where}.parameters",
        parameters=parameters_of(data.get("parameters"), f"{where}.parameters"),
    )


def _source(entry: Any, where: str, known: set[str], folder: Path | None) -> Source:
    data = mapping(entry, where, known)
    model, adapter = with_adapter(data.get("model"), f"{where}.model", folder)
    return Source(
        model=model if adapter is None else adapter,
        adapts=None if adapter is None else model,
        where=f"{where}.parameters",
        parameters=parameters_of(data.get("parameters"), f"{where}.parameters"),
    )


def _refuse_twice(sources: Sequence[Source]) -> None:
    models = [source.model for source in sources]
    for index, source in enumerate(sources):
        if source.model in models[:index]:
            raise RecipeError(f"{source.where.removesuffix('.parameters')}: {source.model.path} is listed twice")


def slices_of(
    stretches: Sequence[Stretch],
    depth: int,
    first: ModelReference,
    experts: Mapping[str, ModelReference],
    counterpart: Counterpart,
) -> tuple[Slice, ...]:
    """The layers of the merge; none if they are those of the models, in their order.

    The base comes first, so that a model that a slice doesn't name has no task vector there.
    """
    names = {model: name for name, model in experts.items()}
    if counterpart.base == "required" or first not in names:
        names[first] = "base"
    in_place = all(source.layers == stretch.layers for stretch in stretches for source in stretch.sources)
    alike = all(_models(stretch.sources) == _models(stretches[0].sources) for stretch in stretches)
    if stretches[-1].layers is None or (in_place and alike and stretches[-1].end == depth):
        return ()
    return tuple(
        {names[source.model]: source.layers for source in sources if source.layers is not None}
        for stretch in stretches
        for sources in (sorted(stretch.sources, key=lambda source: names[source.model] != "base"),)
    )


def _models(sources: Iterable[Source]) -> set[ModelReference]:
    return {source.model for source in sources}


def experts_of(
    stretches: Sequence[Stretch],
    base: ModelReference | None,
    first: ModelReference,
    counterpart: Counterpart,
    where: str,
) -> dict[str, ModelReference]:
    """The models that our method merges, by names made from their paths, in the file's order."""
    models = list(dict.fromkeys(source.model for stretch in stretches for source in stretch.sources))
    if counterpart.ours == "scaled":
        return _stacked(stretches, first, where)
    if counterpart.base == "required" and base is None:
        raise RecipeError(f"{where}: base_model: missing; {counterpart.theirs} needs it")
    for index, stretch in enumerate(stretches):
        found = _models(stretch.sources)
        if found != _models(stretches[0].sources) and not counterpart.takes_absent:
            raise RecipeError(
                f"{where}: slices[{index}].sources: other models than in slices[0]; {counterpart.theirs} needs every "
                "model in every slice"
            )
        if counterpart.base != "ignored" and base is not None and base not in found:
            raise RecipeError(f"{where}: slices: base_model {base.path} is to be among the sources of every slice")
    if counterpart.ours == "slerp":
        # mergekit interpolates from the base to the other model.
        models.sort(key=lambda model: model != base)
    elif counterpart.base != "ignored":
        models = [model for model in models if model != base]
    return named(models)


def _stacked(stretches: Sequence[Stretch], first: ModelReference, where: str) -> dict[str, ModelReference]:
    """The models of a passthrough beside the first, or that one if there is no other."""
    models: dict[ModelReference, None] = {}
    for index, stretch in enumerate(stretches):
        if len(stretch.sources) != 1:
            place = "models" if stretch.layers is None else f"slices[{index}].sources"
            advice = "; stack layers of several with slices" if stretch.layers is None else ""
            raise RecipeError(
                f"{where}: {place}: passthrough takes exactly one model, got {len(stretch.sources)}{advice}"
            )
        models[stretch.sources[0].model] = None
    return named([model for model in models if model != first] or [first])


def spots_of(stretches: Sequence[Stretch], names: Iterable[str], layout: Layout) -> list[Spot]:
    """Where every tensor stands. Outside the layers, mergekit's position is 0, before and after them."""
    spots = []
    for name in names:
        place = layout.place(name)
        for stretch in stretches:
            first, last = stretch.layers or (0, layout.depth - 1)
            if first <= place.layer <= last:
                within = layout.stem is not None and name.startswith(f"{layout.stem}.")
                depth = (place.layer - first) / (last - first) if last > first else 1.0
                spots.append(Spot(name, stretch, depth if within else 0.0))
                break
    return spots
