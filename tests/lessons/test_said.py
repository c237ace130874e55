"""Sentences of the notebooks: each says what its data say, whichever way they lie."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.margins import Margin, with_margin
from lprnet_nb.language import speaking
from lprnet_nb.lessons import compare, compile, infer, quantize, strategies, trace, train
from lprnet_nb.measure import output
from lprnet_nb.measure.badge import exactness
from lprnet_nb.measure.data import Data
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.weights import load_published_weights
from lprnet_nb.places import repository
from lprnet_nb.report import html
from lprnet_nb.study import results


def test_one_batch_size_is_compared_with_another() -> None:
    assert trace._telling((1,)) == (1, 4)
    assert trace._telling((4, 20)) == (1, 4, 20)
    assert trace._telling((2, 1)) == (1, 2)


def test_coupling() -> None:
    rows = [
        {"batch": batch, "batch_mean": mean, "images": 9, "moved": moved}
        for batch, mean, moved in (
            (1, "batch", 0),
            (1, "image", 0),
            (4, "batch", 3),
            (4, "image", 0),
        )
    ]
    assert "3 of 9 at batch 4 read unlike alone" in trace.coupling_said(rows)
    assert trace.coupling_said(rows).endswith("over the image, none.")
    rows[-1]["moved"] = 2
    assert trace.coupling_said(rows).endswith("over the image, 2.")


def test_subnormals_are_not_said_to_be_slow_where_they_are_not() -> None:
    shares = {"a": 0.9, "b": 0.1}

    def said(before: float, after: float, difference: float = 0.0) -> str:
        times = {"as published": before, "flushed": after}
        return trace.subnormal_said(shares, {"milliseconds": times, "difference": difference})

    assert "1 of 2 convolutions" in said(30, 10) and "3.0 times as fast" in said(30, 10)
    assert "no faster on this machine" in said(12.9, 13.6) and "no logit changes" in said(1, 1)
    assert "the largest change of a logit is 0.5" in said(1, 1, 0.5)


def test_latency_of_strategies_is_no_dictionary() -> None:
    def models(**times: float | None) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(strategy=name, bmodel=SimpleNamespace(predicted_latency_ms=time))
            for name, time in times.items()
        ]

    assert quantize.latency_said(models(kl=0.0588, mse=0.04, max=None)) == [
        "predicted latency, ms: kl 0.059, mse 0.040"
    ]
    assert quantize.latency_said(models(kl=None)) == []


def test_predicted_and_measured_times() -> None:
    rows = [
        {"label": "a", "precision": "fp32", "predicted_ms": 0.1, "published_ms": 0.5},
        {"label": "b", "precision": "int8", "predicted_ms": 0.2, "published_ms": 0.4},
        {"label": "c", "precision": "int8", "predicted_ms": None, "published_ms": 0.4},
    ]
    assert compile.latency_said(rows) == (
        "measured times are 2.0 to 5.0 times the predicted ones. "
        "The compiler predicts nothing for c."
    )
    assert "no measured time" in compile.latency_said([{**rows[0], "published_ms": None}])
    here = {"label": "a INT8", "precision": "int8", "published_ms": None}
    same = [rows[0], {**here, "predicted_ms": 0.05}, {**here, "predicted_ms": 0.04}]
    assert compile.latency_said(same).startswith("by prediction, INT8 is 2.0 to 2.5 times as fast")


def test_thresholds_that_are_borne() -> None:
    assert quantize.threshold_said(10, 40, 3).endswith(
        "; at half of the lowest, 3 of them read wrong."
    )
    assert quantize.threshold_said(10, 40, 0).endswith("from a threshold of 10 to one of 40.")


def test_a_kind_of_plate_that_is_missing_is_said() -> None:
    found = {"repeat": 0, "mended": 2, "spoiled": None, "lost": None}
    said = infer.missing_cases(found, 8)
    assert infer.kind_said("spoiled") in said and infer.kind_said("lost") in said
    assert infer.kind_said("mended") not in said
    assert infer.missing_cases(dict.fromkeys(found, 0), 8) == ""


def test_plates_that_decoders_read_unlike_are_of_their_kind(monkeypatch) -> None:
    labels = ["right", "mended", "spoiled", "lost", "aab"]
    read = {
        "greedy": ["right", "x", "spoiled", "x", "aab"],
        "plate": ["right", "mended", "x", "y", "aab"],
    }
    monkeypatch.setattr(
        infer, "decode", lambda _, __, name: type("Read", (), {"texts": read[name]})
    )
    found = infer.cases(np.zeros((5, 2, 3)), labels, ("greedy", "plate"), None)
    assert found == {"repeat": 4, "mended": 1, "spoiled": 2, "lost": 3}
    read["plate"][2] = "spoiled"
    assert infer.cases(np.zeros((5, 2, 3)), labels, ("greedy", "plate"), None)["spoiled"] is None


def test_backends_that_differ_are_not_said_to_agree() -> None:
    row = {"judge": "simulator", "checked images": 4}
    near = exactness({"images": 4, "identical": False, "max_abs_difference": 0.47})
    other = exactness({"images": 4, "same_readings": False, "read_otherwise": ["a", "b"]})
    rows = [
        {**row, "model": model, "exactness": found}
        for model, found in (("a", exactness({"identical": True})), ("b", near), ("c", near))
    ]
    assert infer.crosschecks_said(rows) == (
        "a beside the simulator: to the bit; "
        "b and c beside the simulator: same readings, up to 0.47 of a logit."
    )
    said = infer.crosschecks_said([{**row, "model": "b", "exactness": other}])
    assert said == "b beside the simulator: 2 of 4 plates read otherwise."
    assert "was not compared" in infer.crosschecks_said([{**rows[0], "checked images": 0}])


def test_a_notebooks_table_has_the_badge_of_the_report(monkeypatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(output, "show", lambda make: shown.extend(map(make, ("en", "zh"))))
    record = {"rows": [
        {"judge": "simulator", "name": "a", "batch": 1, "batch_mean": "image", "images": 4,
         "identical": alike, "max_abs_difference": 0.2, "same_greedy": same, "chip": chip}
        for chip, alike, same in (("<A>", True, 4), ("B", False, 4), ("C", False, 3))
    ]}  # fmt: skip
    output.Output(None).table("x", infer.exactness_table(record), "caption")
    english, chinese = (
        [re.findall('<span class="tag.*?</span>', one["text/html"])] for one in shown
    )
    assert english == [[
        '<span class="tag good">to the bit</span>',
        '<span class="tag open">same readings, up to 0.2 of a logit</span>',
        '<span class="tag bad">1 of 4 plates read otherwise</span>',
    ]]  # fmt: skip
    assert '<span class="tag good">逐位一致</span>' in chinese[0]
    assert "&lt;A&gt;" in shown[0]["text/html"]


def test_the_corrected_p_is_the_one_that_is_quoted() -> None:
    tests = [
        {"label": "a", "p": 0.02, "p_holm": 0.08},
        {"label": "b", "p": 0.3, "p_holm": 0.3},
    ]
    assert "none of the 2" in compare.paired_said(tests) and "0.08 (a)" in compare.paired_said(
        tests
    )
    tests[0]["p_holm"] = 0.04
    assert compare.paired_said(tests) == "below 0.05 after Holm's correction: a (corrected p 0.04)."


def test_doubt() -> None:
    rows = train.doubt_rows(np.array([0.1] * 5 + [0.9] + [0.0] * 94))
    shares = [row["of all doubt"] for row in rows]
    assert shares[:3] == pytest.approx([1.0 / 1.4, 1.3 / 1.4, 1.0])


def test_what_is_shipped_is_what_the_study_recommends() -> None:
    """And float, the choice on other plates and the grammar stand beside it."""
    one = strategies.shown(results.committed_study())
    rows = {row["chip"]: row for row in strategies.shipped(one)}
    for chip, row in rows.items():
        path = repository() / "data" / "models" / chip / "recommended.json"
        found = json.loads(path.read_text("utf8"))
        evidence = found["evidence"]
        assert row["strategy"] == found["strategy"]["name"]
        assert row["exact match"] == evidence["mean"] and row["float"] == evidence["float"]
        assert row["on plates that did not choose it"] == evidence["unbiased"]["mean"]
        assert row["with the grammar"] > row["exact match"]
    assert len(rows) == 4


def test_a_page_has_a_tables_cells_in_its_language(tmp_path) -> None:
    rows = [{"model": "a", "exactness": exactness({"identical": True})}, {"model": "b"}]
    output.Output(tmp_path).table("x", rows, "caption")
    table = json.loads((tmp_path / "tables" / "x.json").read_text("utf8"))
    assert table["rows"][0]["exactness"] == "to the bit"
    for language, said in (("en", "to the bit"), ("zh", "逐位一致")):
        with speaking(language):
            cell = html._cell(html._said("to the bit", table))
        assert cell == f'<span class="tag good">{said}</span>'
    assert html._said("a", table) == "a" and html._said(1, table) == 1
    assert html._said("a", {"words": [], "badges": 1}) == "a"


def test_what_cannot_be_shipped_is_said_instead_of_an_empty_table(tmp_path) -> None:
    """And the grammar's figures, which are of the committed plates, stand beside no others."""
    study = results.committed_study()
    rows = [
        {**row, "bits": "00" * 125} if row["chip"] == "BM1684" and "bits" in row else row
        for row in study["rows"]
    ]
    plates = {**study["provenance"]["plates"], "digest": "of mine"}
    other = {**study["provenance"], "plates": plates}
    one = strategies.shown({**study, "rows": rows, "provenance": other})
    out = output.Output(tmp_path)
    [line] = strategies.shipped_shown(out, one)
    assert line.startswith("BM1684: nothing to ship was found")
    table = json.loads((tmp_path / "tables" / "06_recommended.json").read_text("utf8"))["rows"]
    assert [row["chip"] for row in table] == ["BM1684X", "BM1688", "CV186X"]
    assert {row["with the grammar"] for row in table} == {None}
    assert strategies.shipped_shown(out, strategies.shown(study)) == []


