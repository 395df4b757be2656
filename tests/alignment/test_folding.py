"""Folding norms into their readers: what becomes of gains, biases, ties, and what can't be folded."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from evomerge.alignment.folding import Folding, Norm, Reader
from evomerge.alignment.specs import folding_of
from evomerge.errors import AlignmentError


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_layer_norm_in_front_of_a_layer_with_bias_is_left_without_gain_and_bias() -> None:
    stored = {"n.w": numbers(6), "n.b": numbers(6, seed=1), "l.w": numbers(4, 6, seed=2), "l.b": numbers(4, seed=3)}
    folding = Folding((Norm("n.w", (Reader("l.w", bias="l.b"),), bias="n.b"),))
    found = {name: folding.tensor(name, stored.__getitem__) for name in stored}
    assert torch.equal(found["n.w"], torch.ones(6, dtype=torch.float64))
    assert torch.equal(found["n.b"], torch.zeros(6, dtype=torch.float64))
    x = numbers(5, 6, seed=4)
    before, after = (
        functional.linear(functional.layer_norm(x, (6,), m["n.w"], m["n.b"]), m["l.w"], m["l.b"])
        for m in (stored, found)
    )
    torch.testing.assert_close(after, before)


def test_a_bias_stays_behind_its_gain_where_a_reader_has_none() -> None:
    stored = {"n.w": numbers(6), "n.b": numbers(6, seed=1), "l.w": numbers(6, 4, seed=2)}
    folding = Folding((Norm("n.w", (Reader("l.w", axis=0),), bias="n.b"),))
    found = {name: folding.tensor(name, stored.__getitem__) for name in stored}
    assert torch.equal(found["n.w"], torch.ones(6, dtype=torch.float64))
    x = numbers(5, 6, seed=4)
    before, after = (functional.layer_norm(x, (6,), m["n.w"], m["n.b"]) @ m["l.w"] for m in (stored, found))
    torch.testing.assert_close(after, before)


def test_a_gain_of_zero_that_hides_a_bias_is_refused_and_one_that_hides_nothing_is_not() -> None:
    stored = {"n.w": torch.tensor([0.0, 2.0]), "n.b": torch.tensor([0.0, 1.0]), "l.w": torch.ones(3, 2)}
    folding = Folding((Norm("n.w", (Reader("l.w"),), bias="n.b"),))
    assert torch.equal(folding.tensor("n.b", stored.__getitem__), torch.tensor([0.0, 0.5]))
    stored["n.b"] = torch.tensor([1.0, 1.0])
    with pytest.raises(AlignmentError, match=r"n\.w: is 0 at 1 places where n\.b isn't"):
        folding.tensor("n.b", stored.__getitem__)


def test_gemma_s_gains_count_from_one() -> None:
    stored = {"n.w": torch.tensor([0.5, -1.0]), "l.w": torch.ones(1, 2)}
    folding = Folding((Norm("n.w", (Reader("l.w"),), offset=1.0),))
    assert torch.equal(folding.tensor("n.w", stored.__getitem__), torch.zeros(2))
    assert torch.equal(folding.tensor("l.w", stored.__getitem__), torch.tensor([[1.5, 0.0]]))


def test_a_tied_head_becomes_a_tensor_of_its_own_and_that_is_said() -> None:
    shapes = {"model.embed_tokens.weight": (5, 4), "model.norm.weight": (4,)}
    folding = folding_of("llama", shapes, {"tie_word_embeddings": True, "model_type": "llama"})
    assert folding.shapes(shapes) == {**shapes, "lm_head.weight": (5, 4)}
    assert folding.config == {"tie_word_embeddings": False}
    assert "no longer tied (tie_word_embeddings: false), and lm_head.weight is a tensor of its own" in folding.note()
    own = folding_of("llama", {**shapes, "lm_head.weight": (5, 4)}, {"tie_word_embeddings": False})
    assert (own.untied, own.config) == ({}, {})
    assert "tied" not in own.note()


def test_half_precision_is_folded_in_float32() -> None:
    stored = {"n.w": torch.tensor([1.01, 3.0]).bfloat16(), "l.w": torch.tensor([[1.01, 1.0]]).bfloat16()}
    found = Folding((Norm("n.w", (Reader("l.w"),)),)).tensor("l.w", stored.__getitem__)
    assert found.dtype == torch.float32
    assert torch.equal(found, stored["l.w"].float() * stored["n.w"].float())


@pytest.mark.parametrize(
    ("family", "shapes", "reason"),
    [
        ("gemma2", {"model.layers.0.post_feedforward_layernorm.weight": (4,)}, "stands behind the outputs"),
        ("vit", {"embeddings.cls_token": (1, 1, 4)}, "no head reads it"),
        ("bert", {}, "no rotation may act"),
        ("own.yaml", {}, "only the norms of a family that is built in"),
    ],
)
def test_norms_that_can_not_be_folded_are_refused_with_the_reason(
    family: str, shapes: dict[str, tuple[int, ...]], reason: str
) -> None:
    with pytest.raises(AlignmentError, match=reason):
        folding_of(family, shapes, {})
