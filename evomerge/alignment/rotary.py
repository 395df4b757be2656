"""How many coordinates of a head are rotated by position. Knows what configs call it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.errors import AlignmentError

_FACTORS = ("partial_rotary_factor", "rotary_pct")


def rotary_size(config: Mapping[str, Any], head_dim: int, *, usual: float = 1.0) -> int:
    """Coordinates of each head, from the first, that are rotated by position.

    Args:
        config: the model's config.json.
        head_dim: coordinates of a head.
        usual: their share where the config doesn't say.

    Raises: AlignmentError if they differ from layer to layer.
    """
    sizes = {int(head_dim * factor) for factor in _factors(config)} or {int(head_dim * usual)}
    if len(sizes) > 1:
        raise AlignmentError(
            f"config.json rotates {' or '.join(map(str, sorted(sizes)))} coordinates of a head by position, and the "
            "spec knows one number only; align without turning heads inside"
        )
    return sizes.pop()


def _factors(config: Mapping[str, Any]) -> Iterator[float]:
    """What is said at the top, and in the parameters of rotary positions, one for each kind of layer or for all."""
    for key, value in config.items():
        if key in _FACTORS and isinstance(value, (int, float)):
            yield float(value)
        elif key == "rope_parameters" and isinstance(value, Mapping):
            yield from _factors(value)
            for own in value.values():
                if isinstance(own, Mapping):
                    yield from _factors(own)
