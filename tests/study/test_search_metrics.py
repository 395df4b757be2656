"""Whole searches by metrics that are no mean over items: BLEU, F1 and perplexity."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from evomerge.cli.results import result_table
from evomerge.config.config import Config
from evomerge.report.finding import finding
from evomerge.study.export import export
from evomerge.study.search import search
from helpers.search import write_config, write_task

pytestmark = pytest.mark.slow

SETTINGS: dict[str, dict[str, Any]] = {
    "bleu": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}} Answer:",
        "doc_to_target": "{{question}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "bleu"}, {"metric": "chrf"}, {"metric": "ter"}],
    },
    "f1": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}} Answer:",
        "doc_to_choice": ["no", "yes"],
        "doc_to_target": "{{ [answer, 1] | min }}",
        "metric_list": [{"metric": "f1"}, {"metric": "acc"}],
    },
    "perplexity": {
        "output_type": "loglikelihood",
        "doc_to_text": "Question: {{question}} Answer:",
        "doc_to_target": " {{choices[answer]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
}


def experiment(folder: Path, models: dict[str, Path], metric: str) -> Config:
    tasks = write_task(folder / "tasks", items=16)
    files = {"validation": str(tasks / "validation.jsonl"), "test": str(tasks / "test.jsonl")}
    task = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "validation_split": "validation",
        "test_split": "test",
        "metadata": {"version": 1.0},
        **SETTINGS[metric],
    }
    (tasks / "tiny_choice.yaml").write_text(yaml.safe_dump(task))
    changes = {"search": {"evaluations": 12, "population": 6, "scan": 2, "shortlist": 2}}
    return Config.from_file(write_config(folder / "x.yaml", models, tasks, **changes))


@pytest.mark.parametrize("metric", SETTINGS)
def test_a_search_by_any_metric_ends_with_a_winner_and_its_comparisons(
    tmp_path: Path, tiny_llama: dict[str, Path], metric: str
) -> None:
    config = experiment(tmp_path, tiny_llama, metric)
    result = search(config, tmp_path / "run").data
    sign = -1.0 if metric == "perplexity" else 1.0
    for split in ("search", "validation", "test"):
        models = {model["kind"]: model for model in result[split]["models"]}
        for model in result[split]["models"]:
            low, high = model["interval"]
            assert low <= model["score"] <= high
            assert model["score"] == pytest.approx(sign * model["tasks"]["tiny_choice"])
        for row in result[split]["comparisons"]:
            (rival,) = [model for model in result[split]["models"] if model["name"] == row["winner_vs"]]
            assert row["difference"] == pytest.approx(models["winner"]["score"] - rival["score"])
            assert row["interval"][0] <= row["difference"] <= row["interval"][1]
            assert 0 < row["p"] <= row["p_holm"] <= 1
    assert result["test"]["resamples"] == 10_000

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(result_table(result), finding(result))
    label = {"bleu": "Bleu", "f1": "F1", "perplexity": "Minus perplexity"}[metric]
    assert f"{label} on 16 test items, held out" in console.export_text()
    card = (export(tmp_path / "run", tmp_path / "out") / "README.md").read_text()
    assert f"- tiny_choice: {metric},none" + (" (lower is better" if metric == "perplexity" else "") in card


def test_the_better_perplexity_wins(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    result = search(experiment(tmp_path, tiny_llama, "perplexity"), tmp_path / "run").data
    merges = {row["trial"]: row for row in result["shortlist"]}
    assert result["winner"]["trial"] == max(merges, key=lambda number: merges[number]["validation"])
    assert all(row["validation"] < -1.0 for row in merges.values())
