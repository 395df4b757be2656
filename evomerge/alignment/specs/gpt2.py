"""GPT-2: LayerNorm, learned positions, fused queries, keys and values, matrices stored with their inputs first."""

from __future__ import annotations

from evomerge.alignment.family import Config, Family, Shapes, decoder_stream, layers_by, plain_heads, setting
from evomerge.alignment.folding import Folding, Norm, Reader
from evomerge.alignment.kinds import Permutation
from evomerge.alignment.patterns import FIXED, Axes, KindOf, expand
from evomerge.alignment.spec import Axis, Joined, Spec
from evomerge.alignment.symmetries import Symmetries

_STREAM, _GAIN = Axis("residual"), Axis("residual", "gain")
_HEADS, _HIDDEN = "h.{layer}.heads", "h.{layer}.hidden"


def make(shapes: Shapes, config: Config, symmetries: Symmetries) -> Spec:
    """The spec of one model. Raises: AlignmentError as `expand`, and for a symmetry that it can't have."""
    width = setting(config, "n_embd", "hidden_size")
    stem, heads = _stem(shapes), plain_heads(width, setting(config, "n_head", "num_attention_heads"), symmetries)
    fused = Joined(tuple((width, Axis(_HEADS, role)) for role in ("query", "key", "value")))
    layer, hidden = stem + "h.{layer}.", Axis(_HIDDEN)
    labels: dict[str, KindOf] = {
        "residual": decoder_stream(symmetries.residual, width),
        _HEADS: heads,
        _HIDDEN: Permutation if symmetries.hidden else None,
    }
    tensors: dict[str, Axes] = {
        stem + "wte.weight": (None, _STREAM),
        stem + "wpe.weight": (None, _STREAM),
        "lm_head.weight": (None, _STREAM),
        "score.weight": (None, _STREAM),
        **{f"{norm}.weight": (_GAIN,) for norm in (stem + "ln_f", layer + "ln_1", layer + "ln_2")},
        **{f"{norm}.bias": (_STREAM,) for norm in (stem + "ln_f", layer + "ln_1", layer + "ln_2")},
        layer + "attn.bias": FIXED,
        layer + "attn.masked_bias": FIXED,
        layer + "attn.c_attn.weight": (_STREAM, fused),
        layer + "attn.c_attn.bias": (fused,),
        layer + "attn.c_proj.weight": (Axis(_HEADS, "output"), _STREAM),
        layer + "attn.c_proj.bias": (_STREAM,),
        layer + "mlp.c_fc.weight": (_STREAM, hidden),
        layer + "mlp.c_fc.bias": (hidden,),
        layer + "mlp.c_proj.weight": (hidden, _STREAM),
        layer + "mlp.c_proj.bias": (_STREAM,),
    }
    return expand("spec of gpt2", shapes, tensors, labels)


def fold(shapes: Shapes, config: Config) -> Folding:
    """How the norms are folded."""
    stem = _stem(shapes)
    head = next((name for name in ("lm_head.weight", "score.weight") if name in shapes), "lm_head.weight")
    tied = head == "lm_head.weight" and (head not in shapes or config.get("tie_word_embeddings", True) is True)
    norms = [Norm(stem + "ln_f.weight", (Reader(head),), bias=stem + "ln_f.bias")]
    centred = {stem + "wte.weight": 1, stem + "wpe.weight": 1}
    for layer in layers_by(shapes, "ln_1.weight"):
        for norm, reader in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            read = Reader(f"{layer}{reader}.weight", axis=0, bias=f"{layer}{reader}.bias")
            norms.append(Norm(f"{layer}{norm}.weight", (read,), bias=f"{layer}{norm}.bias"))
        for writer in ("attn.c_proj", "mlp.c_proj"):
            centred |= {f"{layer}{writer}.weight": 1, f"{layer}{writer}.bias": 0}
    return Folding(norms=tuple(norms), centred=centred, untied={head: stem + "wte.weight"} if tied else {})


def _stem(shapes: Shapes) -> str:
    """What the names of the body start with: nothing in the oldest checkpoints."""
    return "" if "wte.weight" in shapes else "transformer."


FAMILY = Family(make, fold)
