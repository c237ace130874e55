"""Executed notebooks as pages of a report: no scripts, no network, every cell with an anchor."""

from __future__ import annotations

import base64
import itertools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import nh3
from markupsafe import Markup, escape

from ..errors import DataError
from ..files import read_bytes
from ..language import english_source, phrase, spoken, translated_markdown

_quiet = logging.getLogger(f"{__name__}.nbconvert")
_quiet.setLevel(logging.ERROR)

# Everything that headings, prose, code, tables and figures need, and nothing that runs or loads.
_TAGS = frozenset(
    "a abbr b bdi blockquote br caption code col colgroup dd del details div dl dt em h1 h2 h3 h4 "
    "h5 h6 hr i img ins kbd li ol p pre q s samp small span strong sub summary sup table tbody td "
    "tfoot th thead tr u ul var".split()
)
_ATTRIBUTES = {
    "abbr",
    "align",
    "alt",
    "class",
    "colspan",
    "dir",
    "headers",
    "height",
    "id",
    "lang",
    "open",
    "reversed",
    "rowspan",
    "scope",
    "span",
    "start",
    "title",
    "width",
}

# What to look for first when a number's cell is searched.
_FIRST = ("05_compare", "06_strategies")


@dataclass(frozen=True)
class NotebookPage:
    """A converted notebook.

    Attributes
    ----------
    name
        Stem of the file.
    title
        Its first heading.
    body
        HTML of all cells, without scripts.
    code
        ``(anchor, source)`` of the code cells.
    """

    name: str
    title: str
    body: Markup
    code: tuple[tuple[str, str], ...]


def convert(path: str | Path, suffix: str = "") -> NotebookPage:
    """Convert an executed notebook by nbconvert, in the language spoken.

    Parameters
    ----------
    path
        The notebook; its outputs may hold other languages, see `measure.output.show`.
    suffix
        Of the pages of this language, before ".html".

    Raises
    ------
    DataError
        When it is not a notebook.
    """
    path = Path(path)
    try:
        notebook = nbformat.reads(read_bytes(path).decode("utf8"), as_version=4)
        nbformat.validate(notebook)
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        RecursionError,
        nbformat.ValidationError,
    ) as error:
        raise DataError(
            f"{path} is not a readable notebook: {str(error).splitlines()[0]}. Make "
            "the report again."
        ) from error
    _name_cells(notebook)
    _speak(notebook, path.parent.parent / "figures")
    return NotebookPage(
        path.stem,
        _heading(notebook) or path.stem,
        Markup(_linked(_body(notebook), path.parent, suffix)),
        tuple((_anchor(cell), cell.source) for cell in notebook.cells if cell.cell_type == "code"),
    )


def _speak(notebook: Any, figures: Path) -> None:
    """Put prose and outputs into the language spoken, where the notebook has them in it.

    A figure comes from the report's folder, where it has the page's language and its colours.
    """
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = translated_markdown(english_source(cell), spoken())
        for output in cell.get("outputs", ()):
            others = output.get("metadata", {}).pop("languages", None)
            found = others.get(spoken()) if isinstance(others, dict) else None
            if not isinstance(found, dict) or "data" not in output:
                continue
            about = found.pop("metadata", None)
            if isinstance(about, dict):
                output.metadata.update(about)
            output.data.update({k: v for k, v in found.items() if isinstance(v, str)})
        for output in cell.get("outputs", ()):
            image = _drawn(output.get("metadata", {}), figures)
            if image and "data" in output:
                output.data = {"text/html": image}


def _drawn(about: Any, figures: Path) -> str:
    """The image of a figure that the report has as SVG in the language spoken; "" of others."""
    name, shown = about.get("figure"), about.get("image/png")
    if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*", name):
        return ""
    for file in (f"{name}.{spoken()}.svg", f"{name}.svg"):
        path = figures / file
        if path.is_file() and path.resolve().is_relative_to(figures.parent.resolve()):
            data = base64.b64encode(read_bytes(path)).decode()
            alt = escape(str(shown.get("alt", "")) if isinstance(shown, dict) else "")
            wide = shown.get("width", "") if isinstance(shown, dict) else ""
            return f'<img alt="{alt}" width="{wide}" src="data:image/svg+xml;base64,{data}">'
    return ""


def cell_with(pages: Sequence[NotebookPage], pattern: str, suffix: str = "") -> str | None:
    """Link, from the report's folder, to the first code cell in which a pattern is found."""
    for page in sorted(pages, key=lambda one: (one.name not in _FIRST, one.name)):
        for anchor, source in page.code:
            if re.search(pattern, source):
                return f"notebooks/{quote(page.name)}{suffix}.html#{anchor}"
    return None


