"""What lies between models: against closed forms, transformers' own losses, and laws of lines and planes."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from evomerge.analysis.connect import connect
from evomerge.analysis.geometry import differences, frame, grid
from evomerge.analysis.mode_connectivity import Point
from evomerge.config.config import Config
from evomerge.config.execution import ExecutionConfig
from evomerge.models.open import open_models
from evomerge.recipe.align import Align
from evomerge.recipe.sources import ModelReference, Sources
from helpers.classifiers import LABELS, write_config, write_family, write_texts
from helpers.folders import copy_with

pytestmark = pytest.mark.slow

INLINE = ExecutionConfig(backend="inline", cpus_per_worker=1, dtype="float32")
TEXT = "The river rises in the hills and runs past the market town. Watoto wanasoma vitabu shuleni kila siku. " * 3
SHARES = [place / 10 for place in range(11)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def values(points: tuple[Point, ...], name: str, measure: str) -> list[float]:
    return [point.value(name, measure) for point in points]


def stock_loss(weights: dict[str, torch.Tensor], folder: Path, window: int) -> tuple[float, float]:
    """transformers' own loss of a text's windows, each with the token before it, per token; and bits per byte."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.load_state_dict(weights, strict=False)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = torch.tensor([tokenizer.bos_token_id, *tokenizer(TEXT, add_special_tokens=False)["input_ids"]])
    total = 0.0
    for start in range(0, len(tokens) - 1, window):
        ids = tokens[start : start + window + 1][None]
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
    return total / (len(tokens) - 1), total / math.log(2) / len(TEXT.encode())


@pytest.mark.parametrize("window", [9, 400])
def test_losses_on_a_line_are_those_of_transformers_with_the_weights_mixed_by_hand(
    window: int, tiny_llama: dict[str, Path], text: Path
) -> None:
    ends = [load_file(tiny_llama[name] / "model.safetensors") for name in ("a", "b")]
    found = connect([tiny_llama["a"], tiny_llama["b"]], texts={"text": text}, window=window, points=5, execution=INLINE)
    (line,) = found.surveys["as they are"].lines
    for at, point in zip(line.at, line.points, strict=True):
        mixed = {name: (1 - at) * tensor + at * ends[1][name] for name, tensor in ends[0].items()}
        loss, bits = stock_loss(mixed, tiny_llama["a"], window)
        assert point.value("text", "loss") == pytest.approx(loss, rel=1e-5)
        assert point.value("text", "bits per byte") == pytest.approx(bits, rel=1e-5)


