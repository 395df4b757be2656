"""A run's story, as Optuna alone reads it from the study."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from evomerge.config.config import Config
from evomerge.run.directory import open_run
from evomerge.run.evaluation import Evaluation
from evomerge.run.ledger import JOURNAL, Ledger
from evomerge.run.observer import SilentObserver
from evomerge.run.trial import TrialKind
from evomerge.study.session import Session


def study_of(directory: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(directory / JOURNAL)))
    return optuna.load_study(study_name=None, storage=storage)


@pytest.mark.slow
def test_the_study_says_what_was_searched_for_and_what_won(undisturbed: Path, config: Config) -> None:
    study, result = study_of(undisturbed), json.loads((undisturbed / "result.json").read_text())
    told = study.user_attrs
    assert study.study_name.startswith(f"{undisturbed.name}-")
    assert study.metric_names == ["acc of tiny_choice"]
    assert told["tasks"] == {"tiny_choice": "acc,none"}
    assert told["models"]["a"] == config.models.experts["a"].path
    assert told["versions"]["optuna"] == optuna.__version__
    winner = next(model for model in result["test"]["models"] if model["kind"] == "winner")
    assert (told["winner"]["trial"], told["winner"]["test"]) == (winner["trial"], winner["score"])
    assert told["validation"] == {str(one["trial"]): one["validation"] for one in result["shortlist"]}


def test_each_trial_has_its_kind_and_what_it_is_ranked_by(undisturbed: Path) -> None:
    records, trials = open_run(undisturbed).trials(), study_of(undisturbed).get_trials(deepcopy=False)
    assert len(records) == len(trials)
    for record, trial in zip(records, trials, strict=True):
        assert trial.user_attrs["kind"] == record.kind
        assert trial.value == record.score
        assert trial.user_attrs.get("fitness", trial.value) == record.fitness


def test_the_dashboard_shows_the_story(undisturbed: Path) -> None:
    serializer = pytest.importorskip("optuna_dashboard._serializer")
    study = study_of(undisturbed)
    shown = {entry["key"]: entry["value"] for entry in serializer.serialize_attrs(study.user_attrs)}
    assert json.loads(shown["winner"])["trial"] == study.user_attrs["winner"]["trial"]


def test_a_failed_trial_tells_its_reason_and_one_of_several_tasks_each_score(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "journal", "run-1")
    for name in ("a", "b"):
        ledger.add(kind=TrialKind.EXPERT, name=name, recipe_key=name)
    scores = {"one": {"acc": 0.25}, "two": {"acc": 0.75}}
    ledger.record(Evaluation(trial=0, split="search", score=0.5, tie_break=0.01, aggregates=scores))
    ledger.record(Evaluation(trial=1, split="search", failure="error: " + 10_000 * "x"))
    done, failed = study_of(tmp_path).get_trials(deepcopy=False)
    assert done.value == 0.5
    assert (done.user_attrs["tasks"], done.user_attrs["fitness"]) == ({"one": 0.25, "two": 0.75}, 0.51)
    assert failed.state is optuna.trial.TrialState.FAIL
    assert failed.user_attrs["reason"].startswith("error: xxx")
    assert len(failed.user_attrs["reason"]) < 1000


def test_the_story_of_a_run_that_is_opened_again_is_not_told_twice(undisturbed: Path, config: Config) -> None:
    before = (undisturbed / JOURNAL).read_bytes()
    run = open_run(undisturbed)
    ledger = Ledger.open(undisturbed, "journal", run.facts["study"])
    study = study_of(undisturbed)
    ledger.describe(study.user_attrs, study.metric_names)
    with Session(config, undisturbed, SilentObserver(), "config"):
        pass
    assert (undisturbed / JOURNAL).read_bytes() == before
