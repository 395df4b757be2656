"""How a search for several objectives ends: its front is validated, picks of it are tested beside the baselines.

On the search items a front is mostly luck, so members spread over it are scored again on validation items, and picks
are made from what those say. Only picks and baselines are tested; their p-values are corrected for all that was looked
at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.benchmark.base import SPLITS
from evomerge.benchmark.clusters import by_task
from evomerge.estimate.clusters import clustered_comparison
from evomerge.estimate.comparisons import Comparison, holm
from evomerge.estimate.intervals import Mean
from evomerge.files.atomic import write_json
from evomerge.run.directory import DONE
from evomerge.run.evaluation import Evaluation
from evomerge.run.fronts import KNEE, Growth, front_of, history_of, merges_of, nearest, picked, picks_of, points_of
from evomerge.run.trial import WINNER, Trial, TrialKind, each_once
from evomerge.score.goals import Goal
from evomerge.score.pareto import spread
from evomerge.study.budget import budget_of
from evomerge.study.candidates import Candidates
from evomerge.study.claims import looks_before
from evomerge.study.conclude import summary_of, what_was_done, what_won
from evomerge.study.requirements import references, requirements
from evomerge.study.select import best_of_each_method, best_uniform, name_of, no_merge_has_a_score, ranked
from evomerge.study.session import Session
from evomerge.study.story import story_of_end


class FrontReport:
    """Says after each generation how the front has grown.

    Args:
        session: of a search for several objectives whose baselines have been evaluated.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._begun = Growth.begun(session.ledger, session.goals)

    def generation(self, number: int, trials: Sequence[Trial], failed: int) -> None:
        """A generation has been evaluated.

        Args:
            number: its own.
            trials: all of it.
            failed: how many of these have no score.
        """
        if self._begun is None:
            return
        growth, before = self._begun
        now = growth.add(number, trials)
        self._begun = growth, now
        is_timed = self._session.config.search.is_asynchronous
        parts = [
            f"{f'last {len(trials)} results' if is_timed else f'generation {number}'}: {now.size} on the front",
            f"hypervolume {now.hypervolume:.4g} ({now.hypervolume - before.hypervolume:+.2g})",
        ]
        for place, goal in enumerate(self._session.goals.goals):
            if growth.members:
                parts.append(f"best {goal.name} {abs(points_of(growth.members)[:, place].max()):.4g}")
        parts += [] if growth.members else ["no merge meets the constraints yet"]
        parts += [f"{failed} failed"] if failed else []
        self._session.observer.message(", ".join(parts))


def conclude_several(candidates: Candidates) -> dict[str, Any]:
    """Validate members of the front, pick among them, test the picks beside the baselines, and write result.json.

    Raises: RunError if no merge has a score.
    """
    session, ledger, goals = candidates.session, candidates.session.ledger, candidates.session.goals
    trials = ledger.trials()
    merges = merges_of(ledger)
    if not merges:
        raise no_merge_has_a_score()
    size = session.config.search.shortlist * goals.count
    front = front_of(merges)
    if front:
        chosen = [front[place] for place in spread(points_of(front), size)]
    else:
        chosen = nearest(merges)[:size]
        missed = chosen[0].missed_by
        session.observer.message(
            "no merge meets all constraints on the search items; "
            f"trial {chosen[0].trial} comes nearest: it misses them by {missed:.3g} in all"
        )
    checkpoints = [trial for trial in trials if trial.kind.is_checkpoint]
    control = best_uniform(trials, candidates.search_evaluations(), 1)
    methods = ranked([trial for trial in trials if trial.kind is TrialKind.METHOD], candidates.search_evaluations())
    control += best_of_each_method(methods, candidates.search_evaluations())
    baselines = each_once([*checkpoints, *control, *references(session)])
    candidates.evaluate_phase("validation", [*(ledger.trial(one.trial) for one in chosen), *baselines], "validation")
    picks = _picks(session, chosen)
    winner = ledger.trial(picks[KNEE])
    tested = each_once([*(ledger.trial(number) for number in picks.values()), *baselines])
    before = looks_before(
        session.run.result(), budget_of(session.config), [trial.number for trial in tested], ledger.evaluations()
    )
    candidates.evaluate_phase("test", tested, "test")
    history = history_of(ledger, goals)
    data: dict[str, Any] = {
        **what_won(candidates, winner),
        "objectives": {
            goal.name: {"measure": goal.kind, "higher_is_better": goal.higher_is_better} for goal in goals.goals
        },
        "constraints": [bound.name for bound in goals.bounds],
        "picks": picks,
        "front": [_row(session, ledger.trial(one.trial)) for one in front or chosen],
        "baselines": [_row(session, trial) for trial in baselines],
        "hypervolume": None
        if history is None
        else {
            "reference": dict(history.reference),
            "value": history.steps[-1].hypervolume,
        },
        "pick_comparisons": _comparisons(session, picks, baselines),
        **what_was_done(session, [ledger.trial(one.trial) for one in chosen]),
        "test_looks": before + 1,
    }
    models = [(trial, str(trial.kind)) for trial in baselines] + [(winner, WINNER)]
    for split in SPLITS:
        # The claims of such a search are about objectives, and are those of `pick_comparisons`.
        data[split] = {**summary_of(session, models, split), "comparisons": []}
    ledger.describe(story_of_end(data))
    session.ledger.wait_for_disk()
    write_json(session.directory / "result.json", data)
    session.clock.phase(DONE)
    return data


