"""What a box measured, in the rows, files and pages of a report; the device is judged there too."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit_results import model_of, plates_of

from lprnet_nb.cache import file_digest
from lprnet_nb.datasets.alphabet import PUBLISHED
from lprnet_nb.decode import decode
from lprnet_nb.errors import DataError
from lprnet_nb.lessons import compare, infer
from lprnet_nb.measure import rows
from lprnet_nb.measure.data import Data
from lprnet_nb.measure.models import Compiled
from lprnet_nb.measure.output import Output
from lprnet_nb.measure.parameters import check
from lprnet_nb.measure.rows import measure_all, measuring, write_metrics
from lprnet_nb.measure.schema import SCHEMA, read_metrics, read_timings
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.trace import trace_model
from lprnet_nb.report.html import write_html
from lprnet_nb.report.run import manifest
from lprnet_nb.runtime.inference import close_models

ID = "bm1688_fp32_1b"


@pytest.fixture(scope="module")
def data(kit):
    plates = replace(plates_of(kit), labels=("皖A12345",) * 5)
    return Data(plates, plates, True, load_own_weights(), "generated", "chosen")


@pytest.fixture(scope="module")
def compiled(kit, data):
    return Compiled(ID, trace_model(data.weights, 1), model_of(kit, "fp32_1b"))


def asked(path, **changes):
    values = {"CHIPS": "BM1688", "PRECISIONS": "fp32", "DECODERS": "greedy", "BACKEND": "emulator"}
    return check(**values | changes, MEASURED=str(path))


@pytest.fixture
def boxed(results, data, compiled):
    """Parameters, and rows, of a box that gave other logits for one plate."""
    given = asked(results(0.25, model="fp32_1b"))
    return given, measure_all(given, data, [compiled], progress=False)


def test_a_boxs_row_is_of_the_logits_that_it_gave(kit, boxed, data):
    given, (reference, ours, box) = boxed
    expected = np.load(kit / "expected" / "fp32_1b.npy")
    changed = expected.copy()
    changed[3] += np.float32(0.25)
    assert np.array_equal(box.inference.logits, changed)
    # The kit's logits are the simulator's, the report's own row is the emulator's: the same.
    assert np.array_equal(ours.inference.logits, expected)
    assert [item.row["backend"] for item in (reference, ours, box)] == [
        "torch",
        "emulator",
        "device",
    ]
    texts = decode(changed, PUBLISHED).texts
    assert box.readings.texts == texts
    same = sum(a == b for a, b in zip(texts, decode(expected, PUBLISHED).texts))
    assert box.row["box"] == {
        "results": file_digest(given.measured[0]),
        "judge": "simulator",
        "exact": 4,
        "same_readings": same,
        "max_abs_difference": float(np.abs(changed - expected).max()),
    }
    assert ours.row["box"] is None and box.milliseconds == {"inference": 125.0}
    table = infer.crosschecks([reference, ours, box])
    assert [row["checked images"] for row in table] == [4, 5]
    assert [row["exactness"] for row in table][1] != "to the bit"
    [line] = compare.box_rows([reference, ours, box])
    assert str(line["exactness"]).startswith("4 of 5 plates to the bit")
    assert line["as the"] == "simulator"
    assert line["inference"] == "125.000 ± 50.000"
    assert "0 of 1 models gave the expected logits of all 5" in compare.boxes_said([ours, box])
    [latency] = compare.box_latency([ours, box])
    assert (latency["measured_ms"], latency["measured_by"]) == (75, "run alone, DEVIO")
    # No further model for tests and figures that compare models.
    assert len(compare.of_decoder([reference, ours, box], "greedy")) == 2


def test_a_status_lists_what_judges_a_box(results, data):
    """The logits that its kit held it against are the simulator's, of all plates."""
    path = results(model="fp32_1b")
    told = json.loads(Path(path).read_text("utf8"))
    [model] = (one for one in told["models"] if one["id"] == "fp32_1b")
    given = asked(path)
    names = {piece.name for piece in infer.pieces(given, data)}
    judged = f"infer/{ID}/simulator/000000-000004"
    assert judged not in names  # a kit that names its models in another way: known when compiled
    with pytest.MonkeyPatch.context() as patch:
        read = rows.read_fitting(given.measured, data.plates, given.chips)
        [file] = read.values()
        [one] = (each for each in file.models if each.id == "fp32_1b")
        one = one.model_copy(update={"id": ID})
        again = {path: file.model_copy(update={"models": [one]})}
        patch.setattr(rows, "read_fitting", lambda *_: again)
        assert judged in {piece.name for piece in infer.pieces(given, data)}
    assert model["backend"] == "simulator"


