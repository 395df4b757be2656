"""The live model: one transformers model whose parameters are written in place, candidate after candidate.

Finds, for every stored tensor of a checkpoint, the view into live parameters that holds it, however
transformers renames, stacks, interleaves or transposes tensors on loading. Does not know recipes.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomerge.checkpoint import Checkpoint
from evomerge.errors import CheckpointError, listed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger(__name__)

_EXACT_INTEGERS = {torch.bfloat16: 2**8, torch.float16: 2**11, torch.float32: 2**24, torch.float64: 2**24}


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
    def build(cls, base: Checkpoint, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> LiveModel:
        """Load the base with transformers and find every stored tensor in it.

        Args:
            base: the model whose tensors are to be overwritten.
            dtype: of the live parameters.
            device: where the live parameters are.

        Raises: CheckpointError naming the tensors that aren't found, the parameters that no stored
            tensor fills, or those whose values changed on loading.
        """
        config = _config(base)
        with _quietly():
            boxes = _find_boxes(base, config, dtype)
            model = _load(base, config, dtype).to(device)
        model.requires_grad_(False).eval()
        live = model.state_dict(keep_vars=True)
        targets = {name: _verified_view(live[box.parameter], box, base, name) for name, box in boxes.items()}
        return cls(model=model, targets=targets)

    @property
    def size_bytes(self) -> int:
        """Size of all parameters, tied ones counted once."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """The part of a live parameter that a stored tensor fills; a slice per dimension."""

    parameter: str
    slices: tuple[slice, ...]


def _config(base: Checkpoint) -> Any:
    from transformers import AutoConfig, __version__

    try:
        if not base.as_stored:
            return AutoConfig.for_model(**base.config)
        return AutoConfig.from_pretrained(base.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(
            f"{base.folder}: transformers {__version__} can't build model type {base.model_type!r} from its "
            f"config.json; models that bring their own code aren't run ({type(error).__name__}: {error})"
        ) from error


def _load(base: Checkpoint, config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    try:
        if base.as_stored:
            model, report = auto.from_pretrained(
                base.folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        else:
            model, report = _model_class(config).from_pretrained(
                None,
                config=config,
                # Copies: what transformers is given becomes the parameters, and those will be written to.
                state_dict={name: base.tensor(name).clone() for name in base.names},
                dtype=dtype,
                output_loading_info=True,
            )
    except Exception as error:
        raise CheckpointError(
            f"{base.folder}: can't be loaded as a causal language model ({type(error).__name__}: {error})"
        ) from error
    _refuse_incomplete(base, report)
    return model


def _model_class(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return type(AutoModelForCausalLM.from_config(config))


def _refuse_incomplete(base: Checkpoint, report: Mapping[str, Any]) -> None:
    """Refuse what transformers reports as missing, left over or misshapen."""
    missing = sorted(report["missing_keys"])
    left_over = sorted(set(report["unexpected_keys"]) & set(base.tensors))
    misshapen = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    for names, problem in (
        (missing, "the model needs parameters that the checkpoint lacks"),
        (left_over, "the checkpoint holds tensors that the model has no place for"),
        (misshapen, "tensors don't have the shape that config.json asks for"),
        (sorted(map(str, report["error_msgs"])), "transformers can't load it"),
    ):
        if names:
            raise CheckpointError(f"{base.folder}: {problem}: {listed(names)}")


def _find_boxes(base: Checkpoint, config: Any, dtype: torch.dtype) -> dict[str, _Box]:
    """Load tensors that are constant at their own number, and see where each number ends up.

    The constants have stride 0, so that only what transformers stacks takes memory. Numbers too large
    for the dtype are written as digits, one load for each.
    """
    names = [name for name, info in base.tensors.items() if info.dtype.is_floating_point]
    model_class = _model_class(config)
    radix = _EXACT_INTEGERS[dtype]
    codes: dict[str, Tensor] = {}
    place = 1
    while place <= len(names):
        for parameter, digit in _load_digit(base, names, model_class, config, dtype, place, radix).items():
            codes[parameter] = digit * place + codes[parameter] if parameter in codes else digit
        place *= radix
    boxes: dict[str, _Box] = {}
    for parameter, code in codes.items():
        for number, slices in _boxes_of(code):
            if not 1 <= number <= len(names):
                raise CheckpointError(f"{base.folder}: no stored tensor fills the live parameter {parameter}")
            name = names[number - 1]
            if slices is None or name in boxes:
                raise CheckpointError(
                    f"{base.folder}: {name}: transformers scatters this tensor over live parameters ({parameter}), so "
                    "that it can't be written in place; this architecture isn't supported yet"
                )
            boxes[name] = _Box(parameter=parameter, slices=slices)
    ignored = getattr(model_class, "_keys_to_ignore_on_load_unexpected", None) or ()
    lost = [name for name in names if name not in boxes]
    if unused := [name for name in lost if any(re.search(pattern, name) for pattern in ignored)]:
        _log.info("%s: %s: stored, but not part of the live model", base.folder, listed(unused))
    if lost := [name for name in lost if name not in unused]:
        raise CheckpointError(f"{base.folder}: stored tensors aren't found in the live model: {listed(lost)}")
    return {name: boxes[name] for name in names if name in boxes}


def _load_digit(
    base: Checkpoint, names: list[str], model_class: Any, config: Any, dtype: torch.dtype, place: int, radix: int
) -> dict[str, Tensor]:
    """Digit of the stored tensor that fills each entry of each live parameter, constant dimensions shrunk to 1."""
    state = {name: base.tensor(name) for name in base.names}
    for number, name in enumerate(names, start=1):
        state[name] = torch.tensor(number // place % radix, dtype=dtype).expand(base.tensors[name].shape)
    model, report = model_class.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
    )
    _refuse_incomplete(base, report)
    parameters = {id(parameter) for parameter in model.parameters()}
    digits = {}
    seen = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        # Tied parameters are one object; buffers that nothing stored fills are none of ours.
        if id(tensor) in seen or not tensor.is_floating_point():
            continue
        seen.add(id(tensor))
        if id(tensor) in parameters or name in state:
            digits[name] = _shrink(tensor.detach()).round().to(torch.int64)
    return digits


def _shrink(tensor: Tensor) -> Tensor:
    """The same values with every dimension along which they don't change reduced to one entry."""
    for dimension in range(tensor.ndim):
        first = tensor.narrow(dimension, 0, 1) if tensor.shape[dimension] else tensor
        if tensor.stride(dimension) == 0 or bool((tensor == first).all()):
            tensor = first
    return tensor