def _picks(session: Session, chosen: Sequence[Evaluation]) -> dict[str, int]:
    """The trial of each pick, by what the validation items say; by the search items if they say nothing of any."""
    trials = [session.ledger.trial(one.trial) for one in chosen]
    validated = [
        found
        for trial in trials
        if (found := session.ledger.evaluation(trial.number, "validation")) is not None and found.aims
    ]
    merges = front_of(validated)
    if not merges and validated:
        merges = nearest(validated)[:1]
        session.observer.message(
            "no merge of the front meets all constraints on the validation items; "
            f"trial {merges[0].trial} comes nearest"
        )
    merges = merges or front_of(chosen) or nearest(chosen)[:1]
    return {way: picked(way, merges, session.goals).trial for way in picks_of(session.goals)}


def _row(session: Session, trial: Trial) -> dict[str, Any]:
    """What is known of a trial in every objective, by split, and whether it meets the constraints there."""
    required = requirements(session, trial)
    row: dict[str, Any] = {"trial": trial.number, "kind": trial.kind, "name": name_of(trial, trial.kind)}
    for split in SPLITS:
        found = session.ledger.evaluation(trial.number, split)
        if found is None or found.score is None:
            continue
        row[split] = {
            "objectives": {goal.name: found.measured[goal.name] for goal in session.goals.goals},
            "feasible": found.is_feasible,
        }
        if split in required:
            row[split]["constraints"] = {name: required[split][name] for name in ("values", "limits")}
            row[split]["violation"] = required[split]["violation"]
    return row


def _comparisons(session: Session, picks: Mapping[str, int], baselines: Sequence[Trial]) -> list[dict[str, Any]]:
    """Each picked merge against each baseline in each objective on the test items.

    Differences are first minus second in the objective's own unit. Scores and lengths are tested on the same items, and
    Holm's correction is over all these tests; of the lowest of several scores and of distances only the difference is
    told.
    """
    rows: list[dict[str, Any]] = []
    found: list[Comparison] = []
    for number in dict.fromkeys(picks.values()):
        for baseline in baselines:
            if baseline.number == number:
                continue
            for goal in session.goals.goals:
                pair = [session.ledger.evaluation(one, "test") for one in (number, baseline.number)]
                mine, other = pair
                if mine is None or other is None or not mine.measured or not other.measured:
                    continue
                row = {
                    "trial": number,
                    "picks": [way for way, one in picks.items() if one == number],
                    "against": name_of(baseline, baseline.kind),
                    "objective": goal.name,
                    "difference": mine.measured[goal.name] - other.measured[goal.name],
                }
                comparison = _tested(session, goal, (number, baseline.number), (mine, other))
                if comparison is not None:
                    found.append(comparison)
                    row |= {"interval": list(comparison.interval), "p": comparison.p, "p_holm": None}
                rows.append(row)
    adjusted = iter(holm([comparison.p for comparison in found]))
    for row in rows:
        if "p" in row:
            row["p_holm"] = next(adjusted)
    return rows


def _tested(
    session: Session, goal: Goal, numbers: tuple[int, int], pair: tuple[Evaluation, Evaluation]
) -> Comparison | None:
    """The paired comparison of two trials in one objective; None for one that isn't a mean over items."""
    tables = [evaluation.table for evaluation in pair if evaluation.table is not None]
    if goal.kind not in {"tasks", "length"} or len(tables) < 2:
        return None
    weights = session.measures.weights(session.measures.measure(goal.name), tables[0].sizes)
    clusters = by_task(session.benchmark.splits["test"])
    if goal.kind == "tasks":
        mine, other = (
            {task: sample for task, sample in samples.items() if task in weights}
            for samples in session.benchmark.samples(tables)
        )
        return clustered_comparison(mine, other, weights, clusters)
    first, second = (
        {
            task: Mean(values)
            for task, values in session.lengths(session.ledger.trial(number), "test", table).items()
            if task in weights
        }
        for number, table in zip(numbers, tables, strict=True)
    )
    return clustered_comparison(first, second, weights, clusters)