def test_where_only_heads_differ_the_loss_is_that_of_logits_mixed_linearly(
    family: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    """With a common body, logits on the line are (1 − λ) A + λ B, so that the whole curve is known from the ends."""
    weights = load_file(family["a"] / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    other = weights["lm_head.weight"] + 0.3 * torch.randn(weights["lm_head.weight"].shape, generator=generator)
    folder = copy_with(family["a"], tmp_path / "other", {"lm_head.weight": other})
    found = connect([family["a"], folder], texts={"text": text}, execution=INLINE)
    (line,) = found.surveys["as they are"].lines
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(family["a"])
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(family["a"])
    tokens = torch.tensor([[tokenizer.bos_token_id, *tokenizer(TEXT, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        hidden = model.model(input_ids=tokens[:, :-1])[0][0].double()
    first, second = (hidden @ head.double().T for head in (weights["lm_head.weight"], other))
    expected = [
        float(torch.nn.functional.cross_entropy((1 - at) * first + at * second, tokens[0, 1:])) for at in SHARES
    ]
    assert line.at == pytest.approx(SHARES)
    np.testing.assert_allclose(values(line.points, "text", "loss"), expected, rtol=2e-5)
    assert line.distance == pytest.approx(float((other - weights["lm_head.weight"]).norm()), rel=1e-6)


@pytest.mark.parametrize("residual", ["signed", "orthogonal"])
def test_a_model_whose_units_changed_places_has_a_barrier_before_and_none_after_it_is_aligned(
    residual: str, family: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    """A copy with its hidden units in another order computes the same, and averages badly until they are put back."""
    weights = load_file(family["a"] / "model.safetensors")
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    moved = {}
    for name, tensor in weights.items():
        if "gate_proj" in name or "up_proj" in name:
            moved[name] = tensor[order[order < len(tensor)]]
        elif "down_proj" in name:
            moved[name] = tensor[:, order[order < tensor.shape[1]]].contiguous()
    copy = copy_with(family["a"], tmp_path / "moved", moved)
    asked = Align(method="weight_matching", residual=residual)
    found = connect([family["a"], copy], texts={"text": text}, points=3, align=asked, execution=INLINE)
    before, after = (survey.lines[0] for survey in found.surveys.values())
    assert [*found.surveys] == ["as they are", "after weight_matching"]
    for line in (before, after):
        assert line.points[0].value("text", "loss") == pytest.approx(line.points[-1].value("text", "loss"), rel=1e-5)
    assert before.distance > 1
    assert after.distance < 1e-3 * before.distance
    assert abs(before.points[1].value("text", "loss") - before.points[0].value("text", "loss")) > 1e-4
    assert after.barrier("text", "loss", higher_is_better=False).above_chord < 1e-5


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    folder = tmp_path_factory.mktemp("classifiers")
    return write_family(folder, "bert"), write_texts(folder / "texts.csv")


def labelled(models: dict[str, Path], data: Path, folder: Path) -> Config:
    settings = {"labels": {"data": str(data), "text": "sentence"}}
    return Config.from_file(write_config(folder / "config.yaml", models, settings))


def test_accuracy_and_cross_entropy_of_labels_are_those_of_transformers_at_the_ends_and_between(
    classifiers: tuple[dict[str, Path], Path], tmp_path: Path
) -> None:
    models, data = classifiers
    config = labelled(models, data, tmp_path)
    # Each split whole, so that all items are known without asking who drew them.
    whole = {"search": {"split": "all", "fraction": 0.9}, "validation": {"items": 1}, "test": {"items": 1}}
    config = Config.model_validate(
        {**config.model_dump(), "benchmark": {**config.benchmark.model_dump(), "splits": whole}}
    )
    found = connect(["a", "b"], config=config, splits=["search"], points=3, execution=INLINE)
    assert found.models == ("a", "b")
    (line,) = found.surveys["as they are"].lines
    from evomerge.benchmark import build_benchmark
    from evomerge.models.checkpoint import Checkpoint

    built: Any = build_benchmark(config.benchmark, Checkpoint.open(models["a"]))
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(models["a"]).eval()
    ends = [load_file(models[name] / "model.safetensors") for name in ("a", "b")]
    for at, point in zip(line.at, line.points, strict=True):
        mixed = {name: (1 - at) * tensor + at * ends[1][name] for name, tensor in ends[0].items()}
        model.load_state_dict(mixed, strict=False)
        losses, right = [], []
        for item in built.splits["search"]:
            inputs = {name: torch.from_numpy(row)[None] for name, row in item.request.inputs.items()}
            with torch.no_grad():
                logits = model(**inputs).logits[0].double()
            losses.append(-float(logits.log_softmax(-1)[item.label]))
            right.append(int(logits.argmax()) == item.label)
        assert point.value("search", "loss") == pytest.approx(np.mean(losses), rel=1e-5)
        assert point.value("search", "acc") == pytest.approx(np.mean(right))


def test_the_ends_are_scored_as_the_models_are_by_themselves(
    classifiers: tuple[dict[str, Path], Path], tmp_path: Path
) -> None:
    from evomerge.study.score_model import evaluate

    models, data = classifiers
    config = labelled(models, data, tmp_path)
    found = connect(["base", "a", "b"], config=config, splits=["search", "validation"], points=3, execution=INLINE)
    survey = found.surveys["as they are"]
    assert [line.ends for line in survey.lines] == [(0, 1), (0, 2), (1, 2)]
    for name, ends in {"base": (0, 0), "a": (2, 0), "b": (2, -1)}.items():
        point = survey.lines[ends[0]].points[ends[1]]
        for split in ("search", "validation"):
            (own,) = evaluate(str(models[name]), config.benchmark, split=split, execution=INLINE)
            assert point.value(split, "acc") == own.score


def test_the_plane_has_the_models_at_its_corners_and_the_grids_values_between(
    tiny_llama: dict[str, Path], text: Path
) -> None:
    models = [tiny_llama[name] for name in ("base", "a", "b")]
    found = connect(models, texts={"text": text}, points=4, characters=100, execution=INLINE)
    survey = found.surveys["as they are"]
    plane = survey.plane
    assert plane is not None
    assert plane.values("text", "loss").shape == (4, 4)
    assert plane.corners[1][0] == pytest.approx(survey.lines[0].distance)
    assert math.dist(plane.corners[1], plane.corners[2]) == pytest.approx(survey.lines[2].distance)
    ends = [load_file(folder / "model.safetensors") for folder in models]
    point = plane.points[2][1]
    mixed = {name: sum(weight * end[name] for weight, end in zip(point.weights, ends, strict=True)) for name in ends[0]}
    whole = connect(models[:2], texts={"text": text}, characters=100, points=3, execution=INLINE)
    assert whole.notes == (f"{text}: the first 100 of its {len(TEXT):,} characters are read",)
    assert survey.lines[0].points[0].values == whole.surveys["as they are"].lines[0].points[0].values
    folder = copy_with(models[0], text.parent / "mixed", mixed)  # type: ignore[arg-type]
    alone = connect([folder, models[0]], texts={"text": text}, characters=100, points=3, execution=INLINE)
    expected = alone.surveys["as they are"].lines[0].points[0].value("text", "loss")
    assert point.value("text", "loss") == pytest.approx(expected, rel=1e-5)


@given(st.lists(st.floats(-5, 5), min_size=9, max_size=9), st.integers(3, 9))
def test_grid_weights_lead_to_their_places_and_add_up_to_one(numbers: list[float], points: int) -> None:
    models = np.array(numbers).reshape(3, 3)
    steps = models[1:] - models[0]
    gram = steps @ steps.T
    if np.linalg.det(gram) < 1e-3 * max(1.0, gram[0, 0] * gram[1, 1]):
        return
    corners = frame(gram)
    x_at, y_at, weights = grid(corners, points)
    places = [(x, y) for y in y_at for x in x_at]
    along = steps[0] / np.linalg.norm(steps[0])
    across = steps[1] - (steps[1] @ along) * along
    across /= np.linalg.norm(across)
    for (x, y), weight in zip(places, weights, strict=True):
        assert sum(weight) == pytest.approx(1.0)
        np.testing.assert_allclose(weight @ models, models[0] + x * along + y * across, atol=1e-6)


def test_distances_are_those_of_all_weights(tiny_llama: dict[str, Path]) -> None:
    references = {name: ModelReference(path=str(tiny_llama[name])) for name in ("base", "a", "b")}
    experts = {"a": references["a"], "b": references["b"], "c": references["b"]}
    gram = differences(open_models(Sources(base=references["base"], experts=experts)))
    flat = {}
    for name, folder in tiny_llama.items():
        tensors = sorted(load_file(folder / "model.safetensors").items())
        flat[name] = np.concatenate([tensor.double().numpy().ravel() for _, tensor in tensors])
    steps = np.stack([flat[name] - flat["base"] for name in ("a", "b", "b")])
    np.testing.assert_allclose(gram, steps @ steps.T, rtol=1e-9)


def test_a_point_that_overflows_between_finite_ends_is_a_gap_that_is_said(
    family: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    """A large gain before a small head, and the other way round: half of both is too large for float32."""
    weights = load_file(family["a"] / "model.safetensors")
    ends = [
        copy_with(
            family["a"],
            tmp_path / str(power),
            {
                "model.norm.weight": weights["model.norm.weight"] * 10.0**power,
                "lm_head.weight": weights["lm_head.weight"] * 10.0**-power,
            },
        )
        for power in (22, -22)
    ]
    found = connect(ends, texts={"text": text}, points=3, execution=INLINE)
    (line,) = found.surveys["as they are"].lines
    assert [point.reason is None for point in line.points] == [True, False, True]
    assert "1 of the points couldn't be measured" in found.notes[0]
    data = json.loads(json.dumps(found.to_data(), allow_nan=False))
    assert data["surveys"]["as they are"]["lines"][0]["barriers"]["text"]["loss"]["above_chord"] is None


def test_both_measures_are_written_as_json_with_names(tiny_llama: dict[str, Path], text: Path) -> None:
    found = connect([tiny_llama["a"], tiny_llama["b"]], texts={"text": text}, execution=INLINE)
    data = json.loads(json.dumps(found.to_data(), allow_nan=False))
    (line,) = data["surveys"]["as they are"]["lines"]
    losses = [point["values"]["text"]["loss"] for point in line["points"]]
    assert line["barriers"]["text"]["loss"]["above_mean_of_ends"] == pytest.approx(
        max(losses) - (losses[0] + losses[-1]) / 2
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def one_class(path: Path, data: Path) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "label"])
        writer.writerows([row["sentence"], LABELS[0]] for row in rows_of(data))
    return path


def test_items_of_one_class_only_are_refused(classifiers: tuple[dict[str, Path], Path], tmp_path: Path) -> None:
    models, data = classifiers
    config = labelled(models, one_class(tmp_path / "calm.csv", data), tmp_path)
    with pytest.raises(ValueError, match=r"all 24 search items have the label 'calm'"):
        connect(["a", "b"], config=config, execution=INLINE)


def test_what_cannot_be_connected_is_refused_before_a_model_is_loaded(
    tiny_llama: dict[str, Path], family: dict[str, Path], classifiers: tuple[dict[str, Path], Path], text: Path
) -> None:
    a, b = tiny_llama["a"], tiny_llama["b"]
    (text.parent / "empty.txt").write_text("\n \n")
    cases: list[tuple[list[Path], dict[str, Any], str]] = [
        ([a, b], {"points": 1}, "1 points can't show what lies between the ends; give 3 or more"),
        ([a], {}, "1 model given"),
        ([a, b, a, b], {}, "4 models given"),
        ([a, family["a"]], {}, "has 4 layers, the base has 2"),
        ([classifiers[0]["a"], classifiers[0]["b"]], {}, "which doesn't continue text"),
        ([a, b], {"texts": {"text": text.parent / "empty.txt"}}, "is empty"),
        ([a, b], {"texts": {"text": text.parent / "gone.txt"}}, "can't be read"),
        ([a, b], {"texts": None}, "give either a text or a config"),
        ([a, b], {"window": 1}, "a window of 1 tokens"),
        ([a, b, a], {}, "lie on one line"),
    ]
    for models, changes, message in cases:
        with pytest.raises(ValueError, match=message):
            connect(models, **{"texts": {"text": text}, "execution": INLINE, **changes})  # type: ignore[arg-type]


def test_equal_models_are_said_to_be_equal(tiny_llama: dict[str, Path], text: Path) -> None:
    found = connect([tiny_llama["a"]] * 2, texts={"text": text}, points=3, execution=INLINE)
    assert found.models == ("A (a)", "B (a)")
    assert "equal in every weight" in found.notes[0]
    (line,) = found.surveys["as they are"].lines
    assert len({point.value("text", "loss") for point in line.points}) == 1


def test_a_model_with_broken_weights_is_named(tiny_llama: dict[str, Path], text: Path, tmp_path: Path) -> None:
    weights = load_file(tiny_llama["a"] / "model.safetensors")
    broken = copy_with(
        tiny_llama["a"], tmp_path / "broken", {"model.norm.weight": weights["model.norm.weight"] * math.nan}
    )
    with pytest.raises(ValueError, match=r"broken: model\.norm\.weight: holds NaN or Inf"):
        connect([tiny_llama["a"], broken], texts={"text": text}, points=3, execution=INLINE)
