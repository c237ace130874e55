"""What is not set as Chinese on a Chinese page: English sentences, and spaces after full stops."""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup, NavigableString, XMLParsedAsHTMLWarning

# Not read as prose: code, and what a program printed.
QUOTED = ("code", "pre", "script", "style", "kbd")
BLOCKS = ("p", "li", "ul", "ol", "table", "tr", "td", "th", "dt", "dd", "div", "section", "nav")
BLOCKS += ("h1", "h2", "h3", "h4", "figure", "figcaption", "details", "summary", "footer", "strong")
APART = {"from", "count", "tag"}  # classes of what stands beside a text, with room between
SAID = ("title", "alt", "aria-label", "placeholder")
SENTENCE = re.compile(r"(?:\b[A-Za-z][a-z'’-]*[ ,]+){3,}[A-Za-z][a-z'’-]*\b")
SPACED = re.compile("[。；！？] (?=[^\\s])")


def english_left(page: Path) -> list[str]:
    """Four English words in a row or more, in text, attributes and figures of a page."""
    return [found[0] for text in _texts(page) for found in SENTENCE.finditer(text)]


def spaces_left(page: Path) -> list[str]:
    """Full stops of Chinese with a space after them, with what is around."""
    return [
        text[max(found.start() - 12, 0) : found.end() + 12]
        for text in _texts(page)
        for found in SPACED.finditer(text)
    ]


def _texts(page: Path) -> Iterator[str]:
    """Texts of a page as they are read: those of a block as one."""
    soup = BeautifulSoup(page.read_text("utf8"), "html.parser")
    for image in soup.find_all("img"):
        kind, _, data = str(image["src"]).partition(";base64,")
        if kind == "data:image/svg+xml":
            with warnings.catch_warnings(action="ignore", category=XMLParsedAsHTMLWarning):
                drawn = BeautifulSoup(base64.b64decode(data), "html.parser")
            yield from (one.get_text() for one in drawn.find_all("text"))
    for quoted in soup.find_all(QUOTED):
        if not quoted.find_parent(class_="output_text"):  # what a lesson tells is prose
            quoted.replace_with("`")
    for text in soup.find_all(string=True):
        text.replace_with(re.sub(r"\s+", " ", text) if type(text) is NavigableString else "")
    for tag in soup.find_all(True):
        yield from (str(tag[name]) for name in SAID if name in tag.attrs)
        if tag.name in BLOCKS or APART & set(tag.get("class", ())):
            tag.insert_before("\n")
            tag.insert_after("\n")
    yield from soup.get_text().split("\n")
