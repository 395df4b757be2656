"""Kinds of maps that leave a network's function unchanged. One file for each family."""

from __future__ import annotations

from evomerge.align.kinds.base import Kind, Map
from evomerge.align.kinds.heads import Heads
from evomerge.align.kinds.orthogonal import Orthogonal
from evomerge.align.kinds.permutation import Permutation, SignedPermutation

__all__ = ["Heads", "Kind", "Map", "Orthogonal", "Permutation", "SignedPermutation"]
