"""Rows of metrics.json from the real compiler and emulator, on a few images."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.evaluate.intervals import wilson
from lprnet_nb.measure.data import _found_source, _source, datasets_for
from lprnet_nb.measure.models import compile_all
from lprnet_nb.measure.output import Output
from lprnet_nb.measure.parameters import check, combinations
from lprnet_nb.measure.rows import measure_all, write_metrics
from lprnet_nb.toolchain.strategies import make_strategy

COLUMNS = [
    "chip",
    "precision",
    "batch",
    "batch_mean",
    "strategy",
    "backend",
    "decoder",
    "images",
    "exact_match",
    "ci95",
    "character_accuracy",
    "agreement_with_float",
    "mcnemar_p",
    "logits_cosine",
    "logits_sqnr_db",
    "predicted_latency_ms",
    "loss",
]


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    path = tmp_path_factory.mktemp("strategy") / "kl-20.json"
    path.write_text(json.dumps(make_strategy(name="kl-20", images=20, tune=1).model_dump()))
    return check(
        DATA="published",
        IMAGES=20,
        CHIPS="BM1684X",
        PRECISIONS="fp32,int8",
        STRATEGIES=str(path),
        DECODERS="greedy",
        BACKEND="emulator",
    )


@pytest.fixture(scope="module")
def data(published, parameters):
    return datasets_for(parameters)


@pytest.fixture(scope="module")
def measured(compiler, parameters, data):
    compiled = compile_all(parameters, data, progress=False)
    named = [
        dataclasses.replace(c, id=c.id.split("_/")[0].rstrip("_"), strategy=c.strategy and "kl-20")
        for c in compiled
    ]
    return measure_all(parameters, data, named, progress=False)


def test_calibration_and_evaluation_do_not_share_an_image(data):
    assert len(data.plates) == 20 and len(data.pool) == 980 and not data.overlap
    assert not set(data.plates.names) & set(data.pool.names)
    assert data.description()["calibration"]["among_evaluated"] is False
    with pytest.raises(ParameterError, match="takes 981 images, and published-1000 has 980"):
        data.calibration_images(981)


def test_when_all_images_are_evaluated_the_overlap_is_said(published, parameters):
    everything = datasets_for(dataclasses.replace(parameters, images=0))
    assert everything.overlap and everything.description()["calibration"]["among_evaluated"]


def test_rows_have_the_documented_columns_and_consistent_values(measured, data):
    assert [item.row["precision"] for item in measured] == ["fp32", "fp32", "int8"]
    for item in measured:
        row = item.row
        assert list(row) == COLUMNS
        assert row["exact_match"] == round(float(item.correct.mean()), 6)
        assert row["ci95"] == [round(x, 6) for x in wilson(int(item.correct.sum()), 20)]
        right = [a == b for a, b in zip(item.readings.texts, data.plates.labels)]
        assert item.correct.tolist() == right
    reference, fp32, int8 = (item.row for item in measured)
    assert reference["chip"] is None and reference["backend"] == "torch"
    assert reference["agreement_with_float"] is None and reference["mcnemar_p"] is None
    assert fp32["agreement_with_float"] == 1.0 and fp32["mcnemar_p"] == 1.0
    assert fp32["logits_sqnr_db"] > 80 > 35 > int8["logits_sqnr_db"] > 20
    assert int8["strategy"] == "kl-20" and int8["backend"] == "emulator"
    assert int8["agreement_with_float"] >= 0.8
    assert fp32["predicted_latency_ms"] > 2 * int8["predicted_latency_ms"] > 0


def test_the_simulator_judged_every_bmodel(measured):
    reference, fp32, int8 = measured
    assert reference.crosscheck is None
    for item in (fp32, int8):
        assert item.crosscheck["images"] == 4 and item.crosscheck["same_classes"]
        assert item.crosscheck["simulator"]["backend"] == "simulator"
    assert fp32.crosscheck["max_abs_difference"] < 1e-3


def test_a_backend_that_disagrees_with_the_simulator_is_an_error(measured, data):
    from lprnet_nb.errors import EngineError
    from lprnet_nb.runtime.crosscheck import crosscheck

    int8 = measured[2]
    wrong = np.array(int8.inference.logits)
    wrong[1, 0, 3] = wrong[1].max() + 1
    with pytest.raises(EngineError, match="1 of 4 images read differently"):
        crosscheck(int8.compiled.bmodel, data.plates, wrong)


def test_what_is_written_says_where_it_came_from(measured, parameters, data, tmp_path):
    metrics = write_metrics(Output(tmp_path), parameters, data, measured)
    assert json.loads((tmp_path / "metrics.json").read_text("utf8")) == metrics
    assert metrics["schema"] == 2 and metrics["dataset"] == {
        "name": "published-1000",
        "images": 20,
        "digest": data.plates.digest,
    }
    first = (tmp_path / "metrics.json").read_bytes()
    write_metrics(Output(tmp_path), parameters, data, measured)
    assert (tmp_path / "metrics.json").read_bytes() == first
    results = json.loads(
        (tmp_path / "results" / f"{measured[1].compiled.id}_greedy.json").read_text("utf8")
    )
    assert results == dict(zip(data.plates.names, measured[1].readings.texts))
    facts = json.loads((tmp_path / "bmodels" / f"{measured[1].compiled.id}.json").read_text("utf8"))
    assert facts["sha256"] == measured[1].compiled.bmodel.sha256
    timings = json.loads((tmp_path / "timings.json").read_text("utf8"))
    assert {row["id"] for row in timings["rows"]} == {item.compiled.id for item in measured}


def test_combinations_leave_out_what_a_chip_cannot_do():
    p = check(CHIPS="BM1684,BM1684X", PRECISIONS="fp16,int8", BATCHES="1,4", STRATEGIES="kl,mse")
    found = combinations(p)
    assert ("BM1684", "fp16", 1, None) not in found and ("BM1684X", "fp16", 4, None) in found
    assert len(found) == 4 + 6
    with pytest.raises(ParameterError, match="BM1684 cannot do fp16"):
        combinations(check(CHIPS="BM1684", PRECISIONS="fp16"))


def test_where_the_published_data_cannot_be_had_the_reason_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("LPRNET_DATA", str(tmp_path))
    _found_source.cache_clear()
    source, reason = _found_source(str(tmp_path / "no-mirror"))
    _found_source.cache_clear()
    assert source == "generated" and "no-mirror" in reason
    with pytest.raises(DataError, match="no-mirror"):
        monkeypatch.setenv("LPRNET_MIRROR", str(tmp_path / "no-mirror"))
        _source("published")
