"""One number for each model, as tuples: LLVM sees every one of them and keeps them in registers.

A formula that is written with these reads as one over arrays, and is compiled for each number of models.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload

from evomerge.kernels.loops.compile import PART, part


def _written(write: Callable[..., Callable[..., Any]]) -> Callable[..., Any]:
    """A function for compiled loops, from one that makes it when it knows the types of the arguments."""

    def function(*arguments: Any) -> Any:
        raise NotImplementedError("for compiled loops")

    write.__annotations__.clear()  # numba compares them with those of what is made
    overload(function, jit_options=PART)(write)
    function.__doc__ = write.__doc__
    return function


def formula(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that loops can be given; numba doesn't keep a loop on disk that was given a compiled one."""
    function.__annotations__.clear()
    names = ", ".join(inspect.signature(function).parameters)
    return _written(_compiled(f"lambda {names}: function", function=function))


def each(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tuples, from one of their elements; arguments that are no tuples are the same for all of them."""
    of_one = part(function)

    def of_all(*arguments: Any) -> Any:
        many = max(len(argument) for argument in arguments if isinstance(argument, types.BaseTuple))
        calls = []
        for k in range(many):
            chosen = [
                f"arguments[{index}][{k}]" if isinstance(argument, types.BaseTuple) else f"arguments[{index}]"
                for index, argument in enumerate(arguments)
            ]
            calls.append(f"of_one({', '.join(chosen)}), ")
        return _compiled(f"lambda *arguments: ({''.join(calls)})", of_one=of_one)

    return _written(of_all)


def _compiled(text: str, **scope: Any) -> Callable[..., Any]:
    made: Callable[..., Any] = eval(text, scope)
    return made


@part
def zero_like(number: Any) -> Any:
    """Zero of a number's type."""
    return type(number)(0)


@_written
def total(numbers: Any) -> Any:
    """Their sum, added in order to zero."""
    terms = "".join(f" + numbers[{k}]" for k in range(len(numbers)))
    return _compiled(f"lambda numbers: zero_like(numbers[0]){terms}", zero_like=zero_like)


@_written
def fold(function: Any, start: Any, numbers: Any) -> Any:
    """function(last, ... function(second, function(first, start)))."""
    text = "start"
    for k in range(len(numbers)):
        text = f"function(numbers[{k}], {text})"
    return _compiled(f"lambda function, start, numbers: {text}")


@_written
def times_if_any(numbers: Any, factors: Any) -> Any:
    """Products with the factors, which may be none at all."""
    return _compiled(
        "lambda numbers, factors: times(numbers, factors)" if len(factors) else "lambda numbers, factors: numbers",
        times=times,
    )


@each
def times(number: Any, factor: Any) -> Any:
    """Products."""
    return factor * number


@each
def sizes(number: Any) -> Any:
    """Magnitudes."""
    return abs(number)


@_written
def addresses_from(start: int, step: int, like: Any) -> Any:
    """Addresses a step apart, as many as another tuple has."""
    text = "".join(f"start + {k} * step, " for k in range(len(like)))
    return _compiled(f"lambda start, step, like: ({text})")


@_written
def column(rows: Any, index: int, like: Any) -> Any:
    """Element `index` of each row, as many as another tuple has."""
    elements = "".join(f"rows[{k}, index], " for k in range(len(like)))
    return _compiled(f"lambda rows, index, like: ({elements})")


@_written
def fill(rows: Any, index: int, numbers: Any) -> Any:
    """Write a tuple as element `index` of each row."""
    calls = "".join(f"write(rows, {k}, index, numbers[{k}]), " for k in range(len(numbers)))
    return _compiled(f"lambda rows, index, numbers: ({calls})", write=_write)


@part
def _write(rows: Any, row: int, index: int, number: Any) -> Any:
    rows[row, index] = number
    return number


@_written
def in_single(provable: Any, numbers: Any) -> Any:
    """Numbers in float32, or None if `provable` is None."""
    if isinstance(provable, types.NoneType):
        return _compiled("lambda provable, numbers: None")
    return _compiled("lambda provable, numbers: as_float32(numbers)", as_float32=_as_float32)


@each
def _as_float32(number: Any) -> Any:
    return np.float32(number)


@each
def moved(address: int, distance: int) -> int:
    """Addresses farther on."""
    return address + distance


@each
def as_int32(number: Any) -> Any:
    """Numbers of another width."""
    return np.int32(number)


def _reader(element: Any, alignment: int) -> Any:
    """An intrinsic that reads element `index` at each of several addresses, which no `put` writes to."""

    @intrinsic
    def read(typing_context: Any, addresses: Any, index: Any) -> Any:
        many = len(addresses)
        result = types.UniTuple(element, many) if many else types.Tuple(())  # type: ignore[no-untyped-call]

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = context.get_value_type(element).as_pointer()
            found = []
            for k in range(many):
                start = builder.inttoptr(builder.extract_value(arguments[0], k), kind)
                number = builder.load(builder.gep(start, [arguments[1]]), align=alignment)
                number.set_metadata("alias.scope", _read_only(builder.module))
                found.append(number)
            return context.make_tuple(builder, result, found)

        return result(addresses, types.int64), generate

    return read


def _read_only(module: ir.Module) -> Any:
    """LLVM's name for memory that loops only read, so that it needn't ask whether what they write overlaps it."""
    domain = module.add_metadata([ir.MetaDataString(module, "evomerge")])
    scope = module.add_metadata([ir.MetaDataString(module, "read only"), domain])
    return module.add_metadata([scope])


words_at = _reader(types.uint32, 2)
double_words_at = _reader(types.uint64, 4)
doubles_at = _reader(types.float64, 8)
halves_at = _reader(types.uint16, 1)
bytes_at = _reader(types.uint8, 1)


def _writer(element: Any, alignment: int) -> Any:
    """An intrinsic that writes element `index` at an address, where nothing is read in the same loop."""

    @intrinsic
    def put(typing_context: Any, address: Any, index: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            start = builder.inttoptr(arguments[0], context.get_value_type(element).as_pointer())
            written = builder.store(arguments[2], builder.gep(start, [arguments[1]]), align=alignment)
            written.set_metadata("noalias", _read_only(builder.module))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, element), generate

    return put


put_word = _writer(types.uint32, 2)
put_double = _writer(types.float64, 8)


def _line_copier(streamed: bool) -> Any:
    @intrinsic
    def copy(typing_context: Any, source: Any, target: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            line = ir.VectorType(ir.IntType(32), 16).as_pointer()
            source, target = (builder.inttoptr(address, line) for address in arguments)
            written = builder.store(builder.load(source, align=64), target, align=64 if streamed else 1)
            if streamed:
                written.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return copy


copy_line = _line_copier(streamed=False)
"""Copy 64 bytes from an address that is a multiple of 64."""

stream_line = _line_copier(streamed=True)
"""As `copy_line`, to such an address too, past the caches: what is only written needn't be fetched."""


@intrinsic
def settle(typing_context: Any) -> Any:
    """Let what was streamed be seen by other threads before anything that follows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
