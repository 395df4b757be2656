"""Specs: held to shapes, applied to tensors, saved by label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.alignment.kinds import Orthogonal, Permutation, SignedPermutation
from evomerge.alignment.spec import Axis, Joined, Place, Spec, composed, from_arrays, inverse, to_arrays
from evomerge.errors import AlignmentError

SPEC = Spec(
    labels={"channels": Permutation(3), "hidden": SignedPermutation(4)},
    tensors={
        "conv.weight": (Axis("channels"), None, None, None),
        "conv.mean": (Axis("channels", "gain"),),
        "dense.weight": (Axis("hidden"), Axis("channels", width=4)),
        "fused.weight": (None, Joined(((4, Axis("hidden", "gain")), (2, None), (4, Axis("hidden"))))),
        "step": (),
    },
    unmatched={"conv.mean"},
)
SHAPES = {
    "conv.weight": (3, 2, 3, 3),
    "conv.mean": (3,),
    "dense.weight": (4, 12),
    "fused.weight": (5, 10),
    "step": (),
}


def weights(generator: np.random.Generator) -> dict[str, Tensor]:
    return {name: torch.from_numpy(generator.standard_normal(shape)) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("stretch", [1, 7, 1000])
def test_stretches_are_the_whole_tensor_and_map_as_it_does(stretch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.alignment.spec.STRETCH", stretch)
    maps = SPEC.random(np.random.default_rng(2))
    free = {"conv.weight": 1, "fused.weight": 0}
    for name, tensor in weights(np.random.default_rng(1)).items():
        mapped = [SPEC.apply(maps, name, part) for (part,) in SPEC.stretches(name, tensor)]
        assert (len(mapped) > 1) == (name in free and stretch < tensor.numel())
        assert torch.equal(torch.cat(mapped, free[name]) if name in free else mapped[0], SPEC.apply(maps, name, tensor))


def test_a_spec_that_covers_every_axis_is_accepted() -> None:
    SPEC.check(SHAPES)


@pytest.mark.parametrize(
    ("tensors", "shapes", "message"),
    [
        ({}, {"other": (3,)}, "leaves out other; every tensor needs its axes"),
        ({"gone": (None,)}, {}, "the spec has gone, which the model hasn't"),
        ({"step": (None,)}, {}, r"step: the spec has 1 axes, the tensor's shape is \(\)"),
        ({"conv.mean": (Axis("chanels"),)}, {}, "conv.mean: axis 0: unknown label 'chanels'. Did you mean 'channels'"),
        ({"conv.mean": (Axis("channels", "gian"),)}, {}, "unknown role of 'channels' 'gian'. Did you mean 'gain'"),
        ({}, {"conv.mean": (4,)}, "conv.mean: axis 0 of 4: 'channels' as 'gain' asks for 3 entries"),
        ({"conv.mean": (Joined(((2, Axis("channels")), (1, None))),)}, {}, "with a segment of 2: 'channels'"),
        ({}, {"fused.weight": (5, 11)}, "fused.weight: axis 1: its segments have 10 entries, the tensor 11"),
    ],
)
def test_a_spec_that_contradicts_the_model_is_refused(tensors: dict, shapes: dict, message: str) -> None:  # type: ignore[type-arg]
    spec = Spec(labels=SPEC.labels, tensors={**SPEC.tensors, **tensors})
    with pytest.raises(AlignmentError, match=message):
        spec.check({**SHAPES, **shapes})


def test_maps_act_on_every_labelled_axis_and_on_nothing_else() -> None:
    generator = np.random.default_rng(0)
    model, maps = weights(generator), SPEC.random(generator)
    channels, hidden = maps["channels"].arrays()["order"], maps["hidden"].arrays()["order"]
    signs = maps["hidden"].arrays()["signs"].double()
    pixels = (channels[:, None] * 4 + torch.arange(4)).flatten()
    fused = model["fused.weight"]
    expected = {
        "conv.weight": model["conv.weight"][channels],
        "conv.mean": model["conv.mean"][channels],
        "dense.weight": (model["dense.weight"][hidden] * signs[:, None])[:, pixels],
        "fused.weight": torch.cat([fused[:, :4][:, hidden], fused[:, 4:6], fused[:, 6:][:, hidden] * signs], dim=1),
        "step": model["step"],
    }
    for name, tensor in model.items():
        assert torch.equal(SPEC.apply(maps, name, tensor), expected[name])
        assert torch.allclose(SPEC.apply(inverse(maps), name, expected[name]), tensor)
    assert [name for name in SHAPES if not SPEC.labels_of(name)] == ["step"]
    assert SPEC.labels_of("dense.weight") == {"hidden", "channels"}


def test_a_skipped_dimension_stays() -> None:
    generator = np.random.default_rng(1)
    model, maps = weights(generator), SPEC.random(generator)
    rows = SPEC.apply(maps, "dense.weight", model["dense.weight"], skip=1)
    assert torch.equal(rows, SPEC.apply({"hidden": maps["hidden"]}, "dense.weight", model["dense.weight"]))


def test_composed_maps_act_one_after_the_other() -> None:
    generator = np.random.default_rng(2)
    model, first, later = weights(generator), SPEC.random(generator), SPEC.random(generator)
    del later["channels"]
    for name, tensor in model.items():
        twice = SPEC.apply(later, name, SPEC.apply(first, name, tensor))
        assert torch.allclose(SPEC.apply(composed(later, first), name, tensor), twice)


def test_places_are_the_stretches_that_are_compared() -> None:
    assert SPEC.places("channels") == (
        Place("conv.weight", 0, 0, 3, Axis("channels")),
        Place("dense.weight", 1, 0, 12, Axis("channels", width=4)),
    )
    assert SPEC.places("hidden")[1:] == (
        Place("fused.weight", 1, 0, 4, Axis("hidden", "gain")),
        Place("fused.weight", 1, 6, 10, Axis("hidden")),
    )
    tensor = torch.arange(48.0).view(4, 12)
    unfolded = SPEC.places("channels")[1].unfold(tensor)
    assert unfolded.shape == (3, 16)
    assert set(unfolded[1].tolist()) == set(tensor[:, 4:8].flatten().tolist())


def test_saved_maps_are_read_back_by_label() -> None:
    spec = Spec(labels={**SPEC.labels, "layers.0:odd": Orthogonal(2)}, tensors={})
    maps = spec.random(np.random.default_rng(3))
    read = from_arrays(spec, to_arrays(maps))
    assert {label: list(map_.arrays()) for label, map_ in read.items()} == {
        label: list(map_.arrays()) for label, map_ in maps.items()
    }
    assert all(torch.equal(array, to_arrays(read)[key]) for key, array in to_arrays(maps).items())
    with pytest.raises(AlignmentError, match="of another spec: unknown label 'channels'"):
        from_arrays(Spec(labels={}, tensors={}), to_arrays(maps))
    damaged = {**to_arrays(maps), "hidden:order": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(AlignmentError, match="hidden: a saved map's order has to name each of 4 units once"):
        from_arrays(spec, damaged)
