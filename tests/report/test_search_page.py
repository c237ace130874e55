from __future__ import annotations

from pathlib import Path

import pytest

from lprnet_nb.report import search_page
from lprnet_nb.report.blocks import filled
from lprnet_nb.study import searched

ROOT = Path(__file__).parents[2]


def test_the_page_says_what_the_committed_data_say():
    text = (ROOT / search_page.PAGE).read_text("utf8")
    assert filled(text, search_page.blocks()) == text, "run: python -m lprnet_nb.report.search_page"
    drawn = (ROOT / "docs" / "figures" / "search.svg").exists()
    assert drawn == (searched.committed_search() is not None)


def test_what_is_to_be_shipped_was_proved():
    found = searched.committed_search()
    if found is None:
        pytest.skip("no search is in this checkout")
    proofs = [row["proof"] for row in found["shipped"] if "proof" in row]
    assert len(proofs) == len(found["units"])
    for row, proof in zip([r for r in found["shipped"] if "proof" in r], proofs):
        assert proof["same_graph"] and proof["simulator"]["identical"]
        if proof["predicted_latency_ms"] is not None:
            assert proof["predicted_latency_ms"] <= row["budget"]
