"""Classifiers of texts and images are tuned on the files of the `labels` benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, BertConfig, BertModel

import evomerge
from evomerge.errors import TuningError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.lora import Adapter
from evomerge.testing.models import tiny_checkpoint, tiny_tokenizer
from helpers.classifiers import SIDE, write_family
from helpers.tuning import equal, tensors

pytestmark = pytest.mark.slow

FAST = {"learning_rate": 3e-3, "batch": 8, "validation": 0.25}


def write_brightness(path: Path, count: int = 48) -> Path:
    """Dark, grey and light images, by label's name."""
    generator = np.random.default_rng(0)
    with path.open("w") as file:
        for number in range(count):
            pixels = generator.integers(0, 60, size=(SIDE, SIDE, 3)) + 90 * (number % 3)
            file.write(json.dumps({"pixels": pixels.tolist(), "label": ("calm", "glad", "sad")[number % 3]}) + "\n")
    return path


def write_moods(path: Path, count: int = 48) -> Path:
    words = ("goat", "river", "market")
    lines = [f"{number} {words[number % 3]},{('calm', 'glad', 'sad')[number % 3]}" for number in range(count)]
    path.write_text("\n".join(["sentence,label", *lines]))
    return path


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("vit"), "vit")["base"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("bert"), "bert")["base"]


def test_a_classifier_of_images_learns_and_stays_a_folder_with_its_processor(tmp_path: Path, vit: Path) -> None:
    rows = write_brightness(tmp_path / "rows.jsonl")
    made = evomerge.tune(vit, rows, tmp_path / "out", image="pixels", label="label", epochs=6, **FAST)
    assert made.measures[made.steps]["accuracy"] > 0.9 > made.measures[0]["accuracy"]
    assert made.validation == 12
    model = AutoModelForImageClassification.from_pretrained(made.folder)
    assert model.config.id2label == {0: "calm", 1: "glad", 2: "sad"}
    assert (made.folder / "preprocessor_config.json").is_file()


def test_an_adapter_of_a_classifier_brings_its_head_and_opens_as_an_expert(tmp_path: Path, bert: Path) -> None:
    rows = write_moods(tmp_path / "rows.csv")
    settings = {**FAST, "text": "sentence", "label": "label", "epochs": 3, "lora_rank": 4}
    made = evomerge.tune(bert, rows, tmp_path / "out", **settings)
    base = Checkpoint.open(bert)
    expert = Adapter.open(str(made.folder), base)
    assert not torch.equal(expert.tensor("classifier.weight"), base.tensor("classifier.weight"))
    assert made.measures[made.steps]["loss"] < made.measures[0]["loss"]


def test_an_encoder_gets_a_new_head_for_the_labels_of_the_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=384, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    rows = write_moods(tmp_path / "rows.csv")
    settings = {**FAST, "text": "sentence", "label": "label", "steps": 2}
    with pytest.raises(TuningError, match=r"is a BertModel, which has no head for labels of texts.*--new-head"):
        evomerge.tune(tmp_path / "base", rows, tmp_path / "out", **settings)
    one, two = (
        evomerge.tune(tmp_path / "base", rows, tmp_path / name, new_head=True, **settings).folder for name in "ab"
    )
    assert equal(tensors(one), tensors(two))
    model = AutoModelForSequenceClassification.from_pretrained(one)
    assert model.config.id2label == {0: "calm", 1: "glad", 2: "sad"}
    assert "Its head is new, for 3 labels." in (one / "README.md").read_text()


def test_equal_items_are_never_on_both_sides_of_the_split(tmp_path: Path, bert: Path) -> None:
    lines = [f"{number % 8} goat,{('calm', 'sad')[number % 2]}" for number in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["sentence,label", *lines]))
    made = evomerge.tune(bert, tmp_path / "rows.csv", tmp_path / "out", text="sentence", label="label", steps=1, **FAST)
    assert (made.train, made.validation) == (30, 10)


def test_a_language_model_has_no_head_for_labels(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base")
    rows = write_moods(tmp_path / "rows.csv")
    with pytest.raises(TuningError, match="is a LlamaForCausalLM, which has no head"):
        evomerge.tune(base, rows, tmp_path / "out", text="sentence", label="label")
