"""CLIP: a text and a vision transformer, each with a residual stream of its own, and the space both project into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.alignment.family import (
    LAYER_NORM_AND_SIGNS,
    NO_READER,
    Config,
    Family,
    Shapes,
    plain_heads,
    setting,
    stream_kind,
)
from evomerge.alignment.kinds import Permutation
from evomerge.alignment.patterns import FIXED, Axes, KindOf, expand
from evomerge.alignment.spec import Axis, Spec
from evomerge.alignment.symmetries import Symmetries

_PROJECTED = "projection"
_SIDES = {"text": "text_projection.weight", "vision": "visual_projection.weight"}
_LABELS = "classifier.weight"
_PRE_NORM = "the gain of its first norm sits on the stream of images itself, and differs from unit to unit"


def make(shapes: Shapes, config: Config, symmetries: Symmetries) -> Spec:
    """The spec of one model, of both towers or one.

    Raises: AlignmentError as `expand`, and for a symmetry that it can't have.
    """
    both = all(name in shapes for name in _SIDES.values())
    space = Axis(_PROJECTED) if both else None
    tensors: dict[str, Axes] = {
        "logit_scale": FIXED,
        _LABELS: (None, Axis("vision.residual")),
        "classifier.bias": FIXED,
        **{name: (space, Axis(f"{side}.residual")) for side, name in _SIDES.items()},
    }
    # Texts and images are compared by their angle, which no permutation of the space of both changes.
    labels: dict[str, KindOf] = {_PROJECTED: None if symmetries.residual == "none" else Permutation}
    for side, sample in (("text", "embeddings.token_embedding.weight"), ("vision", "embeddings.class_embedding")):
        stem = "" if sample in shapes else f"{side}_model."
        if stem + sample not in shapes:
            labels[f"{side}.residual"] = None
            continue
        own = config.get(f"{side}_config")
        labels |= _tower(shapes, own if isinstance(own, Mapping) else config, symmetries, side, stem)
        tensors |= _tensors(side, stem)
    return expand("spec of clip", shapes, tensors, labels)


def _tower(
    shapes: Shapes, config: Mapping[str, Any], symmetries: Symmetries, side: str, stem: str
) -> dict[str, KindOf]:
    """The labels of one tower."""
    read = _SIDES[side] in shapes or (side == "vision" and _LABELS in shapes)
    refused = {**LAYER_NORM_AND_SIGNS, "orthogonal": _PRE_NORM} | ({} if read else {"permutation": NO_READER})
    width, layer = setting(config, "hidden_size"), stem + "encoder.layers.{layer}."
    return {
        f"{side}.residual": stream_kind(
            symmetries.residual, width, usual="permutation" if read else "none", refused=refused
        ),
        layer + "heads": plain_heads(width, setting(config, "num_attention_heads"), symmetries),
        layer + "hidden": Permutation if symmetries.hidden else None,
    }


def _tensors(side: str, stem: str) -> dict[str, Axes]:
    stream, gain = Axis(f"{side}.residual"), Axis(f"{side}.residual", "gain")
    layer = stem + "encoder.layers.{layer}."
    attention, heads, hidden = layer + "self_attn.", layer + "heads", Axis(layer + "hidden")
    ends = {"text": ("final_layer_norm",), "vision": ("pre_layrnorm", "post_layernorm")}[side]
    norms = (*(stem + end for end in ends), layer + "layer_norm1", layer + "layer_norm2")
    first: dict[str, Axes] = {
        stem + "embeddings.position_ids": FIXED,
        stem + "embeddings.position_embedding.weight": (None, stream),
    }
    if side == "text":
        first |= {stem + "embeddings.token_embedding.weight": (None, stream)}
    else:
        first |= {
            stem + "embeddings.class_embedding": (stream,),
            stem + "embeddings.patch_embedding.weight": (stream, None, None, None),
        }
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
    return {
        **first,
        **{f"{norm}.weight": (gain,) for norm in norms},
        **{f"{norm}.bias": (stream,) for norm in norms},
        **{f"{attention}{name}.weight": (Axis(heads, role), stream) for name, role in parts.items()},
        **{f"{attention}{name}.bias": (Axis(heads, role),) for name, role in parts.items()},
        attention + "out_proj.weight": (stream, Axis(heads, "output")),
        attention + "out_proj.bias": (stream,),
        layer + "mlp.fc1.weight": (hidden, stream),
        layer + "mlp.fc1.bias": (hidden,),
        layer + "mlp.fc2.weight": (stream, hidden),
        layer + "mlp.fc2.bias": (stream,),
    }


FAMILY = Family(make)
