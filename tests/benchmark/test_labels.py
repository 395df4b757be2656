"""Classifiers searched end to end: scores as transformers' own forward pass of the exported folder gives them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sklearn.metrics import f1_score

from evomerge.benchmark import build_benchmark
from evomerge.benchmark.labels import ACCURACY, MACRO_F1
from evomerge.config.benchmark import BenchmarkConfig
from evomerge.config.config import Config
from evomerge.errors import BenchmarkError, CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.report.rescore import rescore
from evomerge.run.directory import open_run
from evomerge.study.check import check
from evomerge.study.experiment import open_experiment
from evomerge.study.export import export
from evomerge.study.score_model import evaluate
from evomerge.study.search import search
from evomerge.testing.runs import essence
from helpers.classifiers import LABELS, write_config, write_family, write_images, write_texts
from helpers.interrupt import Interrupt

pytestmark = pytest.mark.slow

KINDS = ("bert", "distilbert", "vit")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_texts(folder / "texts.csv")
    write_images(folder / "images.jsonl")
    return folder


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("families")
    return {kind: write_family(folder, kind) for kind in KINDS}


def labels(kind: str, folder: Path, **changes: Any) -> dict[str, Any]:
    file, column, key = ("images.jsonl", "pixels", "image") if kind == "vit" else ("texts.csv", "sentence", "text")
    return {"labels": {"data": str(folder / file), key: column, **changes}}


def own_answers(kind: str, folder: Path, data: Path) -> dict[str, tuple[int, list[float]]]:
    """By input, the right label and transformers' log-probabilities, one item at a time."""
    found = {}
    if kind == "vit":
        model: Any = transformers.AutoModelForImageClassification.from_pretrained(folder)
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        rows = [json.loads(line) for line in (data / "images.jsonl").read_text().splitlines()]
        inputs = [processor(Image.fromarray(np.uint8(row["pixels"])), return_tensors="pt") for row in rows]
        right = [row["label"] for row in rows]
        keys = [one["pixel_values"][0].numpy().tobytes() for one in inputs]
    else:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        with (data / "texts.csv").open() as file:
            texts = list(csv.DictReader(file))
        inputs = [tokenizer(row["sentence"], return_tensors="pt") for row in texts]
        right = [LABELS.index(row["label"]) for row in texts]
        keys = [one["input_ids"][0].numpy().tobytes() for one in inputs]
    for key, one, gold in zip(keys, inputs, right, strict=True):
        with torch.no_grad():
            found[key] = (gold, model(**one).logits[0].log_softmax(-1).tolist())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_item_scores_of_the_winner_are_those_of_the_exported_model_in_transformers(
    kind: str, families: dict[str, dict[str, Path]], data: Path, tmp_path: Path
) -> None:
    config = Config.from_file(write_config(tmp_path / "config.yaml", families[kind], labels(kind, data)))
    result = search(config, tmp_path / "run")
    truth = own_answers(kind, export(tmp_path / "run", tmp_path / "out"), data)
    built = build_benchmark(config.benchmark, Checkpoint.open(families[kind]["base"]))
    for split in ("search", "validation", "test"):
        evaluation = open_run(tmp_path / "run").ledger().evaluation(result.winner, split)
        assert evaluation is not None
        assert evaluation.table is not None
        scores = evaluation.table.tasks["labels"]
        assert scores.answers is not None
        found = [
            truth[next(iter(built.requests(split)[place].inputs.values())).tobytes()]  # type: ignore[union-attr]
            for place in range(len(scores.items))
        ]
        np.testing.assert_allclose(scores.answers.log_likelihoods(), [logs for _, logs in found], atol=2e-5)
        right = [gold for gold, _ in found]
        given = [int(np.argmax(logs)) for _, logs in found]
        assert list(scores.values[ACCURACY]) == [gold == guess for gold, guess in zip(right, given, strict=True)]
        expected = f1_score(right, given, average="macro")
        assert evaluation.aggregates["labels"][MACRO_F1] == pytest.approx(expected)
        assert evaluation.score == pytest.approx(np.mean(np.equal(right, given)))


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_an_expert_with_settings_of_its_own_answers_as_its_folder_does_in_transformers(
    kind: str, families: dict[str, dict[str, Path]], data: Path, tmp_path: Path
) -> None:
    expert = named(families[kind]["a"], tmp_path / "own", ["LABEL_0", "LABEL_1", "LABEL_2"])
    files = {"config.json": {"layer_norm_eps": 0.5}}
    if kind == "vit":
        files["preprocessor_config.json"] = {"image_mean": [0.1, 0.2, 0.3]}
    for name, change in files.items():
        (expert / name).write_text(json.dumps({**json.loads((expert / name).read_text()), **change}))
    models = {**families[kind], "a": expert}
    config = Config.from_file(write_config(tmp_path / "config.yaml", models, labels(kind, data), evaluations=6))
    result = search(config, tmp_path / "run")
    (model,) = [model for model in result.data["test"]["models"] if model["name"] == "a"]
    assert "layer_norm_eps" in model["own_settings"]
    evaluation = open_run(tmp_path / "run").ledger().evaluation(model["trial"], "test")
    assert evaluation is not None
    assert evaluation.table is not None
    truth = own_answers(kind, expert, data)
    asked = open_experiment(config).benchmark_of("a").requests("test")
    found = [truth[next(iter(request.inputs.values())).tobytes()][1] for request in asked]  # type: ignore[union-attr]
    answers = evaluation.table.tasks["labels"].answers
    assert answers is not None
    np.testing.assert_allclose(answers.log_likelihoods(), found, atol=2e-5)


