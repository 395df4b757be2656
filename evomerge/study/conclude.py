"""How a search ends: the winner is chosen on validation, tested beside the baselines, and written to result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.benchmark.base import SPLITS
from evomerge.benchmark.clusters import by_task
from evomerge.files.atomic import write_json
from evomerge.run.directory import DONE
from evomerge.run.evaluation import Evaluation
from evomerge.run.trial import WINNER, Trial, TrialKind
from evomerge.score.objective import LANGUAGE
from evomerge.score.table import ItemTable
from evomerge.study.budget import budget_of
from evomerge.study.candidates import Candidates
from evomerge.study.claims import generalisation, looks_before, selection
from evomerge.study.normalised import owners, shares
from evomerge.study.requirements import references, requirements
from evomerge.study.select import (
    Scored,
    best_of_each_method,
    best_uniform,
    best_validated,
    name_of,
    not_clearly_worse,
    ranked,
    shortlist,
    summary,
)
from evomerge.study.session import Session
from evomerge.study.story import story_of_end


def conclude(candidates: Candidates) -> dict[str, Any]:
    """Choose the winner on validation, test it beside the baselines, and write result.json."""
    session, ledger = candidates.session, candidates.session.ledger
    trials, evaluations = ledger.trials(), candidates.search_evaluations()
    size = session.config.search.shortlist
    uniform_size = 1 if _rule(session) < 2 else size
    uniform = _without_the_worse(session, best_uniform(trials, evaluations, uniform_size), evaluations)
    methods = ranked([trial for trial in trials if trial.kind is TrialKind.METHOD], evaluations)
    best = shortlist(trials, evaluations, size, [*uniform, *_without_the_worse(session, methods, evaluations)])
    checkpoints = [trial for trial in trials if trial.kind.is_checkpoint]
    compared = [*best, *checkpoints, *uniform, *methods, *references(session)]
    candidates.evaluate_phase("validation", compared, "validation")
    scores = {trial.number: ledger.evaluation(trial.number, "validation") for trial in compared}
    # Both are in order of search fitness, which decides between equals.
    winner = best_validated(best, scores)
    control = [best_validated(uniform, scores)] if uniform else []
    control += best_of_each_method(methods, scores)
    models: list[tuple[Trial, str]] = [*((trial, trial.kind) for trial in [*checkpoints, *control]), (winner, WINNER)]
    before = looks_before(
        session.run.result(), budget_of(session.config), [trial.number for trial, _ in models], ledger.evaluations()
    )
    candidates.evaluate_phase("test", [trial for trial, _ in models], "test")
    data: dict[str, Any] = {
        **what_won(candidates, winner),
        **({"requirements": required} if (required := requirements(session, winner)) else {}),
        **({"feasible_merges": _feasible_merges(trials, evaluations)} if session.goals.bounds else {}),
        **what_was_done(session, best),
        **_selection(session, best, winner, scores),
        "test_looks": before + 1,
    }
    for split in SPLITS:
        data[split] = summary_of(candidates.session, models, split)
    data["generalisation"] = generalisation(data)
    ledger.describe(story_of_end(data))
    session.ledger.wait_for_disk()
    write_json(session.directory / "result.json", data)
    session.clock.phase(DONE)
    return data


def what_won(candidates: Candidates, winner: Trial) -> dict[str, Any]:
    """The winner with its recipe, and what scores are, as every result.json begins."""
    benchmark = candidates.session.benchmark
    return {
        "winner": {"trial": winner.number, "kind": winner.kind, "recipe": candidates.recipe(winner).to_data()},
        "metrics": dict(benchmark.objective.metrics),
        "higher_is_better": dict(benchmark.objective.higher_is_better),
        **({"languages": languages} if (languages := benchmark.languages) else {}),
    }


def what_was_done(session: Session, chosen: Sequence[Trial]) -> dict[str, Any]:
    """What the search has spent, and the merges that were validated, as every result.json holds them.

    Args:
        session: of the search.
        chosen: the shortlist.
    """
    ledger = session.ledger
    return {
        "evaluations": sum(trial.kind is TrialKind.CANDIDATE for trial in ledger.trials()),
        "budget": budget_of(session.config),
        "hours": round(session.clock.hours, 4),
        **({"mode": session.config.search.mode} if session.config.search.is_asynchronous else {}),
        "shortlist": [
            {
                "trial": trial.number,
                "kind": trial.kind,
                "search": _score_of(ledger.evaluation(trial.number, "search")),
                "validation": _score_of(ledger.evaluation(trial.number, "validation")),
            }
            for trial in chosen
        ],
    }


def _selection(
    session: Session, best: Sequence[Trial], winner: Trial, validation: Mapping[int, Evaluation | None]
) -> dict[str, Any]:
    """What the winner's validation score is worth, having been chosen by it; empty if it has none."""
    scored = {
        trial.number: (found.table, found.score)
        for trial in best
        if (found := validation[trial.number]) is not None and found.table is not None and found.score is not None
    }
    if winner.number not in scored:
        return {}
    table, score = scored[winner.number]
    samples = session.benchmark.samples([found for found, _ in scored.values()])
    weights = session.benchmark.objective.weights_for(table.sizes)
    place, clusters = [*scored].index(winner.number), by_task(session.benchmark.splits["validation"])
    return {"selection": selection(samples, place, score, weights, clusters)}


