"""Vision transformers: LayerNorm in front of attention and MLP, patches and a class token in, labels out."""

from __future__ import annotations

from evomerge.alignment.family import (
    LAYER_NORM_AND_SIGNS,
    NO_READER,
    Config,
    Family,
    Shapes,
    layers_by,
    plain_heads,
    setting,
    stream_kind,
)
from evomerge.alignment.folding import Folding, Norm, Reader, linear
from evomerge.alignment.kinds import Permutation
from evomerge.alignment.patterns import FIXED, Axes, KindOf, expand
from evomerge.alignment.spec import Axis, Spec
from evomerge.alignment.symmetries import Symmetries
from evomerge.errors import AlignmentError

_STREAM, _GAIN = Axis("residual"), Axis("residual", "gain")
_HEAD = "classifier.weight"
_PARTS = ("query", "key", "value")


def make(shapes: Shapes, config: Config, symmetries: Symmetries) -> Spec:
    """The spec of one model. Raises: AlignmentError as `expand`, and for a symmetry that it can't have."""
    stem, width = _stem(shapes), setting(config, "hidden_size")
    layer = stem + "encoder.layer.{layer}."
    attention, heads, hidden = layer + "attention.", layer + "heads", Axis(layer + "hidden")
    read = _HEAD in shapes
    refused = LAYER_NORM_AND_SIGNS | ({} if read else {"permutation": NO_READER, "orthogonal": NO_READER})
    labels: dict[str, KindOf] = {
        "residual": stream_kind(
            symmetries.residual,
            width,
            usual="permutation" if read else "none",
            refused=refused,
            keeps_mean=True,
        ),
        heads: plain_heads(width, setting(config, "num_attention_heads"), symmetries),
        layer + "hidden": Permutation if symmetries.hidden else None,
    }
    norms = (stem + "layernorm", layer + "layernorm_before", layer + "layernorm_after")
    tensors: dict[str, Axes] = {
        **{f"{stem}embeddings.{name}": (None, None, _STREAM) for name in ("cls_token", "mask_token")},
        stem + "embeddings.position_embeddings": (None, None, _STREAM),
        stem + "embeddings.patch_embeddings.projection.weight": (_STREAM, None, None, None),
        stem + "embeddings.patch_embeddings.projection.bias": (_STREAM,),
        **{f"{norm}.weight": (_GAIN,) for norm in norms},
        **{f"{norm}.bias": (_STREAM,) for norm in norms},
        **{f"{attention}attention.{role}.weight": (Axis(heads, role), _STREAM) for role in _PARTS},
        **{f"{attention}attention.{role}.bias": (Axis(heads, role),) for role in _PARTS},
        attention + "output.dense.weight": (_STREAM, Axis(heads, "output")),
        attention + "output.dense.bias": (_STREAM,),
        layer + "intermediate.dense.weight": (hidden, _STREAM),
        layer + "intermediate.dense.bias": (hidden,),
        layer + "output.dense.weight": (_STREAM, hidden),
        layer + "output.dense.bias": (_STREAM,),
        stem + "pooler.dense.weight": (None, _STREAM),
        stem + "pooler.dense.bias": FIXED,
        _HEAD: (None, _STREAM),
        "classifier.bias": FIXED,
    }
    return expand("spec of vit", shapes, tensors, labels)


def fold(shapes: Shapes, config: Config) -> Folding:
    """How the norms are folded. Raises: AlignmentError for an encoder without a head."""
    if _HEAD not in shapes:
        raise AlignmentError(f"the norms of this encoder can't be folded: {NO_READER}")
    stem = _stem(shapes)
    norms = [Norm(stem + "layernorm.weight", (Reader(_HEAD, bias="classifier.bias"),), bias=stem + "layernorm.bias")]
    embeddings = {"cls_token": 2, "position_embeddings": 2, "mask_token": 2}
    centred = {f"{stem}embeddings.{name}": axis for name, axis in embeddings.items()}
    centred |= {f"{stem}embeddings.patch_embeddings.projection.{name}": 0 for name in ("weight", "bias")}
    for layer in layers_by(shapes, "layernorm_before.weight"):
        for norm, modules in (
            ("layernorm_before", [f"attention.attention.{role}" for role in _PARTS]),
            ("layernorm_after", ["intermediate.dense"]),
        ):
            read = tuple(linear(shapes, f"{layer}{module}") for module in modules)
            norms.append(Norm(f"{layer}{norm}.weight", read, bias=f"{layer}{norm}.bias"))
        for module in ("attention.output.dense", "output.dense"):
            centred |= {f"{layer}{module}.weight": 0, f"{layer}{module}.bias": 0}
    return Folding(norms=tuple(norms), centred=centred)


def _stem(shapes: Shapes) -> str:
    return "" if "embeddings.cls_token" in shapes else "vit."


FAMILY = Family(make, fold)