def test_a_study_of_some_chips_says_nothing_of_others() -> None:
    one = strategies.shown(results.committed_study())
    here = strategies.of_chips(one, ["BM1684"])
    assert {line["chip"] for line in here.lines} == {row["chip"] for row in here.study["rows"]}
    assert {row["chip"] for row in here.study["models"]} == {"BM1684"}
    assert here.study["float"] == one.study["float"]
    origins = [100 * line["difference"] for line in results.origins(here.study)]
    said = " ".join(strategies.origins_said(here))
    assert f"{min(origins):+.1f}" in said and f"{max(origins):+.1f}" in said


def test_tips_of_the_committed_study() -> None:
    one = strategies.shown(results.committed_study())
    verdicts = results.verdicts(one.study, strategies.tips(one))
    assert {x["strategy"] for x in verdicts if "instead" in x["tip"]} == {"qat"}
    said = strategies.verdicts_said(one)
    for name in {f"{x['strategy']} over {x['baseline']}" for x in verdicts}:
        here = [x["verdict"] for x in verdicts if f"{x['strategy']} over {x['baseline']}" == name]
        assert (name in said) == (set(here) == {"holds"})


def test_margins_are_read_by_own_and_published_weights(published) -> None:
    plates = generate_plates(4, seed=5)
    for weights in (load_own_weights(), load_published_weights()):
        rows = infer.margin_rows(Data(plates, plates, True, weights, "folder", ""))
        assert len(rows) == 2 * len(infer.MARGINS) and rows[0]["weights"] == weights.name
        assert {row["weights"] for row in rows} == {"generated", "published"}


