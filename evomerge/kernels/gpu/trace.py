"""From a formula in torch to the lines of a Triton kernel."""

from __future__ import annotations

import linecache
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import count
from typing import Any, NamedTuple, cast

import torch
from torch import fx
from torch.fx.proxy import GraphAppendingTracer

from evomerge.kernels.formulas import Formula, uniform
from evomerge.kernels.gpu.templates import DTYPES, MERGE, MERGE_TOGETHER, ROUNDED, STORED

LIGHT, HEAVY = (2048, 8), (512, 4)
"""Elements that are merged together, and by how many times 32 threads: the fewer, the more each keeps in registers."""

HEAVY_STEPS = 110
"""Operations of a heavy formula."""

TABLE_COLUMNS = ("arrays", "size", "first")
"""What a row of a table holds between addresses (of sources, ranks, result and flag) and numbers: where in the table
the tensor's arrays begin, how many elements it has, and which program has the first of them."""

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


class MergeKernel(NamedTuple):
    """What a kernel is made for."""

    formula: Formula
    num_sources: int
    num_ranks: int
    pattern: Any
    dtype: torch.dtype
    wide: bool
    """Whether indices need 64 bits."""


class Together(NamedTuple):
    """What a kernel for many tensors is made for; indices have 32 bits."""

    kernel: MergeKernel
    dtypes: tuple[torch.dtype, ...]
    """Of the sources."""
    aligned: bool
    """Whether sizes, and all addresses but those of flags, are multiples of 16."""


class _Traced(NamedTuple):
    """A formula, traced: the lines of a kernel for it."""

    sources: tuple[str, ...]
    ranks: tuple[str, ...]
    numbers: tuple[str, ...]
    """The 64 bits of each number, in the order of its place."""
    body: Mapping[str, str]
    """What the texts of kernels share."""


def written(wanted: MergeKernel) -> str:
    """The text of a kernel for one tensor. Raises: NotImplementedError or TraceError if there can't be one."""
    traced = _traced(wanted)
    return MERGE.format(
        numbers=list(traced.numbers),
        unaligned=[*traced.numbers, "finite"],
        arguments=", ".join(traced.sources + traced.ranks),
        typed=typed(traced.numbers),
        program="tl.program_id(0).to(tl.int64)" if wanted.wide else "tl.program_id(0)",
        **traced.body,
    )


def written_together(wanted: Together) -> str:
    """The text of a kernel for many tensors, of which a table holds what `merges` puts there. Raises: as `written`."""
    (kernel, dtypes, aligned), traced = wanted, _traced(wanted.kernel)
    kinds = [*(STORED[dtype] for dtype in dtypes), *["tl.uint8"] * kernel.num_ranks, STORED[kernel.dtype], "tl.int8"]
    names = (*traced.sources, *traced.ranks, "out", "finite", *TABLE_COLUMNS, *traced.numbers)
    place = {name: f"tl.load(row + {column})" for column, name in enumerate(names)}
    values = {name: f"{place[name]}.to(tl.pointer_type({kind}))" for name, kind in zip(names, kinds, strict=False)}
    values["size"] = f"{place['size']}.to(tl.int32)"
    if aligned:
        # Loads and stores are as wide as what is known of addresses and of the end.
        values |= {name: f"tl.multiple_of({value}, 16)" for name, value in values.items() if name != "finite"}
    values["first"] = f"{place['first']}.to(tl.int32)"
    values["arrays"] = f"(table + {place['arrays']}).to(tl.pointer_type(tl.float64), bitcast=True)"
    values |= {name: place[name] for name in traced.numbers}
    return MERGE_TOGETHER.format(
        columns=len(names),
        arguments="\n".join(f"    {name} = {value}" for name, value in values.items()),
        **traced.body,
    )


@cache
def _traced(wanted: MergeKernel) -> _Traced:
    formula, num_sources, num_ranks, pattern, dtype, _ = wanted
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

    sources = tuple(f"source_{k}" for k in range(num_sources))
    beside = tuple(f"beside_{k}" for k in range(num_ranks))
    kinds = ["tl.float64"] * num_sources + ["tl.int32"] * num_ranks
    read = [
        stand_in(f"{name}_read", f"tl.load({name} + index, mask=inside, other=0).to({kind})")
        for name, kind in zip(sources + beside, kinds, strict=True)
    ]
    index = fx.Proxy(graph.placeholder("index"), tracer)
    merged = cast(Any, formula)(read[:num_sources], read[num_sources:], index, number(pattern))
    lines += [_line(node) for node in graph.nodes if node.op != "placeholder"]
    body = {
        "lines": "\n".join(f"    {line}" for line in lines),
        "rounded": ROUNDED[dtype].format(merged.node.name),
        "result": "rounded" if dtype is torch.float64 else "rounded.to(tl.float32)",
    }
    return _Traced(sources, beside, tuple(places), body)


def typed(names: Sequence[str]) -> str:
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
        return DTYPES[argument]
    # Written as it is, a number would be one of float32.
    return f"tl.full((), {argument!r}, tl.float64)" if isinstance(argument, float) else repr(argument)


_texts = count()


def compile_text(name: str, text: str) -> Any:
    """The function of this name in a text, which Triton reads again from where Python keeps lines of files."""
    file = f"<evomerge kernel {next(_texts)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, Any] = {"__name__": __name__}
    exec(compile(text, file, "exec", dont_inherit=True), scope)
    return scope[name]
