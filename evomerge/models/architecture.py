"""Which layer and which kind of module a tensor belongs to, read from parameter names.

Knows how transformers' models name their parts; no table of architectures, so a new one needs nothing.
Does not know files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from evomerge.errors import CheckpointError
from evomerge.recipe.group import Kind

DEPTH_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_PARAMETER_NAMES = {"weight", "bias", "scale", "gamma", "beta"}

_NORM = re.compile(r"norm|^ln(_|\d|$)|(^|_)ln$|^rms", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|[aA]ttention|^(q|k|v|o|qkv)_proj$|^query_key_value$|^[wW]qkv$")
_MLP = re.compile(
    r"mlp|^ffn?(_|$)|feed_?forward|moe|expert|router|^fc(\d|_|$)|^c_fc$|^w[123]$|^dense_(h_to_4h|4h_to_h)$"
    r"|^(gate|up|down|gate_up)_proj$|^(intermediate|output)$|^Dense\w*Dense$"
)
_HEAD = re.compile(r"^(lm_head|embed_out|output|head|output_layer|output_projection|score|classifier)$")
_EMBEDDING = re.compile(r"emb|^wte$|^wpe$|^project_in$|^shared$")
_SENSES = re.compile(r"vision|visual|image|audio|speech")


class Place(NamedTuple):
    """Where a tensor belongs: its layer, counted from 0, and its kind of module."""

    layer: int
    kind: Kind


class _Named(Protocol):
    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def config(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The layers of one model.

    A model may have several stacks of layers: an encoder and a decoder, a vision tower beside a language
    model. Each is counted from 0 by itself, and what is deeper than the main one counts as its last layer.

    Attributes:
        depth: number of layers of the main stack, at least 1.
        stem: dotted path in front of its layers' numbers, such as "model.layers"; None if there are no layers.
    """

    depth: int
    stem: str | None
    _within: re.Pattern[str] | None = field(repr=False, compare=False)

    @classmethod
    def of(cls, source: _Named | Iterable[str], config: Mapping[str, Any] | None = None) -> Layout:
        """Find the layers of a checkpoint, or of parameter names with the model's config.

        Raises: CheckpointError if the config promises more layers than the names hold.
        """
        if isinstance(source, Iterable):
            names, config = tuple(source), config or {}
        else:
            names, config = source.names, source.config
        promised = configured_depth(config)
        stacks = _stacks(names)
        stem, depth = _main_stack(stacks, promised)
        if promised is not None and depth < promised and stem is not None:
            raise CheckpointError(
                f"config.json promises {promised} layers, but the tensors hold {depth} ({stem}.0 to {stem}.{depth - 1})"
            )
        if promised is not None:
            depth = promised
        stems = "|".join(map(re.escape, stacks))
        within = re.compile(rf"^(?:{stems})\.(\d+)\.(.+)$") if stacks else None
        return cls(depth=max(depth, 1), stem=stem, _within=within)

    def place(self, name: str) -> Place:
        """The layer and kind of a tensor. Those before the layers count as layer 0, those after as the last."""
        match = self._within.match(name) if self._within is not None else None
        if match is not None:
            return Place(min(int(match[1]), self.depth - 1), _kind_in_layer(match[2].split(".")))
        return Place(0 if self.is_before(name) else self.depth - 1, _kind_outside(name.split(".")))

    def is_before(self, name: str) -> bool:
        """Whether a tensor outside the layers comes before them, as embeddings do."""
        parts = name.split(".")
        embeds = any(_EMBEDDING.search(part) and not _HEAD.match(part) for part in parts)
        return embeds or _kind_outside(parts) == "embedding"

    def split(self, name: str) -> tuple[int, str] | None:
        """The layer of the main stack that a tensor is in, and its name there; None if it is in none."""
        head, _, rest = name.removeprefix(f"{self.stem}.").partition(".")
        return (int(head), rest) if name.startswith(f"{self.stem}.") and head.isdigit() else None


def configured_depth(config: Mapping[str, Any]) -> int | None:
    """The number of layers that a model's config states, whatever the architecture calls it; None if it doesn't."""
    for section in (config, config.get("text_config")):
        if isinstance(section, Mapping):
            for key in DEPTH_KEYS:
                if isinstance(section.get(key), int):
                    return int(section[key])
    return None


def is_head(name: str) -> bool:
    """Whether a parameter outside the layers is called as an output head is."""
    return _kind_outside(name.split(".")) == "head"


@dataclass(frozen=True, slots=True)
class _Stack:
    layers: int
    tensors: int


def _stacks(names: Iterable[str]) -> dict[str, _Stack]:
    """Paths whose next component numbers layers, without gaps from 0."""
    tensors: Counter[str] = Counter()
    indices: dict[str, set[int]] = {}
    for name in names:
        parts = name.split(".")
        for position, part in enumerate(parts):
            if part.isdigit():
                stem = ".".join(parts[:position])
                tensors[stem] += 1
                indices.setdefault(stem, set()).add(int(part))
                break
    return {
        stem: _Stack(len(found), tensors[stem]) for stem, found in indices.items() if found == set(range(len(found)))
    }


def _main_stack(stacks: Mapping[str, _Stack], promised: int | None) -> tuple[str | None, int]:
    """The stack of the promised depth, of those one that reads text, then the one with the most tensors."""
    if not stacks:
        return None, 0
    best = max(
        stacks,
        key=lambda stem: (stacks[stem].layers == promised, not _SENSES.search(stem), stacks[stem].tensors, stem),
    )
    return best, stacks[best].layers


def _module_path(parts: list[str]) -> list[str]:
    return parts[:-1] if len(parts) > 1 and parts[-1] in _PARAMETER_NAMES else parts


def _kind_in_layer(parts: list[str]) -> Kind:
    modules = _module_path(parts)
    if _NORM.search(modules[-1]):
        return "norm"
    for module in modules:
        # Attention first: "self_attn.dense" and "attention.dense" share leaf names with feed-forward parts.
        if _ATTENTION.search(module) and not _NORM.search(module):
            return "attention"
        if _MLP.search(module):
            return "mlp"
    return "attention" if any(_ATTENTION.search(module) for module in modules) else "other"


def _kind_outside(parts: list[str]) -> Kind:
    modules = _module_path(parts)
    if _NORM.search(modules[-1]):
        return "norm"
    if _HEAD.match(modules[-1]):
        return "head"
    if any(_EMBEDDING.search(module) for module in modules):
        return "embedding"
    return "other"
