"""One merge, without a search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evomerge.errors import ExportError
from evomerge.files.fresh_folder import refuse_taken
from evomerge.files.places import local
from evomerge.late import torch
from evomerge.materialise.folder import RECIPE, write_folder
from evomerge.mergekit.read import load_recipe
from evomerge.mergekit.several import several_merges
from evomerge.models.card_facts import CARD
from evomerge.recipe.portable import portable
from evomerge.recipe.recipe import Recipe
from evomerge.report.merge_card import merge_card
from evomerge.study.about import about_models


def merge(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    shard_size: str | int = "5GB",
    progress: Callable[[int, int], None] | None = None,
    report: Callable[[str], None] | None = None,
    device: torch.device | str = "cpu",
    carry_code: bool = False,
    name: str | None = None,
) -> Path:
    """Realise a recipe as a model folder that transformers loads.

    A model may be another merge: a recipe or mergekit file, or another merge of the same file, by its name. Those that
    are needed are made first, as OUT-NAME beside `out`, and stay there; one that is there from the same recipe is taken
    as it is.

    Args:
        recipe: the merge, whose paths are from the current folder, or the path of a recipe or mergekit file.
        out: the folder to make; it must not exist, or be empty.
        shard_size: largest weight file, such as "5GB", "500MB" or a number of bytes.
        progress: called with bytes written and bytes in all after each tensor.
        report: called with each sentence that a person should know, before anything is written.
        device: where tensors are merged.
        carry_code: take Python files of the base along, and the `auto_map` that names them. They aren't run here.
        name: of the merge to make, in a file that holds several; None: the one that ends it.

    Returns: `out` as a path.

    Raises: ExportError, CheckpointError, RecipeError, MergeError: as `write_folder`.
    """
    out = local(out).absolute()
    return merge_each(
        recipe if isinstance(recipe, Recipe) else Path(recipe),
        out,
        lambda step: out.with_name(f"{out.name}-{step}"),
        shard_size=shard_size,
        progress=progress,
        report=report,
        device=device,
        carry_code=carry_code,
        name=name,
    )


def merge_each(
    source: Recipe | Path,
    out: Path,
    place: Callable[[str], Path],
    *,
    shard_size: str | int = "5GB",
    progress: Callable[[int, int], None] | None = None,
    report: Callable[[str], None] | None = None,
    device: torch.device | str = "cpu",
    carry_code: bool = False,
    name: str | None = None,
    found: Callable[[str | None, Recipe], None] | None = None,
) -> Path:
    """As `merge`, for whoever says where the merges lie that are needed first: in `place` of their names.

    `found` is called before each merge is made, with its name, or None for the one that was asked for, and its recipe,
    which names folders in the place of merges.
    """

    def write(step: str | None, recipe: Recipe, folder: Path) -> Path:
        if found is not None:
            found(step, recipe)
        return write_folder(
            recipe,
            folder,
            shard_size=shard_size,
            progress=progress,
            report=report,
            device=device,
            carry_code=carry_code,
            files={CARD: merge_card(recipe, name=folder.name, about=about_models(recipe.references))},
        )

    steps = several_merges(source, name=name)
    if not steps:
        return write(None, source if isinstance(source, Recipe) else load_recipe(source, report=report), out)
    # Before the merges that this one needs are made.
    refuse_taken(out)
    made: dict[str, Path] = {}
    for step in steps[:-1]:
        assert step.name is not None
        made[step.name] = folder = place(step.name)
        recipe = step.recipe(made, report=report)
        if _holds(folder, recipe):
            _refuse_outdated(folder, [made[need] for need in step.needs.values()])
            _say(report, f"{step.name} is in {folder} from the same recipe, and is taken as it is")
        else:
            write(step.name, recipe, folder)
            _say(report, f"{step.name}, which another merge needs, is in {folder}")
    return write(None, steps[-1].recipe(made, report=report), out)


def _holds(folder: Path, recipe: Recipe) -> bool:
    """Whether the folder was made from this recipe; folders appear whole."""
    try:
        return (folder / RECIPE).read_text(encoding="utf-8") == portable(recipe, folder).to_yaml()
    except (OSError, UnicodeDecodeError):
        return False


def _refuse_outdated(folder: Path, needed: list[Path]) -> None:
    """Raises: ExportError for a merge that is older than one of those whose results it merges."""
    age = (folder / RECIPE).stat().st_mtime_ns
    for other in needed:
        if (other / RECIPE).stat().st_mtime_ns > age:
            raise ExportError(f"{folder}: is older than {other.name}, which it merges; remove it to have it made again")


def _say(report: Callable[[str], None] | None, sentence: str) -> None:
    if report is not None:
        report(sentence)
