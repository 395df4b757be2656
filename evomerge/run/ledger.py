"""The ledger: an Optuna study of trials, and beside it a file with every evaluation's item table.

The driver alone writes it. An evaluation is on disk, in `evaluations.jsonl`, before its trial ends in the study, so
a crash in between is mended on opening. The disk has a trial before its evaluation; how it ended follows from that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import create_trial

from evomerge.errors import RunError, counted
from evomerge.files.append import drop_torn_line, writing
from evomerge.files.lines import remedy
from evomerge.run.evaluation import Evaluation
from evomerge.run.evaluation_file import EvaluationFile
from evomerge.run.journal import JOURNAL as JOURNAL
from evomerge.run.storage import create_study, load_study, name_metrics, uncollected, wait_for_study
from evomerge.run.stored_trial import SCORE, attributes_of, directions_of, outcome_of, trial_of
from evomerge.run.trial import Trial, TrialKind, TrialState
from evomerge.score.goals import Goals, Measured
from evomerge.space.base import Dimension, Value
from evomerge.space.distributions import distribution_of

EVALUATIONS = "evaluations.jsonl"
NO_GOALS = Goals()
"""Nothing but the benchmark's score counts."""


class Ledger:
    """All trials and evaluations of one run.

    Use `create` or `open`; `read` gives a view for other processes that neither locks nor repairs. What has been
    recorded is kept in an index beside the study, so that nothing here grows with the number of trials but what asks
    for all of them. Item tables stay on disk until they are looked at.
    """

    def __init__(
        self, storage: BaseStorage, study_name: str, evaluations: EvaluationFile, goals: Goals = NO_GOALS
    ) -> None:
        self._storage = storage
        self._goals = goals
        self._baselines: list[int] = []
        self._study = storage.get_study_id_from_name(study_name)
        self._file = evaluations
        self._ahead: dict[tuple[int, str], Evaluation] = {}
        self._trials: list[Trial] = []
        self._by_recipe: dict[tuple[TrialKind, str], int] = {}
        self._by_generation: dict[int, list[int]] = {}
        self._evaluations: dict[tuple[int, str], Evaluation] = {}
        self._originals: dict[tuple[str, str], Evaluation] = {}
        self._on_disk = 0
        """How many trials the disk has for sure."""
        for frozen in storage.get_all_trials(self._study, deepcopy=False):
            self._remember(trial_of(frozen))
        for evaluation in evaluations.read():
            self._index(evaluation)

    @classmethod
    def create(
        cls,
        directory: Path,
        storage: str,
        study_name: str,
        *,
        facts: Mapping[str, Any] | None = None,
        goals: Goals = NO_GOALS,
    ) -> Ledger:
        """A new, empty ledger, with a copy of the run's facts in its journal.

        The study has the values of all objectives where there is a front between them, else the score.

        Raises: RunError if the storage can't be used or has that study.
        """
        opened = create_study(directory, storage, study_name, directions_of(goals), facts)
        (directory / EVALUATIONS).touch()
        ledger = cls(opened, study_name, EvaluationFile(directory / EVALUATIONS, study_name), goals)
        ledger.wait_for_disk()
        return ledger

    @classmethod
    def open(cls, directory: Path, storage: str, study_name: str, goals: Goals = NO_GOALS) -> Ledger:
        """Open for writing: repair torn last lines, and finish trials whose evaluation was already on disk.

        Raises: RunError if it isn't there or can't be read, naming a damaged line, or if its files disagree.
        """
        if storage == "journal":
            drop_torn_line(directory / JOURNAL)
        drop_torn_line(directory / EVALUATIONS)
        ledger = cls.read(directory, storage, study_name, goals)
        ledger.check()
        for trial in ledger.trials():
            found = ledger.evaluation(trial.number, "search")
            if found is not None:
                ledger._finish(found)
        return ledger

    @classmethod
    def read(cls, directory: Path, storage: str, study_name: str, goals: Goals = NO_GOALS) -> Ledger:
        """Open for reading only. Raises: RunError if it isn't there or can't be read."""
        if storage == "journal" and not (directory / JOURNAL).exists():
            raise RunError(f"{directory / JOURNAL}: missing; {remedy(directory)}")
        with uncollected():
            opened = load_study(directory, storage, study_name)
            return cls(opened, study_name, EvaluationFile(directory / EVALUATIONS, study_name), goals)

    def trials(self) -> list[Trial]:
        """All trials in order of number."""
        return list(self._trials)

    def trial(self, number: int) -> Trial:
        """One trial by number."""
        return self._trials[number]

    def generation(self, number: int) -> list[Trial]:
        """The candidates recorded for a generation, in ask order."""
        return [self._trials[trial] for trial in self._by_generation.get(number, ())]

    def find(self, kind: TrialKind, recipe_key: str) -> Trial | None:
        """The first trial of this kind and recipe."""
        number = self._by_recipe.get((kind, recipe_key))
        return None if number is None else self._trials[number]

    def evaluation(self, trial: int, split: str) -> Evaluation | None:
        """What is known of a trial on a split."""
        found = self._evaluations.get((trial, split))
        return None if found is None else self._judged(found)

    def evaluation_of(self, recipe_key: str, split: str) -> Evaluation | None:
        """What is known of a recipe on a split: the evaluation that was not copied from another."""
        return self._originals.get((recipe_key, split))

    def check(self) -> None:
        """Compare the study with the evaluations. Raises: RunError if they disagree."""
        directory = self._file.path.parent
        for evaluation in self._ahead.values():
            if not evaluation.recipe:
                raise RunError(
                    f"{directory}: {EVALUATIONS} holds an evaluation of trial {evaluation.trial}, but {JOURNAL} has "
                    f"{counted(len(self._trials), 'trial')}, so some are lost; {remedy(directory)}"
                )
        for trial in self._trials:
            found = self.evaluation(trial.number, "search")
            if found is not None:
                _check_agree(directory, trial, found)

    @property
    def is_whole(self) -> bool:
        """Whether no trial and no evaluation is known to be lost."""
        return not self._ahead and not self.lost

    @property
    def lost(self) -> list[int]:
        """Numbers of the trials that have ended, though no evaluation on the search items is there any more."""
        ended = {TrialState.COMPLETE, TrialState.FAILED}
        return [
            one.number for one in self._trials if one.state in ended and (one.number, "search") not in self._evaluations
        ]

    def evaluations(self) -> list[Evaluation]:
        """All evaluations, in the order in which they finished."""
        return [self._judged(evaluation) for evaluation in self._evaluations.values()]

    def reference(self, name: str) -> Trial | None:
        """The baseline that a constraint compares with: the base, an expert by name, or the best uniform merge.

        The best is the one with the highest score on the search items, whatever constraints say; the first of equals.
        """
        trials = [self._trials[number] for number in self._baselines]
        if name == TrialKind.UNIFORM:
            scored = [trial for trial in trials if trial.kind is TrialKind.UNIFORM and trial.score is not None]
            return max(scored, key=lambda trial: trial.score or 0.0, default=None)
        return next((trial for trial in trials if trial.kind.is_checkpoint and trial.name == name), None)

    def measured(self, name: str, split: str) -> Measured:
        """What was measured of such a baseline on a split; empty if it has no score there."""
        trial = self.reference(name)
        found = None if trial is None else self._evaluations.get((trial.number, split))
        return {} if found is None else found.measured

    def _judged(self, evaluation: Evaluation) -> Evaluation:
        """An evaluation with what its measures come to by the run's objectives and constraints."""
        measured = evaluation.measured
        if not measured:
            return evaluation
        violation = self._goals.violation(measured, lambda name: self.measured(name, evaluation.split))
        return replace(evaluation, aims=self._goals.aims(measured), violation=violation)

    def add(
        self,
        *,
        kind: TrialKind,
        name: str,
        recipe_key: str,
        generation: int | None = None,
        parameters: Mapping[str, Value] | None = None,
        dimensions: tuple[Dimension, ...] = (),
        told: Sequence[int] = (),
    ) -> Trial:
        """Record a candidate as running, with all its parameters, in one write."""
        trial = Trial(
            number=len(self._trials),
            kind=TrialKind(kind),
            name=name,
            generation=generation,
            parameters=dict(parameters or {}),
            recipe_key=recipe_key,
            state=TrialState.RUNNING,
            score=None,
            told=tuple(told),
        )
        with writing(self._file.path.parent):
            self._storage.create_new_trial(
                self._study,
                template_trial=create_trial(
                    state=optuna.trial.TrialState.RUNNING,
                    params=dict(trial.parameters),
                    distributions={
                        item.name: distribution_of(item) for item in dimensions if item.name in trial.parameters
                    },
                    user_attrs=attributes_of(trial),
                ),
            )
            self._remember(trial)
        # What was evaluated before the study lost its last trials needs no second time.
        for key in [key for key in self._ahead if key[0] == trial.number]:
            evaluation = self._ahead.pop(key)
            self._index(evaluation)
            if evaluation.split == "search" and key in self._evaluations:
                with writing(self._file.path.parent):
                    self._finish(evaluation)
        return self._trials[trial.number]

    def record(self, evaluation: Evaluation) -> None:
        """Make an evaluation durable; one on the search split also finishes its trial in the study."""
        trial = self._trials[evaluation.trial]
        evaluation = replace(evaluation, recipe=trial.recipe_key)
        if evaluation.split == "search":
            _check_agree(self._file.path.parent, trial, evaluation)
        with writing(self._file.path.parent):
            if evaluation.trial >= self._on_disk:
                self.wait_for_disk()
            self._index(self._file.append(evaluation))
            if evaluation.split == "search":
                self._finish(evaluation)

    def wait_for_disk(self) -> None:
        """Wait until the disk has all that the study was told. Raises: RunError if the directory can't be written."""
        with writing(self._file.path.parent):
            wait_for_study(self._storage)
        self._on_disk = len(self._trials)

    def describe(self, attributes: Mapping[str, Any], metrics: Sequence[str] | None = None) -> None:
        """Tell the study's readers about the run; nothing here reads it.

        Args:
            attributes: of the study, by name; those that it has already are left alone.
            metrics: what the values of its trials are called; None leaves their names alone.
        """
        with writing(self._file.path.parent):
            known = self._storage.get_study_user_attrs(self._study)
            for key, value in attributes.items():
                if known.get(key) != value:
                    self._storage.set_study_user_attr(self._study, key, value)
            if metrics is not None:
                name_metrics(self._storage, self._study, metrics)

    def prune(self, trial: int, blocks: int = 0, score: float | None = None) -> None:
        """Record that a trial was stopped before it had answered all search items.

        Args:
            trial: its number.
            blocks: of items that it had answered itself.
            score: on these.
        """
        with writing(self._file.path.parent):
            if score is not None and math.isfinite(score):
                identity = self._storage.get_trial_id_from_study_id_trial_number(self._study, trial)
                self._storage.set_trial_intermediate_value(identity, blocks, float(score))
            self._tell(trial, optuna.trial.TrialState.PRUNED)
            self._trials[trial] = replace(self._trials[trial], state=TrialState.PRUNED, blocks=blocks)

    def _remember(self, trial: Trial) -> None:
        self._trials.append(trial)
        self._by_recipe.setdefault((trial.kind, trial.recipe_key), trial.number)
        if trial.kind.is_baseline:
            self._baselines.append(trial.number)
        if trial.generation is not None:
            self._by_generation.setdefault(trial.generation, []).append(trial.number)

    def _index(self, evaluation: Evaluation) -> None:
        """Take an evaluation as its trial's, unless that has another recipe: a study that lost its last trials can
        get others in their place.
        """
        if evaluation.trial >= len(self._trials):
            self._ahead[evaluation.trial, evaluation.split] = evaluation
            return
        recipe = self._trials[evaluation.trial].recipe_key
        if evaluation.recipe in {"", recipe}:
            self._evaluations[evaluation.trial, evaluation.split] = evaluation
            if evaluation.same_as is None:
                self._originals[recipe, evaluation.split] = evaluation

    def _finish(self, evaluation: Evaluation) -> None:
        trial = self._trials[evaluation.trial]
        if trial.state.is_finished:
            return
        state = TrialState.FAILED if evaluation.score is None else TrialState.COMPLETE
        identity = self._storage.get_trial_id_from_study_id_trial_number(self._study, trial.number)
        # Optuna takes none of a trial that has ended.
        for key, value in outcome_of(self._judged(evaluation)).items():
            self._storage.set_trial_user_attr(identity, key, value)
        if evaluation.score is None or math.isnan(evaluation.score):
            self._tell(trial.number, optuna.trial.TrialState.FAIL)
        else:
            values: tuple[float, ...] = (evaluation.score,)
            if self._goals.are_several:
                self._storage.set_trial_user_attr(identity, SCORE, evaluation.score)
                values = tuple(evaluation.measured[goal.name] for goal in self._goals.goals)
            self._tell(trial.number, optuna.trial.TrialState.COMPLETE, values)
        self._trials[trial.number] = replace(trial, state=state, score=evaluation.score)

    def _tell(self, trial: int, state: optuna.trial.TrialState, values: Sequence[float] | None = None) -> None:
        """Finish a trial in the study. `Study.tell` would copy it with all its distributions to do so."""
        identity = self._storage.get_trial_id_from_study_id_trial_number(self._study, trial)
        self._storage.set_trial_state_values(identity, state, values)


def _check_agree(directory: Path, trial: Trial, evaluation: Evaluation) -> None:
    """Compare how a trial ended with its evaluation on the search items. Raises: RunError if they disagree."""
    score = None if evaluation.score is None or math.isnan(evaluation.score) else evaluation.score
    if trial.state.is_finished and (trial.state is TrialState.PRUNED or trial.score != score):
        ended = trial.state.value if trial.score is None else f"{trial.state.value} with score {trial.score}"
        raise RunError(
            f"{directory}: trial {trial.number} is {ended} in {JOURNAL}, and its evaluation in {EVALUATIONS} has "
            f"score {evaluation.score}; {remedy(directory)}"
        )
