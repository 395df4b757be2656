"""Exporting: a trial of a run as a Hugging Face model folder with its recipe and an honest model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from evomerge.errors import RunError, listed
from evomerge.files.places import local
from evomerge.materialise.folder import write_folder
from evomerge.materialise.states import folder_of
from evomerge.models.card_facts import CARD
from evomerge.models.hub import resolve
from evomerge.recipe.portable import is_local
from evomerge.recipe.recipe import Recipe
from evomerge.report.model_card import model_card, parts_of
from evomerge.report.stock_command import samples_file
from evomerge.run.directory import PREPARED, Run, open_run
from evomerge.run.fronts import KNEE, front_of, merges_of, nearest, picked
from evomerge.run.merged import exported_recipe
from evomerge.run.records import TrialRecord
from evomerge.study.about import about_models
from evomerge.study.inputs import check_same_models
from evomerge.study.merge_first import recipe_of_merged


def export(
    directory: str | Path,
    out: str | Path,
    *,
    trial: int | None = None,
    pick: str | None = None,
    shard_size: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    report: Callable[[str], None] | None = None,
    carry_code: bool = False,
    license: str | None = None,
    languages: Sequence[str] = (),
    repository: str | None = None,
) -> Path:
    """Write the winner of a run, or a trial by number, as a model folder.

    Args:
        directory: the run directory.
        out: the folder to make; refused if it already holds something.
        trial: number of the trial; None takes the winner, or the best so far if the search hasn't ended.
        pick: instead, which merge of the front of a search for several objectives: `knee`, `best:NAME`, `worst`,
            `weights:NAME=W,NAME=W`, or a trial's number.
        shard_size: largest size of a safetensors file, such as "5GB"; None takes the config's.
        progress: called with bytes written and bytes in all.
        report: called with each sentence that a person should know of the models, such as tokens that were added.
        carry_code: take Python files of the base along, and the `auto_map` that names them. They aren't run here.
        license: of the model, for its card; None: the config's, or that of its models if they have the same.
        languages: of the model, for its card; none: the config's, or those of the tasks and of its models.
        repository: where it will be on the hub, as its card is to say.
    Returns: the folder.
    Raises: RunError if there is no such trial or pick or none with a score, ExportError if `out` can't be
        written, CheckpointError if the run's models are gone or have changed.
    """
    run = open_run(directory)
    record = _chosen(run, trial, pick)
    recipe = run.recipe(record.number)
    folders = {name: resolve(reference) for name, reference in run.opened_config.models.sources().references.items()}
    check_same_models(run.directory, run.facts.get("files", {}), folders)
    if report is not None and trial is None and not run.has_ended():
        report(f"the search hasn't ended; trial {record.number} {_why(run, pick)}")
    about = about_models(
        recipe.references,
        license=license or run.config.export.license,
        languages=languages or run.config.export.language,
        repository=repository,
    )
    made_by = {
        reference.path: file
        for reference in recipe.references.values()
        if (file := exported_recipe(reference, run.directory)) is not None
    }
    recipes = {path: recipe_of_merged(Path(path), local(out).absolute()) for path in made_by}
    private = [
        name
        for name, model in parts_of(record, recipe).items()
        if (recipes[model.path].is_private if model.path in recipes else is_local(model))
    ]
    if report is not None and repository is not None and private:
        report(
            f"{listed(private)} are local: card and recipe.yaml have their folders' names, which nobody else can open"
        )
    lacking = about.missing_license([*parts_of(record, recipe)])
    if report is not None and repository is not None and lacking is not None:
        report(lacking)
    return write_folder(
        recipe,
        Path(out),
        shard_size=shard_size or run.config.export.shard_size,
        progress=progress,
        report=report,
        files={
            CARD: model_card(run, record, recipe, name=Path(out).name, about=about),
            **{made_by[path]: kept.text for path, kept in recipes.items()},
            **_samples(run, record),
        },
        made_by=made_by,
        states=_prepared(run),
        carry_code=carry_code,
    )


def _samples(run: Run, record: TrialRecord) -> dict[str, str]:
    return {} if record.test is None else samples_file(run)


def _prepared(run: Run) -> Path:
    """Where the run's workers left what the method computes once, if they were on this machine or shared its disks."""
    given = run.config.execution.prepared_directory
    return run.directory / PREPARED if given is None else folder_of(given)


def recipe_of(directory: str | Path, *, trial: int | None = None, pick: str | None = None) -> Recipe:
    """The recipe of the winner of a run, of a trial by number, or of a pick of its front.

    Raises: RunError if there is no such trial or pick, or none with a score.
    """
    run = open_run(directory)
    return run.recipe(_chosen(run, trial, pick).number)


def _why(run: Run, pick: str | None) -> str:
    """What is said of a trial that was chosen before the end."""
    if run.config.search.goals.are_several:
        return f"is picked from the front on the search items so far ({pick or KNEE})"
    return "has the best search score so far" if run.result() is None else "won when its budget was smaller"


def _picked(run: Run, pick: str) -> int:
    """The trial that is picked from the front: by validation items if the search has ended, else by search items.

    Raises: RunError if there is no front, or no such pick.
    """
    goals = run.config.search.goals
    if not goals.are_several:
        raise RunError(
            f"{run.directory}: --pick {pick}: its search has one objective, so there is no front to pick from; export "
            "the winner without --pick, or another trial with --trial N"
        )
    ledger, result = run.ledger(), run.result()
    if result is not None and run.has_ended():
        if pick in result["picks"]:
            return int(result["picks"][pick])
        trials = [ledger.trial(int(row["trial"])) for row in result["shortlist"]]
        validated = merges_of(ledger, "validation", trials)
        if validated:
            return picked(pick, front_of(validated) or nearest(validated)[:1], goals).trial
    merges = merges_of(ledger)
    if not merges:
        raise RunError(f"{run.directory}: no merge has a score yet; see: evomerge status {run.directory}")
    return picked(pick, front_of(merges) or nearest(merges)[:1], goals).trial


def _chosen(run: Run, number: int | None, pick: str | None = None) -> TrialRecord:
    trials = run.trials()
    if pick is not None and number is not None:
        raise RunError("--trial and --pick both say which merge; give one of them")
    if pick is not None:
        number = int(pick) if pick.isascii() and pick.isdigit() else _picked(run, pick)
    elif number is None and run.config.search.goals.are_several:
        number = _picked(run, KNEE)
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
