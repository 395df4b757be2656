"""Kinds of maps that leave a network's function unchanged. One file for each family."""

from __future__ import annotations

from evomerge.alignment.kinds.base import Kind, Map
from evomerge.alignment.kinds.heads import Heads
from evomerge.alignment.kinds.orthogonal import Orthogonal
from evomerge.alignment.kinds.permutation import Permutation, SignedPermutation

__all__ = ["Heads", "Kind", "Map", "Orthogonal", "Permutation", "SignedPermutation"]
