"""What can't be learnt from is refused before any training, with its place, and leaves nothing behind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import evomerge
from evomerge.errors import CheckpointError, ConfigError, EvomergeError, ExportError, TuningError
from evomerge.testing.models import tiny_checkpoint
from helpers.classifiers import write_family
from helpers.commands import run as command
from helpers.tuning import write_rows


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"llama": tiny_checkpoint(folder / "llama"), "bert": write_family(folder, "bert")["base"]}


def refused(model: Path, folder: Path, content: str, name: str, message: str, **settings: Any) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(EvomergeError, match=message):
        evomerge.tune(model, folder / name, folder / "out", **settings)
    assert sorted(path.name for path in folder.iterdir()) == [name]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "a.txt: holds no text"),
        ("a.txt", " \n\n ", "a.txt: holds no text"),
        ("a.jsonl", "", "a.jsonl: holds no rows"),
        ("a.jsonl", '{"text": "x y"}\n{"text": " "}', "a.jsonl: row 1: text is empty"),
        ("a.jsonl", '{"text": 3}', "row 0: text: expected text, found 3"),
        ("a.jsonl", '{"text": null}', "row 0: text has no value"),
        ("a.jsonl", '{"txt": "x"}', "row 0: unknown column 'text'. Did you mean 'txt'"),
        ("a.jsonl", '{"text": "x"', "line 1: not valid JSON"),
        ("a.csv", "sentence\nhello", "unknown column 'text'. Available: sentence"),
        ("a.pdf", "x", r"expected a text file \(.txt"),
    ],
)
def test_text_that_is_none(tmp_path: Path, models: dict[str, Path], name: str, text: str, message: str) -> None:
    refused(models["llama"], tmp_path, text, name, message)


LABELLED = {"text": "sentence", "label": "label"}


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("sentence,label\na,sad\nb,sad", LABELLED, "label: all 2 items have the label 'sad'; a classifier needs"),
        ("sentence,label\na,sad\nb,2", LABELLED, "label: all 2 items have the label"),
        ("sentence,label\na,sad\nb,angry", LABELLED, "a.csv: row 1: label: the model has no label 'angry'; its labels"),
        ("sentence,label\na,sad\nb,angry", {**LABELLED, "label": "mood"}, "unknown column 'mood'"),
        ("sentence,label\na,sad\nb,angry", {"label": "label"}, "label needs the column of the text"),
        ("sentence,label\na,sad\n" + "goat " * 200 + ",glad", LABELLED, "row 1: has .* and the model takes 64"),
    ],
)  # fmt: skip
def test_labels_that_teach_nothing(
    tmp_path: Path, models: dict[str, Path], text: str, settings: dict[str, Any], message: str
) -> None:
    refused(models["bert"], tmp_path, text, "a.csv", message, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 4096}, "length: blocks of 4096 tokens are longer than the 512 positions"),
        ({"learning_rate": 0}, "tune: learning_rate: must be above 0"),
        ({"learning_rte": 1}, "tune: learning_rte: unknown key 'learning_rte'. Did you mean 'learning_rate'"),
        ({"epochs": 1, "steps": 2}, "give either epochs or steps"),
        ({"lora_alpha": 2}, "lora_alpha belongs to lora_rank"),
        ({"device": "tpu"}, "device: 'tpu' is none of"),
        ({"image": "pixels"}, "image belongs to labelled data"),
        ({"validation": 1.0}, "validation: must be below 1"),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, models: dict[str, Path], settings: dict[str, Any], message: str
) -> None:
    refused(models["llama"], tmp_path, "The river rises.", "a.txt", message, **settings)


def test_an_output_that_is_there_is_left_alone(tmp_path: Path, models: dict[str, Path]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ExportError, match="out: is there already; choose another folder"):
        evomerge.tune(models["llama"], rows, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_model_that_is_quantised_or_none_or_an_adapter_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    config = json.loads((models["llama"] / "config.json").read_text())
    (tmp_path / "int4").mkdir()
    for file in models["llama"].iterdir():
        (tmp_path / "int4" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "int4" / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    with pytest.raises(CheckpointError, match="its weights are quantised"):
        evomerge.tune(tmp_path / "int4", rows, tmp_path / "out")
    with pytest.raises(CheckpointError, match="doesn't continue text"):
        evomerge.tune(models["bert"], rows, tmp_path / "out", length=16)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_training_with_the_step(tmp_path: Path, models: dict[str, Path]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    with pytest.raises(TuningError, match=r"the loss of step \d+ is (nan|inf); take a smaller learning rate"):
        evomerge.tune(
            models["llama"], rows, tmp_path / "out", steps=8, length=32, learning_rate=1e30, optimizer="sgd", clip=0.0
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_line_says_what_it_did_and_what_is_wrong_in_a_line(tmp_path: Path, models: dict[str, Path]) -> None:
    write_rows(tmp_path / "rows.jsonl")
    told = ["tune", str(models["llama"]), "--data", "rows.jsonl", "--steps", "2", "--length", "32", "--out", "out"]
    done = command(told, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"step 2/2, loss \d\.\d+, held-out loss", done.stdout)
    assert re.search(r"^Of \d+ held-out examples: loss [\d.]+ before, [\d.]+ after$", done.stdout, re.MULTILINE)
    assert re.search(r"^Wrote .*out: .* of weights, README.md, ", done.stdout, re.MULTILINE)
    again = command(told, tmp_path)
    assert again.returncode == 1
    assert again.stderr == "Error: out: is there already; choose another folder or empty this one\n"
    with pytest.raises(ConfigError):
        evomerge.tune(models["llama"], tmp_path / "rows.jsonl", tmp_path / "x", nothing=1)
