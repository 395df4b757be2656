"""Elementwise merges on a GPU: a formula in torch, traced and compiled by Triton into one pass over memory.

The formula is called once with stand-ins that note what is done with them (torch.fx); each note becomes a line
of a kernel that reads every source once, computes in float64, rounds once and marks what isn't finite. Products
and sums aren't fused into one rounding, so the bytes are those of the same operations in torch or on the CPU.
"""

from __future__ import annotations

import linecache
import logging
import operator
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from itertools import count
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.fx.proxy import GraphAppendingTracer, TraceError

from evomerge.merge.formulas import Formula, uniform, unpacked

_LIGHT, _HEAVY = (2048, 8), (512, 4)
"""Elements that are merged together, and by how many times 32 threads: the fewer, the more each keeps in registers."""

_HEAVY_STEPS = 110
"""Operations of a heavy formula."""

_FLAGS = 1 << 10
"""Results whose marks are made together."""

_FLOAT64, _INT64 = struct.Struct("d"), struct.Struct("q")
_LARGEST_INT32 = (1 << 31) - 1 - max(_LIGHT, _HEAVY)[0]
_log = logging.getLogger(__name__)

_INFIX = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.and_: "&",
    operator.or_: "|",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}
_PREFIX = {operator.neg: "-", operator.invert: "~"}
_DTYPES = {torch.float64: "tl.float64", torch.float32: "tl.float32", torch.int32: "tl.int32", torch.int64: "tl.int64"}

_HELPERS = """
import triton
import triton.language as tl


@triton.jit
def stir(value):
    value = value ^ (value >> 16)
    value = value * 0x7FEB352D
    value = value ^ (value >> 15)
    return value * 0x846CA68B


@triton.jit
def drawn(index, first, second):
    lower, upper = index.to(tl.uint32), (index.to(tl.int64) >> 32).to(tl.uint32)
    mixed = stir(lower ^ first)
    mixed = mixed ^ (mixed >> 16)
    return (stir(mixed + (second ^ upper)) >> 1).to(tl.int32)
"""

# GPUs convert from float64 to narrower types and back many times more slowly than they calculate with it.
_ROUND = """

@triton.jit
def rounded_to_{name}(value):
    bits = value.to(tl.int64, bitcast=True)
    size = bits & 0x7FFFFFFFFFFFFFFF
    upper = (size + {half} + ((size >> {dropped}) & 1)) >> {dropped}
    upper = upper.to(tl.int32) - {bias}
    unit = tl.full((), {subnormal!r}, tl.float64)
    count = (tl.abs(value) + unit).to(tl.int64, bitcast=True) - unit.to(tl.int64, bitcast=True)
    upper = tl.where(tl.abs(value) < tl.full((), {normal!r}, tl.float64), count.to(tl.int32), upper)
    upper = tl.where(size > 0x7FF0000000000000, {nan}, tl.minimum(upper, {infinity}))
    return (upper | ((bits >> 48).to(tl.int32) & 0x8000)).to(tl.int16).to(tl.{name}, bitcast=True)
"""


def _rounding(name: str, mantissa: int, exponent: int) -> str:
    """A helper that rounds float64 to a 16-bit type, to nearest, ties to even.

    What is below the least normal number is counted in units of the least subnormal one, by adding a number so
    large that its last bit is that unit.
    """
    bias, dropped = (1 << (exponent - 1)) - 1, 52 - mantissa
    infinity = ((1 << exponent) - 1) << mantissa
    return _ROUND.format(
        name=name,
        half=(1 << (dropped - 1)) - 1,
        dropped=dropped,
        bias=(1023 - bias) << mantissa,
        subnormal=1.5 * 2.0 ** (53 - bias - mantissa),
        normal=2.0 ** (1 - bias),
        infinity=infinity,
        nan=infinity | (1 << (mantissa - 1)),
    )


_HELPERS += _rounding("bfloat16", 7, 8) + _rounding("float16", 10, 5)

