"""Where each stored tensor lies in a live model's memory.

Found by loading numbered tensors through transformers, and verified bit for bit on the stored ones.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import CheckpointError, listed
from evomerge.models.checkpoint import Checkpoint

_log = logging.getLogger(__name__)

_EXACT_INTEGERS = {torch.bfloat16: 2**8, torch.float16: 2**11, torch.float32: 2**24, torch.float64: 2**24}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """The part of a live parameter that a stored tensor fills; a slice per dimension."""

    parameter: str
    slices: tuple[slice, ...]


def refuse_incomplete(base: Checkpoint, report: Mapping[str, Any]) -> None:
    """Refuse what transformers reports as missing, left over or misshapen."""
    missing = sorted(report["missing_keys"])
    left_over = sorted(set(report["unexpected_keys"]) & set(base.tensors))
    left_over = [name for name in left_over if name not in base.unread]
    misshapen = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    for names, problem in (
        (missing, "the model needs parameters that the checkpoint lacks"),
        (left_over, "the checkpoint holds tensors that the model has no place for"),
        (misshapen, "tensors don't have the shape that config.json asks for"),
        (sorted(map(str, report["error_msgs"])), "transformers can't load it"),
    ):
        if names:
            raise CheckpointError(f"{base.folder}: {problem}: {listed(names)}")


def find_boxes(base: Checkpoint, model_class: Any, config: Any, dtype: torch.dtype) -> dict[str, _Box]:
    """Load tensors that are constant at their own number, and see where each number ends up.

    The constants have stride 0, so that only what transformers stacks takes memory. Numbers too large
    for the dtype are written as digits, one load for each.

    Args:
        base: whose tensors are looked for.
        model_class: the live model's.
        config: the live model's.
        dtype: of the live parameters.
    """
    names = [name for name, info in base.tensors.items() if info.dtype.is_floating_point]
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
    if unused := [name for name in lost if any(re.search(pattern, name) for pattern in ignored) or name in base.unread]:
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
    refuse_incomplete(base, report)
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


def verified_view(parameter: Tensor, box: _Box, base: Checkpoint, name: str) -> Tensor:
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
