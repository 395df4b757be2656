"""The card of an exported model says what is true of that trial, and nothing of the disk that it was made on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.report.model_card import model_card
from evomerge.run.directory import Run, create_run
from evomerge.run.evaluation import Evaluation
from evomerge.run.recipes import checkpoint_recipe
from evomerge.run.records import TrialRecord
from evomerge.run.trial import TrialKind, TrialState

RECIPE = Recipe(
    base=ModelReference(path="/home/alice/secret/base"),
    experts={"maths": ModelReference(path="org/maths"), "own": ModelReference(path="/data/own")},
    method="ties",
    groups=(),
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    directory = tmp_path / "run"
    directory.mkdir()
    config = Config.from_data(
        {
            "models": {"base": "/home/alice/secret/base", "experts": {"maths": "org/maths", "own": "/data/own"}},
            "benchmark": {"tasks": ["sums"]},
        }
    )
    tasks = [{"task": "sums", "metric": "exact_match,none", "higher_is_better": True}]
    return create_run(directory, config, {"identity": {}, "benchmark": {"tasks": tasks}})


def record(kind: TrialKind, **known: Any) -> TrialRecord:
    return TrialRecord(
        **{"number": 7, "kind": kind, "name": "maths", "state": TrialState.COMPLETE, "score": 0.5, **known}
    )


def recipe(kind: TrialKind) -> Recipe:
    """What a trial of this kind is made by."""
    return checkpoint_recipe(RECIPE, "maths") if kind is TrialKind.EXPERT else RECIPE


@pytest.mark.parametrize("kind", [*TrialKind])
def test_no_card_names_a_local_path_and_hub_ids_stay(run: Run, kind: TrialKind) -> None:
    card = model_card(run, record(kind), recipe(kind), name="x")
    assert "/home" not in card
    assert "/data" not in card
    # What a base is made of isn't the experts that were merged with it.
    assert ("base_model:\n- org/maths\n" in card) == (kind is not TrialKind.BASE)
    assert ("base_model_relation: merge" in card) == (not kind.is_checkpoint)


def test_each_kind_of_trial_says_where_its_coefficients_come_from(run: Run) -> None:
    def says(kind: TrialKind) -> str:
        return model_card(run, record(kind), recipe(kind), name="x")

    assert "`base` (a local model) unchanged" in says(TrialKind.BASE)
    assert "`org/maths` (maths) unchanged" in says(TrialKind.EXPERT)
    assert "the same coefficients in all parts of the model" in says(TrialKind.UNIFORM)
    assert "its coefficients found by a search (cma)" in says(TrialKind.CANDIDATE)
    for kind in (TrialKind.BASE, TrialKind.EXPERT):
        assert "A merge of" not in says(kind)
        assert "optimistic" not in says(kind), "a model that is given isn't selected"
    for kind in (TrialKind.BASE, TrialKind.EXPERT, TrialKind.UNIFORM):
        assert "found by a search" not in says(kind)


def test_what_was_measured_of_a_trial_is_said_and_nothing_else(run: Run) -> None:
    tested = model_card(run, record(TrialKind.UNIFORM, validation=0.25, test=0.125), RECIPE, name="x")
    for part in ("search items: 0.5000", "which the winner is chosen: 0.2500", "neither saw: 0.1250"):
        assert part in tested
    assert "not scored on test items" not in tested
    assert "not scored on test items" in model_card(run, record(TrialKind.CANDIDATE), RECIPE, name="x")
    failed = record(TrialKind.CANDIDATE, score=None, state=TrialState.FAILED, reason="not_finite: inf")
    assert "This trial has no score: not_finite: inf." in model_card(run, failed, RECIPE, name="x")


def test_test_scores_are_claimed_of_a_folder_only_if_it_would_have_them(run: Run) -> None:
    tested = {"split": "test", "is_stock": True, "is_whole": True, "documents": []}
    (task,) = run.facts["benchmark"]["tasks"]
    task |= {"tested": tested, "items": {"test": 8}}
    run.facts |= {"dtype": "float32"}
    ledger = run.ledger()
    trial = ledger.add(kind=TrialKind.EXPERT, name="maths", recipe_key="k").number
    aggregates = {"sums": {"exact_match,none": 0.125}}
    ledger.record(Evaluation(trial=trial, split="test", score=0.125, aggregates=aggregates))

    def card() -> str:
        return model_card(run, record(TrialKind.EXPERT, number=trial, test=0.125), recipe(TrialKind.EXPERT), name="x")

    assert "value: 0.125" in card()
    assert "lm_eval --model hf --model_args pretrained=x,dtype=float32 --tasks sums" in card()
    run.facts |= {"as_themselves": {"maths": ["max_position_embeddings"]}}
    assert "model-index" not in card()
    assert "lm_eval" not in card()


def test_only_the_winner_has_the_table_of_the_test(run: Run) -> None:
    models = [{"name": "winner", "kind": "winner", "trial": 7, "score": 0.5, "interval": [0.4, 0.6], "items": 9}]
    split = {"models": models, "comparisons": [], "resamples": None}
    result = {"winner": {"trial": 7, "kind": "candidate"}, "evaluations": 3, "search": split, "test": split}
    (run.directory / "result.json").write_text(json.dumps(result))
    assert "| winner | 0.5000 |" in model_card(run, record(TrialKind.CANDIDATE), RECIPE, name="x")
    other = record(TrialKind.CANDIDATE, number=8)
    assert "| winner" not in model_card(run, other, RECIPE, name="x")


def test_a_table_without_rows_is_left_out_and_a_test_that_failed_is_said(run: Run) -> None:
    winner = {"name": "winner", "kind": "winner", "trial": 7, "score": 0.5, "interval": [0.4, 0.6], "items": 9}
    base = {**winner, "name": "base", "kind": "base", "trial": 0}

    def card(kind: TrialKind, *tested: dict[str, Any]) -> str:
        split = {"models": [winner], "comparisons": [], "resamples": None}
        test = {**split, "models": list(tested)}
        result = {"winner": {"trial": 7, "kind": kind}, "evaluations": 3, "search": split, "test": test}
        (run.directory / "result.json").write_text(json.dumps(result))
        return model_card(run, record(kind), RECIPE, name="x")

    alone = card(TrialKind.CANDIDATE, winner)
    assert "Paired on the same items" not in alone
    assert "no test score" not in alone
    assert "selected for" in alone
    assert "This merge has no test score" in card(TrialKind.CANDIDATE, base)
    # The mean is validated whatever it scores.
    assert "selected for" not in card(TrialKind.MEAN, winner)
