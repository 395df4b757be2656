"""The ledger: an Optuna study of trials, and beside it a file with every evaluation's item table.

The driver alone writes it. An evaluation is appended to `evaluations.jsonl` and synced to disk before
its trial is finished in the study, so a crash in between is mended on opening from what the file says.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial

from evomerge.errors import RunError
from evomerge.files.append import append, drop_torn_line, writing
from evomerge.run.evaluation import Evaluation
from evomerge.run.trial import Trial, TrialKind, TrialState
from evomerge.space.base import Dimension, Value
from evomerge.space.distributions import distribution_of

JOURNAL = "study.journal"
EVALUATIONS = "evaluations.jsonl"

_STATES = {
    optuna.trial.TrialState.COMPLETE: TrialState.COMPLETE,
    optuna.trial.TrialState.FAIL: TrialState.FAILED,
}


class Ledger:
    """All trials and evaluations of one run.

    Use `create` or `open`; `read` gives a view for other processes that neither locks nor repairs.
    """

    def __init__(
        self, study: optuna.Study, path: Path, evaluations: list[Evaluation], item_lists: Iterable[str] = ()
    ) -> None:
        self._study = study
        self._path = path
        self._item_lists = set(item_lists)
        self._evaluations = {(item.trial, item.split): item for item in evaluations}

    @classmethod
    def create(cls, directory: Path, storage: str, study_name: str) -> Ledger:
        """A new, empty ledger. Raises: RunError if the storage can't be used or has that study."""
        with _quiet(), _storage_errors(storage):
            study = optuna.create_study(
                storage=_storage(directory, storage), study_name=study_name, direction=StudyDirection.MAXIMIZE
            )
        (directory / EVALUATIONS).touch()
        return cls(study, directory / EVALUATIONS, [])

    @classmethod
    def open(cls, directory: Path, storage: str, study_name: str) -> Ledger:
        """Open for writing: repair torn last lines, and finish trials whose evaluation was already on disk."""
        if storage == "journal":
            _clear_stale_lock(directory)
            drop_torn_line(directory / JOURNAL)
        drop_torn_line(directory / EVALUATIONS)
        ledger = cls.read(directory, storage, study_name)
        for trial in ledger.trials():
            evaluation = ledger.evaluation(trial.number, "search")
            if not trial.state.is_finished and evaluation is not None:
                ledger._finish(evaluation)
        return ledger

    @classmethod
    def read(cls, directory: Path, storage: str, study_name: str) -> Ledger:
        """Open for reading only. Raises: RunError if it isn't there or can't be read."""
        if storage == "journal" and not (directory / JOURNAL).exists():
            raise RunError(f"{directory}: {JOURNAL} is missing; restore it, or start a new run directory")
        with _quiet(), _storage_errors(storage):
            study = optuna.load_study(storage=_storage(directory, storage), study_name=study_name)
        return cls(study, directory / EVALUATIONS, *_read_evaluations(directory / EVALUATIONS))

    def trials(self) -> list[Trial]:
        """All trials in order of number."""
        return [_trial(frozen) for frozen in self._study.get_trials(deepcopy=False)]

    def trial(self, number: int) -> Trial:
        """One trial by number."""
        return _trial(self._study.get_trials(deepcopy=False)[number])

    def evaluation(self, trial: int, split: str) -> Evaluation | None:
        """What is known of a trial on a split."""
        return self._evaluations.get((trial, split))

    def evaluations(self) -> list[Evaluation]:
        """All evaluations, in the order in which they finished."""
        return list(self._evaluations.values())

    def add(
        self,
        *,
        kind: TrialKind,
        name: str,
        recipe_key: str,
        generation: int | None = None,
        parameters: Mapping[str, Value] | None = None,
        dimensions: tuple[Dimension, ...] = (),
    ) -> Trial:
        """Record a candidate as running, with all its parameters, in one write."""
        distributions: dict[str, BaseDistribution] = {
            item.name: distribution_of(item) for item in dimensions if item.name in (parameters or {})
        }
        with writing(self._path.parent):
            self._study.add_trial(
                create_trial(
                    state=optuna.trial.TrialState.RUNNING,
                    params=dict(parameters or {}),
                    distributions=distributions,
                    user_attrs={
                        "kind": TrialKind(kind).value,
                        "name": name,
                        "generation": generation,
                        "recipe": recipe_key,
                    },
                )
            )
        return self.trial(-1)

    def record(self, evaluation: Evaluation) -> None:
        """Make an evaluation durable; one on the search split also finishes its trial in the study."""
        with writing(self._path.parent):
            append(self._path, evaluation.to_line(self._item_lists))
            self._evaluations[evaluation.trial, evaluation.split] = evaluation
            if evaluation.table is not None and evaluation.same_as is None:
                self._item_lists |= evaluation.table.item_lists.keys()
            if evaluation.split == "search":
                self._finish(evaluation)

    def _finish(self, evaluation: Evaluation) -> None:
        if evaluation.score is None:
            self._study.tell(evaluation.trial, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
        else:
            self._study.tell(evaluation.trial, evaluation.score, skip_if_finished=True)


def _trial(frozen: FrozenTrial) -> Trial:
    state = _STATES.get(frozen.state, TrialState.RUNNING)
    attributes = frozen.user_attrs
    return Trial(
        number=frozen.number,
        kind=TrialKind(attributes.get("kind", TrialKind.CANDIDATE)),
        name=attributes.get("name", f"trial {frozen.number}"),
        generation=attributes.get("generation"),
        parameters=frozen.params,
        recipe_key=attributes.get("recipe", ""),
        state=state,
        score=frozen.value if state is TrialState.COMPLETE else None,
    )


def _storage(directory: Path, storage: str) -> BaseStorage | str:
    if storage != "journal":
        return storage
    path = str(directory / JOURNAL)
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def _clear_stale_lock(directory: Path) -> None:
    """Remove the lock file that a killed driver left behind; the run's own lock shows that none is at work."""
    (directory / f"{JOURNAL}.lock").unlink(missing_ok=True)


def _read_evaluations(path: Path) -> tuple[list[Evaluation], list[str]]:
    """All complete lines, and the keys of their lists of items; an incomplete last line is a write in progress.

    Raises: RunError for a damaged line.
    """
    evaluations: dict[tuple[int, str], Evaluation] = {}
    item_lists: dict[str, tuple[str, ...]] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise RunError(f"{path}: missing; restore it, or start a new run directory") from None
    for number, line in enumerate(lines[:-1], start=1):
        try:
            data = json.loads(line)
            item_lists |= {key: tuple(items) for key, items in data.get("items", {}).items()}
            evaluation = Evaluation.from_data(data, item_lists, evaluations)
            evaluations[evaluation.trial, evaluation.split] = evaluation
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}: line {number} is damaged ({error}); restore the file from a copy") from error
    return list(evaluations.values()), list(item_lists)


@contextmanager
def _storage_errors(storage: str) -> Iterator[None]:
    try:
        yield
    except optuna.exceptions.DuplicatedStudyError as error:
        raise RunError(f"storage {storage}: {error}") from error
    except KeyError as error:
        raise RunError(f"storage {storage}: the study of this run isn't there any more") from error
    except (ImportError, ValueError) as error:
        raise RunError(f"storage {storage}: can't be opened: {error}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in {"sqlalchemy", "redis"}:
            raise RunError(f"storage {storage}: can't be opened: {error}") from error
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna greets every study on the log; ours is an implementation detail."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
