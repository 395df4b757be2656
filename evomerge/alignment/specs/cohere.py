"""Cohere's decoders: LayerNorm without biases, attention and MLP side by side, rotary pairs that are neighbours."""

from __future__ import annotations

from dataclasses import replace

from evomerge.alignment.family import Config, Family, Shapes, decoder_stream, layers_by, setting
from evomerge.alignment.folding import Folding, Norm, Reader, linear
from evomerge.alignment.kinds import SignedPermutation
from evomerge.alignment.patterns import Axes, KindOf, expand
from evomerge.alignment.spec import Axis, Spec
from evomerge.alignment.specs.llama import attention_axes, heads_of
from evomerge.alignment.symmetries import Symmetries
from evomerge.errors import AlignmentError

_LAYER = "model.layers.{layer}."
_STREAM, _GAIN = Axis("residual"), Axis("residual", "gain")
_HEADS, _HIDDEN = _LAYER + "heads", _LAYER + "mlp.hidden"
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def make(shapes: Shapes, config: Config, symmetries: Symmetries) -> Spec:
    """The spec of one model. Raises: AlignmentError as `expand`, and for a symmetry that it can't have."""
    if any(".self_attn.q_norm." in name for name in shapes):
        raise AlignmentError("use_qk_norm: norms with gains of their own for each head aren't known to this spec")
    heads = replace(heads_of(shapes, config, symmetries), interleaved=True)
    labels: dict[str, KindOf] = {
        "residual": decoder_stream(symmetries.residual, setting(config, "hidden_size")),
        _HEADS: heads if symmetries.heads or symmetries.rotations else None,
        _HIDDEN: SignedPermutation if symmetries.hidden else None,
    }
    tensors: dict[str, Axes] = {
        _EMBEDDING: (None, _STREAM),
        _HEAD: (None, _STREAM),
        "model.norm.weight": (_GAIN,),
        _LAYER + "input_layernorm.weight": (_GAIN,),
        **attention_axes(shapes, heads),
        _LAYER + "mlp.gate_proj.weight": (Axis(_HIDDEN, "gain"), _STREAM),
        _LAYER + "mlp.up_proj.weight": (Axis(_HIDDEN), _STREAM),
        _LAYER + "mlp.down_proj.weight": (_STREAM, Axis(_HIDDEN)),
    }
    return expand("spec of cohere", shapes, tensors, labels)


def fold(shapes: Shapes, config: Config) -> Folding:
    """How the norms are folded."""
    tied = _HEAD not in shapes or config.get("tie_word_embeddings", True) is True
    norms, centred = [Norm("model.norm.weight", (Reader(_HEAD),))], {_EMBEDDING: 1}
    for layer in layers_by(shapes, "input_layernorm.weight"):
        readers = [f"self_attn.{part}_proj" for part in "qkv"] + ["mlp.gate_proj", "mlp.up_proj"]
        norms.append(
            Norm(f"{layer}input_layernorm.weight", tuple(linear(shapes, f"{layer}{reader}") for reader in readers))
        )
        for writer in ("self_attn.o_proj", "mlp.down_proj"):
            centred |= {f"{layer}{writer}.weight": 0, f"{layer}{writer}.bias": 0}
    return Folding(norms=tuple(norms), centred=centred, untied={_HEAD: _EMBEDDING} if tied else {})


FAMILY = Family(make, fold)
