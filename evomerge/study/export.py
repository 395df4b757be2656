"""Exporting: a trial of a run as a Hugging Face model folder with its recipe and an honest model card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evomerge.errors import RunError
from evomerge.materialise.folder import write_folder
from evomerge.materialise.states import folder_of
from evomerge.models.hub import resolve
from evomerge.recipe.recipe import Recipe
from evomerge.report.model_card import model_card
from evomerge.run.directory import PREPARED, Run, open_run
from evomerge.run.records import TrialRecord
from evomerge.study.inputs import check_same_models


def export(
    directory: str | Path,
    out: str | Path,
    *,
    trial: int | None = None,
    shard_size: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    report: Callable[[str], None] | None = None,
    carry_code: bool = False,
) -> Path:
    """Write the winner of a run, or a trial by number, as a model folder.

    Args:
        directory: the run directory.
        out: the folder to make; refused if it already holds something.
        trial: number of the trial; None takes the winner, or the best so far if the search hasn't ended.
        shard_size: largest size of a safetensors file, such as "5GB"; None takes the config's.
        progress: called with bytes written and bytes in all.
        report: called with each sentence that a person should know of the models, such as tokens that were added.
        carry_code: take Python files of the base along, and the `auto_map` that names them. They aren't run here.
    Returns: the folder.
    Raises: RunError if there is no such trial or none with a score, ExportError if `out` can't be
        written, CheckpointError if the run's models are gone or have changed.
    """
    run = open_run(directory)
    record = _chosen(run, trial)
    recipe = run.recipe(record.number)
    folders = {name: resolve(reference) for name, reference in run.config.models.sources().references.items()}
    check_same_models(run.directory, run.facts.get("files", {}), folders)
    if report is not None and trial is None and not run.has_ended():
        report(
            f"the search hasn't ended; trial {record.number} "
            + ("has the best search score so far" if run.result() is None else "won when its budget was smaller")
        )
    return write_folder(
        recipe,
        Path(out),
        shard_size=shard_size or run.config.export.shard_size,
        progress=progress,
        report=report,
        files={"README.md": model_card(run, record, recipe, name=Path(out).name)},
        states=_prepared(run),
        carry_code=carry_code,
    )


def _prepared(run: Run) -> Path:
    """Where the run's workers left what the method computes once, if they were on this machine or shared its disks."""
    given = run.config.execution.prepared_directory
    return run.directory / PREPARED if given is None else folder_of(given)


def recipe_of(directory: str | Path, *, trial: int | None = None) -> Recipe:
    """The recipe of the winner of a run, or of a trial by number.

    Raises: RunError if there is no such trial, or none with a score.
    """
    run = open_run(directory)
    return run.recipe(_chosen(run, trial).number)


def _chosen(run: Run, number: int | None) -> TrialRecord:
    trials = run.trials()
    if number is None:
        result = run.result()
        if result is not None:
            return trials[int(result["winner"]["trial"])]
        scored = [trial for trial in trials if trial.fitness is not None and not trial.kind.is_checkpoint]
        if not scored:
            raise RunError(f"{run.directory}: no merge has a score yet; see: evomerge status {run.directory}")
        return max(scored, key=lambda trial: (trial.fitness or 0.0, -trial.number))
    if not 0 <= number < len(trials):
        raise RunError(
            f"{run.directory}: no trial {number}; it has trials 0 to {len(trials) - 1}. "
            f"See: evomerge trials {run.directory}"
        )
    return trials[number]