def _name_cells(notebook: Any) -> None:
    """Give every cell an id of its own that is safe in an address and stays the same."""
    seen: set[str] = set()
    for index, cell in enumerate(notebook.cells):
        name = re.sub(r"[^A-Za-z0-9-]", "-", str(cell.get("id") or f"cell-{index}"))
        cell["id"] = name if name not in seen else f"{name}-{index}"
        seen.add(cell["id"])


def _anchor(cell: Any) -> str:
    return f"cell-id={cell['id']}"


def _heading(notebook: Any) -> str | None:
    for cell in notebook.cells:
        found = cell.cell_type == "markdown" and re.search(r"^#\s+(.+)$", cell.source, re.M)
        if found:
            return re.sub(r"[*_`]|\[([^\]]*)\]\([^)]*\)", r"\1", found[1]).strip()
    return None


def _body(notebook: Any) -> str:
    body, _ = _exporter().from_notebook_node(notebook)
    # The templates put metadata of an image (its size, its text) in as they are, so all of it is
    # cleaned once more.
    return _mend(clean(body))


def _linked(body: str, folder: Path, suffix: str) -> str:
    """Links to notebooks lead to their pages; where a report has none, the text alone stays."""

    def led(found: re.Match[str]) -> str:
        there = (folder / f"{found[1]}.ipynb").exists()
        page = f"{found[1]}{suffix}.html{found[2] or ''}"
        return f'<a href="{page}">{found[3]}</a>' if there else found[3]

    return re.sub(r'<a href="(\d\d_\w+)\.ipynb(#[^"]*)?">(.*?)</a>', led, body, flags=re.S)


@lru_cache(maxsize=1)
def _exporter() -> Any:
    from nbconvert import HTMLExporter  # takes a second to import

    exporter = HTMLExporter(
        template_name="basic",
        sanitize_html=True,
        embed_images=False,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        log=_quiet,
    )  # it warns of figures without a text; they get one here
    # nbconvert's own filter lets nothing but inline text through, not even paragraphs.
    exporter.register_filter("clean_html", clean)
    return exporter


def clean(text: str) -> str:
    """HTML with nothing that runs or loads: no scripts, styles, forms, frames or foreign images.

    Examples
    --------
    >>> clean('<p onclick="a()">b<script>c</script><img src="http://d"></p>')
    '<p>b<img></p>'
    """
    if isinstance(text, bytes):
        text = text.decode("utf8", "replace")
    return _cleaner().clean(text)


@lru_cache(maxsize=1)
def _cleaner() -> nh3.Cleaner:
    return nh3.Cleaner(
        tags=set(_TAGS),
        clean_content_tags={"script", "style"},
        attributes={"*": set(_ATTRIBUTES), "a": {"href"}, "img": {"src"}},
        attribute_filter=_allowed,
        url_schemes={"http", "https", "data"},
        link_rel=None,
    )


def _allowed(tag: str, name: str, value: str) -> str | None:
    """The value of an attribute that may stay: images come with the page, links lead elsewhere."""
    if name == "src" and not value.startswith("data:image/"):
        return None
    # As a browser takes it: entities read, control characters and white space passed over.
    plain = re.sub(r"[\s\x00-\x20]", "", unescape(value)).lower()
    if name == "href" and plain.startswith("data:"):
        return None
    if name in ("width", "height") and not re.fullmatch(r"\d+%?", value):
        return None
    return value


def _mend(body: str) -> str:
    """Mend what nbconvert's HTML lacks for validity and for screen readers."""
    figures = itertools.count(1)

    def described(found: re.Match[str]) -> str:
        tag = re.sub(r"\s+", " ", found[0])
        if re.search(r"\balt=", tag):
            return tag
        alt = phrase("Figure {number} of this notebook", number=next(figures))
        return f'{tag[:-1].rstrip(" /")} alt="{alt}">'

    body = re.sub(r"<img\b[^>]*>", described, body)
    body = re.sub(r"<a class=\"anchor-link\"[^>]*>.*?</a>", "", body, flags=re.S)
    body = re.sub(r"<a href=\"[^\"]*\" class=\"anchor-link\"[^>]*>.*?</a>", "", body, flags=re.S)
    # Left over from scripts, with a random id.
    body = re.sub(r"<div [^>]*\boutput_(javascript|widget_view)\b[^>]*>\s*</div>", "", body)
    # Progress bars end as one line of text each; side by side they take less room.
    body = re.sub(
        r'<div class="(output_html[^"]*)">([^<]*)</div>', r'<div class="\1 line">\2</div>', body
    )
    # Code, text and tables may be wider than a phone: they scroll, by keyboard too.
    body = re.sub(r"<pre(?=[ >])", '<pre tabindex="0"', body)
    tables = itertools.count(1)
    return re.sub(
        r"<table\b.*?</table>",
        lambda found: (
            '<div class="scroll" tabindex="0" role="region" aria-label="'
            f'{phrase("Table {number}", number=next(tables))}">{found[0]}</div>'
        ),
        body,
        flags=re.S,
    )
