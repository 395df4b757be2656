"""mergekit's merge files as recipes.

Every key either means here what it means in mergekit or is refused by name. What a file says per
filter and per depth becomes groups, each with the numbers that mergekit would have used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from evomerge.architecture import Layout
from evomerge.checkpoint import Checkpoint
from evomerge.errors import RecipeError, unknown
from evomerge.materialise import FLOATING
from evomerge.merge import METHODS
from evomerge.merge.base import MergeMethod, Option, Parameter
from evomerge.mergekit.documents import mapping, named, parsed, reference, sequence, with_adapter
from evomerge.mergekit.methods import BY_THEIRS, INERT_EVERYWHERE, Counterpart, Number, Setting, Switch
from evomerge.mergekit.settings import conditions_of, evaluate, parameters_of
from evomerge.models import open_expert
from evomerge.recipe import Coefficient, Group, ModelReference, Recipe, Slice, VocabularyPolicy
from evomerge.slices import stack

_TOP = {
    "merge_method", "models", "slices", "modules", "base_model", "dtype", "out_dtype", "tokenizer_source",
    "tokenizer", "chat_template", "parameters",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """One model in one stretch of layers, with its own layers there (None: all) and the parameters given for it.

    An adapter is a model too; `adapts` is then the model that it is added to.
    """

    model: ModelReference
    where: str
    parameters: Mapping[str, Any]
    layers: tuple[int, int] | None = None
    adapts: ModelReference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """Consecutive layers of the merge, made from the same sources; `layers` None means all."""

    layers: tuple[int, int] | None
    sources: tuple[_Source, ...]
    where: str
    parameters: Mapping[str, Any]

    @property
    def end(self) -> int:
        """The layer after the last; 0 if the stretch is all layers."""
        return 0 if self.layers is None else self.layers[1] + 1

    def source(self, model: ModelReference) -> _Source | None:
        """What is given for one of the models; None if it isn't merged here."""
        return next((source for source in self.sources if source.model == model), None)


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a tensor stands: its name, the stretch that gives its parameters, and its position there, 0 to 1."""

    name: str
    stretch: _Stretch
    depth: float


def load_recipe(path: str | Path, *, report: Callable[[str], None] | None = None) -> Recipe:
    """Read a recipe file of either kind, ours or mergekit's.

    Model paths of a recipe are relative to the file's folder. Those of a mergekit file are, as in
    mergekit, relative to the current folder, or else to the file's.

    Args:
        path: the file.
        report: called with each sentence on what is allowed in a mergekit file, but hardly meant.

    Raises: RecipeError, CheckpointError.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: can't be read: {error.strerror}") from error
    if is_mergekit(text):
        return read_mergekit(text, where=str(path), folder=path.parent, report=report)
    _refuse_other_files(text, str(path))
    return Recipe.from_yaml(text, where=str(path)).relative_to(path.parent)


