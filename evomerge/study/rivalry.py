"""Which candidates go on: scores so far against those of rivals on the same items, put to the pruner.

A pruner of single candidates compares them with the generation before, and with the uniform merges for the first
generation: those that have answered as many blocks. None of these can change while a generation is evaluated. A pruner
of generations compares a generation's candidates with each other, when all of them that are still in have answered as
many blocks. So no decision depends on the order in which workers answer, nor on interruptions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from evomerge.pruners import PRUNERS
from evomerge.pruners.base import GenerationPruner, Pruner, Round, Scores
from evomerge.run.trial import Trial, TrialKind, TrialState
from evomerge.score.requests import Response
from evomerge.score.table import ItemTable, joined
from evomerge.study.session import Session

_BLOCKS = 8192
"""Blocks whose scores are kept at hand."""


class Rivalry:
    """The pruner of an open search, and what it goes by."""

    def __init__(self, session: Session) -> None:
        self._session = session
        settings = session.config.search
        self._prunes = settings.pruner != "none"
        self._pruner: Pruner | GenerationPruner = PRUNERS.get(settings.pruner)(settings.pruner_options)
        self._generation: int | None = None
        self._rivals: list[int] = []
        self._scores: dict[tuple[int, int], Scores] = {}
        self._harder_by: dict[int | None, float] = {}
        # Scored once, and not again with every block that follows.
        self._block = lru_cache(maxsize=_BLOCKS)(self._scored_block)

    def goes_on(self, trial: Trial) -> bool:
        """Whether a candidate that has answered some of its blocks, perhaps none, is worth the next."""
        blocks = self._session.parts.count(trial.number, "search")
        schedule = self._session.schedule
        if schedule.is_fresh and blocks >= schedule.share:
            return False
        if not self._prunes or not blocks or isinstance(self._pruner, GenerationPruner):
            return True
        scores = self.scores(trial.number, blocks)
        if not np.isfinite(scores).all():
            # A candidate that fails is found out when it has answered everything.
            return True
        rivals = [self.scores(number, blocks) for number in self._rivals_of(trial) if self._has(number, blocks)]
        rivals = [rival for rival in rivals if np.isfinite(rival).all()]
        return self._pruner.goes_on(scores, np.array(rivals).reshape(len(rivals), scores.size))

    def next_stop(self, trial: Trial, done: int) -> int:
        """How many blocks a trial will have answered when its present job ends: what is answered in one go costs fewer
        passes, but there is an end where something is decided, or where answers are to be on disk.

        Args:
            trial: that answers search items.
            done: blocks that it has answered, not all.
        """
        schedule, is_candidate = self._session.schedule, trial.kind is TrialKind.CANDIDATE
        is_decided = is_candidate and self._prunes
        # Blocks that nobody draws from or decides after are there for the disk.
        is_for_the_disk = not schedule.is_fresh and not self._prunes
        if is_decided or is_for_the_disk:
            return done + 1
        return schedule.share if is_candidate else schedule.blocks

    @property
    def is_of_generations(self) -> bool:
        """Whether the pruner decides over whole generations."""
        return isinstance(self._pruner, GenerationPruner)

    def survivors(self, trials: Sequence[int], blocks: int, candidates: int) -> list[bool]:
        """Which of a generation's trials that have answered some of their blocks are worth the next.

        Args:
            trials: numbers of those that are still in, one for each candidate.
            blocks: that each of them has answered.
            candidates: how many the generation began with.
        """
        assert isinstance(self._pruner, GenerationPruner)
        scores = [self.scores(trial, blocks) for trial in trials]
        # The next time there will be more of them; until then, those that are stopped are asked for again.
        self._scores = {
            key: found for key, found in self._scores.items() if key[1] in {blocks, self._session.schedule.blocks}
        }
        # One that fails is found out when it has answered everything, and no measure for others.
        finite = [bool(np.isfinite(found).all()) for found in scores]
        if sum(finite) < 2:
            return [True] * len(trials)
        settings, population = self._session.config.search, self._session.population
        # Algorithms that go by rank learn from the better half.
        needed = max(population // 2, settings.shortlist)
        order = self._session.schedule.order(self._session.ledger.trial(trials[0]).generation)
        sizes = [len(self._session.blocks("search")[block]) for block in order[: self._session.schedule.share]]
        at = Round(candidates=candidates, needed=min(needed, candidates), items=sum(sizes))
        rows = np.array([found for found, known in zip(scores, finite, strict=True) if known])
        going = iter(self._pruner.survivors(rows, at).tolist())
        return [next(going) if known else True for known in finite]

    def told(self, pruned: Sequence[Trial], complete: Scores) -> Scores:
        """What the search algorithm is told of a generation's pruned trials, (pruned,).

        Args:
            pruned: the trials.
            complete: fitness of the generation's complete ones, (complete,); at least one.
        """
        parts = self._session.parts
        heads = [asked_for(self._session, trial).number for trial in pruned]
        scores = [self.scores(head, parts.count(head, "search")) for head in heads]
        return self._pruner.told(scores, complete)

    def scores(self, trial: int, blocks: int) -> Scores:
        """A trial's scores on the items of its first blocks, (items,), higher being better."""
        if (trial, blocks) not in self._scores:
            objective = self._session.benchmark.objective
            self._scores[trial, blocks] = objective.item_scores(self._table(trial, range(blocks)), self._sizes)
        return self._scores[trial, blocks]

    def answered(self, trial: Trial) -> tuple[ItemTable, list[int]]:
        """Scores of all that a trial, or the one that answered for it, has answered, and positions of these items."""
        session = self._session
        head = asked_for(session, trial)
        blocks = session.parts.count(head.number, "search")
        order = session.order(head, "search")[:blocks]
        items = [item for block in order for item in session.blocks("search")[block]]
        return self._table(head.number, range(blocks)), items

    def has_answered_its_share(self, trial: Trial) -> bool:
        """Whether a trial was stopped only because candidates answer no more items than it did."""
        schedule = self._session.schedule
        head = asked_for(self._session, trial)
        return schedule.is_fresh and self._session.parts.count(head.number, "search") >= schedule.share

    def of_its_share(self, trial: Trial) -> Scores:
        """Scores of a trial on its share of the items, (items,)."""
        return self.scores(asked_for(self._session, trial).number, self._session.schedule.share)

    def estimated(self, trial: Trial) -> float:
        """Fitness of a trial that has answered its share of the items, as far as these tell.

        Its mean and tie-break on its items, and how much harder these are than all for the merges that are known on
        all, so that generations with other items compare.
        """
        objective = self._session.benchmark.objective
        table = self._table(asked_for(self._session, trial).number, range(self._session.schedule.share))
        mean = float(objective.item_scores(table, self._sizes).mean())
        return mean + objective.tie_break(table) + self._harder(trial.generation)

    def _harder(self, generation: int | None) -> float:
        """How much less the uniform merges score on a generation's items than on all."""
        if generation not in self._harder_by:
            session, objective = self._session, self._session.benchmark.objective
            places = session.schedule.order(generation)[: session.schedule.share]
            differences = []
            for trial in session.ledger.trials():
                if trial.kind is TrialKind.UNIFORM and self._has(trial.number, session.schedule.blocks):
                    whole = self.scores(trial.number, session.schedule.blocks)
                    part = objective.item_scores(self._table(trial.number, places), self._sizes)
                    differences.append(float(whole.mean() - part.mean()))
            known = [found for found in differences if np.isfinite(found)]
            self._harder_by[generation] = sum(known) / len(known) if known else 0.0
        return self._harder_by[generation]

    def _table(self, number: int, places: Sequence[int]) -> ItemTable:
        """Scores of what a trial answered to some of its blocks, by their places in its own order."""
        blocks = [self._block(number, place) for place in places]
        if len(blocks) == 1:
            return blocks[0]
        order, items = self._session.order(self._session.ledger.trial(number), "search"), self._session.blocks("search")
        return joined(blocks, [self._by_task(items[order[place]]) for place in places])

    def _scored_block(self, number: int, place: int) -> ItemTable:
        session = self._session
        trial = session.ledger.trial(number)
        items = session.blocks("search")[session.order(trial, "search")[place]]
        responses = in_order(session, trial, "search", session.parts.blocks(number, "search"), [place])
        return session.benchmark.score("search", responses, items=items)

    def _by_task(self, items: Sequence[int]) -> dict[str, list[int]]:
        """Positions of a block's items by task, ascending, as its scores are."""
        found: dict[str, list[int]] = {}
        for position in sorted(items):
            found.setdefault(self._session.benchmark.splits["search"][position].task, []).append(position)
        return found

    @cached_property
    def _sizes(self) -> Counter[str]:
        """Search items by task."""
        return Counter(item.task for item in self._session.benchmark.splits["search"])

    def _has(self, trial: int, blocks: int) -> bool:
        return self._session.parts.count(trial, "search") >= blocks

    def _rivals_of(self, trial: Trial) -> list[int]:
        """Numbers of a trial's rivals. Failed ones are none."""
        if trial.generation != self._generation or trial.generation is None:
            before = None if not trial.generation else trial.generation - 1
            self._generation = trial.generation
            self._rivals = [
                rival.number
                for rival in self._session.ledger.trials()
                if rival.state in {TrialState.COMPLETE, TrialState.PRUNED}
                and (rival.kind is TrialKind.UNIFORM if before is None else rival.generation == before)
            ]
            kept = {*self._rivals}
            self._scores = {key: scores for key, scores in self._scores.items() if key[0] in kept}
        return self._rivals


def asked_for(session: Session, trial: Trial) -> Trial:
    """The trial that answered for this one: a recipe that is proposed twice in a generation is asked once.

    Args:
        session: of the search.
        trial: one that was evaluated or stopped.
    """
    parts = session.parts
    if not parts.count(trial.number, "search") and trial.generation is not None:
        for other in session.ledger.generation(trial.generation):
            if other.recipe_key == trial.recipe_key and parts.count(other.number, "search"):
                return other
    return trial


def in_order(
    session: Session,
    trial: Trial,
    split: str,
    answers: Sequence[Sequence[Response]],
    places: Sequence[int] | None = None,
) -> list[Response]:
    """A trial's responses to blocks of a split, in the order of the split's requests.

    Args:
        session: of the search.
        trial: whose they are.
        split: that was answered.
        answers: the trial's to each block, from its first.
        places: of the blocks that are wanted; None: all of them.
    """
    found: dict[int, Response] = {}
    order = session.order(trial, split)
    for place in range(len(answers)) if places is None else places:
        items = session.blocks(split)[order[place]]
        found |= dict(zip(session.benchmark.places(split, items), answers[place], strict=True))
    return [found[place] for place in sorted(found)]