def test_a_report_holds_both_and_its_page_shows_them(boxed, data, tmp_path):
    given, measured = boxed
    write_metrics(Output(tmp_path), given, data, measured)
    metrics = read_metrics(tmp_path / "metrics.json")
    assert metrics.schema_ == SCHEMA
    names = {path.stem for path in (tmp_path / "results").iterdir()}
    assert names == {"float_1b_greedy", f"{ID}_greedy", f"{ID}_greedy_box"}
    box_texts, ours = (
        list(json.loads((tmp_path / "results" / f"{name}.json").read_text("utf8")).values())
        for name in (f"{ID}_greedy_box", f"{ID}_greedy")
    )
    assert box_texts == measured[2].readings.texts and ours == measured[1].readings.texts
    timings = read_timings(tmp_path / "timings.json")
    assert [row.backend for row in timings.rows] == ["torch", "emulator"]
    [times] = timings.boxes
    assert times.id == ID and times.times_ms["inference"].median == 125
    parameters = {"CHIPS": "BM1688", "MEASURED": ",".join(given.measured)}
    facts = manifest("quick", parameters, tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(facts), "utf8")
    [box] = facts["boxes"]
    assert box["sha256"] == metrics.rows[2].box.results == file_digest(given.measured[0])
    page = write_html(tmp_path).read_text("utf8")
    assert "Measured on a box" in page and "4 of 5 plates to the bit" in page
    assert "Measured here, ms an image" in page and ">75.0<" in page
    model = (tmp_path / "bmodels" / f"{ID}.html").read_text("utf8")
    assert "measured here: 75.0 ms (run alone, DEVIO)" in model


def test_logits_that_cannot_be_told_are_refused(results, program, data, compiled):
    path = results(model="fp32_1b")
    values = json.loads(path.read_text("ascii"))
    del values["seal"]
    digests = values["models"][0]["programs"]["plates"]["digests"]
    known, digests[1] = digests[1], digests[0]
    program.write_results(str(path), values)
    with pytest.raises(DataError, match="plate 1 was compared with other logits than the ones at"):
        measure_all(asked(path), data, [compiled], progress=False)
    digests[1] = known
    values["models"][0]["programs"]["plates"]["readings"][1] = "皖A99999"
    del values["seal"]
    program.write_results(str(path), values)
    with pytest.raises(DataError, match="readings are not those of its logits"):
        measure_all(asked(path), data, [compiled], progress=False)


@pytest.mark.parametrize(("backend", "judged"), [("device", 1), ("emulator", 1), ("simulator", 0)])
def test_who_is_judged_by_the_simulator(backend, judged, data, compiled):
    given = check(CHIPS="BM1688", PRECISIONS="fp32", DECODERS="greedy", BACKEND=backend)
    reference, trial = measuring(given, data, [compiled.planned])
    assert reference.crosscheck is None
    assert sum(piece.kind == "crosscheck" for piece in trial.pieces) == judged


@pytest.fixture
def sail(compiler, tmp_path, monkeypatch):
    """The stand-in as `sophon.sail`, in this process, and gone from it afterwards."""
    package = tmp_path / "sophon"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "sail.py").write_text(
        "from standin_sail import *\nfrom standin_sail import __version__\n", "utf8"
    )
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "contract")
    monkeypatch.syspath_prepend(tmp_path)
    library = compiler.library_folder / "libcmodel_bm1688.so"
    monkeypatch.setenv("TPUKERNEL_FIRMWARE_PATH", str(library))
    yield
    close_models()
    for name in ("sophon.sail", "sophon", "standin_sail"):
        sys.modules.pop(name, None)


def test_a_device_is_cross_checked_as_the_emulator_is(data, compiled, sail):
    given = check(CHIPS="BM1688", PRECISIONS="fp32", DECODERS="greedy", BACKEND="device")
    measured = measure_all(given, data, [compiled], progress=False)
    [row] = infer.crosschecks(measured)
    assert (row["backend"], row["judge"], row["checked images"]) == ("device", "simulator", 4)
    assert row["exactness"] == "to the bit"
    assert infer.crosschecks_said([row]) == "BM1688 fp32 beside the simulator: to the bit."
