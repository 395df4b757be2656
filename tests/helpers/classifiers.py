"""Tiny classifiers of text and images with their data, and experiments over them."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml

from evomerge.testing.models import tiny_tokenizer

LABELS = ("calm", "glad", "sad")
SIDE = 16
WORDS = ("goat", "river", "book", "rain", "market", "school", "morning", "sea", "hill", "town")
_NAMED = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
_TOKENS = {"vocab_size": 384, "max_position_embeddings": 64, "pad_token_id": 0}
_SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24}
_SHORT = {"n_layers": 2, "n_heads": 2, "dim": 16, "hidden_dim": 24}


def classifier(kind: str) -> transformers.PreTrainedModel:
    """A model whose outputs differ from item to item: bert, distilbert or vit."""
    named: dict[str, Any] = {**_NAMED, "initializer_range": 0.5}
    if kind == "bert":
        return transformers.BertForSequenceClassification(transformers.BertConfig(**_TOKENS, **_SIZES, **named))
    if kind == "distilbert":
        config = transformers.DistilBertConfig(**_TOKENS, **_SHORT, **named)
        return transformers.DistilBertForSequenceClassification(config)
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=SIDE, patch_size=4, **_SIZES, **named)
    )


def write_family(folder: Path, kind: str) -> dict[str, Path]:
    """A base and experts a and b, which are the base with noise."""
    torch.manual_seed(0)
    base = classifier(kind).eval()
    folders = {name: folder / kind / name for name in ("base", "a", "b")}
    for name, place in folders.items():
        model = copy.deepcopy(base)
        with torch.no_grad():
            for parameter in model.parameters() if name != "base" else ():
                parameter.add_(0.15 * torch.randn_like(parameter))
        model.save_pretrained(place)
        if kind == "vit":
            transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(place)
        else:
            tiny_tokenizer().save_pretrained(place)
    return folders


def write_texts(path: Path, count: int = 60) -> Path:
    """A CSV of sentences with labels."""
    generator = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "label"])
        for number in range(count):
            words = generator.choice(WORDS, size=generator.integers(1, 9))
            writer.writerow([f"{number} {' '.join(words)}", LABELS[generator.integers(3)]])
    return path


def write_images(path: Path, count: int = 48) -> Path:
    """A JSON-lines file of pixels with labels by number."""
    generator = np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(count):
            pixels = generator.integers(0, 256, size=(SIDE, SIDE, 3)).tolist()
            file.write(json.dumps({"pixels": pixels, "label": int(generator.integers(3))}) + "\n")
    return path


def write_config(path: Path, models: dict[str, Path], benchmark: dict[str, Any], **search: Any) -> Path:
    """A small experiment over the models."""
    data: dict[str, Any] = {
        "models": {"base": str(models["base"]), "experts": {name: str(models[name]) for name in ("a", "b")}},
        "merge": {"method": "task_arithmetic"},
        "space": {"granularity": "layer"},
        "benchmark": benchmark,
        "search": {"evaluations": 14, "population": 6, "scan": 2, "shortlist": 2, **search},
        "execution": {"backend": "inline", "cpus_per_worker": 1, "dtype": "float32"},
    }
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path
