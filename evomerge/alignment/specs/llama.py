"""Decoders built like Llama: RMSNorm, rotary positions, gated MLPs, grouped query heads.

Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3, Phi-3, Granite, OLMo 2, and the experts of Mixtral and Qwen's mixtures.
"""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.alignment.family import Config, Family, Shapes, layers_by, setting, stream_kind
from evomerge.alignment.folding import Folding, Norm, Reader, linear
from evomerge.alignment.kinds import Heads, SignedPermutation
from evomerge.alignment.patterns import FIXED, Axes, KindOf, expand
from evomerge.alignment.rotary import rotary_size
from evomerge.alignment.spec import Axis, AxisLike, Joined, Spec
from evomerge.alignment.symmetries import Symmetries
from evomerge.errors import AlignmentError

_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_STREAM, _GAIN = Axis("residual"), Axis("residual", "gain")
_HEADS = _LAYER + "heads"
_QUERY, _KEY, _VALUE, _OUTPUT = (Axis(_HEADS, role) for role in ("query", "key", "value", "output"))
_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
_HEAD_WEIGHTS = ("lm_head.weight", "score.weight")
_ONE_PLUS_GAIN = {"gemma", "gemma2", "gemma3_text"}
_MLPS = ("mlp", "mlp.shared_expert", "mlp.experts.{expert}", "block_sparse_moe.experts.{expert}")
_BEHIND_OUTPUTS = "a norm stands behind the outputs of attention and MLP, whose gain no reader can take"


def make(shapes: Shapes, config: Config, symmetries: Symmetries) -> Spec:
    """The spec of one model. Raises: AlignmentError as `expand`, and for a symmetry that it can't have."""
    width = setting(config, "hidden_size")
    heads = heads_of(shapes, config, symmetries)
    refused = {"orthogonal": _BEHIND_OUTPUTS} if _has_norms_behind_outputs(shapes) else {}
    labels: dict[str, KindOf] = {
        "residual": stream_kind(symmetries.residual, width, usual="signed", refused=refused),
        _HEADS: heads if symmetries.heads or symmetries.rotations else None,
        **{f"{_LAYER}{mlp}.hidden": SignedPermutation if symmetries.hidden else None for mlp in _MLPS},
    }
    tensors: dict[str, Axes] = {
        "model.embed_tokens.weight": (None, _STREAM),
        **dict.fromkeys(_HEAD_WEIGHTS, (None, _STREAM)),
        "model.norm.weight": (_GAIN,),
        **{f"{_LAYER}{norm}.weight": (_GAIN,) for norm in _NORMS},
        _ATTENTION + "rotary_emb.inv_freq": FIXED,
        **attention_axes(shapes, heads),
        _LAYER + "block_sparse_moe.gate.weight": (None, _STREAM),
        _LAYER + "mlp.gate.weight": (None, _STREAM),
        _LAYER + "mlp.shared_expert_gate.weight": (None, _STREAM),
    }
    for mlp in _MLPS:
        tensors |= _gated(mlp, shapes)
    return expand(f"spec of {config.get('model_type')}", shapes, tensors, labels)


def fold(shapes: Shapes, config: Config) -> Folding:
    """How the norms are folded. Raises: AlignmentError where they can't be."""
    if _has_norms_behind_outputs(shapes):
        raise AlignmentError(f"the norms of this model can't be folded: {_BEHIND_OUTPUTS}")
    head = next((name for name in _HEAD_WEIGHTS if name in shapes), "lm_head.weight")
    tied = head == "lm_head.weight" and (head not in shapes or config.get("tie_word_embeddings") is True)
    offset = 1.0 if config.get("model_type") in _ONE_PLUS_GAIN else 0.0
    norms = [Norm("model.norm.weight", (Reader(head),), offset=offset)]
    for layer in layers_by(shapes, "input_layernorm.weight"):
        norms += [
            Norm(f"{layer}{norm}.weight", tuple(_readers(shapes, layer, of)), offset=offset)
            for norm, of in zip(_NORMS, (("self_attn.",), ("mlp.", "block_sparse_moe.")), strict=False)
        ]
    return Folding(norms=tuple(norms), untied={head: "model.embed_tokens.weight"} if tied else {})


