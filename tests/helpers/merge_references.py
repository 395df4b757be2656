"""Every method once more, from its formula, in plain numpy float64, without a thought for speed.

A reference takes the base and the experts, shape (K, ...), the coefficients and options by name, and
what random numbers depend on. It returns the merged tensor in float64.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Origin(NamedTuple):
    """What random numbers depend on."""

    seed: int
    experts: tuple[str, ...]
    tensor: str


Reference = Callable[[Array, Array, dict[str, Any], dict[str, Any], Origin], Array]


def linear(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    return np.average(experts, axis=0, weights=c["weight"]) * (1.0 if o["normalize"] else c["weight"].sum())


def task_arithmetic(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    return base + np.einsum("k,k...->...", c["weight"], experts - base)


def passthrough(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    return base if o["model"] == "base" else experts[origin.experts.index(o["model"])]


def scaled(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    return passthrough(base, experts, c, o, origin) * c["scale"]


def on_the_arc(first: Array, second: Array, t: float, threshold: float) -> Array:
    cosine = (first * second).sum() / (np.linalg.norm(first) * np.linalg.norm(second))
    if abs(cosine) > threshold:
        return (1 - t) * first + t * second
    omega = np.arccos(cosine)
    return (np.sin((1 - t) * omega) * first + np.sin(t * omega) * second) / np.sin(omega)


def slerp(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    return on_the_arc(*experts, c["t"], o["threshold"])


def nuslerp(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    start = base if o["origin"] == "base" else np.zeros_like(base)
    t = c["weight"][1] / c["weight"].sum()
    first, second = experts - start
    if o["along"] == "tensor":
        return start + on_the_arc(first, second, t, 1.0)
    axis = -1 if o["along"] == "rows" else 0
    first, second = np.moveaxis(first, axis, -1), np.moveaxis(second, axis, -1)
    result = np.empty_like(first)
    for index in np.ndindex(first.shape[:-1]):
        result[index] = on_the_arc(first[index], second[index], t, 1.0)
    return start + np.moveaxis(result, -1, axis)


def multi_slerp(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    """The procedure as published, through the tangent space."""
    start = base if o["origin"] == "base" else np.zeros_like(base)
    x = (experts - start).reshape(len(experts), -1)
    weight = c["weight"] / c["weight"].sum() if o["normalize"] else c["weight"]
    lengths = np.linalg.norm(x, axis=1)
    units = x / lengths[:, None]
    mean = weight @ units
    mean /= np.linalg.norm(mean)
    tangent = weight @ (units - (units @ mean)[:, None] * mean)
    size = np.linalg.norm(tangent)
    return start + ((weight @ lengths) * (mean * np.cos(size) + tangent * np.sinc(size / np.pi))).reshape(base.shape)


def karcher(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    start = base if o["origin"] == "base" else np.zeros_like(base)
    x = (experts - start).reshape(len(experts), -1)
    weight = c["weight"] / c["weight"].sum()
    lengths = np.linalg.norm(x, axis=1)
    units = x / lengths[:, None]
    mean = weight @ units
    mean /= np.linalg.norm(mean)
    for _ in range(o["max_iterations"]):
        step = np.zeros_like(mean)
        for share, unit in zip(weight, units, strict=True):
            cosine = np.clip(mean @ unit, -1, 1)
            angle = np.arccos(cosine)
            step += share * (angle / np.sin(angle)) * (unit - cosine * mean)
        size = np.linalg.norm(step)
        if size < o["tolerance"]:
            break
        mean = np.cos(size) * mean + np.sin(size) * step / size
        mean /= np.linalg.norm(mean)
    return start + ((weight @ lengths) * mean).reshape(base.shape)


def model_stock(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    tau = experts - base
    parts = tau.reshape(len(tau), -1, base.shape[-1] if o["along"] == "rows" else base.size)
    count = len(tau)
    steps = np.empty(parts.shape[1])
    for row in range(parts.shape[1]):
        cosines = [(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(parts[:, row], 2)]
        cosine = np.mean(cosines)
        steps[row] = count * cosine / (1 + (count - 1) * cosine)
    if o["clamp"]:
        steps = np.clip(steps, 0, 1)
    return base + (c["scale"] * steps[:, None] * parts.mean(axis=0)).reshape(base.shape)


def numbers(origin: Origin, method: str, expert: str, size: int) -> Array:
    """Random numbers of one expert's entries."""

    def word(*names: str) -> int:
        text = "\x1f".join((str(origin.seed), method, *names, origin.tensor))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def stir(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        return x * 0x846CA68B % 2**32

    def draw(index: int) -> float:
        mixed = stir(index ^ word())
        mixed ^= mixed >> 16
        return stir((mixed + word(expert)) % 2**32) // 2 / 2**31

    return np.array([draw(index) for index in range(size)])


def combine(base: Array, tau: Array, c: dict[str, Any], o: dict[str, Any]) -> Array:
    """Add sparse task vectors, or elect signs if the method has an election."""
    weight = c["weight"].reshape(-1, *[1] * base.ndim)
    if "election" not in o:
        return base + (weight * tau).sum(axis=0)
    ballots = weight * tau if o["election"] == "weighted" else tau
    elected = np.where(ballots.sum(axis=0) >= 0, 1.0, -1.0)
    agree = np.sign(ballots) == elected
    total = (weight * tau * agree).sum(axis=0)
    if o["normalize"]:
        divisor = (weight * agree).sum(axis=0)
        total = total / np.where(divisor == 0, 1.0, divisor)
    return base + c["scale"] * total


def rescaled(tau: Array, kept: Array, probability: Any, rescale: str) -> Array:
    if rescale == "probability":
        return np.where(kept, tau / np.where(kept, probability, 1.0), 0.0)
    if rescale == "l1":
        return np.where(kept, tau, 0.0) * (np.abs(tau).sum() / np.abs(tau[kept]).sum())
    return np.where(kept, tau, 0.0)


def ties(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    sparse = []
    for expert, density in zip(experts, c["density"], strict=True):
        tau = expert - base
        least = np.sort(np.abs(tau), axis=None)[::-1][max(1, int(density * tau.size)) - 1]
        sparse.append(np.where(np.abs(tau) >= least, tau, 0.0))
    return combine(base, np.stack(sparse), c, o)


def breadcrumbs(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    sparse = []
    for expert, density, gamma in zip(experts, c["density"], c["gamma"], strict=True):
        tau = expert - base
        kept = max(1, int(density * tau.size))
        top = min(int(gamma * tau.size), tau.size - kept)
        band = np.sort(np.abs(tau), axis=None)[::-1][top : top + kept]
        inside = (np.abs(tau) >= band.min()) & (np.abs(tau) <= band.max())
        sparse.append(rescaled(tau, inside, 1.0, o["rescale"]))
    return combine(base, np.stack(sparse), c, o)


def dare(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    sparse = []
    for name, expert, density in zip(origin.experts, experts, c["density"], strict=True):
        kept = (numbers(origin, "dare", name, base.size) < density).reshape(base.shape)
        sparse.append(rescaled(expert - base, kept, density, o["rescale"]))
    return combine(base, np.stack(sparse), c, o)


def della(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    sparse = []
    for name, expert, density, epsilon in zip(origin.experts, experts, c["density"], c["epsilon"], strict=True):
        tau = expert - base
        size = np.abs(tau)
        below = (size[..., None, :] < size[..., :, None]).sum(axis=-1)
        ties = (size[..., None, :] == size[..., :, None]).sum(axis=-1) - 1
        steps = np.rint(255 * (below + ties / 2) / (base.shape[-1] - 1))
        half = min(epsilon, density, 1 - density)
        # The smallest rank's probability, and what each rank adds to it, are multiples of 2⁻³¹.
        probability = (np.rint((density - half) * 2**31) + np.floor(2 * half / 255 * 2**31) * steps) / 2**31
        kept = numbers(origin, "della", name, base.size).reshape(base.shape) < probability
        sparse.append(rescaled(tau, kept, probability, o["rescale"]))
    return combine(base, np.stack(sparse), c, o)


def sce(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    tau = experts - base
    variance = tau.var(axis=0)
    least = np.sort(variance, axis=None)[::-1][max(1, int(c["density"] * (variance > 0).sum())) - 1]
    tau = np.where(variance.astype(np.float32) >= np.float32(least), tau, 0.0)
    energy = (tau**2).reshape(len(tau), -1).mean(axis=1)
    weight = (energy / energy.sum()).reshape(-1, *[1] * base.ndim)
    agree = np.sign(tau) == np.where(tau.sum(axis=0) >= 0, 1.0, -1.0)
    divisor = (weight * agree).sum(axis=0)
    return base + c["scale"] * (weight * tau * agree).sum(axis=0) / np.where(divisor == 0, 1.0, divisor)


def magmax(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    values = c["weight"].reshape(-1, *[1] * base.ndim) * (experts - base)
    chosen = np.abs(values).argmax(axis=0)
    return base + c["scale"] * np.take_along_axis(values, chosen[None], axis=0)[0]


def consensus_ta(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    tau = experts - base
    total = tau.sum(axis=0)
    masks = [
        np.abs(vector) > strict * np.abs(total - vector) for vector, strict in zip(tau, c["selectivity"], strict=True)
    ]
    return base + np.where(np.sum(masks, axis=0) >= o["least"], np.einsum("k,k...->...", c["weight"], tau), 0.0)


def tall_mask(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    tau = experts - base
    total = tau.sum(axis=0)
    own = tau[origin.experts.index(o["model"]) if o["model"] else 0]
    return base + c["scale"] * np.where(np.abs(own) > c["selectivity"] * np.abs(total - own), total, 0.0)


def ram(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    tau = experts - base
    changed = np.abs(tau) > o["epsilon"]
    active = changed.sum(axis=0)
    merged = np.zeros_like(base)
    for vector, mask, weight in zip(tau, changed, c["weight"], strict=True):
        boost = 1.0
        if "r" in c:
            shared, own = (mask & (active > 1)).sum(), (mask & (active == 1)).sum()
            boost = 1 + c["r"] * min(shared / max(own, o["epsilon"]), c["alpha"])
        merged += np.where(mask, weight * vector * np.where(active == 1, boost, 1 / np.maximum(active, 1)), 0.0)
    return base + merged


def arcee_fusion(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    def softmax(x: Array) -> Array:
        e = np.exp(x)
        return e / e.sum(axis=-1, keepdims=True) + 1e-8

    p, q = softmax(experts[0]), softmax(base)
    importance = np.abs(experts[0] - base) * (p * np.log(p / q)).sum(axis=-1, keepdims=True)
    ordered = np.sort(importance, axis=None)
    first, median, third = (ordered[int(quantile * (base.size - 1))] for quantile in (0.25, 0.5, 0.75))
    kept = importance >= median + c["selectivity"] * (third - first)
    return base + np.where(kept, c["weight"] * (experts[0] - base), 0.0)


def nearswap(base: Array, experts: Array, c: dict[str, Any], o: dict[str, Any], origin: Origin) -> Array:
    share = np.minimum(1, c["t"] / np.maximum(np.abs(experts[0] - base), 1e-6))
    return share * experts[0] + (1 - share) * base


REFERENCES: dict[str, Reference] = {
    "linear": linear,
    "task_arithmetic": task_arithmetic,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multi_slerp": multi_slerp,
    "karcher": karcher,
    "model_stock": model_stock,
    "ties": ties,
    "dare_linear": dare,
    "dare_ties": dare,
    "della": della,
    "della_linear": della,
    "breadcrumbs": breadcrumbs,
    "breadcrumbs_ties": breadcrumbs,
    "sce": sce,
    "magmax": magmax,
    "consensus_ta": consensus_ta,
    "tall_mask": tall_mask,
    "ram": ram,
    "ram_plus": ram,
    "arcee_fusion": arcee_fusion,
    "nearswap": nearswap,
    "passthrough": passthrough,
    "scaled": scaled,
}
