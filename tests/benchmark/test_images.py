"""Labelled image files: known by what they hold, and read when they are asked for."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from evomerge.benchmark import Benchmark, build_benchmark
from evomerge.config.benchmark import BenchmarkConfig
from evomerge.errors import BenchmarkError
from evomerge.inference.classify import Classifier
from evomerge.models.checkpoint import Checkpoint
from evomerge.score.requests import ClassificationRequest
from helpers.classifiers import SIDE, write_family

FILES = {"search": 6, "validation": 4, "test": 5}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("vit"), "vit")["base"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for each split, whose files have the same names and other pixels."""
    generator = np.random.default_rng(0)
    for split, count in FILES.items():
        (tmp_path / split).mkdir()
        rows = []
        for number in range(count):
            pixels = generator.integers(0, 256, size=(SIDE + 3, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"{number}.png")
            rows.append({"file": f"{number}.png", "label": number % 3})
        write(tmp_path, split, rows)
    return tmp_path


def write(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    (folder / split / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def build(folder: Path, vit: Path, **settings: Any) -> Benchmark:
    data = {split: str(folder / split / "rows.jsonl") for split in FILES}
    splits = {split: {"split": split} for split in FILES}
    config = {"labels": {"data": data, "image": "file"}, "splits": splits, **settings}
    return build_benchmark(BenchmarkConfig.model_validate(config), Checkpoint.open(vit))


def sizes(benchmark: Benchmark) -> dict[str, int]:
    return {split: len(items) for split, items in benchmark.splits.items()}


def test_files_of_one_name_with_other_pixels_are_other_items(folder: Path, vit: Path) -> None:
    benchmark = build(folder, vit)
    assert sizes(benchmark) == FILES
    assert len({item.id for items in benchmark.splits.values() for item in items}) == sum(FILES.values())


def test_one_image_under_two_names_is_one_item(folder: Path, vit: Path) -> None:
    (folder / "search" / "copy.png").write_bytes((folder / "test" / "2.png").read_bytes())
    rows = [{"file": f"{number}.png", "label": number % 3} for number in range(FILES["search"])]
    write(folder, "search", [*rows, {"file": "copy.png", "label": 2}])
    with pytest.raises(BenchmarkError, match="1 search items of labels are also test items"):
        build(folder, vit)
    assert sizes(build(folder, vit, overlap="drop")) == FILES


def test_renaming_a_file_changes_no_item_and_other_pixels_do(folder: Path, vit: Path) -> None:
    before = build(folder, vit).fingerprint
    (folder / "test" / "0.png").rename(folder / "test" / "zero.png")
    rows = [{"file": f"{number}.png" if number else "zero.png", "label": number % 3} for number in range(5)]
    write(folder, "test", rows)
    assert build(folder, vit).fingerprint == before
    Image.new("RGB", (SIDE, SIDE)).save(folder / "test" / "zero.png")
    assert build(folder, vit).fingerprint != before


def test_pixel_values_are_transformers_own_and_not_kept(folder: Path, vit: Path) -> None:
    processor = transformers.AutoImageProcessor.from_pretrained(vit)
    requests = build(folder, vit).requests("test")
    # As they travel to a worker on another machine, which hasn't the files.
    sent = pickle.loads(pickle.dumps(requests))
    for number, request in enumerate(sent):
        assert isinstance(request, ClassificationRequest)
        file = folder / "test" / f"{number}.png"
        with Image.open(file) as image:
            truth = processor(image.convert("RGB"), return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(request.inputs["pixel_values"], truth)
        assert request.inputs["pixel_values"] is not request.inputs["pixel_values"]
        assert list(request.inputs) == ["pixel_values"]
        assert request.inputs.get("input_ids") is None
    pixels = sum(request.inputs["pixel_values"].nbytes for request in sent)  # type: ignore[union-attr]
    files = sum((folder / "test" / f"{number}.png").stat().st_size for number in range(5))
    assert len(pickle.dumps(requests)) < files + 0.5 * pixels


def test_a_batch_of_files_is_answered_as_the_model_does_one_by_one(folder: Path, vit: Path) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(vit).eval()
    classifier = Classifier(model, device=torch.device("cpu"), batch_tokens=6)
    requests = build(folder, vit).requests("search")
    found = classifier.respond(classifier.plan(requests))
    for request, answer in zip(requests, found, strict=True):
        pixels = torch.from_numpy(request.inputs["pixel_values"][None])  # type: ignore[union-attr]
        with torch.no_grad():
            truth = model(pixels).logits[0].log_softmax(-1)
        np.testing.assert_allclose(answer.log_probabilities, truth.numpy(), atol=2e-5)


def test_a_file_that_is_missing_or_no_image_is_named_by_its_row(folder: Path, vit: Path) -> None:
    (folder / "test" / "3.png").write_bytes(b"no image")
    with pytest.raises(BenchmarkError, match="row 3 of test"):
        build(folder, vit)
    (folder / "test" / "3.png").unlink()
    with pytest.raises(BenchmarkError, match=r"row 3 of test.*3\.png"):
        build(folder, vit)
