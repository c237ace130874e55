from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import leftovers
import nbformat
import pytest
import report_sample

from lprnet_nb.errors import DataError
from lprnet_nb.language import speaking
from lprnet_nb.places import repository
from lprnet_nb.report.html import write_html
from lprnet_nb.report.notebook_pages import convert


class _Parsed(HTMLParser):
    """Links, identifiers, sources and visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.links, self.ids, self.sources = path, [], set(), []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside: list[str] = []
        self.feed(path.read_text("utf8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append((tag, found))
        if "id" in found:
            assert found["id"] not in self.ids, f"{self.path.name} has {found['id']} twice"
            self.ids.add(found["id"])
        if "href" in found:
            self.links.append(found["href"])
        if "src" in found:
            self.sources.append(found["src"])
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def _pages(folder: Path) -> Iterator[_Parsed]:
    for path in sorted(folder.rglob("*.html")):
        yield _Parsed(path)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = report_sample.build(tmp_path_factory.mktemp("good") / "fixture")
    write_html(folder)
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = report_sample.build(tmp_path_factory.mktemp("hostile") / "it's <b>", hostile=True)
    write_html(folder)
    return folder


def test_a_page_for_the_report_each_model_and_each_notebook(good: Path) -> None:
    found = {path.relative_to(good).as_posix() for path in good.rglob("*.html")}
    models = {f"bmodels/{path.stem}.html" for path in (good / "bmodels").glob("*.json")}
    assert len(models) == 7
    pages = {"index.html", "notebooks/01_trace.html", "notebooks/05_compare.html"} | models
    assert found == pages | {page.replace(".html", ".zh.html") for page in pages}


def test_loads_nothing_from_outside(hostile: Path) -> None:
    for page in _pages(hostile):
        assert all(source.startswith("data:image/") for source in page.sources), page.path
        assert {tag for tag, _ in page.tags} & {
            "iframe",
            "object",
            "embed",
            "link",
            "form",
            "base",
        } <= {"link"}
        for tag, attributes in page.tags:
            assert not [name for name in attributes if name.startswith("on")], (page.path, tag)
            if tag == "link":
                assert attributes["href"] == "data:,"
        for link in page.links:
            assert urlsplit(link).scheme in ("", "data"), (page.path, link)
        style = re.findall(r"<style>(.*?)</style>", page.path.read_text("utf8"), re.S)
        assert len(style) == 1 and "url(" not in style[0] and "@import" not in style[0]


def test_every_link_leads_somewhere(good: Path) -> None:
    pages = {page.path: page for page in _pages(good)}
    for page in pages.values():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link == "x.md":  # x.md stands in the sample notebook's own prose
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            assert target.is_file(), f"{page.path.name}: {link}"
            if parts.fragment:
                assert unquote(parts.fragment) in pages[target].ids, f"{page.path.name}: {link}"


def test_numbers_lead_to_what_made_them(good: Path) -> None:
    text = (good / "index.html").read_text("utf8")
    for link, number in (
        ("results/bm1684x_int8_1b_kl_greedy.json", "0.868"),
        ("notebooks/05_compare.html#cell-id=05-3", "0.846–0.888"),
        ("notebooks/05_compare.html#cell-id=05-3", "0.942"),
        ("bmodels/bm1684x_int8_1b_kl.html#latency", "0.052"),
    ):
        assert re.search(rf'<a class="num" href="{re.escape(link)}"[^>]*>{number}</a>', text)
    assert (
        'href="notebooks/05_compare.html#cell-id=05-4" aria-label="How it was made: plates"' in text
    )


def test_a_figure_whose_name_no_cell_spells_out_is_filed_by_its_number(tmp_path: Path) -> None:
    report_sample.build(tmp_path)
    for old in sorted((tmp_path / "figures").glob("plates.*")):
        old.rename(old.with_stem("05_plates"))
    (tmp_path / "figures" / "05_plates.json").write_text(
        '{"file": "05_plates.png", "caption": "`x --y z` of a loop"}', "utf8"
    )
    text = write_html(tmp_path).read_text("utf8")
    assert "<code>x <span>--y</span> z</code> of a loop" in text  # no line ends after a hyphen
    assert "Other figures" not in text
    assert 'href="notebooks/05_compare.html" aria-label="How it was made: 05_plates"' in text


def test_says_what_the_rows_say(good: Path) -> None:
    page = _Parsed(good / "index.html")
    for sentence in (
        "INT8 loses no more than 1 point of exact match on BM1684X.",
        "through each of 7 BModels: the same logits to the bit.",
        "Fixture: which characters are taken for which.",
        "Only a device's inference time tells how fast a chip is",
        "0123456789abcdef0123456789abcdef01234567+changes",
    ):
        assert sentence in page.text
    assert "Generated plates" not in page.text and "Not comparable" not in page.text


def test_published_figures_stand_beside_ours(good: Path) -> None:
    text = (good / "index.html").read_text("utf8")
    part = text[text.index('id="published-title"') : text.index('id="time-title"')]
    [row] = re.findall(r"<tr>(?:(?!</tr>).)*bm1684x_int8_1b_kl\.html.*?</tr>", part, re.S)
    cells = re.sub(r"<[^>]+>", " ", row).split()
    # ours, its interval, 2024-10 by TPU-MLIR and 2022-11 by TPU-NNTC, two programs
    assert [cell for cell in cells if re.match(r"0\.\d{3}", cell)] == [
        "0.868",
        "0.846–0.888",
        "0.867",
        "0.887",
        "0.876",
    ]
    assert "✓" in cells


def test_a_bmodels_page_has_its_layers_and_differences(good: Path) -> None:
    page = _Parsed(good / "bmodels" / "bm1684x_int8_1b_kl.html")
    assert "Furthest: x.13_Conv (context-pool) at 12.4 dB" in re.sub(
        r" (?=[,)])|(?<=\() ", "", page.text
    )
    assert "plate 03.jpg 皖A00003 皖AD0003" in page.text
    assert "to the bit 4 images" in page.text
    other = _Parsed(good / "bmodels" / "bm1684_fp32_1b.html")
    assert "it writes no profile for the BM1684" in other.text
    assert "nothing was quantized" in other.text


def test_columns_that_nothing_is_known_of_are_left_out(tmp_path: Path) -> None:
    report_sample.build(tmp_path)
    path = tmp_path / "bmodels" / "bm1684x_int8_1b_kl.json"
    facts = json.loads(path.read_text("utf8"))
    facts["layers"] = [{"name": "x", "cosine": 1.0, "sqnr_db": None}]
    path.write_text(json.dumps(facts), "utf8")
    write_html(tmp_path)
    text = _Parsed(path.with_suffix(".html")).text
    assert "Role" not in text and "Operation" not in text and "Furthest" not in text


def test_the_same_folder_gives_the_same_bytes(good: Path, tmp_path: Path) -> None:
    again = tmp_path / good.name
    shutil.copytree(good, again, ignore=shutil.ignore_patterns("*.html"))
    write_html(again)
    for path in good.rglob("*.html"):
        assert path.read_bytes() == (again / path.relative_to(good)).read_bytes()


def test_hostile_text_stays_text(hostile: Path) -> None:
    for page in _pages(hostile):
        raw = page.path.read_text("utf8")
        assert raw.count("<script") == 1, page.path
        assert raw.count("<!--") == raw.count("-->") == 0 or "notebooks" in page.path.parts
        assert "\u202e" not in raw and "\u200b" not in raw
    models = _Parsed(hostile / "bmodels" / "bm1684x_int8_1b_kl.html")
    for name in (
        "<script>document.title='broken'</script>.jpg",
        "a\"b'c&d.jpg",
        "line\\nbreak.jpg",
        "right-to-left \\u202egpj.exe",
        "../../etc/passwd",
        "皖A\\u200b12345.jpg",
        "]]>--><!--.jpg",
        "皖B0<b>0",
    ):
        assert name in models.texts, name
    assert not list(hostile.parent.glob("passwd*"))


def test_the_command_survives_a_shell(hostile: Path, good: Path) -> None:
    [command] = re.findall(r'id="command">(.*?)</pre>', (hostile / "index.html").read_text(), re.S)
    words = shlex.split(html.unescape(command))
    assert words[words.index("--data") + 1] == "a\"b'c&d.jpg"
    assert words[-2:] == ["--name", "it's <b>"]
    assert (
        "scripts/report.sh --profile quick --images 0 --name fixture"
        in (good / "index.html").read_text()
    )


def test_generated_data_has_a_banner_on_top(tmp_path: Path) -> None:
    page = _Parsed(write_html(report_sample.build(tmp_path, source="generated")))
    assert page.text.index("Generated plates, not photographs") < page.text.index("INT8 ")
    assert "Not comparable" in page.text


def test_metrics_alone_make_a_page(tmp_path: Path) -> None:
    report_sample.build(tmp_path)
    for name in ("timings.json", "manifest.json"):
        (tmp_path / name).unlink()
    for name in ("figures", "tables", "results", "bmodels", "notebooks"):
        shutil.rmtree(tmp_path / name)
    page = _Parsed(write_html(tmp_path))
    assert "There is no manifest.json" in page.text and "0.868" in page.text
    assert not [link for link in page.links if link.startswith(("results", "bmodels", "note"))]


@pytest.mark.parametrize(
    ("path", "content", "what"),
    [
        ("metrics.json", "{}", "metrics.json is not a Metrics"),
        ("figures/confusion.json", '{"file": "../metrics.json", "caption": ""}', "beside it"),
        ("figures/confusion.json", '{"file": "none.svg", "caption": ""}', "not there"),
        ("figures/confusion.json", '{"file": 1}', "beside it"),
        ("tables/forms.json", '{"rows": [1]}', "no list of objects"),
        ("tables/forms.json", "[]", "not a JSON object"),
        ("results/float_1b_greedy.json", "{", "cannot be read as JSON"),
        ("notebooks/01_trace.ipynb", "{}", "not a readable notebook"),
        ("notebooks/01_trace.ipynb", "no", "not a readable notebook"),
        ("bmodels/bm1684_fp32_1b.json", '{"id": "bm1684_fp32_1b"}', "is not a BModelFacts"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, path: str, content: str, what: str) -> None:
    report_sample.build(tmp_path)
    (tmp_path / path).write_text(content, "utf8")
    with pytest.raises(DataError, match=what) as caught:
        write_html(tmp_path)
    assert Path(path).name in str(caught.value)


@pytest.mark.parametrize(
    "link", ["figures/plates.png", "figures/plates.json", "tables/forms.json", "notebooks/x.ipynb"]
)
def test_a_link_that_leads_out_is_not_passed_on(link: str, tmp_path: Path) -> None:
    folder = report_sample.build(tmp_path / "report")
    path = folder / link
    outside = tmp_path / f"private{path.suffix}"
    if path.exists():
        path.rename(outside)
    else:
        shutil.copy(folder / "notebooks" / "01_trace.ipynb", outside)
    path.symlink_to(outside)
    with pytest.raises(DataError, match="link that leads out") as caught:
        write_html(folder)
    assert path.name in str(caught.value)


def test_a_report_behind_a_link_is_shown(tmp_path: Path) -> None:
    (tmp_path / "reports").symlink_to(report_sample.build(tmp_path / "disk").parent)
    assert write_html(tmp_path / "reports" / "disk").exists()


def test_links_to_notebooks_lead_to_their_pages(tmp_path: Path) -> None:
    text = (
        "[next](02_b.ipynb) [part](02_b.ipynb#3-C) [gone](00_start.ipynb) [web](https://a.example)"
    )
    for name in ("01_a", "02_b"):
        cell = nbformat.v4.new_markdown_cell(text)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
    body = convert(tmp_path / "01_a.ipynb").body
    assert re.findall(r'href="([^"]*)"', body) == [
        "02_b.html",
        "02_b.html#3-C",
        "https://a.example",
    ]
    assert "gone" in body


def test_metadata_of_an_image_stays_metadata(tmp_path: Path) -> None:
    out = '"><b id="broken" style="x">out</b><img src="http://a.example/x" alt="'
    cell = nbformat.v4.new_code_cell(
        "1",
        outputs=[
            nbformat.v4.new_output(
                "display_data",
                data={"image/png": "iVBORw0KGgo=", "text/plain": ""},
                metadata={"image/png": {"alt": out, "width": f"9{out}", "height": out}},
            )
        ],
    )
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    (tmp_path / "a.html").write_text(convert(path).body, "utf8")
    [image] = [found for tag, found in _Parsed(tmp_path / "a.html").tags if tag == "img"]
    # nbconvert leaves attributes that came in with the width; none may load or lay out.
    assert set(image) <= {"alt", "id"}


def test_notebooks_keep_code_and_lose_scripts(good: Path) -> None:
    raw = (good / "notebooks" / "05_compare.html").read_text("utf8")
    page = _Parsed(good / "notebooks" / "05_compare.html")
    assert raw.count("<h1") == 1 and "document.title" not in raw
    assert "皖A00000" in page.text and "measure_all" in page.text
    assert "cell-id=05-3" in page.ids
    assert any(tag == "img" and attributes["alt"] for tag, attributes in page.tags)


def test_pages_are_light(good: Path) -> None:
    figures = sum(len(path.read_bytes()) for path in (good / "figures").iterdir()) * 4 / 3
    assert (good / "index.html").stat().st_size - figures < 130_000


def test_the_policy_allows_this_script_and_no_other(good: Path) -> None:
    raw = (good / "index.html").read_text("utf8")
    [script] = re.findall(r"<script>(.*?)</script>", raw, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in raw and "default-src 'none'" in raw


def test_each_page_has_its_other_language(good: Path) -> None:
    for page in good.rglob("*.html"):
        chinese = page.name.endswith(".zh.html")
        other = page.name.replace(".zh.html", ".html") if chinese else f"{page.stem}.zh.html"
        text = page.read_text("utf8")
        assert text.count('<html lang="zh-Hans"') == chinese
        [switch] = re.findall(r'<a class="language" href="([^"]*)"', text)
        assert switch == other and (page.parent / other).exists()
        links = re.findall(r'<a [^>]*href="([^"#:]+\.html)', text)
        inside = [link for link in links if link != switch]
        assert all(link.endswith(".zh.html") == chinese for link in inside)


def test_a_report_in_chinese_is_chinese(good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    shutil.copytree(good, folder, ignore=shutil.ignore_patterns("*.html"))
    manifest = json.loads((folder / "manifest.json").read_text("utf8"))
    manifest["parameters"]["LANGUAGE"] = "zh"
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf8")
    page = write_html(folder)
    assert page.name == "index.html" and not (folder / "index.zh.html").exists()
    text = _Parsed(page).text
    assert "INT8 的整牌准确率损失不超过 1 个百分点" in text and "在容差内" in text
    assert "INT8 loses no more than" in _Parsed(folder / "index.en.html").text


def test_chinese_pages_are_chinese_throughout(good: Path, tmp_path: Path) -> None:
    """The fixture's own texts aside; and the committed run's page, with all that was published."""
    full = tmp_path / "full"
    full.mkdir()
    for name in ("metrics.json", "manifest.json"):
        shutil.copy(repository() / "data" / "reports" / "2026-11-full" / name, full)
    write_html(full)
    pages = [*good.rglob("*.zh.html"), *full.rglob("*.zh.html")]
    assert len(pages) == 11
    fixtures = ("forms of the network agree", "activations and thresholds of two layers")
    fixtures += ("which characters are taken for which", "plates on which float and")
    fixtures += ("The network is traced once", "No description has been provided for this image")
    found = {page.name: set(leftovers.english_left(page)) - {*fixtures} for page in pages}
    assert not any(found.values()), found
    assert not [left for page in pages for left in leftovers.spaces_left(page)]


def test_chinese_notebooks_are_chinese_throughout(tmp_path: Path) -> None:
    """Their prose; test_chinese.py has their outputs."""
    for path in sorted((repository() / "notebooks").glob("*.ipynb")):
        with speaking("zh"):
            body = convert(path).body
        page = tmp_path / f"{path.stem}.html"
        page.write_text(body, "utf8")
        assert leftovers.english_left(page) == leftovers.spaces_left(page) == [], page.name


def test_leftovers_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    drawn = base64.b64encode(b"<svg><text>Share of all plates</text></svg>").decode()
    page.write_text(
        "<p>一。<b>二</b></p><p>好。 <i>The</i> plates are read</p><td>by TPU-MLIR 1.30.2</td>"
        "<pre>this is a command</pre><a title='Where it all lies'>图</a>"
        f"<img src='data:image/svg+xml;base64,{drawn}'>",
        "utf8",
    )
    english = ["The plates are read", "Share of all plates", "Where it all lies"]
    assert sorted(leftovers.english_left(page)) == sorted(english)
    assert leftovers.spaces_left(page) == ["好。 The plates are"[:15]]


def test_prose_and_outputs_come_out_in_each_language(tmp_path: Path) -> None:
    output = nbformat.v4.new_output(
        "display_data",
        {"text/plain": "two plates"},
        metadata={"languages": {"zh": {"text/plain": "两张车牌", "metadata": {"x": 1}}}},
    )
    hostile = nbformat.v4.new_output(
        "display_data",
        {"text/plain": "kept"},
        metadata={"languages": {"zh": {"text/html": "<script>bad()</script>", "text/plain": 1}}},
    )
    cells = [
        nbformat.v4.new_markdown_cell("# 02 · From a trace to BModels"),
        nbformat.v4.new_markdown_cell("正文", metadata={"english": "**The answer**"}),
        nbformat.v4.new_code_cell("1", outputs=[output, hostile]),
    ]
    path = tmp_path / "02_compile.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    english = convert(path)
    with speaking("zh"):
        chinese = convert(path)
    assert (
        english.title == "02 · From a trace to BModels"
        and chinese.title == "02 · 从 trace 到 BModel"
    )
    assert "two plates" in english.body and "两张车牌" not in english.body
    assert "两张车牌" in chinese.body and "two plates" not in chinese.body
    assert "<script" not in chinese.body and "正文" not in chinese.body


PUBLISHED_OF_LPRNET = re.compile(
    "LPRNet|sophon-demo|vendor(?!'s stages)|[Tt]he published|fitted|→ [0-9]|Measured 20"
)


def test_a_report_of_another_network_names_nothing_that_is_of_lprnet(tmp_path: Path) -> None:
    """Were a table or an intro not left out, one of these words would be on a page.

    The fixture reads the published plates, chips and precisions: all has a published counterpart.
    """
    usual = _Parsed(write_html(report_sample.build(tmp_path / "lprnet"))).text
    assert len(set(PUBLISHED_OF_LPRNET.findall(usual))) > 1 and "Beside the published" in usual
    index = write_html(report_sample.build(tmp_path / "mine", network="mine.onnx"))
    pages = sorted((tmp_path / "mine").rglob("*.html"))
    assert len(pages) > 5
    for page in pages:
        chinese = page.name.endswith(".zh.html")
        left_out = "What boards took is published of LPRNet alone and left out here"
        left_out = "公布的板卡耗时只有 LPRNet 的，此处略去" if chinese else left_out
        text = _Parsed(page).text
        said = text.count(left_out)
        assert said == (page.name in (index.name, "index.zh.html"))
        found = [word[0] for word in PUBLISHED_OF_LPRNET.finditer(text.replace(left_out, ""))]
        assert not found, f"{page.name}: {found}"
    text = _Parsed(index).text
    assert "mine on BM1684X and BM1684" in text and "PyTorch float" not in text
    assert "0.052" in text  # the compiler's own figure stays
