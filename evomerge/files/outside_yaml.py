"""YAML that somebody else wrote, as plain data: texts, numbers, true, false, null, lists and mappings.

Knows YAML. Doesn't know what a file means. Dates and other tags stay text or are refused, a key that is given twice
is refused, and neither anchors nor nesting make more of a file than is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node

from evomerge.errors import shown
from evomerge.files.outside import Problem, check_plain, read_text

_MAX_DEPTH = 64
_MAX_MERGED = 100_000
_PREFIX = "tag:yaml.org,2002:"
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


def read_yaml(path: Path, problem: Problem) -> Any:
    """The plain data of a YAML file. Raises: `problem`, as `read_text` and `parse_yaml`."""
    return parse_yaml(read_text(path, problem), str(path), problem)


def parse_yaml(text: str, where: str, problem: Problem) -> Any:
    """YAML text with one document as plain data; None if there is none.

    Raises: `problem` in one line, with the line of the file.
    """
    return _parsed(text, where, problem, lambda loader: loader.get_single_data())


def parse_documents(text: str, where: str, problem: Problem) -> list[Any]:
    """YAML text with any number of documents as plain data, each as `parse_yaml` gives it. Raises: `problem`."""

    def every(loader: yaml.SafeLoader) -> list[Any]:
        found = []
        while loader.check_data():  # type: ignore[no-untyped-call]
            found.append(loader.get_data())
        return found

    documents: list[Any] = _parsed(text, where, problem, every)
    return documents


def _parsed(text: str, where: str, problem: Problem, read: Callable[[yaml.SafeLoader], Any]) -> Any:
    try:
        data = read(_Loader(text))
    except yaml.YAMLError as error:
        raise problem(f"{where}: {_explain(error, text)}") from error
    except RecursionError as error:
        raise problem(f"{where}: not valid YAML: nested too deeply") from error
    check_plain(data, where, problem)
    return data


class _Loader(yaml.SafeLoader):
    """PyYAML's own, in Python, for plain data alone: the one in C overflows its stack."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_PREFIX}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_PREFIX) in _PLAIN
    }

    def __init__(self, text: str) -> None:
        self._depth = 0
        super().__init__(text)

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """A node of the document. Raises: ConstructorError if it lies too deep."""
        if self._depth >= _MAX_DEPTH:
            problem = f"nested more than {_MAX_DEPTH} levels deep"
            raise ConstructorError(None, None, problem, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        self._depth += 1
        try:
            node: Node | None = super().compose_node(parent, index)
            return node
        finally:
            self._depth -= 1

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """What a node stands for. Raises: ConstructorError with its place, whatever is wrong with it."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
            kind = str(node.tag).removeprefix(_PREFIX)
            raise ConstructorError(None, None, f"{shown(node.value)} is no {kind}", node.start_mark) from error

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping. Raises: ConstructorError for a key that is no text or number, or is there twice."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, MappingNode) else ():
            if key_node.tag == f"{_PREFIX}merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise ConstructorError(
                    None, None, f"the key {shown(key)} is no text; put it into quotes", key_node.start_mark
                )
            if key in seen:
                raise ConstructorError(
                    None, None, f"the key {shown(key)} is given twice, first in line {seen[key]}", key_node.start_mark
                )
            seen[key] = line
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found

    def flatten_mapping(self, node: MappingNode) -> None:
        """Put what `<<` names into a mapping. Raises: ConstructorError if that is more than a file can mean."""
        super().flatten_mapping(node)
        if len(node.value) > _MAX_MERGED:
            raise ConstructorError(None, None, "<< makes too many keys", node.start_mark)


def _explain(error: yaml.YAMLError, text: str) -> str:
    """What is wrong and where, in one line."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: not valid YAML: the character {chr(error.character)!r} isn't allowed"
    if not isinstance(error, yaml.MarkedYAMLError):
        return f"not valid YAML: {error}"
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    parts = [error.context, error.problem, error.note]
    return f"{place}not valid YAML: {', '.join(part for part in parts if part)}"
