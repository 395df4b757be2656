"""A page of reference for each room of the package, made when the pages are built.

Knows the package's folder and MkDocs' hooks. Does not know what the docstrings say: mkdocstrings reads them.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).resolve().parents[1] / "evomerge"


def rooms() -> list[str]:
    """Names of the package's folders and modules, in alphabetical order."""
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    return sorted(folders | modules)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each room to the site and to its menu."""
    menu = []
    for room in rooms():
        page = f"api/{room}.md"
        files.append(File.generated(config, page, content=f"# {room}\n\n::: evomerge.{room}\n"))
        menu.append({room: page})
    assert config.nav is not None
    config.nav.append({"Reference": menu})
    return files
