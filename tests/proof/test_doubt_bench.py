"""Confidence calibrated on one world and judged on others, and the warning without labels."""

from __future__ import annotations

import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.language import number
from lprnet_nb.lessons import compare
from lprnet_nb.measure.parameters import check
from lprnet_nb.places import repository
from lprnet_nb.proof.doubt_bench import HOLDS, REJECT, WORSE, committed_doubt, measure_doubt


@pytest.fixture(scope="module")
def record():
    return committed_doubt()


def test_the_record_judges_both_weights_on_all_worlds(record):
    by_weights = {
        name: [row for row in record["rows"] if row["weights"] == name]
        for name in ("generated", "published")
    }
    worlds = [row["set"] for row in by_weights["generated"]]
    assert len(worlds) == len(set(worlds)) == 13
    assert worlds == [row["set"] for row in by_weights["published"]]
    assert set(worlds) < set(record["sets"]) and len(record["sets"]) == 15
    for rows in by_weights.values():
        first = rows[0]  # of the calibration's own kind
        assert first["holds"] and not first["worse"] and not first["unlike"]
        for row in rows:
            one = row["calibrated"]["photographs"]
            assert row["holds"] == (one["ece"] <= HOLDS)
            assert one["kept_right"] <= one["kept"] <= row["n"] and row["right"] <= row["n"]
            far = first["right"] / first["n"] - row["right"] / row["n"]
            assert row["worse"] or far < WORSE + 0.05  # the level is the other half's


def test_the_warning_is_counted_as_the_rows_have_it(record):
    for name, counted in record["warning"].items():
        rows = [row for row in record["rows"] if row["weights"] == name]
        wanted = [row for row in rows if row["worse"] or not row["holds"]]
        warned = [row for row in rows if row["unlike"]]
        assert counted["hits"] == sum(row in warned for row in wanted)
        assert counted["misses"] == len(wanted) - counted["hits"]
        assert counted["false_alarms"] == len(warned) - counted["hits"]
        assert sum(counted.values()) == len(rows)
    assert record["warning"]["generated"]["misses"] == 0


def test_the_own_weights_calibration_travels_and_the_published_ones_does_not(record):
    holds = {name: [] for name in record["weights"]}
    for row in record["rows"]:
        if row["holds"]:
            holds[row["weights"]].append(row["set"])
    assert len(holds["generated"]) >= 11 and holds["published"] == ["photographs"]


def test_the_page_shows_the_record(record):
    page = (repository() / "docs" / "decoding.md").read_text("utf8")
    for row in record["rows"]:
        one = row["calibrated"]["photographs"]
        kept = f"{one['kept_right'] / one['kept']:.3f} of {one['kept']}" if one["kept"] else "–"
        errors = [row["ece"], *(row["calibrated"][name]["ece"] for name in row["calibrated"])]
        line = (
            f"| {row['set']} | {row['weights']} | {row['right'] / row['n']:.3f} | "
            + " | ".join(f"{error:.3f}" for error in errors)
            + f" | {kept} | {', '.join(row['unlike']) or '–'} |"
        )
        assert line in page
    for name, counted in record["warning"].items():
        said = f"{name}: {counted['hits']} hits, {counted['misses']} misses, "
        assert said + f"{counted['false_alarms']} false alarm" in page
    assert REJECT == 0.95 and number(record["rows"][0]["n"]) + " plates each" in page


def test_the_notebook_shows_the_record_of_this_network_alone(record):
    rows = compare.worlds_rows(check())
    assert [row["plates"] for row in rows] == [row["set"] for row in record["rows"]]
    said = compare.worlds_said(rows)
    for name in ("generated", "published"):
        here = [row for row in record["rows"] if row["weights"] == name]
        count = sum(row["holds"] for row in here)
        assert (
            f"{name}: calibrated on photographs, the error stays within 0.05 on {count} of 13"
            in said
        )


@pytest.mark.parametrize("plates", [19, 501])
def test_impossible_counts_are_refused(plates):
    with pytest.raises(ParameterError, match="give 20 to 500"):
        measure_doubt(plates)
