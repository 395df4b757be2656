from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from evomerge.materialise.encoding import Encoded, decode, encode


@dataclass(frozen=True, slots=True)
class Record:
    number: float
    table: Any


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass
class Changing:
    number: int


def same(one: Any, two: Any) -> bool:
    """Equal in type, shape and every bit, all the way down."""
    if type(one) is not type(two):
        return False
    if isinstance(one, torch.Tensor):
        same_kind = (one.dtype, one.shape) == (two.dtype, two.shape)
        return same_kind and bytes(one.reshape(-1).view(torch.uint8)) == bytes(two.reshape(-1).view(torch.uint8))
    if isinstance(one, np.ndarray | np.generic):
        return (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())
    if isinstance(one, Record):
        return same((one.number, one.table), (two.number, two.table))
    if isinstance(one, dict):
        return same(list(one.items()), list(two.items()))
    if isinstance(one, tuple | list):
        return len(one) == len(two) and all(same(*parts) for parts in zip(one, two, strict=True))
    return repr(one) == repr(two)


@pytest.mark.parametrize(
    "state",
    [
        None,
        True,
        7,
        10**30,
        -0.0,
        0.1,
        float("nan"),
        float("-inf"),
        "näme",
        (),
        ((1,), [2.0, None], {"a": (True,), 3: "b"}),
        torch.arange(6, dtype=torch.bfloat16).view(2, 3),
        torch.tensor(3.5),
        torch.empty(0, 4),
        torch.tensor([True, False]),
        torch.arange(4, dtype=torch.uint8),
        np.arange(5, dtype=np.int64)[::-1],
        np.array(2.5, dtype=np.float32),
        np.zeros((0, 3)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([float("nan"), -0.0, np.inf]),
        np.float64(0.1),
        np.int32(-3),
        np.bool_(True),
        Record(0.25, (Record(float("inf"), np.arange(3)), torch.ones(2))),
        Pair(torch.zeros(2, 2), Pair(None, 1)),
    ],
    ids=lambda state: type(state).__name__,
)
def test_a_state_comes_back_as_it_was(state: Any) -> None:
    assert same(decode(encode(state), "cpu"), state)


def test_tensors_that_share_memory_come_back_equal_and_stored_compactly() -> None:
    whole = torch.arange(12.0).view(3, 4)
    state = (whole, whole, whole[1], whole.T, torch.arange(1000.0)[3:5])
    encoded = encode(state)
    assert all(torch.equal(one, two) for one, two in zip(decode(encoded, "cpu"), state, strict=True))
    pointers = [tensor.untyped_storage().data_ptr() for tensor in encoded.tensors.values()]
    assert len(set(pointers)) == len(state)
    assert encoded.size_bytes == 4 * (3 * 12 + 4 + 2)
    assert all(tensor.untyped_storage().nbytes() == 4 * tensor.numel() for tensor in encoded.tensors.values())


def test_only_tensors_that_were_elsewhere_are_moved() -> None:
    encoded = encode((torch.zeros(2), torch.ones(3), np.ones(2)))
    there = replace(encoded, structure=encoded.structure.replace('"on": "cpu"', '"on": "cuda"', 1))
    first, second, array = decode(there, "meta")
    assert first.device.type == "meta"
    assert second.device.type == "cpu"
    assert isinstance(array, np.ndarray)


def test_what_has_no_plain_form_is_refused() -> None:
    @dataclass(frozen=True)
    class Local:
        number: int

    nameless = namedtuple("Somewhere", "a")
    unusual = (
        lambda: 0,
        Changing(1),
        Local(1),
        nameless(1),
        {1, 2},
        object(),
        np.array([object()]),
        np.array(["text"]),
        np.arange(3, dtype=">i4"),
        torch.nn.Parameter(torch.zeros(1)),
        torch.zeros(3).to_sparse(),
        torch.zeros(1, dtype=torch.complex128),
        Record(1.0, [range(3)]),
    )
    for state in unusual:
        with pytest.raises(TypeError):
            encode(state)


@pytest.mark.parametrize(
    "structure",
    [
        "",
        "{",
        '{"tensor": "0", "on": "cpu"}',
        '{"unheard": 1}',
        '{"class": "os:system", "fields": {"command": "true"}}',
        '{"class": "subprocess:Popen", "fields": {"args": "true"}}',
        '{"class": "no.such.module:Thing", "fields": {}}',
        json.dumps({"class": f"{__name__}:Record", "fields": {"number": 1.0}}),
        json.dumps({"class": f"{__name__}:Changing", "fields": {"number": 1}}),
        '{"tuple": 3}',
    ],
)
def test_what_encode_didnt_write_is_refused_and_runs_nothing(structure: str) -> None:
    with pytest.raises(ValueError, match=r"no encoded state|Expecting"):
        decode(Encoded({}, structure), "cpu")
