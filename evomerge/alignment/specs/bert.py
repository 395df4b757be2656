"""BERT and RoBERTa: an encoder whose norms sit on the residual stream itself, so that only permutations pass it."""

from __future__ import annotations

from evomerge.alignment.family import NO_READER, Config, Family, Shapes, plain_heads, setting, stream_kind
from evomerge.alignment.kinds import Permutation, SignedPermutation
from evomerge.alignment.patterns import FIXED, Axes, KindOf, expand
from evomerge.alignment.spec import Axis, Spec
from evomerge.alignment.symmetries import Symmetries

_STREAM, _GAIN = Axis("residual"), Axis("residual", "gain")
_ON_THE_STREAM = "its norms sit on the stream itself, where their gains differ from unit to unit"
_DECODER = "cls.predictions.decoder.weight"
_PREDICTIONS, _PAIRS, _LABELS, _ANSWERS = "cls.predictions.bias", "cls.seq_relationship.", "classifier.", "qa_outputs."
_LM = "lm_head."
_READERS = (
    _PREDICTIONS, _LM + "bias", _LABELS + "weight", _LABELS + "dense.weight", _ANSWERS + "weight"
)  # fmt: skip


def make(shapes: Shapes, config: Config, symmetries: Symmetries) -> Spec:
    """The spec of one model. Raises: AlignmentError as `expand`, and for a symmetry that it can't have."""
    stem = _stem(shapes)
    width, layer = setting(config, "hidden_size"), stem + "encoder.layer.{layer}."
    attention, heads, hidden = layer + "attention.", layer + "heads", Axis(layer + "hidden")
    read = any(name in shapes for name in _READERS)
    refused = {"signed": _ON_THE_STREAM, "orthogonal": _ON_THE_STREAM} | ({} if read else {"permutation": NO_READER})
    pooled = Axis("pooled") if any(name + "weight" in shapes for name in (_PAIRS, _LABELS)) else None
    pools = stem + "pooler.dense.weight" in shapes
    tied = config.get("tie_word_embeddings", True) is True or not {_DECODER, _LM + "decoder.weight"} & shapes.keys()
    predicted = "residual" if tied else "transform"
    labels: dict[str, KindOf] = {
        "residual": stream_kind(symmetries.residual, width, usual="permutation" if read else "none", refused=refused),
        "pooled": SignedPermutation if symmetries.hidden else None,
        "transform": Permutation if symmetries.hidden else None,
        heads: plain_heads(width, setting(config, "num_attention_heads"), symmetries),
        layer + "hidden": Permutation if symmetries.hidden else None,
    }
    norms = (stem + "embeddings.LayerNorm", attention + "output.LayerNorm", layer + "output.LayerNorm")
    tensors: dict[str, Axes] = {
        **{
            f"{stem}embeddings.{kind}_embeddings.weight": (None, _STREAM) for kind in ("word", "position", "token_type")
        },
        stem + "embeddings.position_ids": FIXED,
        **{f"{norm}.{name}": axes for norm in norms for name, axes in _NORM.items()},
        **{f"{attention}self.{role}.weight": (Axis(heads, role), _STREAM) for role in ("query", "key", "value")},
        **{f"{attention}self.{role}.bias": (Axis(heads, role),) for role in ("query", "key", "value")},
        attention + "output.dense.weight": (_STREAM, Axis(heads, "output")),
        attention + "output.dense.bias": (_STREAM,),
        layer + "intermediate.dense.weight": (hidden, _STREAM),
        layer + "intermediate.dense.bias": (hidden,),
        layer + "output.dense.weight": (_STREAM, hidden),
        layer + "output.dense.bias": (_STREAM,),
        stem + "pooler.dense.weight": (pooled, _STREAM),
        stem + "pooler.dense.bias": (pooled,),
        _PAIRS + "weight": (None, pooled),
        _PAIRS + "bias": FIXED,
        _LABELS + "weight": (None, pooled if pools else _STREAM),
        _LABELS + "bias": FIXED,
        _ANSWERS + "weight": (None, _STREAM),
        _ANSWERS + "bias": FIXED,
        **_predictions("cls.predictions.transform.", "LayerNorm", predicted),
        **_predictions(_LM, "layer_norm", predicted),
        **{name: (None, Axis(predicted)) for name in (_DECODER, _LM + "decoder.weight")},
        **dict.fromkeys(("cls.predictions.decoder.bias", _PREDICTIONS, _LM + "decoder.bias", _LM + "bias"), FIXED),
        _LABELS + "dense.weight": (Axis("pooled"), _STREAM),
        _LABELS + "dense.bias": (Axis("pooled"),),
        _LABELS + "out_proj.weight": (None, Axis("pooled")),
        _LABELS + "out_proj.bias": FIXED,
    }
    return expand(f"spec of {config.get('model_type')}", shapes, tensors, labels)


def _stem(shapes: Shapes) -> str:
    names = ("bert.", "roberta.")
    return next((stem for stem in names if f"{stem}embeddings.word_embeddings.weight" in shapes), "")


def _predictions(where: str, norm: str, predicted: str) -> dict[str, Axes]:
    """The transform in front of the decoder of tokens."""
    return {
        f"{where}dense.weight": (Axis(predicted), _STREAM),
        f"{where}dense.bias": (Axis(predicted),),
        f"{where}{norm}.weight": (Axis(predicted, "gain"),),
        f"{where}{norm}.bias": (Axis(predicted),),
    }


_NORM: dict[str, Axes] = {"weight": (_GAIN,), "gamma": (_GAIN,), "bias": (_STREAM,), "beta": (_STREAM,)}
"""By either name of its gain and bias."""

FAMILY = Family(make)
