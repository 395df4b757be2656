"""StarCoder2: LayerNorm with biases, grouped query heads, rotary positions, an MLP without a gate."""

from __future__ import annotations

from evomerge.alignment.family import Config, Family, Shapes, decoder_stream, layers_by, setting
from evomerge.alignment.folding import Folding, Norm, Reader, linear
from evomerge.alignment.kinds import Permutation
from evomerge.alignment.patterns import Axes, KindOf, expand
from evomerge.alignment.spec import Axis, Spec
from evomerge.alignment.specs.llama import attention_axes, heads_of
from evomerge.alignment.symmetries import Symmetries

_LAYER = "model.layers.{layer}."
_STREAM, _GAIN = Axis("residual"), Axis("residual", "gain")
_HEADS, _HIDDEN = _LAYER + "heads", _LAYER + "mlp.hidden"
_NORMS = ("model.norm", _LAYER + "input_layernorm", _LAYER + "post_attention_layernorm")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def make(shapes: Shapes, config: Config, symmetries: Symmetries) -> Spec:
    """The spec of one model. Raises: AlignmentError as `expand`, and for a symmetry that it can't have."""
    heads = heads_of(shapes, config, symmetries)
    hidden = Axis(_HIDDEN)
    labels: dict[str, KindOf] = {
        "residual": decoder_stream(symmetries.residual, setting(config, "hidden_size")),
        _HEADS: heads if symmetries.heads or symmetries.rotations else None,
        _HIDDEN: Permutation if symmetries.hidden else None,
    }
    tensors: dict[str, Axes] = {
        _EMBEDDING: (None, _STREAM),
        _HEAD: (None, _STREAM),
        **{f"{norm}.weight": (_GAIN,) for norm in _NORMS},
        **{f"{norm}.bias": (_STREAM,) for norm in _NORMS},
        **attention_axes(shapes, heads),
        _LAYER + "mlp.c_fc.weight": (hidden, _STREAM),
        _LAYER + "mlp.c_fc.bias": (hidden,),
        _LAYER + "mlp.c_proj.weight": (_STREAM, hidden),
        _LAYER + "mlp.c_proj.bias": (_STREAM,),
    }
    return expand("spec of starcoder2", shapes, tensors, labels)


def fold(shapes: Shapes, config: Config) -> Folding:
    """How the norms are folded."""
    tied = _HEAD not in shapes or config.get("tie_word_embeddings", True) is True
    norms = [Norm("model.norm.weight", (Reader(_HEAD),), bias="model.norm.bias")]
    centred = {_EMBEDDING: 1}
    for layer in layers_by(shapes, "input_layernorm.weight"):
        for norm, modules in (
            ("input_layernorm", [f"self_attn.{part}_proj" for part in "qkv"]),
            ("post_attention_layernorm", ["mlp.c_fc"]),
        ):
            readers = tuple(linear(shapes, f"{layer}{module}") for module in modules)
            norms.append(Norm(f"{layer}{norm}.weight", readers, bias=f"{layer}{norm}.bias"))
        for writer in ("self_attn.o_proj", "mlp.c_proj"):
            centred |= {f"{layer}{writer}.weight": 0, f"{layer}{writer}.bias": 0}
    return Folding(norms=tuple(norms), centred=centred, untied={_HEAD: _EMBEDDING} if tied else {})


FAMILY = Family(make, fold)
