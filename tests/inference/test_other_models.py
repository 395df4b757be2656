"""Encoders, vision models, encoder-decoders and models of several senses merge as language models do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from evomerge.materialise.folder import write_folder
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
PATCHES = {"image_size": 8, "patch_size": 4, **SIZES}
WORDS = {"vocab_size": 60, "max_position_embeddings": 16, **SIZES}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WEIGHTS = {"base": 0.3, "a": 0.3, "b": 0.4}

MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**WORDS)),
    "bert_classifier": lambda: transformers.BertForSequenceClassification(
        transformers.BertConfig(num_labels=3, **WORDS)
    ),
    "roberta": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**WORDS)),
    "deberta": lambda: transformers.DebertaV2Model(transformers.DebertaV2Config(**WORDS)),
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=3, **PATCHES)),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**PATCHES)),
    "resnet": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3)
    ),
    "clip": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**WORDS, **TOKENS}, vision_config=dict(PATCHES), projection_dim=8
        )
    ),
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=60, d_model=16, d_ff=24, num_layers=2, num_heads=2, d_kv=8)
    ),
    "whisper": lambda: transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=60, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=8,
            max_source_positions=8, max_target_positions=16, decoder_start_token_id=1, **TOKENS,
        )
    ),
    "llava": lambda: transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(**PATCHES).to_dict(),
            text_config=transformers.LlamaConfig(vocab_size=60, **SIZES).to_dict(),
            image_token_index=5,
        )
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def merged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A folder with the models "base", "a" and "b" of one architecture, and their merge "out"."""
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    for seed, model in enumerate(WEIGHTS):
        torch.manual_seed(seed)
        made = MODELS[name]()
        for parameter in made.parameters():
            parameter.data.normal_(0, 0.1)
        for buffer_name, buffer in made.named_buffers():
            if buffer_name.endswith("num_batches_tracked"):
                buffer.fill_(seed)
        made.save_pretrained(folder / model)
    (folder / "base" / "preprocessor_config.json").write_text('{"do_resize": true}')
    recipe = Recipe(
        base=ModelReference(path=str(folder / "base")),
        experts={expert: ModelReference(path=str(folder / expert)) for expert in "ab"},
        method="task_arithmetic",
        groups=(Group(name="all", coefficients={"weight": {expert: WEIGHTS[expert] for expert in "ab"}}),),
    )
    write_folder(recipe, folder / "out")
    return name, folder


def test_the_merge_loads_with_the_models_own_class_and_has_the_reference_values(merged: tuple[str, Path]) -> None:
    name, folder = merged
    kind = type(MODELS[name]())
    model, report = kind.from_pretrained(folder / "out", output_loading_info=True)
    assert not any(report.values()), report
    states = {source: kind.from_pretrained(folder / source).state_dict() for source in WEIGHTS}
    for tensor, value in model.state_dict().items():
        if value.is_floating_point():
            expected = sum(weight * states[source][tensor].double() for source, weight in WEIGHTS.items())
            # One rounding of the sum, whose own terms round the coefficients.
            torch.testing.assert_close(value.double(), expected, rtol=1.2e-7, atol=1e-9)
        else:
            assert value.equal(states["base"][tensor])


def test_what_prepares_images_and_sound_is_taken_along(merged: tuple[str, Path]) -> None:
    assert (merged[1] / "out" / "preprocessor_config.json").read_text() == '{"do_resize": true}'


def test_layers_and_kinds_are_found_in_every_stack(merged: tuple[str, Path]) -> None:
    name, folder = merged
    base = Checkpoint.open(folder / "base")
    layout = base.layout
    assert layout.depth == 2
    if name == "resnet":
        return
    in_layers = [tensor for tensor in base.names if ".layer" in tensor or ".block." in tensor]
    found = Counter(layout.place(tensor) for tensor in in_layers if not tensor.endswith("lambda1"))
    kinds = {place.kind for place in found}
    assert kinds - {"embedding"} == {"attention", "mlp", "norm"}, found
    for kind in ("attention", "mlp"):
        # T5 has one table of relative positions for each stack, in the first layer.
        assert abs(found[0, kind] - found[1, kind]) <= (2 if name == "t5" else 0)  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("bert", "bert.embeddings.word_embeddings.weight"),
        ("t5", "shared.weight"),
        ("clip", "text_model.embeddings.token_embedding.weight"),
        ("llava", "language_model.model.embed_tokens.weight"),
    ],
)
def test_the_token_embedding_is_found(name: str, tensor: str, tmp_path: Path) -> None:
    MODELS[name]().save_pretrained(tmp_path)
    embedding = Checkpoint.open(tmp_path).embedding
    assert embedding is not None
    assert embedding.name == tensor
