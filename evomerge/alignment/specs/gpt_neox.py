"""GPT-NeoX and Pythia: LayerNorm, queries, keys and values side by side for each head, partly rotary positions."""

from __future__ import annotations

from evomerge.alignment.family import Config, Family, Shapes, decoder_stream, layers_by, setting
from evomerge.alignment.folding import Folding, Norm, Reader, linear
from evomerge.alignment.kinds import Heads, Permutation
from evomerge.alignment.patterns import FIXED, Axes, KindOf, expand
from evomerge.alignment.rotary import rotary_size
from evomerge.alignment.spec import Axis, Spec
from evomerge.alignment.symmetries import Symmetries

_LAYER = "gpt_neox.layers.{layer}."
_STREAM, _GAIN = Axis("residual"), Axis("residual", "gain")
_HEADS, _HIDDEN = _LAYER + "heads", _LAYER + "hidden"
_NORMS = ("gpt_neox.final_layer_norm", _LAYER + "input_layernorm", _LAYER + "post_attention_layernorm")
_EMBEDDING, _HEAD = "gpt_neox.embed_in.weight", "embed_out.weight"


def make(shapes: Shapes, config: Config, symmetries: Symmetries) -> Spec:
    """The spec of one model. Raises: AlignmentError as `expand`, and for a symmetry that it can't have."""
    width, heads = setting(config, "hidden_size"), setting(config, "num_attention_heads")
    turned = symmetries.rotations
    kind = Heads(
        groups=heads,
        queries=1,
        head_dim=width // heads,
        inside="rotations" if turned else "none",
        rotary=rotary_size(config, width // heads, usual=0.25) if turned else 0,
        value_rotations=turned,
        ordered=not symmetries.heads,
    )
    labels: dict[str, KindOf] = {
        "residual": decoder_stream(symmetries.residual, width),
        _HEADS: kind if symmetries.heads or turned else None,
        _HIDDEN: Permutation if symmetries.hidden else None,
    }
    fused, hidden, attention, mlp = (
        Axis(_HEADS, "query_key_value"),
        Axis(_HIDDEN),
        _LAYER + "attention.",
        _LAYER + "mlp.",
    )
    tensors: dict[str, Axes] = {
        _EMBEDDING: (None, _STREAM),
        _HEAD: (None, _STREAM),
        "score.weight": (None, _STREAM),
        **{f"{norm}.weight": (_GAIN,) for norm in _NORMS},
        **{f"{norm}.bias": (_STREAM,) for norm in _NORMS},
        attention + "query_key_value.weight": (fused, _STREAM),
        attention + "query_key_value.bias": (fused,),
        attention + "dense.weight": (_STREAM, Axis(_HEADS, "output")),
        attention + "dense.bias": (_STREAM,),
        mlp + "dense_h_to_4h.weight": (hidden, _STREAM),
        mlp + "dense_h_to_4h.bias": (hidden,),
        mlp + "dense_4h_to_h.weight": (_STREAM, hidden),
        mlp + "dense_4h_to_h.bias": (_STREAM,),
        **{attention + buffer: FIXED for buffer in ("bias", "masked_bias", "rotary_emb.inv_freq")},
    }
    return expand("spec of gpt_neox", shapes, tensors, labels)


def fold(shapes: Shapes, config: Config) -> Folding:
    """How the norms are folded."""
    head = next((name for name in (_HEAD, "score.weight") if name in shapes), _HEAD)
    tied = head == _HEAD and (head not in shapes or config.get("tie_word_embeddings") is True)
    norms = [Norm("gpt_neox.final_layer_norm.weight", (Reader(head),), bias="gpt_neox.final_layer_norm.bias")]
    centred = {_EMBEDDING: 1}
    for layer in layers_by(shapes, "input_layernorm.weight"):
        for norm, reader in (
            ("input_layernorm", "attention.query_key_value"),
            ("post_attention_layernorm", "mlp.dense_h_to_4h"),
        ):
            read = linear(shapes, f"{layer}{reader}")
            norms.append(Norm(f"{layer}{norm}.weight", (read,), bias=f"{layer}{norm}.bias"))
        for writer in ("attention.dense", "mlp.dense_4h_to_h"):
            centred |= {f"{layer}{writer}.weight": 0, f"{layer}{writer}.bias": 0}
    return Folding(norms=tuple(norms), centred=centred, untied={head: _EMBEDDING} if tied else {})


FAMILY = Family(make, fold)
