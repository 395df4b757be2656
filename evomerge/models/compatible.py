"""Whether experts fit a base, from headers and tokenizers alone."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.errors import CheckpointError, listed
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.headers import sides
from evomerge.models.names import match_names
from evomerge.models.vocabulary_checks import VOCABULARY_ADVICE, token_problems


def check_compatible(base: Checkpoint, experts: Mapping[str, Checkpoint], *, vocabulary: bool = True) -> None:
    """Find everything that keeps experts from being merged with the base, from headers and tokenizers alone.

    Args:
        base: the model that the others are to fit.
        experts: by name.
        vocabulary: False leaves out their vocabularies, and the sides that have one entry per token.

    Raises: CheckpointError naming each expert and each difference: architecture, depth, width,
    vocabulary, missing or extra tensors, shapes.
    """
    problems = [
        f"expert {name!r}: {problem}"
        for name, expert in experts.items()
        for problem in _differences(base, expert, vocabulary)
    ]
    if problems:
        raise CheckpointError("\n".join(problems))


def _differences(base: Checkpoint, expert: Checkpoint, vocabulary: bool) -> list[str]:
    where = expert.folder
    if (base.model_type, base.architecture) != (expert.model_type, expert.architecture) and (
        base.model_type != expert.model_type or None not in (base.architecture, expert.architecture)
    ):
        return [
            f"{where}: is a {expert.architecture} ({expert.model_type}), the base is a "
            f"{base.architecture} ({base.model_type}); merge models of one architecture"
        ]
    try:
        expert_depth, base_depth = expert.layout.depth, base.layout.depth
    except CheckpointError as error:
        return [str(error)]
    found = []
    own, labels = _labels(base), _labels(expert)
    if own and labels and own != labels:
        found.append(
            f"{where}: its labels are {', '.join(labels)}, the base's {', '.join(own)} (id2label in config.json); "
            "one output would mean two things"
        )
    if expert_depth != base_depth:
        found.append(f"{where}: has {expert_depth} layers, the base has {base_depth}")
    # A table with a row per token has two sides; that of an image's positions may have more.
    if all(model.embedding is not None and len(model.embedding.shape) == 2 for model in (base, expert)):
        assert base.embedding is not None
        assert expert.embedding is not None
        (base_rows, *base_width), (rows, *width) = base.embedding.shape, expert.embedding.shape
        if width != base_width:
            found.append(f"{where}: is {sides(width)} wide, the base {sides(base_width)} ({base.embedding.name})")
        if vocabulary and rows != base_rows:
            found.append(
                f"{where}: its embedding has {rows} tokens, the base's has {base_rows} ({base.embedding.name}); "
                f"{VOCABULARY_ADVICE}"
            )
    if found:
        return found
    try:
        names = match_names(base, expert)
    except CheckpointError as error:
        return [str(error)]
    exempt = frozenset() if vocabulary else frozenset(base.token_tensors)
    shapes = [
        f"{expert_name} {sides(expert.tensors[expert_name].shape)} (base {sides(info.shape)})"
        for name, expert_name in names.items()
        if expert.tensors[expert_name].shape[1 if name in exempt else 0 :]
        != (info := base.tensors[name]).shape[1 if name in exempt else 0 :]
    ]
    if shapes:
        found.append(f"{where}: shapes differ from the base's: {listed(shapes)}")
    kinds = [
        name
        for name, expert_name in names.items()
        if base.tensors[name].kind.is_floating_point != expert.tensors[expert_name].kind.is_floating_point
    ]
    if kinds:
        found.append(f"{where}: integers in one model and floating-point numbers in the other: {listed(kinds)}")
    return found + (token_problems(base, expert) if vocabulary else [])


def _labels(model: Checkpoint) -> list[str]:
    """Names of a classifier's labels in the order of its outputs; empty where none has a name of its own."""
    named = model.config.get("id2label")
    if "Classification" not in (model.architecture or "") or not isinstance(named, Mapping):
        return []
    names = [str(name) for _, name in sorted(named.items(), key=lambda pair: int(pair[0]))]
    return [] if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names
