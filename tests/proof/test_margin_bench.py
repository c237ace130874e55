"""Margins chosen without labels, beside those that labels would choose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lprnet_nb.datasets.margins import CANDIDATES
from lprnet_nb.errors import ParameterError
from lprnet_nb.proof.margin_bench import measure_margins

RECORD = Path(__file__).parents[2] / "data" / "verification" / "margins" / "2026-11.json"


def test_the_committed_choices_are_near_the_best():
    """On six sets, tight to loose, and both weights: never below none, seldom far from the best."""
    rows = json.loads(RECORD.read_text("utf8"))["rows"]
    assert len(rows) == 12 and len({row["set"] for row in rows}) == 6
    for row in rows:
        right = row["right"]
        assert set(right) == set(row["confidence"]) == {str(margin) for margin in CANDIDATES}
        assert right[row["best"]] == max(right.values()) <= row["n"]
        assert right[row["chosen"]] >= right["0/0"] - 0.01 * row["n"]
    lost = [(row["right"][row["best"]] - row["right"][row["chosen"]]) / row["n"] for row in rows]
    assert sorted(lost)[-2] <= 0.035 and max(lost) <= 0.085  # the last one left crops as they were
    tight = [row for row in rows if row["set"].endswith("margin -5/-10")]
    assert all(row["right"][row["chosen"]] > 1.3 * row["right"]["0/0"] for row in tight)


def test_too_few_plates_are_refused():
    with pytest.raises(ParameterError, match="too few: a choice is made on 100"):
        measure_margins(99)
