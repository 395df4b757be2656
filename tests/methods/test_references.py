"""Merged tensors against independent float64 references."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from evomerge.methods import METHODS
from evomerge.testing.inputs import every_options, make_coefficients, make_inputs, merged
from helpers.merge_references import REFERENCES, Origin

BITS = {torch.float32: (23, -126), torch.bfloat16: (7, -126), torch.float16: (10, -14)}


def half_units(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Half a unit in the last place of `dtype` at each value."""
    mantissa, least = BITS[dtype]
    exponent = np.maximum(np.floor(np.log2(np.maximum(np.abs(values), 1e-300))), least)
    return 2.0 ** (exponent - mantissa - 1)


@pytest.mark.parametrize("dtype", BITS, ids=str)
@pytest.mark.parametrize("name", REFERENCES)
def test_merged_tensors_lie_within_half_a_unit_in_the_last_place_of_the_reference(
    name: str, dtype: torch.dtype
) -> None:
    method = METHODS.get(name)
    for seed, options in enumerate(every_options(method)):
        inputs = make_inputs(method, (9, 23), dtype, seed=seed)
        if inputs.base is None:
            inputs = dataclasses.replace(inputs, base=torch.zeros(9, 23))
        coefficients = make_coefficients(method, len(inputs.experts), seed=seed)
        names = tuple(f"model_{index}" for index in range(len(inputs.experts)))
        result = merged(method, inputs, coefficients, options=options, dtype=dtype, names=names, seed=7)
        expected = REFERENCES[name](
            inputs.base.double().numpy(),
            np.stack([expert.double().numpy() for expert in inputs.experts]),
            {key: value if value.ndim else float(value) for key, value in coefficients.items()},
            options,
            Origin(7, names, inputs.name),
        )
        error = np.abs(result.double().numpy() - expected)
        # A result that lies midway between two numbers may go either way with the reference's own rounding.
        assert (error <= half_units(expected, dtype) * (1 + 1e-6)).all(), options


def test_there_is_a_reference_for_every_method_of_these_families() -> None:
    spectral = {name for name in METHODS.names() if METHODS.get(name).__module__ not in ELEMENTWISE}
    assert set(METHODS.names()) - spectral == set(REFERENCES)


ELEMENTWISE = {METHODS.get(name).__module__ for name in REFERENCES}
