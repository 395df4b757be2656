"""Writing an expert's task vector as a LoRA adapter in PEFT's form.

Knows which modules of a live model PEFT adapts. What isn't a linear layer is left out, and counted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from evomerge.errors import CheckpointError, MergeError
from evomerge.files.atomic import json_text
from evomerge.files.fresh_folder import refuse_taken, written_folder
from evomerge.files.places import local
from evomerge.kernels.rounding import round_once
from evomerge.methods.spectral.compress import Truncation, squared_error
from evomerge.methods.spectral.compress import compress as decompose
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.compress import factor_dtype
from evomerge.models.hub import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from evomerge.models.lora_names import Names
from evomerge.models.names import match_names
from evomerge.models.tying import ties
from evomerge.recipe.portable import is_local
from evomerge.recipe.sources import ModelReference


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraTensor:
    """What became of one tensor that the expert changed.

    Attributes:
        rank: of its update; None if it is left out.
        change: Σ τ² of its task vector.
        lost: Σ (written − τ)²: all of `change` if it is left out.
    """

    rank: int | None
    change: float
    lost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraCompression:
    """A written adapter.

    Attributes:
        tensors: those that the expert changed, by the base's names.
        size_bytes: of the adapter's tensors.
        expert_bytes: of the expert's.
    """

    tensors: Mapping[str, LoraTensor]
    size_bytes: int
    expert_bytes: int

    @property
    def rank(self) -> int:
        """The largest rank of its updates."""
        return max((tensor.rank or 0 for tensor in self.tensors.values()), default=0)

    @property
    def error(self) -> float:
        """‖written − τ‖ / ‖τ‖ over all tensors, with what is left out."""
        return float((sum(tensor.lost for tensor in self.tensors.values()) / self._change) ** 0.5)

    @property
    def left_out(self) -> float:
        """The share of Σ τ² that lies in tensors that are left out."""
        return sum(tensor.change for tensor in self.tensors.values() if tensor.rank is None) / self._change

    @property
    def _change(self) -> float:
        return sum(tensor.change for tensor in self.tensors.values())


def compress_to_lora(
    base: ModelReference | str | Path,
    expert: ModelReference | str | Path,
    out: str | Path,
    truncation: Truncation,
    *,
    dtype: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> LoraCompression:
    """Write the leading singular directions of an expert's task vector as a LoRA adapter of the base.

    PEFT loads the folder on the base; it is an expert here too. A layer's two factors share its singular values evenly.
    Embeddings, norms, biases, stacked experts and a head that is tied to the embedding are left out.

    Args:
        base: the model that the expert was tuned from.
        expert: the model to compress.
        out: the folder to make; it must not exist, or be empty.
        truncation: how many directions of each linear layer are kept.
        dtype: of the factors: float32, float16, bfloat16, or "auto", which is float32, as PEFT trains them.
        progress: called with the expert's bytes done and in all.

    Raises:
        MergeError: arguments that don't fit, NaN or Inf in the weights, or no changed linear layer.
        CheckpointError: models that don't fit each other, or whose layers transformers doesn't know.
        ExportError: `out` is taken or can't be written.
    """
    stored_as = factor_dtype(dtype, torch.float32)
    out = local(out).absolute()
    refuse_taken(out)
    start, end = Checkpoint.open(base), Checkpoint.open(expert)
    check_compatible(start, {end.folder.name: end})
    modules = _Modules(start)
    names = match_names(start, end)
    factors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    tensors: dict[str, LoraTensor] = {}
    done = 0
    for name, own in names.items():
        tau = _change(name, start.tensor(name), end.tensor(own))
        if tau is not None:
            module = modules.linear.get(name)
            pair = None if module is None else _factors(name, tau.T if modules.inputs_first else tau, truncation)
            if module is None or pair is None:
                change = float(tau.square().sum())
                tensors[name] = LoraTensor(rank=None, change=change, lost=change)
            else:
                left, right = (round_once(part, stored_as) for part in pair)
                written = left.to(torch.float64) @ right.to(torch.float64)
                lost, change = squared_error(tau, written.T if modules.inputs_first else written)
                tensors[name] = LoraTensor(rank=left.shape[1], change=change, lost=lost)
                ranks[module] = left.shape[1]
                factors[f"base_model.model.{module}.lora_A.weight"] = right.contiguous()
                factors[f"base_model.model.{module}.lora_B.weight"] = left.contiguous()
        done += end.tensors[own].size_bytes
        if progress is not None:
            progress(done, end.size_bytes)
    if not ranks:
        raise MergeError(
            f"{end.folder}: no linear layer differs from the base's, so that there is nothing for an adapter to hold"
        )
    with written_folder(out) as folder:
        (folder / ADAPTER_CONFIG).write_text(json_text(_settings(start, modules, ranks)), encoding="utf-8")
        save_file(factors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    size = sum(tensor.numel() * tensor.element_size() for tensor in factors.values())
    return LoraCompression(tensors=tensors, size_bytes=size, expert_bytes=end.size_bytes)


class _Modules:
    """The linear layers of a live model that PEFT adapts.

    Attributes:
        linear: their paths, by the stored names of their weights.
        inputs_first: whether their weights are stored as (inputs, outputs), as GPT-2 does.
        by_leaf: the paths of all modules by the last part.
    """

    def __init__(self, base: Checkpoint) -> None:
        from transformers.pytorch_utils import Conv1D

        names = Names(base)
        model = names.live_model
        if model is None:
            raise CheckpointError(
                f"{base.folder}: transformers doesn't know its layers ({base.architecture or 'no architectures'} in "
                "config.json), so that which of them an adapter may change isn't known; compress it as factors"
            )
        kept_tied = base.head.name if base.head is not None and ties(base.config) else None
        self.linear: dict[str, str] = {}
        self.by_leaf: dict[str, set[str]] = defaultdict(set)
        found = []
        for path, module in model.named_modules():
            self.by_leaf[path.rpartition(".")[2]].add(path)
            name = names.find(f"{path}.weight") if type(module) in (torch.nn.Linear, Conv1D) else None
            if name is not None and name != kept_tied and base.tensors[name].shape == tuple(module.weight.shape):
                if base.head is None and base.embedding is not None and name == base.embedding.name:
                    continue
                self.linear[name] = path
                found.append(module)
        self.inputs_first = any(isinstance(module, Conv1D) for module in found)
        if self.inputs_first:
            # One setting is for all of them.
            conv = {path for path, module in model.named_modules() if isinstance(module, Conv1D)}
            self.linear = {name: path for name, path in self.linear.items() if path in conv}


def _change(name: str, origin: Tensor, wanted: Tensor) -> Tensor | None:
    """The task vector in float64; None if it is zero. Raises: MergeError."""
    if origin.dtype == wanted.dtype and torch.equal(origin, wanted):
        return None
    tau = wanted.to(torch.float64) - origin.to(torch.float64)
    if not bool(torch.isfinite(tau).all()):
        raise MergeError(f"{name}: NaN or Inf in the weights; such a model can't be compressed")
    return tau if bool(tau.any()) else None


def _factors(name: str, tau: Tensor, truncation: Truncation) -> tuple[Tensor, Tensor] | None:
    """B (outputs, rank) and A (rank, inputs), in float64; None if no direction is left."""
    try:
        left, values, right = decompose(tau, truncation, dtype=torch.float64)
    except MergeError as error:
        raise MergeError(f"{name}: {error}") from error
    root = values.to(torch.float64).sqrt()
    return (left * root, root[:, None] * right) if len(root) else None


def _settings(base: Checkpoint, modules: _Modules, ranks: Mapping[str, int]) -> dict[str, Any]:
    """adapter_config.json: every scale is 1, as alpha is the rank."""
    most = max(ranks.values())
    fewer = {re.escape(module): rank for module, rank in sorted(ranks.items()) if rank != most}
    leaves = {module.rpartition(".")[2] for module in ranks}
    short = {leaf for leaf in leaves if modules.by_leaf[leaf] <= ranks.keys()}
    targets = short | {module for module in ranks if module.rpartition(".")[2] not in short}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if (base.architecture or "").endswith("ForCausalLM") else None,
        "base_model_name_or_path": None if is_local(base.reference) else base.reference.path,
        "inference_mode": True,
        "r": most,
        "lora_alpha": most,
        "rank_pattern": fewer,
        "alpha_pattern": fewer,
        "target_modules": sorted(targets),
        "modules_to_save": None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": modules.inputs_first,
        "init_lora_weights": True,
    }