def is_mergekit(text: str) -> bool:
    """Whether this is one of mergekit's merge files, to judge by its keys."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    return isinstance(data, dict) and "merge_method" in data and "evomerge" not in data


def read_mergekit(
    text: str,
    *,
    where: str = "mergekit file",
    folder: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> Recipe:
    """The recipe that a mergekit merge file describes.

    Models are opened where their layers and tensor names are needed: for slices, filters and values over depth.

    Args:
        text: YAML with `models` or `slices`.
        where: what to call the file in messages.
        folder: where local models are looked for after the current folder.
        report: called with each sentence on what mergekit passes over in silence and is hardly meant, such as a
            filter that matches no tensor.

    Returns: a recipe with the parameters that mergekit would use for every tensor. Its dtype is
        `out_dtype`, or else `dtype`: merging itself is done in higher precision.

    Raises: RecipeError with the place in the file, for anything that isn't supported or isn't right.
    """
    top = mapping(parsed(text, where), where, _TOP)
    method = top.get("merge_method")
    if not isinstance(method, str) or method not in BY_THEIRS:
        raise RecipeError(f"{where}: merge_method: {unknown('mergekit method', str(method), BY_THEIRS)}")
    counterpart = BY_THEIRS[method]
    _refuse_unsupported(top, where)
    stretches, base = _stretches(top, where, folder)
    first = base or stretches[0].sources[0].adapts or stretches[0].sources[0].model
    _refuse_other_adapters(stretches, first)
    experts = _experts(stretches, base, first, counterpart, where)
    parameters = parameters_of(top.get("parameters"), f"{where}: parameters")
    for stretch in stretches:
        _check_names(stretch.parameters, stretch.where, counterpart, of_model=False)
        for source in stretch.sources:
            _check_names(source.parameters, source.where, counterpart, of_model=True)
    _check_names(parameters, f"{where}: parameters", counterpart, of_model=False)

    reading = _Reading(where, counterpart, experts, base, parameters)
    vocabulary = _vocabulary(top, first, where, folder)
    if len(stretches) > 1 or stretches[0].layers is not None or reading.varies(stretches[0]):
        checkpoint = Checkpoint.open(first)
        if slices := _slices(stretches, checkpoint.layout.depth, first, experts, counterpart):
            try:
                resized = vocabulary != "same"
                opened = {name: open_expert(model, checkpoint, resized=resized) for name, model in experts.items()}
                checkpoint, _ = stack(checkpoint, opened, slices, vocabulary=not resized)
            except RecipeError as error:
                raise RecipeError(f"{where}: {str(error).removeprefix('models.')}") from error
        layout = checkpoint.layout
        spots = _spots(stretches, checkpoint.names, layout)
    else:
        layout, slices = None, ()
        spots = [_Spot("", stretches[0], 0.0)]
    options = reading.options(spots)
    ours = counterpart.ours
    if ours == "scaled":
        # Each slice shows its one model to all, the base included.
        options["model"] = "base" if slices else next(iter(experts))
        ours = "scaled" if any(reading.given("scale", spot) for spot in spots) else "passthrough"
    values = {} if ours == "passthrough" else {spot.name: reading.coefficients(spot) for spot in spots}
    filters = list(reading.filters(stretches))
    if report is not None:
        for text in filters:
            if not any(text in spot.name for spot in spots):
                report(f"filter {text!r} occurs in no tensor's name; it has no effect")
    groups = _groups(values, layout, filters, where)
    return Recipe(
        base=first,
        experts=experts,
        method=ours,
        groups=groups,
        options=options,
        dtype=_dtype(top, where),
        vocabulary=vocabulary,
        slices=slices,
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    """Resolves one file's parameters: of the model in its slice, else of the slice, else of the merge, else default."""

    where: str
    counterpart: Counterpart
    experts: Mapping[str, ModelReference]
    base: ModelReference | None
    parameters: Mapping[str, Any]

    def varies(self, stretch: _Stretch) -> bool:
        """Whether any parameter depends on a tensor's name or depth."""
        return any(
            isinstance(value, list | Mapping)
            for scope in (self.parameters, stretch.parameters, *(source.parameters for source in stretch.sources))
            for value in scope.values()
        )

    def filters(self, stretches: Iterable[_Stretch]) -> Iterable[str]:
        """Every text that a filter looks for in tensor names, once."""
        found: dict[str, None] = {}
        for stretch in stretches:
            for scope in (self.parameters, stretch.parameters, *(source.parameters for source in stretch.sources)):
                for value in scope.values():
                    for condition in conditions_of(value):
                        if isinstance(condition.get("filter"), str) and condition["filter"] != "*":
                            found[condition["filter"]] = None
        return found

    def coefficients(self, spot: _Spot) -> dict[str, Coefficient]:
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

    def options(self, spots: Sequence[_Spot]) -> dict[str, Any]:
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

    def given(self, name: str, spot: _Spot) -> bool:
        """Whether the file states a parameter for one tensor of any model."""
        sources = (None, *spot.stretch.sources)
        return any(self._resolve(name, spot, source, number=True) is not None for source in sources)

    def _number(self, name: str, default: float | None, spot: _Spot, source: _Source | None = None) -> float:
        value = self._resolve(name, spot, source, number=True)
        if value is None and default is None:
            of_model = f" for {source.model.path}" if source is not None else ""
            of_tensor = f", tensor {spot.name}" if spot.name else ""
            raise RecipeError(f"{self.where}: parameters.{name}: missing{of_model}{of_tensor}; this method needs it")
        return float(default if value is None else value)  # type: ignore[arg-type]

    def _switch(self, name: str, default: Setting, spot: _Spot) -> Setting:
        number = not isinstance(default, bool)
        value = self._resolve(name, spot, None, number=number)
        if value is None:
            return default
        return int(value) if number and isinstance(default, int) and float(value) == int(value) else value

    def _resolve(self, name: str, spot: _Spot, source: _Source | None, *, number: bool) -> Any:
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


