"""The result's table and sentence."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from evomerge.cli.results import normalised_table, result_table
from evomerge.report.finding import finding


def printed(result: dict[str, Any]) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(result_table(result))
    return capture.get()


def test_the_table_has_every_model_with_its_interval_and_the_winners_lead(result: dict[str, Any]) -> None:
    lines = [line.strip() for line in printed(result).splitlines()]
    assert lines[0].startswith("Accuracy on 200 test items, held out")
    row = next(line for line in lines if line.startswith("expert language"))
    for figure in ("0.300 [0.200, 0.400]", "+0.220 [+0.170, +0.270]", "0.001"):
        assert figure in row
    assert next(line for line in lines if line.startswith("evolved winner")).endswith("0.520 [0.420, 0.620]")


def test_the_table_fits_a_terminal_of_80_columns(result: dict[str, Any]) -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(result_table(result))
    assert "expert language   0.300 [0.200, 0.400]   +0.220 [+0.170, +0.270]      0.001" in capture.get()


def test_accuracies_over_the_experts_own_are_a_table_of_their_own(result: dict[str, Any]) -> None:
    assert normalised_table(result) is None
    for model in result["test"]["models"]:
        model["normalised"] = {"cars": 0.5, "signs": 1.0}
    made = normalised_table(result)
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(made)
    row = next(line for line in capture.get().splitlines() if "evolved winner" in line)
    assert row.split() == ["evolved", "winner", "0.750", "0.500", "cars"]


def test_other_metrics_than_accuracy_are_called_scores(result: dict[str, Any]) -> None:
    result["metrics"] = {"translation": "bleu,none"}
    assert printed(result).startswith("Score on 200 test items")


def test_the_sentence_claims_what_is_significant_and_no_more(result: dict[str, Any]) -> None:
    assert finding(result) == (
        "On 200 test items that the search never saw, the winner scores 0.520: better than language, the best expert "
        "(+0.220, corrected p = 0.002), and not clearly different from the best uniform merge "
        "(+0.020, corrected p = 0.6)."
    )


def test_the_sentence_admits_a_loss(result: dict[str, Any]) -> None:
    for row in result["test"]["comparisons"]:
        row.update(difference=-0.1, p=0.001, p_holm=0.004)
    assert "worse than the best uniform merge (-0.100, corrected p = 0.004)" in finding(result)


def test_the_claim_rests_on_the_corrected_p(result: dict[str, Any]) -> None:
    for row in result["test"]["comparisons"]:
        row.update(difference=0.1, p=0.04, p_holm=0.16)
    assert "better" not in finding(result)


def test_a_uniform_winner_is_said_to_be_one(result: dict[str, Any]) -> None:
    result["winner"] = {"trial": 3, "kind": "uniform", "recipe": {}}
    result["test"]["models"][-1]["trial"] = 3
    sentence = finding(result)
    assert sentence.startswith("No evolved candidate did better on validation than a uniform merge")
    assert "from the best uniform merge" not in sentence
    assert "winner (uniform)" in printed(result)


def test_an_untested_winner_is_said_to_be_so(result: dict[str, Any]) -> None:
    result["test"]["models"].pop()
    result["test"]["comparisons"] = []
    assert "could not be tested" in finding(result)
    assert "expert language" in printed(result)


@pytest.mark.parametrize("p", [1e-12])
def test_tiny_probabilities_are_bounded_not_rounded_to_zero(result: dict[str, Any], p: float) -> None:
    result["test"]["comparisons"][2].update(p=p, p_holm=p)
    assert "corrected p < 0.0001" in finding(result)
