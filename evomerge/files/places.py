"""Paths that somebody else wrote, looked at without being surprised by any of them.

Names may be too long for the file system, hold a null character or start at the home of a user who isn't there:
pathlib raises an error of its own for each, though all of them only mean that nothing is there.
"""

from __future__ import annotations

import os
from pathlib import Path

YAML_ENDS = (".yaml", ".yml")
"""Of the names of YAML files. No model is called so."""


def local(text: str | Path) -> Path:
    """The path with `~` as the user's home; as it is where no such user is known."""
    return Path(os.path.expanduser(text))


def is_folder(path: Path) -> bool:
    """Whether a folder is there, or a link to one."""
    return os.path.isdir(path)


def is_there(path: Path) -> bool:
    """Whether a file or folder is there, or a link to one."""
    return os.path.exists(path)