def _without_the_worse(session: Session, trials: Sequence[Trial], evaluations: Mapping[int, Evaluation]) -> list[Trial]:
    """The trials, best first, without those that the search items show to be worse than the first."""
    tables = [table for trial in trials if (table := evaluations[trial.number].table) is not None]
    if not tables:
        return list(trials)
    weights = session.benchmark.objective.weights_for(tables[0].sizes)
    clusters = None if _rule(session) < 3 else by_task(session.benchmark.splits["search"])
    return not_clearly_worse(trials, session.benchmark.samples(tables), weights, clusters)


def _rule(session: Session) -> int:
    """By which a run selects, as it began; `SELECTION` says what they are."""
    return int(session.run.facts.get("selection", 1))


def summary_of(session: Session, models: Sequence[tuple[Trial, str]], split: str) -> dict[str, Any]:
    """Scores of the models on one split with intervals and comparisons, those without a score left out."""
    found: list[tuple[Trial, str, float, ItemTable, Evaluation]] = []
    for trial, kind in models:
        evaluation = session.ledger.evaluation(trial.number, split)
        if evaluation is None or evaluation.table is None or evaluation.score is None:
            reason = "it was not evaluated" if evaluation is None else evaluation.failure
            session.observer.message(f"trial {trial.number} ({trial.kind}) has no {split} score: {reason}")
            continue
        found.append((trial, kind, evaluation.score, evaluation.table, evaluation))
    if not found:
        return summary([], {})
    objective = session.benchmark.objective
    samples = session.benchmark.samples([table for _, _, _, table, _ in found])
    scored = [
        Scored(
            trial=trial.number,
            name=name_of(trial, kind),
            kind=kind,
            score=score,
            items=items,
            tasks={task: evaluation.aggregates[task][metric] for task, metric in objective.metrics.items()},
            languages={task: evaluation.aggregates[task][LANGUAGE] for task in objective.languages},
        )
        for (trial, kind, score, _, evaluation), items in zip(found, samples, strict=True)
    ]
    made = summary(scored, objective.weights_for(found[0][3].sizes), by_task(session.benchmark.splits[split]))
    by_itself = {trial.number: session.as_themselves[trial.name] for trial, *_ in found if session.is_by_itself(trial)}
    for model in made["models"]:
        if model["trial"] in by_itself and model["kind"] != WINNER:
            model["own_settings"] = list(by_itself[model["trial"]])
    for model, normalised in zip(made["models"], shares(made["models"], owners(session.config)), strict=True):
        if normalised:
            model["normalised"] = normalised
    return made


def _score_of(evaluation: Evaluation | None) -> float | None:
    return None if evaluation is None else evaluation.score


def _feasible_merges(trials: Sequence[Trial], evaluations: Mapping[int, Evaluation]) -> int:
    """How many merges meet all requirements on the search items."""
    scored = [found for trial in trials if not trial.kind.is_checkpoint and (found := evaluations.get(trial.number))]
    return sum(found.score is not None and found.is_feasible for found in scored)
