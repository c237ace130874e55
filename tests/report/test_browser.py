"""The pages as people meet them: in Chromium, in both themes, on a phone, by keyboard."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import chromium
import pytest
import report_sample

from lprnet_nb.figures.style import WIDTH
from lprnet_nb.places import repository
from lprnet_nb.report.html import write_html

FULL = repository() / "data" / "reports" / "2026-11-full"

PHONE = {"width": 360, "height": 740, "phone": True}
PAGES = ("index.html", "bmodels/bm1684x_int8_1b_kl.html", "notebooks/05_compare.html")
HEADING = "document.querySelectorAll('#results-table thead button')[{}]"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated data, so that the banner is there, and texts that try to break out."""
    folder = report_sample.build(
        tmp_path_factory.mktemp("browser") / "it's <b>", source="generated", hostile=True
    )
    write_html(folder)
    return folder


def _column(browser: chromium.Page, index: int) -> list[str]:
    return browser.run(
        "[...document.querySelectorAll('#results-table tbody tr')]"
        f".map(row => row.cells[{index}].textContent.trim())"
    )


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("view", [{}, {"dark": True}, PHONE], ids=["light", "dark", "phone"])
def test_opens_quietly_and_fits(
    browser: chromium.Page, report: Path, npm: Path, page: str, view: dict
) -> None:
    browser.open(report / page, **view)
    assert browser.complaints() == []
    assert browser.run("document.title") != "broken"
    wide, window = browser.run("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window, "the page scrolls sideways"
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    browser.run((npm / "axe-core" / "axe.min.js").read_text("utf8") + "; 0")
    found = json.loads(
        browser.run(
            "axe.run(document, {resultTypes: ['violations']}).then(found => JSON.stringify("
            "found.violations.map(one => [one.id, one.impact, one.nodes[0].html])))"
        )
    )
    assert found == [], found


def test_is_valid_html(report: Path, npm: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    # Widths of bars are data, hence inline; a scrolling region is no section.
    rules.write_text(
        json.dumps(
            {
                "root": True,
                "extends": ["html-validate:standard"],
                "rules": {"no-inline-style": "off", "prefer-native-element": "off"},
            }
        )
    )
    done = subprocess.run(
        [
            "node",
            npm / "html-validate" / "bin" / "html-validate.mjs",
            "--config",
            rules,
            *(report / page for page in PAGES),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_sorts_by_keyboard(browser: chromium.Page, report: Path) -> None:
    browser.open(report / "index.html")
    original = _column(browser, 1)
    browser.run(HEADING.format(0) + ".focus()")
    browser.key("Tab")  # from Model to Exact match
    assert browser.run("document.activeElement.textContent") == "Exact match"
    for key, order in (("Enter", "ascending"), (" ", "descending"), ("Enter", "none")):
        browser.key(key)
        assert browser.run("document.activeElement.parentElement.ariaSort") == order
        expected = {
            "ascending": sorted(original),
            "descending": sorted(original, reverse=True),
            "none": original,
        }[order]
        assert _column(browser, 1) == expected


def test_sorts_numbers_as_numbers_and_dashes_last(browser: chromium.Page, report: Path) -> None:
    browser.open(report / "index.html")
    browser.run(HEADING.format(8) + ".click()")  # p
    values = _column(browser, 8)
    assert values[0] == "< 0.0001" and values[-2:] == ["–", "–"]
    assert [float(v) for v in values[1:-2]] == sorted(float(v) for v in values[1:-2])
    browser.run(HEADING.format(8) + ".click()")
    assert _column(browser, 8)[0] == "1.00" and _column(browser, 8)[-2:] == ["–", "–"]
    assert (
        browser.run("document.querySelectorAll('#results-table [aria-sort=descending]').length")
        == 1
    )


def test_filters_rows(browser: chromium.Page, report: Path) -> None:
    browser.open(report / "index.html")
    browser.run(
        "{const f = document.getElementById('filter'); f.value = 'INT8 plate bm1684x'; "
        "f.dispatchEvent(new Event('input'))}"
    )
    shown = browser.run(
        "[...document.querySelectorAll('#results-table tbody tr')]"
        ".filter(row => !row.hidden).map(row => row.cells[1].textContent.trim())"
    )
    assert shown == ["0.886", "0.904"]
    assert browser.run("document.querySelector('.filter-count').textContent") == "2 of 15 rows"


def test_theme_follows_the_system_until_chosen(browser: chromium.Page, report: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    press = "document.querySelector('button.theme').click()"
    browser.open(report / "index.html")
    light = browser.run(ground)
    browser.open(report / "index.html", dark=True)
    dark = browser.run(ground)
    assert light == "rgb(255, 255, 255)" and dark == "rgb(17, 21, 26)"
    browser.run(press)
    assert browser.run(ground) == light
    browser.open(report / "bmodels" / "bm1684_fp32_1b.html", dark=True)
    assert browser.run(ground) == light, "the choice holds on the next page"
    browser.run(press)
    browser.run(press)
    assert browser.run(ground) == dark
    assert browser.run("document.querySelector('button.theme').ariaLabel") == "Theme: Auto"


def test_figures_open_large_and_close(browser: chromium.Page, report: Path) -> None:
    browser.open(report / "index.html")
    assert (
        browser.run("[...document.querySelectorAll('figure img')].map(one => one.naturalWidth > 0)")
        == [True] * 3
    )
    browser.run("document.querySelector('a.zoom').focus()")
    browser.key("Enter")
    assert browser.run("document.querySelector('dialog').open")
    assert browser.run("document.querySelector('dialog img').naturalWidth > 0")
    browser.key("Escape")
    assert not browser.run("document.querySelector('dialog').open")
    assert browser.run("document.activeElement.className") == "zoom"


@pytest.mark.parametrize("view", [{}, PHONE], ids=["desk", "phone"])
def test_labels_of_figures_are_readable_as_shown(
    browser: chromium.Page, report: Path, view: dict
) -> None:
    """Our smallest label, 6.5 points on a page's width, is at least 9 px, zoomed or not."""
    needed = WIDTH * 96 * 9 / (6.5 * 96 / 72)
    browser.open(report / "index.html", **view)
    wide = browser.run("[...document.querySelectorAll('figure img')].map(one => one.clientWidth)")
    assert min(wide) >= needed
    browser.run("document.querySelector('a.zoom').click()")
    assert browser.run("document.querySelector('dialog img').clientWidth") >= max(needed, min(wide))
    within = browser.run(
        "document.querySelector('dialog').getBoundingClientRect().right <= innerWidth"
    )
    assert within, "the dialog itself stays on the screen; the picture in it is dragged"


def test_a_table_that_scrolls_says_so(browser: chromium.Page, report: Path) -> None:
    seen = (
        "new Promise(done => setTimeout(() => done([...document.querySelectorAll('.scroll')]"
        ".filter(box => box.clientWidth).map(box => [box.scrollWidth - box.clientWidth > 2, "
        "box.previousElementSibling.checkVisibility(), box.classList.contains('more')])), 100))"
    )
    for view, some in ((PHONE, True), ({"width": 1280}, False)):
        browser.open(report / "index.html", **view)
        found = browser.run(seen)
        assert all(scrolls == hint == faded for scrolls, hint, faded in found)
        if some:
            assert any(scrolls for scrolls, _, _ in found)
    browser.open(report / "index.html", **PHONE)
    browser.run("{const b = document.querySelector('.scroll'); b.scrollLeft = b.scrollWidth}")
    assert browser.run(seen)[0] == [True, True, False], "at its end nothing is left to fade"


def test_the_verdict_prints_on_one_sheet(browser: chromium.Page, tmp_path: Path) -> None:
    """Of the committed full run, four chips and 30 BModels, on the smaller of A4 and Letter."""
    for name in ("metrics.json", "manifest.json"):
        (tmp_path / name).write_bytes((FULL / name).read_bytes())
    write_html(tmp_path)
    browser.open(tmp_path / "index.html", width=718, height=979)  # A4 across, Letter down
    try:
        browser.call("Emulation.setEmulatedMedia", media="print")
        bottom, breaks = browser.run(
            "[document.querySelector('#verdict').getBoundingClientRect().bottom, "
            "getComputedStyle(document.querySelector('#verdict')).breakAfter]"
        )
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
    assert bottom <= 979 and breaks == "page"


def test_reads_without_scripts(browser: chromium.Page, report: Path) -> None:
    try:
        browser.open(report / "index.html", script=False)
        shown = browser.run(
            "[document.querySelector('button.theme'), "
            "document.querySelector('.table-tools'), "
            "document.querySelector('#results-table')]"
            ".map(one => one.checkVisibility())"
        )
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert shown == [False, False, True]


def test_prints_whole(browser: chromium.Page, report: Path, tmp_path: Path) -> None:
    browser.open(report / "index.html", dark=True)
    closed = "document.querySelectorAll('details:not([open])').length"
    before = browser.run(closed)
    assert before > 0
    browser.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert browser.run(closed) == before, "folds are as they were"
