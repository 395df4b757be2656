"""The config as a JSON schema, by which editors complete and check it.

Knows keys, their meaning, kinds and ranges. What keys have to do with each other is checked when a config is read.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evomerge.config.config import MAY_BE_EMPTY, Config
from evomerge.config.section import Section


def json_schema(names: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """The JSON schema of a config, short forms included.

    Args:
        names: by section and key, such as "MergeConfig.method", names to propose; others are accepted, too.
    """
    schema = Config.model_json_schema()
    by_name = {section.__name__: section for section in sections(Section)}
    for title, found in [("Config", schema), *schema["$defs"].items()]:
        # A section with a short form has its keys as the first of two.
        keys = found.get("properties") or found.get("anyOf", [{}])[0].get("properties", {})
        meanings = _meanings(by_name[title])
        for key, value in keys.items():
            value.pop("title", None)
            value["description"] = meanings[key]
            if proposed := (names or {}).get(f"{title}.{key}"):
                value["examples"] = list(proposed)
    for name in MAY_BE_EMPTY:
        section = schema["properties"][name]
        schema["properties"][name] = {
            "description": section.pop("description"),
            "anyOf": [{"$ref": section.pop("$ref")}, {"type": "null"}],
            **section,
        }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "evomerge experiment"}


def sections(root: type[Section]) -> Iterator[type[Section]]:
    """A section of the config's form and all that build on it."""
    yield root
    for section in root.__subclasses__():
        yield from sections(section)


def _meanings(section: type[Section]) -> dict[str, str]:
    """What the text under each key of a section says, those of the sections that it builds on included."""
    found: dict[str, str] = {}
    for part in reversed(section.__mro__):
        if not issubclass(part, Section):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        assert isinstance(tree, ast.ClassDef)
        for key, text in zip(tree.body, tree.body[1:], strict=False):
            match key, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                    found[name] = re.sub(r"\bNone\b", "null", " ".join(meaning.split()))
    return found
