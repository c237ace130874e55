"""Which release goes with which SDK: the table, and the page that shows it."""

from __future__ import annotations

from pathlib import Path

from lprnet_nb.toolchain.chips import CHIPS
from lprnet_nb.toolchain.releases import _order
from lprnet_nb.toolchain.sdks import NEWER, OLDER, SDKS, sdk_markdown, sdk_rows

PAGE = Path(__file__).parents[2] / "docs" / "releases.md"


def test_the_page_shows_the_table():
    assert sdk_markdown() in PAGE.read_text("utf8")


def test_rows_follow_one_another_and_have_sources():
    assert {*OLDER, *NEWER} == set(CHIPS)
    for chips in (OLDER, NEWER):
        rows = [row for row in SDKS if row.chips == chips]
        wanted = [_order(row.tpu_mlir) for row in rows]
        assert wanted == sorted(wanted)  # a later sample never asks for less
        samples = [_order(row.samples[0]) for row in rows]
        assert samples == sorted(set(samples))
    assert all(row["source"].startswith("https://github.com/sophgo/") for row in sdk_rows())