_MERGE = """

@triton.jit(do_not_specialize={numbers}, do_not_specialize_on_alignment={unaligned})
def merge({arguments}, out, arrays, finite, size, {typed} BLOCK: tl.constexpr):
    index = {program} * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
{lines}
    rounded = {rounded}
    tl.store(out + index, rounded, mask=inside)
    broken = inside & ~(tl.abs({result}) < float("inf"))
    tl.store(finite + tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int8), mask=broken)
"""

_ROUNDED = {
    torch.float64: "{}",
    torch.float32: "{}.to(tl.float32)",
    torch.bfloat16: "rounded_to_bfloat16({})",
    torch.float16: "rounded_to_float16({})",
}

_SELECT = """

@triton.jit(do_not_specialize={limits}, do_not_specialize_on_alignment={limits})
def select(base, {arguments}, number, found, size, {typed} BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    origin = tl.load(base + index, mask=inside, other=0.0).to(tl.float64)
{lines}
"""

_MAGNITUDE = """
    size_{expert} = tl.abs(tl.load(expert_{expert} + index, mask=inside, other=0.0).to(tl.float64) - origin)
"""

_SELECT_ONE = """
    value = size_{expert}
    low = low_{k}.to(tl.int64).to(tl.float64, bitcast=True)
    high = high_{k}.to(tl.int64).to(tl.float64, bitcast=True)
    chosen = (inside & (value >= low) & (value < high)).to(tl.int32)
    many = tl.sum(chosen, axis=0)
    if many > 0:
        place = start_{k} + tl.atomic_add(number + {k}, many) + tl.cumsum(chosen, axis=0) - 1
        tl.store(found + place, value.to(tl.float32), mask=(chosen > 0) & (place < start_{k} + most_{k}))
"""


def fuse(
    formula: Formula, sources: Sequence[Tensor], ranks: Sequence[Tensor], numbers: Any, out: Tensor
) -> Tensor | None:
    """Merge in one kernel, as `evomerge.merge.kernels.fuse`; all tensors are contiguous and lie on one GPU.

    Returns: whether all that is written will be finite, bool, shape (), on the GPU: nobody has waited for it. None
        if there can't be a kernel of this formula; nothing is written then.
    """
    pattern, singles, arrays = _packed(numbers)
    wide = out.numel() > _LARGEST_INT32
    kernel = _merging(_Merge(formula, len(sources), len(ranks), pattern, out.dtype, wide))
    if kernel is None:
        return None
    finite = next(_flags(out.device))
    rows = torch.from_numpy(np.concatenate(arrays)).to(out.device) if arrays else out
    _launch(kernel, out.numel(), *sources, *ranks, out, rows, finite, out.numel(), *singles)
    return finite


@cache
def _flags(device: torch.device) -> Iterator[Tensor]:
    """Truth values, each its own: making many at once takes the time of one."""
    return (flag for _ in count() for flag in torch.ones(_FLAGS, dtype=torch.bool, device=device))


