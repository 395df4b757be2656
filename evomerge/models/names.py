"""The same tensor's name in two models of a family."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.errors import CheckpointError, listed
from evomerge.models.checkpoint import Checkpoint


def match_names(base: Checkpoint, other: Checkpoint) -> dict[str, str]:
    """For each tensor of the base, the name of the same tensor in another model of the family.

    Names may differ by the base model's prefix ("h.0..." and "transformer.h.0..."). Where the other
    ties its head to the embedding and the base doesn't, the head is the embedding. Tensors that transformers leaves
    unread are left out where only one of the two has them.

    Raises: CheckpointError naming the tensors that only one of them has.
    """
    return _matched(base, other, base.names, _without_prefix_difference(base, other))


def match_outer_names(base: Checkpoint, other: Checkpoint) -> dict[str, str]:
    """The same for the tensors outside the layers alone, so that their numbers may differ. Raises: CheckpointError."""
    names = tuple(name for name in base.names if base.layout.split(name) is None)
    renamed = _without_prefix_difference(base, other)
    outside = {name: own for name, own in renamed.items() if other.layout.split(own) is None}
    matched = _matched(base, other, names, outside)
    if lost := [name for name in base.token_tensors if name not in matched]:
        raise CheckpointError(f"{other.folder}: lacks {listed(lost)}, which has a row per token")
    return matched


def _matched(base: Checkpoint, other: Checkpoint, names: tuple[str, ...], renamed: Mapping[str, str]) -> dict[str, str]:
    """The other's name for each of the base's `names`, from its own names as the base would write them."""
    matched = {name: renamed[name] for name in names if name in renamed}
    missing = [name for name in names if name not in renamed]
    extra = [renamed[name] for name in renamed if name not in base.tensors]
    # A model's class is asked for what it leaves unread where nothing else explains the difference.
    if missing and (base.head is None or missing != [base.head.name]):
        missing = [name for name in missing if name not in base.unread]
    if extra and (other.head is None or extra != [other.head.name]):
        extra = [name for name in extra if name not in other.unread]
    if base.head is not None and other.head is None and missing == [base.head.name] and other.embedding is not None:
        matched[base.head.name] = other.embedding.name
        missing = []
    if base.head is None and other.head is not None and extra == [other.head.name]:
        raise CheckpointError(
            f"{other.folder}: has an output head of its own ({other.head.name}), while the base ties its head to the "
            "embedding; untie the base (store its head and set tie_word_embeddings to false) to merge them"
        )
    problems = []
    if missing:
        problems.append(f"lacks {listed(missing)}")
    if extra:
        problems.append(f"has {listed(extra)}, which the base hasn't")
    if problems:
        raise CheckpointError(f"{other.folder}: {'; '.join(problems)}")
    return {name: matched[name] for name in names if name in matched}


def _without_prefix_difference(base: Checkpoint, other: Checkpoint) -> dict[str, str]:
    """Names of `other` by the name that the base's own prefix would give them."""
    ours, theirs = base.layout.stem, other.layout.stem
    if ours == theirs or ours is None or theirs is None:
        return {name: name for name in other.names}
    if ours.endswith(f".{theirs}"):
        prefix = ours.removesuffix(theirs)
        return {name if name in base.tensors else prefix + name: name for name in other.names}
    if theirs.endswith(f".{ours}"):
        prefix = theirs.removesuffix(ours)
        return {name.removeprefix(prefix): name for name in other.names}
    return {name: name for name in other.names}
