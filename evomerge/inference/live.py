"""The live model: one transformers model whose parameters are written in place, candidate after candidate.

Finds, for every stored tensor of a checkpoint, the view into live parameters that holds it, however
transformers renames, stacks, interleaves or transposes tensors on loading. Does not know recipes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.inference.architecture import class_of
from evomerge.inference.placement import find_boxes, refuse_incomplete, verified_view
from evomerge.inference.room import refuse_if_too_large, refuse_without_memory, rooms_of
from evomerge.inference.spread import devices_of, spread, stretches_of
from evomerge.kernels.device_memory import is_shared
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.transformers_settings import without_remarks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveModel:
    """A model that is always in memory, and where each stored tensor lives in it.

    Attributes:
        model: in evaluation mode, without gradients.
        targets: for each floating-point tensor of the base checkpoint, by stored name, a view of the
            same shape into the live parameters. Writing to all of them replaces the whole model.
    """

    model: PreTrainedModel
    targets: Mapping[str, Tensor]

    @classmethod
    def build(
        cls, base: Checkpoint, *, dtype: torch.dtype, devices: Sequence[torch.device | str] = ("cpu",)
    ) -> LiveModel:
        """Load the base with transformers and find every stored tensor in it.

        Args:
            base: the model whose tensors are to be overwritten.
            dtype: of the live parameters.
            devices: where the live parameters are: over several, whole layers lie on each.

        Raises:
            CheckpointError: naming the tensors that aren't found, the parameters that no stored tensor fills, or
                those whose values changed on loading.
            ExecutionError: the devices, or this machine's memory, haven't the room for it.
        """
        homes = [torch.device(device) for device in devices]
        config = config_of(base)
        with without_remarks():
            model_class = class_of(base, config)
            if homes[0].type == "cpu":
                refuse_without_memory(base.num_parameters * dtype.itemsize, f"{base.folder}")
            else:
                rooms = rooms_of(homes)
                stretches = stretches_of(outline_of(model_class, config, dtype))
                refuse_if_too_large(stretches, rooms, f"{base.folder}", shared=is_shared(homes[0]))
            boxes = find_boxes(base, model_class, config, dtype)
            model = _load(base, model_class, config, dtype)
            if len(homes) == 1:
                model = model.to(homes[0])
            else:
                spread(model, homes, rooms)
        model.requires_grad_(False).eval()
        live = model.state_dict(keep_vars=True)
        targets = {name: verified_view(live[box.parameter], box, base, name) for name, box in boxes.items()}
        return cls(model=model, targets=targets)

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs and gives its outputs: where its first parameter is."""
        return devices_of(self.model)[0]

    @property
    def size_bytes(self) -> int:
        """Size of all parameters, tied ones counted once."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())


def config_of(base: Checkpoint) -> Any:
    """A checkpoint's config, through transformers. Raises: CheckpointError if it doesn't know the model type."""
    from transformers import AutoConfig, __version__

    try:
        if not base.as_stored:
            # A copy, since transformers fills in nested sections where they are.
            return AutoConfig.for_model(**deepcopy(dict(base.config)))
        return AutoConfig.from_pretrained(base.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(
            f"{base.folder}: transformers {__version__} can't build model type {base.model_type!r} from its "
            f"config.json; models that bring their own code aren't run ({type(error).__name__}: {error})"
        ) from error


def outline_of(model_class: Any, config: Any, dtype: torch.dtype) -> Any:
    """The model without its weights."""
    with torch.device("meta"):
        return model_class._from_config(config, dtype=dtype)


def _load(base: Checkpoint, model_class: Any, config: Any, dtype: torch.dtype) -> Any:
    from transformers import GenerationConfig
    from transformers.utils import GENERATION_CONFIG_NAME

    try:
        if base.as_stored:
            model, report = model_class.from_pretrained(
                base.folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        else:
            model, report = model_class.from_pretrained(
                None,
                config=config,
                # Copies: what transformers is given becomes the parameters, and those will be written to.
                state_dict={name: base.tensor(name).clone() for name in base.names},
                dtype=dtype,
                output_loading_info=True,
            )
            # Generation follows this file, as that of the folder it is exported to will.
            if (base.folder / GENERATION_CONFIG_NAME).is_file():
                model.generation_config = GenerationConfig.from_pretrained(base.folder, local_files_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{base.folder}: can't be loaded as a {model_class.__name__} ({type(error).__name__}: {error})"
        ) from error
    refuse_incomplete(base, report)
    return model