def _refuse_unsupported(top: Mapping[str, Any], where: str) -> None:
    if top.get("modules") is not None:
        raise RecipeError(f"{where}: modules: merging modules separately isn't supported; give models or slices")
    if top.get("chat_template") is not None:
        raise RecipeError(
            f"{where}: chat_template: replacing it isn't supported; remove the key to keep the base's template"
        )
    if (top.get("models") is None) == (top.get("slices") is None):
        raise RecipeError(f"{where}: expected either models or slices")


def _refuse_other_files(text: str, where: str) -> None:
    """Say what a file is that is no recipe, but another of the files around merging."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError:
        return
    if not isinstance(data, dict) or "evomerge" in data:
        return
    if "genome" in data:
        raise RecipeError(
            f"{where}: is a search of mergekit-evolve; turn it into a config: evomerge init OUT --from {where}"
        )
    if "gate_mode" in data:
        raise RecipeError(f"{where}: makes a mixture of experts of dense models (mergekit-moe), which isn't supported")
    if "benchmark" in data:
        raise RecipeError(f"{where}: is the config of a search; run it with: evomerge search {where}")


def _refuse_other_adapters(stretches: Sequence[_Stretch], first: ModelReference) -> None:
    for stretch in stretches:
        for source in stretch.sources:
            if source.adapts is not None and source.adapts != first:
                raise RecipeError(
                    f"{source.where.removesuffix('.parameters')}.model: the adapter {source.model.path} is added to "
                    f"{source.adapts.path}, which isn't supported for another model than the base ({first.path}); "
                    "merge it into its model first"
                )


def _vocabulary(top: Mapping[str, Any], first: ModelReference, where: str, folder: Path | None) -> VocabularyPolicy:
    """Whose tokens the merge has. Without a word on it, models must share a vocabulary."""
    source, place = top.get("tokenizer_source"), f"{where}: tokenizer_source"
    if top.get("tokenizer") is not None:
        if source is not None:
            raise RecipeError(f"{where}: tokenizer_source: give either that or tokenizer, not both")
        tokenizer = mapping(top["tokenizer"], f"{where}: tokenizer", {"source", "tokens", "pad_to_multiple_of"})
        if tokenizer.get("tokens"):
            raise RecipeError(
                f"{where}: tokenizer.tokens: choosing rows of single tokens isn't supported; a token that a model "
                "lacks has the base's row, or else the mean of those that have it"
            )
        if tokenizer.get("pad_to_multiple_of"):
            raise RecipeError(
                f"{where}: tokenizer.pad_to_multiple_of: isn't supported; embeddings are padded as the base's are"
            )
        source, place = tokenizer.get("source", "union"), f"{where}: tokenizer.source"
    if source is None:
        return "same"
    if source == "union":
        return "union"
    if source != "base" and reference(source, place, folder) != first:
        raise RecipeError(
            f"{place}: {source!r}: expected base or union, or the model whose config and tokenizer the merge has "
            f"({first.path}); name that model as base_model"
        )
    return "base"


def _dtype(top: Mapping[str, Any], where: str) -> str:
    found = "auto"
    for key in ("dtype", "out_dtype"):
        value = top.get(key)
        if value is None:
            continue
        if value not in FLOATING:
            raise RecipeError(f"{where}: {key}: {unknown('dtype', str(value), FLOATING)}")
        found = str(value)
    return found


def _stretches(
    top: Mapping[str, Any], where: str, folder: Path | None
) -> tuple[tuple[_Stretch, ...], ModelReference | None]:
    """The stretches of layers that the file merges, and its base."""
    base = top.get("base_model")
    base = None if base is None else reference(base, f"{where}: base_model", folder)
    if top.get("models") is not None:
        sources = [
            _source(entry, f"{where}: models[{index}]", {"model", "parameters"}, folder)
            for index, entry in enumerate(sequence(top["models"], f"{where}: models"))
        ]
        if base is not None and all(source.model != base for source in sources):
            sources.append(_Source(model=base, where=f"{where}: base_model", parameters={}))
        _refuse_twice(sources)
        return (_Stretch(layers=None, sources=tuple(sources), where=f"{where}: parameters", parameters={}),), base

    stretches: list[_Stretch] = []
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


def _stretch(data: Mapping[str, Any], where: str, folder: Path | None, start: int) -> _Stretch:
    """One slice, whose layers follow after those before `start`."""
    sources: list[_Source] = []
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
            raise RecipeError(f"{place}.layer_range: expected [first, end], end not included, got {span!r}")
        sources.append(replace(source, layers=(span[0], span[1] - 1)))
    _refuse_twice(sources)
    lengths = [last - first + 1 for first, last in (source.layers or (0, -1) for source in sources)]
    if len(set(lengths)) > 1:
        raise RecipeError(f"{where}.sources: {' and '.join(map(str, lengths))} layers; a slice needs as many of each")
    return _Stretch(
        layers=(start, start + lengths[0] - 1),
        sources=tuple(sources),
        where=f"{where}.parameters",
        parameters=parameters_of(data.get("parameters"), f"{where}.parameters"),
    )


def _source(entry: Any, where: str, known: set[str], folder: Path | None) -> _Source:
    data = mapping(entry, where, known)
    model, adapter = with_adapter(data.get("model"), f"{where}.model", folder)
    return _Source(
        model=model if adapter is None else adapter,
        adapts=None if adapter is None else model,
        where=f"{where}.parameters",
        parameters=parameters_of(data.get("parameters"), f"{where}.parameters"),
    )


def _refuse_twice(sources: Sequence[_Source]) -> None:
    models = [source.model for source in sources]
    for index, source in enumerate(sources):
        if source.model in models[:index]:
            raise RecipeError(f"{source.where.removesuffix('.parameters')}: {source.model.path} is listed twice")


def _slices(
    stretches: Sequence[_Stretch],
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


def _models(sources: Iterable[_Source]) -> set[ModelReference]:
    return {source.model for source in sources}


def _experts(
    stretches: Sequence[_Stretch],
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


def _stacked(stretches: Sequence[_Stretch], first: ModelReference, where: str) -> dict[str, ModelReference]:
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


def _spots(stretches: Sequence[_Stretch], names: Iterable[str], layout: Layout) -> list[_Spot]:
    """Where every tensor stands. Outside the layers, mergekit's position is 0, before and after them."""
    spots = []
    for name in names:
        place = layout.place(name)
        for stretch in stretches:
            first, last = stretch.layers or (0, layout.depth - 1)
            if first <= place.layer <= last:
                within = layout.stem is not None and name.startswith(f"{layout.stem}.")
                depth = (place.layer - first) / (last - first) if last > first else 1.0
                spots.append(_Spot(name, stretch, depth if within else 0.0))
                break
    return spots


