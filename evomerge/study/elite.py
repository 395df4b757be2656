"""The elite answers everything: candidates that may be on the shortlist, and have answered only some of the items.

Knows what the algorithm was told of each candidate. Does not know how the shortlist is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from evomerge.run.trial import Trial
from evomerge.study.candidates import Candidates


def complete_elite(candidates: Candidates, told: Mapping[int, float]) -> None:
    """Have the best few candidates answer all search items, so that only complete ones are compared.

    A stopped candidate stays what it is. One of its best becomes a trial of kind `elite`, with the same recipe and the
    answers that there are.

    Args:
        candidates: of the search.
        told: fitness that the algorithm was told of each candidate, by number of its trial. A stopped one counts less
            than any that its generation completed.
    """
    session, ledger = candidates.session, candidates.ledger
    if not session.run.facts.get("elite", False):
        return
    best: dict[str, Trial] = {}
    for number in sorted(told, key=lambda number: (-told[number], number)):
        best.setdefault(ledger.trial(number).recipe_key, ledger.trial(number))
    elite = [trial for trial in [*best.values()][: session.config.search.shortlist] if candidates.is_pruned(trial)]
    trials = [candidates.elite(trial) for trial in elite]
    for trial in trials:
        _inherit(candidates, trial)
    candidates.evaluate(trials, "search")


def _inherit(candidates: Candidates, elite: Trial) -> None:
    """Give a trial the answers that the candidate with its recipe has."""
    parts = candidates.parts
    for part in parts.of(candidates.session.origin(elite).number, "search"):
        if part.block == parts.count(elite.number, "search"):
            parts.add(replace(part, trial=elite.number))
