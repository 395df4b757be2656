from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.kernels import engines, order_statistics, tally, thresholds


def statistics_of(values: np.ndarray) -> tuple[order_statistics.OrderStatistics, order_statistics.Values]:
    def read(start: int, stop: int) -> np.ndarray:
        return values[start:stop].copy()

    return order_statistics.order(len(values), read), order_statistics.look_through(len(values), read)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_any_rank_is_found_as_in_the_sorted_array(numbers: list[int]) -> None:
    values = np.array(numbers, dtype=np.float32)
    statistics, look = statistics_of(values)
    descending = np.sort(values)[::-1]
    assert [statistics.largest(count, look) for count in range(1, len(values) + 1)] == descending.tolist()
    assert statistics.largest(0, look) == np.inf
    assert statistics.positive == (values > 0).sum()
    assert statistics.is_sole.all()


@pytest.mark.parametrize("engine", ["compiled", "torch"])
@pytest.mark.parametrize(
    ("bits", "odd", "drop", "exact"),
    [(9, 0.0, 12, True), (9, 0.04, 12, True), (15, 0.0, 8, True), (15, 0.1, 8, True), (24, 0.0, 12, False)],
)
def test_numbers_are_counted_in_bins_as_in_the_sorted_array(
    bits: int, odd: float, drop: int, exact: bool, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_statistics, "_SORTED", 100)
    monkeypatch.setattr(order_statistics, "CHUNK", 4096)
    generator = np.random.default_rng(bits)
    values = np.ldexp(generator.integers(0, 2**bits, 20_000), generator.integers(-30, 0, 20_000)).astype(np.float32)
    values[generator.random(20_000) < odd] *= np.float32(1.2345678)
    values[[0, 7_000, 19_999]] = 0.0, np.inf, values.max()
    assert order_statistics._bins_for(values[:4096].view(np.int32)) == (drop, exact)

    with nullcontext() if engine == "compiled" else engines.torch_only():
        statistics, look = statistics_of(values)
        assert statistics.is_sole.all() == exact
        assert statistics.positive == (values > 0).sum()
        descending = np.sort(values)[::-1]
        for value, at_least in zip(statistics.values.tolist(), statistics.at_least.tolist(), strict=True):
            assert at_least == np.searchsorted(-descending, -value, side="right")
        counts = [1, 2, 9_999, 19_999, 20_000, *generator.integers(1, 20_001, 60).tolist()]
        assert [statistics.largest(count, look) for count in counts] == [
            float(descending[count - 1]) for count in counts
        ]


@pytest.mark.parametrize("distinct", [10**9, 3000], ids=["nearly all distinct", "many ties"])
def test_ranks_between_those_remembered_are_found_by_reading_again(
    distinct: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_statistics, "KEPT", 50)
    monkeypatch.setattr(order_statistics, "_SORTED", 100)
    monkeypatch.setattr(order_statistics, "CHUNK", 4096)
    generator = np.random.default_rng(0)
    values = generator.integers(0, distinct, 20_000).astype(np.float32)
    statistics, look = statistics_of(values)
    assert not statistics.is_sole.all()
    assert len(statistics.values) <= 50
    assert statistics.positive == (values > 0).sum()
    descending = np.sort(values)[::-1]
    counts = [1, 2, 50, 4096, 9_999, 19_999, 20_000, *generator.integers(1, 20_001, 60).tolist()]
    assert [statistics.largest(count, look) for count in counts] == [float(descending[count - 1]) for count in counts]


def test_a_value_that_many_entries_share_is_found_without_reading_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_statistics, "KEPT", 50)
    values = np.concatenate([np.arange(10_000), np.full(9_000, 5_000.0)]).astype(np.float32)
    statistics, _ = statistics_of(values)
    assert not statistics.is_sole.all()

    def look(gaps: object) -> list[np.ndarray]:
        raise AssertionError(gaps)

    for rank in (5_000, 9_999, 13_999):
        assert statistics.largest(rank, look) == 5_000.0
    with pytest.raises(AssertionError):
        statistics.largest(2_000, look)


