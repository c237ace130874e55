"""Rows of metrics.json from the real compiler and emulator, on a few images."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lprnet_nb import inputs
from lprnet_nb.datasets import folder as datasets_folder
from lprnet_nb.datasets.generate import generate_plates, write_plates
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.evaluate.intervals import wilson
from lprnet_nb.measure.data import _found_source, _source, datasets_for
from lprnet_nb.measure.models import Compiled, compile_all, planned
from lprnet_nb.measure.output import Output
from lprnet_nb.measure.parameters import check, combinations
from lprnet_nb.measure.rows import Measured, measure_all, upgrades, write_metrics
from lprnet_nb.measure.schema import Metrics, read_metrics, written
from lprnet_nb.measure.upgrades import upgrades_said
from lprnet_nb.runtime.inference import infer_plates
from lprnet_nb.toolchain.strategies import STRATEGIES, make_strategy
from lprnet_nb.work import scheduler
from lprnet_nb.work.pieces import Piece, crosscheck_piece, given, model_run, with_needs

COLUMNS = [
    "chip",
    "precision",
    "batch",
    "cores",
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
    "box",
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
    return measure_all(parameters, data, compiled, progress=False)


def test_a_strategy_file_of_a_registrys_name_is_not_the_registrys(measured, data):
    """`parameters` names a file of the name kl-20 that is tuned on one image, not on five."""
    mine = measured[2].compiled
    registry = check(CHIPS="BM1684X", PRECISIONS="int8", STRATEGIES="kl-20", IMAGES=20)
    [theirs] = planned(registry, data)
    assert theirs.id == mine.id == "bm1684x_int8_1b_kl-20"
    done, _ = scheduler.look(with_needs([theirs.model]))
    assert theirs.model not in done or done[theirs.model].digest != mine.bmodel.digest
    with pytest.raises(ParameterError, match="different pieces of work are called"):
        with_needs([theirs.model, mine.planned.model])


def test_a_bmodel_from_elsewhere_is_measured_beside_float(measured, tmp_path):
    path = shutil.copy(measured[1].compiled.bmodel.path, tmp_path / "vendor 1.bmodel")
    given = {"DATA": "published", "IMAGES": 4, "CHIPS": "BM1684X", "PRECISIONS": "fp32"}
    p = check(**given, DECODERS="greedy", BACKEND="emulator", BMODELS=path, TRUST=True)
    data = datasets_for(p)
    found = measure_all(p, data, compile_all(p, data, progress=False), progress=False)
    reference, ours, theirs = found
    assert theirs.compiled.id == "bm1684x_unknown_1b_vendor-1" and theirs.crosscheck is None
    assert (theirs.row["backend"], ours.row["backend"]) == ("simulator", "emulator")
    assert theirs.readings.texts == ours.readings.texts == reference.readings.texts
    assert theirs.row["loss"]["difference"] == 0 and theirs.row["agreement_with_float"] == 1
    write_metrics(Output(tmp_path / "report"), p, data, found)
    metrics = read_metrics(tmp_path / "report" / "metrics.json")
    assert [row.precision for row in metrics.rows] == ["fp32", "fp32", "unknown"]
    facts = json.loads((tmp_path / "report" / "bmodels" / f"{theirs.compiled.id}.json").read_text())
    assert facts["sha256"] == ours.compiled.bmodel.sha256 and facts["origin"]["strategy"] is None


def test_calibration_and_evaluation_do_not_share_an_image(data):
    assert len(data.plates) == 20 and len(data.pool) == 980 and not data.overlap
    assert not set(data.plates.names) & set(data.pool.names)
    assert data.description()["calibration"]["among_evaluated"] is False
    assert len(data.calibration_images(981)) == 980  # what there is


def test_when_all_images_are_evaluated_the_overlap_is_said(published, parameters):
    everything = datasets_for(dataclasses.replace(parameters, images=0))
    assert everything.overlap and everything.description()["calibration"]["among_evaluated"]


def own_folder(path, count):
    write_plates(generate_plates(count, seed=5, workers=0), path)
    return path


def own(folder, **given):
    return check(DATA=str(folder), WEIGHTS="generated", CHIPS="BM1684X", PRECISIONS="int8", **given)


@pytest.mark.parametrize(
    "count, images, judged, pool, overlap",
    [
        (60, 0, 60, 60, True),
        (60, 100, 60, 60, True),  # more than there are: all
        (60, 40, 40, 20, False),  # calibration takes what there is
        (60, 41, 41, 60, True),
        (25, 100, 25, 25, True),
    ],
)
def test_a_small_set_is_judged_and_calibrated_on_what_there_is(
    tmp_path, capsys, monkeypatch, count, images, judged, pool, overlap
):
    monkeypatch.setattr(inputs, "_said", set())
    found = datasets_for(own(own_folder(tmp_path / "mine", count), IMAGES=images))
    assert (len(found.plates), len(found.pool), found.overlap) == (judged, pool, overlap)
    assert len(found.calibration_images(100)) == pool
    told = capsys.readouterr().err
    assert ("calibration draws from them too" in told) == overlap
    assert not overlap or f"Set IMAGES to {count - 20} or less to keep them apart" in told
    shared = set(found.plates.names) & set(found.pool.names)
    assert bool(shared) == overlap


def test_strategies_are_cut_to_the_pool_and_so_is_what_they_are_known_by(tmp_path):
    folder = own_folder(tmp_path / "mine", 60)
    wanted = own(folder, IMAGES=40, STRATEGIES="kl,kl-20,qat", BATCHES="1")
    found = planned(wanted, datasets_for(wanted))
    sizes = [item.quantization.images for item in found]
    assert sizes == [20, 20, 20] and [item.strategy for item in found] == ["kl", "kl-20", "qat"]
    drawn = [one for item in found for one in with_needs([item.model]) if one.kind == "calibrate"]
    assert [len(one.arguments["images"]) for one in drawn] == [20, 20, 20]
    assert STRATEGIES["kl"].images == 100  # the registry's own is as it was
    assert STRATEGIES["kl"].cut_to(3).tune == 3 and STRATEGIES["kl"].cut_to(100).images == 100


def test_what_is_not_judged_needs_no_labels_and_a_folder_is_read_when_asked(tmp_path, monkeypatch):
    folder = own_folder(tmp_path / "test_md5", 30)
    (folder / "labels.json").unlink()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(path.with_name(f"{number * 7919:032x}.png"))
    wanted = own(folder, IMAGES=0)
    with pytest.raises(DataError, match="test_md5 has no labels"):
        datasets_for(wanted)
    read = []
    original = datasets_folder.read_image
    monkeypatch.setattr(
        datasets_folder,
        "read_image",
        lambda path, size: read.append(path) or original(path, size),
    )
    found = datasets_for(wanted, labels=False)
    assert len(found.pool) == 30 and not read
    assert len(found.calibration_images(4)) == len(read) == 4
    assert found.plates.labels is None and found.seconds > 0 and len(read) == 34


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


def test_the_simulator_judged_every_bmodel(measured, data):
    reference, fp32, int8 = measured
    assert reference.crosscheck is None
    for item in (fp32, int8):
        assert item.crosscheck["images"] == 4 and item.crosscheck["same_classes"]
        assert item.crosscheck["simulator"]["backend"] == "simulator"
        few = data.plates.take(slice(4))
        judged = infer_plates(item.compiled.bmodel, few, "simulator").logits
        difference = float(np.abs(item.inference.logits[:4] - judged).max())
        assert item.crosscheck["max_abs_difference"] == difference
        assert item.crosscheck["identical"] == (difference == 0)
    assert fp32.crosscheck["max_abs_difference"] < 1e-3


def test_the_piece_that_checks_sets_the_run_against_the_simulator(measured, data, tmp_path):
    int8 = measured[2]
    model = given("model", int8.compiled.bmodel)
    run = model_run("int8", model, data.plates, "emulator", 1)
    done = scheduler.make([crosscheck_piece(run, data.plates, 1)], "x", progress=False)
    assert done[crosscheck_piece(run, data.plates, 1)] == int8.crosscheck
    shutil.copytree(done[run.shards[0]], tmp_path / "altered")
    logits = np.array(int8.inference.logits)
    logits[1, 0, 3] = logits[1].max() + 1
    np.save(tmp_path / "altered" / "logits.npy", logits)
    shard = Piece("shard", Path, {}, (given("folder", str(tmp_path / "altered")),), here=True)
    altered = dataclasses.replace(run, shards=(shard,))
    piece = crosscheck_piece(altered, data.plates, 1)
    check = scheduler.make([piece], "x", progress=False)[piece]
    assert check["read_otherwise"] == [data.plates.names[1]] and not check["identical"]


def test_what_is_written_says_where_it_came_from(measured, parameters, data, tmp_path):
    metrics = write_metrics(Output(tmp_path), parameters, data, measured)
    assert json.loads((tmp_path / "metrics.json").read_text("utf8")) == metrics
    assert metrics["schema"] == 3 and metrics["dataset"] == {
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
    assert ("BM1684", "fp16", 1, 1, None, None) not in found
    assert ("BM1684X", "fp16", 4, 1, None, None) in found
    assert len(found) == 4 + 6
    with pytest.raises(ParameterError, match="BM1684 cannot do fp16"):
        combinations(check(CHIPS="BM1684", PRECISIONS="fp16"))


DATASET = {"name": "few", "images": 4, "digest": "ab"}


def test_releases_side_by_side_are_models_of_their_own():
    p = check(CHIPS="BM1684X", STRATEGIES="kl", TPU_MLIR="1.18.1,1.30.2")
    found = combinations(p)
    assert [one[5] for one in found] == ["1.18.1", "1.30.2"] * 2
    assert {one[5] for one in combinations(check(CHIPS="BM1684X"))} == {None}
    with pytest.raises(ParameterError, match="TPU_MLIR='1.9,1.9' names something twice"):
        check(TPU_MLIR="1.9,1.9")


def test_releases_are_paired_plate_by_plate_against_the_last():
    def by(release, right, logit, decoder="greedy"):
        row = {"chip": "BM1684X", "precision": "int8", "batch": 1, "cores": 1, "strategy": "kl"}
        row |= {"decoder": decoder, "release": release, "predicted_latency_ms": len(release) / 100}
        item = Compiled(f"x_{release}", None, None, "kl", None, release)
        inference = SimpleNamespace(logits=np.full((4, 2), logit))
        return Measured(item, row, None, np.array(right, bool), inference, {}, None)

    found = upgrades(
        [
            by("1.6", [1, 0, 0, 0], 1.0),
            by("1.18.1", [0, 1, 1, 1], 2.0),
            by("1.30.2", [0, 1, 1, 0], 2.0),
            by("1.6", [1, 1, 1, 1], 2.0, "plate"),
            by("1.30.2", [1, 1, 1, 1], 2.0, "plate"),
        ]
    )
    assert [(one["decoder"], one["release"], one["to"]) for one in found] == [
        ("greedy", "1.6", "1.30.2"),
        ("greedy", "1.18.1", "1.30.2"),
        ("plate", "1.6", "1.30.2"),
    ]
    first, second, third = found
    assert (first["difference"], first["only_release"], first["only_to"]) == (0.25, 1, 2)
    assert first["p"] == 1.0 and not first["same_logits"]
    assert (second["difference"], second["only_release"], second["only_to"]) == (-0.25, 1, 0)
    assert second["same_logits"] and third["predicted_latency_ms"] == [0.03, 0.06]
    assert "2 of 3 comparisons have the same logits" in upgrades_said(found)
    written(Metrics, {"schema": 2, "dataset": DATASET, "rows": [], "upgrades": found})


def test_where_the_published_data_cannot_be_had_the_reason_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("LPRNET_DATA", str(tmp_path))
    _found_source.cache_clear()
    source, reason = _found_source(str(tmp_path / "no-mirror"))
    _found_source.cache_clear()
    assert source == "generated" and "no-mirror" in reason
    with pytest.raises(DataError, match="no-mirror"):
        monkeypatch.setenv("LPRNET_MIRROR", str(tmp_path / "no-mirror"))
        _source("published")
