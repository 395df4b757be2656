"""Models trained apart, written as folders in which their units lie as a reference's do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from evomerge.alignment.base import Progress
from evomerge.errors import AlignmentError
from evomerge.files.atomic import json_text
from evomerge.files.fresh_folder import refuse_taken
from evomerge.files.places import local
from evomerge.materialise.folder import write_folder
from evomerge.models.aligned import moving
from evomerge.models.alignment import Alignable, Found, Similarity, cosine
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.align import BASE, Align, asked_besides, spec_content
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.study.refine import STEPS, Refinement, lessons, refined

_REFERENCE = "reference"
REPORT = "alignment/report.json"
_WHEN: tuple[Literal["before", "after"], ...] = ("before", "after")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedModel:
    """One model as it was written.

    Attributes:
        name: of its folder.
        folder: where it is.
        labels: the labels that maps may act on.
        moved: how many of them were moved.
        before: cosine of its weights with the reference's, as one vector, before alignment.
        after: the same after it.
        by_kind: the same by kind of module, such as "attention", before and after.
        notes: what a person should know of it, a sentence each.
        refinement: what refining its maps gained; None: they weren't refined.
    """

    name: str
    folder: Path
    labels: int
    moved: int
    before: float
    after: float
    by_kind: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refinement: Refinement | None = None


def align(
    reference: ModelReference | str | Path,
    models: Sequence[ModelReference | str | Path],
    out: str | Path,
    *,
    method: str = "weight_matching",
    options: Mapping[str, Any] | None = None,
    residual: str | None = None,
    heads: bool = True,
    rotations: bool = True,
    hidden: bool = True,
    spec: str | Path | Mapping[str, Any] | None = None,
    seed: int = 0,
    text: str | Path | None = None,
    steps: int = STEPS,
    dtype: str = "auto",
    shard_size: str | int = "5GB",
    carry_code: bool = False,
    progress: Progress | None = None,
    refining: Progress | None = None,
    writing: Callable[[int, int], None] | None = None,
) -> list[AlignedModel]:
    """Align models with a reference, and write each as a folder that transformers loads and that computes the same.

    Args:
        reference: the model that stays as it is: a folder in Hugging Face layout or a hub id.
        models: those that are brought to it, of the same architecture.
        out: the folder to make, with a folder for each model by its name. Where norms are folded, the reference has
            one too, since only its folded form can be merged with theirs.
        method: a registered alignment method, such as "weight_matching", "merge_many" or "c2m3".
        options: the method's, by name.
        residual: what may act on the residual stream: "none", "permutation", "signed" or "orthogonal", which folds
            the norms; None: the most that keeps the model stored as it is.
        heads: whether attention heads may change places.
        rotations: whether heads may be turned inside.
        hidden: whether hidden units may change places.
        spec: a spec of one's own instead of the architecture's, as a YAML or JSON file or as what it says.
        seed: of what is random in the method.
        text: a file of plain text to refine the maps on, see `refined`; None: they stay as the method finds them.
        steps: of refining each model's maps.
        dtype: in which the models are written; "auto": each in its own.
        shard_size: largest weight file.
        carry_code: take Python files of each model along. They aren't run here.
        progress: called with steps done and in all while maps are found.
        refining: called with steps done and in all while maps are refined.
        writing: called with bytes written and bytes in all of each folder.

    Returns: what was written, in the order of `models`; the reference last where it was.

    Raises: AlignmentError, CheckpointError: for models that can't be aligned so; ExportError: `out` is taken or can't
        be written.
    """
    out = local(out).absolute()
    refuse_taken(out)
    fixed, given = Checkpoint.open(reference), [Checkpoint.open(model) for model in models]
    names = _names([fixed, *given])
    asked = Align(
        method=method,
        options=dict(options or {}),
        reference=names[0],
        residual=residual,
        heads=heads,
        rotations=rotations,
        hidden=hidden,
        spec=spec_content(spec, AlignmentError),
        seed=seed,
    )
    if (wrong := asked_besides(asked.to_data())) is not None:
        raise AlignmentError(wrong)
    kin = Alignable(align=asked, models=dict(zip(names, [fixed, *given], strict=True)))
    # Before maps are found, which takes long.
    on = None if text is None else lessons(text, fixed, steps)
    found, gains = kin.find(progress), dict[str, Refinement]()
    if on is not None:
        found, gains = refined(kin, found, on, progress=refining)
    written = [*names[1:], *([names[0]] if kin.frame.folding is not None else [])]
    return [
        _write(
            kin,
            found,
            name,
            gains.get(name),
            out / name,
            dtype=dtype,
            shard_size=shard_size,
            code=carry_code,
            writing=writing,
        )
        for name in written
    ]


def _names(models: Sequence[Checkpoint]) -> list[str]:
    """A name for each model, from its folder.

    Raises: AlignmentError if a model is named twice, or the reference among the models.
    """
    folders = [model.folder.resolve() for model in models]
    if len(folders) < 2:
        raise AlignmentError("name at least one model to align with the reference")
    if folders[0] in folders[1:]:
        raise AlignmentError(f"{models[0].folder}: is the reference, which stays as it is; leave it out of the models")
    names: list[str] = []
    for number, (model, folder) in enumerate(zip(models, folders, strict=True)):
        if folder in folders[:number]:
            raise AlignmentError(f"{model.folder}: is named twice")
        own = Path(model.reference.path).name or folder.name
        names.append(own if own not in names else f"{own}-{number}")
    return names


def _write(
    kin: Alignable,
    found: Found,
    name: str,
    refinement: Refinement | None,
    folder: Path,
    *,
    dtype: str,
    shard_size: str | int,
    code: bool,
    writing: Callable[[int, int], None] | None,
) -> AlignedModel:
    """One model under its maps, with those and a report of what they gain."""
    fixed, model = kin.align.reference, kin.models[name]
    # A recipe of this model alone, which makes the folder again.
    own = replace(kin.align, reference=_REFERENCE)
    pair = Alignable(align=own, models={BASE: model, _REFERENCE: kin.models[fixed]})
    maps = {_REFERENCE: found.maps[fixed], BASE: found.maps[name]}
    recipe = Recipe(
        base=model.reference,
        experts={_REFERENCE: kin.models[fixed].reference},
        align=own,
        method="passthrough",
        options={"model": BASE},
        dtype=dtype,
    )
    similarities = kin.similarities(name, found.maps[name])
    notes: list[str] = []
    write_folder(
        recipe,
        folder,
        shard_size=shard_size,
        progress=writing,
        report=notes.append,
        carry_code=code,
        maps=pair.to_bytes(maps),
        files={REPORT: _report(kin, found, name, similarities, refinement)},
    )
    return AlignedModel(
        name=name,
        folder=folder,
        labels=len(kin.frame.spec.labels),
        moved=len(moving(kin.frame.spec, found.maps[name])),
        before=cosine(similarities.values(), "before"),
        after=cosine(similarities.values(), "after"),
        by_kind=_by_kind(kin.reference, similarities),
        notes=tuple(note for note in notes if not note.startswith("tensors: ")),
        refinement=refinement,
    )


def _report(
    kin: Alignable,
    found: Found,
    name: str,
    similarities: Mapping[str, Similarity],
    refinement: Refinement | None,
) -> str:
    """What was asked, what was found, and what it gained: by step, by tensor and in all."""
    steps = [step for model, step in found.history if model == name]
    return json_text(
        {
            "align": {**kin.align.to_data(), "seed": kin.align.seed},
            **({} if refinement is None else {"refinement": asdict(refinement)}),
            "similarity": {key: cosine(similarities.values(), key) for key in _WHEN},
            "kinds": {
                kind: dict(zip(_WHEN, values, strict=True))
                for kind, values in _by_kind(kin.reference, similarities).items()
            },
            "moved": sorted(moving(kin.frame.spec, found.maps[name])),
            "steps": [{"round": step.round, "label": step.label, "gain": step.gain} for step in steps],
            "tensors": {
                tensor: {key: cosine([similarity], key) for key in _WHEN} for tensor, similarity in similarities.items()
            },
        }
    )


def _by_kind(reference: Checkpoint, similarities: Mapping[str, Similarity]) -> dict[str, tuple[float, float]]:
    kinds: dict[str, list[Similarity]] = {}
    for name, similarity in similarities.items():
        kinds.setdefault(reference.layout.place(name).kind, []).append(similarity)
    return {kind: (cosine(each, "before"), cosine(each, "after")) for kind, each in kinds.items()}
