"""The card of an exported model: what was merged, and what was measured."""

from __future__ import annotations

from typing import Any

from evomerge.errors import listed
from evomerge.models.stack import described
from evomerge.recipe.portable import is_local
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.report.finding import finding
from evomerge.report.front_card import is_picked, measured_front
from evomerge.report.front_matter import About, TaskScore, front_matter, usage
from evomerge.report.stock_command import stock_commands
from evomerge.report.words import earlier_results
from evomerge.run.directory import Run
from evomerge.run.merged import exported_recipe
from evomerge.run.records import TrialRecord
from evomerge.run.trial import WINNER, TrialKind


def model_card(run: Run, record: TrialRecord, recipe: Recipe, *, name: str, about: About | None = None) -> str:
    """The README.md of an exported merge: what it is, what was measured and what that is worth.

    Args:
        run: that it is from.
        record: its trial.
        recipe: that makes it.
        name: of the folder.
        about: what else is known of it and its models.
    """
    about = about or About()
    # Its scores are with settings that the exported folder doesn't have.
    as_itself = record.kind.is_checkpoint and record.name in run.facts.get("as_themselves", {})
    loaded, references = about.repository or name, parts_of(record, recipe)
    result = run.result()
    is_winner = result is not None and result["winner"]["trial"] == record.number
    lines = [
        *front_matter(
            name,
            references,
            about,
            is_merge=not record.kind.is_checkpoint,
            languages=[task["language"]["code"] for task in run.facts["benchmark"]["tasks"] if "language" in task],
            scores=[] if as_itself else _test_scores(run, record),
        ),
        "",
        f"# {name}",
        "",
        f"{_origin(run, record, recipe)} `recipe.yaml` beside this file makes it again where the models that it names "
        "are at hand: `evomerge merge recipe.yaml OUT`.",
        "",
    ]
    if recipe.vocabulary != "same":
        whose = "the base" if recipe.vocabulary == "base" else "all its models"
        lines += [f"Its vocabulary is that of {whose}.", ""]
    if recipe.slices:
        layers = sum(last - first + 1 for first, last in (next(iter(part.values())) for part in recipe.slices))
        lines += [f"It is a stack of {described(recipe.slices, layers)}.", ""]
    lines += usage(loaded, about.task)
    if result is not None and is_picked(result, record.number):
        lines += measured_front(result, record.number)
    elif result is not None and is_winner:
        lines += _measured(result)
    else:
        lines += ["## Measured", "", *_scores(record), ""]
    if record.test is not None and not as_itself:
        lines += stock_commands(run, loaded)
    lines += ["## Tasks", ""]
    for task in run.facts["benchmark"]["tasks"]:
        better = "" if task["higher_is_better"] else " (lower is better; its sign is reversed in scores)"
        lines.append(f"- {task['task']}: {task['metric']}{better}")
    for sentence in run.facts["benchmark"].get("searched_publicly", []):
        lines += ["", f"{sentence}."]
    if alike := run.facts["benchmark"].get("near_duplicates", 0):
        lines += ["", f"{alike} items of the search or validation nearly repeat one of a later role."]
    return "\n".join(lines) + "\n"


def _origin(run: Run, record: TrialRecord, recipe: Recipe) -> str:
    """What the model is and where its coefficients come from."""
    if record.kind is TrialKind.BASE:
        return f"{_named(run, 'base', recipe.base)} unchanged: a baseline of a search (trial {record.number})."
    if record.kind is TrialKind.EXPERT:
        expert = _named(run, record.name, recipe.references[recipe.options["model"]])
        return f"{expert} unchanged: a baseline of a search (trial {record.number})."
    experts = ", ".join(_named(run, name, model) for name, model in recipe.experts.items())
    merge = f"A merge of {experts} over {_named(run, 'base', recipe.base)} with {recipe.method}"
    algorithm = run.config.search.algorithm
    if run.config.search.is_asynchronous:
        algorithm += ", asynchronous: which candidates there were depended on timing"
    where = {
        TrialKind.UNIFORM: "with the same coefficients in all parts of the model, one of those tried before a search",
        TrialKind.START: "with the coefficients of an earlier merge, from which a search started",
        TrialKind.METHOD: "with settings that were given, not searched: a baseline of a search",
        TrialKind.CANDIDATE: f"its coefficients found by a search ({algorithm})",
        TrialKind.ELITE: f"its coefficients found by a search ({algorithm})",
        TrialKind.SURROGATE: "its coefficients those of which a Gaussian process, fitted to all scores of a search "
        f"({algorithm}), expected the most",
        TrialKind.MEAN: f"its coefficients the mean of the distribution that a search ended with ({algorithm})",
    }
    return f"{merge}, {where[record.kind]}, by evomerge (trial {record.number})."


def parts_of(record: TrialRecord, recipe: Recipe) -> dict[str, ModelReference]:
    """The models that a trial is made of, by name: one, of a model that was scored as it is."""
    if record.kind is TrialKind.BASE:
        return {"base": recipe.base}
    if record.kind is TrialKind.EXPERT:
        return {record.name: recipe.references[recipe.options["model"]]}
    return {"base": recipe.base, **recipe.experts}