def try_out(device: torch.device) -> None:
    """Make a kernel and see whether its numbers are right. Raises: anything that keeps it from working."""

    def formula(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
        result: Tensor = values[0] * values[0] + numbers[0]
        return result

    # The square's last bit is lost in float64, and shows where the sum is fused with it, or numbers are shortened.
    values = torch.full((4,), 1.0 + 2.0**-30, dtype=torch.float64, device=device)
    out = torch.full_like(values, torch.nan)
    finite = fuse(formula, [values], [], (-1.0 - 2.0**-29,), out)
    if not (finite and out.eq(0.0).all()):
        raise ArithmeticError(f"Triton's kernels don't compute as they should: {out.tolist()} instead of zeros")


def select(
    base: Tensor, experts: Sequence[Tensor], wanted: Sequence[tuple[int, float, float, int]]
) -> list[NDArray[np.float32]]:
    """Magnitudes |expert − base| in some intervals, rounded to float32, in any order, in one read of the tensors.

    Args:
        base: contiguous, on a GPU, as the experts.
        experts: those that are looked at.
        wanted: an expert's number each, the least magnitude, one that is too large, and how many there are at most.
    """
    which, room = tuple(expert for expert, *_ in wanted), [most for *_, most in wanted]
    ends = np.cumsum([len(wanted), *room]).tolist()
    # Counts and what is counted lie together, so that the GPU is waited for once.
    found = torch.zeros(ends[-1], dtype=torch.int32, device=base.device)
    limits = [
        number
        for (_, low, high, most), start in zip(wanted, ends, strict=False)
        for number in (_bits(low), _bits(high), start, most)
    ]
    read = [experts[expert] for expert in sorted(set(which))]
    _launch(_selecting(which), base.numel(), base, *read, found, found.view(torch.float32), base.numel(), *limits)
    filled = found.cpu().numpy()
    return [
        filled[start : start + min(int(many), most)].view(np.float32)
        for many, start, most in zip(filled, ends, room, strict=False)
    ]


def _launch(kernel: Any, size: int, first: Tensor, *arguments: Any) -> None:
    if not size:
        return
    function, (block, warps) = kernel
    grid = (-(-size // block),)
    if first.device.type != "cuda":
        function[grid](first, *arguments, BLOCK=block)
        return
    with nullcontext() if first.get_device() == torch.cuda.current_device() else torch.cuda.device(first.device):
        function[grid](first, *arguments, BLOCK=block, num_warps=warps, enable_fp_fusion=False)


def _packed(numbers: Any) -> tuple[Any, list[int], list[NDArray[np.float64]]]:
    """What a formula computes with, for a kernel to take.

    Returns: its pattern, the kind and the place of each number; whole numbers, or the bits of others, in these places;
        arrays, to be joined: at their places stands where they begin.
    """
    singles: list[int] = []
    arrays: list[NDArray[np.float64]] = []

    def single(number: Any) -> tuple[str, int]:
        if isinstance(number, float):
            singles.append(_bits(number))
            return "float", len(singles) - 1
        singles.append(int(number))
        return type(number).__name__, len(singles) - 1

    def array(values: NDArray[np.float64]) -> tuple[str, int]:
        singles.append(sum(map(len, arrays)))
        arrays.append(values)
        return "array", len(singles) - 1

    return unpacked(numbers, single, array), singles, arrays


def _bits(number: float) -> int:
    bits: int = _INT64.unpack(_FLOAT64.pack(number))[0]
    return bits


class _Merge(NamedTuple):
    """What a kernel is made for."""

    formula: Formula
    num_sources: int
    num_ranks: int
    pattern: Any
    dtype: torch.dtype
    wide: bool
    """Whether indices need 64 bits."""


@cache
def _merging(wanted: _Merge) -> Any:
    """The compiled kernel of a formula and its tile; None if it does what kernels can't."""
    try:
        text = _written(wanted)
    except (NotImplementedError, TraceError) as error:
        _log.warning("merging on the GPU with torch alone, tens of times slower: %s", error)
        return None
    return _compiled("merge", _HELPERS + text), _HEAVY if text.count("\n") > _HEAVY_STEPS else _LIGHT


@cache
def _selecting(which: tuple[int, ...]) -> Any:
    """The compiled kernel that looks for magnitudes of these experts, and its tile."""
    read = sorted(set(which))
    limits = [f"{kind}_{k}" for k in range(len(which)) for kind in ("low", "high", "start", "most")]
    steps = [_MAGNITUDE.format(expert=expert) for expert in read]
    steps += [_SELECT_ONE.format(k=k, expert=expert) for k, expert in enumerate(which)]
    text = _SELECT.format(
        arguments=", ".join(f"expert_{expert}" for expert in read),
        limits=limits,
        typed=_typed(limits),
        lines="".join(steps),
    )
    return _compiled("select", _HELPERS + text), _LIGHT


def _written(wanted: _Merge) -> str:
    """A kernel's text. Raises: NotImplementedError or TraceError if there can't be one."""
    formula, num_sources, num_ranks, pattern, dtype, wide = wanted
    graph, lines, places = fx.Graph(), [], []
    tracer = GraphAppendingTracer(graph)

    def stand_in(name: str, value: str) -> fx.Proxy:
        lines.append(f"{name} = {value}")
        return fx.Proxy(graph.placeholder(name), tracer)

    def number(pattern: Any) -> Any:
        if not isinstance(pattern, tuple):
            return pattern
        if len(pattern) != 2 or not isinstance(pattern[0], str):
            return tuple(number(part) for part in pattern)
        kind, place = pattern
        places.append(f"bits_{place}")
        return stand_in(f"number_{place}", _NUMBERS[kind].format(places[-1]))

    sources = [f"source_{k}" for k in range(num_sources)]
    beside = [f"beside_{k}" for k in range(num_ranks)]
    kinds = ["tl.float64"] * num_sources + ["tl.int32"] * num_ranks
    read = [
        stand_in(f"{name}_read", f"tl.load({name} + index, mask=inside, other=0).to({kind})")
        for name, kind in zip(sources + beside, kinds, strict=True)
    ]
    index = fx.Proxy(graph.placeholder("index"), tracer)
    merged = cast(Any, formula)(read[:num_sources], read[num_sources:], index, number(pattern))
    lines += [_line(node) for node in graph.nodes if node.op != "placeholder"]
    return _MERGE.format(
        numbers=places,
        unaligned=[*places, "finite"],
        arguments=", ".join(sources + beside),
        typed=_typed(places),
        program="tl.program_id(0).to(tl.int64)" if wide else "tl.program_id(0)",
        lines="\n".join(f"    {line}" for line in lines),
        rounded=_ROUNDED[dtype].format(merged.node.name),
        result="rounded" if dtype is torch.float64 else "rounded.to(tl.float32)",
    )


def _typed(names: Sequence[str]) -> str:
    """Arguments that have 64 bits whatever their value: Triton would make a kernel for each size of number."""
    return "".join(f'{name}: "int64", ' for name in names)


_NUMBERS = {
    "float": "{}.to(tl.int64).to(tl.float64, bitcast=True)",
    "int": "{}.to(index.dtype)",
    "int32": "{}.to(tl.int32)",
    "uint32": "{}.to(tl.int64).to(tl.uint32)",
    "array": "arrays + {}",
}


def _line(node: fx.Node) -> str:
    """One operation in Triton's language. Raises: NotImplementedError if it isn't known."""
    target, arguments = cast(Any, node.target), [_argument(argument) for argument in node.args]
    texts: dict[Any, Callable[..., str]] = {
        torch.where: lambda condition, one, other: f"tl.where({condition}, {one}, {other})",
        torch.zeros_like: lambda like: "tl.zeros([BLOCK], tl.float64)",
        uniform: lambda place, first, second: f"drawn({place}, {first}, {second})",
        operator.getitem: lambda numbers, place: f"tl.load({numbers} + {place}, mask=inside, other=0.0)",
        "abs": lambda value: f"tl.abs({value})",
        "to": lambda value, dtype: f"{value}.to({dtype})",
    }
    if target in _INFIX:
        return f"{node.name} = {arguments[0]} {_INFIX[target]} {arguments[1]}"
    if target in _PREFIX:
        return f"{node.name} = {_PREFIX[target]}{arguments[0]}"
    if target not in texts or node.kwargs:
        raise NotImplementedError(f"no kernel can be made of {getattr(target, '__name__', target)} in a formula")
    return f"{node.name} = {texts[target](*arguments)}"


def _argument(argument: Any) -> str:
    if isinstance(argument, fx.Node):
        return argument.name
    if isinstance(argument, torch.dtype):
        return _DTYPES[argument]
    # Written as it is, a number would be one of float32.
    return f"tl.full((), {argument!r}, tl.float64)" if isinstance(argument, float) else repr(argument)


_texts = count()


def _compiled(name: str, text: str) -> Any:
    """The function of this name in a text, which Triton reads again from where Python keeps lines of files."""
    file = f"<evomerge kernel {next(_texts)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, Any] = {"__name__": __name__}
    exec(compile(text, file, "exec", dont_inherit=True), scope)
    return scope[name]
