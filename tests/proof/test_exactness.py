"""The record of the emulator's exactness, and how it is made."""

from __future__ import annotations

import numpy as np
import pytest

from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.lessons import infer
from lprnet_nb.proof import exactness
from lprnet_nb.proof.exactness import Case
from lprnet_nb.toolchain.chips import CHIPS, supports
from lprnet_nb.toolchain.strategies import recommended


@pytest.fixture(scope="module")
def rows():
    record = exactness.committed_record()
    assert record["summary"] == exactness.summarize(record["rows"])
    return record["rows"]


def judged(rows, judge):
    return [row for row in rows if row["judge"] == judge and "images" in row]


def test_the_interpreters_logits_are_met_to_the_bit(rows):
    for row in judged(rows, "interpreter"):
        assert row["identical"] and row["max_abs_difference"] == 0, row
        assert row["same_greedy"] == row["same_plate"] == row["images"], row


@pytest.mark.parametrize("chip", CHIPS)
def test_strategies_of_every_chip(rows, chip):
    here = [row for row in judged(rows, "interpreter") if row["chip"] == chip]
    assert len({row["name"] for row in here}) >= 6
    assert {(row["batch"], row["batch_mean"]) for row in here} >= {
        (1, "image"),
        (4, "image"),
        (4, "batch"),
    }
    whole = [row for row in here if row["images"] == 1000]
    assert {Case(row["strategy"], row["batch"], row["batch_mean"]) for row in whole} == set(
        exactness.CASES
    )
    assert (
        next(row["name"] for row in whole if row["strategy"] == "recommended")
        == recommended(chip).name
    )


@pytest.mark.parametrize("chip", CHIPS)
def test_the_simulators_logits(rows, chip):
    here = [row for row in judged(rows, "simulator") if row["chip"] == chip]
    assert {row["name"] for row in here if row["images"] >= 200} >= {"mse", recommended(chip).name}
    assert {row["strategy"] for row in here} >= {
        precision for precision in ("fp32", "fp16", "bf16") if supports(chip, precision)
    }
    for row in here:
        assert row["same_greedy"] == row["same_plate"] == row["images"], row
        assert row["identical"], row


def test_the_table_of_the_record(rows):
    table = infer.exactness_table({"rows": rows})
    assert sum(len(line["chips"].split(", ")) for line in table) == len(
        judged(rows, "interpreter") + judged(rows, "simulator")
    )
    mse = next(
        line
        for line in table
        if (line["judge"], line["model"], line["images"]) == ("interpreter", "mse", 1000)
    )
    assert mse == {
        "judge": "interpreter",
        "model": "mse",
        "batch": 1,
        "mean over": "image",
        "images": 1000,
        "exactness": "to the bit",
        "chips": "BM1684, BM1684X, BM1688, CV186X",
    }


def test_compare_counts_what_differs():
    judge = np.zeros((2, 68, 18), np.float32)
    judge[:, 67] = 9
    judge[:, 31, 3] = 20
    mine = judge.copy()
    mine[1, 40, 5] = 30
    assert exactness.compare(judge, judge)["identical"]
    found = exactness.compare(mine, judge)
    assert found == {
        "images": 2,
        "identical": False,
        "differing": 1 / (2 * 68 * 18),
        "max_abs_difference": 30.0,
        "largest_logit": 20.0,
        "same_greedy": 1,
        "same_plate": found["same_plate"],
    }


def test_a_new_row_takes_the_place_of_the_old(tmp_path):
    row = {
        "judge": "interpreter",
        "strategy": "kl",
        "batch": 1,
        "batch_mean": "image",
        "chip": "BM1684",
        "images": 8,
        "identical": True,
        "same_greedy": 8,
        "max_abs_difference": 0.0,
    }
    record = exactness.merge({"rows": [row]}, [row | {"images": 9}, row | {"chip": "BM1688"}])
    assert [(r["chip"], r["images"]) for r in record["rows"]] == [("BM1684", 9), ("BM1688", 8)]
    path = exactness.write_record(tmp_path / "r.json", {"about": "x", **record})
    assert exactness.read_record(path) == {"about": "x", **record}
    assert exactness.summarize(record["rows"]) == {
        "interpreter": {
            "models": 2,
            "images": 17,
            "identical_models": 2,
            "different_readings": 1,
            "max_abs_difference": 0.0,
        }
    }
    path.write_text("[]", "utf8")
    with pytest.raises(DataError, match="bench exactness"):
        exactness.read_record(path)


def test_cases_by_name():
    assert exactness.parse_cases("mse, kl:4:batch,fp32") == (
        Case("mse"),
        Case("kl", 4, "batch"),
        Case("fp32"),
    )
    assert Case("fp32").precision == "fp32" and Case("kl").precision == "int8"
    for wrong in ("", "mse:four", "a:1:b:c"):
        with pytest.raises(ParameterError, match="STRATEGY:BATCH"):
            exactness.parse_cases(wrong)
    with pytest.raises(ParameterError, match="judge 'me'"):
        exactness.verify(None, None, (), "me")