def test_threads_do_not_change_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_statistics, "CHUNK", 1024)
    monkeypatch.setattr(order_statistics, "_SORTED", 100)
    monkeypatch.setattr(order_statistics, "_COUNTED", 1024)
    values = np.random.default_rng(0).integers(0, 200, 20_000).astype(np.float32)
    one, _ = statistics_of(values)
    torch.set_num_threads(3)
    try:
        many, _ = statistics_of(values)
    finally:
        torch.set_num_threads(1)
    np.testing.assert_array_equal(one.values, many.values)
    np.testing.assert_array_equal(one.at_least, many.at_least)


def test_magnitudes_are_those_of_the_difference_and_what_is_not_finite_is_largest() -> None:
    base = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0]).bfloat16()
    expert = torch.tensor([1.5, 1.0, float("nan"), float("-inf"), 0.0])
    expected = [0.5, 1.0, np.inf, np.inf, 0.0]
    assert order_statistics.magnitudes(base, expert)(0, 5).tolist() == expected
    assert order_statistics.magnitudes(base, expert)(1, 3).tolist() == expected[1:3]
    with engines.torch_only():
        assert order_statistics.magnitudes(base, expert)(0, 5).tolist() == expected


@pytest.mark.parametrize(
    ("density", "size", "count"), [(0.0, 10, 0), (0.05, 10, 1), (0.29, 10, 2), (0.3, 10, 3), (1.0, 10, 10)]
)
def test_a_positive_density_keeps_its_share_and_at_least_one(density: float, size: int, count: int) -> None:
    assert thresholds.count_kept(density, size) == count


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(0.0, 2.0**100, width=32))
def test_float64_bounds_decide_as_comparing_in_float32_would(value: float) -> None:
    single = np.float32(value)
    for bound in (thresholds.least_reaching(value), thresholds.most_not_exceeding(value)):
        for number in (np.nextafter(bound, 0.0), bound, np.nextafter(bound, np.inf)):
            assert (np.float32(number) >= single) == (number >= thresholds.least_reaching(value))
            assert (np.float32(number) <= single) == (number <= thresholds.most_not_exceeding(value))


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_thresholds_of_task_vectors_are_found_by_a_second_look(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_statistics, "KEPT", 20)
    base, expert = torch.randn(5000), torch.randn(5000)
    descending = np.sort((expert.double() - base.double()).abs().float().numpy())[::-1]
    with engines.torch_only() if engine == "torch" else nullcontext():
        statistics, look = (
            order_statistics.order(5000, order_statistics.magnitudes(base, expert)),
            order_statistics.look_at_magnitudes(base, [expert]),
        )
        for count in (1, 77, 2500, 4321, 5000):
            assert statistics.largest(count, look) == descending[count - 1]


@pytest.mark.parametrize("engine", ["compiled", "torch"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_any_rank_over_many_tensors_is_found_as_in_the_sorted_whole(engine: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(size, generator=generator).to(dtype) for _ in range(2)) for size in (1, 5000, 700, 3000)]
    tensors = [(base, expert) for base, expert in pairs]
    tensors[2][1][:3] = torch.tensor([np.nan, np.inf, -np.inf])
    tensors[3][1][:900] = tensors[3][0][:900]
    sizes = torch.cat([(expert.double() - base.double()).abs().float() for base, expert in tensors])
    descending = sizes.nan_to_num(nan=np.inf, posinf=np.inf).sort(descending=True).values.tolist()
    found = tally.Tally()
    with engines.torch_only() if engine == "torch" else nullcontext():
        for base, expert in tensors:
            found.add(base, expert)
        assert found.size == len(descending)
        for count in (1, 3, 4, 77, 4321, 7800, 7802, 7803, 8000, 8701):
            assert found.largest(count, lambda: tensors) == descending[count - 1], count
    assert found.largest(0, lambda: tensors) == np.inf
