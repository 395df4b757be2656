"""The models of one merge, opened together: the base, and experts that fit it tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.compressed import CompressedExpert
from evomerge.models.hub import is_adapter, is_compressed, resolve
from evomerge.models.lora import Adapter
from evomerge.models.stack import stack
from evomerge.recipe.sources import ModelReference, Slice, VocabularyPolicy


class Models(NamedTuple):
    """A base and its experts by name, in the order in which they were given."""

    base: Checkpoint
    experts: Mapping[str, Checkpoint]


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
        return Adapter.open(reference, base, resized=resized)
    if is_compressed(folder):
        return CompressedExpert.open(reference, base=base)
    return Checkpoint.open(reference)


def open_models(
    base: ModelReference,
    experts: Mapping[str, ModelReference],
    *,
    vocabulary: VocabularyPolicy = "same",
    slices: Sequence[Slice] = (),
) -> Models:
    """Open the base and every expert, whole, adapter or compressed, from their headers.

    Everything that merges opens its models here, so that a search, its workers and an export see the same.

    Args:
        base: a whole model.
        experts: by name.
        vocabulary: "same" leaves every model its own; "base" and "union" show all of them with the base's tokens, or
            with those of all, and read tokenizers for that.
        slices: the layers of the merge, if they aren't those of the base.

    Raises: CheckpointError naming the model and what is wrong with it; RecipeError for slices of layers that
        aren't there.
    """
    resized = vocabulary != "same"
    with _named("base"):
        opened = Checkpoint.open(base)
    found = {}
    for name, reference in experts.items():
        with _named(f"expert {name!r}"):
            found[name] = open_expert(reference, opened, resized=resized)
    models = Models(opened, found)
    if resized:
        from evomerge.models.vocabulary import match_vocabularies

        if not slices:
            check_compatible(*models, vocabulary=False)
        models = Models(*match_vocabularies(*models, vocabulary))
    # After the vocabularies, since a stack may show the embedding of one model and the head of another.
    return Models(*stack(*models, slices)) if slices else models


@contextmanager
def _named(model: str) -> Iterator[None]:
    """Say which of the models it is that can't be opened."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{model}: {error}") from error


def notes_of(base: Checkpoint, experts: Mapping[str, Checkpoint]) -> list[str]:
    """What a person should know of how the models become base and experts, a sentence each."""
    return [
        *base.notes,
        *(f"expert {name!r}: {note}" for name, expert in experts.items() for note in expert.notes),
    ]