def attention_axes(shapes: Shapes, heads: Heads) -> dict[str, Axes]:
    """The lines of attention, with projections of their own or one of all three."""
    fused = Joined(tuple((heads.sizes[axis.role], axis) for axis in (_QUERY, _KEY, _VALUE)))
    axes: dict[str, AxisLike] = {"q_proj": _QUERY, "k_proj": _KEY, "v_proj": _VALUE, "qkv_proj": fused}
    whole = _norm_size(shapes) not in (None, heads.head_dim)
    return {
        **{f"{_ATTENTION}{name}.weight": (axis, _STREAM) for name, axis in axes.items()},
        **{f"{_ATTENTION}{name}.bias": (axis,) for name, axis in axes.items()},
        _ATTENTION + "o_proj.weight": (_STREAM, _OUTPUT),
        _ATTENTION + "o_proj.bias": (_STREAM,),
        _ATTENTION + "q_norm.weight": (Axis(_HEADS, "query_gain"),) if whole else FIXED,
        _ATTENTION + "k_norm.weight": (Axis(_HEADS, "key_gain"),) if whole else FIXED,
    }


def _gated(mlp: str, shapes: Shapes) -> dict[str, Axes]:
    """A gated MLP: the gate passes through the activation, so that only `up` and `down` may change their signs."""
    label = f"{_LAYER}{mlp}.hidden"
    unit, gate = Axis(label), Axis(label, "gain")
    size = next((shape[0] for name, shape in shapes.items() if name.endswith("mlp.gate_up_proj.weight")), 0) // 2
    up = {"gate_proj": gate, "w1": gate, "up_proj": unit, "w3": unit}
    axes: dict[str, AxisLike] = {**up, "gate_up_proj": Joined(((size, gate), (size, unit)))}
    where = f"{_LAYER}{mlp}."
    return {
        **{f"{where}{name}.weight": (axis, _STREAM) for name, axis in axes.items()},
        **{f"{where}{name}.bias": (axis,) for name, axis in axes.items()},
        **{f"{where}{name}.weight": (_STREAM, unit) for name in ("down_proj", "w2")},
        **{f"{where}{name}.bias": (_STREAM,) for name in ("down_proj", "w2")},
    }


def heads_of(shapes: Shapes, config: Config, symmetries: Symmetries) -> Heads:
    """The heads of a model, by its config. Raises: AlignmentError if that lacks a number."""
    heads = setting(config, "num_attention_heads")
    groups = setting({"num_key_value_heads": heads, **config}, "num_key_value_heads")
    head_dim = config.get("head_dim") or setting(config, "hidden_size") // heads
    normed = _norm_size(shapes) is not None
    return Heads(
        groups=groups,
        queries=heads // groups,
        head_dim=head_dim,
        inside="none" if not symmetries.rotations else "signs" if normed else "rotations",
        rotary=rotary_size(config, head_dim) if symmetries.rotations else 0,
        value_rotations=symmetries.rotations,
        ordered=not symmetries.heads,
    )


def _norm_size(shapes: Shapes) -> int | None:
    """The number of gains of the norm of queries; None if there is no such norm."""
    return next((shape[0] for name, shape in shapes.items() if name.endswith("self_attn.q_norm.weight")), None)


def _has_norms_behind_outputs(shapes: Shapes) -> bool:
    return any(name.endswith("post_feedforward_layernorm.weight") for name in shapes)


def _readers(shapes: Shapes, layer: str, parts: tuple[str, ...]) -> Iterator[Reader]:
    """The matrices of one layer that read the stream, in the modules whose names start so."""
    writing = ("o_proj.weight", "down_proj.weight", "w2.weight")
    for name, shape in shapes.items():
        if len(shape) == 2 and name.startswith(tuple(layer + part for part in parts)) and not name.endswith(writing):
            yield linear(shapes, name.removesuffix(".weight"))


FAMILY = Family(make, fold)