@pytest.mark.parametrize(("kind", "block"), [("distilbert", None), ("distilbert", 7), ("vit", None)])
def test_an_interrupted_search_over_labels_ends_as_an_undisturbed_one(
    kind: str, block: int | None, families: dict[str, dict[str, Path]], data: Path, tmp_path: Path
) -> None:
    file = write_config(tmp_path / "config.yaml", families[kind], labels(kind, data, metric="macro_f1"), block=block)
    config = Config.from_file(file)
    search(config, tmp_path / "whole")
    for after in (3, 8):
        with pytest.raises(KeyboardInterrupt):
            search(config, tmp_path / "broken", observer=Interrupt(after))
    search(config, tmp_path / "broken")
    assert essence(tmp_path / "broken") == essence(tmp_path / "whole")


def test_a_run_over_labels_is_rescored_by_the_other_metric(
    families: dict[str, dict[str, Path]], data: Path, tmp_path: Path
) -> None:
    config = Config.from_file(write_config(tmp_path / "config.yaml", families["bert"], labels("bert", data)))
    search(config, tmp_path / "run")
    for one in rescore(tmp_path / "run", metrics={"labels": "macro_f1"}):
        evaluation = open_run(tmp_path / "run").ledger().evaluation(one.trial.number, "search")
        assert evaluation is not None
        assert one.score == evaluation.aggregates["labels"][MACRO_F1]


def test_a_model_is_scored_on_every_item_as_transformers_answers_them(
    families: dict[str, dict[str, Path]], data: Path
) -> None:
    (score,) = evaluate(str(families["vit"]["a"]), BenchmarkConfig.model_validate(labels("vit", data)))
    truth = own_answers("vit", families["vit"]["a"], data)
    assert score.items == len(truth)
    assert score.score == pytest.approx(np.mean([gold == int(np.argmax(logs)) for gold, logs in truth.values()]))
    assert score.interval[0] <= score.score <= score.interval[1]


