"""A page of HTML as what a reader gets of it: balanced elements, texts, tables and drawings."""

from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree

_VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})
_PARTS = frozenset({"p", "h1", "h2", "h3", "td", "th", "dt", "dd", "pre", "figcaption", "summary", "strong", "style"})


class Reader(HTMLParser):
    """Reads a page. Raises: AssertionError for elements that are closed in another order than they were opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._open: list[str] = []
        self.parts: list[tuple[str, str]] = []
        """Elements that hold text, with the text."""
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.feed(page)
        self.close()
        assert not self._open
        sources = [part.split("</svg>")[0] for part in page.split("<svg")[1:]]
        self.drawings = [ElementTree.fromstring(f"<svg{source}</svg>") for source in sources]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in _VOID:
            self._open.append(tag)
        if tag in _PARTS:
            self.parts.append((tag, ""))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.parts and "svg" not in self._open:
            self.parts[-1] = (self.parts[-1][0], self.parts[-1][1] + data)
        if self._open and self._open[-1] in {"td", "th"}:
            self.rows[-1][-1] += data.replace("\xa0", " ")

    def texts(self, tag: str) -> list[str]:
        """Of every element of a kind."""
        return [text for name, text in self.parts if name == tag]

    def row(self, first: str) -> list[str]:
        """The first row of any table that begins with a cell."""
        return next(row for row in self.rows if row and row[0] == first)
