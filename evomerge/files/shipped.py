"""Files that come with the package beside its code: experiments to start from, and scripts that launchers fill in.

In a wheel they lie below the package; in a checkout they are the folders of the same name beside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(folder: str) -> Path:
    """The folder `configs` or `launch`, wherever this installation has it."""
    inside = _PACKAGE / "shipped" / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder
