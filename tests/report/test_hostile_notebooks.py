"""Images and links in a notebook that try to load, run or lead elsewhere than they say."""

from __future__ import annotations

import base64
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest

from lprnet_nb.language import speaking
from lprnet_nb.report.notebook_pages import clean, convert

PIXEL = "data:image/png;base64,iVBORw0KGgo="
IMAGES = (
    "http://evil.example/x.png",
    "https://evil.example/x.png",
    "//evil.example/x.png",
    "HTTP://evil.example/x.png",
    " http://evil.example/x.png",
    "ht&#10;tp://evil.example/x.png",
    "file:///etc/passwd",
    "x.png",
    "../../secret.png",
    "javascript:evil()",
    "ftp://evil.example/x",
    "data:text/html,evil",
    "data:application/javascript,evil()",
    "blob:evil",
)
LINKS = (
    "data:text/html,evil",
    "DATA:text/html,evil",
    " data:text/html,evil",
    "\tdata:text/html,evil",
    "d\tata:text/html,evil",
    "da&#10;ta:text/html,evil",
    "&#1;data:text/html,evil",
    "&#x64;ata:text/html,evil",
    "data:image/svg+xml,&lt;svg onload=evil()>",
    "javascript:evil()",
    "JaVaScRiPt:evil()",
    "java&#9;script:evil()",
    "&#1;javascript:evil()",
    "vbscript:evil()",
    "file:///etc/passwd",
    "blob:evil",
)
MARKUP = (
    '<img src="{pixel}" onerror="evil()">',
    '<img src="{pixel}" srcset="http://evil.example/x 2x">',
    '<div style="background:url(http://evil.example/x)">a</div>',
    "<style>@import 'evil'</style>",
    '<iframe src="http://evil.example"></iframe>',
    '<object data="http://evil.example"></object>',
    '<embed src="http://evil.example">',
    '<link rel="stylesheet" href="http://evil.example">',
    '<meta http-equiv="refresh" content="0;url=http://evil.example">',
    '<base href="http://evil.example">',
    '<form action="http://evil.example"><button>a</button></form>',
    '<input type="image" src="http://evil.example/x">',
    '<video poster="http://evil.example"></video>',
    '<svg><image href="http://evil.example/x"/></svg>',
    '<svg onload="evil()"></svg>',
    "<script>evil()</script>",
    "<scr<script>ipt>evil()</script>",
    '<p onclick="evil()">a</p>',
    "<math><mtext><img src=x onerror=evil()></mtext></math>",
    "<noscript><img src=x></noscript>",
    '<a href="https://good.example" ping="http://evil.example">a</a>',
)
RUNS = {
    "script",
    "style",
    "iframe",
    "object",
    "embed",
    "link",
    "meta",
    "base",
    "form",
    "input",
    "button",
    "video",
    "audio",
    "source",
    "svg",
    "image",
    "math",
    "noscript",
    "frame",
    "picture",
}


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attributes}))


def scheme(address: str) -> str:
    """As a browser finds it: without control characters at its ends and line breaks inside."""
    plain = "".join(c for c in unescape(address) if c not in "\t\r\n").lstrip(
        "".join(map(chr, range(33)))
    )
    return urlsplit(plain).scheme.lower()


def check_harmless(text: str) -> None:
    for tag, attributes in _Tags(text).found:
        assert tag not in RUNS, tag
        assert not [
            name
            for name in attributes
            if name.startswith("on")
            or name in ("style", "srcset", "ping", "poster", "action", "data")
        ], attributes
        if "src" in attributes:
            assert tag == "img" and attributes["src"].startswith("data:image/"), attributes
        if "href" in attributes:
            assert tag == "a" and scheme(attributes["href"]) in ("", "http", "https"), attributes


def page(tmp_path: Path, *cells) -> str:
    path = tmp_path / "01_x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), path)
    return str(convert(path).body)


@pytest.mark.parametrize("source", IMAGES)
def test_images_are_in_the_page_or_not_at_all(source):
    cleaned = clean(f'<p>a<img src="{source}" alt="b">c</p>')
    [(_, attributes)] = [one for one in _Tags(cleaned).found if one[0] == "img"]
    assert "src" not in attributes and attributes["alt"] == "b"


@pytest.mark.parametrize("address", LINKS)
def test_links_that_run_lose_their_address(address):
    cleaned = clean(f'<p><a href="{address}" title="b">a</a></p>')
    check_harmless(cleaned)
    assert "href" not in cleaned and ">a</a>" in cleaned


@pytest.mark.parametrize("markup", MARKUP)
def test_markup_that_runs_or_loads_is_dropped(markup):
    check_harmless(clean(markup.replace("{pixel}", PIXEL)))


@pytest.mark.parametrize(
    "harmless",
    [
        f'<img src="{PIXEL}" alt="a">',
        '<a href="https://good.example/x?y=1#z">a</a>',
        '<a href="http://good.example">a</a>',
        '<a href="#cell-id=05-3">a</a>',
        '<a href="x.md">a</a>',
        '<table id="t"><tbody><tr><td colspan="2">皖A</td></tr></tbody></table>',
    ],
)
def test_what_is_harmless_stays(harmless):
    assert clean(harmless) == harmless


def test_a_whole_notebook_of_them(tmp_path):
    new = nbformat.v4
    html = "".join(
        [
            *(f'<img src="{source}">' for source in IMAGES),
            *(f'<a href="{address}">a</a>' for address in LINKS),
            *MARKUP,
        ]
    ).replace("{pixel}", PIXEL)
    prose = "\n\n".join(
        [
            *(f"![a]({source})" for source in IMAGES),
            *(f"[a]({address})" for address in LINKS),
            *(f"[a]: <{address}>\n[a]" for address in LINKS[:3]),
            html,
        ]
    )
    outputs = [
        new.new_output("display_data", data={kind: html})
        for kind in (
            "text/html",
            "image/svg+xml",
            "text/markdown",
            "text/latex",
            "application/javascript",
        )
    ]
    outputs += [
        new.new_output("stream", text=html),
        new.new_output("error", ename="<img src=x onerror=evil()>", evalue=html, traceback=[html]),
    ]
    found = page(
        tmp_path,
        new.new_markdown_cell(prose),
        new.new_raw_cell(html),
        new.new_code_cell(html, outputs=outputs),
        new.new_code_cell(
            "1", outputs=[new.new_output("display_data", data={"image/png": "iVBORw0KGgo="})]
        ),
    )
    # What nbconvert puts in for an SVG is a picture of it, in which nothing runs.
    check_harmless(found)
    sources = [
        attributes["src"]
        for tag, attributes in _Tags(found).found
        if tag == "img" and "src" in attributes
    ]
    assert PIXEL in sources and not [one for one in sources if not one.startswith("data:image/")]


def test_an_attachment_and_a_figure_are_shown(tmp_path):
    new = nbformat.v4
    cell = new.new_markdown_cell(
        "![a](attachment:x.png)", attachments={"x.png": {"image/png": "iVBORw0KGgo="}}
    )
    shown = new.new_code_cell(
        "1", outputs=[new.new_output("display_data", data={"image/png": "iVBORw0KGgo="})]
    )
    found = page(tmp_path, cell, shown)
    assert found.count("data:image/png;base64,iVBORw0KGgo=") == 2


def _with_figure(folder: Path, name: str) -> Path:
    output = nbformat.v4.new_output(
        "display_data",
        {"image/png": "iVBORw0KGgo="},
        metadata={"figure": name, "image/png": {"alt": '"><script>', "width": 691}},
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output])])
    path = folder / "report" / "notebooks" / "a.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def test_a_figure_comes_from_the_report_in_the_language_of_the_page(tmp_path: Path) -> None:
    figures = tmp_path / "report" / "figures"
    figures.mkdir(parents=True)
    for name in ("one.svg", "one.zh.svg"):
        (figures / name).write_text(f"<svg>{name}</svg>")
    path = _with_figure(tmp_path, "one")
    for language, name in (("en", "one.svg"), ("zh", "one.zh.svg")):
        with speaking(language):
            body = str(convert(path).body)
        [source] = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', body)
        assert base64.b64decode(source).decode() == f"<svg>{name}</svg>"
        assert "<script" not in body and 'width="691"' in body


@pytest.mark.parametrize("name", ["../../secret", "..", "/etc/passwd", "led", ""])
def test_a_figure_of_elsewhere_stays_there(tmp_path: Path, name: str) -> None:
    figures = tmp_path / "report" / "figures"
    figures.mkdir(parents=True)
    (tmp_path / "secret.svg").write_text("<svg>secret</svg>")
    (figures / "led.svg").symlink_to(tmp_path / "secret.svg")
    body = str(convert(_with_figure(tmp_path, name)).body)
    assert "svg+xml" not in body and "data:image/png" in body
