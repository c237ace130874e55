"""A whole report in Chinese, as papermill makes it: nothing of it is left in English."""

from __future__ import annotations

from pathlib import Path

import leftovers
import pytest

from lprnet_nb.report import run


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["tour", "quick"])
def test_no_english_is_left(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The tour compiles nothing; the quick one needs the compiler and the published data."""
    if profile == "quick":
        request.getfixturevalue("published"), request.getfixturevalue("compiler")
    monkeypatch.setenv("LPRNET_REPORTS", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = run.make_report(profile, LANGUAGE="zh", IMAGES=12).parent
    pages = [page for page in folder.rglob("*.html") if not page.name.endswith(".en.html")]
    assert len(pages) == 1 + 5 + 6
    found = {
        page.name: [*leftovers.english_left(page), *leftovers.spaces_left(page)] for page in pages
    }
    assert not any(found.values()), found