def _boxes_of(code: Tensor) -> Iterator[tuple[int, tuple[slice, ...] | None]]:
    """Each number in the tensor with the evenly spaced box it fills, or None if it fills no box."""
    for number in sorted(set(code.flatten().tolist())):
        mask = code == number
        slices = []
        for dimension in range(code.ndim):
            if code.shape[dimension] == 1:
                slices.append(slice(None))
                continue
            others = [other for other in range(code.ndim) if other != dimension]
            found = (mask.any(dim=others) if others else mask).nonzero().flatten().tolist()
            step = found[1] - found[0] if len(found) > 1 else 1
            slices.append(slice(found[0], found[-1] + 1, step))
        box = mask[tuple(slices)]
        yield number, tuple(slices) if bool(box.all()) and box.sum() == mask.sum() else None


def _verified_view(parameter: Tensor, box: _Box, base: Checkpoint, name: str) -> Tensor:
    """The view of the stored tensor's shape whose values are the stored ones, bit for bit."""
    stored = base.tensor(name)
    part = parameter.detach()[box.slices]
    expected = stored.to(device=part.device, dtype=part.dtype)
    for view in _views(part, tuple(stored.shape)):
        if torch.equal(view, expected):
            return view
    if not bool(torch.isfinite(stored).all()):
        raise CheckpointError(f"{base.folder}: {name}: holds NaN or Inf")
    raise CheckpointError(
        f"{base.folder}: {name}: transformers changes its values on loading ({box.parameter}), so that it can't be "
        "written in place; this architecture isn't supported yet"
    )


def _views(part: Tensor, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Every view of `part` in `shape` by reordering dimensions and adding or dropping those of length 1."""
    core = part.squeeze()
    sides = tuple(side for side in shape if side != 1)
    for order in itertools.permutations(range(core.ndim)):
        view = core.permute(order)
        if tuple(view.shape) == sides:
            for dimension, side in enumerate(shape):
                if side == 1:
                    view = view.unsqueeze(dimension)
            yield view


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers' progress bars and loading reports off the screen."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
