"""Torch, imported when it is first used: loading it takes longer than a small merge, most of which need none of it.

    from evomerge.late import Tensor, torch

`torch` is the library, as far as type checkers and those who use it can tell. `Tensor` is for annotations; whoever asks
at runtime what something is asks for `torch.Tensor`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
    from torch import Tensor as Tensor
else:

    class _Late:
        """A library that is imported when one of its names is asked for."""

        def __init__(self, name: str) -> None:
            self._name, self._library = name, None

        def __getattr__(self, attribute: str) -> Any:
            if self._library is None:
                from importlib import import_module

                self._library = import_module(self._name)
            return getattr(self._library, attribute)

    torch = _Late("torch")
    Tensor = Any
