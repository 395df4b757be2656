"""Our storage over a journal says what Optuna's own says, and makes the objects of a search once."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from evomerge.run.journal import JOURNAL, Journal
from evomerge.run.journal_studies import JournalStudies

STUDY = 0
DISTRIBUTIONS: list[BaseDistribution] = [
    FloatDistribution(0.0, 1.0),
    FloatDistribution(1e-3, 2.0, log=True),
    IntDistribution(1, 3),
    CategoricalDistribution((False, None, "ties", 2, 0.5)),
]
VALUES = [0.1 + 0.2, 1e-3, 2, "ties"]
MEMBERS = st.sets(st.sampled_from(range(len(DISTRIBUTIONS))))
ENDS = st.sampled_from([None, TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED])


def ours(directory: Path) -> JournalStudies:
    return JournalStudies(Journal(directory / JOURNAL, "study"))


def created(directory: Path) -> JournalStudies:
    storage = ours(directory)
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "study")
    return storage


def theirs(directory: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(directory / JOURNAL)))


def add(storage: BaseStorage, members: set[int]) -> int:
    """A running trial with some of the parameters."""
    names = {f"p{member}": member for member in sorted(members)}
    return storage.create_new_trial(
        STUDY,
        create_trial(
            state=TrialState.RUNNING,
            params={name: VALUES[member] for name, member in names.items()},
            distributions={name: DISTRIBUTIONS[member] for name, member in names.items()},
            user_attrs={"kind": "candidate"},
        ),
    )


def end(storage: BaseStorage, trial: int, state: TrialState | None) -> None:
    storage.set_trial_user_attr(trial, "reason", "none")
    storage.set_trial_intermediate_value(trial, 2, 0.25)
    if state is not None:
        storage.set_trial_state_values(trial, state, [0.5] if state is TrialState.COMPLETE else None)


def trials(storage: BaseStorage) -> list[FrozenTrial]:
    return storage.get_all_trials(STUDY)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=st.lists(st.tuples(MEMBERS, ENDS), max_size=6))
def test_trials_are_those_that_optuna_reads_with_its_own_classes(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[set[int], TrialState | None]]
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    writing = created(directory)
    for number, (members, state) in enumerate(wanted):
        assert add(writing, members) == number
        end(writing, number, state)
    for storage in (writing, ours(directory)):
        assert trials(storage) == trials(theirs(directory))
        assert [storage.get_trial(number) for number in range(len(wanted))] == trials(storage)
        only = storage.get_all_trials(STUDY, states=(TrialState.COMPLETE,))
        assert only == [trial for trial in trials(storage) if trial.state is TrialState.COMPLETE]


def test_trials_with_the_same_distributions_share_them(tmp_path: Path) -> None:
    writing = created(tmp_path)
    for members in ({0, 1}, {0, 1}, set[int](), {0, 1}):
        end(writing, add(writing, members), TrialState.COMPLETE)
    first, second, none, last = ours(tmp_path).get_all_trials(STUDY, deepcopy=False)
    assert first.distributions is second.distributions
    assert none.distributions == {}
    assert last.distributions["p1"] is first.distributions["p1"]


def test_a_copy_of_a_trial_is_one(tmp_path: Path) -> None:
    writing = created(tmp_path)
    add(writing, {0})
    trials(writing)[0].params["p0"] = 0.9
    trials(writing)[0].distributions.clear()
    assert trials(writing) == trials(theirs(tmp_path))


def test_a_parameter_that_is_set_later_stands_beside_those_of_before(tmp_path: Path) -> None:
    writing = created(tmp_path)
    number = add(writing, {0})
    writing.set_trial_param(number, "p2", 2.0, DISTRIBUTIONS[2])
    assert writing.get_trial(number).params == {"p0": VALUES[0], "p2": 2}
    assert trials(ours(tmp_path)) == trials(theirs(tmp_path))
