"""An expert's changes on another base: its task vector, moved with the maps that bring the old base to the new one.

θ_B + α · π(θ_E − θ_A), where π brings A to B (TransFusion, 2025, arXiv:2505.22697).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.alignment.base import Progress
from evomerge.errors import AlignmentError
from evomerge.files.fresh_folder import refuse_taken
from evomerge.files.places import local
from evomerge.materialise.folder import write_folder
from evomerge.models.aligned import moving
from evomerge.models.alignment import Alignable, cosine
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.hub import is_adapter, is_compressed, resolve
from evomerge.recipe.align import BASE, Align, asked_besides, spec_content
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference

OLD, EXPERT = "old_base", "expert"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebased:
    """An expert as it was written on its new base.

    Attributes:
        folder: where it is.
        labels: sets of units that maps may act on.
        moved: how many of them were moved.
        before: cosine of the old base's weights with the new one's, as one vector, before alignment.
        after: the same after it.
        notes: what a person should know of it, a sentence each.
    """

    folder: Path
    labels: int
    moved: int
    before: float
    after: float
    notes: tuple[str, ...]


def rebase(
    expert: ModelReference | str | Path,
    old: ModelReference | str | Path,
    new: ModelReference | str | Path,
    out: str | Path,
    *,
    scale: float = 1.0,
    method: str = "weight_matching",
    options: Mapping[str, Any] | None = None,
    residual: str | None = None,
    spec: str | Path | Mapping[str, Any] | None = None,
    seed: int = 0,
    shard_size: str | int = "5GB",
    progress: Progress | None = None,
    writing: Callable[[int, int], None] | None = None,
) -> Rebased:
    """Move what an expert learnt from its own base to another base of the same architecture.

    The folder has a recipe that makes it again, and the maps. That the old base's units are found in the new one says
    nothing of whether the expert's changes help there: score it.

    Args:
        expert: tuned from `old`: a whole model.
        old: the expert's own base.
        new: the base to move to, whose config and tokenizer the folder has.
        out: the folder to make; it must not exist, or be empty.
        scale: factor of the changes, α; 0 makes the new base.
        method: a registered alignment method.
        options: the method's, by name.
        residual: as in `align`.
        spec: as in `align`.
        seed: of what is random in the method.
        shard_size: largest weight file.
        progress: called with steps done and in all while maps are found.
        writing: called with bytes written and bytes in all.

    Raises: AlignmentError, CheckpointError: for models that can't be aligned, or an expert that isn't a whole model;
        ExportError: `out` is taken or can't be written.
    """
    out = local(out).absolute()
    refuse_taken(out)
    references = {BASE: _reference(new), OLD: _reference(old), EXPERT: _reference(expert)}
    if is_adapter(folder := resolve(references[EXPERT])) or is_compressed(folder):
        raise AlignmentError(
            f"{folder}: changes its base and isn't a whole model; make one of it first, by a recipe over its base with "
            "the method passthrough and the option model naming it"
        )
    models = {name: Checkpoint.open(reference) for name, reference in references.items()}
    if models[OLD].folder.resolve() == models[EXPERT].folder.resolve():
        raise AlignmentError(f"{models[EXPERT].folder}: is named as the expert and as its base, so nothing changed")
    if models[OLD].folder.resolve() == models[BASE].folder.resolve():
        raise AlignmentError(f"{models[BASE].folder}: is named as the expert's base and as the one to move to")
    align = Align(
        method=method,
        options=dict(options or {}),
        reference=BASE,
        residual=residual,
        spec=spec_content(spec, AlignmentError),
        seed=seed,
    )
    if (wrong := asked_besides(align.to_data())) is not None:
        raise AlignmentError(wrong)
    pair = Alignable(align=align, models={BASE: models[BASE], OLD: models[OLD]})
    every = Alignable(align=align, models=models)
    every.check()
    found = pair.find(progress).maps
    recipe = Recipe(
        base=references[BASE],
        experts={OLD: references[OLD], EXPERT: references[EXPERT]},
        align=align,
        method="task_arithmetic",
        groups=(Group(name="all", coefficients={"weight": {OLD: -scale, EXPERT: scale}}),),
    )
    notes: list[str] = []
    write_folder(
        recipe,
        out,
        shard_size=shard_size,
        progress=writing,
        report=notes.append,
        # The expert's units lie as its base's do, so that one map is for both.
        maps=every.to_bytes({**found, EXPERT: found[OLD]}),
    )
    similarities = pair.similarities(OLD, found[OLD]).values()
    return Rebased(
        folder=out,
        labels=len(pair.frame.spec.labels),
        moved=len(moving(pair.frame.spec, found[OLD])),
        before=cosine(similarities, "before"),
        after=cosine(similarities, "after"),
        notes=tuple(note for note in notes if not note.startswith("tensors: ")),
    )


def _reference(model: ModelReference | str | Path) -> ModelReference:
    return model if isinstance(model, ModelReference) else ModelReference(path=str(model))