def test_labels_that_the_model_does_not_have_are_refused_by_name(
    families: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    (tmp_path / "odd.csv").write_text("sentence,label\na river,calm\na hill,furious\na book,glad\n")
    config = BenchmarkConfig.model_validate(
        {
            "labels": {"data": str(tmp_path / "odd.csv"), "text": "sentence"},
            "splits": {"search": {"items": 1}, "validation": {"items": 1}, "test": {"items": 1}},
        }
    )
    with pytest.raises(BenchmarkError, match=r"no label 'furious'; its labels are 'calm', 'glad', 'sad'"):
        build_benchmark(config, Checkpoint.open(families["bert"]["base"]))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("vit", {"text": "pixels", "image": None}, "is a ViTForImageClassification"),
        ("bert", {"label": "mood"}, "has no mood; it has sentence, label"),
        ("bert", {"data": "gone.csv"}, "can't be read"),
        ("bert", {"data": "texts.xlsx"}, "ends in .json, .jsonl, .csv, .parquet"),
    ],
)
def test_data_that_does_not_fit_is_refused_saying_what_would(
    kind: str, changes: dict[str, Any], message: str, families: dict[str, dict[str, Path]], data: Path
) -> None:
    config = BenchmarkConfig.model_validate(labels(kind, data, **changes))
    with pytest.raises(BenchmarkError, match=message):
        build_benchmark(config, Checkpoint.open(families[kind]["base"]))


def test_every_format_makes_the_same_items(families: dict[str, dict[str, Path]], data: Path, tmp_path: Path) -> None:
    import datasets
    import pyarrow as pa
    from pyarrow import parquet

    with (data / "texts.csv").open() as file:
        rows = list(csv.DictReader(file))
    (tmp_path / "texts.json").write_text(json.dumps(rows))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "texts.parquet")
    dataset = datasets.Dataset.from_list(rows).cast_column("label", datasets.ClassLabel(names=["sad", "glad", "calm"]))
    dataset.save_to_disk(tmp_path / "folder")
    base = Checkpoint.open(families["bert"]["base"])
    places = [
        data / "texts.csv",
        *(tmp_path / f"texts.{end}" for end in ("json", "jsonl", "parquet")),
        tmp_path / "folder",
    ]
    made = [
        build_benchmark(BenchmarkConfig.model_validate(labels("bert", data, data=str(place))), base).fingerprint
        for place in places
    ]
    assert made == made[:1] * len(places)


def named(model: Path, folder: Path, names: list[str]) -> Path:
    """A copy of a model with other names of its labels."""
    shutil.copytree(model, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["id2label"] = {str(number): name for number, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_experts_whose_labels_have_no_names_of_their_own_are_taken(
    families: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    expert = named(families["bert"]["a"], tmp_path / "other", ["LABEL_0", "LABEL_1", "LABEL_2"])
    check_compatible(Checkpoint.open(families["bert"]["base"]), {"b": Checkpoint.open(expert)})


def test_experts_whose_outputs_mean_other_labels_are_refused(
    families: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    named(families["bert"]["a"], tmp_path / "other", ["sad", "glad", "calm"])
    with pytest.raises(CheckpointError, match="its labels are sad, glad, calm, the base's calm, glad, sad"):
        check_compatible(Checkpoint.open(families["bert"]["base"]), {"b": Checkpoint.open(tmp_path / "other")})


def test_tasks_are_refused_for_a_model_that_does_not_continue_text(
    families: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    config = Config.from_file(write_config(tmp_path / "config.yaml", families["bert"], {"tasks": ["any"]}))
    with pytest.raises(CheckpointError, match=r"is a BertForSequenceClassification, which doesn't continue text"):
        check(config)


def test_check_counts_the_items_of_a_model_without_a_tokenizer(
    families: dict[str, dict[str, Path]], data: Path, tmp_path: Path
) -> None:
    report = check(Config.from_file(write_config(tmp_path / "config.yaml", families["vit"], labels("vit", data))))
    assert report.items == {"search": 19, "validation": 14, "test": 15}
    assert not report.tokens


def test_tasks_for_language_models_are_refused_for_a_classifier(families: dict[str, dict[str, Path]]) -> None:
    config = BenchmarkConfig.model_validate({"tasks": ["arc_easy"]})
    with pytest.raises(BenchmarkError, match=r"is a BertForSequenceClassification.*benchmark\.labels"):
        build_benchmark(config, Checkpoint.open(families["bert"]["base"]))