def _test_scores(run: Run, record: TrialRecord) -> list[TaskScore]:
    """What the trial scored on the test items, by task."""
    found = run.ledger().evaluation(record.number, "test") if record.test is not None else None
    if found is None:
        return []
    return [
        TaskScore(
            task=task["task"],
            metric=task["metric"],
            value=float(found.aggregates[task["task"]][task["metric"]]),
            items=int(task["items"]["test"]),
            num_fewshot=task.get("num_fewshot"),
        )
        for task in run.facts["benchmark"]["tasks"]
        if task["metric"] in found.aggregates.get(task["task"], {})
    ]


def _named(run: Run, name: str, reference: ModelReference) -> str:
    """A model by its hub id; a local folder, which means nothing elsewhere, by its name in the recipe."""
    if (file := exported_recipe(reference, run.directory)) is not None:
        return f"`{name}` (itself a merge: `{file}`)"
    if is_local(reference):
        return f"`{name}` (a local model)"
    return f"`{reference.path}`" + ("" if name == "base" else f" ({name})")


def _scores(record: TrialRecord) -> list[str]:
    """What was measured of a trial that isn't the winner."""
    if record.score is None:
        return [f"This trial has no score{f': {record.reason}' if record.reason else ''}."]
    found = [f"Score on the search items: {record.score:.4f}."]
    if not record.kind.is_checkpoint:
        found.append("Merges are selected by this score, so it is optimistic.")
    if record.measured:
        values = ", ".join(f"{name} {value:.4g}" for name, value in record.measured.items())
        found.append(f"What objectives and constraints are of, on these items: {values}.")
    if not record.is_feasible:
        found.append("It misses a requirement of the search there.")
    if record.validation is not None:
        found.append(f"On validation items, from which the winner is chosen: {record.validation:.4f}.")
    if record.test is not None:
        found.append(f"On test items that neither saw: {record.test:.4f}.")
    else:
        found.append("It was not scored on test items.")
    return [" ".join(found)]


def _measured(result: dict[str, Any]) -> list[str]:
    test = result["test"]
    lines = [
        "## Measured",
        "",
        finding(result),
        "",
        "On test items that neither the search nor the choice of the winner saw, with 95% intervals:",
        "",
        "| model | test score | interval | items |",
        "|---|---|---|---|",
    ]
    for model in test["models"]:
        low, high = model["interval"]
        own = " (own settings)" if model.get("own_settings") else ""
        lines.append(f"| {model['name']}{own} | {model['score']:.4f} | {low:.4f} to {high:.4f} | {model['items']} |")
    for model in test["models"]:
        if keys := model.get("own_settings"):
            lines += ["", f"{model['name']} was scored with its own {listed(keys)}, which the merges don't have."]
    if not any(model["kind"] == WINNER for model in test["models"]):
        lines += ["", "This merge has no test score, since its evaluation on the test items failed."]
    if test["comparisons"]:
        lines += [
            "",
            "Paired on the same items (p as found, and after Holm's correction):",
            "",
            "| winner against | difference | interval | p | p, Holm |",
            "|---|---|---|---|---|",
        ]
    for row in test["comparisons"]:
        low, high = row["interval"]
        lines.append(
            f"| {row['winner_vs']} | {row['difference']:+.4f} | {low:+.4f} to {high:+.4f} "
            f"| {row['p']:.2g} | {row['p_holm']:.2g} |"
        )
    for task, rule in result.get("languages", {}).items():
        shares = ", ".join(
            f"{model['name']} {model['languages'][task]:.0%}" for model in test["models"] if "languages" in model
        )
        lines += ["", f"Answers to {task} in the asked language ({rule['code']}): {shares}."]
    found = next((model["score"] for model in result["search"]["models"] if model["kind"] == WINNER), None)
    if found is not None and result["winner"]["kind"] == TrialKind.MEAN:
        lines += ["", f"Its score on the search items was {found:.4f}; it was validated whatever that was."]
    elif found is not None:
        lines += [
            "",
            f"Its score on the search items was {found:.4f}, by which the best of {result['evaluations']} candidates "
            "and of the merges beside them were taken on; that number is optimistic, since it was selected for.",
        ]
    return [*lines, *_limits(result), ""]


def _limits(result: dict[str, Any]) -> list[str]:
    """How far the winner's figures can be trusted; nothing of it is known of runs of earlier releases."""
    lines: list[str] = []
    if (chosen := result.get("selection")) is not None:
        low, high = chosen["interval"]
        corrected = "" if chosen["corrected"] is None else f"; corrected for that choice {chosen['corrected']:.4f}"
        lines += [
            "",
            f"It was chosen from {chosen['looked_at']} by its score on validation items, {chosen['validation']:.4f}"
            f"{corrected} (95% interval of that score, for all that were looked at at once: {low:.4f} to {high:.4f}).",
        ]
    gap = result.get("generalisation", {})
    if "interval" in gap:
        low, high = gap["interval"]
        explained = "more than chance explains" if low > 0 or high < 0 else "no more than chance explains"
        lines += [
            "",
            f"From search to test items its score changes by {-gap['search_to_test']:+.4f} "
            f"({-high:+.4f} to {-low:+.4f}), {explained}.",
        ]
    if (looks := result.get("test_looks", 1)) > 1:
        lines += ["", f"The test items had been looked at before, for {earlier_results(looks)} of the same search."]
    return lines
