"""The models of one merge, opened together: the base, and experts that fit it tensor by tensor.

What reads adapters and compressed experts, and what aligns, is loaded for those alone: their arithmetic is torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from evomerge.errors import AlignmentError, CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.config_differences import config_differences, described
from evomerge.models.head import with_head
from evomerge.models.hub import is_adapter, is_compressed, resolve
from evomerge.models.stack import stack
from evomerge.models.vocabulary_checks import token_notes
from evomerge.recipe.align import Align
from evomerge.recipe.sources import ModelReference, Sources

if TYPE_CHECKING:
    from evomerge.alignment.base import Progress
    from evomerge.models.alignment import Alignable


class Models(NamedTuple):
    """A base and its experts by name, in the order in which they were given."""

    base: Checkpoint
    experts: Mapping[str, Checkpoint]

    @property
    def by_name(self) -> dict[str, Checkpoint]:
        """The base, as "base", and the experts."""
        return {"base": self.base, **self.experts}


def called_by_role(name: str) -> str:
    """What messages call "base" or an expert."""
    return "base" if name == "base" else f"expert {name!r}"


def open_expert(reference: ModelReference, base: Checkpoint, *, resized: bool = False) -> Checkpoint:
    """Open a whole model, a LoRA adapter of the base, or an expert that `evomerge compress` wrote.

    Args:
        reference: its folder, or a hub id, which is downloaded if it isn't cached.
        base: the model that an adapter or a compressed expert belongs to.
        resized: whether an adapter may bring tokens of its own.

    Raises: CheckpointError, as `Checkpoint.open`, `Adapter.open` and `CompressedExpert.open`.
    """
    folder = resolve(reference)
    if is_adapter(folder):
        from evomerge.models.lora import Adapter

        return Adapter.open(reference, base, resized=resized)
    if is_compressed(folder):
        from evomerge.models.compressed import CompressedExpert

        return CompressedExpert.open(reference, base=base)
    return Checkpoint.open(reference)


def open_each(sources: Sources, called: Callable[[str], str] = called_by_role) -> Models:
    """Open the base and every expert, whole, adapter or compressed, from their headers, each as it is on disk.

    Args:
        sources: of the merge.
        called: what a model, "base" or an expert, is called in messages.

    Raises: CheckpointError naming the model and what is wrong with it.
    """
    with _named(called("base")):
        base = Checkpoint.open(sources.base)
    experts = {}
    for name, reference in sources.experts.items():
        with _named(called(name)):
            experts[name] = open_expert(reference, base, resized=sources.vocabulary != "same")
    return Models(base, experts)


def open_models(sources: Sources, maps: bytes | None = None, *, progress: Progress | None = None) -> Models:
    """Open all models of a merge and show them as one family: aligned, the same tokens, the same layers.

    Everything that merges opens its models here, so that a search, its workers and an export see the same.

    Args:
        sources: of the merge.
        maps: of its alignment, as `Alignable.to_bytes` made them; None: from the file that `sources` name, or else
            they are found now.
        progress: told while they are.

    Raises: CheckpointError naming the model and what is wrong with it; RecipeError for slices of layers that
    aren't there; AlignmentError for models that can't be aligned.
    """
    return as_family(open_each(sources), sources, maps, progress=progress)


def alignable(models: Models, sources: Sources, align: Align) -> Alignable:
    """The opened models as they are to be aligned.

    Raises: AlignmentError, CheckpointError, for what can be seen without reading weights.
    """
    if sources.vocabulary != "same":
        raise AlignmentError(
            f"models.align: the rows of other vocabularies (vocabulary: {sources.vocabulary}) can't be compared; "
            "align models of one vocabulary"
        )
    from evomerge.models.alignment import Alignable

    found = Alignable(align=align, models=models.by_name)
    found.check()
    return found


def maps_of(models: Models, sources: Sources, *, progress: Progress | None = None) -> bytes | None:
    """The maps of the opened models, from the file that `sources` name, or found now; None if nothing is aligned.

    Raises: AlignmentError, CheckpointError.
    """
    if sources.align is None:
        return None
    if sources.align.maps is not None:
        from evomerge.models.alignment import read_maps

        return read_maps(sources.align)
    kin = alignable(models, sources, sources.align)
    return kin.to_bytes(kin.find(progress).maps)


def as_family(
    models: Models, sources: Sources, maps: bytes | None = None, *, progress: Progress | None = None
) -> Models:
    """The opened models, aligned, with the vocabulary, the layers and the head of the merge.

    With the vocabulary "same" every model keeps its own; "base" and "union" show all of them with the base's tokens,
    or with those of all, and read tokenizers for that.

    Raises: CheckpointError, RecipeError, AlignmentError, as `open_models`.
    """
    if sources.align is not None:
        kin = alignable(models, sources, sources.align)
        found = maps_of(models, sources, progress=progress) if maps is None else maps
        assert found is not None, "models that are aligned have maps"
        seen = kin.shown(kin.from_bytes(found, sources.align.maps or "the maps of the alignment"))
        return _unaligned_family(Models(seen.pop("base"), seen), sources)
    return _unaligned_family(models, sources)


def as_outlined_family(models: Models, sources: Sources) -> Models:
    """As `as_family`, before maps are found: names, shapes and settings are the family's, values the models' own.

    Raises: as `as_family`, for what can be seen without reading weights.
    """
    if sources.align is not None:
        seen = alignable(models, sources, sources.align).outlined()
        models = Models(seen.pop("base"), seen)
    return _unaligned_family(models, sources)


def _unaligned_family(models: Models, sources: Sources) -> Models:
    """The models with the vocabulary, the layers and the head of the merge."""
    if sources.vocabulary != "same":
        from evomerge.models.vocabulary import match_vocabularies

        if not sources.slices:
            check_compatible(*models, vocabulary=False)
        models = Models(*match_vocabularies(*models, sources.vocabulary))
    # After the vocabularies, since a stack may show the embedding of one model and the head of another.
    if sources.slices:
        models = Models(*stack(*models, sources.slices))
    return models if sources.head is None else Models(*with_head(*models, sources.head))


@contextmanager
def _named(model: str) -> Iterator[None]:
    """Say which of the models it is that can't be opened."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{model}: {error}") from error


def notes_of(models: Models) -> list[str]:
    """What a person should know of how the models become base and experts, a sentence each."""
    notes = list(models.base.notes)
    for name, expert in models.experts.items():
        notes += [f"expert {name!r}: {note}" for note in expert.notes]
        if differences := config_differences(models.base.config, expert.config):
            # A compressed expert can't be opened, and so not scored, without the base.
            its_own = not expert.original.is_whole
            notes.append(
                f"expert {name!r}: its config.json differs from the base's in what a model computes: "
                f"{described(differences)}; a merge has the base's" + (", and so has its own score" if its_own else "")
            )
    return [*notes, *token_notes(*models)]
