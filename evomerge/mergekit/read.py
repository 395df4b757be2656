"""mergekit's merge files as recipes.

Every key either means here what it means in mergekit or is refused by name. What a file says per
filter and per depth becomes groups, each with the numbers that mergekit would have used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import RecipeError, unknown
from evomerge.files.outside import read_text
from evomerge.mergekit.documents import documents_of, mapping, parsed, reference
from evomerge.mergekit.methods import BY_THEIRS
from evomerge.mergekit.modules import unread_ranges, without_modules
from evomerge.mergekit.reading import Reading, check_names
from evomerge.mergekit.settings import parameters_of
from evomerge.mergekit.stretches import Spot, Stretch, experts_of, slices_of, spots_of, stretches_of
from evomerge.models.architecture import Layout
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import open_expert
from evomerge.models.stack import stack
from evomerge.recipe.group import Coefficient, Group
from evomerge.recipe.recipe import FLOATING, Recipe
from evomerge.recipe.sources import ModelReference, VocabularyPolicy

_TOP = {
    "name", "merge_method", "models", "slices", "modules", "base_model", "dtype", "out_dtype", "tokenizer_source",
    "tokenizer", "chat_template", "parameters",
}  # fmt: skip


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
    documents = documents_of(read_text(path, RecipeError), str(path))
    if len(documents) > 1:
        raise RecipeError(
            f"{path}: holds {len(documents)} merges, as for mergekit-multi; make them, one after the other, with: "
            f"evomerge merge {path} OUT"
        )
    data = documents[0] if documents else None
    if _is_merge(data):
        return from_data(data, where=str(path), folder=path.parent, report=report)
    _refuse_other_files(data, str(path))
    return Recipe.from_data(data, where=str(path)).relative_to(path.parent)


def is_mergekit(text: str) -> bool:
    """Whether this is one of mergekit's merge files, to judge by its keys."""
    try:
        return _is_merge(parsed(text, "mergekit file"))
    except RecipeError:
        return False


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
    return from_data(parsed(text, where), where=where, folder=folder, report=report)


def _is_merge(data: Any) -> bool:
    return isinstance(data, dict) and "merge_method" in data and "evomerge" not in data


def from_data(
    data: Any, *, where: str, folder: Path | None = None, report: Callable[[str], None] | None = None
) -> Recipe:
    """The recipe that a merge file's plain data describes: see `read_mergekit`."""
    top = without_modules(mapping(data, where, _TOP), where)
    method = top.get("merge_method")
    if not isinstance(method, str) or method not in BY_THEIRS:
        raise RecipeError(f"{where}: merge_method: {unknown('mergekit method', str(method), BY_THEIRS)}")
    counterpart = BY_THEIRS[method]
    _refuse_unsupported(top, where)
    if report is not None:
        for note in unread_ranges(top):
            report(note)
    stretches, base = stretches_of(top, where, folder)
    first = base or stretches[0].sources[0].adapts or stretches[0].sources[0].model
    _refuse_other_adapters(stretches, first)
    experts = experts_of(stretches, base, first, counterpart, where)
    parameters = parameters_of(top.get("parameters"), f"{where}: parameters")
    for stretch in stretches:
        check_names(stretch.parameters, stretch.where, counterpart, of_model=False)
        for source in stretch.sources:
            check_names(source.parameters, source.where, counterpart, of_model=True)
    check_names(parameters, f"{where}: parameters", counterpart, of_model=False)

    reading = Reading(where, counterpart, experts, base, parameters)
    vocabulary = _vocabulary(top, first, where, folder)
    if len(stretches) > 1 or stretches[0].layers is not None or reading.varies(stretches[0]):
        checkpoint = Checkpoint.open(first)
        if slices := slices_of(stretches, checkpoint.layout.depth, first, experts, counterpart):
            try:
                resized = vocabulary != "same"
                opened = {name: open_expert(model, checkpoint, resized=resized) for name, model in experts.items()}
                checkpoint, _ = stack(checkpoint, opened, slices, vocabulary=not resized)
            except RecipeError as error:
                raise RecipeError(f"{where}: {str(error).removeprefix('models.')}") from error
        layout = checkpoint.layout
        spots = spots_of(stretches, checkpoint.names, layout)
    else:
        layout, slices = None, ()
        spots = [Spot("", stretches[0], 0.0)]
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


def _refuse_unsupported(top: Mapping[str, Any], where: str) -> None:
    if top.get("chat_template") is not None:
        raise RecipeError(
            f"{where}: chat_template: replacing it isn't supported; remove the key to keep the base's template"
        )
    if (top.get("models") is None) == (top.get("slices") is None):
        raise RecipeError(f"{where}: expected either models or slices")


def _refuse_other_files(data: Any, where: str) -> None:
    """Say what a file is that is no recipe, but another of the files around merging."""
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


def _refuse_other_adapters(stretches: Sequence[Stretch], first: ModelReference) -> None:
    for stretch in stretches:
        for source in stretch.sources:
            if source.adapts is not None and source.adapts != first:
                raise RecipeError(
                    f"{source.where.removesuffix('.parameters')}.model: the adapter {source.model.path} is added to "
                    f"{source.adapts.path}, which is another model than the base ({first.path}); that is a merge of "
                    "its own, which evomerge merge makes first"
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