def test_margins_are_read_and_said(monkeypatch, tmp_path) -> None:
    """Plates cut to their paint: each candidate is read, and the surest is named."""
    monkeypatch.setattr(infer, "weights_path", lambda: tmp_path / "none")
    plates = generate_plates(16, seed=5)
    tight = with_margin(plates, Margin(-0.06, -0.12))
    data = Data(tight, tight, True, load_own_weights(), "folder", "")
    rows = infer.margin_rows(data)
    assert [row["margin, %"] for row in rows] == [str(margin) for margin in infer.MARGINS]
    by_margin = {row["margin, %"]: row for row in rows}
    assert by_margin["0/0"]["mean confidence"] > by_margin["-5/-10"]["mean confidence"]
    surest = max(rows, key=lambda row: row["mean confidence"])
    assert f"surest at {surest['margin, %']}" in infer.margins_said(rows)
    unlabelled = Data(replace(tight, labels=None), tight, True, load_own_weights(), "folder", "")
    assert {row["exact match"] for row in infer.margin_rows(unlabelled)} == {None}


def test_plates_that_are_read_otherwise_are_named():
    assert (
        quantize.still_right(["皖A1", "皖B2"], ["皖A1", "皖B2"]) == "All 2 plates are read right."
    )
    assert quantize.still_right(["皖A1", "皖B2"], ["皖A1", "B2"]) == (
        "1 of 2 plates are read otherwise: 皖B2 → B2."
    )
