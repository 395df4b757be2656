"""The ledger's index: it says what the files say, and leaves item tables in them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.errors import RunError
from evomerge.run.evaluation import Evaluation
from evomerge.run.ledger import EVALUATIONS, Ledger
from evomerge.run.trial import TrialKind, TrialState
from evomerge.score.table import ItemTable, TaskScores
from evomerge.space.base import Dimension
from helpers.records import without_checksums

DIMENSIONS = (Dimension(name="weight.a", low=0.0, high=1.0, initial=0.5),)


def table(value: float) -> ItemTable:
    return ItemTable(tasks={"t": TaskScores(items=("i1", "i2"), values={"acc,none": (value, 1.0)})})


def add(ledger: Ledger, kind: TrialKind, key: str, generation: int | None) -> int:
    parameters = None if kind.is_checkpoint else {"weight.a": 0.25}
    return ledger.add(
        kind=kind, name=key, recipe_key=key, generation=generation, parameters=parameters, dimensions=DIMENSIONS
    ).number


def evaluation(trial: int, score: float | None, split: str = "search") -> Evaluation:
    if score is None:
        return Evaluation(trial=trial, split=split, failure="error: x")
    return Evaluation(trial=trial, split=split, score=score, table=table(score), seconds={"respond": score})


TRIALS = st.lists(
    st.tuples(
        st.sampled_from(TrialKind),
        st.sampled_from("abc"),
        st.none() | st.integers(0, 2),
        st.sampled_from(["running", "failed", 0.25, 0.5]),
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trials=TRIALS)
def test_the_index_says_what_a_ledger_read_anew_says(tmp_path_factory: pytest.TempPathFactory, trials: list) -> None:
    directory = tmp_path_factory.mktemp("ledger")
    ledger = Ledger.create(directory, "journal", "study")
    for kind, key, generation, outcome in trials:
        number = add(ledger, kind, key, generation)
        if outcome != "running":
            ledger.record(evaluation(number, None if outcome == "failed" else outcome))
    read = Ledger.read(directory, "journal", "study")
    assert ledger.trials() == read.trials()
    assert ledger.evaluations() == read.evaluations()
    assert [trial.number for trial in read.trials()] == list(range(len(trials)))
    for generation in range(3):
        expected = [trial for trial in read.trials() if trial.generation == generation]
        assert ledger.generation(generation) == read.generation(generation) == expected
    for kind in TrialKind:
        for key in "abc":
            same = [trial for trial in read.trials() if (trial.kind, trial.recipe_key) == (kind, key)]
            assert ledger.find(kind, key) == read.find(kind, key) == (same[0] if same else None)


def test_what_is_known_of_a_recipe_is_its_own_evaluation_and_not_a_copy(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "journal", "study")
    first, second = (add(ledger, TrialKind.CANDIDATE, "k", 0) for _ in range(2))
    ledger.record(evaluation(first, 0.5))
    ledger.record(replace(evaluation(second, 0.5), same_as=first))
    for found in (ledger, Ledger.read(tmp_path, "journal", "study")):
        known = found.evaluation_of("k", "search")
        assert known is not None
        assert known.trial == first
        assert found.evaluation_of("k", "test") is None
        assert found.trial(second).state is TrialState.COMPLETE


def test_a_table_is_read_from_its_line_when_it_is_looked_at(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "journal", "study")
    for number in range(40):
        ledger.record(evaluation(add(ledger, TrialKind.CANDIDATE, str(number), 0), number / 64))
    tables = [item.table for item in ledger.evaluations()]
    # More than are kept, forwards and backwards.
    for number in [*range(40), *reversed(range(40))]:
        assert tables[number] == table(number / 64)


def test_a_damaged_table_without_checksum_is_named_when_it_is_looked_at_and_the_others_are_read(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "journal", "study")
    for number in range(3):
        ledger.record(evaluation(add(ledger, TrialKind.CANDIDATE, str(number), 0), 0.5))
    path = tmp_path / EVALUATIONS
    without_checksums(path)
    lines = path.read_text().splitlines()
    data = json.loads(lines[1])
    data["table"]["scores"] = data["table"]["scores"][:-8]
    path.write_text("\n".join([lines[0], json.dumps(data), lines[2], ""]))
    first, second, third = Ledger.open(tmp_path, "journal", "study").evaluations()
    assert first.table == third.table == table(0.5)
    assert second.score == 0.5
    with pytest.raises(RunError, match=f"the line at byte {len(lines[0]) + 1} is damaged"):
        len(second.table.tasks)  # type: ignore[union-attr]


def test_a_damaged_table_with_a_checksum_is_named_on_opening(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "journal", "study")
    for number in range(3):
        ledger.record(evaluation(add(ledger, TrialKind.CANDIDATE, str(number), 0), 0.5))
    path = tmp_path / EVALUATIONS
    first, second, third = path.read_bytes().splitlines(keepends=True)
    middle = len(second) // 2
    path.write_bytes(first + second[:middle] + bytes([second[middle] ^ 1]) + second[middle + 1 :] + third)
    with pytest.raises(RunError, match=rf"{EVALUATIONS}: line 2 is damaged"):
        Ledger.read(tmp_path, "journal", "study")
