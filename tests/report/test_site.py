"""The site: what its configuration names is there, and it builds with no link to nowhere."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import report_sample
import yaml
from bs4 import BeautifulSoup

from lprnet_nb.errors import DataError
from lprnet_nb.report import site
from lprnet_nb.report.html import write_html
from lprnet_nb.report.run import NOTEBOOKS

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf8"))


def _pages(part: object) -> list[str]:
    if isinstance(part, str):
        return [part]
    inside = part.values() if isinstance(part, dict) else part
    return [page for one in inside for page in _pages(one)]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = report_sample.build(tmp_path / "fixture")
    for name in NOTEBOOKS:  # the sample has two of them
        if not (folder / "notebooks" / f"{name}.ipynb").exists():
            shutil.copy(folder / "notebooks" / "01_trace.ipynb", folder / f"notebooks/{name}.ipynb")
    write_html(folder)
    return folder


def test_every_page_is_named_and_every_name_is_a_page(tmp_path: Path, report: Path) -> None:
    pages = site.gather(ROOT, report, tmp_path / "pages")
    there = {path.relative_to(pages).as_posix() for path in pages.rglob("*.md")}
    assert sorted(_pages(CONFIGURATION["nav"])) == sorted(there)
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= there
    assert "traced" in (pages / "notebooks" / "01_trace.md").read_text("utf8")


def test_the_workflow_builds_what_is_published_from_a_tag() -> None:
    text = (ROOT / ".github" / "workflows" / "site.yml").read_text("utf8")
    workflow = yaml.safe_load(text.replace("\non:", "\nwhen:"))
    assert workflow["when"]["push"] == {"tags": ["v*"]}
    steps = workflow["jobs"]["publish"]["steps"]
    assert "scripts/site.sh" in [step.get("run") for step in steps]
    assert CONFIGURATION["site_dir"] in [step.get("with", {}).get("path") for step in steps]


def test_a_report_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing/index.html is not there. Make the report first"):
        site.gather(ROOT, tmp_path / "nothing", tmp_path / "pages")
    assert not (tmp_path / "pages").exists()


@pytest.mark.slow
def test_it_builds_and_every_link_leads_somewhere(tmp_path: Path, report: Path) -> None:
    if find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: pip install -e '.[site]'")
    root = tmp_path / "root"
    shutil.copytree(ROOT / "docs", root / "docs")
    for name in (*site.TEXTS, "mkdocs.yml"):
        shutil.copy(ROOT / name, root / name)
    index = site.build(root, report)
    built = index.parent
    words = (built / "search" / "search_index.json").read_text("utf8")
    for said in ("BModels to ship", "CTC", "traced"):  # README, docs, a notebook
        assert said in words
    pages = [page for page in built.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 20
    for page in pages:
        soup = BeautifulSoup(page.read_text("utf8"), "html.parser")
        for tag, attribute in (("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")):
            for one in soup.find_all(tag, **{attribute: True}):
                parts = urlsplit(one[attribute])
                if tag != "a":
                    assert not parts.netloc, f"{page.name} loads {one[attribute]}"
                # x.md stands in the sample notebook's own prose, which the report shows as it is.
                if parts.scheme or parts.netloc or not parts.path or parts.path == "x.md":
                    continue
                target = page.parent / unquote(parts.path)
                assert target.exists(), f"{page.relative_to(built)}: {one[attribute]}"