def _groups(
    values: Mapping[str, Mapping[str, Coefficient]], layout: Layout | None, filters: list[str], where: str
) -> tuple[Group, ...]:
    """Groups that give every tensor its coefficients, by layers alone where that is enough."""
    distinct: list[Mapping[str, Coefficient]] = []
    for value in values.values():
        if value not in distinct:
            distinct.append(value)
    if len(distinct) <= 1:
        return tuple(Group(name="all", coefficients=value) for value in distinct)
    assert layout is not None
    inside = [f"{layout.stem}."]
    for parts in ([], inside, filters, [*filters, *inside]):
        cells: dict[tuple[str, ...], dict[int, Mapping[str, Coefficient]]] = {}
        for name, value in values.items():
            layers = cells.setdefault(tuple(part for part in parts if part in name), {})
            if layers.setdefault(layout.place(name).layer, value) != value:
                break
        else:
            return tuple(_ordered(cells))
    raise RecipeError(f"{where}: its parameters can't be told apart by layers and filters")


def _ordered(cells: Mapping[tuple[str, ...], Mapping[int, Mapping[str, Coefficient]]]) -> Iterable[Group]:
    """Groups with more parts of names first, since a tensor belongs to the first group that contains it."""
    for parts, layers in sorted(cells.items(), key=lambda cell: -len(cell[0])):
        runs: list[tuple[list[int], Mapping[str, Coefficient]]] = []
        for layer, value in sorted(layers.items()):
            if runs and runs[-1][1] == value:
                runs[-1][0].append(layer)
            else:
                runs.append(([layer], value))
        for found, value in runs:
            everywhere = len(runs) == 1
            span = "all layers" if everywhere else f"layers {found[0]}-{found[-1]}"
            yield Group(
                name=", ".join((span, *parts)),
                layers=None if everywhere else (found[0], found[-1]),
                names=parts or None,
                coefficients=value,
            )


def _check_names(parameters: Mapping[str, Any], where: str, counterpart: Counterpart, *, of_model: bool) -> None:
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
